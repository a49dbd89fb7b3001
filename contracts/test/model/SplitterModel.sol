// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IJecpSplitter} from "../../src/interfaces/IJecpSplitter.sol";

/// @title SplitterModel
/// @notice What JecpSplitter and its token do, written as plainly as possible: no packing, no
/// guard, no running totals, no try and catch. Every function says how the contract must answer,
/// empty for
/// success or the revert data, and changes the model only on success.
/// @dev Signatures are given as the address that made them. What is owed is summed up anew each
/// time it is asked for, which is what the contract's running `totalOwed` is compared with.
contract SplitterModel {
    struct Terms {
        address provider;
        uint256 providerBps;
        uint256 hubBps;
        uint256 reserveBps;
        bool active;
    }

    address public immutable SPLITTER;
    address public immutable TREASURY;
    address public immutable RESERVE;
    address public immutable SETTLER;
    address public immutable ADMIN;
    uint256 public immutable CAP;

    address public relayer;
    mapping(bytes32 id => Terms) public terms;
    mapping(bytes32 id => uint256) public accounted;
    mapping(bytes32 nonce => bool) public used;
    mapping(address provider => uint256) public escrow;
    bytes32[] internal ids;
    address[] internal providers;

    // The token.
    mapping(address account => uint256) public balance;
    mapping(address account => bool) public blacklisted;
    bool public paused;

    constructor(
        address splitter,
        address treasury,
        address reserve,
        address relayer_,
        address admin,
        address settler,
        uint256 cap,
        bytes32[] memory ids_,
        address[] memory providers_
    ) {
        (SPLITTER, TREASURY, RESERVE) = (splitter, treasury, reserve);
        (SETTLER, ADMIN, CAP, relayer) = (settler, admin, cap, relayer_);
        (ids, providers) = (ids_, providers_);
    }

    function owed() public view returns (uint256 sum) {
        for (uint256 i = 0; i < ids.length; i++) {
            sum += accounted[ids[i]];
        }
        for (uint256 i = 0; i < providers.length; i++) {
            sum += escrow[providers[i]];
        }
    }

    // ------------------------------------------------------------ the token

    function mint(address to, uint256 amount) external {
        balance[to] += amount;
    }

    function setBlacklisted(address account, bool value) external {
        blacklisted[account] = value;
    }

    function setPaused(bool value) external {
        paused = value;
    }

    // ------------------------------------------------------------ the Splitter

    function register(
        bytes32 id,
        address provider,
        uint16[3] memory bps,
        bytes32 nonce,
        uint256 deadline,
        address signedBy
    ) external returns (bytes memory) {
        if (uint256(bps[0]) + bps[1] + bps[2] != 10_000) return no("InvalidSplit()");
        if (deadline < block.timestamp) return no("SignatureExpired()");
        if (used[nonce]) return no("NonceUsed()");
        if (terms[id].active) return no("CapabilityAlreadyExists()");
        if (signedBy != provider) return no("InvalidSignature()");
        used[nonce] = true;
        terms[id] = Terms(provider, bps[0], bps[1], bps[2], true);
        return "";
    }

    function deactivate(address caller, bytes32 id) external returns (bytes memory) {
        if (!terms[id].active) return no("CapabilityNotActive()");
        if (caller != terms[id].provider) return no("NotProvider()");
        if (accounted[id] != 0) {
            bytes memory failure = pay(id);
            if (failure.length != 0) return failure;
        }
        terms[id].active = false;
        return "";
    }

    function record(address caller, bytes32 id, uint256 amount) external returns (bytes memory) {
        if (caller != SETTLER) return no("UnauthorizedSettler()");
        if (amount == 0) return no("AmountZero()");
        if (amount > CAP) return no("AmountExceedsCap()");
        if (!terms[id].active) return no("CapabilityNotActive()");
        uint256 free = balance[SPLITTER] - owed();
        if (amount > free) {
            return
                abi.encodeWithSelector(IJecpSplitter.InsufficientUnaccounted.selector, free, amount);
        }
        accounted[id] += amount;
        return "";
    }

    function split(bytes32 id) external returns (bytes memory) {
        if (!terms[id].active) return no("CapabilityNotActive()");
        if (accounted[id] == 0) return no("AmountZero()");
        return pay(id);
    }

    function withdraw(address caller) external returns (bytes memory) {
        uint256 amount = escrow[caller];
        if (amount == 0) return no("NoEscrowedFunds()");
        bytes memory failure = refusal(caller);
        if (failure.length != 0) return failure;
        escrow[caller] = 0;
        move(caller, amount);
        return "";
    }

    function setRelayer(address caller, address next) external returns (bytes memory) {
        if (caller != ADMIN) return no("UnauthorizedRelayerAdmin()");
        if (next == address(0)) return no("ZeroAddress()");
        if (next == SETTLER) {
            return abi.encodeWithSelector(IJecpSplitter.RoleConflict.selector, next);
        }
        relayer = next;
        return "";
    }

    // ------------------------------------------------------------ inside

    /// @dev Looks first whether hub and reserve can be paid: if not, nothing happens at all.
    function pay(bytes32 id) internal returns (bytes memory failure) {
        Terms memory t = terms[id];
        uint256 amount = accounted[id];
        uint256 toProvider = amount * t.providerBps / 10_000;
        uint256 toHub = amount * t.hubBps / 10_000;
        uint256 toReserve = amount - toProvider - toHub;

        if (toHub != 0) failure = refusal(TREASURY);
        if (failure.length == 0 && toReserve != 0) failure = refusal(RESERVE);
        if (failure.length != 0) return failure;

        accounted[id] = 0;
        if (refusal(t.provider).length == 0) move(t.provider, toProvider);
        else escrow[t.provider] += toProvider;
        move(TREASURY, toHub);
        move(RESERVE, toReserve);
    }

    function move(address to, uint256 amount) internal {
        balance[SPLITTER] -= amount;
        balance[to] += amount;
    }

    /// @dev How the token refuses to send from the Splitter to `to`; empty when it would.
    function refusal(address to) internal view returns (bytes memory) {
        if (paused) return abi.encodeWithSignature("Error(string)", "Pausable: paused");
        if (blacklisted[SPLITTER] || blacklisted[to]) {
            return abi.encodeWithSignature("Error(string)", "Blacklistable: account is blacklisted");
        }
        return "";
    }

    function no(string memory what) internal pure returns (bytes memory) {
        return abi.encodeWithSignature(what);
    }
}
