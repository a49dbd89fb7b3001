// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @title ContractPayer
/// @notice A smart wallet with one owner (ERC-1271), and the ways in which one can misbehave. It
/// takes the owner's 65 bytes, or those bytes wrapped as many wallets do: abi.encode(index, bytes).
contract ContractPayer {
    enum Mood {
        Honest,
        Slow,
        Rejecting,
        BurningGas,
        RevertingWithMuchData,
        ReturningMuchData,
        RevertingWithYes,
        AnsweringInFourBytes
    }

    address internal immutable OWNER;
    Mood public mood;

    constructor(address owner) {
        OWNER = owner;
    }

    function setMood(Mood mood_) external {
        mood = mood_;
    }

    function isValidSignature(bytes32 digest, bytes calldata signature)
        external
        view
        returns (bytes4)
    {
        if (mood == Mood.Rejecting) return 0xffffffff;
        if (mood == Mood.Slow) {
            // A million gas, as a passkey verified in Solidity may cost.
            uint256 start = gasleft();
            while (start - gasleft() < 1_000_000) {}
        }
        if (mood == Mood.BurningGas) {
            while (gasleft() > 0) {}
        }
        if (mood == Mood.RevertingWithMuchData) {
            assembly {
                revert(0, 50000)
            }
        }
        if (mood == Mood.ReturningMuchData) {
            assembly {
                mstore(0, 0x1626ba7e00000000000000000000000000000000000000000000000000000000)
                return(0, 50000)
            }
        }
        if (mood == Mood.RevertingWithYes) {
            assembly {
                mstore(0, 0x1626ba7e00000000000000000000000000000000000000000000000000000000)
                revert(0, 32)
            }
        }
        if (mood == Mood.AnsweringInFourBytes) {
            assembly {
                mstore(0, 0x1626ba7e00000000000000000000000000000000000000000000000000000000)
                return(0, 4)
            }
        }
        bytes memory inner = signature;
        if (signature.length != 65) (, inner) = abi.decode(signature, (uint256, bytes));
        (address signer,,) = ECDSA.tryRecover(digest, inner);
        return signer == OWNER ? this.isValidSignature.selector : bytes4(0xffffffff);
    }
}
