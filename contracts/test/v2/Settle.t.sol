// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Vm} from "forge-std/Test.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {JecpSplitterV2} from "../../src/JecpSplitterV2.sol";
import {IJecpSplitterV2} from "../../src/interfaces/IJecpSplitterV2.sol";
import {V2Base} from "./V2Base.t.sol";

contract V2SettleTest is V2Base {
    bytes internal constant USED = "FiatTokenV2: authorization is used or canceled";

    // ------------------------------------------------------------ who and what

    function test_RevertWhen_CallerIsNotTheSettler() public {
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 1);
        address[7] memory others =
            [hubTreasury, networkReserve, relayer, relayerAdmin, provider.addr, payer, stranger];
        for (uint256 i = 0; i < others.length; i++) {
            vm.prank(others[i]);
            vm.expectRevert(IJecpSplitterV2.UnauthorizedSettler.selector);
            splitter.settle(batch, PULL_GAS);
        }
        assertEq(IJecpSplitterV2.UnauthorizedSettler.selector, bytes4(0x778fe324));
    }

    function test_WhenBatchIsEmpty_DoesNothing() public {
        vm.recordLogs();
        settle(batchOf(0));
        assertEq(vm.getRecordedLogs().length, 0);
    }

    function test_RevertWhen_IndexPointsBehindTheCapabilities() public {
        Terms memory t = terms(1);
        t.index = 1;
        IJecpSplitterV2.Batch memory batch = batchOf(payment(2), sign(t));
        vm.prank(settler);
        vm.expectRevert(abi.encodeWithSignature("Panic(uint256)", 0x32));
        splitter.settle(batch, PULL_GAS);
    }

    // ------------------------------------------------------------ what is settled

    function test_GivenSignedPayment_WhenSettled_PullsAttributesAndPays() public {
        IJecpSplitterV2.Payment memory p = payment(7);
        expectSettled(CAPABILITY, p);
        settle(batchOf(p));
        assertBalances(170_000, 20_000, 10_000, 0);
        assertTrue(splitter.isBooked(7));
        assertFalse(splitter.isBooked(6));
        assertFalse(splitter.isBooked(8));
        assertFalse(splitter.isBooked(7 + 256));
        assertEq(splitter.totalOwed(), 0);
        assertTrue(usdc.authorizationState(payer, p.nonce));
    }

    function test_GivenBoundNonce_WhenCapabilityMatches_Settles() public {
        Terms memory t = terms(1);
        t.nonce = splitter.boundNonce(CAPABILITY, 0xfedcba9876543210);
        IJecpSplitterV2.Payment memory p = sign(t);
        expectSettled(CAPABILITY, p);
        settle(batchOf(p));
    }

    /// @dev The form is part of what clients sign; it is written out here once more.
    function test_BoundNonce_IsTagSaltAndHash() public view {
        uint64 salt = 0x0123456789abcdef;
        bytes32 hash =
            keccak256(abi.encode(uint256(84_532), address(splitter), CAPABILITY, uint256(salt)));
        bytes32 nonce = splitter.boundNonce(CAPABILITY, salt);
        assertEq(uint256(nonce) >> 224, 0x4a454350, "JECP");
        assertEq(uint64(uint256(nonce >> 160)), salt);
        assertEq(uint160(uint256(nonce)), uint160(uint256(hash)));
    }

    function test_GivenContractPayer_WhenItAcceptsSixtyFiveBytes_Settles() public {
        (, Terms memory t) = walletTerms(1);
        IJecpSplitterV2.Payment memory p = sign(t);
        expectSettled(CAPABILITY, p);
        settle(batchOf(p));
        assertBalances(170_000, 20_000, 10_000, 0);
    }

    function test_GivenContractPayer_WhenItsSignatureIsLong_Settles() public {
        (, Terms memory t) = walletTerms(1);
        IJecpSplitterV2.Batch memory batch = wrapped(t);
        expectSettled(CAPABILITY, batch.payments[0]);
        settle(batch);
        assertBalances(170_000, 20_000, 10_000, 0);
    }

    function test_RevertWhen_AProviderIsNotNamed() public {
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 1);
        batch.providers = new address[](0);
        vm.prank(settler);
        vm.expectRevert();
        splitter.settle(batch, PULL_GAS);
    }

    function test_RevertWhen_LongSignatureLiesOutsideTheBatch() public {
        (, Terms memory t) = walletTerms(1);
        IJecpSplitterV2.Batch memory batch = wrapped(t);
        batch.signatures = hex"";
        vm.prank(settler);
        vm.expectRevert();
        splitter.settle(batch, PULL_GAS);
    }

    /// @dev H11: dust goes to the reserve, and zero amounts are not pushed.
    function test_GivenASingleUnit_WhenSettled_GoesToTheReserveAlone() public {
        Terms memory t = terms(1);
        t.value = 1;
        IJecpSplitterV2.Batch memory batch = batchOf(sign(t));
        vm.expectCall(address(usdc), abi.encodeWithSelector(IERC20.transfer.selector), 1);
        settle(batch);
        assertBalances(0, 0, 1, 0);
    }

    function test_GivenValueAtTheCap_WhenSettled_Settles() public {
        Terms memory t = terms(1);
        t.value = CAP;
        settle(batchOf(sign(t)));
        assertBalances(CAP * 85 / 100, CAP / 10, CAP / 20, 0);
    }

    /// @dev A batch pays each recipient once: 30 payments, two capabilities, four pushes.
    function test_GivenTwoCapabilities_WhenSettled_PaysEachRecipientOnce() public {
        makePayable(OTHER, otherProvider, [uint16(7000), 2000, 1000]);
        IJecpSplitterV2.Batch memory batch = batchOf(30);
        bytes32[] memory two = new bytes32[](2);
        two[0] = CAPABILITY;
        two[1] = OTHER;
        named(batch, two);
        for (uint256 i = 0; i < 30; ++i) {
            Terms memory t = terms(i);
            t.index = i % 3 == 0 ? 1 : 0;
            batch.payments[i] = sign(t);
            expectSettled(batch.capabilityIds[t.index], batch.payments[i]);
        }
        vm.expectCall(address(usdc), abi.encodeWithSelector(IERC20.transfer.selector), 4);
        settle(batch);
        assertBalances(20 * 170_000, 20 * 20_000 + 10 * 40_000, 20 * 10_000 + 10 * 20_000, 0);
        assertEq(usdc.balanceOf(otherProvider.addr), 10 * 140_000);
    }

    /// @dev What a payment pays depends on the payment alone: three of 9 units pay what three
    /// batches of one would, not what 27 units would.
    function test_GivenSeveralPayments_WhenSettled_RoundsPerPayment() public {
        IJecpSplitterV2.Batch memory batch = batchOf(3);
        for (uint256 i = 0; i < 3; ++i) {
            Terms memory t = terms(i);
            t.value = 9;
            batch.payments[i] = sign(t);
        }
        settle(batch);
        assertBalances(3 * 7, 0, 3 * 2, 0);
    }

    function test_GivenDonation_WhenSettled_DonationStays() public {
        usdc.mint(address(splitter), 12_345);
        settle(batchFrom(1, 3));
        assertBalances(510_000, 60_000, 30_000, 12_345);
    }

    function test_GivenNumbersInManyWords_WhenSettled_BooksEachOfThem() public {
        uint64[6] memory numbers = [uint64(255), 256, 3, type(uint64).max, 257, 511];
        IJecpSplitterV2.Batch memory batch = batchOf(6);
        for (uint256 i = 0; i < 6; ++i) {
            batch.payments[i] = payment(numbers[i]);
        }
        settle(batch);
        for (uint256 i = 0; i < 6; ++i) {
            assertTrue(splitter.isBooked(numbers[i]));
        }
        assertFalse(splitter.isBooked(254));
        assertFalse(splitter.isBooked(4));
        assertFalse(splitter.isBooked(510));
        assertBalances(6 * 170_000, 6 * 20_000, 6 * 10_000, 0);
    }

    // ------------------------------------------------------------ refused before the pull

    function test_WhenCapabilityIsNotPayable_FailsThatPaymentAlone() public {
        bytes32[] memory ids = new bytes32[](5);
        ids[0] = CAPABILITY;
        ids[1] = keccak256("demo:unknown");
        ids[2] = keccak256("demo:unapproved");
        ids[3] = keccak256("demo:revoked");
        ids[4] = keccak256("demo:deactivated");
        register(ids[2], provider, [uint16(8500), 1000, 500]);
        makePayable(ids[3], provider, [uint16(8500), 1000, 500]);
        makePayable(ids[4], provider, [uint16(8500), 1000, 500]);
        vm.prank(relayer);
        splitter.revoke(ids[3]);
        vm.prank(provider.addr);
        splitter.deactivate(ids[4]);

        IJecpSplitterV2.Batch memory batch = batchOf(5);
        named(batch, ids);
        batch.providers[2] = provider.addr;
        for (uint256 i = 0; i < 5; ++i) {
            Terms memory t = terms(i);
            t.index = i;
            batch.payments[i] = sign(t);
        }
        expectSettled(CAPABILITY, batch.payments[0]);
        for (uint256 i = 1; i < 5; ++i) {
            expectFailed(
                ids[i],
                batch.payments[i],
                false,
                abi.encodePacked(IJecpSplitterV2.CapabilityNotActive.selector)
            );
        }
        settle(batch);
        assertBalances(170_000, 20_000, 10_000, 0);
        assertFalse(usdc.authorizationState(payer, batch.payments[1].nonce));
    }

    function test_WhenValueIsZeroOrAboveTheCap_FailsThatPaymentAlone() public {
        Terms memory nothing = terms(1);
        nothing.value = 0;
        Terms memory tooMuch = terms(2);
        tooMuch.value = CAP + 1;
        IJecpSplitterV2.Batch memory batch = batchOf(3);
        batch.payments[0] = sign(nothing);
        batch.payments[1] = sign(tooMuch);
        batch.payments[2] = payment(3);
        expectRefused(batch.payments[0], false, IJecpSplitterV2.AmountZero.selector);
        expectRefused(batch.payments[1], false, IJecpSplitterV2.AmountExceedsCap.selector);
        expectSettled(CAPABILITY, batch.payments[2]);
        settle(batch);
        assertBalances(170_000, 20_000, 10_000, 0);
        assertFalse(splitter.isBooked(1));
        assertFalse(usdc.authorizationState(payer, nothing.nonce));
        assertFalse(usdc.authorizationState(payer, tooMuch.nonce));
    }

    /// @dev A number is one payment's; another payment under it is refused, not pulled.
    function test_WhenNumberIsBooked_FailsThatPaymentAlone() public {
        settle(batchFrom(1, 1));
        Terms memory sameNumber = terms(1);
        sameNumber.nonce = keccak256("another payment");
        Terms memory twinOfTwo = terms(2);
        twinOfTwo.nonce = keccak256("twin");
        IJecpSplitterV2.Batch memory batch = batchOf(3);
        batch.payments[0] = sign(sameNumber);
        batch.payments[1] = payment(2);
        batch.payments[2] = sign(twinOfTwo);
        expectRefused(batch.payments[0], false, IJecpSplitterV2.NumberBooked.selector);
        expectSettled(CAPABILITY, batch.payments[1]);
        expectRefused(batch.payments[2], false, IJecpSplitterV2.NumberBooked.selector);
        settle(batch);
        assertBalances(340_000, 40_000, 20_000, 0);
    }

    function test_WhenNonceIsBoundElsewhere_FailsThatPaymentAlone() public {
        JecpSplitterV2 twin = deploy();
        bytes32[4] memory nonces = [
            splitter.boundNonce(OTHER, 5),
            twin.boundNonce(CAPABILITY, 5),
            bytes32(0),
            bytes32(uint256(0x4a454350) << 224 | 1)
        ];
        vm.chainId(8453);
        nonces[2] = splitter.boundNonce(CAPABILITY, 5);
        vm.chainId(84_532);
        for (uint256 i = 0; i < nonces.length; ++i) {
            Terms memory t = terms(i);
            t.nonce = nonces[i];
            IJecpSplitterV2.Payment memory p = sign(t);
            expectRefused(p, false, IJecpSplitterV2.BoundToAnotherCapability.selector);
            settle(batchOf(p));
        }
        assertBalances(0, 0, 0, 0);
    }

    // ------------------------------------------------------------ refused by the token

    function test_WhenAuthorizationWasUsed_FailsAsUsed() public {
        IJecpSplitterV2.Payment memory p = payment(1);
        pullAsStranger(p);
        expectFailed(CAPABILITY, p, true, revertText(string(USED)));
        settle(batchOf(p));
        assertFalse(splitter.isBooked(1));
        assertEq(usdc.balanceOf(address(splitter)), PRICE);
    }

    /// @dev The token looks at the clock before it looks at the nonce.
    function test_WhenExpiredAndUsed_SaysUsedThoughTheReasonIsExpired() public {
        IJecpSplitterV2.Payment memory p = payment(1);
        pullAsStranger(p);
        vm.warp(block.timestamp + 61);
        expectFailed(CAPABILITY, p, true, revertText("FiatTokenV2: authorization is expired"));
        settle(batchOf(p));
    }

    function test_WhenTokenRefuses_FailsUnusedWithItsReason() public {
        Terms memory expired = terms(1);
        expired.validBefore = block.timestamp;
        Terms memory early = terms(2);
        early.validAfter = block.timestamp;
        Terms memory forged = terms(3);
        forged.key = 0xBAD;
        Terms memory poor = terms(4);
        poor.key = 0xB00B;
        poor.from = vm.addr(0xB00B);
        Terms memory banned = terms(5);
        banned.key = 0xBAAD;
        banned.from = vm.addr(0xBAAD);
        usdc.mint(banned.from, PRICE);
        usdc.blacklist(banned.from);

        IJecpSplitterV2.Batch memory batch = batchOf(6);
        batch.payments[0] = sign(expired);
        batch.payments[1] = sign(early);
        batch.payments[2] = sign(forged);
        batch.payments[3] = sign(poor);
        batch.payments[4] = sign(banned);
        batch.payments[5] = payment(6);
        string[5] memory texts = [
            "FiatTokenV2: authorization is expired",
            "FiatTokenV2: authorization is not yet valid",
            "FiatTokenV2: invalid signature",
            "ERC20: transfer amount exceeds balance",
            "Blacklistable: account is blacklisted"
        ];
        for (uint256 i = 0; i < 5; ++i) {
            expectFailed(CAPABILITY, batch.payments[i], false, revertText(texts[i]));
        }
        expectSettled(CAPABILITY, batch.payments[5]);
        settle(batch);
        assertBalances(170_000, 20_000, 10_000, 0);
    }

    function test_WhenPullRunsOutOfPullGas_FailsWithEmptyReason() public {
        IJecpSplitterV2.Payment memory p = payment(1);
        expectFailed(CAPABILITY, p, false, "");
        vm.prank(settler);
        splitter.settle(batchOf(p), 20_000);
        // Nothing happened; the same payment settles with enough.
        settle(batchOf(p));
        assertBalances(170_000, 20_000, 10_000, 0);
    }

    function test_RevertWhen_PullGasIsMoreThanThereIs() public {
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 1);
        vm.startPrank(settler);
        vm.expectRevert(IJecpSplitterV2.InsufficientGas.selector);
        splitter.settle{gas: 1_000_000}(batch, 1_000_000);
        vm.expectRevert(abi.encodeWithSignature("Panic(uint256)", 0x11));
        splitter.settle(batch, type(uint256).max);
    }

    function test_WhenTokenIsPaused_EveryPaymentFailsAndNothingIsBooked() public {
        usdc.pause();
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 2);
        expectFailed(CAPABILITY, batch.payments[0], false, revertText("Pausable: paused"));
        expectFailed(CAPABILITY, batch.payments[1], false, revertText("Pausable: paused"));
        settle(batch);
        assertFalse(splitter.isBooked(1));
        usdc.unpause();
        settle(batch);
        assertBalances(340_000, 40_000, 20_000, 0);
    }

    /// @dev H7: a blacklisted Splitter receives nothing, and nothing is lost.
    function test_WhenSplitterIsBlacklisted_EveryPaymentFails() public {
        usdc.blacklist(address(splitter));
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 1);
        expectFailed(
            CAPABILITY,
            batch.payments[0],
            false,
            revertText("Blacklistable: account is blacklisted")
        );
        settle(batch);
        usdc.unBlacklist(address(splitter));
        settle(batch);
        assertBalances(170_000, 20_000, 10_000, 0);
    }

    // ------------------------------------------------------------ escrow

    function test_WhenARecipientIsBlacklisted_EscrowsItsShareAlone() public {
        address[3] memory recipients = [provider.addr, hubTreasury, networkReserve];
        uint256[3] memory shares = [uint256(170_000), 20_000, 10_000];
        for (uint256 i = 0; i < 3; ++i) {
            uint256 state = vm.snapshotState();
            usdc.blacklist(recipients[i]);
            IJecpSplitterV2.Payment memory p = payment(1);
            expectSettled(CAPABILITY, p);
            vm.expectEmit(address(splitter));
            emit IJecpSplitterV2.Escrowed(recipients[i], shares[i]);
            settle(batchOf(p));
            for (uint256 j = 0; j < 3; ++j) {
                assertEq(usdc.balanceOf(recipients[j]), i == j ? 0 : shares[j]);
                assertEq(splitter.escrow(recipients[j]), i == j ? shares[j] : 0);
            }
            assertEq(splitter.totalOwed(), shares[i]);
            assertEq(usdc.balanceOf(address(splitter)), shares[i]);
            vm.revertToState(state);
        }
    }

    /// @dev One event per element, whatever became of it.
    function test_EmitsOneEventPerPayment() public {
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 6);
        pullAsStranger(batch.payments[1]);
        batch.payments[3].r = 0;
        batch.payments[4] = batch.payments[0];
        vm.recordLogs();
        settle(batch);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        uint256 events;
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter == address(splitter)) ++events;
        }
        assertEq(events, 6);
    }
}
