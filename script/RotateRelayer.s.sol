// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {console} from "forge-std/Script.sol";
import {stdJson} from "forge-std/StdJson.sol";
import {ISplitter} from "./base/ISplitter.sol";
import {SplitterScript} from "./base/SplitterScript.sol";

/// @title RotateRelayer
/// @notice Replaces a Splitter's relayer (R-204), of either version.
///
/// Reads the file named by `ROTATION`: chainId, splitter, newRelayer. When the sender is
/// RELAYER_ADMIN the script sends `setRelayer`. Otherwise, as with a Safe, it sends nothing: it
/// runs the call as RELAYER_ADMIN on a copy of the chain's state and writes
/// `<DEPLOYMENTS_DIR>/<chainId>-rotate-relayer.json` for the Safe's Transaction Builder.
contract RotateRelayer is SplitterScript {
    using stdJson for string;

    struct Rotation {
        string path;
        uint256 chainId;
        ISplitter splitter;
        address newRelayer;
    }

    function run() external {
        rotate(vm.envString("ROTATION"), vm.envOr("DEPLOYMENTS_DIR", string("deployments")));
    }

    function rotate(string memory path, string memory directory) public {
        Rotation memory rotation = _readRotation(path);
        if (rotation.splitter.relayer() == rotation.newRelayer) {
            console.log("already the relayer");
            return;
        }
        _check(rotation);

        ISplitter splitter = rotation.splitter;
        address admin = splitter.RELAYER_ADMIN();
        if (msg.sender == admin) {
            vm.broadcast(admin);
            splitter.setRelayer(rotation.newRelayer);
            require(
                splitter.relayer() == rotation.newRelayer, "RotateRelayer: the relayer is another"
            );
            console.log("relayer is now", rotation.newRelayer);
            return;
        }

        uint256 before = vm.snapshotState();
        vm.prank(admin);
        splitter.setRelayer(rotation.newRelayer);
        require(splitter.relayer() == rotation.newRelayer, "RotateRelayer: the call does nothing");
        vm.revertToState(before);

        vm.createDir(directory, true);
        string memory file =
            string.concat(directory, "/", vm.toString(block.chainid), "-rotate-relayer.json");
        vm.writeJson(_safeTransaction(rotation, admin), file);
        console.log("nothing sent; the Safe", admin, "executes", file);
        console.log("its calldata:");
        console.logBytes(abi.encodeCall(ISplitter.setRelayer, (rotation.newRelayer)));
    }

    function _readRotation(string memory path) internal view returns (Rotation memory rotation) {
        string memory json = vm.readFile(path);
        string[] memory keys = new string[](3);
        keys[0] = "chainId";
        keys[1] = "splitter";
        keys[2] = "newRelayer";
        _requireKeys(path, json, keys);
        rotation = Rotation(
            path,
            json.readUint(".chainId"),
            ISplitter(json.readAddress(".splitter")),
            json.readAddress(".newRelayer")
        );
        _requireChain(path, rotation.chainId);
        _versionOf(path, "splitter", rotation.splitter);
    }

    /// @dev The contract refuses zero and the settler; the other roles are refused here as Deploy
    /// refuses them.
    function _check(Rotation memory rotation) internal view {
        ISplitter s = rotation.splitter;
        string memory path = rotation.path;
        address next = rotation.newRelayer;
        _refuseUnless(path, next != address(0), "newRelayer is not set");
        _refuseUnless(path, next != s.AUTHORIZED_SETTLER(), "newRelayer is the settler");
        _refuseUnless(path, next != s.RELAYER_ADMIN(), "newRelayer is the relayer admin");
        _refuseUnless(path, next != s.HUB_TREASURY(), "newRelayer is the hub treasury");
        _refuseUnless(path, next != s.NETWORK_RESERVE(), "newRelayer is the network reserve");
        _refuseUnless(path, _isKey(next), "newRelayer has code; it must be a key");
    }

    /// @dev The format that the Transaction Builder imports; it shows the method and its argument.
    function _safeTransaction(Rotation memory rotation, address admin)
        internal
        view
        returns (string memory)
    {
        string memory transaction = string.concat(
            "{\"to\":\"",
            vm.toString(address(rotation.splitter)),
            "\",\"value\":\"0\",\"data\":null,\"contractMethod\":{\"inputs\":[{\"internalType\":\"address\",",
            "\"name\":\"newRelayer\",\"type\":\"address\"}],\"name\":\"setRelayer\",\"payable\":false},",
            "\"contractInputsValues\":{\"newRelayer\":\"",
            vm.toString(rotation.newRelayer),
            "\"}}"
        );
        return string.concat(
            "{\"version\":\"1.0\",\"chainId\":\"",
            vm.toString(block.chainid),
            "\",\"createdAt\":",
            vm.toString(block.timestamp * 1000),
            ",\"meta\":{\"name\":\"Rotate the relayer of JecpSplitter\",\"description\":\"setRelayer\",",
            "\"createdFromSafeAddress\":\"",
            vm.toString(admin),
            "\"},\"transactions\":[",
            transaction,
            "]}"
        );
    }
}
