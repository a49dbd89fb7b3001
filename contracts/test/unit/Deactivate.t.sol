// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IJecpSplitter} from "../../src/interfaces/IJecpSplitter.sol";
import {SplitterBase} from "./SplitterBase.t.sol";

/// @dev R-166 and C-10; Deactivate.tree.
contract DeactivateTest is SplitterBase {
    function setUp() public override {
        super.setUp();
        register(CAPABILITY, "n1");
    }

    function test_RevertGiven_CapabilityIsUnknown() public {
        vm.prank(provider.addr);
        vm.expectRevert(IJecpSplitter.CapabilityNotActive.selector);
        splitter.deactivate(keccak256("demo:unknown"));
    }

    function test_RevertGiven_CapabilityIsInactive() public {
        deactivate();
        vm.prank(provider.addr);
        vm.expectRevert(IJecpSplitter.CapabilityNotActive.selector);
        splitter.deactivate(CAPABILITY);
    }

    function test_RevertWhen_CallerIsNotTheProvider() public {
        address[7] memory others =
            [hubTreasury, networkReserve, relayer, relayerAdmin, settler, payer, stranger];
        for (uint256 i = 0; i < others.length; i++) {
            vm.prank(others[i]);
            vm.expectRevert(IJecpSplitter.NotProvider.selector);
            splitter.deactivate(CAPABILITY);
        }
    }

    function test_RevertWhen_CallerWasTheProvider() public {
        address former = provider.addr;
        deactivate();
        provider = vm.createWallet("another provider");
        register(CAPABILITY, "n2");
        vm.prank(former);
        vm.expectRevert(IJecpSplitter.NotProvider.selector);
        splitter.deactivate(CAPABILITY);
    }

    function test_GivenNothingAccounted_WhenDeactivated_MovesNoMoney() public {
        pull(5);
        vm.expectEmit(address(splitter));
        emit IJecpSplitter.CapabilityDeactivated(CAPABILITY, provider.addr);
        vm.recordLogs();
        deactivate();
        assertEq(vm.getRecordedLogs().length, 1);
        assertFalse(isActive());
        assertEq(usdc.balanceOf(address(splitter)), 5);
    }

    function test_GivenPendingBalance_WhenDeactivated_SplitsFirst() public {
        pull(200_000);
        record(CAPABILITY, 200_000);

        vm.expectEmit(address(splitter));
        emit IJecpSplitter.CapabilityDeactivated(CAPABILITY, provider.addr);
        vm.expectEmit(address(splitter));
        emit IJecpSplitter.PaymentSplit(CAPABILITY, address(0), 200_000, 170_000, 20_000, 10_000);
        deactivate();

        assertEq(usdc.balanceOf(provider.addr), 170_000);
        assertEq(usdc.balanceOf(hubTreasury), 20_000);
        assertEq(usdc.balanceOf(networkReserve), 10_000);
        assertEq(splitter.accountedBalance(CAPABILITY), 0);
        assertEq(splitter.totalOwed(), 0);
        assertFalse(isActive());
    }

    function test_GivenProviderCannotBePaid_WhenDeactivated_EscrowsHisShare() public {
        pull(200_000);
        record(CAPABILITY, 200_000);
        usdc.blacklist(provider.addr);
        deactivate();
        assertEq(splitter.providerEscrow(provider.addr), 170_000);
        assertEq(splitter.totalOwed(), 170_000);
        assertFalse(isActive());
    }

    function test_RevertGiven_TreasuryCannotBePaid() public {
        pull(200_000);
        record(CAPABILITY, 200_000);
        usdc.blacklist(hubTreasury);
        vm.prank(provider.addr);
        vm.expectRevert("Blacklistable: account is blacklisted");
        splitter.deactivate(CAPABILITY);
        assertTrue(isActive());
        assertEq(splitter.accountedBalance(CAPABILITY), 200_000);
    }

    /// @dev An inactive capability holds nothing, whatever was recorded before.
    function testFuzz_InactiveImpliesNothingAccounted(uint256[8] memory amounts) public {
        uint256 total;
        for (uint256 i = 0; i < amounts.length; i++) {
            uint256 amount = bound(amounts[i], 1, CAP);
            pull(amount);
            record(CAPABILITY, amount);
            total += amount;
        }
        deactivate();
        assertEq(splitter.accountedBalance(CAPABILITY), 0);
        assertEq(usdc.balanceOf(provider.addr), total * 8500 / 10_000);
        assertEq(usdc.balanceOf(address(splitter)), 0);
    }

    function deactivate() internal {
        vm.prank(provider.addr);
        splitter.deactivate(CAPABILITY);
    }

    function isActive() internal view returns (bool active) {
        (,,,, active) = splitter.capabilities(CAPABILITY);
    }
}
