// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {JecpSplitterV2} from "../../src/JecpSplitterV2.sol";
import {IJecpSplitter} from "../../src/interfaces/IJecpSplitter.sol";
import {IJecpSplitterV2} from "../../src/interfaces/IJecpSplitterV2.sol";
import {V2Base} from "./V2Base.t.sol";

contract EighteenDecimals {
    function decimals() external pure returns (uint8) {
        return 18;
    }
}

contract V2RolesTest is V2Base {
    function test_ConstructorSetsEveryRole() public {
        assertEq(splitter.USDC(), address(usdc));
        assertEq(splitter.HUB_TREASURY(), hubTreasury);
        assertEq(splitter.NETWORK_RESERVE(), networkReserve);
        assertEq(splitter.relayer(), relayer);
        assertEq(splitter.RELAYER_ADMIN(), relayerAdmin);
        assertEq(splitter.AUTHORIZED_SETTLER(), settler);
        assertEq(splitter.PER_TX_CAP(), CAP);
        assertEq(splitter.MIN_HUB_BPS(), 500);
        assertEq(splitter.MIN_RESERVE_BPS(), 100);
        vm.expectEmit();
        emit IJecpSplitterV2.RelayerRotated(address(0), relayer);
        deploy();
    }

    function test_RevertWhen_ARoleIsZero() public {
        for (uint256 i = 0; i < 6; i++) {
            address[6] memory a = roles();
            a[i] = address(0);
            vm.expectRevert(IJecpSplitterV2.ZeroAddress.selector);
            deployWith(a, CAP, 500, 100);
        }
    }

    function test_RevertWhen_OneAddressHoldsTwoRoles() public {
        for (uint256 i = 0; i < 6; i++) {
            for (uint256 j = 0; j < i; j++) {
                address[6] memory a = roles();
                a[i] = a[j];
                vm.expectRevert(abi.encodeWithSelector(IJecpSplitterV2.RoleConflict.selector, a[j]));
                deployWith(a, CAP, 500, 100);
            }
        }
    }

    function test_RevertWhen_TokenIsNotSixDecimalsOfCode() public {
        address[6] memory a = roles();
        a[0] = stranger;
        vm.expectRevert(abi.encodeWithSelector(IJecpSplitterV2.UnsuitableToken.selector, stranger));
        deployWith(a, CAP, 500, 100);
        a[0] = address(new EighteenDecimals());
        vm.expectRevert(abi.encodeWithSelector(IJecpSplitterV2.UnsuitableToken.selector, a[0]));
        deployWith(a, CAP, 500, 100);
    }

    function test_RevertWhen_CapIsZero() public {
        vm.expectRevert(IJecpSplitterV2.AmountZero.selector);
        deployWith(roles(), 0, 500, 100);
    }

    function test_RevertWhen_MinimumSharesLeaveNothing() public {
        uint256[2][4] memory minimums = [
            [uint256(10_000), 0],
            [uint256(0), 10_000],
            [uint256(9000), 1000],
            [type(uint256).max, 1]
        ];
        for (uint256 i = 0; i < 4; ++i) {
            vm.expectRevert(IJecpSplitterV2.InvalidMinimumShares.selector);
            deployWith(roles(), CAP, minimums[i][0], minimums[i][1]);
        }
        deployWith(roles(), CAP, 9000, 999);
    }

    function test_RelayerRotation() public {
        vm.prank(relayer);
        vm.expectRevert(IJecpSplitterV2.UnauthorizedRelayerAdmin.selector);
        splitter.setRelayer(stranger);

        vm.startPrank(relayerAdmin);
        vm.expectRevert(IJecpSplitterV2.ZeroAddress.selector);
        splitter.setRelayer(address(0));
        address[5] memory taken =
            [address(usdc), hubTreasury, networkReserve, relayerAdmin, settler];
        for (uint256 i = 0; i < 5; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IJecpSplitterV2.RoleConflict.selector, taken[i]));
            splitter.setRelayer(taken[i]);
        }
        vm.expectEmit(address(splitter));
        emit IJecpSplitterV2.RelayerRotated(relayer, stranger);
        splitter.setRelayer(stranger);
        assertEq(splitter.relayer(), stranger);
        vm.stopPrank();

        vm.prank(relayer);
        vm.expectRevert(IJecpSplitterV2.UnauthorizedRelayer.selector);
        splitter.revoke(CAPABILITY);
        vm.prank(stranger);
        splitter.revoke(CAPABILITY);
    }

    function test_DomainIsJecpSplitter2() public {
        bytes32 expected = keccak256(
            abi.encode(
                0x8b73c3c69bb8fe3d512ecc4cf759cc79239f7b179b0ffacaa9a75d522b39400f,
                keccak256("JecpSplitter"),
                keccak256("2"),
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
            address where,
            bytes32 salt,
            uint256[] memory extensions
        ) = splitter.eip712Domain();
        assertEq(fields, bytes1(0x0f));
        assertEq(name, "JecpSplitter");
        assertEq(version, "2");
        assertEq(chainId, 84_532);
        assertEq(where, address(splitter));
        assertEq(salt, bytes32(0));
        assertEq(extensions.length, 0);
        // A fork of the chain has a domain of its own.
        vm.chainId(1);
        assertNotEq(splitter.EIP712_DOMAIN_SEPARATOR(), expected);
    }

    /// @dev What both contracts share is called the same.
    function test_SharedSurfaceIsThatOfV1() public pure {
        assertEq(IJecpSplitterV2.register.selector, IJecpSplitter.register.selector);
        assertEq(IJecpSplitterV2.deactivate.selector, IJecpSplitter.deactivate.selector);
        assertEq(IJecpSplitterV2.setRelayer.selector, IJecpSplitter.setRelayer.selector);
        assertEq(IJecpSplitterV2.capabilities.selector, IJecpSplitter.capabilities.selector);
        assertEq(IJecpSplitterV2.totalOwed.selector, IJecpSplitter.totalOwed.selector);
        assertEq(
            IJecpSplitterV2.AUTHORIZED_SETTLER.selector, IJecpSplitter.AUTHORIZED_SETTLER.selector
        );
        assertEq(
            IJecpSplitterV2.CapabilityRegistered.selector,
            IJecpSplitter.CapabilityRegistered.selector
        );
        assertEq(
            IJecpSplitterV2.CapabilityDeactivated.selector,
            IJecpSplitter.CapabilityDeactivated.selector
        );
        assertEq(IJecpSplitterV2.RelayerRotated.selector, IJecpSplitter.RelayerRotated.selector);
        assertEq(
            IJecpSplitterV2.UnauthorizedSettler.selector, IJecpSplitter.UnauthorizedSettler.selector
        );
    }

    /// @dev R-182. V1's paths to money are not here under their old names either.
    function test_RevertWhen_SentEtherOrAnUnknownCall() public {
        bytes[8] memory calls = [
            bytes(""),
            abi.encodeWithSignature("pause()"),
            abi.encodeWithSignature("sweep(address)", stranger),
            abi.encodeWithSignature("upgradeTo(address)", stranger),
            abi.encodeWithSignature("transferOwnership(address)", stranger),
            abi.encodeCall(IJecpSplitter.recordSettlement, (CAPABILITY, 1)),
            abi.encodeCall(IJecpSplitter.splitFor, (CAPABILITY, payer)),
            abi.encodeCall(IJecpSplitter.withdraw, ())
        ];
        for (uint256 i = 0; i < calls.length; ++i) {
            (bool success,) = address(splitter).call(calls[i]);
            assertFalse(success);
        }
        vm.deal(address(this), 1);
        (bool paid,) = address(splitter).call{value: 1}("");
        assertFalse(paid);
        IJecpSplitterV2.Batch memory batch = batchOf(0);
        vm.deal(settler, 1);
        vm.prank(settler);
        (paid,) = address(splitter).call{value: 1}(
            abi.encodeCall(IJecpSplitterV2.settle, (batch, PULL_GAS))
        );
        assertFalse(paid);
    }

    function roles() internal view returns (address[6] memory) {
        return [address(usdc), hubTreasury, networkReserve, relayer, relayerAdmin, settler];
    }

    function deployWith(address[6] memory a, uint256 cap, uint256 minHub, uint256 minReserve)
        internal
    {
        new JecpSplitterV2(a[0], a[1], a[2], a[3], a[4], a[5], cap, minHub, minReserve);
    }
}
