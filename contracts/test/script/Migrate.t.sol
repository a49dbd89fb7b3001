// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Vm, VmSafe} from "forge-std/Vm.sol";
import {Migrate} from "../../../script/Migrate.s.sol";
import {ISplitter} from "../../../script/base/ISplitter.sol";
import {JecpSplitter} from "../../src/JecpSplitter.sol";
import {JecpSplitterV2} from "../../src/JecpSplitterV2.sol";
import {ScriptBase} from "./ScriptBase.t.sol";

/// @dev Answers `eth_getLogs` from the logs of this test, since there is no node.
contract MigrateWithoutNode is Migrate {
    VmSafe.EthGetLogs[] internal stored;
    uint256 public queries;

    function store(Vm.Log[] memory logs) external {
        for (uint256 i = 0; i < logs.length; i++) {
            VmSafe.EthGetLogs storage log = stored.push();
            (log.emitter, log.topics, log.data) = (logs[i].emitter, logs[i].topics, logs[i].data);
        }
    }

    function _logs(uint256 first, uint256 last, address emitter, bytes32[] memory topics)
        internal
        override
        returns (VmSafe.EthGetLogs[] memory found)
    {
        require(first <= last, "empty range");
        queries++;
        uint256 count;
        found = new VmSafe.EthGetLogs[](stored.length);
        for (uint256 i = 0; i < stored.length; i++) {
            if (stored[i].emitter == emitter && stored[i].topics[0] == topics[0]) {
                found[count++] = stored[i];
            }
        }
        assembly {
            mstore(found, count)
        }
    }

    function digestOf(string memory path) external view returns (bytes32) {
        return _digest(_readRegistration(path));
    }
}

/// @dev script/Migrate.s.sol (R-182, R-205): export, signatures, register, drain.
contract MigrateTest is ScriptBase {
    bytes32 internal constant ECHO = keccak256("demo:echo");
    bytes32 internal constant GONE = keccak256("demo:gone");
    bytes32 internal constant AGAIN = keccak256("demo:again");

    MigrateWithoutNode internal script;
    JecpSplitter internal from;
    JecpSplitter internal to;
    string internal migration;

    function test_ExportsWhatIsActive_RegistersOnceSigned_AndDrains() public {
        begin("whole");
        script.exportCapabilities(migration);
        string memory index = vm.readFile(file("export/index.json"));
        bytes32[] memory ids = vm.parseJsonBytes32Array(index, ".capabilities");
        assertEq(ids.length, 2);
        assertEq(ids[0], ECHO);
        assertEq(ids[1], AGAIN, "once, with the terms of its last registration");
        string memory again = vm.readFile(registration(AGAIN));
        assertEq(vm.parseJsonUint(again, ".providerBps"), 9000);

        sign(ECHO);
        sign(AGAIN);
        script.register(migration);
        (address who, uint16 providerBps,,, bool active) = to.capabilities(AGAIN);
        assertTrue(active);
        assertEq(who, provider.addr);
        assertEq(providerBps, 9000);
        (,,,, active) = to.capabilities(GONE);
        assertFalse(active);
        // A second run finds everything done.
        script.register(migration);

        usdc.mint(address(from), 300_000);
        vm.prank(settler);
        from.recordSettlement(ECHO, 200_000);
        script.drain(migration);
        assertEq(usdc.balanceOf(provider.addr), 170_000);
        assertEq(from.totalOwed(), 0);
        assertEq(usdc.balanceOf(address(from)), 100_000, "what nobody recorded stays");
        script.drain(migration);
    }

    /// @dev The typed data in the file is what wallets sign: its hash is the digest.
    function test_TypedDataHashesToTheDigest() public {
        begin("typed-data");
        script.exportCapabilities(migration);
        string memory json = vm.readFile(registration(ECHO));
        bytes32 digest = vm.parseJsonBytes32(json, ".digest");
        assertEq(digest, script.digestOf(registration(ECHO)));
        assertEq(vm.parseJsonString(json, ".typedData.primaryType"), "Register");
        assertEq(vm.parseJsonAddress(json, ".typedData.domain.verifyingContract"), address(to));
        assertEq(vm.parseJsonBytes32(json, ".typedData.message.capabilityId"), ECHO);
        assertEq(vm.parseJsonUint(json, ".typedData.message.deadline"), block.timestamp + 1 days);
    }

    function test_RevertWhen_OneSignatureIsMissing() public {
        begin("missing");
        script.exportCapabilities(migration);
        sign(ECHO);
        vm.expectRevert(
            bytes(string.concat(registration(AGAIN), ": signature is missing; have it signed"))
        );
        script.register(migration);
        (,,,, bool active) = to.capabilities(ECHO);
        assertFalse(active, "nothing was sent");
    }

    function test_RevertWhen_ASignatureIsWrong() public {
        begin("wrong");
        script.exportCapabilities(migration);
        sign(ECHO);
        provider = vm.createWallet("thief");
        sign(AGAIN);
        vm.expectRevert(
            bytes(
                string.concat(
                    registration(AGAIN), ": signature is not the provider's over these terms"
                )
            )
        );
        script.register(migration);
    }

    function test_RevertWhen_TermsWereChangedAfterSigning() public {
        begin("changed");
        script.exportCapabilities(migration);
        sign(ECHO);
        sign(AGAIN);
        set(registration(ECHO), "providerBps", "8400");
        set(registration(ECHO), "hubBps", "1100");
        vm.expectRevert(
            bytes(
                string.concat(
                    registration(ECHO), ": signature is not the provider's over these terms"
                )
            )
        );
        script.register(migration);
    }

    function test_RevertWhen_DeadlineHasPassed() public {
        begin("deadline");
        script.exportCapabilities(migration);
        sign(ECHO);
        sign(AGAIN);
        vm.warp(block.timestamp + 1 days + 1);
        vm.expectRevert(
            bytes(string.concat(registration(ECHO), ": deadline has passed; have it signed again"))
        );
        script.register(migration);
        refusesExport("deadline has passed");
    }

    function test_RevertWhen_ExportWouldOverwriteSignatures() public {
        begin("overwrite");
        script.exportCapabilities(migration);
        refusesExport(
            "folder holds an export already; name another, or delete it if nobody signed yet"
        );
    }

    function test_RevertWhen_MigrationIsWrong() public {
        begin("config");
        set(migration, "chainId", "8453");
        refusesExport("chainId is not the chain behind --rpc-url");
        set(migration, "chainId", "84532");
        set(migration, "to", quoted(address(from)));
        refusesExport("from and to are the same");
        set(migration, "to", quoted(address(usdc)));
        refusesExport("to is not a JecpSplitter 1.1.1 or 2");
        set(migration, "to", quoted(address(splitter(settler, relayer))));
        refusesExport("from and to have the same settler; a replaced Splitter keeps its own");
        set(migration, "to", quoted(address(to)));
        vm.expectRevert(bytes(string.concat(migration, ": folder holds no export; export first")));
        script.register(migration);
    }

    function test_RevertWhen_FromBlockIsInTheFuture() public {
        begin("future");
        set(migration, "fromBlock", vm.toString(block.number + 1));
        refusesExport("fromBlock is not there yet");
        set(migration, "fromBlock", vm.toString(block.number));
        script.exportCapabilities(migration);
    }

    function test_RevertWhen_SharesAreBelowTheMinimumsOfVersion2() public {
        begin("minimums");
        string memory what =
            string.concat("to has a minimum above capability ", vm.toString(AGAIN), "'s ");
        set(migration, "to", quoted(version2(701, 300)));
        refusesExport(string.concat(what, "hubBps"));
        set(migration, "to", quoted(version2(700, 301)));
        refusesExport(string.concat(what, "reserveBps"));
        assertFalse(vm.exists(file("export")), "nothing was written");
        set(migration, "to", quoted(version2(700, 300)));
        script.exportCapabilities(migration);
    }

    function test_AsksForLogsInRanges() public {
        begin("ranges");
        vm.roll(1_000_000);
        set(migration, "fromBlock", "975000");
        script.exportCapabilities(migration);
        assertEq(script.queries(), 3);
    }

    // ------------------------------------------------------------ helpers

    function begin(string memory name) internal {
        setUpChain(string.concat("migrate-", name));
        script = new MigrateWithoutNode();
        vm.recordLogs();
        from = splitter(settler, relayer);
        to = splitter(makeAddr("new settler"), makeAddr("new relayer"));
        register(ECHO, [uint16(8500), 1000, 500], "n1");
        register(GONE, [uint16(8500), 1000, 500], "n2");
        register(AGAIN, [uint16(8500), 1000, 500], "n3");
        vm.startPrank(provider.addr);
        from.deactivate(GONE);
        from.deactivate(AGAIN);
        vm.stopPrank();
        register(AGAIN, [uint16(9000), 700, 300], "n4");
        script.store(vm.getRecordedLogs());

        migration = file("migration.json");
        vm.serializeUint("m", "chainId", block.chainid);
        vm.serializeAddress("m", "from", address(from));
        vm.serializeAddress("m", "to", address(to));
        vm.serializeUint("m", "fromBlock", 0);
        vm.serializeUint("m", "deadline", block.timestamp + 1 days);
        vm.writeJson(vm.serializeString("m", "folder", file("export")), migration);
    }

    function splitter(address settler_, address relayer_) internal returns (JecpSplitter) {
        return new JecpSplitter(
            address(usdc),
            hubTreasury,
            networkReserve,
            relayer_,
            relayerAdmin,
            settler_,
            1_000_000_000
        );
    }

    function version2(uint256 minHubBps, uint256 minReserveBps) internal returns (address) {
        return address(
            new JecpSplitterV2(
                address(usdc),
                hubTreasury,
                networkReserve,
                relayer,
                relayerAdmin,
                makeAddr("new settler"),
                1_000_000_000,
                minHubBps,
                minReserveBps
            )
        );
    }

    function register(bytes32 id, uint16[3] memory bps, bytes32 nonce) internal {
        bytes32 structHash = keccak256(
            abi.encode(
                0xf39281b2b70b55eacbdf74c62f0e3723a046ffcdad655521cee338584c3d96d8,
                id,
                provider.addr,
                bps[0],
                bps[1],
                bps[2],
                nonce,
                block.timestamp
            )
        );
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(
            provider,
            keccak256(abi.encodePacked("\x19\x01", from.EIP712_DOMAIN_SEPARATOR(), structHash))
        );
        from.register(
            id,
            provider.addr,
            bps[0],
            bps[1],
            bps[2],
            nonce,
            block.timestamp,
            abi.encodePacked(r, s, v)
        );
    }

    function registration(bytes32 id) internal view returns (string memory) {
        return file(string.concat("export/", vm.toString(id), ".json"));
    }

    /// @dev As the provider does: over the digest in the file, into the file.
    function sign(bytes32 id) internal {
        string memory path = registration(id);
        bytes32 digest = vm.parseJsonBytes32(vm.readFile(path), ".digest");
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(provider, digest);
        string memory signature = vm.toString(abi.encodePacked(r, s, v));
        set(path, "signature", string.concat("\"", signature, "\""));
    }

    function refusesExport(string memory what) internal {
        vm.expectRevert(bytes(string.concat(migration, ": ", what)));
        script.exportCapabilities(migration);
    }
}
