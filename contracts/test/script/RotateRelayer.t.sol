// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {RotateRelayer} from "../../../script/RotateRelayer.s.sol";
import {JecpSplitter} from "../../src/JecpSplitter.sol";
import {ScriptBase} from "./ScriptBase.t.sol";

/// @dev script/RotateRelayer.s.sol (R-204).
contract RotateRelayerTest is ScriptBase {
    RotateRelayer internal script;
    JecpSplitter internal splitter;
    address internal next = makeAddr("next relayer");

    function setUp() public {
        script = new RotateRelayer();
    }

    function test_GivenASafe_WritesItsTransactionAndSendsNothing() public {
        begin("safe");
        script.rotate(rotation(address(splitter), next), folder);
        assertEq(splitter.relayer(), relayer, "nothing was sent");
        string memory json = vm.readFile(file("84532-rotate-relayer.json"));
        assertEq(vm.parseJsonString(json, ".chainId"), "84532");
        assertEq(vm.parseJsonAddress(json, ".transactions[0].to"), address(splitter));
        assertEq(vm.parseJsonString(json, ".transactions[0].contractMethod.name"), "setRelayer");
        assertEq(
            vm.parseJsonAddress(json, ".transactions[0].contractInputsValues.newRelayer"), next
        );
        assertEq(vm.parseJsonAddress(json, ".meta.createdFromSafeAddress"), relayerAdmin);
    }

    function test_GivenTheAdminSends_Rotates() public {
        begin("admin");
        splitter = new JecpSplitter(
            address(usdc), hubTreasury, networkReserve, relayer, address(this), settler, 1
        );
        script.rotate(rotation(address(splitter), next), folder);
        assertEq(splitter.relayer(), next);
        assertFalse(vm.exists(file("84532-rotate-relayer.json")));
    }

    function test_SecondRunChangesNothing() public {
        begin("twice");
        vm.prank(relayerAdmin);
        splitter.setRelayer(next);
        script.rotate(rotation(address(splitter), next), folder);
        assertFalse(vm.exists(file("84532-rotate-relayer.json")));
    }

    function test_RevertWhen_NewRelayerHoldsAnotherRole() public {
        begin("roles");
        refuses(address(splitter), address(0), "newRelayer is not set");
        refuses(address(splitter), settler, "newRelayer is the settler");
        refuses(address(splitter), relayerAdmin, "newRelayer is the relayer admin");
        refuses(address(splitter), hubTreasury, "newRelayer is the hub treasury");
        refuses(address(splitter), networkReserve, "newRelayer is the network reserve");
        refuses(address(splitter), address(this), "newRelayer has code; it must be a key");
    }

    function test_RevertWhen_SplitterIsNone() public {
        begin("splitter");
        refuses(makeAddr("nobody"), next, "splitter has no code");
        refuses(address(usdc), next, "splitter is not a JecpSplitter 1.1.1 or 2");
    }

    function test_RevertWhen_ChainDiffers() public {
        begin("chain");
        string memory path = rotation(address(splitter), next);
        vm.chainId(8453);
        vm.expectRevert(bytes(string.concat(path, ": chainId is not the chain behind --rpc-url")));
        script.rotate(path, folder);
    }

    function begin(string memory name) internal {
        setUpChain(string.concat("rotate-", name));
        splitter = new JecpSplitter(
            address(usdc), hubTreasury, networkReserve, relayer, relayerAdmin, settler, 1
        );
    }

    function rotation(address splitter_, address newRelayer) internal returns (string memory path) {
        path = file("rotation.json");
        vm.serializeUint("rotation", "chainId", block.chainid);
        vm.serializeAddress("rotation", "splitter", splitter_);
        vm.writeJson(vm.serializeAddress("rotation", "newRelayer", newRelayer), path);
    }

    function refuses(address splitter_, address newRelayer, string memory what) internal {
        string memory path = rotation(splitter_, newRelayer);
        vm.expectRevert(bytes(string.concat(path, ": ", what)));
        script.rotate(path, folder);
    }
}
