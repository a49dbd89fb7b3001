// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Test, Vm} from "forge-std/Test.sol";
import {JecpSplitter} from "../../src/JecpSplitter.sol";
import {IJecpSplitter} from "../../src/interfaces/IJecpSplitter.sol";
import {UsdcDouble} from "../doubles/UsdcDouble.sol";

/// @dev What the tests of JecpSplitter share: a token at its canonical address, the roles, one
/// provider, and the ways to register a capability and to bring money in.
abstract contract SplitterBase is Test {
    bytes32 internal constant REGISTER_TYPEHASH =
        0xf39281b2b70b55eacbdf74c62f0e3723a046ffcdad655521cee338584c3d96d8;
    bytes32 internal constant CAPABILITY = keccak256("demo:echo");
    uint256 internal constant CAP = 1_000_000_000;

    address internal hubTreasury = makeAddr("hubTreasury");
    address internal networkReserve = makeAddr("networkReserve");
    address internal relayer = makeAddr("relayer");
    address internal relayerAdmin = makeAddr("relayerAdmin");
    address internal settler = makeAddr("settler");
    address internal payer = makeAddr("payer");
    address internal stranger = makeAddr("stranger");
    Vm.Wallet internal provider = vm.createWallet("provider");

    UsdcDouble internal usdc;
    JecpSplitter internal splitter;

    function setUp() public virtual {
        vm.chainId(84_532);
        vm.warp(1_780_000_000);
        usdc = UsdcDouble(0x036CbD53842c5426634e7929541eC2318f3dCF7e);
        deployCodeTo("UsdcDouble.sol:UsdcDouble", address(usdc));
        usdc.initialize("USDC", address(this));
        splitter = new JecpSplitter(
            address(usdc), hubTreasury, networkReserve, relayer, relayerAdmin, settler, CAP
        );
    }

    function registrationDigest(
        bytes32 capabilityId,
        address signer,
        uint16[3] memory bps,
        bytes32 nonce,
        uint256 deadline
    ) internal view returns (bytes32) {
        bytes32 structHash = registrationHash(capabilityId, signer, bps, nonce, deadline);
        return
            keccak256(abi.encodePacked("\x19\x01", splitter.EIP712_DOMAIN_SEPARATOR(), structHash));
    }

    function registrationHash(
        bytes32 capabilityId,
        address signer,
        uint16[3] memory bps,
        bytes32 nonce,
        uint256 deadline
    ) internal pure returns (bytes32) {
        return keccak256(
            abi.encode(
                REGISTER_TYPEHASH, capabilityId, signer, bps[0], bps[1], bps[2], nonce, deadline
            )
        );
    }

    function signRegistration(
        Vm.Wallet memory signer,
        bytes32 capabilityId,
        uint16[3] memory bps,
        bytes32 nonce,
        uint256 deadline
    ) internal returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(
            signer, registrationDigest(capabilityId, signer.addr, bps, nonce, deadline)
        );
        return abi.encodePacked(r, s, v);
    }

    function register(bytes32 capabilityId, bytes32 nonce) internal {
        registerWith(capabilityId, [uint16(8500), 1000, 500], nonce);
    }

    function registerWith(bytes32 capabilityId, uint16[3] memory bps, bytes32 nonce) internal {
        bytes memory signature =
            signRegistration(provider, capabilityId, bps, nonce, block.timestamp);
        splitter.register(
            capabilityId, provider.addr, bps[0], bps[1], bps[2], nonce, block.timestamp, signature
        );
    }

    /// @dev Money comes in as a pull would bring it: a Transfer to the Splitter.
    function pull(uint256 amount) internal {
        usdc.mint(address(splitter), amount);
    }

    function record(bytes32 capabilityId, uint256 amount) internal {
        vm.prank(settler);
        splitter.recordSettlement(capabilityId, amount);
    }

    /// @dev Any three shares that sum to 10000.
    function boundBps(uint256 providerBps, uint256 hubBps)
        internal
        pure
        returns (uint16[3] memory)
    {
        uint16 p = uint16(bound(providerBps, 0, 10_000));
        uint16 h = uint16(bound(hubBps, 0, 10_000 - p));
        return [p, h, 10_000 - p - h];
    }

    /// @dev The other signature that recovers to the same address.
    function highS(uint8 v, bytes32 r, bytes32 s) internal pure returns (bytes memory) {
        uint256 order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        return abi.encodePacked(r, bytes32(order - uint256(s)), v == 27 ? uint8(28) : uint8(27));
    }
}
