// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Vm} from "forge-std/Vm.sol";
import {IJecpSplitterV2} from "../../src/interfaces/IJecpSplitterV2.sol";
import {ReferenceModel} from "./ReferenceModel.sol";
import {V2Base} from "./V2Base.t.sol";

/// @dev Contract and model live through the same random history. Few payers, nonces and numbers, so
/// that they meet again; values and states at their edges.
contract V2DifferentialTest is V2Base {
    uint256 internal constant STEPS = 12;
    uint256 internal constant PAYERS = 3;

    ReferenceModel internal model;
    bytes32[3] internal ids = [CAPABILITY, OTHER, keccak256("demo:never")];
    uint64[6] internal numbers = [uint64(0), 1, 255, 256, 257, type(uint64).max];
    address[] internal accounts;
    uint256 internal entropy;

    function setUp() public override {
        super.setUp();
        model = new ReferenceModel(hubTreasury, networkReserve, address(splitter), CAP);
        makePayable(OTHER, otherProvider, [uint16(6667), 2222, 1111]);
        model.setCapability(CAPABILITY, provider.addr, 8500, 1000, true);
        model.setCapability(OTHER, otherProvider.addr, 6667, 2222, true);
        accounts.push(provider.addr);
        accounts.push(otherProvider.addr);
        accounts.push(hubTreasury);
        accounts.push(networkReserve);
        for (uint256 i = 0; i < PAYERS; ++i) {
            address who = vm.addr(PAYER_KEY + 1 + i);
            accounts.push(who);
            usdc.mint(who, 4 * CAP);
            model.mint(who, 4 * CAP);
        }
        accounts.push(address(splitter));
    }

    /// forge-config: default.fuzz.runs = 128
    /// forge-config: deep.fuzz.runs = 20000
    function testFuzz_ContractAndModelAgree(uint256 seed) public {
        entropy = seed;
        for (uint256 step = 0; step < STEPS; ++step) {
            uint256 what = pick(16);
            if (what < 5) settleBoth();
            else if (what < 8) recordBoth();
            else if (what < 10) refundBoth();
            else if (what < 12) strangerPulls();
            else if (what == 12) cancels();
            else if (what == 13) changesTheToken();
            else if (what == 14) changesACapability();
            else donatesOrWithdraws();
            assertSame();
        }
    }

    // ------------------------------------------------------------ steps

    function settleBoth() internal {
        (IJecpSplitterV2.Batch memory batch, ReferenceModel.Item[] memory items) = randomBatch();
        vm.recordLogs();
        settle(batch);
        assertEvents(
            items,
            model.settle(items),
            IJecpSplitterV2.PaymentSettled.selector,
            IJecpSplitterV2.PaymentFailed.selector
        );
    }

    function recordBoth() internal {
        (IJecpSplitterV2.Batch memory batch, ReferenceModel.Item[] memory items) = randomBatch();
        uint256 state = vm.snapshotState();
        (bool[] memory done, bool reverts) = model.record(items);
        if (reverts) {
            vm.revertToState(state);
            vm.prank(settler);
            vm.expectRevert(IJecpSplitterV2.NoPushSucceeded.selector);
            splitter.record(batch, CHECK_GAS);
            return;
        }
        vm.recordLogs();
        record(batch);
        assertEvents(
            items,
            done,
            IJecpSplitterV2.PaymentRecorded.selector,
            IJecpSplitterV2.PaymentSkipped.selector
        );
    }

    function refundBoth() internal {
        (IJecpSplitterV2.Batch memory batch, ReferenceModel.Item[] memory items) = randomBatch();
        vm.recordLogs();
        refund(batch);
        assertEvents(
            items,
            model.refund(items),
            IJecpSplitterV2.PaymentRefunded.selector,
            IJecpSplitterV2.PaymentSkipped.selector
        );
    }

    function strangerPulls() internal {
        (IJecpSplitterV2.Batch memory batch, ReferenceModel.Item[] memory items) = randomBatch();
        for (uint256 i = 0; i < items.length; ++i) {
            if (!model.canPull(items[i])) continue;
            pullAsStranger(batch.payments[i]);
            model.pull(items[i]);
        }
    }

    function cancels() internal {
        Terms memory t = terms(0);
        t.key = PAYER_KEY + 1 + pick(PAYERS);
        t.from = vm.addr(t.key);
        (t.nonce,) = randomNonce();
        if (model.paused() || model.used(t.from, t.nonce)) return;
        cancel(t);
        model.cancel(t.from, t.nonce);
    }

    function changesTheToken() internal {
        if (pick(4) == 0) {
            bool paused = !model.paused();
            paused ? usdc.pause() : usdc.unpause();
            model.setPaused(paused);
            return;
        }
        address who = accounts[pick(accounts.length)];
        bool blacklisted = !model.blacklisted(who);
        blacklisted ? usdc.blacklist(who) : usdc.unBlacklist(who);
        model.setBlacklisted(who, blacklisted);
    }

    function changesACapability() internal {
        uint256 which = pick(2);
        (address who, uint256 p, uint256 h, bool isPayable) = model.capability(ids[which]);
        if (!isPayable) {
            p = 5000 + pick(4000);
            h = 500 + pick(400);
            Vm.Wallet memory wallet = pick(2) == 0 ? provider : otherProvider;
            makePayable(ids[which], wallet, sharesOf(p, h));
            who = wallet.addr;
        } else if (pick(2) == 0) {
            vm.prank(relayer);
            splitter.revoke(ids[which]);
        } else {
            vm.prank(who);
            splitter.deactivate(ids[which]);
        }
        model.setCapability(ids[which], who, p, h, !isPayable);
    }

    function donatesOrWithdraws() internal {
        if (pick(2) == 0 && !model.paused() && !model.blacklisted(address(splitter))) {
            uint256 value = pick(PRICE);
            usdc.mint(address(splitter), value);
            model.mint(address(splitter), value);
            return;
        }
        address account = accounts[pick(accounts.length)];
        bool reverts = model.withdraw(account);
        if (reverts) vm.expectRevert();
        splitter.withdraw(account);
    }

    // ------------------------------------------------------------ randomness

    function sharesOf(uint256 p, uint256 h) internal pure returns (uint16[3] memory shares) {
        // forge-lint: disable-next-line(unsafe-typecast)
        (shares[0], shares[1], shares[2]) = (uint16(p), uint16(h), uint16(10_000 - p - h));
    }

    function pick(uint256 below) internal returns (uint256) {
        entropy = uint256(keccak256(abi.encode(entropy)));
        return entropy % below;
    }

    function randomNonce() internal returns (bytes32 nonce, bytes32 boundTo) {
        if (pick(4) != 0) return (bytes32(1 + pick(4)), 0);
        boundTo = ids[pick(2)];
        nonce = splitter.boundNonce(boundTo, uint64(pick(2)));
    }

    function randomBatch()
        internal
        returns (IJecpSplitterV2.Batch memory batch, ReferenceModel.Item[] memory items)
    {
        uint256 count = 1 + pick(5);
        batch = batchOf(count);
        bytes32[] memory named_ = new bytes32[](3);
        for (uint256 i = 0; i < 3; ++i) {
            named_[i] = ids[i];
        }
        named(batch, named_);
        items = new ReferenceModel.Item[](count);
        uint256[6] memory values = [uint256(0), 1, 9, PRICE, CAP, CAP + 1];
        for (uint256 i = 0; i < count; ++i) {
            Terms memory t = terms(numbers[pick(6)]);
            t.key = PAYER_KEY + 1 + pick(PAYERS);
            t.from = vm.addr(t.key);
            t.value = pick(3) == 0 ? values[pick(6)] : 1 + pick(PRICE);
            t.index = pick(8) == 0 ? 2 : pick(2);
            bytes32 boundTo;
            (t.nonce, boundTo) = randomNonce();
            bool wellSigned = pick(8) != 0;
            bool inTime = pick(8) != 0;
            if (!inTime) t.validBefore = block.timestamp;
            if (!wellSigned) t.key = 0xBAD;
            batch.payments[i] = sign(t);
            items[i] = ReferenceModel.Item({
                payer: t.from,
                value: t.value,
                nonce: t.nonce,
                number: t.number,
                capabilityId: ids[t.index],
                boundTo: boundTo,
                wellSigned: wellSigned,
                inTime: inTime
            });
        }
    }

    // ------------------------------------------------------------ agreement

    /// @dev One event per item, in order, of the right kind, with the right nonce.
    function assertEvents(
        ReferenceModel.Item[] memory items,
        bool[] memory done,
        bytes32 good,
        bytes32 bad
    ) internal {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        uint256 seen = 0;
        for (uint256 i = 0; i < logs.length; ++i) {
            bytes32 topic = logs[i].topics[0];
            if (logs[i].emitter != address(splitter) || (topic != good && topic != bad)) continue;
            assertEq(topic, done[seen] ? good : bad, "kind of event");
            (uint64 number,, bytes32 nonce) = abi.decode(logs[i].data, (uint64, uint256, bytes32));
            assertEq(number, items[seen].number, "number");
            assertEq(nonce, items[seen].nonce, "nonce");
            ++seen;
        }
        assertEq(seen, items.length, "events");
    }

    function assertSame() internal view {
        for (uint256 i = 0; i < accounts.length; ++i) {
            assertEq(usdc.balanceOf(accounts[i]), model.balance(accounts[i]), "balance");
            assertEq(splitter.escrow(accounts[i]), model.escrow(accounts[i]), "escrow");
        }
        assertEq(splitter.totalOwed(), model.totalOwed(), "totalOwed");
        for (uint256 i = 0; i < numbers.length; ++i) {
            assertEq(splitter.isBooked(numbers[i]), model.booked(numbers[i]), "booked");
        }
        for (uint256 i = 0; i < PAYERS; ++i) {
            address who = vm.addr(PAYER_KEY + 1 + i);
            for (uint256 n = 1; n <= 4; ++n) {
                assertEq(
                    splitter.recorded(who, bytes32(n)), model.recorded(who, bytes32(n)), "recorded"
                );
            }
        }
    }
}
