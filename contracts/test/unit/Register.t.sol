// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IJecpSplitter} from "../../src/interfaces/IJecpSplitter.sol";
import {SplitterBase} from "./SplitterBase.t.sol";

contract RegisterTest is SplitterBase {
    uint16[3] internal bps = [8500, 1000, 500];

    function test_GivenProvidersSignature_WhenAnyoneSubmits_RegistersAsSigned() public {
        bytes memory signature = signRegistration(provider, CAPABILITY, bps, "n1", block.timestamp);
        vm.expectEmit(address(splitter));
        emit IJecpSplitter.CapabilityRegistered(CAPABILITY, provider.addr, 8500, 1000, 500);
        vm.prank(stranger);
        splitter.register(
            CAPABILITY, provider.addr, 8500, 1000, 500, "n1", block.timestamp, signature
        );

        (address who, uint16 p, uint16 h, uint16 r, bool active) = splitter.capabilities(CAPABILITY);
        assertEq(who, provider.addr);
        assertEq(p, 8500);
        assertEq(h, 1000);
        assertEq(r, 500);
        assertTrue(active);
        assertTrue(splitter.usedNonces("n1"));
    }

    function test_RevertWhen_SharesDoNotSumTo10000() public {
        vm.expectRevert(IJecpSplitter.InvalidSplit.selector);
        splitter.register(CAPABILITY, provider.addr, 8500, 1000, 501, "n1", block.timestamp, "");
    }

    function test_RevertWhen_DeadlineHasPassed() public {
        bytes memory signature = signRegistration(provider, CAPABILITY, bps, "n1", block.timestamp);
        uint256 deadline = block.timestamp;
        vm.warp(deadline + 1);
        vm.expectRevert(IJecpSplitter.SignatureExpired.selector);
        splitter.register(CAPABILITY, provider.addr, 8500, 1000, 500, "n1", deadline, signature);
    }

    function test_RevertWhen_NonceWasUsed() public {
        register(CAPABILITY, "n1");
        bytes32 other = keccak256("demo:other");
        bytes memory signature = signRegistration(provider, other, bps, "n1", block.timestamp);
        vm.expectRevert(IJecpSplitter.NonceUsed.selector);
        splitter.register(other, provider.addr, 8500, 1000, 500, "n1", block.timestamp, signature);
    }

    function test_RevertWhen_CapabilityIsActive() public {
        register(CAPABILITY, "n1");
        bytes memory signature = signRegistration(provider, CAPABILITY, bps, "n2", block.timestamp);
        vm.expectRevert(IJecpSplitter.CapabilityAlreadyExists.selector);
        splitter.register(
            CAPABILITY, provider.addr, 8500, 1000, 500, "n2", block.timestamp, signature
        );
    }

    function test_RevertWhen_SomeoneElseSigned() public {
        bytes memory signature =
            signRegistration(vm.createWallet("thief"), CAPABILITY, bps, "n1", block.timestamp);
        vm.expectRevert(IJecpSplitter.InvalidSignature.selector);
        splitter.register(
            CAPABILITY, provider.addr, 8500, 1000, 500, "n1", block.timestamp, signature
        );
    }

    function test_RevertWhen_SignatureIsHighS() public {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(
            provider, registrationDigest(CAPABILITY, provider.addr, bps, "n1", block.timestamp)
        );
        uint256 order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        bytes memory flipped =
            abi.encodePacked(r, bytes32(order - uint256(s)), v == 27 ? uint8(28) : uint8(27));
        vm.expectRevert(IJecpSplitter.InvalidSignature.selector);
        splitter.register(
            CAPABILITY, provider.addr, 8500, 1000, 500, "n1", block.timestamp, flipped
        );
    }

    function test_RevertWhen_SignatureIsNot65Bytes() public {
        bytes memory signature = signRegistration(provider, CAPABILITY, bps, "n1", block.timestamp);
        vm.expectRevert(IJecpSplitter.InvalidSignature.selector);
        splitter.register(
            CAPABILITY,
            provider.addr,
            8500,
            1000,
            500,
            "n1",
            block.timestamp,
            bytes.concat(signature, hex"00")
        );
    }

    function test_RevertWhen_ProviderIsZeroAndRecoveryFails() public {
        vm.expectRevert(IJecpSplitter.InvalidSignature.selector);
        splitter.register(
            CAPABILITY, address(0), 8500, 1000, 500, "n1", block.timestamp, new bytes(65)
        );
    }

    function test_RevertWhen_StrangerDeactivates() public {
        register(CAPABILITY, "n1");
        vm.prank(relayer);
        vm.expectRevert(IJecpSplitter.NotProvider.selector);
        splitter.deactivate(CAPABILITY);
    }

    /// @dev C-10, H14, H16: whoever registers the id next finds nothing in it.
    function test_GivenPendingBalance_WhenDeactivated_SplitsFirst() public {
        register(CAPABILITY, "n1");
        pull(200_000);
        record(CAPABILITY, 200_000);

        vm.prank(provider.addr);
        splitter.deactivate(CAPABILITY);

        assertEq(usdc.balanceOf(provider.addr), 170_000);
        assertEq(usdc.balanceOf(hubTreasury), 20_000);
        assertEq(usdc.balanceOf(networkReserve), 10_000);
        assertEq(splitter.accountedBalance(CAPABILITY), 0);
        assertEq(splitter.totalOwed(), 0);
        (,,,, bool active) = splitter.capabilities(CAPABILITY);
        assertFalse(active);

        vm.prank(provider.addr);
        vm.expectRevert(IJecpSplitter.CapabilityNotActive.selector);
        splitter.deactivate(CAPABILITY);

        registerWith(CAPABILITY, [uint16(10_000), 0, 0], "n2");
        assertEq(splitter.accountedBalance(CAPABILITY), 0);
    }
}
