// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Test} from "forge-std/Test.sol";
import {IJecpSplitterV2} from "../../src/interfaces/IJecpSplitterV2.sol";
import {PaymentLib} from "../../src/libraries/PaymentLib.sol";
import {V2Base} from "./V2Base.t.sol";

/// @dev Makes every pull of an upgraded token revert with given bytes.
contract Reverter {
    bytes internal data;

    function setData(bytes calldata data_) external {
        data = data_;
    }

    fallback() external {
        if (msg.sig != 0xe3ee160e) return;
        bytes memory data_ = data;
        assembly {
            revert(add(data_, 0x20), mload(data_))
        }
    }
}

/// @dev Calldata structs exist only behind a call.
contract Unpacker is Test {
    using PaymentLib for IJecpSplitterV2.Payment;

    function assertUnpacks(
        IJecpSplitterV2.Payment calldata p,
        bytes calldata signatures,
        V2Base.Terms calldata t,
        uint256 longSignatureLength,
        bytes calldata signature
    ) external pure {
        assertEq(p.payer(), t.from);
        assertEq(p.value(), t.value);
        assertEq(p.number(), t.number);
        assertEq(p.validAfter(), t.validAfter);
        assertEq(p.validBefore(), t.validBefore);
        assertEq(p.capabilityIndex(), t.index);
        assertEq(p.longSignatureLength(), longSignatureLength);
        assertEq(p.signature(signatures), signature);
    }
}

/// forge-config: default.fuzz.runs = 128
/// forge-config: deep.fuzz.runs = 20000
contract V2FuzzTest is V2Base {
    /// @dev I-1, I-5: floors for provider and hub, the rest to the reserve, nothing left over.
    function testFuzz_Split_IsConserved(uint256 value, uint256 hubBps, uint256 reserveBps) public {
        value = bound(value, 1, CAP);
        hubBps = bound(hubBps, 500, 9900);
        reserveBps = bound(reserveBps, 100, 10_000 - hubBps);
        uint256 providerBps = 10_000 - hubBps - reserveBps;
        // forge-lint: disable-next-line(unsafe-typecast)
        uint16[3] memory bps = [uint16(providerBps), uint16(hubBps), uint16(reserveBps)];
        makePayable(OTHER, provider, bps);
        Terms memory t = terms(1);
        t.value = value;
        IJecpSplitterV2.Batch memory batch = batchOf(sign(t));
        named(batch, OTHER);
        settle(batch);
        uint256 p = value * providerBps / 10_000;
        uint256 h = value * hubBps / 10_000;
        assertBalances(p, h, value - p - h, 0);
    }

    /// @dev However payments are cut into batches, everybody gets the same.
    function testFuzz_Split_DoesNotDependOnTheBatch(uint256[6] memory values, uint256 cut) public {
        cut = bound(cut, 1, 5);
        IJecpSplitterV2.Batch memory whole = batchOf(6);
        IJecpSplitterV2.Batch memory first = batchOf(cut);
        IJecpSplitterV2.Batch memory second = batchOf(6 - cut);
        for (uint256 i = 0; i < 6; ++i) {
            Terms memory t = terms(i);
            t.value = bound(values[i], 1, CAP);
            whole.payments[i] = sign(t);
            if (i < cut) first.payments[i] = whole.payments[i];
            else second.payments[i - cut] = whole.payments[i];
        }
        uint256 state = vm.snapshotState();
        settle(whole);
        uint256 p = usdc.balanceOf(provider.addr);
        uint256 h = usdc.balanceOf(hubTreasury);
        uint256 r = usdc.balanceOf(networkReserve);
        vm.revertToState(state);
        settle(first);
        settle(second);
        assertBalances(p, h, r, 0);
    }

    /// @dev Any settlement numbers in any order: each is booked once, and no other is.
    function testFuzz_Numbers_AreBookedOnce(uint64[8] memory numbers, uint64 other) public {
        IJecpSplitterV2.Batch memory batch = batchOf(8);
        uint256 distinct;
        for (uint256 i = 0; i < 8; ++i) {
            // Half of them close together.
            if (i % 2 == 0) numbers[i] = numbers[i] % 300;
            Terms memory t = terms(i);
            t.number = numbers[i];
            batch.payments[i] = sign(t);
            bool seen;
            for (uint256 j = 0; j < i; ++j) {
                if (numbers[j] == numbers[i]) seen = true;
            }
            if (!seen) ++distinct;
        }
        settle(batch);
        assertEq(usdc.balanceOf(provider.addr), distinct * 170_000);
        bool isOne;
        for (uint256 i = 0; i < 8; ++i) {
            assertTrue(splitter.isBooked(numbers[i]));
            if (numbers[i] == other) isOne = true;
        }
        assertEq(splitter.isBooked(other), isOne);
        settle(batch);
        record(batch);
        assertEq(usdc.balanceOf(provider.addr), distinct * 170_000);
    }

    function testFuzz_Payment_UnpacksAsPacked(
        Terms memory t,
        uint256 r,
        uint256 s,
        bool odd,
        bytes calldata long
    ) public {
        t.value = bound(t.value, 0, type(uint96).max);
        t.validAfter = bound(t.validAfter, 0, type(uint64).max);
        t.validBefore = bound(t.validBefore, 0, type(uint64).max);
        t.index = bound(t.index, 0, type(uint32).max);
        s = bound(s, 0, type(uint256).max >> 1);
        Unpacker unpacker = new Unpacker();
        unpacker.assertUnpacks(
            pack(t, bytes32(r), bytes32(s | uint256(odd ? 1 : 0) << 255), 0),
            long,
            t,
            0,
            abi.encodePacked(r, s, odd ? uint8(28) : uint8(27))
        );
        if (long.length < 2) return;
        // All but the first byte, which is another payment's.
        unpacker.assertUnpacks(
            pack(t, bytes32(uint256(1)), 0, long.length - 1), long, t, long.length - 1, long[1:]
        );
    }

    /// @dev A bound nonce is good for one capability, whatever else is payable.
    function testFuzz_BoundNonce_IsGoodForOneCapability(bytes32 id, uint64 salt) public {
        vm.assume(id != CAPABILITY);
        makePayable(id, otherProvider, [uint16(8500), 1000, 500]);
        Terms memory t = terms(1);
        t.nonce = splitter.boundNonce(id, salt);
        IJecpSplitterV2.Payment memory p = sign(t);
        expectRefused(p, false, IJecpSplitterV2.BoundToAnotherCapability.selector);
        settle(batchOf(p));
        IJecpSplitterV2.Batch memory batch = batchOf(p);
        named(batch, id);
        expectSettled(id, p);
        settle(batch);
    }

    function testFuzz_RevertData_IsCopiedUpTo132Bytes(bytes calldata data) public {
        vm.assume(data.length < 1000);
        Reverter reverter = new Reverter();
        upgradeToken(address(reverter));
        reverter.setData(data);
        IJecpSplitterV2.Payment memory p = payment(1);
        expectFailed(CAPABILITY, p, false, data.length > 132 ? data[:132] : data);
        vm.prank(settler);
        splitter.settle(batchOf(p), 2_000_000);
    }

    /// @dev I-4: only the declared provider's key registers.
    function testFuzz_Registration_NeedsTheProvidersKey(uint256 key, bytes32 id) public {
        key = bound(key, 1, type(uint128).max);
        vm.assume(vm.addr(key) != provider.addr && id != CAPABILITY);
        uint16[3] memory bps = [uint16(8500), 1000, 500];
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(key, registrationDigest(id, provider.addr, bps, "n", block.timestamp));
        vm.expectRevert(IJecpSplitterV2.InvalidSignature.selector);
        submit(id, provider.addr, bps, "n", abi.encodePacked(r, s, v));
    }

    /// @dev Nobody but the settler moves anything by any payload.
    function testFuzz_Strangers_BookNothing(address caller, uint256 pullGas) public {
        vm.assume(caller != settler);
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 2);
        pullAsStranger(batch.payments[1]);
        vm.startPrank(caller);
        vm.expectRevert(IJecpSplitterV2.UnauthorizedSettler.selector);
        splitter.settle(batch, pullGas);
        vm.expectRevert(IJecpSplitterV2.UnauthorizedSettler.selector);
        splitter.record(batch, pullGas);
        vm.expectRevert(IJecpSplitterV2.UnauthorizedSettler.selector);
        splitter.refund(batch, pullGas);
        assertBalances(0, 0, 0, PRICE);
    }
}
