// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Vm} from "forge-std/Test.sol";
import {IJecpSplitter} from "../../src/interfaces/IJecpSplitter.sol";
import {SplitterBase} from "../unit/SplitterBase.t.sol";

/// @dev A provider or payer that is a contract; accepts every signature.
contract Wallet1271 {
    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        return 0x1626ba7e;
    }
}

/// @dev A payer that burns whatever gas it is given.
contract BurningPayer {
    function isValidSignature(bytes32, bytes calldata) external view returns (bytes4) {
        uint256 i;
        while (gasleft() > 1000) {
            i++;
        }
        return 0x1626ba7e;
    }
}

/// @dev The hazards of the published Splitter, one by one, by their numbers. "Fails" means that the
/// attack fails; "Limit" means that the contract allows it, and what of it can be seen or undone.
/// H9 is a number without a hazard.
contract HazardsTest is SplitterBase {
    uint256 internal constant PRICE = 200_000;

    Vm.Wallet internal thief = vm.createWallet("thief");

    function setUp() public override {
        super.setUp();
        register(CAPABILITY, "n1");
    }

    /// @dev One pull recorded twice would be paid out of other capabilities' money.
    function test_H1_Fails_DoubleRecordIsNotPaidFromWhatIsOwed() public {
        bytes32 other = keccak256("demo:other");
        register(other, "n2");
        received(other, 5 * PRICE);
        received(CAPABILITY, PRICE);
        vm.expectRevert(
            abi.encodeWithSelector(IJecpSplitter.InsufficientUnaccounted.selector, 0, PRICE)
        );
        record(CAPABILITY, PRICE);
        splitter.splitFor(other, payer);
        splitter.splitFor(CAPABILITY, payer);
        assertEq(splitter.totalOwed(), 0);
    }

    /// @dev What was pulled and not yet recorded has no owner on chain; a double record takes it.
    /// Exactly-once submission is the keeper's work.
    function test_H1_Limit_DoubleRecordTakesAnUnrecordedPull() public {
        pull(PRICE); // first payment
        pull(PRICE); // second payment, not yet recorded
        record(CAPABILITY, PRICE);
        record(CAPABILITY, PRICE); // the first again
        vm.expectRevert(
            abi.encodeWithSelector(IJecpSplitter.InsufficientUnaccounted.selector, 0, PRICE)
        );
        record(CAPABILITY, PRICE); // the second finds nothing, and the keeper learns of it
    }

    /// @dev Ids are public and registration is open: whoever comes first owns the id.
    function test_H2_Limit_SquatterKeepsTheId() public {
        bytes32 id = keccak256("acme:translate");
        registerAs(thief, id, [uint16(8500), 1000, 500], "junk");
        bytes memory signature =
            signRegistration(provider, id, [uint16(8500), 1000, 500], "n2", block.timestamp);
        vm.expectRevert(IJecpSplitter.CapabilityAlreadyExists.selector);
        splitter.register(id, provider.addr, 8500, 1000, 500, "n2", block.timestamp, signature);
        // The relayer cannot help; a hub sees it before it advertises.
        vm.prank(relayer);
        vm.expectRevert(IJecpSplitter.NotProvider.selector);
        splitter.deactivate(id);
        (address owner,,,,) = splitter.capabilities(id);
        assertNotEq(owner, provider.addr);
    }

    /// @dev The published contract knows no minimum for hub and reserve.
    function test_H3_Limit_ProviderChoosesTheShares() public {
        bytes32 id = keccak256("acme:translate");
        registerWith(id, [uint16(10_000), 0, 0], "n2");
        received(id, PRICE);
        splitter.splitFor(id, payer);
        assertEq(usdc.balanceOf(provider.addr), PRICE);
        (, uint16 providerBps,,,) = splitter.capabilities(id);
        assertNotEq(providerBps, 8500, "a hub compares the shares before it advertises");
    }

    /// @dev Registration nonces are global: a front-runner burns the victim's with a junk id.
    function test_H4_Limit_NonceIsBurntAndSignedAnew() public {
        bytes32 id = keccak256("acme:translate");
        bytes memory signature =
            signRegistration(provider, id, [uint16(8500), 1000, 500], "seen", block.timestamp);
        registerAs(thief, keccak256("junk"), [uint16(0), 0, 10_000], "seen");
        vm.expectRevert(IJecpSplitter.NonceUsed.selector);
        splitter.register(id, provider.addr, 8500, 1000, 500, "seen", block.timestamp, signature);
        register(id, keccak256("another nonce"));
    }

    /// @dev `splitFor`'s payer is a label: a front-runner writes what he likes and moves no money.
    function test_H5_Limit_PayerOfASplitIsALabel() public {
        received(CAPABILITY, PRICE);
        vm.expectEmit(address(splitter));
        emit IJecpSplitter.PaymentSplit(CAPABILITY, thief.addr, PRICE, 170_000, 20_000, 10_000);
        vm.prank(thief.addr);
        splitter.splitFor(CAPABILITY, thief.addr);
        assertEq(usdc.balanceOf(thief.addr), 0);
        // The keeper's own split finds it done.
        vm.expectRevert(IJecpSplitter.AmountZero.selector);
        splitter.splitFor(CAPABILITY, payer);
    }

    /// @dev A caller cannot starve the push so that a healthy provider is escrowed: what is left
    /// after a starved push is too little for the rest. Every gas limit in the range, with the
    /// escrow slot empty and not, and with shares that leave nothing to do after the push.
    function test_H6_Fails_NoGasLimitEscrowsAHealthyProvider() public {
        bytes32 whole = keccak256("demo:whole");
        registerWith(whole, [uint16(10_000), 0, 0], "n2");
        for (uint256 seeded = 0; seeded < 2; seeded++) {
            if (seeded == 1) escrowOnce(CAPABILITY, PRICE);
            scanGasLimits(CAPABILITY, true);
            scanGasLimits(whole, true);
            // As with an access list: what the push leaves goes further when all is warm.
            scanGasLimits(CAPABILITY, false);
            scanGasLimits(whole, false);
        }
    }

    /// @dev Treasury and reserve are immutable: blacklisted, they stop every split; nothing is
    /// lost, and what is recorded is paid once they are free again.
    function test_H7_Limit_BlacklistedTreasuryOrReserveStopsSplits() public {
        received(CAPABILITY, PRICE);
        address[2] memory receivers = [hubTreasury, networkReserve];
        for (uint256 i = 0; i < receivers.length; i++) {
            usdc.blacklist(receivers[i]);
            vm.expectRevert("Blacklistable: account is blacklisted");
            splitter.splitFor(CAPABILITY, payer);
            usdc.unBlacklist(receivers[i]);
        }
        splitter.splitFor(CAPABILITY, payer);
        assertEq(usdc.balanceOf(provider.addr), 170_000);
    }

    function test_H7_Limit_BlacklistedSplitterStopsEverything() public {
        received(CAPABILITY, PRICE);
        usdc.blacklist(address(splitter));
        vm.expectRevert("Blacklistable: account is blacklisted");
        splitter.splitFor(CAPABILITY, payer);
        vm.prank(provider.addr);
        vm.expectRevert("Blacklistable: account is blacklisted");
        splitter.deactivate(CAPABILITY);
        assertEq(splitter.totalOwed(), PRICE);
    }

    /// @dev `withdraw` pays its caller only.
    function test_H8_Limit_BlacklistedProvidersEscrowStays() public {
        escrowOnce(CAPABILITY, PRICE);
        vm.prank(provider.addr);
        vm.expectRevert("Blacklistable: account is blacklisted");
        splitter.withdraw();
        // Nobody else gets at it, the settler included.
        vm.expectRevert(
            abi.encodeWithSelector(IJecpSplitter.InsufficientUnaccounted.selector, 0, 1)
        );
        record(CAPABILITY, 1);
        usdc.unBlacklist(provider.addr);
        vm.prank(provider.addr);
        splitter.withdraw();
        assertEq(usdc.balanceOf(provider.addr), 170_000);
    }

    /// @dev The second signature that every ECDSA signature implies is refused.
    function test_H10_Fails_MalleatedSignatureIsRefused() public {
        bytes32 id = keccak256("acme:translate");
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(
            provider,
            registrationDigest(id, provider.addr, [uint16(8500), 1000, 500], "n2", block.timestamp)
        );
        bytes memory flipped = highS(v, r, s);
        assertEq(
            ecrecover(
                registrationDigest(
                    id, provider.addr, [uint16(8500), 1000, 500], "n2", block.timestamp
                ),
                uint8(flipped[64]),
                r,
                bytes32(
                    0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141 - uint256(s)
                )
            ),
            provider.addr,
            "the curve takes it"
        );
        vm.expectRevert(IJecpSplitter.InvalidSignature.selector);
        splitter.register(id, provider.addr, 8500, 1000, 500, "n2", block.timestamp, flipped);
    }

    /// @dev One unit goes to the reserve whole, and nobody is sent a transfer of zero.
    function test_H11_Limit_DustGoesToTheReserve() public {
        received(CAPABILITY, 1);
        vm.recordLogs();
        splitter.splitFor(CAPABILITY, payer);
        assertEq(vm.getRecordedLogs().length, 2, "PaymentSplit and one Transfer");
        assertEq(usdc.balanceOf(networkReserve), 1);
    }

    /// @dev A stolen settler key attributes what is not yet attributed to itself, and nothing else.
    function test_H12_Limit_SettlersKeyTakesTheUnattributedAndNoMore() public {
        received(CAPABILITY, PRICE);
        escrowOnce(CAPABILITY, PRICE); // splits both: 340,000 in escrow
        received(CAPABILITY, PRICE);
        pull(3 * PRICE);

        bytes32 loot = keccak256("loot");
        registerAs(thief, loot, [uint16(10_000), 0, 0], "loot");
        record(loot, 3 * PRICE);
        splitter.splitFor(loot, payer);
        assertEq(usdc.balanceOf(thief.addr), 3 * PRICE);

        vm.expectRevert(
            abi.encodeWithSelector(IJecpSplitter.InsufficientUnaccounted.selector, 0, 1)
        );
        record(loot, 1);
        assertEq(usdc.balanceOf(address(splitter)), splitter.totalOwed());
    }

    /// @dev A stranger submits the payer's authorization before the facilitator: the money is in
    /// the Splitter all the same, and is recorded as if nothing had happened.
    function test_H13_Limit_StrangerSubmitsFirst_MoneyArrivesAllTheSame() public {
        Vm.Wallet memory agent = vm.createWallet("agent");
        usdc.mint(agent.addr, PRICE);
        bytes memory signature = signTransfer(agent, PRICE, "auth");
        uint256 end = block.timestamp + 60;
        vm.prank(thief.addr);
        usdc.transferWithAuthorization(
            agent.addr, address(splitter), PRICE, 0, end, "auth", signature
        );
        vm.expectRevert("FiatTokenV2: authorization is used or canceled");
        usdc.transferWithAuthorization(
            agent.addr, address(splitter), PRICE, 0, end, "auth", signature
        );
        record(CAPABILITY, PRICE);
        splitter.splitFor(CAPABILITY, agent.addr);
        assertEq(usdc.balanceOf(provider.addr), 170_000);
    }

    /// @dev The provider re-registers with all shares for himself before the pending split.
    function test_H14_Fails_ReregistrationDoesNotReachWhatIsRecorded() public {
        received(CAPABILITY, PRICE);
        vm.prank(provider.addr);
        splitter.deactivate(CAPABILITY);
        registerWith(CAPABILITY, [uint16(10_000), 0, 0], "n2");
        vm.expectRevert(IJecpSplitter.AmountZero.selector);
        splitter.splitFor(CAPABILITY, payer);
        assertEq(usdc.balanceOf(provider.addr), 170_000);
        assertEq(usdc.balanceOf(hubTreasury), 20_000);
        assertEq(usdc.balanceOf(networkReserve), 10_000);
    }

    /// @dev What is pulled and not recorded goes by the shares at its record: a provider who
    /// re-registers in between takes all of it. A keeper reads the shares right before it records.
    function test_H14_Limit_ReregistrationBeforeTheRecordTakesTheShares() public {
        pull(PRICE);
        vm.prank(provider.addr);
        splitter.deactivate(CAPABILITY);
        registerWith(CAPABILITY, [uint16(10_000), 0, 0], "n2");
        record(CAPABILITY, PRICE);
        splitter.splitFor(CAPABILITY, payer);
        assertEq(usdc.balanceOf(provider.addr), PRICE);
    }

    /// @dev Money pulled for a capability that ends before its record is not lost: the settler
    /// records it to a refund capability of the hub.
    function test_H15_Limit_PullBeforeDeactivationIsRecoveredByARefundCapability() public {
        pull(PRICE);
        vm.prank(provider.addr);
        splitter.deactivate(CAPABILITY);
        vm.expectRevert(IJecpSplitter.CapabilityNotActive.selector);
        record(CAPABILITY, PRICE);

        Vm.Wallet memory hub = vm.createWallet("hub refunds");
        bytes32 refunds = keccak256("hub:refunds");
        registerAs(hub, refunds, [uint16(10_000), 0, 0], "refunds");
        record(refunds, PRICE);
        splitter.splitFor(refunds, payer);
        assertEq(usdc.balanceOf(hub.addr), PRICE);
    }

    /// @dev A stranger takes the id after its provider left, and finds nothing in it.
    function test_H16_Fails_SuccessorInheritsNothing() public {
        received(CAPABILITY, PRICE);
        vm.prank(provider.addr);
        splitter.deactivate(CAPABILITY);
        registerAs(thief, CAPABILITY, [uint16(10_000), 0, 0], "n2");
        vm.expectRevert(IJecpSplitter.AmountZero.selector);
        splitter.splitFor(CAPABILITY, payer);
        assertEq(usdc.balanceOf(thief.addr), 0);
        assertEq(usdc.balanceOf(provider.addr), 170_000);
    }

    /// @dev A signature that was not used can be submitted by anyone until its deadline, also
    /// against its signer's later will. It ends with the deadline.
    function test_H17_Limit_UnusedSignatureLivesUntilItsDeadline() public {
        uint256 deadline = block.timestamp + 1 hours;
        uint16[3] memory old = [uint16(5000), 4000, 1000];
        bytes memory signature = signRegistration(provider, CAPABILITY, old, "old", deadline);
        vm.prank(provider.addr);
        splitter.deactivate(CAPABILITY);

        uint256 before = vm.snapshotState();
        vm.prank(thief.addr);
        splitter.register(CAPABILITY, provider.addr, 5000, 4000, 1000, "old", deadline, signature);
        (, uint16 providerBps,,, bool active) = splitter.capabilities(CAPABILITY);
        assertTrue(active);
        assertEq(providerBps, 5000);

        vm.revertToState(before);
        vm.warp(deadline + 1);
        vm.expectRevert(IJecpSplitter.SignatureExpired.selector);
        splitter.register(CAPABILITY, provider.addr, 5000, 4000, 1000, "old", deadline, signature);
    }

    /// @dev The cap bounds one call, not a day.
    function test_H18_Limit_CapIsPerCall() public {
        pull(3 * CAP);
        for (uint256 i = 0; i < 3; i++) {
            record(CAPABILITY, CAP);
        }
        assertEq(splitter.accountedBalance(CAPABILITY), 3 * CAP);
    }

    /// @dev The published Splitter pulls nothing, so a payer that burns gas burns his own pull.
    function test_H19_Fails_GasBurningPayerHurtsOnlyHisOwnPull() public {
        BurningPayer burner = new BurningPayer();
        usdc.mint(address(burner), PRICE);
        (bool success,) = address(usdc).call{gas: 200_000}(
            abi.encodeWithSignature(
                "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)",
                address(burner),
                address(splitter),
                PRICE,
                0,
                block.timestamp + 60,
                keccak256("auth"),
                ""
            )
        );
        assertFalse(success);
        received(CAPABILITY, PRICE);
        splitter.splitFor(CAPABILITY, payer);
        assertEq(usdc.balanceOf(provider.addr), 170_000);
    }

    /// @dev A reorg drops the pull and keeps the record: the record reverts instead of promising
    /// money that is not there.
    function test_H20_Fails_RecordWithoutItsPullReverts() public {
        uint256 parent = vm.snapshotState();
        received(CAPABILITY, PRICE);
        vm.revertToState(parent);
        vm.expectRevert(
            abi.encodeWithSelector(IJecpSplitter.InsufficientUnaccounted.selector, 0, PRICE)
        );
        record(CAPABILITY, PRICE);
    }

    /// @dev Providers are accounts with a key: a contract wallet is not asked (C-25).
    function test_H21_Limit_ContractWalletCannotRegister() public {
        Wallet1271 wallet = new Wallet1271();
        bytes memory signature = signRegistration(
            provider, keccak256("id"), [uint16(8500), 1000, 500], "n2", block.timestamp
        );
        vm.expectRevert(IJecpSplitter.InvalidSignature.selector);
        splitter.register(
            keccak256("id"), address(wallet), 8500, 1000, 500, "n2", block.timestamp, signature
        );
    }

    /// @dev EIP-7702: an account with a delegation still has its key, and registers with it.
    function test_H21_Fails_DelegatedProviderRegistersWithItsKey() public {
        vm.etch(provider.addr, abi.encodePacked(hex"ef0100", address(new Wallet1271())));
        register(keccak256("id"), "n2");
    }

    /// @dev Ids collide where a name contains the separator; the hub's grammar for namespaces and
    /// actions, ^[a-z][a-z0-9-]*$, has no ':'.
    function test_H22_Limit_IdsCollideOnlyThroughTheSeparator() public pure {
        assertEq(idOf("a", "b:c"), idOf("a:b", "c"));
        assertNotEq(idOf("a", "b-c"), idOf("a-b", "c"));
    }

    /// @dev A price above the cap can be paid and cannot be recorded in one call.
    function test_H23_Limit_PriceAboveTheCapNeedsTwoRecords() public {
        pull(CAP + 1);
        vm.expectRevert(IJecpSplitter.AmountExceedsCap.selector);
        record(CAPABILITY, CAP + 1);
        record(CAPABILITY, CAP);
        record(CAPABILITY, 1);
        assertEq(splitter.accountedBalance(CAPABILITY), CAP + 1);
    }

    /// @dev A record that is built on a preconfirmed pull reverts while the pull is not in a block,
    /// and passes once it is; the contract itself knows no confirmations.
    function test_H24_Limit_RecordWaitsForTheSealedPull() public {
        vm.expectRevert(
            abi.encodeWithSelector(IJecpSplitter.InsufficientUnaccounted.selector, 0, PRICE)
        );
        record(CAPABILITY, PRICE);
        received(CAPABILITY, PRICE);
        assertEq(splitter.accountedBalance(CAPABILITY), PRICE);
    }

    // ------------------------------------------------------------ helpers

    function received(bytes32 capabilityId, uint256 amount) internal {
        pull(amount);
        record(capabilityId, amount);
    }

    function escrowOnce(bytes32 capabilityId, uint256 amount) internal {
        received(capabilityId, amount);
        usdc.blacklist(provider.addr);
        splitter.splitFor(capabilityId, payer);
    }

    function scanGasLimits(bytes32 capabilityId, bool cold) internal {
        usdc.unBlacklist(provider.addr);
        received(capabilityId, PRICE);
        uint256 escrowed = splitter.providerEscrow(provider.addr);
        bytes memory call = abi.encodeCall(IJecpSplitter.splitFor, (capabilityId, payer));
        uint256 start = vm.snapshotState();
        uint256 passed;
        for (uint256 limit = 5000; limit < 160_000; limit += 250) {
            if (cold) {
                vm.cool(address(splitter));
                vm.cool(address(usdc));
            }
            (bool success,) = address(splitter).call{gas: limit}(call);
            if (success) passed++;
            assertEq(splitter.providerEscrow(provider.addr), escrowed, "escrowed a healthy one");
            vm.revertToState(start);
        }
        assertGt(passed, 0, "the range reaches limits that suffice");
        assertLt(passed, 620, "and limits that do not");
    }

    function registerAs(Vm.Wallet memory who, bytes32 capabilityId, uint16[3] memory bps, bytes32 n)
        internal
    {
        bytes memory signature = signRegistration(who, capabilityId, bps, n, block.timestamp);
        splitter.register(
            capabilityId, who.addr, bps[0], bps[1], bps[2], n, block.timestamp, signature
        );
    }

    function signTransfer(Vm.Wallet memory from, uint256 value, bytes32 nonce)
        internal
        returns (bytes memory)
    {
        bytes32 structHash = keccak256(
            abi.encode(
                usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(),
                from.addr,
                address(splitter),
                value,
                0,
                block.timestamp + 60,
                nonce
            )
        );
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(
            from, keccak256(abi.encodePacked("\x19\x01", usdc.DOMAIN_SEPARATOR(), structHash))
        );
        return abi.encodePacked(r, s, v);
    }

    function idOf(string memory namespace, string memory action) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(namespace, ":", action));
    }
}
