// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IJecpSplitter} from "../../src/interfaces/IJecpSplitter.sol";
import {IJecpSplitterV2} from "../../src/interfaces/IJecpSplitterV2.sol";
import {ContractPayer} from "../doubles/ContractPayer.sol";
import {V2Base} from "./V2Base.t.sol";

/// @title V2StrictnessTest
/// @notice Single conditions of JecpSplitterV2 that only this suite would miss if they went.
contract V2StrictnessTest is V2Base {
    bool internal wasBooked;

    /// @dev A pull so dear leaves enough in its 1/64 to report a failure that is none. It gets its
    /// whole limit, to the last unit, or the transaction reverts.
    function test_ScanOfGasLimits_AtTheLastUnit() public {
        (ContractPayer wallet, Terms memory t) = walletTerms(3);
        wallet.setMood(ContractPayer.Mood.Slow);
        assertNeverLost(batchOf(sign(t)));
    }

    /// @dev A wrapped signature takes another way to the token; its gas is guarded as well.
    function test_ScanOfGasLimits_AtTheLastUnit_LongSignature() public {
        (ContractPayer wallet, Terms memory t) = walletTerms(3);
        wallet.setMood(ContractPayer.Mood.Slow);
        assertNeverLost(wrapped(t));
    }

    function assertNeverLost(IJecpSplitterV2.Batch memory batch) internal {
        // The least limit with which the pull succeeds.
        uint256 tooLittle = 900_000;
        uint256 pullGas = 1_400_000;
        while (pullGas - tooLittle > 1) {
            uint256 middle = (tooLittle + pullGas) / 2;
            (, uint256 paid,) = settleWith(batch, middle, 5_000_000);
            if (paid != 0) pullGas = middle;
            else tooLittle = middle;
        }
        for (uint256 limit = 500_000; limit < 1_500_000; limit += 9973) {
            assertPaidIfPassed(batch, pullGas, limit);
        }
        // Where the guard lets it through for the first time.
        uint256 refused = 100_000;
        uint256 passed = 5_000_000;
        while (passed - refused > 1) {
            uint256 middle = (refused + passed) / 2;
            (,, bytes memory reason) = settleWith(batch, pullGas, middle);
            bytes memory refusal = abi.encodePacked(IJecpSplitterV2.InsufficientGas.selector);
            if (keccak256(reason) == keccak256(refusal) || middle < pullGas) {
                refused = middle;
            } else {
                passed = middle;
            }
        }
        for (uint256 limit = passed; limit < passed + 1000; limit += 7) {
            assertPaidIfPassed(batch, pullGas, limit);
        }
    }

    function assertPaidIfPassed(IJecpSplitterV2.Batch memory batch, uint256 pullGas, uint256 limit)
        internal
    {
        (bool success, uint256 paid,) = settleWith(batch, pullGas, limit);
        assertEq(paid, success ? 170_000 : 0, "a payment was lost");
    }

    /// @dev What the provider gets of a batch in a transaction with so much gas; then it is undone.
    function settleWith(IJecpSplitterV2.Batch memory batch, uint256 pullGas, uint256 limit)
        internal
        returns (bool success, uint256 paid, bytes memory reason)
    {
        uint256 state = vm.snapshotState();
        vm.prank(settler);
        (success, reason) = address(splitter).call{gas: limit}(
            abi.encodeCall(IJecpSplitterV2.settle, (batch, pullGas))
        );
        paid = usdc.balanceOf(provider.addr);
        vm.revertToState(state);
    }

    function test_GivenAPayerWhoRevertsWithYes_WhenRecorded_Skips() public {
        assertSkipped(ContractPayer.Mood.RevertingWithYes);
    }

    function test_GivenAPayerWhoAnswersInFourBytes_WhenRecorded_Skips() public {
        assertSkipped(ContractPayer.Mood.AnsweringInFourBytes);
    }

    /// @dev Insufficient money is the last reason: any other says more.
    function test_GivenABadSignatureAndNoMoney_WhenRecorded_SaysTheSignature() public {
        (ContractPayer wallet, Terms memory t) = walletTerms(3);
        IJecpSplitterV2.Payment memory p = sign(t);
        pullAsStranger(p);
        wallet.setMood(ContractPayer.Mood.Rejecting);
        // The money is gone again: the token's owner can do that.
        vm.prank(address(splitter));
        assertTrue(usdc.transfer(stranger, PRICE));
        expectSkipped(p, IJecpSplitterV2.InvalidSignature.selector);
        record(batchOf(p));
    }

    /// @dev State before transfers: when the first push is under way, the number is booked.
    function test_WhenPushed_TheNumberIsBookedAlready() public {
        upgradeToken(address(this));
        IJecpSplitterV2.Payment memory p = payment(1);
        settle(batchOf(p));
        assertTrue(wasBooked);
    }

    /// @dev The upgraded token calls this first of every transfer.
    fallback() external {
        if (msg.sig == 0xa9059cbb) wasBooked = splitter.isBooked(1);
    }

    function test_NobodyIsEverAllowedToSpend() public {
        settle(batchOf(payment(1)));
        IJecpSplitterV2.Payment memory p = payment(2);
        pullAsStranger(p);
        record(batchOf(p));
        address[6] memory all =
            [relayer, relayerAdmin, settler, hubTreasury, networkReserve, provider.addr];
        for (uint256 i = 0; i < all.length; ++i) {
            assertEq(usdc.allowance(address(splitter), all[i]), 0);
        }
    }

    /// @dev What is not there answers nobody, whatever his role: no data comes back.
    function test_NothingElseAnswers() public {
        string[14] memory absent = [
            "pause()",
            "unpause()",
            "sweep(address)",
            "rescue(address,uint256)",
            "upgradeTo(address)",
            "upgradeToAndCall(address,bytes)",
            "owner()",
            "transferOwnership(address)",
            "setAuthorizedSettler(address)",
            "setPerTxCap(uint256)",
            "approve(address,uint256)",
            "recordSettlement(bytes32,uint256)",
            "splitFor(bytes32,address)",
            "withdraw()"
        ];
        address[4] memory roles = [settler, relayer, relayerAdmin, stranger];
        usdc.mint(address(splitter), PRICE);
        for (uint256 i = 0; i < absent.length; ++i) {
            bytes memory call = bytes.concat(bytes4(keccak256(bytes(absent[i]))), new bytes(160));
            for (uint256 j = 0; j < roles.length; ++j) {
                vm.prank(roles[j]);
                (bool success, bytes memory answer) = address(splitter).call(call);
                assertFalse(success, absent[i]);
                assertEq(answer.length, 0, absent[i]);
            }
        }
        assertEq(IJecpSplitter.withdraw.selector, bytes4(keccak256("withdraw()")));
    }

    function assertSkipped(ContractPayer.Mood mood) internal {
        (ContractPayer wallet, Terms memory t) = walletTerms(3);
        IJecpSplitterV2.Payment memory p = sign(t);
        pullAsStranger(p);
        wallet.setMood(mood);
        expectSkipped(p, IJecpSplitterV2.InvalidSignature.selector);
        record(batchOf(p));
        assertBalances(0, 0, 0, PRICE);
    }
}
