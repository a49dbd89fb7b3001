// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IJecpSplitterV2} from "../../src/interfaces/IJecpSplitterV2.sol";
import {V2Base} from "./V2Base.t.sol";

contract V2RefundTest is V2Base {
    function test_GivenPulledPayment_WhenRefunded_PaysThePayerBack() public {
        IJecpSplitterV2.Payment memory p = payment(1);
        uint256 before = usdc.balanceOf(payer);
        pullAsStranger(p);
        expectRefunded(p);
        refund(batchOf(p));
        assertEq(usdc.balanceOf(payer), before);
        assertBalances(0, 0, 0, 0);
        assertTrue(splitter.isBooked(1));
        assertTrue(splitter.recorded(payer, p.nonce));
        expectSkipped(p, IJecpSplitterV2.NumberBooked.selector);
        record(batchOf(p));
    }

    /// @dev H15, H23, C-22: what can never be booked can be given back.
    function test_GivenUnbookablePayments_WhenRefunded_PaysThePayerBack() public {
        uint256 before = usdc.balanceOf(payer);
        IJecpSplitterV2.Batch memory batch;
        batch.payments = new IJecpSplitterV2.Payment[](3);
        Terms memory tooMuch = terms(1);
        tooMuch.value = CAP + 1;
        Terms memory bound = terms(2);
        bound.nonce = splitter.boundNonce(keccak256("never registered"), 1);
        Terms memory indexed_ = terms(3);
        indexed_.index = 77;
        batch.payments[0] = sign(tooMuch);
        batch.payments[1] = sign(bound);
        batch.payments[2] = sign(indexed_);
        for (uint256 i = 0; i < 3; ++i) {
            pullAsStranger(batch.payments[i]);
        }
        for (uint256 i = 0; i < 3; ++i) {
            expectRefunded(batch.payments[i]);
        }
        refund(batch);
        assertEq(usdc.balanceOf(payer), before);
    }

    function test_WhenRefundIsNotDue_Skips() public {
        usdc.mint(address(splitter), 10 * PRICE);
        Terms memory nothing = terms(1);
        nothing.value = 0;
        settle(batchFrom(2, 1));
        IJecpSplitterV2.Batch memory batch = batchOf(4);
        batch.payments[0] = sign(nothing);
        batch.payments[1] = payment(2);
        batch.payments[2] = payment(3);
        Terms memory huge = terms(4);
        huge.value = 10 * PRICE + 1;
        batch.payments[3] = sign(huge);
        cancel(huge);
        expectSkipped(batch.payments[0], IJecpSplitterV2.AmountZero.selector);
        expectSkipped(batch.payments[1], IJecpSplitterV2.NumberBooked.selector);
        expectSkipped(batch.payments[2], IJecpSplitterV2.AuthorizationNotUsed.selector);
        expectSkipped(batch.payments[3], IJecpSplitterV2.InsufficientUnaccounted.selector);
        refund(batch);
        assertEq(usdc.balanceOf(address(splitter)), 10 * PRICE);
    }

    /// @dev The limit that the interface names: numbers are the ledger's. What was settled as 1 and
    /// is recorded as 2 takes money that belongs to nobody, and never what is owed.
    function test_GivenSettledPayment_WhenRecordedUnderAnotherNumber_TakesOnlyWhatBelongsToNobody()
        public
    {
        settle(batchFrom(1, 1));
        Terms memory renumbered = terms(1);
        renumbered.number = 2;
        IJecpSplitterV2.Payment memory p = sign(renumbered);
        expectSkipped(p, IJecpSplitterV2.InsufficientUnaccounted.selector);
        record(batchOf(p));
        usdc.mint(address(splitter), PRICE);
        expectRecorded(CAPABILITY, p);
        record(batchOf(p));
        usdc.mint(address(splitter), PRICE);
        expectSkipped(p, IJecpSplitterV2.NumberBooked.selector);
        record(batchOf(p));
    }

    /// @dev A refund is for one recipient; with a paused token or a blacklisted payer it waits in
    /// escrow, where no other claim can reach it.
    function test_WhenPayerCannotBePaid_EscrowsTheRefund() public {
        IJecpSplitterV2.Payment memory p = payment(1);
        pullAsStranger(p);
        usdc.blacklist(payer);
        vm.expectEmit(address(splitter));
        emit IJecpSplitterV2.Escrowed(payer, PRICE);
        refund(batchOf(p));
        assertEq(splitter.escrow(payer), PRICE);
        assertEq(splitter.totalOwed(), PRICE);
        usdc.unBlacklist(payer);
        uint256 before = usdc.balanceOf(payer);
        splitter.withdraw(payer);
        assertEq(usdc.balanceOf(payer), before + PRICE);
    }
}
