// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title UsdcProxy
/// @notice USDC as it stands on chain: a proxy that reads its implementation from a slot and
/// delegates. Laid over a UsdcDouble, whose storage it keeps, it brings gas nearer to the real
/// token's.
contract UsdcProxy {
    /// @dev keccak256("org.zeppelinos.proxy.implementation"), as FiatTokenProxy has it.
    bytes32 internal constant IMPLEMENTATION_SLOT =
        0x7050c9e0f4ca769c69bd3a8ef740bc37934f8e2c036e5a723fd8ee048ed3f8c3;

    fallback() external {
        assembly {
            calldatacopy(0, 0, calldatasize())
            let done := delegatecall(gas(), sload(IMPLEMENTATION_SLOT), 0, calldatasize(), 0, 0)
            returndatacopy(0, 0, returndatasize())
            if iszero(done) { revert(0, returndatasize()) }
            return(0, returndatasize())
        }
    }
}
