// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IJecpSplitterV2} from "../../src/interfaces/IJecpSplitterV2.sol";
import {IUsdc} from "../../src/interfaces/IUsdc.sol";
import {PaymentLib} from "../../src/libraries/PaymentLib.sol";

/// @title BarePull
/// @notice The least that can be done with a batch, and what `settle` is measured against: a plain
/// Solidity loop over the same struct that calls the (v, r, s) overload and does nothing else.
contract BarePull {
    using PaymentLib for IJecpSplitterV2.Payment;

    IUsdc internal immutable USDC;
    address internal immutable PAYEE;

    constructor(IUsdc usdc, address payee) {
        USDC = usdc;
        PAYEE = payee;
    }

    function pull(IJecpSplitterV2.Batch calldata batch) external {
        IJecpSplitterV2.Payment[] calldata payments = batch.payments;
        for (uint256 i = 0; i < payments.length; ++i) {
            IJecpSplitterV2.Payment calldata payment = payments[i];
            USDC.transferWithAuthorization(
                payment.payer(),
                PAYEE,
                payment.value(),
                payment.validAfter(),
                payment.validBefore(),
                payment.nonce,
                payment.v(),
                payment.r,
                payment.s()
            );
        }
    }
}
