// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Vm, VmSafe} from "forge-std/Vm.sol";
import {IJecpSplitterV2} from "../../src/interfaces/IJecpSplitterV2.sol";
import {IUsdc} from "../../src/interfaces/IUsdc.sol";
import {UsdcDouble} from "../doubles/UsdcDouble.sol";
import {UsdcProxy} from "../doubles/UsdcProxy.sol";
import {BarePull} from "./BarePull.sol";
import {V2Base} from "./V2Base.t.sol";

/// @dev Gas of whole transactions, refunds taken off, in snapshots/JecpSplitterV2.json;
/// foundry.toml makes a difference a failure. Warmed up: every payee is seeded, settlement number 0
/// is booked, so
/// that the numbers which follow begin in a used word of the bitmap. Payers are distinct and have
/// no code. Figures end in `_over_bare_pull_gas` where they are per payment above `BarePull`.
/// forge-config: default.isolate = true
contract V2GasTest is V2Base {
    string internal constant GROUP = "JecpSplitterV2";
    uint16[3] internal bps = [8500, 1000, 500];

    BarePull internal bare;

    function setUp() public override {
        super.setUp();
        // Instrumented code costs what it likes.
        vm.skip(vm.isContext(VmSafe.ForgeContext.Coverage));
        bare = new BarePull(IUsdc(address(usdc)), address(splitter));
        usdc.mint(address(splitter), 1);
        settle(batchFrom(0, 1));
    }

    // ------------------------------------------------------------ settle

    function test_Settle_1() public {
        assertLe(overBarePull("1", distinctBatch(1, 1, 1)), 50_000);
    }

    function test_Settle_10() public {
        assertLe(overBarePull("10", distinctBatch(1, 10, 1)), 7200);
    }

    function test_Settle_50() public {
        assertLe(overBarePull("50", distinctBatch(1, 50, 1)), 4000);
    }

    function test_Settle_100() public {
        assertLe(overBarePull("100", distinctBatch(1, 100, 1)), 3200);
    }

    function test_Settle_300() public {
        assertLe(overBarePull("300", distinctBatch(1, 300, 1)), 2900);
    }

    function test_Settle_100_Over10Capabilities() public {
        assertLe(overBarePull("100_over_10_capabilities", distinctBatch(1, 100, 10)), 4800);
    }

    /// @dev The figures hold without the warm-up, too, but for the smallest batches: a fresh word
    /// costs 17,100 once in 256 payments.
    function test_Settle_InAFreshWord() public {
        overBarePull("1_in_fresh_word", distinctBatch(256, 1, 1));
        assertLe(overBarePull("100_in_fresh_word", distinctBatch(256, 100, 1)), 3200);
        assertLe(overBarePull("300_in_fresh_word", distinctBatch(256, 300, 1)), 2900);
    }

    /// @dev The same behind a proxy, as USDC is: each push costs a delegation more.
    function test_Settle_BehindAProxy() public {
        bytes32 slot = keccak256("org.zeppelinos.proxy.implementation");
        vm.store(address(usdc), slot, bytes32(uint256(uint160(address(new UsdcDouble())))));
        vm.etch(address(usdc), address(new UsdcProxy()).code);
        assertLe(overBarePull("1_behind_proxy", distinctBatch(1, 1, 1)), 50_000);
        assertLe(overBarePull("10_behind_proxy", distinctBatch(11, 10, 1)), 7200);
        assertLe(overBarePull("100_behind_proxy", distinctBatch(21, 100, 1)), 3200);
        assertLe(overBarePull("300_behind_proxy", distinctBatch(1, 300, 1)), 2900);
    }

    /// @dev EIP-7825: 2^24 gas is the most that one transaction of Base may carry.
    function test_Settle_300FitIntoOneTransaction() public {
        IJecpSplitterV2.Batch memory batch = distinctBatch(256, 300, 1);
        bytes memory call = abi.encodeCall(IJecpSplitterV2.settle, (batch, PULL_GAS));
        vm.prank(settler);
        (bool success,) = address(splitter).call{gas: 1 << 24}(call);
        assertTrue(success);
        // What the last pull must be offered, and what calldata can cost at most (EIP-7623).
        uint256 headroom = PULL_GAS * 64 / 63;
        assertLt(vm.lastCallGas().gasTotalUsed + headroom, 1 << 24);
        assertLt(21_000 + call.length * 40, 1 << 24);
        assertEq(usdc.balanceOf(provider.addr), 301 * 170_000);
    }

    function test_Settle_Failing() public {
        IJecpSplitterV2.Batch memory batch = distinctBatch(1, 100, 1);
        settle(batch);
        settle(batch);
        vm.snapshotGasLastCall(GROUP, "settle_100_booked_already");
    }

    function test_Settle_IntoEscrow() public {
        usdc.blacklist(provider.addr);
        settle(distinctBatch(1, 1, 1));
        vm.snapshotGasLastCall(GROUP, "settle_1_into_first_escrow");
        settle(distinctBatch(2, 1, 1));
        vm.snapshotGasLastCall(GROUP, "settle_1_into_escrow");
        usdc.unBlacklist(provider.addr);
        splitter.withdraw(provider.addr);
        vm.snapshotGasLastCall(GROUP, "withdraw");
    }

    function test_CalldataBytesPerPayment() public {
        uint256 one = abi.encodeCall(IJecpSplitterV2.settle, (batchFrom(1, 1), 0)).length;
        uint256 two = abi.encodeCall(IJecpSplitterV2.settle, (batchFrom(1, 2), 0)).length;
        assertEq(two - one, 160);
        vm.snapshotValue(GROUP, "settle_calldata_bytes_per_payment", two - one);
        vm.snapshotValue(GROUP, "settle_calldata_bytes_per_batch", one - (two - one));
    }

    // ------------------------------------------------------------ record, refund

    function test_Record_1() public {
        recordGas("record_1", distinctBatch(1, 1, 1));
    }

    function test_Record_10() public {
        recordGas("record_10", distinctBatch(1, 10, 1));
    }

    function test_Record_50() public {
        recordGas("record_50", distinctBatch(1, 50, 1));
    }

    function test_Record_100() public {
        assertLe(recordGas("record_100", distinctBatch(1, 100, 1)) / 100, 40_000);
    }

    function test_Record_300() public {
        assertLt(recordGas("record_300", distinctBatch(1, 300, 1)), 1 << 24);
    }

    function test_Record_100_Over10Capabilities() public {
        recordGas("record_100_over_10_capabilities", distinctBatch(1, 100, 10));
    }

    function test_Refund_100() public {
        IJecpSplitterV2.Batch memory batch = distinctBatch(1, 100, 1);
        bare.pull(batch);
        refund(batch);
        vm.snapshotGasLastCall(GROUP, "refund_100");
    }

    // ------------------------------------------------------------ capabilities

    function test_Capabilities() public {
        register(OTHER, otherProvider, bps);
        vm.snapshotGasLastCall(GROUP, "register");
        approve(OTHER, otherProvider.addr, bps);
        vm.snapshotGasLastCall(GROUP, "approve");
        vm.prank(relayer);
        splitter.revoke(OTHER);
        vm.snapshotGasLastCall(GROUP, "revoke");
        approve(OTHER, otherProvider.addr, bps);
        vm.snapshotGasLastCall(GROUP, "approve_again");
        vm.prank(otherProvider.addr);
        splitter.deactivate(OTHER);
        vm.snapshotGasLastCall(GROUP, "deactivate");
        vm.prank(otherProvider.addr);
        splitter.invalidateNonce("n");
        vm.snapshotGasLastCall(GROUP, "invalidateNonce");
        vm.prank(relayerAdmin);
        splitter.setRelayer(stranger);
        vm.snapshotGasLastCall(GROUP, "setRelayer");
    }

    // ------------------------------------------------------------ helpers

    /// @dev Gas per payment of `settle` above the bare loop, both on the same state.
    function overBarePull(string memory name, IJecpSplitterV2.Batch memory batch)
        internal
        returns (uint256 over)
    {
        uint256 state = vm.snapshotState();
        bare.pull(batch);
        uint256 bareGas = vm.snapshotGasLastCall(GROUP, string.concat("bare_pull_", name));
        vm.revertToState(state);
        settle(batch);
        uint256 settleGas = vm.snapshotGasLastCall(GROUP, string.concat("settle_", name));
        vm.revertToState(state);
        over = (settleGas - bareGas) / batch.payments.length;
        vm.snapshotValue(GROUP, string.concat("settle_", name, "_over_bare_pull_gas"), over);
    }

    function recordGas(string memory name, IJecpSplitterV2.Batch memory batch)
        internal
        returns (uint256 used)
    {
        bare.pull(batch);
        record(batch);
        used = vm.snapshotGasLastCall(GROUP, name);
        assertEq(usdc.balanceOf(address(splitter)), 1);
    }

    function distinctBatch(uint256 first, uint256 count, uint256 capabilityCount)
        internal
        returns (IJecpSplitterV2.Batch memory batch)
    {
        batch = batchOf(count);
        bytes32[] memory ids = new bytes32[](capabilityCount);
        ids[0] = CAPABILITY;
        for (uint256 i = 1; i < capabilityCount; ++i) {
            ids[i] = keccak256(abi.encode("capability", i));
            Vm.Wallet memory signer = vm.createWallet(string.concat("provider ", vm.toString(i)));
            makePayable(ids[i], signer, bps);
            usdc.mint(signer.addr, 1);
        }
        named(batch, ids);
        for (uint256 i = 0; i < count; ++i) {
            Terms memory t = terms(first + i);
            t.key = uint256(keccak256(abi.encode("payer", i)));
            t.from = vm.addr(t.key);
            t.index = i % capabilityCount;
            // More than it pays: a payer that is emptied earns a gas refund.
            usdc.mint(t.from, 1_000_000);
            batch.payments[i] = sign(t);
        }
    }
}
