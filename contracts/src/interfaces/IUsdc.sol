// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title IUsdc
/// @notice What the Splitter asks of Circle's FiatTokenV2_2 beyond ERC-20. EIP-3009, EIP-712.
interface IUsdc {
    function decimals() external view returns (uint8);
    function DOMAIN_SEPARATOR() external view returns (bytes32);
    /// @notice Whether the nonce was used or cancelled; the token does not say which.
    function authorizationState(address authorizer, bytes32 nonce) external view returns (bool);
    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external;
}

/// @title IUsdcBytes
/// @notice The overload that takes signatures of any length; apart, so that each selector has one
/// name.
interface IUsdcBytes {
    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) external;
}
