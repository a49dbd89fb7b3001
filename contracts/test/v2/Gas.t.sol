// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Vm} from "forge-std/Test.sol";
import {IJecpSplitterV2} from "../../src/interfaces/IJecpSplitterV2.sol";
import {IUsdc} from "../../src/interfaces/IUsdc.sol";
import {BarePull} from "./BarePull.sol";
import {V2Base} from "./V2Base.t.sol";

/// @dev Whole-transaction gas, refunds taken off, of every operation of JecpSplitterV2, written to
/// snapshots/JecpSplitterV2.json. Every payee is seeded, every payer distinct, every number fresh.
/// Limits are those of the issue that asked for the contract, against `BarePull`.
/// forge-config: default.isolate = true
contract V2GasTest is V2Base {
    BarePull internal bare;

    function setUp() public override {
        super.setUp();
        bare = new BarePull(IUsdc(address(usdc)), address(splitter));
        usdc.mint(provider.addr, 1);
        usdc.mint(hubTreasury, 1);
        usdc.mint(networkReserve, 1);
        usdc.mint(address(splitter), 1);
    }

    function test_Settle_OverBarePull() public virtual {
        overBarePull(1, 1);
        overBarePull(10, 1);
        overBarePull(50, 1);
        overBarePull(100, 1);
        overBarePull(300, 1);
        overBarePull(100, 10);
    }

    /// @dev Gas per payment of `settle` above the bare loop, each on the same state.
    function overBarePull(uint256 count, uint256 capabilityCount) internal returns (uint256 over) {
        IJecpSplitterV2.Batch memory batch = distinctBatch(count, capabilityCount);
        string memory name = vm.toString(count);
        if (capabilityCount != 1) {
            name = string.concat(name, "_over_", vm.toString(capabilityCount), "_capabilities");
        }

        uint256 state = vm.snapshotState();
        bare.pull(batch);
        uint256 bareGas =
            vm.snapshotGasLastCall("JecpSplitterV2", string.concat("bare_pull_", name));
        vm.revertToState(state);
        vm.prank(settler);
        splitter.settle(batch, PULL_GAS);
        uint256 settleGas = vm.snapshotGasLastCall("JecpSplitterV2", string.concat("settle_", name));
        uint256 refunded = uint256(int256(vm.lastCallGas().gasRefunded));
        vm.revertToState(state);

        over = (settleGas - bareGas) / count;
        vm.snapshotValue(
            "JecpSplitterV2", string.concat("settle_", name, "_over_bare_pull_gas"), over
        );
        emit log_named_uint(name, over);
        emit log_named_uint("refunded", refunded);
    }

    function distinctBatch(uint256 count, uint256 capabilityCount)
        internal
        returns (IJecpSplitterV2.Batch memory batch)
    {
        batch = batchOf(count);
        batch.capabilityIds = new bytes32[](capabilityCount);
        for (uint256 i = 0; i < capabilityCount; ++i) {
            batch.capabilityIds[i] = i == 0 ? CAPABILITY : keccak256(abi.encode("capability", i));
            if (i == 0) continue;
            Vm.Wallet memory signer = vm.createWallet(string.concat("provider ", vm.toString(i)));
            makePayable(batch.capabilityIds[i], signer, [uint16(8500), 1000, 500]);
            usdc.mint(signer.addr, 1);
        }
        for (uint256 i = 0; i < count; ++i) {
            Terms memory t = terms(uint64(i));
            t.key = uint256(keccak256(abi.encode("payer", i)));
            t.from = vm.addr(t.key);
            t.index = i % capabilityCount;
            usdc.mint(t.from, 1_000_000);
            batch.payments[i] = sign(t);
        }
    }
}
