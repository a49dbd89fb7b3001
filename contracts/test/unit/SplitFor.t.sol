// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IJecpSplitter} from "../../src/interfaces/IJecpSplitter.sol";
import {SplitterBase} from "./SplitterBase.t.sol";

/// @dev R-169 to R-171, R-174, R-176, R-180; SplitFor.tree.
contract SplitForTest is SplitterBase {
    function setUp() public override {
        super.setUp();
        register(CAPABILITY, "n1");
    }

    function test_RevertGiven_CapabilityIsUnknown() public {
        vm.expectRevert(IJecpSplitter.CapabilityNotActive.selector);
        splitter.splitFor(keccak256("demo:unknown"), payer);
    }

    function test_RevertGiven_CapabilityIsInactive() public {
        vm.prank(provider.addr);
        splitter.deactivate(CAPABILITY);
        vm.expectRevert(IJecpSplitter.CapabilityNotActive.selector);
        splitter.splitFor(CAPABILITY, payer);
    }

    function test_RevertGiven_NothingIsAccounted() public {
        vm.expectRevert(IJecpSplitter.AmountZero.selector);
        splitter.splitFor(CAPABILITY, payer);
    }

    /// @dev I-2: what merely lies in the Splitter belongs to nobody.
    function test_RevertGiven_OnlyADonation() public {
        pull(5);
        vm.expectRevert(IJecpSplitter.AmountZero.selector);
        splitter.splitFor(CAPABILITY, payer);
        assertEq(usdc.balanceOf(address(splitter)), 5);
    }

    function test_RevertWhen_TreasuryCannotBePaid() public {
        recorded(200_000);
        usdc.blacklist(hubTreasury);
        vm.expectRevert("Blacklistable: account is blacklisted");
        splitter.splitFor(CAPABILITY, payer);
        assertUntouched(200_000);
    }

    function test_RevertWhen_ReserveCannotBePaid() public {
        recorded(200_000);
        usdc.blacklist(networkReserve);
        vm.expectRevert("Blacklistable: account is blacklisted");
        splitter.splitFor(CAPABILITY, payer);
        assertUntouched(200_000);
    }

    function test_RevertWhen_TokenIsPaused() public {
        recorded(200_000);
        usdc.pause();
        vm.expectRevert("Pausable: paused");
        splitter.splitFor(CAPABILITY, payer);
        assertUntouched(200_000);
    }

    /// @dev With nothing for hub and reserve, no transfer is left that a pause could make revert.
    function test_GivenTokenPausedAndAllSharesToTheProvider_Escrows() public {
        bytes32 id = keccak256("demo:whole");
        registerWith(id, [uint16(10_000), 0, 0], "n2");
        pull(7);
        record(id, 7);
        usdc.pause();
        splitter.splitFor(id, payer);
        assertEq(splitter.providerEscrow(provider.addr), 7);
        usdc.unpause();
        vm.prank(provider.addr);
        splitter.withdraw();
        assertEq(usdc.balanceOf(provider.addr), 7);
    }

    function test_GivenProviderCannotBePaid_EscrowsHisShareAndPaysTheOthers() public {
        recorded(200_000);
        usdc.blacklist(provider.addr);
        vm.expectEmit(address(splitter));
        emit IJecpSplitter.PaymentSplit(CAPABILITY, payer, 200_000, 170_000, 20_000, 10_000);
        vm.expectEmit(address(splitter));
        emit IJecpSplitter.ProviderEscrowed(provider.addr, 170_000, "push_failed");
        splitter.splitFor(CAPABILITY, payer);

        assertEq(splitter.providerEscrow(provider.addr), 170_000);
        assertEq(splitter.totalOwed(), 170_000);
        assertEq(usdc.balanceOf(address(splitter)), 170_000);
        assertEq(usdc.balanceOf(hubTreasury), 20_000);
        assertEq(usdc.balanceOf(networkReserve), 10_000);
    }

    function test_GivenRecorded_WhenAnyoneSplits_Pays85To10To5() public {
        recorded(200_000);
        vm.expectEmit(address(splitter));
        emit IJecpSplitter.PaymentSplit(CAPABILITY, payer, 200_000, 170_000, 20_000, 10_000);
        vm.prank(stranger);
        splitter.splitFor(CAPABILITY, payer);

        assertEq(usdc.balanceOf(provider.addr), 170_000);
        assertEq(usdc.balanceOf(hubTreasury), 20_000);
        assertEq(usdc.balanceOf(networkReserve), 10_000);
        assertEq(usdc.balanceOf(address(splitter)), 0);
        assertEq(splitter.accountedBalance(CAPABILITY), 0);
        assertEq(splitter.totalOwed(), 0);
    }

    /// @dev One split takes exactly what is accounted to its capability (I-5).
    function test_LeavesOtherCapabilitiesAlone() public {
        bytes32 other = keccak256("demo:other");
        register(other, "n2");
        recorded(200_000);
        pull(300_000);
        record(other, 300_000);
        splitter.splitFor(CAPABILITY, payer);
        assertEq(splitter.accountedBalance(other), 300_000);
        assertEq(splitter.totalOwed(), 300_000);
        assertEq(usdc.balanceOf(address(splitter)), 300_000);
    }

    function testFuzz_SplitConserves(uint256 amount, uint16 providerBps, uint16 hubBps) public {
        amount = bound(amount, 1, CAP);
        uint16[3] memory bps = boundBps(providerBps, hubBps);
        bytes32 id = keccak256("demo:fuzz");
        registerWith(id, bps, "fuzz");

        pull(amount);
        record(id, amount);
        splitter.splitFor(id, payer);

        assertEq(usdc.balanceOf(provider.addr), amount * bps[0] / 10_000);
        assertEq(usdc.balanceOf(hubTreasury), amount * bps[1] / 10_000);
        assertEq(
            usdc.balanceOf(provider.addr) + usdc.balanceOf(hubTreasury)
                + usdc.balanceOf(networkReserve),
            amount
        );
        assertEq(usdc.balanceOf(address(splitter)), 0);
    }

    /// @dev The reserve takes its own share and less than two units of rounding.
    function testFuzz_RoundingIsBelowTwoUnits(uint256 amount, uint16 providerBps, uint16 hubBps)
        public
    {
        amount = bound(amount, 1, CAP);
        uint16[3] memory bps = boundBps(providerBps, hubBps);
        bytes32 id = keccak256("demo:fuzz");
        registerWith(id, bps, "fuzz");
        pull(amount);
        record(id, amount);
        splitter.splitFor(id, payer);
        assertApproxEqAbs(usdc.balanceOf(networkReserve), amount * bps[2] / 10_000, 2);
        assertGe(usdc.balanceOf(networkReserve), amount * bps[2] / 10_000);
    }

    function test_GivenSharesOfZero_SkipsTheirTransfers() public {
        uint16[3][3] memory shares =
            [[uint16(10_000), 0, 0], [uint16(0), 10_000, 0], [uint16(0), 0, 10_000]];
        for (uint256 i = 0; i < shares.length; i++) {
            bytes32 id = keccak256(abi.encode(i));
            registerWith(id, shares[i], id);
            pull(7);
            record(id, 7);
            vm.recordLogs();
            splitter.splitFor(id, payer);
            assertEq(vm.getRecordedLogs().length, 2, "PaymentSplit and one Transfer");
        }
        assertEq(usdc.balanceOf(provider.addr), 7);
        assertEq(usdc.balanceOf(hubTreasury), 7);
        assertEq(usdc.balanceOf(networkReserve), 7);
    }

    function test_RevertWhen_PushIsCalledFromOutside() public {
        address[3] memory callers = [provider.addr, settler, stranger];
        pull(1);
        for (uint256 i = 0; i < callers.length; i++) {
            vm.prank(callers[i]);
            vm.expectRevert(IJecpSplitter.OnlySelf.selector);
            splitter._pushProvider(provider.addr, 1);
        }
    }

    // ------------------------------------------------------------ helpers

    function recorded(uint256 amount) internal {
        pull(amount);
        record(CAPABILITY, amount);
    }

    function assertUntouched(uint256 amount) internal view {
        assertEq(splitter.accountedBalance(CAPABILITY), amount);
        assertEq(splitter.totalOwed(), amount);
        assertEq(usdc.balanceOf(address(splitter)), amount);
        assertEq(usdc.balanceOf(provider.addr), 0);
        assertEq(splitter.providerEscrow(provider.addr), 0);
    }
}
