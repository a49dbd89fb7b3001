// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IJecpSplitterV2} from "../../src/interfaces/IJecpSplitterV2.sol";
import {V2Base} from "./V2Base.t.sol";

contract V2WithdrawTest is V2Base {
    function test_RevertWhen_NothingIsEscrowed() public {
        vm.expectRevert(IJecpSplitterV2.NoEscrowedFunds.selector);
        splitter.withdraw(stranger);
    }

    function test_GivenEscrow_WhenAnyoneWithdraws_PaysTheAccountOnce() public {
        usdc.blacklist(provider.addr);
        settle(batchFrom(1, 3));
        usdc.unBlacklist(provider.addr);
        vm.expectEmit(address(splitter));
        emit IJecpSplitterV2.Withdrawn(provider.addr, 510_000);
        vm.prank(stranger);
        splitter.withdraw(provider.addr);
        assertBalances(510_000, 60_000, 30_000, 0);
        assertEq(splitter.totalOwed(), 0);
        vm.expectRevert(IJecpSplitterV2.NoEscrowedFunds.selector);
        splitter.withdraw(provider.addr);
    }

    function test_RevertWhen_TheAccountStillCannotBePaid() public {
        usdc.blacklist(provider.addr);
        settle(batchFrom(1, 1));
        vm.expectRevert("Blacklistable: account is blacklisted");
        splitter.withdraw(provider.addr);
        assertEq(splitter.escrow(provider.addr), 170_000);
        assertEq(splitter.totalOwed(), 170_000);
    }
}
