// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IJecpSplitterV2} from "../../src/interfaces/IJecpSplitterV2.sol";
import {ContractPayer} from "../doubles/ContractPayer.sol";
import {V2Base} from "./V2Base.t.sol";

contract V2RecordTest is V2Base {
    function test_RevertWhen_CallerIsNotTheSettler() public {
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 1);
        address[7] memory others =
            [hubTreasury, networkReserve, relayer, relayerAdmin, provider.addr, payer, stranger];
        for (uint256 i = 0; i < others.length; i++) {
            vm.startPrank(others[i]);
            vm.expectRevert(IJecpSplitterV2.UnauthorizedSettler.selector);
            splitter.record(batch, CHECK_GAS);
            vm.expectRevert(IJecpSplitterV2.UnauthorizedSettler.selector);
            splitter.refund(batch, CHECK_GAS);
            vm.stopPrank();
        }
    }

    function test_WhenBatchIsEmpty_DoesNothing() public {
        usdc.mint(address(splitter), 7);
        vm.recordLogs();
        record(batchOf(0));
        refund(batchOf(0));
        assertEq(vm.getRecordedLogs().length, 0);
        assertBalances(0, 0, 0, 7);
    }

    // ------------------------------------------------------------ record

    function test_GivenPulledPayment_WhenRecorded_AttributesAndPays() public {
        IJecpSplitterV2.Payment memory p = payment(1);
        pullAsStranger(p);
        expectRecorded(CAPABILITY, p);
        record(batchOf(p));
        assertBalances(170_000, 20_000, 10_000, 0);
        assertTrue(splitter.isBooked(1));
        assertTrue(splitter.recorded(payer, p.nonce));
        assertEq(splitter.totalOwed(), 0);
    }

    /// @dev H13: a stranger who submits first hurts nobody: `used`, then recorded.
    function test_GivenFrontRunPayment_WhenSettledThenRecorded_BooksOnce() public {
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 3);
        pullAsStranger(batch.payments[1]);
        settle(batch);
        assertBalances(340_000, 40_000, 20_000, PRICE);
        expectSkipped(batch.payments[0], IJecpSplitterV2.NumberBooked.selector);
        expectRecorded(CAPABILITY, batch.payments[1]);
        expectSkipped(batch.payments[2], IJecpSplitterV2.NumberBooked.selector);
        record(batch);
        assertBalances(510_000, 60_000, 30_000, 0);
    }

    function test_GivenContractPayers_WhenRecorded_AsksThem() public {
        (, Terms memory t) = walletTerms(1);
        IJecpSplitterV2.Payment memory short = sign(t);
        t.number = 2;
        t.nonce = keccak256("long");
        IJecpSplitterV2.Batch memory long = wrapped(t);
        pullAsStranger(short);
        vm.prank(stranger);
        usdc.transferWithAuthorization(
            t.from,
            address(splitter),
            t.value,
            t.validAfter,
            t.validBefore,
            t.nonce,
            slice(long.signatures, 3)
        );
        expectRecorded(CAPABILITY, short);
        record(batchOf(short));
        expectRecorded(CAPABILITY, long.payments[0]);
        record(long);
        assertBalances(340_000, 40_000, 20_000, 0);
    }

    /// @dev EIP-7702: what a key signed stays signed when code is laid over its account.
    function test_GivenPayerBecameAContract_WhenRecorded_TakesItsEcdsaSignature() public {
        IJecpSplitterV2.Payment memory p = payment(1);
        pullAsStranger(p);
        vm.etch(payer, address(usdc).code);
        expectRecorded(CAPABILITY, p);
        record(batchOf(p));
    }

    function test_WhenCapabilityIsNotPayable_Skips() public {
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 1);
        pullAsStranger(batch.payments[0]);
        vm.prank(relayer);
        splitter.revoke(CAPABILITY);
        expectSkipped(batch.payments[0], IJecpSplitterV2.CapabilityNotActive.selector);
        record(batch);
        // Approved again, it is recorded; or else it would be refunded.
        approve(CAPABILITY, provider.addr, [uint16(8500), 1000, 500]);
        expectRecorded(CAPABILITY, batch.payments[0]);
        record(batch);
    }

    function test_WhenValueIsZeroOrAboveTheCap_Skips() public {
        Terms memory nothing = terms(1);
        nothing.value = 0;
        Terms memory tooMuch = terms(2);
        tooMuch.value = CAP + 1;
        IJecpSplitterV2.Batch memory batch = batchOf(sign(nothing), sign(tooMuch));
        pullAsStranger(batch.payments[0]);
        pullAsStranger(batch.payments[1]);
        expectSkipped(batch.payments[0], IJecpSplitterV2.AmountZero.selector);
        expectSkipped(batch.payments[1], IJecpSplitterV2.AmountExceedsCap.selector);
        record(batch);
    }

    /// @dev The number is refused before the identity is looked at, and the other way round.
    function test_WhenRecordedBefore_SkipsUnderAnyNumber() public {
        IJecpSplitterV2.Payment memory p = payment(1);
        pullAsStranger(p);
        usdc.mint(address(splitter), 10 * PRICE);
        Terms memory renumbered = terms(1);
        renumbered.number = 2;
        IJecpSplitterV2.Batch memory batch = batchOf(3);
        batch.payments[0] = p;
        batch.payments[1] = p;
        batch.payments[2] = sign(renumbered);
        expectRecorded(CAPABILITY, p);
        expectSkipped(p, IJecpSplitterV2.NumberBooked.selector);
        expectSkipped(batch.payments[2], IJecpSplitterV2.AlreadyRecorded.selector);
        record(batch);
        expectSkipped(batch.payments[2], IJecpSplitterV2.AlreadyRecorded.selector);
        record(batchOf(batch.payments[2]));
        expectSkipped(batch.payments[2], IJecpSplitterV2.AlreadyRecorded.selector);
        refund(batchOf(batch.payments[2]));
        assertBalances(170_000, 20_000, 10_000, 10 * PRICE);
    }

    function test_WhenNonceIsBoundElsewhere_Skips() public {
        Terms memory t = terms(1);
        t.nonce = splitter.boundNonce(OTHER, 1);
        IJecpSplitterV2.Payment memory p = sign(t);
        pullAsStranger(p);
        expectSkipped(p, IJecpSplitterV2.BoundToAnotherCapability.selector);
        record(batchOf(p));
        makePayable(OTHER, otherProvider, [uint16(8500), 1000, 500]);
        IJecpSplitterV2.Batch memory batch = batchOf(p);
        named(batch, OTHER);
        expectRecorded(OTHER, p);
        record(batch);
    }

    function test_WhenNonceIsNotUsed_Skips() public {
        usdc.mint(address(splitter), PRICE);
        IJecpSplitterV2.Payment memory p = payment(1);
        expectSkipped(p, IJecpSplitterV2.AuthorizationNotUsed.selector);
        record(batchOf(p));
        assertBalances(0, 0, 0, PRICE);
    }

    /// @dev The settler cannot book what the payer did not sign: payee, value and nonce are signed.
    function test_WhenPayerDidNotSign_Skips() public {
        IJecpSplitterV2.Payment memory honest = payment(1);
        pullAsStranger(honest);
        usdc.mint(address(splitter), 10 * PRICE);

        IJecpSplitterV2.Payment[5] memory forged;
        Terms memory t = terms(1);
        t.key = 0xBAD;
        forged[0] = sign(t);
        t = terms(1);
        t.value = PRICE + 1;
        forged[1] = sign(t);
        forged[1].r = honest.r;
        forged[1].vs = honest.vs;
        // Signed for another payee.
        t = terms(1);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(PAYER_KEY, authorizationDigest(t, stranger));
        forged[2] = pack(t, r, bytes32(uint256(s) | uint256(v - 27) << 255), 0);
        // The time window is signed too.
        t = terms(1);
        t.validBefore += 1;
        forged[3] = pack(t, honest.r, honest.vs, 0);
        forged[4] = honest;
        forged[4].r = 0;
        for (uint256 i = 0; i < forged.length; ++i) {
            expectSkipped(forged[i], IJecpSplitterV2.InvalidSignature.selector);
            record(batchOf(forged[i]));
            expectSkipped(forged[i], IJecpSplitterV2.InvalidSignature.selector);
            refund(batchOf(forged[i]));
        }
        record(batchOf(honest));
    }

    /// @dev H10: the token refuses high-s, so does `record`.
    function test_WhenSignatureIsHighS_Skips() public {
        Terms memory t = terms(1);
        IJecpSplitterV2.Payment memory p = sign(t);
        pullAsStranger(p);
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(PAYER_KEY, authorizationDigest(t, address(splitter)));
        uint256 order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        IJecpSplitterV2.Batch memory batch = batchOf(pack(t, 0, 0, 65));
        batch.signatures =
            abi.encodePacked(r, bytes32(order - uint256(s)), v == 27 ? uint8(28) : uint8(27));
        expectSkipped(batch.payments[0], IJecpSplitterV2.InvalidSignature.selector);
        record(batch);
    }

    /// @dev What is escrowed belongs to somebody; nobody's claim reaches it.
    function test_WhenOnlyEscrowIsLeft_Skips() public {
        usdc.blacklist(provider.addr);
        settle(batchFrom(1, 2));
        assertEq(splitter.totalOwed(), 340_000);
        Terms memory t = terms(3);
        IJecpSplitterV2.Payment memory p = sign(t);
        cancel(t);
        expectSkipped(p, IJecpSplitterV2.InsufficientUnaccounted.selector);
        record(batchOf(p));
        expectSkipped(p, IJecpSplitterV2.InsufficientUnaccounted.selector);
        refund(batchOf(p));
        assertEq(usdc.balanceOf(address(splitter)), 340_000);
    }

    /// @dev Two claims on one payment's money: the first in the batch takes it.
    function test_WhenUnaccountedIsUsedUpWithinTheBatch_SkipsTheRest() public {
        Terms memory ghost = terms(1);
        IJecpSplitterV2.Batch memory batch = batchOf(sign(ghost), payment(2));
        cancel(ghost);
        pullAsStranger(batch.payments[1]);
        expectRecorded(CAPABILITY, batch.payments[0]);
        expectSkipped(batch.payments[1], IJecpSplitterV2.InsufficientUnaccounted.selector);
        record(batch);
        assertBalances(170_000, 20_000, 10_000, 0);
    }

    /// @dev The limit that the interface names: a cancelled authorization looks used. Without money
    /// that belongs to nobody there is nothing to take.
    function test_GivenCancelledNonce_WhenRecorded_TakesOnlyWhatBelongsToNobody() public {
        Terms memory t = terms(1);
        IJecpSplitterV2.Payment memory p = sign(t);
        cancel(t);
        expectSkipped(p, IJecpSplitterV2.InsufficientUnaccounted.selector);
        record(batchOf(p));
        usdc.mint(address(splitter), PRICE);
        expectRecorded(CAPABILITY, p);
        record(batchOf(p));
        assertBalances(170_000, 20_000, 10_000, 0);
    }

    /// @dev The same, by paying somebody else with the same nonce.
    function test_GivenNonceSpentElsewhere_WhenRecorded_TakesOnlyWhatBelongsToNobody() public {
        Terms memory t = terms(1);
        IJecpSplitterV2.Payment memory p = sign(t);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(PAYER_KEY, authorizationDigest(t, stranger));
        usdc.transferWithAuthorization(
            payer, stranger, t.value, t.validAfter, t.validBefore, t.nonce, v, r, s
        );
        expectSkipped(p, IJecpSplitterV2.InsufficientUnaccounted.selector);
        record(batchOf(p));
        assertBalances(0, 0, 0, 0);
    }

    /// @dev H19 for `record`: a contract payer burns what it was given, not the batch.
    function test_GivenHostileContractPayers_WhenRecorded_SkipsThemAlone() public {
        ContractPayer.Mood[3] memory moods = [
            ContractPayer.Mood.Rejecting,
            ContractPayer.Mood.BurningGas,
            ContractPayer.Mood.RevertingWithMuchData
        ];
        IJecpSplitterV2.Batch memory batch = batchOf(4);
        ContractPayer[3] memory wallets;
        for (uint256 i = 0; i < 3; ++i) {
            Terms memory t;
            (wallets[i], t) = walletTerms(i);
            batch.payments[i] = sign(t);
            pullAsStranger(batch.payments[i]);
            wallets[i].setMood(moods[i]);
        }
        batch.payments[3] = payment(3);
        pullAsStranger(batch.payments[3]);
        for (uint256 i = 0; i < 3; ++i) {
            expectSkipped(batch.payments[i], IJecpSplitterV2.InvalidSignature.selector);
        }
        expectRecorded(CAPABILITY, batch.payments[3]);
        vm.prank(settler);
        splitter.record{gas: 1_000_000}(batch, CHECK_GAS);
        assertBalances(170_000, 20_000, 10_000, 3 * PRICE);
    }

    /// @dev An answer of 50,000 bytes is read in its first word.
    function test_GivenLongAnswer_WhenRecorded_ReadsOneWord() public {
        (ContractPayer wallet, Terms memory t) = walletTerms(1);
        IJecpSplitterV2.Payment memory p = sign(t);
        pullAsStranger(p);
        wallet.setMood(ContractPayer.Mood.ReturningMuchData);
        expectRecorded(CAPABILITY, p);
        vm.prank(settler);
        splitter.record{gas: 400_000}(batchOf(p), CHECK_GAS);
    }

    function test_RevertWhen_CheckGasIsMoreThanThereIs() public {
        (, Terms memory t) = walletTerms(1);
        IJecpSplitterV2.Payment memory p = sign(t);
        pullAsStranger(p);
        vm.prank(settler);
        vm.expectRevert(IJecpSplitterV2.InsufficientGas.selector);
        splitter.record{gas: 1_000_000}(batchOf(p), 1_000_000);
    }

    function test_WhenARecipientIsBlacklisted_EscrowsItsShareAlone() public {
        IJecpSplitterV2.Payment memory p = payment(1);
        pullAsStranger(p);
        usdc.blacklist(provider.addr);
        usdc.blacklist(hubTreasury);
        record(batchOf(p));
        assertBalances(0, 0, 10_000, 190_000);
        assertEq(splitter.escrow(provider.addr), 170_000);
        assertEq(splitter.escrow(hubTreasury), 20_000);
        assertEq(splitter.totalOwed(), 190_000);
    }

    function test_RevertWhen_NobodyCanBePaid() public {
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 2);
        pullAsStranger(batch.payments[0]);
        pullAsStranger(batch.payments[1]);
        usdc.pause();
        vm.prank(settler);
        vm.expectRevert(IJecpSplitterV2.NoPushSucceeded.selector);
        splitter.record(batch, CHECK_GAS);
        usdc.unpause();
        usdc.blacklist(address(splitter));
        vm.prank(settler);
        vm.expectRevert(IJecpSplitterV2.NoPushSucceeded.selector);
        splitter.record(batch, CHECK_GAS);
        usdc.unBlacklist(address(splitter));
        record(batch);
        assertBalances(340_000, 40_000, 20_000, 0);
    }

    /// @dev A paused token does not turn a batch of skips into a revert: the reasons are wanted.
    function test_GivenPausedToken_WhenEverythingIsSkipped_DoesNotRevert() public {
        usdc.pause();
        IJecpSplitterV2.Payment memory p = payment(1);
        expectSkipped(p, IJecpSplitterV2.AuthorizationNotUsed.selector);
        record(batchOf(p));
    }

    // ------------------------------------------------------------ helpers

    function slice(bytes memory data, uint256 offset) internal pure returns (bytes memory result) {
        result = new bytes(data.length - offset);
        for (uint256 i = 0; i < result.length; ++i) {
            result[i] = data[i + offset];
        }
    }
}
