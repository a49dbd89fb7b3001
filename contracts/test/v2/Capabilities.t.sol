// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Vm} from "forge-std/Test.sol";
import {JecpSplitterV2} from "../../src/JecpSplitterV2.sol";
import {IJecpSplitterV2} from "../../src/interfaces/IJecpSplitterV2.sol";
import {ContractPayer} from "../doubles/ContractPayer.sol";
import {V2Base} from "./V2Base.t.sol";

contract V2CapabilitiesTest is V2Base {
    uint16[3] internal bps = [8500, 1000, 500];
    uint16[3] internal otherBps = [7000, 2000, 1000];

    // ------------------------------------------------------------ register

    function test_GivenProvidersSignature_WhenAnyoneSubmits_StoresItUnpayable() public {
        bytes memory signature = signRegistration(provider, OTHER, bps, "n");
        vm.expectEmit(address(splitter));
        emit IJecpSplitterV2.CapabilityRegistered(OTHER, provider.addr, 8500, 1000, 500);
        vm.prank(stranger);
        submit(OTHER, provider.addr, bps, "n", signature);
        assertRegistered(OTHER, provider.addr, bps);
        assertPayable(OTHER, address(0), [uint16(0), 0, 0], false);
        assertTrue(splitter.usedNonces(provider.addr, "n"));
        assertFalse(splitter.usedNonces(stranger, "n"));
    }

    function test_GivenContractProvider_WhenItAccepts_Registers() public {
        ContractPayer wallet = new ContractPayer(provider.addr);
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(provider, registrationDigest(OTHER, address(wallet), bps, "n", block.timestamp));
        bytes memory short = abi.encodePacked(r, s, v);
        wallet.setMood(ContractPayer.Mood.Rejecting);
        vm.expectRevert(IJecpSplitterV2.InvalidSignature.selector);
        submit(OTHER, address(wallet), bps, "n", short);
        wallet.setMood(ContractPayer.Mood.Honest);
        submit(OTHER, address(wallet), bps, "n", abi.encode(uint256(0), short));
        assertRegistered(OTHER, address(wallet), bps);
    }

    /// @dev EIP-7702: the key still speaks for the account that runs code.
    function test_GivenProviderWithCode_WhenItsKeySigns_Registers() public {
        bytes memory signature = signRegistration(provider, OTHER, bps, "n");
        vm.etch(provider.addr, address(usdc).code);
        submit(OTHER, provider.addr, bps, "n", signature);
        assertRegistered(OTHER, provider.addr, bps);
    }

    function test_RevertWhen_SharesDoNotSumTo10000() public {
        vm.expectRevert(IJecpSplitterV2.InvalidSplit.selector);
        submit(OTHER, provider.addr, [uint16(8500), 1000, 501], "n", "");
        vm.expectRevert(IJecpSplitterV2.InvalidSplit.selector);
        submit(OTHER, provider.addr, [type(uint16).max, 1000, 500], "n", "");
    }

    /// @dev H3: 10000/0/0 is nobody's to sign.
    function test_RevertWhen_AShareIsBelowItsMinimum() public {
        vm.expectRevert(IJecpSplitterV2.ShareBelowMinimum.selector);
        submit(OTHER, provider.addr, [uint16(10_000), 0, 0], "n", "");
        vm.expectRevert(IJecpSplitterV2.ShareBelowMinimum.selector);
        submit(OTHER, provider.addr, [uint16(9401), 499, 100], "n", "");
        vm.expectRevert(IJecpSplitterV2.ShareBelowMinimum.selector);
        submit(OTHER, provider.addr, [uint16(9401), 500, 99], "n", "");
        register(OTHER, provider, [uint16(9400), 500, 100]);
    }

    function test_RevertWhen_DeadlineHasPassed() public {
        bytes memory signature = signRegistration(provider, OTHER, bps, "n");
        uint256 deadline = block.timestamp;
        vm.warp(deadline + 1);
        vm.expectRevert(IJecpSplitterV2.SignatureExpired.selector);
        splitter.register(OTHER, provider.addr, 8500, 1000, 500, "n", deadline, signature);
        vm.warp(deadline);
        splitter.register(OTHER, provider.addr, 8500, 1000, 500, "n", deadline, signature);
    }

    function test_RevertWhen_ProvidersNonceIsUsed() public {
        submit(OTHER, provider.addr, bps, "n", signRegistration(provider, OTHER, bps, "n"));
        bytes memory again = signRegistration(provider, OTHER, otherBps, "n");
        vm.expectRevert(IJecpSplitterV2.NonceUsed.selector);
        submit(OTHER, provider.addr, otherBps, "n", again);
        // H4: nonces are the provider's own; nobody can use them up for him.
        submit(
            OTHER, otherProvider.addr, bps, "n", signRegistration(otherProvider, OTHER, bps, "n")
        );
    }

    function test_RevertWhen_CapabilityIsPayable() public {
        bytes memory signature = signRegistration(otherProvider, CAPABILITY, bps, "n");
        vm.expectRevert(IJecpSplitterV2.CapabilityAlreadyExists.selector);
        submit(CAPABILITY, otherProvider.addr, bps, "n", signature);
    }

    function test_RevertWhen_SignatureIsNotTheProviders() public {
        bytes memory good = signRegistration(provider, OTHER, bps, "n");
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(provider, registrationDigest(OTHER, provider.addr, bps, "n", block.timestamp));
        uint256 order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        bytes[6] memory bad = [
            signRegistration(otherProvider, OTHER, bps, "n"),
            abi.encodePacked(r, bytes32(order - uint256(s)), v == 27 ? uint8(28) : uint8(27)),
            abi.encodePacked(r, bytes32(uint256(s) | uint256(v - 27) << 255)),
            bytes.concat(good, hex"00"),
            signRegistration(provider, CAPABILITY, bps, "n"),
            bytes("")
        ];
        for (uint256 i = 0; i < bad.length; ++i) {
            vm.expectRevert(IJecpSplitterV2.InvalidSignature.selector);
            submit(OTHER, provider.addr, bps, "n", bad[i]);
        }
        vm.expectRevert(IJecpSplitterV2.InvalidSignature.selector);
        submit(OTHER, address(0), bps, "n", new bytes(65));
        vm.expectRevert(IJecpSplitterV2.InvalidSignature.selector);
        submit(OTHER, provider.addr, otherBps, "n", good);

        JecpSplitterV2 twin = deploy();
        vm.expectRevert(IJecpSplitterV2.InvalidSignature.selector);
        twin.register(OTHER, provider.addr, 8500, 1000, 500, "n", block.timestamp, good);
        submit(OTHER, provider.addr, bps, "n", good);
    }

    /// @dev H2: a squatter gets a registration of his own, and nothing else.
    function test_GivenSquatter_WhenProviderRegisters_RelayerApprovesTheProvider() public {
        register(OTHER, otherProvider, otherBps);
        register(OTHER, provider, bps);
        assertRegistered(OTHER, otherProvider.addr, otherBps);
        assertRegistered(OTHER, provider.addr, bps);
        // Registering once more between the provider's registration and its approval is no help.
        register(OTHER, otherProvider, otherBps);
        approve(OTHER, provider.addr, bps);
        assertPayable(OTHER, provider.addr, bps, true);
    }

    function test_GivenUnpayableRegistration_WhenRegisteredAnew_Replaces() public {
        register(OTHER, provider, bps);
        register(OTHER, provider, otherBps);
        assertRegistered(OTHER, provider.addr, otherBps);
    }

    // ------------------------------------------------------------ approve

    function test_GivenRegistration_WhenApproved_IsPayable() public {
        register(OTHER, provider, otherBps);
        vm.expectEmit(address(splitter));
        emit IJecpSplitterV2.CapabilityApproved(OTHER, provider.addr, 7000, 2000, 1000);
        approve(OTHER, provider.addr, otherBps);
        assertPayable(OTHER, provider.addr, otherBps, true);
    }

    function test_RevertWhen_CallerIsNotTheRelayer() public {
        register(OTHER, provider, bps);
        address[7] memory others =
            [hubTreasury, networkReserve, settler, relayerAdmin, provider.addr, payer, stranger];
        for (uint256 i = 0; i < others.length; i++) {
            vm.startPrank(others[i]);
            vm.expectRevert(IJecpSplitterV2.UnauthorizedRelayer.selector);
            splitter.approve(OTHER, provider.addr, 8500, 1000, 500);
            vm.expectRevert(IJecpSplitterV2.UnauthorizedRelayer.selector);
            splitter.revoke(CAPABILITY);
            vm.stopPrank();
        }
    }

    function test_RevertWhen_ThereIsNothingToApprove() public {
        vm.startPrank(relayer);
        vm.expectRevert(IJecpSplitterV2.CapabilityAlreadyExists.selector);
        splitter.approve(CAPABILITY, provider.addr, 8500, 1000, 500);
        vm.expectRevert(IJecpSplitterV2.NotRegistered.selector);
        splitter.approve(OTHER, provider.addr, 8500, 1000, 500);
        vm.expectRevert(IJecpSplitterV2.NotRegistered.selector);
        splitter.approve(OTHER, provider.addr, 0, 0, 0);
    }

    /// @dev A provider who swaps his shares just before the approval is not approved.
    function test_RevertWhen_SharesWereChangedBeforeTheApproval() public {
        register(OTHER, provider, bps);
        register(OTHER, provider, [uint16(9400), 500, 100]);
        uint16[3][4] memory seen =
            [bps, [uint16(9401), 500, 100], [uint16(9400), 501, 100], [uint16(9400), 500, 101]];
        for (uint256 i = 0; i < 4; ++i) {
            vm.prank(relayer);
            vm.expectRevert(IJecpSplitterV2.RegistrationChanged.selector);
            splitter.approve(OTHER, provider.addr, seen[i][0], seen[i][1], seen[i][2]);
        }
    }

    // ------------------------------------------------------------ revoke

    function test_GivenPayableCapability_WhenRevoked_MayBeApprovedAgain() public {
        vm.expectEmit(address(splitter));
        emit IJecpSplitterV2.CapabilityRevoked(CAPABILITY, provider.addr);
        vm.prank(relayer);
        splitter.revoke(CAPABILITY);
        assertPayable(CAPABILITY, provider.addr, bps, false);
        // What a stolen relayer key revoked, its successor approves; providers need not sign again.
        approve(CAPABILITY, provider.addr, bps);
        assertPayable(CAPABILITY, provider.addr, bps, true);
    }

    function test_GivenRevokedCapability_WhenAnotherRegistersAnew_MayBeApproved() public {
        vm.prank(relayer);
        splitter.revoke(CAPABILITY);
        makePayable(CAPABILITY, otherProvider, otherBps);
        assertPayable(CAPABILITY, otherProvider.addr, otherBps, true);
    }

    function test_RevertWhen_ThereIsNothingToRevoke() public {
        register(OTHER, provider, bps);
        vm.prank(relayer);
        vm.expectRevert(IJecpSplitterV2.CapabilityNotActive.selector);
        splitter.revoke(OTHER);
    }

    // ------------------------------------------------------------ deactivate

    function test_GivenPayableRegistration_WhenDeactivated_IsGone() public {
        vm.expectEmit(address(splitter));
        emit IJecpSplitterV2.CapabilityDeactivated(CAPABILITY, provider.addr);
        vm.prank(provider.addr);
        splitter.deactivate(CAPABILITY);
        assertPayable(CAPABILITY, provider.addr, bps, false);
        assertRegistered(CAPABILITY, provider.addr, [uint16(0), 0, 0]);
        vm.prank(relayer);
        vm.expectRevert(IJecpSplitterV2.NotRegistered.selector);
        splitter.approve(CAPABILITY, provider.addr, 8500, 1000, 500);
        // Registered anew, under any shares, by the same provider.
        makePayable(CAPABILITY, provider, otherBps);
        assertPayable(CAPABILITY, provider.addr, otherBps, true);
    }

    function test_GivenAnothersPayableRegistration_WhenDeactivated_ThatOneStays() public {
        register(OTHER, otherProvider, otherBps);
        makePayable(OTHER, provider, bps);
        vm.prank(otherProvider.addr);
        splitter.deactivate(OTHER);
        assertPayable(OTHER, provider.addr, bps, true);
    }

    function test_RevertWhen_CallerHasNoRegistration() public {
        vm.prank(relayer);
        vm.expectRevert(IJecpSplitterV2.NotRegistered.selector);
        splitter.deactivate(CAPABILITY);
    }

    /// @dev H17: a signature is used up by the registration that it made; it does not come back.
    function test_GivenDeactivatedCapability_WhenOldSignatureIsReplayed_Reverts() public {
        bytes memory signature = signRegistration(provider, OTHER, bps, "n");
        submit(OTHER, provider.addr, bps, "n", signature);
        vm.prank(provider.addr);
        splitter.deactivate(OTHER);
        vm.prank(stranger);
        vm.expectRevert(IJecpSplitterV2.NonceUsed.selector);
        submit(OTHER, provider.addr, bps, "n", signature);
    }

    // ------------------------------------------------------------ invalidateNonce

    /// @dev H17: a signature that was given out and is not wanted any more.
    function test_GivenInvalidatedNonce_WhenSubmitted_Reverts() public {
        bytes memory signature = signRegistration(provider, OTHER, bps, "n");
        vm.expectEmit(address(splitter));
        emit IJecpSplitterV2.NonceInvalidated(provider.addr, "n");
        vm.prank(provider.addr);
        splitter.invalidateNonce("n");
        vm.expectRevert(IJecpSplitterV2.NonceUsed.selector);
        submit(OTHER, provider.addr, bps, "n", signature);
        vm.prank(provider.addr);
        vm.expectRevert(IJecpSplitterV2.NonceUsed.selector);
        splitter.invalidateNonce("n");
        // H4: others' nonces are untouched.
        submit(
            OTHER, otherProvider.addr, bps, "n", signRegistration(otherProvider, OTHER, bps, "n")
        );
    }

    // ------------------------------------------------------------ helpers

    function assertRegistered(bytes32 id, address who, uint16[3] memory shares) internal view {
        (uint16 p, uint16 h, uint16 r) = splitter.registrations(id, who);
        assertEq(p, shares[0]);
        assertEq(h, shares[1]);
        assertEq(r, shares[2]);
    }

    function assertPayable(bytes32 id, address who, uint16[3] memory shares, bool active)
        internal
        view
    {
        (address provider_, uint16 p, uint16 h, uint16 r, bool active_) = splitter.capabilities(id);
        assertEq(provider_, who);
        assertEq(p, shares[0]);
        assertEq(h, shares[1]);
        assertEq(r, shares[2]);
        assertEq(active_, active);
    }
}
