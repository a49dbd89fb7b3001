// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ContractPayer} from "./ContractPayer.sol";

/// @title WalletFactory
/// @notice Deploys wallets at addresses that are known before (ERC-6492). A wallet that is there
/// already is an error, as with Safe's factory.
contract WalletFactory {
    function deploy(address owner, bytes32 salt) external returns (address) {
        return address(new ContractPayer{salt: salt}(owner));
    }

    function predict(address owner, bytes32 salt) external view returns (address) {
        bytes memory code = abi.encodePacked(type(ContractPayer).creationCode, abi.encode(owner));
        bytes32 hash = keccak256(abi.encodePacked(hex"ff", address(this), salt, keccak256(code)));
        return address(uint160(uint256(hash)));
    }
}
