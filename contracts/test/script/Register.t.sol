// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Approve} from "../../../script/Approve.s.sol";
import {Register} from "../../../script/Register.s.sol";
import {JecpSplitter} from "../../src/JecpSplitter.sol";
import {JecpSplitterV2} from "../../src/JecpSplitterV2.sol";
import {ScriptBase} from "./ScriptBase.t.sol";

/// @dev script/Register.s.sol and script/Approve.s.sol.
contract RegisterScriptTest is ScriptBase {
    bytes32 internal constant ECHO = keccak256("demo:echo");

    Register internal script;
    JecpSplitter internal splitter;
    JecpSplitterV2 internal version2;
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

    /// @dev The twin of a good signature (s above half the order): the Splitter refuses it.
    function test_RevertWhen_SignatureHasTheHigherS() public {
        begin("high-s");
        bytes memory signature = vm.parseJsonBytes(vm.readFile(path), ".signature");
        (bytes32 r, uint256 s, uint8 v) = (word(signature, 0), uint256(word(signature, 32)), 27);
        if (uint8(signature[64]) == 27) v = 28;
        s = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141 - s;
        string memory twin = vm.toString(abi.encodePacked(r, s, v));
        set(path, "signature", string.concat("\"", twin, "\""));
        refuses("signature is not the provider's over these terms");
    }

    /// @dev Under an EIP-7702 delegation a key is still a key.
    function test_GivenADelegatedProvider_ChecksTheKeysSignature() public {
        begin("delegated");
        checkDelegated();
    }

    function test_Version2_GivenADelegatedProvider_ChecksTheKeysSignature() public {
        beginVersion2("delegated-2");
        checkDelegated();
        assertEq(hubBpsOf(provider.addr), 1000);
    }

    function test_Version2_GivenAContractProvider_AsksIt() public {
        beginVersion2("contract");
        address account = makeAddr("account");
        vm.etch(account, address(usdc).code);
        write(account, 1000, "nonce");
        refuses("signature is not the provider's over these terms");
        bytes4 selector = bytes4(keccak256("isValidSignature(bytes32,bytes)"));
        vm.mockCall(account, abi.encodePacked(selector), abi.encode(selector));
        script.submit(path);
        assertEq(hubBpsOf(account), 1000);
    }

    function test_Version2_RevertWhen_NonceWasUsed() public {
        beginVersion2("nonce-2");
        script.submit(path);
        vm.startPrank(provider.addr);
        version2.deactivate(ECHO);
        refuses("nonce was used; have it signed again");
        write(provider.addr, 1000, "invalidated");
        version2.invalidateNonce("invalidated");
        refuses("nonce was used; have it signed again");
    }

    function test_Version2_RegistersAnewUntilItIsPayable() public {
        beginVersion2("anew");
        script.submit(path);
        write(provider.addr, 2000, "second");
        script.submit(path);
        assertEq(hubBpsOf(provider.addr), 2000);
        vm.prank(relayer);
        version2.approve(ECHO, provider.addr, 7500, 2000, 500);
        script.submit(path);
        write(provider.addr, 1000, "third");
        refuses("capabilityId is already registered with other terms");
        vm.prank(relayer);
        version2.revoke(ECHO);
        script.submit(path);
        assertEq(hubBpsOf(provider.addr), 1000);
    }

    function test_Version2_RevertWhen_PayableToAnotherProvider() public {
        beginVersion2("another");
        script.submit(path);
        address first = provider.addr;
        provider = vm.createWallet("second");
        write(provider.addr, 2000, "second");
        script.submit(path);
        vm.prank(relayer);
        version2.approve(ECHO, first, 8500, 1000, 500);
        // Registered before: nothing to submit, and nothing to approve.
        script.submit(path);
        Approve approve = new Approve();
        string memory what = ": capabilityId is payable to another provider";
        vm.expectRevert(bytes(string.concat(path, what)));
        approve.approve(path);
        write(provider.addr, 1000, "third");
        refuses("capabilityId is payable to another provider");
        vm.expectRevert(bytes(string.concat(path, what)));
        approve.approve(path);
    }

    function test_Version2_RevertWhen_ApprovingOtherTermsThanRegistered() public {
        beginVersion2("approve-2");
        script.submit(path);
        write(provider.addr, 2000, "second");
        Approve approve = new Approve();
        vm.expectRevert(
            bytes(string.concat(path, ": capabilityId is not registered with these terms"))
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
        write(provider.addr, 1000, keccak256("nonce"));
    }

    function beginVersion2(string memory name) internal {
        begin(name);
        version2 = new JecpSplitterV2(
            address(usdc), hubTreasury, networkReserve, relayer, relayerAdmin, settler, 1, 500, 100
        );
        splitter = JecpSplitter(address(version2));
        write(provider.addr, 1000, "nonce");
    }

    function checkDelegated() internal {
        vm.etch(provider.addr, abi.encodePacked(hex"ef0100", address(usdc)));
        set(path, "hubBps", "1500");
        set(path, "providerBps", "8000");
        refuses("signature is not the provider's over these terms");
        set(path, "hubBps", "1000");
        set(path, "providerBps", "8500");
        script.submit(path);
    }

    function hubBpsOf(address who) internal view returns (uint16 hubBps) {
        (, hubBps,) = version2.registrations(ECHO, who);
    }

    function word(bytes memory data, uint256 offset) internal pure returns (bytes32 found) {
        assembly {
            found := mload(add(add(data, 0x20), offset))
        }
    }

    /// @dev A registration of `who` that the provider's key has signed; the reserve takes 500.
    function write(address who, uint16 hubBps, bytes32 nonce) internal {
        uint16 providerBps = 9500 - hubBps;
        bytes32 structHash = keccak256(
            abi.encode(
                0xf39281b2b70b55eacbdf74c62f0e3723a046ffcdad655521cee338584c3d96d8,
                ECHO,
                who,
                providerBps,
                hubBps,
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
        vm.serializeAddress("r", "provider", who);
        vm.serializeUint("r", "providerBps", providerBps);
        vm.serializeUint("r", "hubBps", hubBps);
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
