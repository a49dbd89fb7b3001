// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Test, Vm} from "forge-std/Test.sol";
import {UsdcDouble} from "../doubles/UsdcDouble.sol";

/// @dev A contract payer that accepts any signature but "no".
contract Payer1271 {
    function isValidSignature(bytes32, bytes calldata signature) external pure returns (bytes4) {
        return keccak256(signature) == keccak256("no") ? bytes4(0) : bytes4(0x1626ba7e);
    }
}

/// @dev The double must lie nowhere: reference figures and strings are those of FiatTokenV2_2.
contract UsdcDoubleTest is Test {
    UsdcDouble internal usdc;
    Vm.Wallet internal payer = vm.createWallet("payer");
    address internal payee = makeAddr("payee");
    bytes32 internal constant NONCE = keccak256("nonce");
    uint256 internal constant NOW = 1_780_000_000;

    function setUp() public {
        vm.warp(NOW);
        usdc = etched(84_532, 0x036CbD53842c5426634e7929541eC2318f3dCF7e, "USDC");
        usdc.mint(payer.addr, 1_000_000);
    }

    /// @dev The live separators of both chains come out of name, version, chain id and address.
    function test_DomainSeparatorsAreTheLiveOnes() public {
        assertEq(
            usdc.DOMAIN_SEPARATOR(),
            0x71f17a3b2ff373b803d70a5a07c046c1a2bc8e89c09ef722fcb047abe94c9818
        );
        assertEq(
            etched(8453, 0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913, "USD Coin").DOMAIN_SEPARATOR(),
            0x02fa7265e7c5d81118673727957699e4d68f74cd74b7db77da710fe8a2c7834f
        );
    }

    function test_TransferWithAuthorization_EmitsUsedThenTransfer() public {
        vm.recordLogs();
        transfer(200_000, NOW - 1, NOW + 1, NONCE, sign(200_000, NOW - 1, NOW + 1, NONCE));
        Vm.Log[] memory logs = vm.getRecordedLogs();
        assertEq(logs.length, 2);
        assertEq(
            logs[0].topics[0], 0x98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5
        );
        assertEq(logs[0].topics[2], NONCE);
        assertEq(
            logs[1].topics[0], 0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef
        );
        assertEq(usdc.balanceOf(payee), 200_000);
        assertTrue(usdc.authorizationState(payer.addr, NONCE));
    }

    function test_BoundsAreStrict() public {
        bytes memory early = sign(1, NOW, NOW + 1, NONCE);
        vm.expectRevert("FiatTokenV2: authorization is not yet valid");
        transfer(1, NOW, NOW + 1, NONCE, early);
        bytes memory late = sign(1, 0, NOW, NONCE);
        vm.expectRevert("FiatTokenV2: authorization is expired");
        transfer(1, 0, NOW, NONCE, late);
    }

    /// @dev "used" hides a wrong signature, "expired" hides "used".
    function test_OrderOfChecks() public {
        transfer(1, 0, NOW + 1, NONCE, sign(1, 0, NOW + 1, NONCE));
        vm.expectRevert("FiatTokenV2: authorization is used or canceled");
        transfer(2, 0, NOW + 1, NONCE, hex"00");
        vm.expectRevert("FiatTokenV2: authorization is expired");
        transfer(1, 0, NOW, NONCE, "");
        usdc.blacklist(payer.addr);
        vm.expectRevert("Blacklistable: account is blacklisted");
        transfer(1, 0, NOW, NONCE, "");
        usdc.pause();
        vm.expectRevert("Pausable: paused");
        transfer(1, 0, NOW, NONCE, "");
    }

    function test_SignatureErrors() public {
        bytes memory good = sign(1, 0, NOW + 1, NONCE);
        vm.expectRevert("ECRecover: invalid signature length");
        transfer(1, 0, NOW + 1, NONCE, bytes.concat(good, hex"00"));
        vm.expectRevert("ECRecover: invalid signature 's' value");
        transfer(1, 0, NOW + 1, NONCE, abi.encodePacked(uint256(1), type(uint256).max, uint8(27)));
        good[64] = bytes1(uint8(good[64]) - 27);
        vm.expectRevert("ECRecover: invalid signature 'v' value");
        transfer(1, 0, NOW + 1, NONCE, good);
        bytes memory other = sign(2, 0, NOW + 1, NONCE);
        vm.expectRevert("FiatTokenV2: invalid signature");
        transfer(1, 0, NOW + 1, NONCE, other);
    }

    function test_InsufficientBalanceLeavesTheNonceUnused() public {
        bytes memory signature = sign(1_000_001, 0, NOW + 1, NONCE);
        vm.expectRevert("ERC20: transfer amount exceeds balance");
        transfer(1_000_001, 0, NOW + 1, NONCE, signature);
        assertFalse(usdc.authorizationState(payer.addr, NONCE));
    }

    function test_CancelledLooksUsed() public {
        bytes32 structHash =
            keccak256(abi.encode(usdc.CANCEL_AUTHORIZATION_TYPEHASH(), payer.addr, NONCE));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(payer, digest(structHash));
        vm.expectEmit(address(usdc));
        emit UsdcDouble.AuthorizationCanceled(payer.addr, NONCE);
        usdc.cancelAuthorization(payer.addr, NONCE, v, r, s);
        assertTrue(usdc.authorizationState(payer.addr, NONCE));
        bytes memory signature = sign(1, 0, NOW + 1, NONCE);
        vm.expectRevert("FiatTokenV2: authorization is used or canceled");
        transfer(1, 0, NOW + 1, NONCE, signature);
    }

    function test_ReceiveWithAuthorization_OnlyForThePayee() public {
        bytes32 structHash = keccak256(
            abi.encode(
                usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(), payer.addr, payee, 7, 0, NOW + 1, NONCE
            )
        );
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(payer, digest(structHash));
        vm.expectRevert("FiatTokenV2: caller must be the payee");
        usdc.receiveWithAuthorization(payer.addr, payee, 7, 0, NOW + 1, NONCE, v, r, s);
        vm.prank(payee);
        usdc.receiveWithAuthorization(payer.addr, payee, 7, 0, NOW + 1, NONCE, v, r, s);
        assertEq(usdc.balanceOf(payee), 7);
    }

    /// @dev EIP-7702: code at the payer, so its correct ECDSA signature is refused.
    function test_PayerWithCodeIsAskedByErc1271() public {
        bytes memory ecdsa = sign(1, 0, NOW + 1, NONCE);
        vm.etch(payer.addr, hex"00");
        vm.expectRevert("FiatTokenV2: invalid signature");
        transfer(1, 0, NOW + 1, NONCE, ecdsa);
        vm.etch(payer.addr, type(Payer1271).runtimeCode);
        vm.expectRevert("FiatTokenV2: invalid signature");
        transfer(1, 0, NOW + 1, NONCE, "no");
        transfer(1, 0, NOW + 1, NONCE, "yes");
        assertEq(usdc.balanceOf(payee), 1);
    }

    function test_BlacklistedRelayerMaySubmit_ButNotSend() public {
        address relayer = makeAddr("relayer");
        usdc.blacklist(relayer);
        bytes memory signature = sign(1, 0, NOW + 1, NONCE);
        vm.prank(relayer);
        usdc.transferWithAuthorization(payer.addr, payee, 1, 0, NOW + 1, NONCE, signature);
        vm.prank(relayer);
        vm.expectRevert("Blacklistable: account is blacklisted");
        // forge-lint: disable-next-line(erc20-unchecked-transfer)
        usdc.transfer(payee, 0);
        assertTrue(usdc.isBlacklisted(address(usdc)), "the token blacklists itself");
    }

    function test_ValueZeroConsumesTheNonce() public {
        transfer(0, 0, NOW + 1, NONCE, sign(0, 0, NOW + 1, NONCE));
        assertTrue(usdc.authorizationState(payer.addr, NONCE));
    }

    // ------------------------------------------------------------ helpers

    function etched(uint256 chainId, address where, string memory name)
        internal
        returns (UsdcDouble)
    {
        vm.chainId(chainId);
        deployCodeTo("UsdcDouble.sol:UsdcDouble", where);
        UsdcDouble(where).initialize(name, address(this));
        return UsdcDouble(where);
    }

    function digest(bytes32 structHash) internal view returns (bytes32) {
        return keccak256(abi.encodePacked("\x19\x01", usdc.DOMAIN_SEPARATOR(), structHash));
    }

    function sign(uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce)
        internal
        returns (bytes memory)
    {
        bytes32 structHash = keccak256(
            abi.encode(
                usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(),
                payer.addr,
                payee,
                value,
                validAfter,
                validBefore,
                nonce
            )
        );
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(payer, digest(structHash));
        return abi.encodePacked(r, s, v);
    }

    function transfer(
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) internal {
        usdc.transferWithAuthorization(
            payer.addr, payee, value, validAfter, validBefore, nonce, signature
        );
    }
}
