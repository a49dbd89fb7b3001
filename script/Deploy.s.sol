// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {console} from "forge-std/Script.sol";
import {stdJson} from "forge-std/StdJson.sol";
import {VmSafe} from "forge-std/Vm.sol";
import {JecpSplitter} from "../contracts/src/JecpSplitter.sol";
import {JecpSplitterV2} from "../contracts/src/JecpSplitterV2.sol";
import {IJecpSplitterV2} from "../contracts/src/interfaces/IJecpSplitterV2.sol";
import {ISafe, ISplitter, IUsdc} from "./base/ISplitter.sol";
import {SplitterScript} from "./base/SplitterScript.sol";

/// @title Deploy
/// @notice Deploys a Splitter by CREATE2 and writes the address book `deployments/<chainId>.json`.
/// A second run with the same configuration finds the code in place, sends nothing, and notes in
/// the address book that it held the chain against the build (`checkedOnChain`).
///
/// Reads `script/config/<chainId>.json`; `DEPLOY_CONFIG` and `DEPLOYMENTS_DIR` name other places.
/// The key `version` chooses the contract: "1.1.1" is JecpSplitter, "2" is JecpSplitterV2, which
/// also needs `minHubBps` and `minReserveBps`. Each has its own entry in the address book; a run
/// leaves the other entries alone.
///
/// An entry with another address is only replaced when the configuration names it (`replaces`).
///
/// Everything that can be wrong is checked before the first broadcast, everything that was
/// deployed is read back: in the first run from the simulation, in the second from the chain.
contract Deploy is SplitterScript {
    using stdJson for string;

    uint256 internal constant BASE = 8453;
    uint256 internal constant BASE_SEPOLIA = 84_532;
    uint256 internal constant ANVIL = 31_337;
    /// @dev `DOMAIN_SEPARATOR()` of Circle's USDC: its name, version, chain and address in one
    /// word.
    bytes32 internal constant USDC_OF_BASE =
        0x02fa7265e7c5d81118673727957699e4d68f74cd74b7db77da710fe8a2c7834f;
    bytes32 internal constant USDC_OF_BASE_SEPOLIA =
        0x71f17a3b2ff373b803d70a5a07c046c1a2bc8e89c09ef722fcb047abe94c9818;

    struct Config {
        string path;
        string version;
        uint256 chainId;
        address usdc;
        bytes32 usdcDomainSeparator;
        address hubTreasury;
        address networkReserve;
        address relayer;
        address relayerAdmin;
        address authorizedSettler;
        uint256 perTxCap;
        uint256 minHubBps;
        uint256 minReserveBps;
        bool allowEoaRoles;
        address[] facilitators;
        /// @dev The entry of the address book that this one may take; zero for none.
        address replaces;
    }

    /// @dev What is to lie on chain: init code (creation code and constructor arguments) and where.
    struct Plan {
        string name;
        bytes32 salt;
        bytes arguments;
        bytes initCode;
        address predicted;
    }

    function run() external returns (ISplitter) {
        string memory config = string.concat("script/config/", vm.toString(block.chainid), ".json");
        return deploy(
            vm.envOr("DEPLOY_CONFIG", config), vm.envOr("DEPLOYMENTS_DIR", string("deployments"))
        );
    }

    function deploy(string memory path, string memory directory)
        public
        returns (ISplitter splitter)
    {
        Config memory config = _readConfig(path);
        _checkConfig(config);
        Plan memory plan = _plan(config);
        splitter = ISplitter(plan.predicted);
        bool isThere = plan.predicted.code.length != 0;
        address replaced = _replaced(config, plan, directory);

        if (isThere) {
            console.log(plan.name, "is already at", plan.predicted);
        } else {
            _refuseUnless(
                path, CREATE2_FACTORY.code.length != 0, "chainId has no CREATE2 factory at 0x4e59"
            );
            _refuseUnless(
                path,
                !IUsdc(config.usdc).isBlacklisted(plan.predicted),
                "usdc has blacklisted the address of the Splitter; change a constructor argument"
            );
            vm.broadcast();
            (bool success,) = CREATE2_FACTORY.call(abi.encodePacked(plan.salt, plan.initCode));
            require(success, "Deploy: the constructor reverted");
            require(plan.predicted.code.length != 0, "Deploy: nothing at the predicted address");
            console.log(plan.name, "deployed to", plan.predicted);
        }

        _checkDeployment(config, plan, splitter);
        if (!isThere && vm.isContext(VmSafe.ForgeContext.ScriptDryRun)) {
            console.log("dry run: nothing was sent, and no address book written");
        } else {
            _writeAddressBook(config, plan, directory, isThere, replaced);
            // Forge simulates first and sends afterwards: what was read back was the simulation.
            if (!isThere) {
                console.log("run it again: the second run holds the chain against the build");
            }
        }
    }

    // ------------------------------------------------------------ before

    function _readConfig(string memory path) internal view returns (Config memory config) {
        string memory json = vm.readFile(path);
        config.path = path;
        string[] memory keys = new string[](12);
        keys[0] = "chainId";
        keys[1] = "usdc";
        keys[2] = "usdcDomainSeparator";
        keys[3] = "hubTreasury";
        keys[4] = "networkReserve";
        keys[5] = "relayer";
        keys[6] = "relayerAdmin";
        keys[7] = "authorizedSettler";
        keys[8] = "perTxCap";
        keys[9] = "allowEoaRoles";
        keys[10] = "version";
        keys[11] = "facilitators";
        _requireKeys(path, json, keys);

        config.version = json.readString(".version");
        bool isV2 = _equal(config.version, V2);
        _refuseUnless(
            path, isV2 || _equal(config.version, V1), "version is neither \"1.1.1\" nor \"2\""
        );
        config.chainId = json.readUint(".chainId");
        config.usdc = json.readAddress(".usdc");
        config.usdcDomainSeparator = json.readBytes32(".usdcDomainSeparator");
        config.hubTreasury = json.readAddress(".hubTreasury");
        config.networkReserve = json.readAddress(".networkReserve");
        config.relayer = json.readAddress(".relayer");
        config.relayerAdmin = json.readAddress(".relayerAdmin");
        config.authorizedSettler = json.readAddress(".authorizedSettler");
        config.perTxCap = json.readUint(".perTxCap");
        config.allowEoaRoles = json.readBool(".allowEoaRoles");
        config.facilitators = json.readAddressArray(".facilitators");
        config.replaces = json.readAddressOr(".replaces", address(0));
        if (isV2) {
            string[] memory more = new string[](2);
            more[0] = "minHubBps";
            more[1] = "minReserveBps";
            _requireKeys(path, json, more);
            config.minHubBps = json.readUint(".minHubBps");
            config.minReserveBps = json.readUint(".minReserveBps");
        }
    }

    function _checkConfig(Config memory config) internal view {
        string memory path = config.path;
        _requireChain(path, config.chainId);
        _checkToken(config);
        _refuseUnless(path, config.perTxCap != 0, "perTxCap is zero");
        _refuseUnless(
            path,
            config.minHubBps < 10_000 && config.minReserveBps < 10_000
                && config.minHubBps + config.minReserveBps < 10_000,
            "minHubBps and minReserveBps leave nothing to the provider"
        );
        _refuseUnless(
            path,
            !config.allowEoaRoles || config.chainId == BASE_SEPOLIA || config.chainId == ANVIL,
            "allowEoaRoles is for testnets; Base needs Safes"
        );
        _checkRoles(config);
    }

    function _checkToken(Config memory config) internal view {
        string memory path = config.path;
        address usdc = config.usdc;
        _refuseUnless(path, usdc.code.length != 0, "usdc has no code");
        (bool answers, uint256 answer) = _ask(usdc, abi.encodeCall(IUsdc.decimals, ()));
        _refuseUnless(path, answers && answer == 6, "usdc does not have 6 decimals");
        // Wrong token and wrong name look alike to a human; not to the separator.
        (answers, answer) = _ask(usdc, abi.encodeCall(IUsdc.DOMAIN_SEPARATOR, ()));
        _refuseUnless(
            path,
            answers && bytes32(answer) == config.usdcDomainSeparator,
            "usdcDomainSeparator is not the token's DOMAIN_SEPARATOR()"
        );
        // A configuration can be wrong about both; where the token is known, it is known here.
        bytes32 known;
        if (config.chainId == BASE) known = USDC_OF_BASE;
        if (config.chainId == BASE_SEPOLIA) known = USDC_OF_BASE_SEPOLIA;
        _refuseUnless(
            path,
            known == 0 || bytes32(answer) == known,
            "usdc is not Circle's USDC of this chain; its DOMAIN_SEPARATOR() is another"
        );
        (answers, answer) = _ask(usdc, abi.encodeCall(IUsdc.isBlacklisted, (usdc)));
        _refuseUnless(path, answers, "usdc does not answer isBlacklisted(address)");
        (answers, answer) = _ask(usdc, abi.encodeCall(IUsdc.paused, ()));
        _refuseUnless(path, answers, "usdc does not answer paused()");
        _refuseUnless(path, answer == 0, "usdc is paused");
    }

    /// @dev One word from a contract that may be anything; a call that reverts names no file.
    function _ask(address account, bytes memory call)
        internal
        view
        returns (bool answers, uint256 answer)
    {
        bytes memory result;
        (answers, result) = account.staticcall(call);
        answers = answers && result.length == 32;
        if (answers) answer = abi.decode(result, (uint256));
    }

    function _checkRoles(Config memory config) internal view {
        string memory path = config.path;
        string[5] memory names =
            ["hubTreasury", "networkReserve", "relayerAdmin", "relayer", "authorizedSettler"];
        address[5] memory roles = [
            config.hubTreasury,
            config.networkReserve,
            config.relayerAdmin,
            config.relayer,
            config.authorizedSettler
        ];
        for (uint256 i = 0; i < roles.length; i++) {
            _refuseUnless(path, roles[i] != address(0), string.concat(names[i], " is not set"));
            _refuseUnless(
                path, roles[i] != config.usdc, string.concat(names[i], " is the token itself")
            );
            _refuseUnless(
                path,
                !IUsdc(config.usdc).isBlacklisted(roles[i]),
                string.concat(names[i], " is blacklisted by usdc")
            );
            for (uint256 j = 0; j < i; j++) {
                _refuseUnless(
                    path,
                    roles[i] != roles[j],
                    string.concat(names[i], " is the same address as ", names[j])
                );
            }
            // The first three hold money or power and are Safes; the last two are KMS keys.
            if (i < 3) {
                if (!config.allowEoaRoles) _checkSafe(path, names, roles, i);
            } else {
                _refuseUnless(
                    path, _isKey(roles[i]), string.concat(names[i], " has code; it must be a key")
                );
            }
        }
        for (uint256 i = 0; i < config.facilitators.length; i++) {
            _refuseUnless(
                path,
                config.authorizedSettler != config.facilitators[i],
                "authorizedSettler is one of facilitators"
            );
        }
    }

    /// @dev 2 of 3 or more, and no owner in two Safes (errata E.1.1).
    function _checkSafe(
        string memory path,
        string[5] memory names,
        address[5] memory roles,
        uint256 which
    ) internal view {
        string memory name = names[which];
        (uint256 threshold, address[] memory owners) = _safe(roles[which]);
        _refuseUnless(path, owners.length != 0, string.concat(name, " is not a Safe"));
        _refuseUnless(
            path,
            threshold >= 2 && owners.length >= 3,
            string.concat(name, " is not a Safe of at least 2 of 3 owners")
        );
        for (uint256 i = 0; i < which; i++) {
            (, address[] memory others) = _safe(roles[i]);
            for (uint256 j = 0; j < owners.length; j++) {
                for (uint256 k = 0; k < others.length; k++) {
                    _refuseUnless(
                        path,
                        owners[j] != others[k],
                        string.concat(name, " shares an owner with ", names[i])
                    );
                }
            }
        }
    }

    /// @dev Threshold and owners; no owners for whatever is not a Safe.
    function _safe(address account)
        internal
        view
        returns (uint256 threshold, address[] memory owners)
    {
        if (account.code.length == 0) return (0, owners);
        try ISafe(account).getThreshold() returns (uint256 value) {
            threshold = value;
        } catch {
            return (0, owners);
        }
        try ISafe(account).getOwners() returns (address[] memory list) {
            owners = list;
        } catch {}
    }

    // ------------------------------------------------------------ what and where

    function _plan(Config memory config) internal view returns (Plan memory plan) {
        plan.arguments = abi.encode(
            config.usdc,
            config.hubTreasury,
            config.networkReserve,
            config.relayer,
            config.relayerAdmin,
            config.authorizedSettler,
            config.perTxCap
        );
        bytes memory creationCode;
        if (_equal(config.version, V1)) {
            plan.name = "JecpSplitter";
            plan.salt = keccak256("JecpSplitter 1.1.1");
            creationCode = type(JecpSplitter).creationCode;
        } else {
            plan.name = "JecpSplitterV2";
            plan.salt = keccak256("JecpSplitter 2");
            plan.arguments =
                abi.encodePacked(plan.arguments, config.minHubBps, config.minReserveBps);
            creationCode = type(JecpSplitterV2).creationCode;
        }
        plan.initCode = abi.encodePacked(creationCode, plan.arguments);
        plan.predicted =
            vm.computeCreate2Address(plan.salt, keccak256(plan.initCode), CREATE2_FACTORY);
    }

    // ------------------------------------------------------------ after

    function _checkDeployment(Config memory config, Plan memory plan, ISplitter splitter) internal {
        // The code to the last byte, every immutable in it: the constructor, run again at the very
        // address, must return what lies there.
        bytes memory expected = _runtimeCode(plan);
        require(
            keccak256(expected) == address(splitter).codehash,
            "Deploy: the code is not that of this build"
        );

        require(splitter.USDC() == config.usdc, "Deploy: USDC differs");
        require(splitter.HUB_TREASURY() == config.hubTreasury, "Deploy: HUB_TREASURY differs");
        require(
            splitter.NETWORK_RESERVE() == config.networkReserve, "Deploy: NETWORK_RESERVE differs"
        );
        require(splitter.RELAYER_ADMIN() == config.relayerAdmin, "Deploy: RELAYER_ADMIN differs");
        require(
            splitter.AUTHORIZED_SETTLER() == config.authorizedSettler,
            "Deploy: AUTHORIZED_SETTLER differs"
        );
        require(splitter.PER_TX_CAP() == config.perTxCap, "Deploy: PER_TX_CAP differs");
        if (_equal(config.version, V2)) {
            require(splitter.MIN_HUB_BPS() == config.minHubBps, "Deploy: MIN_HUB_BPS differs");
            require(
                splitter.MIN_RESERVE_BPS() == config.minReserveBps,
                "Deploy: MIN_RESERVE_BPS differs"
            );
        }
        // The relayer may have been rotated since; anything else is read from the code.
        if (splitter.relayer() != config.relayer) {
            console.log("relayer was rotated to", splitter.relayer());
        }
        string memory version = _versionOf(config.path, "the deployed Splitter", splitter);
        require(_equal(version, config.version), "Deploy: EIP-712 version differs");
        require(
            splitter.EIP712_DOMAIN_SEPARATOR()
                == keccak256(
                    abi.encode(
                        keccak256(
                            "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
                        ),
                        keccak256("JecpSplitter"),
                        keccak256(bytes(config.version)),
                        config.chainId,
                        address(splitter)
                    )
                ),
            "Deploy: EIP-712 domain differs"
        );
        _checkStrangerIsRefused(config, splitter);
    }

    function _checkStrangerIsRefused(Config memory config, ISplitter splitter) internal {
        IJecpSplitterV2.Batch memory empty;
        bytes memory call = _equal(config.version, V1)
            ? abi.encodeCall(ISplitter.recordSettlement, (bytes32(0), 1))
            : abi.encodeCall(IJecpSplitterV2.record, (empty, 0));
        vm.prank(address(0xdead));
        (bool success, bytes memory reason) = address(splitter).call(call);
        require(!success, "Deploy: a stranger could record a settlement");
        require(
            keccak256(reason) == keccak256(abi.encodeWithSignature("UnauthorizedSettler()")),
            "Deploy: a stranger was refused for the wrong reason"
        );
    }

    /// @dev Runs the init code as if it lay at the address itself, which is what a constructor
    /// sees, and puts everything back.
    function _runtimeCode(Plan memory plan) internal returns (bytes memory runtime) {
        uint256 before = vm.snapshotState();
        vm.etch(plan.predicted, plan.initCode);
        bool success;
        (success, runtime) = plan.predicted.call("");
        vm.revertToState(before);
        require(success, "Deploy: the constructor refuses these arguments now");
    }

    // ------------------------------------------------------------ the address book

    function _book(Config memory config, string memory directory)
        internal
        pure
        returns (string memory)
    {
        return string.concat(directory, "/", vm.toString(config.chainId), ".json");
    }

    /// @dev The address whose entry this one takes, or took; zero for none. A Splitter that is
    /// still drained must not vanish because a constructor argument was edited.
    function _replaced(Config memory config, Plan memory plan, string memory directory)
        internal
        view
        returns (address)
    {
        string memory path = _book(config, directory);
        if (!vm.exists(path)) return address(0);
        string memory json = vm.readFile(path);
        string memory key = string.concat(".", plan.name, ".address");
        if (!vm.keyExistsJson(json, key)) return address(0);
        address old = json.readAddress(key);
        if (old == plan.predicted) {
            return json.readAddressOr(string.concat(".", plan.name, ".replaces"), address(0));
        }
        string memory wrong = string.concat(
            "replaces does not name ",
            vm.toString(old),
            ", which is ",
            plan.name,
            " in ",
            path,
            "; this configuration leads to ",
            vm.toString(plan.predicted)
        );
        _refuseUnless(config.path, config.replaces == old, wrong);
        return old;
    }

    function _writeAddressBook(
        Config memory config,
        Plan memory plan,
        string memory directory,
        bool checkedOnChain,
        address replaced
    ) internal {
        string memory entry = plan.name;
        vm.serializeBool(entry, "checkedOnChain", checkedOnChain);
        if (replaced != address(0)) vm.serializeAddress(entry, "replaces", replaced);
        vm.serializeAddress(entry, "address", plan.predicted);
        vm.serializeBytes32(entry, "codeHash", plan.predicted.codehash);
        vm.serializeBytes32(entry, "salt", plan.salt);
        vm.serializeBytes(entry, "constructorArguments", plan.arguments);
        vm.serializeString(entry, "version", config.version);
        vm.serializeAddress(entry, "usdc", config.usdc);
        vm.serializeAddress(entry, "hubTreasury", config.hubTreasury);
        vm.serializeAddress(entry, "networkReserve", config.networkReserve);
        vm.serializeAddress(entry, "relayerAdmin", config.relayerAdmin);
        vm.serializeAddress(entry, "authorizedSettler", config.authorizedSettler);
        if (_equal(config.version, V2)) {
            vm.serializeUint(entry, "minHubBps", config.minHubBps);
            vm.serializeUint(entry, "minReserveBps", config.minReserveBps);
        }
        string memory contractJson = vm.serializeUint(entry, "perTxCap", config.perTxCap);

        vm.createDir(directory, true);
        string memory path = _book(config, directory);
        string memory book = "book";
        // Entries of other versions stay.
        string memory json = vm.exists(path) ? vm.serializeJson(book, vm.readFile(path)) : "";
        json = vm.serializeUint(book, "chainId", config.chainId);
        json = vm.serializeString(book, plan.name, contractJson);
        vm.writeJson(json, path);
    }
}
