// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IJecpSplitterV2} from "../interfaces/IJecpSplitterV2.sol";

/// @title PaymentLib
/// @notice Reads the fields of a packed `IJecpSplitterV2.Payment`.
library PaymentLib {
    function payer(IJecpSplitterV2.Payment calldata payment) internal pure returns (address) {
        return address(uint160(payment.payerAndValue >> 96));
    }

    function value(IJecpSplitterV2.Payment calldata payment) internal pure returns (uint256) {
        return uint96(payment.payerAndValue);
    }

    function number(IJecpSplitterV2.Payment calldata payment) internal pure returns (uint64) {
        return uint64(payment.terms >> 192);
    }

    function validAfter(IJecpSplitterV2.Payment calldata payment) internal pure returns (uint256) {
        return uint64(payment.terms >> 128);
    }

    function validBefore(IJecpSplitterV2.Payment calldata payment) internal pure returns (uint256) {
        return uint64(payment.terms >> 64);
    }

    /// @dev Zero for an ordinary signature, which lies in `r` and `vs`.
    function longSignatureLength(IJecpSplitterV2.Payment calldata payment)
        internal
        pure
        returns (uint256)
    {
        return uint32(payment.terms >> 32);
    }

    function capabilityIndex(IJecpSplitterV2.Payment calldata payment)
        internal
        pure
        returns (uint256)
    {
        return uint32(payment.terms);
    }

    /// @dev 27 or 28, from the highest bit of `vs` (EIP-2098).
    function v(IJecpSplitterV2.Payment calldata payment) internal pure returns (uint8) {
        return uint8(uint256(payment.vs) >> 255) + 27;
    }

    function s(IJecpSplitterV2.Payment calldata payment) internal pure returns (bytes32) {
        return payment.vs & bytes32(type(uint256).max >> 1);
    }

    /// @dev The signature as the token sees it: 65 bytes, or the long one.
    function signature(IJecpSplitterV2.Payment calldata payment, bytes calldata longSignatures)
        internal
        pure
        returns (bytes memory)
    {
        uint256 length = longSignatureLength(payment);
        if (length == 0) return abi.encodePacked(payment.r, s(payment), v(payment));
        uint256 offset = uint256(payment.r);
        return longSignatures[offset:offset + length];
    }
}
