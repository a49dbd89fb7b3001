// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Approve} from "../../../script/Approve.s.sol";
import {Register} from "../../../script/Register.s.sol";
import {JecpSplitter} from "../../src/JecpSplitter.sol";
import {ScriptBase} from "./ScriptBase.t.sol";

/// @dev script/Register.s.sol and script/Approve.s.sol.
contract RegisterScriptTest is ScriptBase {
    bytes32 internal constant ECHO = keccak256("demo:echo");

    Register internal script;
    JecpSplitter internal splitter;
    string internal path;

    function test_Registers_AndASecondRunChangesNothing() public {
        begin("registers");
        script.submit(path);
        (address who,,,, bool active) = splitter.capabilities(ECHO);
        assertTrue(active && who == provider.addr);
        script.submit(path);
    }

    function test_RevertWhen_RegisteredWithOtherTerms() public {
        begin("other-terms");
        script.submit(path);
        set(path, "providerBps", "8400");
        refuses("capabilityId is already registered with other terms");
    }

    function test_RevertWhen_TheFileIsWrong() public {
        begin("wrong");
        set(path, "signature", "\"0x\"");
        refuses("signature is missing; have it signed");
        set(path, "signature", "\"0x1234\"");
        refuses("signature is not the provider's over these terms");
        set(path, "hubBps", "1001");
        refuses("providerBps, hubBps and reserveBps do not sum to 10000");
        set(path, "hubBps", "10001");
        refuses(".hubBps is above 10000");
        set(path, "hubBps", "1000");
        set(path, "deadline", "1");
        refuses("deadline has passed; have it signed again");
        set(path, "splitter", quoted(address(usdc)));
        refuses("splitter is not a JecpSplitter 1.1.1 or 2");
        set(path, "splitter", quoted(makeAddr("nobody")));
        refuses("splitter has no code");
        set(path, "chainId", "8453");
        refuses("chainId is not the chain behind --rpc-url");
        vm.writeFile(path, "{\"chainId\":84532}");
        refuses("splitter is missing");
    }

    function test_RevertWhen_NonceWasUsed() public {
        begin("nonce");
        script.submit(path);
        vm.prank(provider.addr);
        splitter.deactivate(ECHO);
        refuses("nonce was used; have it signed again");
    }

    function test_Approve_RevertWhen_SplitterIsVersion1() public {
        begin("approve");
        script.submit(path);
        Approve approve = new Approve();
        vm.expectRevert(
            bytes(string.concat(path, ": splitter is version 1.1.1, which knows no approval"))
        );
        approve.approve(path);
    }

    // ------------------------------------------------------------ helpers

    function begin(string memory name) internal {
        setUpChain(string.concat("register-", name));
        script = new Register();
        splitter = new JecpSplitter(
            address(usdc), hubTreasury, networkReserve, relayer, relayerAdmin, settler, 1
        );
        path = file("registration.json");
        bytes32 nonce = keccak256("nonce");
        bytes32 structHash = keccak256(
            abi.encode(
                0xf39281b2b70b55eacbdf74c62f0e3723a046ffcdad655521cee338584c3d96d8,
                ECHO,
                provider.addr,
                8500,
                1000,
                500,
                nonce,
                block.timestamp
            )
        );
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(
            provider,
            keccak256(abi.encodePacked("\x19\x01", splitter.EIP712_DOMAIN_SEPARATOR(), structHash))
        );
        vm.serializeUint("r", "chainId", block.chainid);
        vm.serializeAddress("r", "splitter", address(splitter));
        vm.serializeBytes32("r", "capabilityId", ECHO);
        vm.serializeAddress("r", "provider", provider.addr);
        vm.serializeUint("r", "providerBps", 8500);
        vm.serializeUint("r", "hubBps", 1000);
        vm.serializeUint("r", "reserveBps", 500);
        vm.serializeBytes32("r", "nonce", nonce);
        vm.serializeUint("r", "deadline", block.timestamp);
        vm.writeJson(vm.serializeBytes("r", "signature", abi.encodePacked(r, s, v)), path);
    }

    function refuses(string memory what) internal {
        vm.expectRevert(bytes(string.concat(path, ": ", what)));
        script.submit(path);
    }
}
