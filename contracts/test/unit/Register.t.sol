// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {JecpSplitter} from "../../src/JecpSplitter.sol";
import {IJecpSplitter} from "../../src/interfaces/IJecpSplitter.sol";
import {SplitterBase} from "./SplitterBase.t.sol";

/// @dev R-162 to R-165, R-178, R-179; Register.tree.
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

        assertRegistered(CAPABILITY, provider.addr, bps);
        assertTrue(splitter.usedNonces("n1"));
    }

    function testFuzz_AnySplitOf10000IsTakenAsSigned(
        bytes32 capabilityId,
        uint16 providerBps,
        uint16 hubBps,
        bytes32 nonce,
        uint256 deadline
    ) public {
        uint16[3] memory terms = boundBps(providerBps, hubBps);
        deadline = bound(deadline, block.timestamp, type(uint256).max);
        submit(capabilityId, terms, nonce, deadline);
        assertRegistered(capabilityId, provider.addr, terms);
    }

    function test_RevertWhen_SharesDoNotSumTo10000() public {
        vm.expectRevert(IJecpSplitter.InvalidSplit.selector);
        splitter.register(CAPABILITY, provider.addr, 8500, 1000, 501, "n1", block.timestamp, "");
    }

    /// @dev A sum of 10000 modulo 2^16 is not a sum of 10000.
    function test_RevertWhen_SharesWrapTo10000() public {
        vm.expectRevert(IJecpSplitter.InvalidSplit.selector);
        splitter.register(CAPABILITY, provider.addr, 65_535, 10_001, 0, "n1", block.timestamp, "");
    }

    function test_GivenDeadlineNow_Registers() public {
        submit(CAPABILITY, bps, "n1", block.timestamp);
        assertRegistered(CAPABILITY, provider.addr, bps);
    }

    function test_RevertWhen_DeadlineHasPassed() public {
        bytes memory signature = signRegistration(provider, CAPABILITY, bps, "n1", block.timestamp);
        uint256 deadline = block.timestamp;
        vm.warp(deadline + 1);
        vm.expectRevert(IJecpSplitter.SignatureExpired.selector);
        splitter.register(CAPABILITY, provider.addr, 8500, 1000, 500, "n1", deadline, signature);
    }

    function test_RevertGiven_NonceWasUsed() public {
        register(CAPABILITY, "n1");
        bytes32 other = keccak256("demo:other");
        bytes memory signature = signRegistration(provider, other, bps, "n1", block.timestamp);
        vm.expectRevert(IJecpSplitter.NonceUsed.selector);
        splitter.register(other, provider.addr, 8500, 1000, 500, "n1", block.timestamp, signature);
    }

    /// @dev A nonce stays used after its capability is gone (I-3).
    function test_RevertGiven_NonceOfADeactivatedCapability() public {
        register(CAPABILITY, "n1");
        vm.prank(provider.addr);
        splitter.deactivate(CAPABILITY);
        bytes memory signature = signRegistration(provider, CAPABILITY, bps, "n1", block.timestamp);
        vm.expectRevert(IJecpSplitter.NonceUsed.selector);
        splitter.register(
            CAPABILITY, provider.addr, 8500, 1000, 500, "n1", block.timestamp, signature
        );
    }

    function test_RevertGiven_CapabilityIsActive() public {
        register(CAPABILITY, "n1");
        bytes memory signature = signRegistration(provider, CAPABILITY, bps, "n2", block.timestamp);
        vm.expectRevert(IJecpSplitter.CapabilityAlreadyExists.selector);
        splitter.register(
            CAPABILITY, provider.addr, 8500, 1000, 500, "n2", block.timestamp, signature
        );
        assertFalse(splitter.usedNonces("n2"), "a refused registration uses no nonce");
    }

    function test_GivenDeactivated_WhenAnotherProviderSigns_Registers() public {
        register(CAPABILITY, "n1");
        vm.prank(provider.addr);
        splitter.deactivate(CAPABILITY);

        provider = vm.createWallet("another provider");
        submit(CAPABILITY, [uint16(9000), 700, 300], "n2", block.timestamp);
        assertRegistered(CAPABILITY, provider.addr, [uint16(9000), 700, 300]);
    }

    function test_RevertWhen_SomeoneElseSigned() public {
        bytes memory signature =
            signRegistration(vm.createWallet("thief"), CAPABILITY, bps, "n1", block.timestamp);
        vm.expectRevert(IJecpSplitter.InvalidSignature.selector);
        splitter.register(
            CAPABILITY, provider.addr, 8500, 1000, 500, "n1", block.timestamp, signature
        );
    }

    /// @dev Every field is covered by the signature: changing any one of them breaks it.
    function test_RevertWhen_AnyFieldDiffersFromTheSignedOne() public {
        bytes memory s = signRegistration(provider, CAPABILITY, bps, "n1", block.timestamp);
        uint256 t = block.timestamp;
        address p = provider.addr;
        expectInvalid();
        splitter.register(keccak256("demo:other"), p, 8500, 1000, 500, "n1", t, s);
        expectInvalid();
        splitter.register(CAPABILITY, stranger, 8500, 1000, 500, "n1", t, s);
        expectInvalid();
        splitter.register(CAPABILITY, p, 8501, 999, 500, "n1", t, s);
        expectInvalid();
        splitter.register(CAPABILITY, p, 8500, 999, 501, "n1", t, s);
        expectInvalid();
        splitter.register(CAPABILITY, p, 8500, 1000, 500, "n2", t, s);
        expectInvalid();
        splitter.register(CAPABILITY, p, 8500, 1000, 500, "n1", t + 1, s);
        splitter.register(CAPABILITY, p, 8500, 1000, 500, "n1", t, s);
    }

    function test_RevertWhen_SignedForAnotherSplitter() public {
        bytes memory signature = signRegistration(provider, CAPABILITY, bps, "n1", block.timestamp);
        JecpSplitter other = new JecpSplitter(
            address(usdc), hubTreasury, networkReserve, relayer, relayerAdmin, settler, CAP
        );
        expectInvalid();
        other.register(CAPABILITY, provider.addr, 8500, 1000, 500, "n1", block.timestamp, signature);
    }

    /// @dev The same address on two chains: only the chain id keeps the signatures apart.
    function test_RevertWhen_SignedForAnotherChain() public {
        bytes32 separator = keccak256(
            abi.encode(
                0x8b73c3c69bb8fe3d512ecc4cf759cc79239f7b179b0ffacaa9a75d522b39400f,
                keccak256("JecpSplitter"),
                keccak256("1.1.1"),
                uint256(8453),
                address(splitter)
            )
        );
        bytes32 structHash = registrationHash(CAPABILITY, provider.addr, bps, "n1", block.timestamp);
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(provider, keccak256(abi.encodePacked("\x19\x01", separator, structHash)));
        expectInvalid();
        submitSigned(abi.encodePacked(r, s, v));
    }

    /// @dev H10.
    function test_RevertWhen_SignatureIsHighS() public {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(
            provider, registrationDigest(CAPABILITY, provider.addr, bps, "n1", block.timestamp)
        );
        expectInvalid();
        submitSigned(highS(v, r, s));
    }

    function test_RevertWhen_SignatureIsNot65Bytes() public {
        bytes memory signature = signRegistration(provider, CAPABILITY, bps, "n1", block.timestamp);
        expectInvalid();
        submitSigned(bytes.concat(signature, hex"00"));
        expectInvalid();
        submitSigned("");
        assembly {
            mstore(signature, 64)
        }
        expectInvalid();
        submitSigned(signature);
    }

    /// @dev ERC-2098's 64 bytes carry the same signature; the contract does not read them.
    function test_RevertWhen_SignatureIsCompact() public {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(
            provider, registrationDigest(CAPABILITY, provider.addr, bps, "n1", block.timestamp)
        );
        expectInvalid();
        submitSigned(abi.encodePacked(r, uint256(s) | (uint256(v - 27) << 255)));
    }

    function test_RevertWhen_VIsNot27Or28() public {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(
            provider, registrationDigest(CAPABILITY, provider.addr, bps, "n1", block.timestamp)
        );
        expectInvalid();
        submitSigned(abi.encodePacked(r, s, v - 27));
    }

    function test_RevertWhen_ProviderIsZeroAndRecoveryFails() public {
        expectInvalid();
        splitter.register(
            CAPABILITY, address(0), 8500, 1000, 500, "n1", block.timestamp, new bytes(65)
        );
    }

    function testFuzz_RevertWhen_SignatureIsGarbage(bytes memory garbage, address declared) public {
        vm.expectRevert(IJecpSplitter.InvalidSignature.selector);
        splitter.register(CAPABILITY, declared, 8500, 1000, 500, "n1", block.timestamp, garbage);
    }

    // ------------------------------------------------------------ helpers

    function expectInvalid() internal {
        vm.expectRevert(IJecpSplitter.InvalidSignature.selector);
    }

    function submitSigned(bytes memory signature) internal {
        splitter.register(
            CAPABILITY, provider.addr, 8500, 1000, 500, "n1", block.timestamp, signature
        );
    }

    function submit(bytes32 id, uint16[3] memory terms, bytes32 nonce, uint256 deadline) internal {
        bytes memory signature = signRegistration(provider, id, terms, nonce, deadline);
        splitter.register(
            id, provider.addr, terms[0], terms[1], terms[2], nonce, deadline, signature
        );
    }

    function assertRegistered(bytes32 id, address who, uint16[3] memory terms) internal view {
        (address owner, uint16 p, uint16 h, uint16 r, bool active) = splitter.capabilities(id);
        assertEq(owner, who);
        assertEq(p, terms[0]);
        assertEq(h, terms[1]);
        assertEq(r, terms[2]);
        assertTrue(active);
    }
}
