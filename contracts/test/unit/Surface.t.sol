// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {JecpSplitter} from "../../src/JecpSplitter.sol";
import {IJecpSplitter} from "../../src/interfaces/IJecpSplitter.sol";
import {SplitterBase} from "./SplitterBase.t.sol";

/// @dev The published surface of JECP v1.1.1, byte by byte.
contract SurfaceTest is SplitterBase {
    function test_SelectorsArePublishedOnes() public pure {
        assertEq(IJecpSplitter.recordSettlement.selector, bytes4(0x89d8e76d));
        assertEq(IJecpSplitter.splitFor.selector, bytes4(0x286eae40));
        assertEq(IJecpSplitter.register.selector, bytes4(0xe77731c8));
        assertEq(IJecpSplitter.withdraw.selector, bytes4(0x3ccfd60b));
        assertEq(IJecpSplitter.setRelayer.selector, bytes4(0x6548e9bc));
        assertEq(IJecpSplitter.deactivate.selector, bytes4(0x22eee84c));
        assertEq(IJecpSplitter.AUTHORIZED_SETTLER.selector, bytes4(0x0ffe2412));
        assertEq(IJecpSplitter.PER_TX_CAP.selector, bytes4(0xc4d92d05));
        assertEq(IJecpSplitter.capabilities.selector, bytes4(0xc2ead131));
        assertEq(IJecpSplitter.accountedBalance.selector, bytes4(0x6d84eb4a));
        assertEq(IJecpSplitter.usedNonces.selector, bytes4(0xfeb61724));
        assertEq(IJecpSplitter.providerEscrow.selector, bytes4(0xa6299a12));
    }

    function test_ErrorsArePublishedOnes() public pure {
        assertEq(IJecpSplitter.UnauthorizedSettler.selector, bytes4(0x778fe324));
        assertEq(IJecpSplitter.AmountZero.selector, bytes4(0xcbca5aa2));
        assertEq(IJecpSplitter.AmountExceedsCap.selector, bytes4(0xece1eff8));
        assertEq(IJecpSplitter.CapabilityNotActive.selector, bytes4(0xb54a85bd));
        assertEq(IJecpSplitter.CapabilityAlreadyExists.selector, bytes4(0xe288638f));
        assertEq(IJecpSplitter.NonceUsed.selector, bytes4(0x1f6d5aef));
        assertEq(IJecpSplitter.NoEscrowedFunds.selector, bytes4(0x886b5d79));
        assertEq(IJecpSplitter.UnauthorizedRelayerAdmin.selector, bytes4(0x80b500a8));
    }

    function test_TopicsArePublishedOnes() public pure {
        assertEq(
            IJecpSplitter.PaymentSplit.selector,
            0xe41bcd7eec40c6921fa2e4782b044853c8f132e43fd4b9a71ef70979b67a23a6
        );
        assertEq(
            IJecpSplitter.SettlementRecorded.selector,
            0x60036effa0163cb94a178d132cd9135af2bb5d37d07471709a80847744801a92
        );
        assertEq(
            IJecpSplitter.ProviderEscrowed.selector,
            0x95021ab0d22f68c610c4cd7315891e1624377c48bf5d0b0dd3036d540be51295
        );
        assertEq(
            IJecpSplitter.ProviderWithdrew.selector,
            0x51b6e5002e6d978248a1ee4ed7923f0f4b241ab13ef8a9db19de9ea26cb362e7
        );
        assertEq(
            IJecpSplitter.RelayerRotated.selector,
            0x483f53b8e4278f3fada182c634933d8e3d925fb82110feed74ec6375ef02415e
        );
    }

    function test_DomainIsJecpSplitter111() public view {
        bytes32 expected = keccak256(
            abi.encode(
                0x8b73c3c69bb8fe3d512ecc4cf759cc79239f7b179b0ffacaa9a75d522b39400f,
                keccak256("JecpSplitter"),
                keccak256("1.1.1"),
                uint256(84_532),
                address(splitter)
            )
        );
        assertEq(splitter.EIP712_DOMAIN_SEPARATOR(), expected);
        (
            bytes1 fields,
            string memory name,
            string memory version,
            uint256 chainId,
            address where,,
        ) = splitter.eip712Domain();
        assertEq(fields, bytes1(0x0f));
        assertEq(name, "JecpSplitter");
        assertEq(version, "1.1.1");
        assertEq(chainId, 84_532);
        assertEq(where, address(splitter));
    }

    function test_ConstructorSetsEveryRole() public view {
        assertEq(splitter.USDC(), address(usdc));
        assertEq(splitter.HUB_TREASURY(), hubTreasury);
        assertEq(splitter.NETWORK_RESERVE(), networkReserve);
        assertEq(splitter.relayer(), relayer);
        assertEq(splitter.RELAYER_ADMIN(), relayerAdmin);
        assertEq(splitter.AUTHORIZED_SETTLER(), settler);
        assertEq(splitter.PER_TX_CAP(), CAP);
    }

    function test_RevertWhen_ARoleIsZero() public {
        for (uint256 i = 0; i < 6; i++) {
            address[6] memory a =
                [address(usdc), hubTreasury, networkReserve, relayer, relayerAdmin, settler];
            a[i] = address(0);
            vm.expectRevert(IJecpSplitter.ZeroAddress.selector);
            new JecpSplitter(a[0], a[1], a[2], a[3], a[4], a[5], CAP);
        }
    }

    function test_RevertWhen_SettlerHoldsAnotherRole() public {
        for (uint256 i = 1; i < 5; i++) {
            address[6] memory a =
                [address(usdc), hubTreasury, networkReserve, relayer, relayerAdmin, settler];
            a[i] = settler;
            vm.expectRevert(abi.encodeWithSelector(IJecpSplitter.RoleConflict.selector, settler));
            new JecpSplitter(a[0], a[1], a[2], a[3], a[4], a[5], CAP);
        }
    }

    function test_RevertWhen_CapIsZero() public {
        vm.expectRevert(IJecpSplitter.AmountZero.selector);
        new JecpSplitter(
            address(usdc), hubTreasury, networkReserve, relayer, relayerAdmin, settler, 0
        );
    }

    function test_ConstructorAuditsTheFirstRelayer() public {
        vm.expectEmit();
        emit IJecpSplitter.RelayerRotated(address(0), relayer);
        new JecpSplitter(
            address(usdc), hubTreasury, networkReserve, relayer, relayerAdmin, settler, CAP
        );
    }

    /// @dev R-165: the id of a capability is the keccak of "namespace:action".
    function test_CapabilityIdIsThePublishedVector() public pure {
        assertEq(
            keccak256("jobdonebot:remove"),
            0x60340c5f487512523c0228ca583bce6e55150b51408c623ef2bb0eba7914dd9c
        );
    }

    /// @dev The typehash that the contract signs against is the published one: it takes a signature
    /// made over the published constant.
    function test_RegisterTypehashIsThePublishedOne() public {
        assertEq(
            REGISTER_TYPEHASH,
            keccak256(
                "Register(bytes32 capabilityId,address provider,uint16 providerBps,uint16 hubBps,uint16 reserveBps,bytes32 nonce,uint256 deadline)"
            )
        );
        register(CAPABILITY, "n1");
    }

    /// @dev R-182, C-01, C-14, C-20: what is not published is not there. No fallback answers.
    function test_NothingElseAnswers() public {
        string[12] memory absent = [
            "recordSettlement(bytes32,address,uint256,bytes32,uint64)",
            "withdrawTo(address)",
            "pause()",
            "unpause()",
            "sweep(address)",
            "rescue(address,uint256)",
            "upgradeTo(address)",
            "upgradeToAndCall(address,bytes)",
            "owner()",
            "transferOwnership(address)",
            "setAuthorizedSettler(address)",
            "setPerTxCap(uint256)"
        ];
        for (uint256 i = 0; i < absent.length; i++) {
            bytes memory call = bytes.concat(bytes4(keccak256(bytes(absent[i]))), new bytes(160));
            for (uint256 j = 0; j < 2; j++) {
                vm.prank(j == 0 ? settler : relayerAdmin);
                (bool success, bytes memory answer) = address(splitter).call(call);
                assertFalse(success, absent[i]);
                assertEq(answer.length, 0);
            }
        }
    }

    function test_RevertWhen_EtherIsSent() public {
        vm.deal(stranger, 1 ether);
        vm.prank(stranger);
        (bool success,) = address(splitter).call{value: 1}("");
        assertFalse(success);
    }

    /// @dev A limit: on a fork of the chain under another id the separator keeps the first id while
    /// ERC-5267 reports the fork's. Registrations must be signed over the separator.
    function test_GivenAForkWithAnotherChainId_TheSeparatorStays() public {
        bytes32 separator = splitter.EIP712_DOMAIN_SEPARATOR();
        vm.chainId(1);
        assertEq(splitter.EIP712_DOMAIN_SEPARATOR(), separator);
        (,,, uint256 chainId,,,) = splitter.eip712Domain();
        assertEq(chainId, 1);
    }
}
