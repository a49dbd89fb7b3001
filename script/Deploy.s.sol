// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Script, console} from "forge-std/Script.sol";
import {stdJson} from "forge-std/StdJson.sol";
import {JecpSplitter} from "../contracts/src/JecpSplitter.sol";

/// @dev What the script reads of USDC before it trusts the address in the configuration.
interface IUsdc {
    function decimals() external view returns (uint8);
    function paused() external view returns (bool);
    function DOMAIN_SEPARATOR() external view returns (bytes32);
    function isBlacklisted(address account) external view returns (bool);
}

/// @title Deploy
/// @notice Deploys JecpSplitter by CREATE2 and writes the address book
/// `deployments/<chainId>.json`. A second run with the same configuration finds the code in place
/// and changes nothing.
///
/// Reads `script/config/<chainId>.json`; `DEPLOY_CONFIG` and `DEPLOYMENTS_DIR` name other places.
/// Everything that can be wrong is checked before the first broadcast, everything that was
/// deployed is read back after it.
contract Deploy is Script {
    using stdJson for string;

    bytes32 internal constant SALT = keccak256("JecpSplitter 1.1.1");

    struct Config {
        string path;
        uint256 chainId;
        address usdc;
        bytes32 usdcDomainSeparator;
        address hubTreasury;
        address networkReserve;
        address relayer;
        address relayerAdmin;
        address authorizedSettler;
        uint256 perTxCap;
        bool allowEoaRoles;
    }

    function run() external returns (JecpSplitter splitter) {
        Config memory config = _readConfig();
        _checkConfig(config);

        bytes memory arguments = abi.encode(
            config.usdc,
            config.hubTreasury,
            config.networkReserve,
            config.relayer,
            config.relayerAdmin,
            config.authorizedSettler,
            config.perTxCap
        );
        bytes32 initCodeHash =
            keccak256(abi.encodePacked(type(JecpSplitter).creationCode, arguments));
        address predicted = vm.computeCreate2Address(SALT, initCodeHash, CREATE2_FACTORY);

        if (predicted.code.length != 0) {
            console.log("JecpSplitter is already at", predicted);
            splitter = JecpSplitter(predicted);
        } else {
            vm.broadcast();
            splitter = new JecpSplitter{salt: SALT}(
                config.usdc,
                config.hubTreasury,
                config.networkReserve,
                config.relayer,
                config.relayerAdmin,
                config.authorizedSettler,
                config.perTxCap
            );
            require(address(splitter) == predicted, "Deploy: deployed to an unexpected address");
            console.log("JecpSplitter deployed to", predicted);
        }

        _checkDeployment(config, splitter);
        _writeAddressBook(config, splitter, arguments);
    }

    function _readConfig() internal view returns (Config memory config) {
        string memory fallbackPath =
            string.concat("script/config/", vm.toString(block.chainid), ".json");
        config.path = vm.envOr("DEPLOY_CONFIG", fallbackPath);
        string memory json = vm.readFile(config.path);
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
    }

    function _checkConfig(Config memory config) internal view {
        _require(
            config, config.chainId == block.chainid, "chainId is not the chain behind --rpc-url"
        );
        _require(config, config.usdc.code.length != 0, "usdc has no code");
        _require(config, IUsdc(config.usdc).decimals() == 6, "usdc does not have 6 decimals");
        // Wrong token and wrong name look alike to a human; not to the separator.
        _require(
            config,
            IUsdc(config.usdc).DOMAIN_SEPARATOR() == config.usdcDomainSeparator,
            "usdcDomainSeparator is not the token's DOMAIN_SEPARATOR()"
        );
        _require(config, !IUsdc(config.usdc).paused(), "usdc is paused");
        _require(config, config.perTxCap != 0, "perTxCap is zero");

        _require(
            config,
            !(config.allowEoaRoles && config.chainId == 8453),
            "allowEoaRoles is for testnets; Base needs Safes"
        );
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
            _require(config, roles[i] != address(0), string.concat(names[i], " is not set"));
            _require(
                config,
                !IUsdc(config.usdc).isBlacklisted(roles[i]),
                string.concat(names[i], " is blacklisted by usdc")
            );
            // The first three hold money or power and are Safes; the last two are KMS keys.
            if (i < 3 && !config.allowEoaRoles) {
                _require(
                    config, roles[i].code.length != 0, string.concat(names[i], " is not a Safe")
                );
            }
            for (uint256 j = 0; j < i; j++) {
                _require(
                    config,
                    roles[i] != roles[j],
                    string.concat(names[i], " is the same address as ", names[j])
                );
            }
        }
    }

    function _checkDeployment(Config memory config, JecpSplitter splitter) internal {
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
        (,,, uint256 chainId, address verifyingContract,,) = splitter.eip712Domain();
        require(
            chainId == block.chainid && verifyingContract == address(splitter),
            "Deploy: EIP-712 domain differs"
        );
        // A stranger cannot record.
        vm.prank(address(0xdead));
        try splitter.recordSettlement(bytes32(0), 1) {
            revert("Deploy: a stranger could record a settlement");
        } catch (bytes memory reason) {
            require(
                keccak256(reason) == keccak256(abi.encodeWithSignature("UnauthorizedSettler()")),
                "Deploy: a stranger was refused for the wrong reason"
            );
        }
    }

    function _writeAddressBook(Config memory config, JecpSplitter splitter, bytes memory arguments)
        internal
    {
        string memory entry = "JecpSplitter";
        vm.serializeAddress(entry, "address", address(splitter));
        vm.serializeBytes32(entry, "codeHash", address(splitter).codehash);
        vm.serializeBytes32(entry, "salt", SALT);
        vm.serializeBytes(entry, "constructorArguments", arguments);
        vm.serializeAddress(entry, "usdc", config.usdc);
        vm.serializeAddress(entry, "hubTreasury", config.hubTreasury);
        vm.serializeAddress(entry, "networkReserve", config.networkReserve);
        vm.serializeAddress(entry, "relayerAdmin", config.relayerAdmin);
        vm.serializeAddress(entry, "authorizedSettler", config.authorizedSettler);
        string memory contractJson = vm.serializeUint(entry, "perTxCap", config.perTxCap);

        string memory book = "book";
        vm.serializeUint(book, "chainId", config.chainId);
        string memory json = vm.serializeString(book, "JecpSplitter", contractJson);

        string memory directory = vm.envOr("DEPLOYMENTS_DIR", string("deployments"));
        vm.writeJson(json, string.concat(directory, "/", vm.toString(config.chainId), ".json"));
    }

    /// @dev Every refusal names the file and the line to change.
    function _require(Config memory config, bool condition, string memory what) internal pure {
        require(condition, string.concat(config.path, ": ", what));
    }
}
