// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IJecpSplitter} from "../../src/interfaces/IJecpSplitter.sol";
import {SplitterBase} from "./SplitterBase.t.sol";

/// @dev R-172; Withdraw.tree.
contract WithdrawTest is SplitterBase {
    function setUp() public override {
        super.setUp();
        register(CAPABILITY, "n1");
    }

    function test_RevertGiven_NothingIsEscrowed() public {
        vm.prank(provider.addr);
        vm.expectRevert(IJecpSplitter.NoEscrowedFunds.selector);
        splitter.withdraw();
    }

    function test_RevertWhen_SomeoneElseWithdraws() public {
        escrow(200_000);
        vm.prank(stranger);
        vm.expectRevert(IJecpSplitter.NoEscrowedFunds.selector);
        splitter.withdraw();
    }

    function test_RevertGiven_CallerStillCannotBePaid() public {
        escrow(200_000);
        vm.prank(provider.addr);
        vm.expectRevert("Blacklistable: account is blacklisted");
        splitter.withdraw();
        assertEq(splitter.providerEscrow(provider.addr), 170_000);
        assertEq(splitter.totalOwed(), 170_000);
    }

    function test_GivenEscrow_PaysAllOfItOnce() public {
        escrow(200_000);
        escrow(200_000);
        usdc.unBlacklist(provider.addr);
        vm.expectEmit(address(splitter));
        emit IJecpSplitter.ProviderWithdrew(provider.addr, 340_000);
        vm.prank(provider.addr);
        splitter.withdraw();
        assertEq(usdc.balanceOf(provider.addr), 340_000);
        assertEq(splitter.totalOwed(), 0);

        vm.prank(provider.addr);
        vm.expectRevert(IJecpSplitter.NoEscrowedFunds.selector);
        splitter.withdraw();
    }

    /// @dev Escrow belongs to the account, not to the capability: it outlives the capability.
    function test_GivenDeactivatedCapability_StillPays() public {
        escrow(200_000);
        vm.prank(provider.addr);
        splitter.deactivate(CAPABILITY);
        usdc.unBlacklist(provider.addr);
        vm.prank(provider.addr);
        splitter.withdraw();
        assertEq(usdc.balanceOf(provider.addr), 170_000);
    }

    function testFuzz_EscrowedIsWithdrawn(uint256 amount, uint16 providerBps) public {
        amount = bound(amount, 10_000, CAP);
        uint16[3] memory bps = boundBps(bound(providerBps, 1, 10_000), 0);
        bytes32 id = keccak256("demo:fuzz");
        registerWith(id, bps, "fuzz");
        pull(amount);
        record(id, amount);
        usdc.blacklist(provider.addr);
        splitter.splitFor(id, payer);
        usdc.unBlacklist(provider.addr);
        vm.prank(provider.addr);
        splitter.withdraw();
        assertEq(usdc.balanceOf(provider.addr), amount * bps[0] / 10_000);
        assertEq(usdc.balanceOf(address(splitter)), 0);
    }

    function escrow(uint256 amount) internal {
        pull(amount);
        record(CAPABILITY, amount);
        usdc.blacklist(provider.addr);
        splitter.splitFor(CAPABILITY, payer);
    }
}
