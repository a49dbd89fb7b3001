// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Test, Vm} from "forge-std/Test.sol";
import {UsdcDouble} from "../doubles/UsdcDouble.sol";

/// @dev A Safe, as far as the scripts look at it.
contract SafeDouble {
    uint256 public getThreshold;
    address[] internal owners;

    constructor(uint256 threshold, address[] memory owners_) {
        (getThreshold, owners) = (threshold, owners_);
    }

    function getOwners() external view returns (address[] memory) {
        return owners;
    }
}

/// @dev What the tests of the scripts share: a chain with USDC, Safes, and files under target/.
abstract contract ScriptBase is Test {
    UsdcDouble internal usdc;
    address internal hubTreasury;
    address internal networkReserve;
    address internal relayerAdmin;
    address internal relayer = makeAddr("relayer");
    address internal settler = makeAddr("settler");
    Vm.Wallet internal provider = vm.createWallet("provider");
    /// @dev Each test has its own folder, since tests run side by side.
    string internal folder;

    function setUpChain(string memory name) internal {
        vm.chainId(84_532);
        vm.warp(1_780_000_000);
        usdc = UsdcDouble(0x036CbD53842c5426634e7929541eC2318f3dCF7e);
        deployCodeTo("UsdcDouble.sol:UsdcDouble", address(usdc));
        usdc.initialize("USDC", address(this));
        hubTreasury = safe(2, "a", "b", "c");
        networkReserve = safe(2, "d", "e", "f");
        relayerAdmin = safe(2, "g", "h", "i");
        folder = string.concat("target/script-tests/", name);
        if (vm.exists(folder)) vm.removeDir(folder, true);
        vm.createDir(folder, true);
    }

    function safe(uint256 threshold, string memory a, string memory b, string memory c)
        internal
        returns (address)
    {
        address[] memory owners = new address[](3);
        owners[0] = makeAddr(a);
        owners[1] = makeAddr(b);
        owners[2] = makeAddr(c);
        return address(new SafeDouble(threshold, owners));
    }

    function file(string memory name) internal view returns (string memory) {
        return string.concat(folder, "/", name);
    }

    /// @dev A configuration that deploys; tests spoil one key of it with `vm.writeJson`.
    function writeConfig(string memory name) internal returns (string memory path) {
        path = file(name);
        string memory c = "config";
        vm.serializeString(c, "version", "1.1.1");
        vm.serializeUint(c, "chainId", block.chainid);
        vm.serializeAddress(c, "usdc", address(usdc));
        vm.serializeBytes32(c, "usdcDomainSeparator", usdc.DOMAIN_SEPARATOR());
        vm.serializeAddress(c, "hubTreasury", hubTreasury);
        vm.serializeAddress(c, "networkReserve", networkReserve);
        vm.serializeAddress(c, "relayer", relayer);
        vm.serializeAddress(c, "relayerAdmin", relayerAdmin);
        vm.serializeAddress(c, "authorizedSettler", settler);
        vm.serializeUint(c, "perTxCap", 1_000_000_000);
        vm.serializeAddress(c, "facilitators", new address[](0));
        vm.writeJson(vm.serializeBool(c, "allowEoaRoles", false), path);
    }

    /// @dev Replaces one key. Values are JSON: numbers and booleans bare, strings in quotes.
    function set(string memory path, string memory key, string memory value) internal {
        vm.writeJson(value, path, string.concat(".", key));
    }

    function quoted(address account) internal pure returns (string memory) {
        return string.concat("\"", vm.toString(account), "\"");
    }
}
