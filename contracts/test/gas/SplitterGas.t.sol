// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SplitterBase} from "../unit/SplitterBase.t.sol";

/// @dev Gas of whole transactions, intrinsic gas and refunds included, kept in
/// snapshots/JecpSplitter.json. Every account and slot that steady operation finds warm (in use) is
/// put to use first. The token is the double: its transfers cost less than USDC's behind its proxy;
/// docs/contracts.md has the figures measured on real USDC.
///
/// A drift fails `forge test`; `make snapshots` writes the new figures.
contract SplitterGas is SplitterBase {
    uint256 internal constant PRICE = 200_000;
    string internal constant GROUP = "JecpSplitter";

    bytes internal signature;

    function setUp() public override {
        super.setUp();
        // Everybody has been paid before, and the Splitter keeps one unit.
        register(CAPABILITY, "n1");
        pull(PRICE + 1);
        record(CAPABILITY, PRICE);
        splitter.splitFor(CAPABILITY, payer);
        signature = signRegistration(
            provider, keccak256("demo:new"), [uint16(8500), 1000, 500], "n2", block.timestamp
        );
    }

    /// forge-config: default.isolate = true
    function test_Register() public {
        splitter.register(
            keccak256("demo:new"), provider.addr, 8500, 1000, 500, "n2", block.timestamp, signature
        );
        vm.snapshotGasLastCall(GROUP, "register");
    }

    /// @dev Nothing is accounted to anybody: two slots from zero.
    /// forge-config: default.isolate = true
    function test_RecordFirst() public {
        pull(PRICE);
        record(CAPABILITY, PRICE);
        vm.snapshotGasLastCall(GROUP, "record_first");
    }

    /// forge-config: default.isolate = true
    function test_RecordAgain() public {
        pull(2 * PRICE);
        record(CAPABILITY, PRICE);
        record(CAPABILITY, PRICE);
        vm.snapshotGasLastCall(GROUP, "record_again");
    }

    /// @dev With the 52 bytes of identity that the keeper appends.
    /// forge-config: default.isolate = true
    function test_RecordAgainWithIdentity() public {
        pull(2 * PRICE);
        record(CAPABILITY, PRICE);
        bytes memory call = abi.encodePacked(
            splitter.recordSettlement.selector, CAPABILITY, PRICE, payer, keccak256("nonce")
        );
        vm.prank(settler);
        (bool success,) = address(splitter).call(call);
        vm.snapshotGasLastCall(GROUP, "record_again_with_identity");
        assertTrue(success);
    }

    /// forge-config: default.isolate = true
    function test_SplitPush() public {
        pull(PRICE);
        record(CAPABILITY, PRICE);
        splitter.splitFor(CAPABILITY, payer);
        vm.snapshotGasLastCall(GROUP, "split_push");
    }

    /// forge-config: default.isolate = true
    function test_SplitEscrow() public {
        pull(PRICE);
        record(CAPABILITY, PRICE);
        usdc.blacklist(provider.addr);
        splitter.splitFor(CAPABILITY, payer);
        vm.snapshotGasLastCall(GROUP, "split_escrow");
    }

    /// forge-config: default.isolate = true
    function test_Withdraw() public {
        pull(PRICE);
        record(CAPABILITY, PRICE);
        usdc.blacklist(provider.addr);
        splitter.splitFor(CAPABILITY, payer);
        usdc.unBlacklist(provider.addr);
        vm.prank(provider.addr);
        splitter.withdraw();
        vm.snapshotGasLastCall(GROUP, "withdraw");
    }

    /// forge-config: default.isolate = true
    function test_DeactivateWithPendingBalance() public {
        pull(PRICE);
        record(CAPABILITY, PRICE);
        vm.prank(provider.addr);
        splitter.deactivate(CAPABILITY);
        vm.snapshotGasLastCall(GROUP, "deactivate_with_pending_balance");
    }

    /// forge-config: default.isolate = true
    function test_SetRelayer() public {
        vm.prank(relayerAdmin);
        splitter.setRelayer(stranger);
        vm.snapshotGasLastCall(GROUP, "set_relayer");
    }
}
