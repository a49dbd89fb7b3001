// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Deploy} from "../../../script/Deploy.s.sol";
import {ISplitter} from "../../../script/base/ISplitter.sol";
import {UsdcDouble} from "../doubles/UsdcDouble.sol";
import {IJecpSplitterV2} from "../../src/interfaces/IJecpSplitterV2.sol";
import {ScriptBase} from "./ScriptBase.t.sol";

/// @dev script/Deploy.s.sol: what it refuses, what it writes, that it may run twice.
contract DeployTest is ScriptBase {
    Deploy internal script;
    string internal config;

    function setUp() public {
        script = new Deploy();
    }

    function test_Deploys_ReadsBack_AndWritesTheAddressBook() public {
        begin("deploys");
        ISplitter splitter = script.deploy(config, folder);
        assertEq(splitter.AUTHORIZED_SETTLER(), settler);
        assertEq(splitter.relayer(), relayer);

        string memory book = vm.readFile(file("84532.json"));
        assertEq(vm.parseJsonUint(book, ".chainId"), 84_532);
        assertEq(vm.parseJsonAddress(book, ".JecpSplitter.address"), address(splitter));
        assertEq(vm.parseJsonString(book, ".JecpSplitter.version"), "1.1.1");
        assertEq(vm.parseJsonBytes32(book, ".JecpSplitter.codeHash"), address(splitter).codehash);
    }

    function test_MakesTheFolderOfTheAddressBook() public {
        begin("folder");
        script.deploy(config, file("not/there"));
        assertTrue(vm.exists(file("not/there/84532.json")));
    }

    /// @dev The first run only saw its simulation; the second notes that it saw the chain.
    function test_SecondRunChangesNothingButSaysThatItChecked() public {
        begin("twice");
        ISplitter first = script.deploy(config, folder);
        string memory book = vm.readFile(file("84532.json"));
        assertFalse(vm.parseJsonBool(book, ".JecpSplitter.checkedOnChain"));
        ISplitter second = script.deploy(config, folder);
        assertEq(address(first), address(second));
        book = vm.replace(book, "\"checkedOnChain\": false", "\"checkedOnChain\": true");
        assertEq(vm.readFile(file("84532.json")), book);
        script.deploy(config, folder);
        assertEq(vm.readFile(file("84532.json")), book);
    }

    /// @dev As when an operator writes the rotated relayer into the configuration.
    function test_RevertWhen_AnotherSplitterHasTheEntry() public {
        begin("replaces");
        address old = address(script.deploy(config, folder));
        string memory book = vm.readFile(file("84532.json"));
        set(config, "relayer", quoted(makeAddr("new relayer")));
        string memory predicted = vm.toString(predict());
        string memory what = string.concat(
            ": replaces does not name ",
            vm.toString(old),
            ", which is JecpSplitter in ",
            file("84532.json"),
            "; this configuration leads to ",
            predicted
        );
        vm.expectRevert(bytes(string.concat(config, what)));
        script.deploy(config, folder);
        set(config, "replaces", quoted(makeAddr("another")));
        vm.expectRevert(bytes(string.concat(config, what)));
        script.deploy(config, folder);
        assertEq(vm.readFile(file("84532.json")), book);
    }

    function test_GivenReplaces_TakesTheEntryAndKeepsTheOldAddress() public {
        begin("replaced");
        address old = address(script.deploy(config, folder));
        set(config, "relayer", quoted(makeAddr("new relayer")));
        set(config, "replaces", quoted(old));
        address splitter = address(script.deploy(config, folder));
        assertNotEq(splitter, old);
        // A second run, without the key too, keeps what the entry says.
        for (uint256 i = 0; i < 3; i++) {
            string memory book = vm.readFile(file("84532.json"));
            assertEq(vm.parseJsonAddress(book, ".JecpSplitter.address"), splitter);
            assertEq(vm.parseJsonAddress(book, ".JecpSplitter.replaces"), old);
            script.deploy(config, folder);
            set(config, "replaces", "\"0x0000000000000000000000000000000000000000\"");
        }
    }

    /// @dev After a rotation the constructor's relayer is history; the deployment is the same.
    function test_GivenARotatedRelayer_SecondRunStillPasses() public {
        begin("rotated");
        ISplitter splitter = script.deploy(config, folder);
        vm.prank(relayerAdmin);
        splitter.setRelayer(makeAddr("new relayer"));
        assertEq(address(script.deploy(config, folder)), address(splitter));
        assertEq(splitter.relayer(), makeAddr("new relayer"), "the check puts everything back");
    }

    function test_OtherEntriesOfTheAddressBookStay() public {
        begin("entries");
        vm.writeFile(
            file("84532.json"), "{\"chainId\":84532,\"JecpSplitterV2\":{\"address\":\"0x01\"}}"
        );
        script.deploy(config, folder);
        string memory book = vm.readFile(file("84532.json"));
        assertEq(vm.parseJsonString(book, ".JecpSplitterV2.address"), "0x01");
        assertTrue(vm.keyExistsJson(book, ".JecpSplitter.address"));
    }

    function test_GivenTestnetAndAllowEoaRoles_TakesPlainAccounts() public {
        begin("eoas");
        set(config, "allowEoaRoles", "true");
        set(config, "hubTreasury", quoted(makeAddr("hub")));
        set(config, "relayerAdmin", quoted(makeAddr("admin")));
        assertEq(script.deploy(config, folder).HUB_TREASURY(), makeAddr("hub"));
    }

    /// @dev A key with an EIP-7702 delegation is still a key.
    function test_GivenADelegatedSettler_Deploys() public {
        begin("delegated");
        vm.etch(settler, abi.encodePacked(hex"ef0100", address(this)));
        script.deploy(config, folder);
    }

    function test_RevertWhen_AnotherContractLiesAtTheAddress() public {
        begin("other-code");
        ISplitter splitter = script.deploy(config, folder);
        bytes memory code = address(splitter).code;
        code[code.length - 1] ^= 0x01;
        vm.etch(address(splitter), code);
        vm.expectRevert("Deploy: the code is not that of this build");
        script.deploy(config, folder);
    }

    function test_RevertWhen_ChainDiffers() public {
        begin("chain");
        vm.chainId(8453);
        refuses("chainId is not the chain behind --rpc-url");
    }

    function test_RevertWhen_ConfigurationIsWrong() public {
        begin("token");
        string memory none = "\"0x0000000000000000000000000000000000000000\"";
        string memory separator =
            "\"0x1111111111111111111111111111111111111111111111111111111111111111\"";
        wrong("version", "\"3\"", "version is neither \"1.1.1\" nor \"2\"");
        wrong("chainId", "8453", "chainId is not the chain behind --rpc-url");
        wrong("usdc", quoted(makeAddr("nobody")), "usdc has no code");
        wrong(
            "usdcDomainSeparator",
            separator,
            "usdcDomainSeparator is not the token's DOMAIN_SEPARATOR()"
        );
        wrong("perTxCap", "0", "perTxCap is zero");
        wrong("relayer", none, "relayer is not set");
        wrong("relayer", quoted(address(usdc)), "relayer is the token itself");
        wrong("relayer", quoted(settler), "authorizedSettler is the same address as relayer");
        wrong(
            "networkReserve",
            quoted(hubTreasury),
            "networkReserve is the same address as hubTreasury"
        );
        wrong(
            "authorizedSettler",
            quoted(address(this)),
            "authorizedSettler has code; it must be a key"
        );
        wrong(
            "facilitators",
            string.concat("[", quoted(makeAddr("other")), ",", quoted(settler), "]"),
            "authorizedSettler is one of facilitators"
        );
    }

    function test_RevertWhen_AKeyIsMissing() public {
        begin("missing");
        string memory whole = vm.readFile(config);
        vm.writeFile(config, "{\"chainId\":84532}");
        refuses("usdc is missing");
        // Misspelt, they would otherwise be skipped.
        vm.writeFile(config, vm.replace(whole, "\"version\"", "\"Version\""));
        refuses("version is missing");
        vm.writeFile(config, vm.replace(whole, "\"facilitators\"", "\"facilitator\""));
        refuses("facilitators is missing");
    }

    function test_RevertWhen_RolesAreNoSafes() public {
        begin("safes");
        wrong("hubTreasury", quoted(makeAddr("eoa")), "hubTreasury is not a Safe");
        wrong("networkReserve", quoted(address(usdc)), "networkReserve is the token itself");
        wrong("networkReserve", quoted(address(script)), "networkReserve is not a Safe");
        wrong(
            "networkReserve",
            quoted(safe(1, "x", "y", "z")),
            "networkReserve is not a Safe of at least 2 of 3 owners"
        );
        wrong(
            "relayerAdmin",
            quoted(safe(2, "x", "y", "a")),
            "relayerAdmin shares an owner with hubTreasury"
        );
    }

    function test_RevertWhen_BaseIsToldToTakeEoas() public {
        begin("base-eoas");
        onBase("USD Coin");
        set(config, "allowEoaRoles", "true");
        refuses("allowEoaRoles is for testnets; Base needs Safes");
    }

    /// @dev Configuration and token agree, and yet it is another token.
    function test_RevertWhen_TokenIsNotTheUsdcOfTheChain() public {
        begin("base-token");
        onBase("USDC");
        refuses("usdc is not Circle's USDC of this chain; its DOMAIN_SEPARATOR() is another");
    }

    function test_RevertWhen_UsdcIsAContractButNoToken() public {
        begin("no-token");
        wrong("usdc", quoted(hubTreasury), "usdc does not have 6 decimals");
        vm.mockCallRevert(address(usdc), abi.encodeWithSignature("paused()"), "");
        config = writeConfig("no-pause.json");
        refuses("usdc does not answer paused()");
        vm.mockCall(
            address(usdc), abi.encodeWithSignature("isBlacklisted(address)", address(usdc)), ""
        );
        refuses("usdc does not answer isBlacklisted(address)");
    }

    function test_RevertWhen_TokenIsPausedOrRefusesARole() public {
        begin("paused");
        usdc.blacklist(networkReserve);
        refuses("networkReserve is blacklisted by usdc");
        usdc.pause();
        refuses("usdc is paused");
    }

    function test_RevertWhen_Version2LacksItsKeys() public {
        begin("version-2");
        set(config, "version", "\"2\"");
        refuses("minHubBps is missing");
    }

    function test_Version2_DeploysBesideVersion1() public {
        begin("version-2-deploys");
        script.deploy(config, folder);
        set(config, "version", "\"2\"");
        set(config, "minHubBps", "1000");
        set(config, "minReserveBps", "500");
        ISplitter splitter = script.deploy(config, folder);
        assertEq(splitter.MIN_HUB_BPS(), 1000);
        IJecpSplitterV2.Batch memory empty;
        vm.expectCall(address(splitter), abi.encodeCall(IJecpSplitterV2.record, (empty, 0)));
        script.deploy(config, folder);
        string memory book = vm.readFile(file("84532.json"));
        assertEq(vm.parseJsonAddress(book, ".JecpSplitterV2.address"), address(splitter));
        assertTrue(vm.keyExistsJson(book, ".JecpSplitter.address"));
        set(config, "minHubBps", "9500");
        vm.expectRevert(
            bytes(
                string.concat(config, ": minHubBps and minReserveBps leave nothing to the provider")
            )
        );
        script.deploy(config, folder);
    }

    // ------------------------------------------------------------ helpers

    /// @dev Where the configuration leads to: deploys into a folder of its own, and takes it back.
    function predict() internal returns (address splitter) {
        uint256 before = vm.snapshotState();
        splitter = address(script.deploy(config, file("elsewhere")));
        vm.revertToState(before);
    }

    function begin(string memory name) internal {
        setUpChain(string.concat("deploy-", name));
        config = writeConfig("config.json");
    }

    /// @dev Base, with a token of that name at the address of its USDC.
    function onBase(string memory name) internal {
        vm.chainId(8453);
        usdc = UsdcDouble(0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913);
        deployCodeTo("UsdcDouble.sol:UsdcDouble", address(usdc));
        usdc.initialize(name, address(this));
        config = writeConfig("base.json");
    }

    function refuses(string memory what) internal {
        vm.expectRevert(bytes(string.concat(config, ": ", what)));
        script.deploy(config, folder);
        assertFalse(vm.exists(file("84532.json")), "nothing was written");
    }

    function wrong(string memory key, string memory value, string memory what) internal {
        config = writeConfig(string.concat("wrong-", key, ".json"));
        set(config, key, value);
        refuses(what);
    }
}
