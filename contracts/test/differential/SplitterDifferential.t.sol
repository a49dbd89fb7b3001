// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Vm} from "forge-std/Test.sol";
import {IJecpSplitter} from "../../src/interfaces/IJecpSplitter.sol";
import {SplitterModel} from "../model/SplitterModel.sol";
import {SplitterBase} from "../unit/SplitterBase.t.sol";

/// @dev JecpSplitter and a plain model are given the same random steps, good and bad; each answer,
/// revert data included, and the whole state after it must agree.
contract SplitterDifferentialTest is SplitterBase {
    SplitterModel internal model;
    bytes32[] internal ids;
    address[] internal providers;
    Vm.Wallet[3] internal wallets;
    bytes32[3] internal nonces = [keccak256("a"), keccak256("b"), keccak256("c")];
    address[] internal accounts;
    uint256 internal extraNonce;
    uint256 internal extraMoney;

    function setUp() public override {
        super.setUp();
        for (uint256 i = 0; i < 3; i++) {
            wallets[i] = vm.createWallet(string.concat("provider ", vm.toString(i)));
            providers.push(wallets[i].addr);
            ids.push(keccak256(abi.encode("capability", i)));
        }
        model = new SplitterModel(
            address(splitter),
            hubTreasury,
            networkReserve,
            relayer,
            relayerAdmin,
            settler,
            CAP,
            ids,
            providers
        );
        accounts = [providers[0], providers[1], providers[2], hubTreasury, networkReserve];
        accounts.push(address(splitter));
    }

    function testFuzz_AgreesWithTheModel(uint256[32] calldata words) public {
        for (uint256 i = 0; i < words.length; i++) {
            step(words[i]);
            compareStates();
        }
    }

    /// @dev The low byte chooses what to do, weighted towards what moves money; the rest with what.
    function step(uint256 word) internal {
        uint256 what = word % 16;
        uint256 w = word >> 8;
        bytes32 id = ids[w % 3];
        if (what < 3) doRegister(id, w >> 8);
        else if (what < 5) doPull(w >> 8);
        else if (what < 9) doRecord(id, w >> 8);
        else if (what < 12) doSplit(id, w >> 8);
        else if (what == 12) doDeactivate(id, w >> 8);
        else if (what == 13) doWithdraw(w >> 8);
        else if (what == 14) doToken(w >> 8);
        else doSetRelayer(w >> 8);
    }

    function doRegister(bytes32 id, uint256 w) internal {
        Vm.Wallet memory who = wallets[w % 3];
        Vm.Wallet memory signer = (w >> 8) % 8 == 0 ? wallets[(w + 1) % 3] : who;
        uint16[3] memory bps = boundBps(w >> 16 & 0xffff, w >> 32 & 0xffff);
        if ((w >> 48) % 8 == 0) bps[2] += 1;
        bytes32 nonce = (w >> 56) % 4 == 0 ? nonces[(w >> 64) % 3] : bytes32(++extraNonce);
        uint256 deadline = (w >> 72) % 8 == 0 ? block.timestamp - 1 : block.timestamp;

        bytes memory expected = model.register(id, who.addr, bps, nonce, deadline, signer.addr);
        compare(registration(id, who.addr, signer, bps, nonce, deadline), address(this), expected);
    }

    function registration(
        bytes32 id,
        address who,
        Vm.Wallet memory signer,
        uint16[3] memory bps,
        bytes32 nonce,
        uint256 deadline
    ) internal returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(signer, registrationDigest(id, who, bps, nonce, deadline));
        return abi.encodeCall(
            IJecpSplitter.register,
            (id, who, bps[0], bps[1], bps[2], nonce, deadline, abi.encodePacked(r, s, v))
        );
    }

    function doPull(uint256 w) internal {
        if (usdc.paused() || usdc.isBlacklisted(address(splitter))) return;
        uint256 amount = bound(w, 0, 2 * CAP);
        usdc.mint(address(splitter), amount);
        model.mint(address(splitter), amount);
    }

    function doRecord(bytes32 id, uint256 w) internal {
        address caller = w % 8 == 0 ? accounts[(w >> 8) % 6] : settler;
        // Mostly what is there, sometimes anything.
        uint256 free = usdc.balanceOf(address(splitter)) - splitter.totalOwed();
        uint256 amount = bound(w >> 16, 0, (w >> 8) % 8 == 0 ? 2 * CAP : free);
        if ((w >> 8) % 8 == 1) amount = free + 1;
        compare(
            abi.encodeCall(IJecpSplitter.recordSettlement, (id, amount)),
            caller,
            model.record(caller, id, amount)
        );
    }

    function doSplit(bytes32 id, uint256 w) internal {
        compare(
            abi.encodeCall(IJecpSplitter.splitFor, (id, asAddress(w))),
            accounts[w % 6],
            model.split(id)
        );
    }

    function doDeactivate(bytes32 id, uint256 w) internal {
        (address caller,,,,) = splitter.capabilities(id);
        if (w % 4 == 0) caller = accounts[(w >> 8) % 6];
        compare(
            abi.encodeCall(IJecpSplitter.deactivate, (id)), caller, model.deactivate(caller, id)
        );
    }

    function doWithdraw(uint256 w) internal {
        address caller = accounts[w % 6];
        compare(abi.encodeCall(IJecpSplitter.withdraw, ()), caller, model.withdraw(caller));
    }

    function doToken(uint256 w) internal {
        if (w % 4 == 0) {
            bool paused = !usdc.paused();
            if (paused) usdc.pause();
            else usdc.unpause();
            model.setPaused(paused);
            return;
        }
        address account = accounts[(w >> 8) % 6];
        bool value = !usdc.isBlacklisted(account);
        if (value) usdc.blacklist(account);
        else usdc.unBlacklist(account);
        model.setBlacklisted(account, value);
    }

    function doSetRelayer(uint256 w) internal {
        address caller = w % 4 == 0 ? relayer : relayerAdmin;
        address next = w % 3 == 0 ? settler : (w % 5 == 0 ? address(0) : asAddress(w));
        compare(
            abi.encodeCall(IJecpSplitter.setRelayer, (next)), caller, model.setRelayer(caller, next)
        );
    }

    function asAddress(uint256 word) internal pure returns (address) {
        // forge-lint: disable-next-line(unsafe-typecast)
        return address(uint160(word));
    }

    function compare(bytes memory call, address caller, bytes memory expected) internal {
        vm.prank(caller);
        (bool success, bytes memory answer) = address(splitter).call(call);
        assertEq(success, expected.length == 0, "success");
        assertEq(answer, expected, "answer");
    }

    function compareStates() internal view {
        for (uint256 i = 0; i < 3; i++) {
            bytes32 id = ids[i];
            assertEq(splitter.accountedBalance(id), model.accounted(id), "accountedBalance");
            assertEq(termsOfSplitter(id), termsOfModel(id), "capability");
            assertEq(splitter.usedNonces(nonces[i]), model.used(nonces[i]), "usedNonces");
            assertEq(splitter.providerEscrow(providers[i]), model.escrow(providers[i]), "escrow");
        }
        for (uint256 i = 0; i < accounts.length; i++) {
            assertEq(usdc.balanceOf(accounts[i]), model.balance(accounts[i]), "balance");
        }
        assertEq(splitter.totalOwed(), model.owed(), "totalOwed");
        assertEq(splitter.relayer(), model.relayer(), "relayer");
    }

    function termsOfSplitter(bytes32 id) internal view returns (bytes32) {
        (address provider_, uint16 a, uint16 b, uint16 c, bool active) = splitter.capabilities(id);
        return keccak256(abi.encode(provider_, a, b, c, active));
    }

    function termsOfModel(bytes32 id) internal view returns (bytes32) {
        (address provider_, uint256 a, uint256 b, uint256 c, bool active) = model.terms(id);
        return keccak256(abi.encode(provider_, a, b, c, active));
    }
}
