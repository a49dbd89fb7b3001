// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Vm} from "forge-std/Vm.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IJecpSplitterV2} from "../../src/interfaces/IJecpSplitterV2.sol";
import {IUsdc} from "../../src/interfaces/IUsdc.sol";
import {JecpSplitterV2} from "../../src/JecpSplitterV2.sol";
import {ContractPayer} from "../doubles/ContractPayer.sol";
import {V2Base} from "./V2Base.t.sol";

/// @dev What an upgraded token may do to the Splitter before it works as before.
contract Hook {
    bytes[] internal calls;
    address internal target;
    bytes4 internal when;
    uint256 internal mode;
    uint256 public attempts;
    uint256 public refusals;

    /// @notice Calls `target` with each of `calls_` whenever a function `when_` is called.
    function reenter(address target_, bytes4 when_, bytes[] memory calls_) external {
        target = target_;
        when = when_;
        calls = calls_;
        mode = 1;
    }

    /// @notice Reverts with 100,000 bytes.
    function bomb(bytes4 when_) external {
        when = when_;
        mode = 2;
    }

    /// @notice Says yes and does nothing.
    function lie(bytes4 when_) external {
        when = when_;
        mode = 3;
    }

    /// @notice Costs a million gas.
    function reprice(bytes4 when_) external {
        when = when_;
        mode = 4;
    }

    fallback() external {
        if (msg.sig != when) return;
        if (mode == 4) {
            uint256 start = gasleft();
            while (start - gasleft() < 1_000_000) {}
            return;
        }
        if (mode == 2) {
            assembly {
                // Memory that nothing was written to.
                revert(0x1000, 100000)
            }
        }
        if (mode == 3) {
            assembly {
                mstore(0, 1)
                return(0, 32)
            }
        }
        for (uint256 i = 0; i < calls.length; ++i) {
            ++attempts;
            (bool success, bytes memory result) = target.call(calls[i]);
            if (
                !success
                    // forge-lint: disable-next-line(unsafe-typecast)
                    && bytes4(result)
                        == ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector
            ) ++refusals;
        }
    }
}

/// @dev The hazards of reference H1 to H24 that concern V2, and those that came with it: the attack
/// fails, or the documented limit is shown. H2, H3, H4, H17 and H21 are in Capabilities.t.sol, H10,
/// H13 and H19 of `record` in Record.t.sol, H11 in Settle.t.sol, H23 in Refund.t.sol. H9, H22 and
/// H24 are the hub's.
contract V2HazardsTest is V2Base {
    bytes4 internal constant PULL = IUsdc.transferWithAuthorization.selector;
    bytes4 internal constant PUSH = 0xa9059cbb;

    // ------------------------------------------------------------ exactly once

    /// @dev H1. Whatever is sent again, the money moves once.
    function test_GivenTheSameBatchTwice_WhenThenRecorded_BooksOnce() public {
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 3);
        settle(batch);
        for (uint256 i = 0; i < 3; ++i) {
            expectRefused(batch.payments[i], true, IJecpSplitterV2.NumberBooked.selector);
        }
        settle(batch);
        // Even with other money lying there.
        usdc.mint(address(splitter), 3 * PRICE);
        for (uint256 i = 0; i < 3; ++i) {
            expectSkipped(batch.payments[i], IJecpSplitterV2.NumberBooked.selector);
        }
        record(batch);
        for (uint256 i = 0; i < 3; ++i) {
            expectSkipped(batch.payments[i], IJecpSplitterV2.NumberBooked.selector);
        }
        refund(batch);
        assertBalances(510_000, 60_000, 30_000, 3 * PRICE);
    }

    function test_GivenCancelledNonce_WhenSettled_FailsAsUsed() public {
        Terms memory t = terms(1);
        IJecpSplitterV2.Payment memory p = sign(t);
        cancel(t);
        expectFailed(
            CAPABILITY, p, true, revertText("FiatTokenV2: authorization is used or canceled")
        );
        settle(batchOf(p));
    }

    /// @dev H20: a reorg that drops the pull takes the record with it; sent again, it is refused.
    function test_GivenPullWasReorgedAway_WhenRecorded_Skips() public {
        IJecpSplitterV2.Payment memory p = payment(1);
        usdc.mint(address(splitter), PRICE);
        uint256 before = vm.snapshotState();
        pullAsStranger(p);
        record(batchOf(p));
        vm.revertToState(before);
        expectSkipped(p, IJecpSplitterV2.AuthorizationNotUsed.selector);
        record(batchOf(p));
    }

    // ------------------------------------------------------------ capabilities in flight

    /// @dev H14, H16: nothing is pending that a re-registration could inherit.
    function test_GivenPaymentsWereSettled_WhenReregistered_NothingIsInherited() public {
        settle(batchFrom(1, 2));
        vm.prank(provider.addr);
        splitter.deactivate(CAPABILITY);
        makePayable(CAPABILITY, otherProvider, [uint16(9400), 500, 100]);
        IJecpSplitterV2.Batch memory batch = batchFrom(3, 1);
        named(batch, CAPABILITY);
        settle(batch);
        assertBalances(340_000, 40_000 + 10_000, 20_000 + 2000, 0);
        assertEq(usdc.balanceOf(otherProvider.addr), 188_000);
    }

    /// @dev H15: what was pulled for a capability that is gone goes back to its payer.
    function test_GivenDeactivationInFlight_SettleRefusesAndRefundReturns() public {
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 2);
        uint256 before = usdc.balanceOf(payer);
        pullAsStranger(batch.payments[1]);
        vm.prank(provider.addr);
        splitter.deactivate(CAPABILITY);
        expectRefused(batch.payments[0], false, IJecpSplitterV2.CapabilityNotActive.selector);
        expectRefused(batch.payments[1], true, IJecpSplitterV2.CapabilityNotActive.selector);
        settle(batch);
        expectSkipped(batch.payments[0], IJecpSplitterV2.CapabilityNotActive.selector);
        expectSkipped(batch.payments[1], IJecpSplitterV2.CapabilityNotActive.selector);
        record(batch);
        expectSkipped(batch.payments[0], IJecpSplitterV2.AuthorizationNotUsed.selector);
        expectRefunded(batch.payments[1]);
        refund(batch);
        assertEq(usdc.balanceOf(payer), before);
    }

    /// @dev H12: a stolen settler key cannot make a capability of its own payable.
    function test_GivenStolenSettlerKey_ItPaysOnlyApprovedCapabilities() public {
        Vm.Wallet memory thief = vm.createWallet("thief");
        register(OTHER, thief, [uint16(9400), 500, 100]);
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 2);
        batch.capabilityIds[0] = OTHER;
        batch.providers[0] = thief.addr;
        pullAsStranger(batch.payments[0]);
        settle(batch);
        record(batch);
        assertEq(usdc.balanceOf(thief.addr), 0);
        assertEq(usdc.balanceOf(address(splitter)), PRICE);
        vm.prank(settler);
        vm.expectRevert(IJecpSplitterV2.UnauthorizedRelayer.selector);
        splitter.approve(OTHER, thief.addr, 9400, 500, 100);
    }

    /// @dev A stolen relayer key makes the thief the payable provider of somebody's capability. The
    /// settler names whom it pays, so nothing reaches him; approved again, the payments go through.
    function test_GivenStolenRelayerKey_NothingIsRedirected() public {
        Vm.Wallet memory thief = vm.createWallet("thief");
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 2);
        pullAsStranger(batch.payments[1]);
        vm.prank(relayer);
        splitter.revoke(CAPABILITY);
        makePayable(CAPABILITY, thief, [uint16(9400), 500, 100]);
        expectRefused(batch.payments[0], false, IJecpSplitterV2.CapabilityNotActive.selector);
        expectRefused(batch.payments[1], true, IJecpSplitterV2.CapabilityNotActive.selector);
        settle(batch);
        expectSkipped(batch.payments[0], IJecpSplitterV2.CapabilityNotActive.selector);
        expectSkipped(batch.payments[1], IJecpSplitterV2.CapabilityNotActive.selector);
        record(batch);
        assertEq(usdc.balanceOf(thief.addr), 0);

        vm.prank(relayer);
        splitter.revoke(CAPABILITY);
        approve(CAPABILITY, provider.addr, [uint16(8500), 1000, 500]);
        settle(batch);
        record(batch);
        assertBalances(340_000, 40_000, 20_000, 0);
    }

    /// @dev The limit: an unbound payment goes where the settler says, among approved capabilities.
    /// A bound one does not.
    function test_GivenStolenSettlerKey_ItMisattributesUnboundPaymentsOnly() public {
        makePayable(OTHER, otherProvider, [uint16(8500), 1000, 500]);
        Terms memory bound = terms(2);
        bound.nonce = splitter.boundNonce(CAPABILITY, 1);
        IJecpSplitterV2.Batch memory batch = batchOf(payment(1), sign(bound));
        named(batch, OTHER);
        settle(batch);
        assertEq(usdc.balanceOf(otherProvider.addr), 170_000);
        named(batch, CAPABILITY);
        settle(batch);
        assertBalances(170_000, 40_000, 20_000, 0);
    }

    // ------------------------------------------------------------ hostile payers

    /// @dev H19: ninety-nine contract payers burn what a pull is given; the hundredth is paid, in
    /// one transaction that Base accepts.
    function test_Given99GasBurningPayers_WhenSettled_TheHundredthIsPaid() public {
        IJecpSplitterV2.Batch memory batch = batchOf(100);
        for (uint256 i = 0; i < 99; ++i) {
            (ContractPayer wallet, Terms memory t) = walletTerms(i);
            wallet.setMood(ContractPayer.Mood.BurningGas);
            batch.payments[i] = sign(t);
        }
        batch.payments[99] = payment(99);
        for (uint256 i = 0; i < 99; ++i) {
            expectFailed(
                CAPABILITY, batch.payments[i], false, revertText("FiatTokenV2: invalid signature")
            );
        }
        expectSettled(CAPABILITY, batch.payments[99]);
        vm.prank(settler);
        splitter.settle{gas: 1 << 24}(batch, PULL_GAS);
        assertBalances(170_000, 20_000, 10_000, 0);
    }

    function test_GivenOtherHostilePayers_WhenSettled_TheyFailAlone() public {
        IJecpSplitterV2.Batch memory batch = batchOf(4);
        ContractPayer.Mood[3] memory moods = [
            ContractPayer.Mood.Rejecting,
            ContractPayer.Mood.RevertingWithMuchData,
            ContractPayer.Mood.BurningGas
        ];
        for (uint256 i = 0; i < 3; ++i) {
            (ContractPayer wallet, Terms memory t) = walletTerms(i);
            wallet.setMood(moods[i]);
            batch.payments[i] = sign(t);
        }
        batch.payments[3] = payment(3);
        expectFailed(
            CAPABILITY, batch.payments[0], false, revertText("FiatTokenV2: invalid signature")
        );
        vm.prank(settler);
        splitter.settle{gas: 1_000_000}(batch, PULL_GAS);
        assertBalances(170_000, 20_000, 10_000, 0);
    }

    /// @dev Revert data is copied up to 132 bytes, whatever there is of it.
    function test_GivenRevertDataBomb_WhenSettled_Copies132Bytes() public {
        Hook hook = new Hook();
        upgradeToken(address(hook));
        hook.bomb(PULL);
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 20);
        for (uint256 i = 0; i < 20; ++i) {
            expectFailed(CAPABILITY, batch.payments[i], false, new bytes(132));
        }
        vm.prank(settler);
        splitter.settle{gas: 3_000_000}(batch, PULL_GAS);
    }

    function test_GivenRevertDataBombInAPush_WhenSettled_Escrows() public {
        Hook hook = new Hook();
        upgradeToken(address(hook));
        hook.bomb(PUSH);
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 1);
        vm.prank(settler);
        splitter.settle{gas: 1_000_000}(batch, 200_000);
        assertEq(splitter.totalOwed(), PRICE);
        assertEq(splitter.escrow(provider.addr), 170_000);
    }

    // ------------------------------------------------------------ gas

    /// @dev H6, C-23: at every gas limit the transaction either reverts as a whole or treats every
    /// payment right: the good ones are paid and nobody is escrowed, the bad one says why.
    function test_ScanOfGasLimits_SettleLosesNoPayment() public {
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 4);
        (ContractPayer wallet, Terms memory t) = walletTerms(2);
        wallet.setMood(ContractPayer.Mood.BurningGas);
        batch.payments[1] = sign(t);
        (uint256 reverted, uint256 settled) =
            scan(abi.encodeCall(IJecpSplitterV2.settle, (batch, 90_000)), 100_000, 700_000, 997, 3);
        assertGt(reverted, 100);
        assertGt(settled, 100);
    }

    function test_ScanOfGasLimits_RecordLosesNoPayment() public {
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 5);
        (ContractPayer hostile, Terms memory t) = walletTerms(2);
        batch.payments[1] = sign(t);
        // A contract payer that is starved would look like one that refuses.
        (, t) = walletTerms(3);
        batch.payments[2] = sign(t);
        for (uint256 i = 0; i < 5; ++i) {
            pullAsStranger(batch.payments[i]);
        }
        hostile.setMood(ContractPayer.Mood.BurningGas);
        (uint256 reverted, uint256 settled) =
            scan(abi.encodeCall(IJecpSplitterV2.record, (batch, 50_000)), 50_000, 500_000, 997, 4);
        assertGt(reverted, 100);
        assertGt(settled, 100);
    }

    /// @dev Where the 63/64 rule bites: a pull so dear that what it leaves behind, starved, would
    /// be enough to go on and report a failure that is none. Alone in its batch, with not one unit
    /// of
    /// gas more than it needs, it has the least to go on with.
    function test_ScanOfGasLimits_DearPullsLoseNoPayment() public {
        (ContractPayer wallet, Terms memory t) = walletTerms(3);
        wallet.setMood(ContractPayer.Mood.Slow);
        IJecpSplitterV2.Batch memory alone = batchOf(sign(t));
        uint256 pullGas = leastPullGas(alone);
        (uint256 reverted, uint256 settled) = scan(
            abi.encodeCall(IJecpSplitterV2.settle, (alone, pullGas)), 1_000_000, 1_300_000, 2003, 1
        );
        assertGt(reverted, 20);
        assertGt(settled, 20);

        IJecpSplitterV2.Batch memory batch = batchOf(payment(1), sign(t));
        pullAsStranger(batch.payments[0]);
        pullAsStranger(batch.payments[1]);
        (reverted, settled) = scan(
            abi.encodeCall(IJecpSplitterV2.record, (batch, 1_030_000)), 900_000, 1_700_000, 4999, 2
        );
        assertGt(reverted, 20);
        assertGt(settled, 20);
    }

    /// @dev The smallest `pullGas` with which the batch's only payment settles.
    function leastPullGas(IJecpSplitterV2.Batch memory batch) internal returns (uint256 least) {
        uint256 tooLittle = 900_000;
        least = 1_400_000;
        while (least - tooLittle > 1) {
            uint256 middle = (tooLittle + least) / 2;
            uint256 state = vm.snapshotState();
            vm.prank(settler);
            splitter.settle(batch, middle);
            bool settled = splitter.isBooked(uint64(batch.payments[0].terms >> 192));
            vm.revertToState(state);
            if (settled) least = middle;
            else tooLittle = middle;
        }
    }

    function test_ScanOfGasLimits_RefundLosesNoPayment() public {
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 3);
        for (uint256 i = 0; i < 3; ++i) {
            pullAsStranger(batch.payments[i]);
        }
        bytes memory call = abi.encodeCall(IJecpSplitterV2.refund, (batch, 50_000));
        uint256 reverted;
        uint256 refunded;
        for (uint256 limit = 20_000; limit < 400_000; limit += 997) {
            uint256 state = vm.snapshotState();
            vm.prank(settler);
            (bool success,) = address(splitter).call{gas: limit}(call);
            assertEq(usdc.balanceOf(address(splitter)), success ? 0 : 3 * PRICE);
            assertEq(splitter.totalOwed(), 0);
            success ? ++refunded : ++reverted;
            vm.revertToState(state);
        }
        assertGt(reverted, 50);
        assertGt(refunded, 50);
    }

    /// @dev Fuzzed where the scan has steps.
    function testFuzz_GasLimit_SettleLosesNoPayment(uint256 limit, uint256 pullGas) public {
        limit = bound(limit, 30_000, 700_000);
        pullGas = bound(pullGas, 75_000, 400_000);
        scan(abi.encodeCall(IJecpSplitterV2.settle, (batchFrom(1, 3), pullGas)), limit, limit, 1, 3);
    }

    function scan(bytes memory call, uint256 from, uint256 to, uint256 step, uint256 good)
        internal
        returns (uint256 reverted, uint256 paid)
    {
        uint256 provider_ = usdc.balanceOf(provider.addr);
        for (uint256 limit = from; limit <= to; limit += step) {
            uint256 state = vm.snapshotState();
            vm.prank(settler);
            (bool success,) = address(splitter).call{gas: limit}(call);
            assertEq(
                usdc.balanceOf(provider.addr), provider_ + (success ? good * 170_000 : 0), "paid"
            );
            assertEq(splitter.totalOwed(), 0, "escrow in a healthy batch");
            success ? ++paid : ++reverted;
            vm.revertToState(state);
        }
    }

    // ------------------------------------------------------------ an upgraded token

    /// @dev One lock over everything that changes state, in every call that leaves the contract.
    function test_GivenReentrantToken_EveryFunctionIsLocked() public {
        usdc.blacklist(otherProvider.addr);
        makePayable(OTHER, otherProvider, [uint16(8500), 1000, 500]);
        Hook hook = new Hook();
        upgradeToken(address(hook));
        bytes[] memory calls = everyStateChange();

        hook.reenter(address(splitter), PULL, calls);
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 1);
        vm.prank(settler);
        splitter.settle(batch, 10_000_000);
        assertEq(hook.attempts(), calls.length);
        assertEq(hook.refusals(), calls.length);

        hook.reenter(address(splitter), PUSH, calls);
        batch = batchFrom(2, 1);
        vm.prank(settler);
        splitter.settle(batch, 10_000_000);
        assertEq(hook.refusals(), 4 * calls.length);
        batch = batchFrom(3, 1);
        pullAsStranger(batch.payments[0]);
        record(batch);
        assertEq(hook.refusals(), 7 * calls.length);
        batch = batchFrom(4, 1);
        pullAsStranger(batch.payments[0]);
        refund(batch);
        assertEq(hook.refusals(), 8 * calls.length);
        batch = batchFrom(5, 1);
        named(batch, OTHER);
        settle(batch);
        assertEq(splitter.escrow(otherProvider.addr), 170_000);
        usdc.unBlacklist(otherProvider.addr);
        splitter.withdraw(otherProvider.addr);
        assertEq(hook.attempts(), hook.refusals());
        // What the hook did in the push that failed was undone with it.
        assertEq(hook.refusals(), 11 * calls.length);
        assertBalances(3 * 170_000, 4 * 20_000, 4 * 10_000, 0);
    }

    /// @dev A payer's hook pulls the next payment of the batch himself: `used`, and recorded later.
    function test_GivenNestedPull_WhenSettled_BooksItOnceByRecord() public {
        Hook hook = new Hook();
        upgradeToken(address(hook));
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 2);
        Terms memory t = terms(2);
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(PAYER_KEY, authorizationDigest(t, address(splitter)));
        bytes[] memory calls = new bytes[](1);
        // The other overload, so that the hook does not call itself for ever.
        calls[0] = abi.encodeWithSelector(
            bytes4(0xcf092995),
            payer,
            address(splitter),
            t.value,
            t.validAfter,
            t.validBefore,
            t.nonce,
            abi.encodePacked(r, s, v)
        );
        hook.reenter(address(usdc), PULL, calls);
        vm.prank(settler);
        splitter.settle(batch, 1_000_000);
        assertBalances(170_000, 20_000, 10_000, PRICE);
        record(batch);
        assertBalances(340_000, 40_000, 20_000, 0);
    }

    /// @dev The balance has the last word on what was pulled.
    function test_RevertWhen_TokenSaysPulledButMovesNothing() public {
        Hook hook = new Hook();
        upgradeToken(address(hook));
        hook.lie(PULL);
        usdc.mint(address(splitter), 5);
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 2);
        vm.prank(settler);
        vm.expectRevert(
            abi.encodeWithSelector(IJecpSplitterV2.PullShort.selector, 5 + 2 * PRICE, 5)
        );
        splitter.settle(batch, PULL_GAS);
    }

    /// @dev A repricing is answered with another `pullGas`, not with another contract.
    function test_GivenRepricedToken_WhenGivenMoreGas_Settles() public {
        Hook hook = new Hook();
        upgradeToken(address(hook));
        bytes[] memory calls = new bytes[](40);
        for (uint256 i = 0; i < 40; ++i) {
            calls[i] = abi.encodeWithSignature("DOMAIN_SEPARATOR()");
        }
        hook.reenter(address(usdc), PULL, calls);
        IJecpSplitterV2.Batch memory batch = batchFrom(1, 1);
        expectFailed(CAPABILITY, batch.payments[0], false, "");
        settle(batch);
        vm.prank(settler);
        splitter.settle(batch, 1_000_000);
        assertBalances(170_000, 20_000, 10_000, 0);
    }

    /// @dev The limit that the interface names: were a push to cost more than 400,000 gas, a
    /// settler could starve it and have a healthy recipient escrowed: the last one, whose escrow is
    /// in use
    /// and cheap to add to. The money is there, and `withdraw` pays it.
    function test_GivenPushesOfAMillionGas_WhenStarved_EscrowsAndLosesNothing() public {
        usdc.blacklist(networkReserve);
        settle(batchFrom(1, 1));
        usdc.unBlacklist(networkReserve);
        Hook hook = new Hook();
        upgradeToken(address(hook));
        hook.reprice(PUSH);
        bytes memory call = abi.encodeCall(IJecpSplitterV2.settle, (batchFrom(2, 1), 200_000));
        uint256 escrowed;
        for (uint256 limit = 2_000_000; limit < 3_400_000; limit += 24_989) {
            uint256 state = vm.snapshotState();
            vm.prank(settler);
            (bool success,) = address(splitter).call{gas: limit}(call);
            if (success && splitter.escrow(networkReserve) > 10_000) ++escrowed;
            if (success) {
                splitter.withdraw(networkReserve);
                assertBalances(340_000, 40_000, 20_000, 0);
            }
            vm.revertToState(state);
        }
        assertGt(escrowed, 0);
    }

    /// @dev H7: treasury and reserve blacklisted for ever stop nobody else's share.
    function test_GivenTreasuryAndReserveAreBlacklisted_ProvidersArePaid() public {
        usdc.blacklist(hubTreasury);
        usdc.blacklist(networkReserve);
        settle(batchFrom(1, 10));
        assertBalances(1_700_000, 0, 0, 300_000);
        assertEq(splitter.totalOwed(), 300_000);
    }

    /// @dev H18: the cap is per payment; what bounds a batch is that every payer signed.
    function test_GivenPaymentsAtTheCap_WhenSettledTogether_EachIsWithinIt() public {
        IJecpSplitterV2.Batch memory batch = batchOf(3);
        for (uint256 i = 0; i < 3; ++i) {
            Terms memory t = terms(i);
            t.value = CAP;
            batch.payments[i] = sign(t);
        }
        settle(batch);
        assertEq(usdc.balanceOf(provider.addr), 3 * CAP * 85 / 100);
    }

    function everyStateChange() internal view returns (bytes[] memory calls) {
        IJecpSplitterV2.Batch memory batch = batchOf(0);
        calls = new bytes[](10);
        calls[0] = abi.encodeCall(IJecpSplitterV2.settle, (batch, 0));
        calls[1] = abi.encodeCall(IJecpSplitterV2.record, (batch, 0));
        calls[2] = abi.encodeCall(IJecpSplitterV2.refund, (batch, 0));
        calls[3] = abi.encodeCall(IJecpSplitterV2.withdraw, (provider.addr));
        calls[4] = abi.encodeCall(
            IJecpSplitterV2.register,
            (OTHER, provider.addr, 8500, 1000, 500, "n", block.timestamp, new bytes(65))
        );
        calls[5] = abi.encodeCall(IJecpSplitterV2.approve, (OTHER, provider.addr, 8500, 1000, 500));
        calls[6] = abi.encodeCall(IJecpSplitterV2.revoke, (CAPABILITY));
        calls[7] = abi.encodeCall(IJecpSplitterV2.deactivate, (CAPABILITY));
        calls[8] = abi.encodeCall(IJecpSplitterV2.invalidateNonce, ("n"));
        calls[9] = abi.encodeCall(IJecpSplitterV2.setRelayer, (stranger));
    }
}
