// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title UpgradedUsdc
/// @notice What the owner of USDC's proxy could make of it: everything still works as in the
/// implementation behind, but `hook` is told first of every transfer and every pull. Laid over a
/// UsdcDouble, whose storage it keeps: all of its own lies in its code.
contract UpgradedUsdc {
    address internal immutable IMPLEMENTATION;
    address internal immutable HOOK;

    constructor(address implementation, address hook) {
        IMPLEMENTATION = implementation;
        HOOK = hook;
    }

    fallback() external {
        bytes4 selector = msg.sig;
        if (selector == 0xa9059cbb || selector == 0xe3ee160e || selector == 0xcf092995) {
            (bool success, bytes memory result) = HOOK.call(msg.data);
            if (!success) {
                assembly {
                    revert(add(result, 0x20), mload(result))
                }
            }
            // A hook that answers takes the call over.
            if (result.length != 0) {
                assembly {
                    return(add(result, 0x20), mload(result))
                }
            }
        }
        (bool done, bytes memory answer) = IMPLEMENTATION.delegatecall(msg.data);
        assembly {
            if iszero(done) { revert(add(answer, 0x20), mload(answer)) }
            return(add(answer, 0x20), mload(answer))
        }
    }
}
