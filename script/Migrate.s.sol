// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {console} from "forge-std/Script.sol";
import {stdJson} from "forge-std/StdJson.sol";
import {VmSafe} from "forge-std/Vm.sol";
import {ISplitter, IUsdc} from "./base/ISplitter.sol";
import {SplitterScript} from "./base/SplitterScript.sol";

/// @title Migrate
/// @notice Moves the active capabilities of one JecpSplitter 1.1.1 to another Splitter, of either
/// version (R-182, R-205). docs/runbooks/settler-rotation.md says when and in which order.
///
/// Reads the file named by `MIGRATION`: chainId, from, to, fromBlock (where the history of `from`
/// begins), deadline (last second at which the providers' signatures hold), folder (where the
/// registrations lie), and optionally logRange (blocks per query, 10,000 when absent). In steps,
/// each chosen by `--sig`:
///
/// - `exportCapabilities()` reads the events of `from`, checks each capability against its state
///   and against the minimum shares of a `to` of version 2, and writes
/// `<folder>/<capabilityId>.json`, a registration at `to` without its signature, and the typed data
/// that the provider signs. It never overwrites a file.
/// - the providers sign; each signature goes into its file as `signature`.
/// - `register()` submits all of them, or nothing while one is missing or wrong.
/// - `drain()` splits what is still accounted at `from`, and says what else lies there.
contract Migrate is SplitterScript {
    using stdJson for string;

    bytes32 internal constant CAPABILITY_REGISTERED =
        keccak256("CapabilityRegistered(bytes32,address,uint16,uint16,uint16)");

    struct Migration {
        string path;
        uint256 chainId;
        ISplitter from;
        ISplitter to;
        uint256 fromBlock;
        uint256 logRange;
        uint256 deadline;
        string folder;
    }

    function exportCapabilities() external {
        exportCapabilities(vm.envString("MIGRATION"));
    }

    function register() external {
        register(vm.envString("MIGRATION"));
    }

    function drain() external {
        drain(vm.envString("MIGRATION"));
    }

    // ------------------------------------------------------------ export

    function exportCapabilities(string memory path) public {
        Migration memory m = _readMigration(path);
        _refuseUnless(path, m.deadline > block.timestamp, "deadline has passed");
        _refuseUnless(path, m.fromBlock <= block.number, "fromBlock is not there yet");
        string memory index = _index(m);
        _refuseUnless(
            path,
            !vm.exists(index),
            "folder holds an export already; name another, or delete it if nobody signed yet"
        );

        bytes32[] memory ids = _activeCapabilities(m);
        _checkShares(m, ids);
        vm.createDir(m.folder, true);
        for (uint256 i = 0; i < ids.length; i++) {
            _writeRegistration(m, ids[i]);
        }
        string memory list = "index";
        vm.serializeUint(list, "chainId", m.chainId);
        vm.serializeAddress(list, "from", address(m.from));
        vm.serializeAddress(list, "to", address(m.to));
        vm.serializeUint(list, "block", block.number);
        vm.writeJson(vm.serializeBytes32(list, "capabilities", ids), index);
        console.log("exported", ids.length, "capabilities to", m.folder);
    }

    /// @dev From the events, each held against the contract: active there, once in the list.
    function _activeCapabilities(Migration memory m) internal returns (bytes32[] memory ids) {
        ids = new bytes32[](0);
        bytes32[] memory topics = new bytes32[](1);
        topics[0] = CAPABILITY_REGISTERED;
        for (uint256 first = m.fromBlock; first <= block.number; first += m.logRange) {
            uint256 last = first + m.logRange - 1;
            if (last > block.number) last = block.number;
            VmSafe.EthGetLogs[] memory logs = _logs(first, last, address(m.from), topics);
            for (uint256 i = 0; i < logs.length; i++) {
                bytes32 id = logs[i].topics[1];
                (,,,, bool active) = m.from.capabilities(id);
                if (active && !_contains(ids, id)) ids = _append(ids, id);
            }
        }
    }

    /// @dev Nobody shall sign what version 2 refuses for its shares.
    function _checkShares(Migration memory m, bytes32[] memory ids) internal view {
        if (!_equal(_versionOf(m.path, "to", m.to), V2)) return;
        uint256 minHubBps = m.to.MIN_HUB_BPS();
        uint256 minReserveBps = m.to.MIN_RESERVE_BPS();
        for (uint256 i = 0; i < ids.length; i++) {
            (,, uint16 hubBps, uint16 reserveBps,) = m.from.capabilities(ids[i]);
            string memory what =
                string.concat("to has a minimum above capability ", vm.toString(ids[i]));
            _refuseUnless(m.path, hubBps >= minHubBps, string.concat(what, "'s hubBps"));
            _refuseUnless(m.path, reserveBps >= minReserveBps, string.concat(what, "'s reserveBps"));
        }
    }

    /// @dev Its own function so that a test without a node can answer.
    function _logs(uint256 first, uint256 last, address emitter, bytes32[] memory topics)
        internal
        virtual
        returns (VmSafe.EthGetLogs[] memory)
    {
        return vm.eth_getLogs(first, last, emitter, topics);
    }

    function _writeRegistration(Migration memory m, bytes32 id) internal {
        Registration memory r;
        (r.provider, r.providerBps, r.hubBps, r.reserveBps,) = m.from.capabilities(id);
        r.chainId = m.chainId;
        r.splitter = m.to;
        r.capabilityId = id;
        // Random, so that nobody can burn it before it is seen (H4).
        r.nonce = bytes32(vm.randomUint());
        r.deadline = m.deadline;

        string memory file = vm.toString(id);
        vm.serializeUint(file, "chainId", r.chainId);
        vm.serializeAddress(file, "splitter", address(r.splitter));
        vm.serializeBytes32(file, "capabilityId", id);
        vm.serializeAddress(file, "provider", r.provider);
        vm.serializeUint(file, "providerBps", r.providerBps);
        vm.serializeUint(file, "hubBps", r.hubBps);
        vm.serializeUint(file, "reserveBps", r.reserveBps);
        vm.serializeBytes32(file, "nonce", r.nonce);
        vm.serializeUint(file, "deadline", r.deadline);
        vm.serializeBytes(file, "signature", "");
        vm.serializeBytes32(file, "digest", _digest(r));
        vm.writeJson(vm.serializeString(file, "typedData", _typedData(r)), _file(m, id));
    }

    /// @dev What `eth_signTypedData_v4` takes.
    function _typedData(Registration memory r) internal view returns (string memory) {
        (,, string memory version,,,,) = r.splitter.eip712Domain();
        string memory domain = string.concat(
            "{\"name\":\"JecpSplitter\",\"version\":\"",
            version,
            "\",\"chainId\":",
            vm.toString(r.chainId),
            ",\"verifyingContract\":\"",
            vm.toString(address(r.splitter)),
            "\"}"
        );
        string memory types = string.concat(
            "{\"EIP712Domain\":[",
            _field("name", "string"),
            ",",
            _field("version", "string"),
            ",",
            _field("chainId", "uint256"),
            ",",
            _field("verifyingContract", "address"),
            "],\"Register\":[",
            _field("capabilityId", "bytes32"),
            ",",
            _field("provider", "address"),
            ","
        );
        types = string.concat(
            types,
            _field("providerBps", "uint16"),
            ",",
            _field("hubBps", "uint16"),
            ",",
            _field("reserveBps", "uint16"),
            ",",
            _field("nonce", "bytes32"),
            ",",
            _field("deadline", "uint256"),
            "]}"
        );
        string memory message = string.concat(
            "{\"capabilityId\":\"",
            vm.toString(r.capabilityId),
            "\",\"provider\":\"",
            vm.toString(r.provider),
            "\",\"providerBps\":",
            vm.toString(r.providerBps),
            ",\"hubBps\":",
            vm.toString(r.hubBps),
            ",\"reserveBps\":",
            vm.toString(r.reserveBps)
        );
        message = string.concat(
            message,
            ",\"nonce\":\"",
            vm.toString(r.nonce),
            "\",\"deadline\":",
            vm.toString(r.deadline),
            "}"
        );
        return string.concat(
            "{\"types\":",
            types,
            ",\"primaryType\":\"Register\",\"domain\":",
            domain,
            ",\"message\":",
            message,
            "}"
        );
    }

    function _field(string memory name, string memory kind) internal pure returns (string memory) {
        return string.concat("{\"name\":\"", name, "\",\"type\":\"", kind, "\"}");
    }

    // ------------------------------------------------------------ register

    function register(string memory path) public {
        Migration memory m = _readMigration(path);
        bytes32[] memory ids = _exported(m);
        Registration[] memory pending = new Registration[](ids.length);
        uint256 count;
        // All of them are looked at before the first is sent.
        for (uint256 i = 0; i < ids.length; i++) {
            Registration memory r = _readRegistration(_file(m, ids[i]));
            _refuseUnless(r.path, r.splitter == m.to, "splitter is not the migration's to");
            _refuseUnless(r.path, r.capabilityId == ids[i], "capabilityId is not the file's name");
            if (_checkRegistration(r)) pending[count++] = r;
        }
        for (uint256 i = 0; i < count; i++) {
            _submit(pending[i]);
        }
        console.log("registered", count, "capabilities, already there:", ids.length - count);
    }

    // ------------------------------------------------------------ drain

    function drain(string memory path) public {
        Migration memory m = _readMigration(path);
        bytes32[] memory ids = _exported(m);
        uint256 count;
        for (uint256 i = 0; i < ids.length; i++) {
            (,,,, bool active) = m.from.capabilities(ids[i]);
            if (!active || m.from.accountedBalance(ids[i]) == 0) continue;
            vm.broadcast();
            m.from.splitFor(ids[i], address(0));
            require(m.from.accountedBalance(ids[i]) == 0, "Migrate: a split left something");
            count++;
        }
        console.log("split", count, "capabilities");
        uint256 balance = IUsdc(m.from.USDC()).balanceOf(address(m.from));
        uint256 owed = m.from.totalOwed();
        console.log("still owed at from, in escrow or accounted elsewhere, micro-USDC:", owed);
        console.log("lying at from unrecorded, micro-USDC:", balance > owed ? balance - owed : 0);
    }

    // ------------------------------------------------------------ inside

    function _readMigration(string memory path) internal view returns (Migration memory m) {
        string memory json = vm.readFile(path);
        string[] memory keys = new string[](6);
        keys[0] = "chainId";
        keys[1] = "from";
        keys[2] = "to";
        keys[3] = "fromBlock";
        keys[4] = "deadline";
        keys[5] = "folder";
        _requireKeys(path, json, keys);
        m.path = path;
        m.chainId = json.readUint(".chainId");
        m.from = ISplitter(json.readAddress(".from"));
        m.to = ISplitter(json.readAddress(".to"));
        m.fromBlock = json.readUint(".fromBlock");
        m.deadline = json.readUint(".deadline");
        m.folder = json.readString(".folder");
        m.logRange = json.readUintOr(".logRange", 10_000);

        _requireChain(path, m.chainId);
        _refuseUnless(path, m.from != m.to, "from and to are the same");
        _refuseUnless(path, m.logRange != 0, "logRange is zero");
        string memory version = _versionOf(path, "from", m.from);
        _refuseUnless(path, _equal(version, V1), "from is not version 1.1.1");
        _versionOf(path, "to", m.to);
        _refuseUnless(path, m.from.USDC() == m.to.USDC(), "from and to use different tokens");
        _refuseUnless(
            path,
            m.from.AUTHORIZED_SETTLER() != m.to.AUTHORIZED_SETTLER(),
            "from and to have the same settler; a replaced Splitter keeps its own"
        );
    }

    function _exported(Migration memory m) internal view returns (bytes32[] memory) {
        string memory index = _index(m);
        _refuseUnless(m.path, vm.exists(index), "folder holds no export; export first");
        string memory json = vm.readFile(index);
        _refuseUnless(
            index,
            json.readAddress(".from") == address(m.from)
                && json.readAddress(".to") == address(m.to),
            "from or to is not the migration's"
        );
        return json.readBytes32Array(".capabilities");
    }

    function _index(Migration memory m) internal pure returns (string memory) {
        return string.concat(m.folder, "/index.json");
    }

    function _file(Migration memory m, bytes32 id) internal pure returns (string memory) {
        return string.concat(m.folder, "/", vm.toString(id), ".json");
    }

    function _contains(bytes32[] memory list, bytes32 item) internal pure returns (bool) {
        for (uint256 i = 0; i < list.length; i++) {
            if (list[i] == item) return true;
        }
        return false;
    }

    function _append(bytes32[] memory list, bytes32 item)
        internal
        pure
        returns (bytes32[] memory longer)
    {
        longer = new bytes32[](list.length + 1);
        for (uint256 i = 0; i < list.length; i++) {
            longer[i] = list[i];
        }
        longer[list.length] = item;
    }
}
