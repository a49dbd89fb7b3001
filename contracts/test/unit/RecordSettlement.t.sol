// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IJecpSplitter} from "../../src/interfaces/IJecpSplitter.sol";
import {SplitterBase} from "./SplitterBase.t.sol";

/// @dev R-167, R-168, R-175, R-184, R-185, C-08; RecordSettlement.tree.
contract RecordSettlementTest is SplitterBase {
    bytes32 internal constant NONCE = keccak256("authorization nonce");

    function setUp() public override {
        super.setUp();
        register(CAPABILITY, "n1");
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

    /// @dev R-184: a facilitator is any address but one; none changes any state.
    function testFuzz_RevertWhen_CallerIsNotTheSettler(address caller, uint256 amount) public {
        vm.assume(caller != settler);
        pull(CAP);
        vm.prank(caller);
        vm.expectRevert(IJecpSplitter.UnauthorizedSettler.selector);
        splitter.recordSettlement(CAPABILITY, amount);
        assertEq(splitter.accountedBalance(CAPABILITY), 0);
        assertEq(splitter.totalOwed(), 0);
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

    function test_RevertGiven_CapabilityIsNotActive() public {
        pull(1);
        vm.expectRevert(IJecpSplitter.CapabilityNotActive.selector);
        record(keccak256("demo:unknown"), 1);
    }

    /// @dev The four published reverts come before the solvency check, in the published order.
    function test_OrderOfChecks() public {
        bytes32 unknown = keccak256("demo:unknown");
        vm.expectRevert(IJecpSplitter.UnauthorizedSettler.selector);
        splitter.recordSettlement(unknown, 0);
        vm.expectRevert(IJecpSplitter.AmountZero.selector);
        record(unknown, 0);
        vm.expectRevert(IJecpSplitter.AmountExceedsCap.selector);
        record(unknown, CAP + 1);
        vm.expectRevert(IJecpSplitter.CapabilityNotActive.selector);
        record(unknown, CAP);
        vm.expectRevert(
            abi.encodeWithSelector(IJecpSplitter.InsufficientUnaccounted.selector, 0, CAP)
        );
        record(CAPABILITY, CAP);
    }

    /// @dev C-08: one pull recorded twice would be paid from other capabilities' money.
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

    function test_RevertWhen_OneUnitTooMany() public {
        pull(200_000);
        vm.expectRevert(
            abi.encodeWithSelector(IJecpSplitter.InsufficientUnaccounted.selector, 200_000, 200_001)
        );
        record(CAPABILITY, 200_001);
        record(CAPABILITY, 200_000);
    }

    /// @dev Whatever happened before, exactly the surplus can be recorded, not a unit more.
    function testFuzz_RecordsUpToTheSurplus(uint256 owed, uint256 surplus, uint256 amount) public {
        owed = bound(owed, 0, CAP);
        surplus = bound(surplus, 0, CAP);
        amount = bound(amount, 1, CAP);
        pull(owed + surplus);
        if (owed != 0) record(CAPABILITY, owed);
        if (amount > surplus) {
            vm.expectRevert(
                abi.encodeWithSelector(
                    IJecpSplitter.InsufficientUnaccounted.selector, surplus, amount
                )
            );
        }
        record(CAPABILITY, amount);
        assertEq(splitter.totalOwed(), amount > surplus ? owed : owed + amount);
    }

    /// @dev Should the token ever take money away, nothing can be recorded until it is back.
    function test_RevertGiven_BalanceBelowWhatIsOwed() public {
        pull(200_000);
        record(CAPABILITY, 200_000);
        vm.prank(address(splitter));
        assertTrue(usdc.transfer(stranger, 1));
        vm.expectRevert(
            abi.encodeWithSelector(IJecpSplitter.InsufficientUnaccounted.selector, 0, 1)
        );
        record(CAPABILITY, 1);
    }

    function test_GivenPulledMoney_WhenSettlerRecords_AccountsIt() public {
        pull(300_000);
        vm.expectEmit(address(splitter));
        emit IJecpSplitter.SettlementRecorded(CAPABILITY, 200_000, address(0));
        record(CAPABILITY, 200_000);
        record(CAPABILITY, 100_000);
        assertEq(splitter.accountedBalance(CAPABILITY), 300_000);
        assertEq(splitter.totalOwed(), 300_000);
    }

    // ------------------------------------------------------------ the appended identity

    function test_GivenNothingAppended_EventNamesNobody() public {
        expectPayerOf("", address(0));
    }

    function test_GivenIdentityAppended_EventNamesThePayer() public {
        expectPayerOf(abi.encodePacked(payer, NONCE), payer);
    }

    function test_GivenShortTail_EventNamesNobody() public {
        expectPayerOf(hex"ff", address(0));
        expectPayerOf(abi.encodePacked(payer), address(0));
        // forge-lint: disable-next-line(unsafe-typecast)
        expectPayerOf(abi.encodePacked(payer, bytes31(NONCE)), address(0));
    }

    function test_GivenLongTail_EventNamesNobody() public {
        expectPayerOf(abi.encodePacked(payer, NONCE, uint8(0)), address(0));
        // Two whole words, as an ABI encoder that knows of payer and nonce would write them.
        expectPayerOf(abi.encode(payer, NONCE), address(0));
    }

    /// @dev The contract cannot tell garbage of the right length from an identity. It is the
    /// settler's word; the chain's readers check it against AuthorizationUsed.
    function test_GivenGarbageOfTheRightLength_EventRepeatsIt() public {
        bytes memory garbage = abi.encodePacked(keccak256("a"), bytes20(keccak256("b")));
        expectPayerOf(garbage, address(bytes20(keccak256("a"))));
    }

    function testFuzz_TailNeverChangesWhatIsRecorded(bytes memory tail) public {
        address named;
        // The first 20 bytes are what is meant.
        // forge-lint: disable-next-line(unsafe-typecast)
        if (tail.length == 52) named = address(bytes20(bytes32(tail)));
        expectPayerOf(tail, named);
        assertEq(splitter.accountedBalance(CAPABILITY), 1);
    }

    function testFuzz_IdentityNamesItsPayer(address who, bytes32 nonce) public {
        expectPayerOf(abi.encodePacked(who, nonce), who);
    }

    // ------------------------------------------------------------ helpers

    function expectPayerOf(bytes memory tail, address expected) internal {
        pull(1);
        bytes memory call = abi.encodeCall(IJecpSplitter.recordSettlement, (CAPABILITY, 1));
        vm.expectEmit(address(splitter));
        emit IJecpSplitter.SettlementRecorded(CAPABILITY, 1, expected);
        vm.prank(settler);
        (bool success,) = address(splitter).call(bytes.concat(call, tail));
        assertTrue(success);
    }
}
