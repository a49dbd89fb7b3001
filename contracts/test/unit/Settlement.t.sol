// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IJecpSplitter} from "../../src/interfaces/IJecpSplitter.sol";
import {SplitterBase} from "./SplitterBase.t.sol";

contract SettlementTest is SplitterBase {
    bytes32 internal constant NONCE = keccak256("authorization nonce");

    function setUp() public override {
        super.setUp();
        register(CAPABILITY, "n1");
    }

    // ------------------------------------------------------------ recordSettlement

    function test_GivenPulledMoney_WhenSettlerRecords_AccountsIt() public {
        pull(200_000);
        vm.expectEmit(address(splitter));
        emit IJecpSplitter.SettlementRecorded(CAPABILITY, 200_000, address(0));
        record(CAPABILITY, 200_000);
        assertEq(splitter.accountedBalance(CAPABILITY), 200_000);
        assertEq(splitter.totalOwed(), 200_000);
    }

    function test_GivenIdentityAppended_WhenRecorded_EventNamesThePayer() public {
        pull(200_000);
        expectPayerOf(abi.encodePacked(payer, NONCE), payer);
    }

    /// @dev Anything that is not exactly payer and nonce is not an identity.
    function test_GivenMalformedTail_WhenRecorded_EventNamesNobody() public {
        pull(1_000_000);
        bytes memory identity = abi.encodePacked(payer, NONCE);
        expectPayerOf("", address(0));
        expectPayerOf(abi.encodePacked(payer), address(0));
        expectPayerOf(bytes.concat(bytes20(payer), hex"ff"), address(0));
        expectPayerOf(bytes.concat(identity, hex"00"), address(0));
        expectPayerOf(hex"ff", address(0));
    }

    function test_RevertWhen_CallerIsNotTheSettler() public {
        pull(1);
        address[7] memory others =
            [hubTreasury, networkReserve, relayer, relayerAdmin, provider.addr, payer, stranger];
        for (uint256 i = 0; i < others.length; i++) {
            vm.prank(others[i]);
            vm.expectRevert(IJecpSplitter.UnauthorizedSettler.selector);
            splitter.recordSettlement(CAPABILITY, 1);
        }
    }

    function test_RevertWhen_AmountIsZero() public {
        vm.expectRevert(IJecpSplitter.AmountZero.selector);
        record(CAPABILITY, 0);
    }

    function test_RevertWhen_AmountIsAboveTheCap() public {
        pull(CAP + 1);
        vm.expectRevert(IJecpSplitter.AmountExceedsCap.selector);
        record(CAPABILITY, CAP + 1);
        record(CAPABILITY, CAP);
    }

    function test_RevertWhen_CapabilityIsNotActive() public {
        pull(1);
        vm.expectRevert(IJecpSplitter.CapabilityNotActive.selector);
        record(keccak256("demo:unknown"), 1);
    }

    /// @dev C-08, H1: one pull recorded twice would be paid from other capabilities' money.
    function test_RevertWhen_OnePullIsRecordedTwice() public {
        pull(200_000);
        record(CAPABILITY, 200_000);
        vm.expectRevert(
            abi.encodeWithSelector(IJecpSplitter.InsufficientUnaccounted.selector, 0, 200_000)
        );
        record(CAPABILITY, 200_000);
    }

    function test_RevertWhen_EscrowedMoneyWouldBeRecordedAgain() public {
        pull(200_000);
        record(CAPABILITY, 200_000);
        usdc.blacklist(provider.addr);
        splitter.splitFor(CAPABILITY, payer);
        vm.expectRevert(
            abi.encodeWithSelector(IJecpSplitter.InsufficientUnaccounted.selector, 0, 1)
        );
        record(CAPABILITY, 1);
    }

    // ------------------------------------------------------------ splitFor

    function test_GivenRecorded_WhenAnyoneSplits_Pays85To10To5() public {
        pull(200_000);
        record(CAPABILITY, 200_000);
        vm.expectEmit(address(splitter));
        emit IJecpSplitter.PaymentSplit(CAPABILITY, payer, 200_000, 170_000, 20_000, 10_000);
        vm.prank(stranger);
        splitter.splitFor(CAPABILITY, payer);

        assertEq(usdc.balanceOf(provider.addr), 170_000);
        assertEq(usdc.balanceOf(hubTreasury), 20_000);
        assertEq(usdc.balanceOf(networkReserve), 10_000);
        assertEq(usdc.balanceOf(address(splitter)), 0);
        assertEq(splitter.totalOwed(), 0);
    }

    function testFuzz_SplitConserves(uint256 amount, uint16 providerBps, uint16 hubBps) public {
        amount = bound(amount, 1, CAP);
        providerBps = uint16(bound(providerBps, 0, 10_000));
        hubBps = uint16(bound(hubBps, 0, 10_000 - providerBps));
        bytes32 id = keccak256("demo:fuzz");
        registerWith(id, [providerBps, hubBps, 10_000 - providerBps - hubBps], "fuzz");

        pull(amount);
        record(id, amount);
        splitter.splitFor(id, payer);

        assertEq(usdc.balanceOf(provider.addr), amount * providerBps / 10_000);
        assertEq(usdc.balanceOf(hubTreasury), amount * hubBps / 10_000);
        assertEq(
            usdc.balanceOf(provider.addr) + usdc.balanceOf(hubTreasury)
                + usdc.balanceOf(networkReserve),
            amount
        );
        assertEq(usdc.balanceOf(address(splitter)), 0);
    }

    /// @dev Dust: one unit goes to the reserve whole, and nobody is sent a transfer of zero.
    function test_GivenOneUnit_WhenSplit_ReserveTakesTheRounding() public {
        pull(1);
        record(CAPABILITY, 1);
        vm.recordLogs();
        splitter.splitFor(CAPABILITY, payer);
        assertEq(vm.getRecordedLogs().length, 2, "PaymentSplit and one Transfer");
        assertEq(usdc.balanceOf(networkReserve), 1);
    }

    function test_RevertWhen_NothingIsAccounted() public {
        vm.expectRevert(IJecpSplitter.AmountZero.selector);
        splitter.splitFor(CAPABILITY, payer);
    }

    function test_RevertWhen_SplittingAnInactiveCapability() public {
        vm.expectRevert(IJecpSplitter.CapabilityNotActive.selector);
        splitter.splitFor(keccak256("demo:unknown"), payer);
    }

    function test_RevertWhen_TreasuryIsBlacklisted() public {
        pull(200_000);
        record(CAPABILITY, 200_000);
        usdc.blacklist(hubTreasury);
        vm.expectRevert("Blacklistable: account is blacklisted");
        splitter.splitFor(CAPABILITY, payer);
    }

    function test_GivenProviderBlacklisted_WhenSplit_EscrowsAndLaterPays() public {
        pull(200_000);
        record(CAPABILITY, 200_000);
        usdc.blacklist(provider.addr);
        vm.expectEmit(address(splitter));
        emit IJecpSplitter.ProviderEscrowed(provider.addr, 170_000, "push_failed");
        splitter.splitFor(CAPABILITY, payer);
        assertEq(splitter.providerEscrow(provider.addr), 170_000);
        assertEq(splitter.totalOwed(), 170_000);

        usdc.unBlacklist(provider.addr);
        vm.expectEmit(address(splitter));
        emit IJecpSplitter.ProviderWithdrew(provider.addr, 170_000);
        vm.prank(provider.addr);
        splitter.withdraw();
        assertEq(usdc.balanceOf(provider.addr), 170_000);
        assertEq(splitter.totalOwed(), 0);

        vm.prank(provider.addr);
        vm.expectRevert(IJecpSplitter.NoEscrowedFunds.selector);
        splitter.withdraw();
    }

    function test_RevertWhen_StrangerPushesToTheProvider() public {
        vm.expectRevert(IJecpSplitter.OnlySelf.selector);
        splitter._pushProvider(provider.addr, 1);
    }

    function test_GivenDonation_WhenNobodyRecords_ItStays() public {
        pull(5);
        assertEq(splitter.accountedBalance(CAPABILITY), 0);
        vm.expectRevert(IJecpSplitter.AmountZero.selector);
        splitter.splitFor(CAPABILITY, payer);
        assertEq(usdc.balanceOf(address(splitter)), 5);
    }

    // ------------------------------------------------------------ helpers

    function expectPayerOf(bytes memory tail, address expected) internal {
        bytes memory call = abi.encodeCall(IJecpSplitter.recordSettlement, (CAPABILITY, 1));
        vm.expectEmit(address(splitter));
        emit IJecpSplitter.SettlementRecorded(CAPABILITY, 1, expected);
        vm.prank(settler);
        (bool success,) = address(splitter).call(bytes.concat(call, tail));
        assertTrue(success);
    }
}
