// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;
import {V2GasTest} from "./Gas.t.sol";
import {IJecpSplitterV2} from "../../src/interfaces/IJecpSplitterV2.sol";

/// forge-config: default.isolate = true
contract TmpTest is V2GasTest {
    function test_one() public {
        IJecpSplitterV2.Batch memory batch = distinctBatch(5, 1);
        vm.prank(settler);
        splitter.settle(batch, PULL_GAS);
    }
    function test_Settle_OverBarePull() public override {}
}
