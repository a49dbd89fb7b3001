// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IJecpSplitterV2} from "../../src/interfaces/IJecpSplitterV2.sol";
import {V2Base} from "./V2Base.t.sol";

contract V2SettleTest is V2Base {
    function test_GivenSignedPayment_WhenSettled_PullsAttributesAndPays() public {
        IJecpSplitterV2.Payment memory p = payment(7);
        expectSettled(CAPABILITY, p);
        settle(batchOf(p));
        assertBalances(170_000, 20_000, 10_000, 0);
        assertTrue(splitter.isBooked(7));
    }
}
