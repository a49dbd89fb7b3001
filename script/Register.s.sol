// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Script, console} from "forge-std/Script.sol";
import {stdJson} from "forge-std/StdJson.sol";
import {JecpSplitter} from "../contracts/src/JecpSplitter.sol";

/// @title Register
/// @notice Submits a capability's registration that its provider has signed.
///
/// Reads the file named by `REGISTRATION`: chainId, splitter, capabilityId, provider, providerBps,
/// hubBps, reserveBps, nonce, deadline, signature. A capability that is already registered with
/// these very terms is left alone; with other terms the script refuses.
contract Register is Script {
    using stdJson for string;

    struct Registration {
        string path;
        uint256 chainId;
        JecpSplitter splitter;
        bytes32 capabilityId;
        address provider;
        uint16 providerBps;
        uint16 hubBps;
        uint16 reserveBps;
        bytes32 nonce;
        uint256 deadline;
        bytes signature;
    }

    function run() external {
        Registration memory r = _read(vm.envString("REGISTRATION"));
        _require(r, r.chainId == block.chainid, "chainId is not the chain behind --rpc-url");
        _require(r, address(r.splitter).code.length != 0, "splitter has no code");

        if (_isRegistered(r)) {
            console.log("already registered");
            return;
        }
        _require(r, block.timestamp <= r.deadline, "deadline has passed; have it signed again");
        _require(r, !r.splitter.usedNonces(r.nonce), "nonce was used; have it signed again");

        vm.broadcast();
        r.splitter
            .register(
                r.capabilityId,
                r.provider,
                r.providerBps,
                r.hubBps,
                r.reserveBps,
                r.nonce,
                r.deadline,
                r.signature
            );
        require(_isRegistered(r), "Register: the capability is not registered as signed");
        console.log("registered");
    }

    function _read(string memory path) internal view returns (Registration memory r) {
        string memory json = vm.readFile(path);
        r.path = path;
        r.chainId = json.readUint(".chainId");
        r.splitter = JecpSplitter(json.readAddress(".splitter"));
        r.capabilityId = json.readBytes32(".capabilityId");
        r.provider = json.readAddress(".provider");
        r.providerBps = _readBps(path, json, ".providerBps");
        r.hubBps = _readBps(path, json, ".hubBps");
        r.reserveBps = _readBps(path, json, ".reserveBps");
        r.nonce = json.readBytes32(".nonce");
        r.deadline = json.readUint(".deadline");
        r.signature = json.readBytes(".signature");
    }

    function _readBps(string memory path, string memory json, string memory key)
        internal
        pure
        returns (uint16)
    {
        uint256 bps = json.readUint(key);
        require(bps <= 10_000, string.concat(path, ": ", key, " is above 10000"));
        // forge-lint: disable-next-line(unsafe-typecast)
        return uint16(bps);
    }

    /// @dev True when registered with the same terms; refuses when with others.
    function _isRegistered(Registration memory r) internal view returns (bool) {
        (address provider, uint16 providerBps, uint16 hubBps, uint16 reserveBps, bool active) =
            r.splitter.capabilities(r.capabilityId);
        if (!active) return false;
        _require(
            r,
            provider == r.provider && providerBps == r.providerBps && hubBps == r.hubBps
                && reserveBps == r.reserveBps,
            "capabilityId is already registered with other terms"
        );
        return true;
    }

    function _require(Registration memory r, bool condition, string memory what) internal pure {
        require(condition, string.concat(r.path, ": ", what));
    }
}
