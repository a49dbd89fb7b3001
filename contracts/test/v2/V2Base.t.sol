// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Test, Vm} from "forge-std/Test.sol";
import {JecpSplitterV2} from "../../src/JecpSplitterV2.sol";
import {IJecpSplitterV2} from "../../src/interfaces/IJecpSplitterV2.sol";
import {ContractPayer} from "../doubles/ContractPayer.sol";
import {UpgradedUsdc} from "../doubles/UpgradedUsdc.sol";
import {UsdcDouble} from "../doubles/UsdcDouble.sol";

/// @dev What the tests of JecpSplitterV2 share: a token at its canonical address, the roles, one
/// payable capability, payers with money, and the ways to sign, pack and send payments.
abstract contract V2Base is Test {
    bytes32 internal constant REGISTER_TYPEHASH =
        0xf39281b2b70b55eacbdf74c62f0e3723a046ffcdad655521cee338584c3d96d8;
    bytes32 internal constant TRANSFER_TYPEHASH =
        0x7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267;
    bytes32 internal constant CANCEL_TYPEHASH =
        0x158b0a9edf7a828aad02f63cd515c68ef2f50ba807396f6d12842833a1597429;
    bytes32 internal constant CAPABILITY = keccak256("demo:echo");
    bytes32 internal constant OTHER = keccak256("demo:other");
    uint256 internal constant CAP = 1_000_000_000;
    uint256 internal constant PULL_GAS = 120_000;
    uint256 internal constant CHECK_GAS = 120_000;
    uint256 internal constant PRICE = 200_000;
    uint256 internal constant PAYER_KEY = 0xA11CE;

    address internal hubTreasury = makeAddr("hubTreasury");
    address internal networkReserve = makeAddr("networkReserve");
    address internal relayer = makeAddr("relayer");
    address internal relayerAdmin = makeAddr("relayerAdmin");
    address internal settler = makeAddr("settler");
    address internal stranger = makeAddr("stranger");
    address internal payer = vm.addr(PAYER_KEY);
    Vm.Wallet internal provider = vm.createWallet("provider");
    Vm.Wallet internal otherProvider = vm.createWallet("other provider");

    UsdcDouble internal usdc;
    JecpSplitterV2 internal splitter;
    uint256 internal registrationNonces;

    /// @dev A payment before it is signed and packed.
    struct Terms {
        address from;
        uint256 key;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
        uint64 number;
        uint256 index;
    }

    function setUp() public virtual {
        vm.chainId(84_532);
        vm.warp(1_780_000_000);
        usdc = UsdcDouble(0x036CbD53842c5426634e7929541eC2318f3dCF7e);
        deployCodeTo("UsdcDouble.sol:UsdcDouble", address(usdc));
        usdc.initialize("USDC", address(this));
        splitter = deploy();
        usdc.mint(payer, 1_000_000_000_000);
        makePayable(CAPABILITY, provider, [uint16(8500), 1000, 500]);
    }

    function deploy() internal returns (JecpSplitterV2) {
        return new JecpSplitterV2(
            address(usdc),
            hubTreasury,
            networkReserve,
            relayer,
            relayerAdmin,
            settler,
            CAP,
            500,
            100
        );
    }

    // ------------------------------------------------------------ registrations

    function registrationDigest(
        bytes32 capabilityId,
        address signer,
        uint16[3] memory bps,
        bytes32 nonce,
        uint256 deadline
    ) internal view returns (bytes32) {
        bytes32 structHash = keccak256(
            abi.encode(
                REGISTER_TYPEHASH, capabilityId, signer, bps[0], bps[1], bps[2], nonce, deadline
            )
        );
        return
            keccak256(abi.encodePacked("\x19\x01", splitter.EIP712_DOMAIN_SEPARATOR(), structHash));
    }

    function signRegistration(
        Vm.Wallet memory signer,
        bytes32 capabilityId,
        uint16[3] memory bps,
        bytes32 nonce
    ) internal returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(
            signer, registrationDigest(capabilityId, signer.addr, bps, nonce, block.timestamp)
        );
        return abi.encodePacked(r, s, v);
    }

    function submit(
        bytes32 capabilityId,
        address who,
        uint16[3] memory bps,
        bytes32 nonce,
        bytes memory signature
    ) internal {
        splitter.register(
            capabilityId, who, bps[0], bps[1], bps[2], nonce, block.timestamp, signature
        );
    }

    function register(bytes32 capabilityId, Vm.Wallet memory signer, uint16[3] memory bps)
        internal
    {
        bytes32 nonce = bytes32(++registrationNonces);
        submit(
            capabilityId,
            signer.addr,
            bps,
            nonce,
            signRegistration(signer, capabilityId, bps, nonce)
        );
    }

    function approve(bytes32 capabilityId, address who, uint16[3] memory bps) internal {
        vm.prank(relayer);
        splitter.approve(capabilityId, who, bps[0], bps[1], bps[2]);
    }

    function makePayable(bytes32 capabilityId, Vm.Wallet memory signer, uint16[3] memory bps)
        internal
    {
        register(capabilityId, signer, bps);
        approve(capabilityId, signer.addr, bps);
    }

    // ------------------------------------------------------------ payments

    /// @dev An ordinary payment of `PRICE` by `payer`, settlement number and nonce from one seed.
    function terms(uint256 number) internal view returns (Terms memory) {
        return Terms({
            from: payer,
            key: PAYER_KEY,
            value: PRICE,
            validAfter: block.timestamp - 600,
            validBefore: block.timestamp + 60,
            nonce: keccak256(abi.encode("authorization nonce", number)),
            // forge-lint: disable-next-line(unsafe-typecast)
            number: uint64(number),
            index: 0
        });
    }

    function authorizationDigest(Terms memory t, address to) internal view returns (bytes32) {
        bytes32 structHash = keccak256(
            abi.encode(TRANSFER_TYPEHASH, t.from, to, t.value, t.validAfter, t.validBefore, t.nonce)
        );
        return keccak256(abi.encodePacked("\x19\x01", usdc.DOMAIN_SEPARATOR(), structHash));
    }

    function pack(Terms memory t, bytes32 r, bytes32 vs, uint256 longSignatureLength)
        internal
        pure
        returns (IJecpSplitterV2.Payment memory)
    {
        return IJecpSplitterV2.Payment({
            payerAndValue: uint256(uint160(t.from)) << 96 | uint96(t.value),
            nonce: t.nonce,
            terms: uint256(t.number) << 192 | t.validAfter << 128 | t.validBefore << 64
                | longSignatureLength << 32 | t.index,
            r: r,
            vs: vs
        });
    }

    function sign(Terms memory t) internal view returns (IJecpSplitterV2.Payment memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(t.key, authorizationDigest(t, address(splitter)));
        return pack(t, r, bytes32(uint256(s) | uint256(v - 27) << 255), 0);
    }

    function payment(uint256 number) internal view returns (IJecpSplitterV2.Payment memory) {
        return sign(terms(number));
    }

    function batchOf(uint256 count) internal view returns (IJecpSplitterV2.Batch memory batch) {
        batch.capabilityIds = new bytes32[](1);
        batch.capabilityIds[0] = CAPABILITY;
        batch.providers = new address[](1);
        batch.providers[0] = provider.addr;
        batch.payments = new IJecpSplitterV2.Payment[](count);
    }

    function batchOf(IJecpSplitterV2.Payment memory one)
        internal
        view
        returns (IJecpSplitterV2.Batch memory batch)
    {
        batch = batchOf(1);
        batch.payments[0] = one;
    }

    function batchOf(IJecpSplitterV2.Payment memory one, IJecpSplitterV2.Payment memory two)
        internal
        view
        returns (IJecpSplitterV2.Batch memory batch)
    {
        batch = batchOf(2);
        batch.payments[0] = one;
        batch.payments[1] = two;
    }

    /// @dev For these capabilities, and for whom each of them is payable now.
    function named(IJecpSplitterV2.Batch memory batch, bytes32[] memory ids) internal view {
        batch.capabilityIds = ids;
        batch.providers = new address[](ids.length);
        for (uint256 i = 0; i < ids.length; ++i) {
            (batch.providers[i],,,,) = splitter.capabilities(ids[i]);
        }
    }

    function named(IJecpSplitterV2.Batch memory batch, bytes32 id) internal view {
        bytes32[] memory ids = new bytes32[](1);
        ids[0] = id;
        named(batch, ids);
    }

    /// @dev `count` payments numbered from `first`.
    function batchFrom(uint256 first, uint256 count)
        internal
        view
        returns (IJecpSplitterV2.Batch memory batch)
    {
        batch = batchOf(count);
        for (uint256 i = 0; i < count; ++i) {
            batch.payments[i] = payment(first + i);
        }
    }

    function settle(IJecpSplitterV2.Batch memory batch) internal {
        vm.prank(settler);
        splitter.settle(batch, PULL_GAS);
    }

    function record(IJecpSplitterV2.Batch memory batch) internal {
        vm.prank(settler);
        splitter.record(batch, CHECK_GAS);
    }

    function refund(IJecpSplitterV2.Batch memory batch) internal {
        vm.prank(settler);
        splitter.refund(batch, CHECK_GAS);
    }

    /// @dev What a facilitator, or anybody, can do with a signed payment.
    function pullAsStranger(IJecpSplitterV2.Payment memory p) internal {
        vm.prank(stranger);
        usdc.transferWithAuthorization(
            address(uint160(p.payerAndValue >> 96)),
            address(splitter),
            uint96(p.payerAndValue),
            uint64(p.terms >> 128),
            uint64(p.terms >> 64),
            p.nonce,
            uint8(uint256(p.vs) >> 255) + 27,
            p.r,
            p.vs & bytes32(type(uint256).max >> 1)
        );
    }

    function cancel(Terms memory t) internal {
        bytes32 structHash = keccak256(abi.encode(CANCEL_TYPEHASH, t.from, t.nonce));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(
            t.key, keccak256(abi.encodePacked("\x19\x01", usdc.DOMAIN_SEPARATOR(), structHash))
        );
        usdc.cancelAuthorization(t.from, t.nonce, v, r, s);
    }

    /// @dev A smart wallet with money, owned by `PAYER_KEY`.
    function walletTerms(uint256 number) internal returns (ContractPayer wallet, Terms memory t) {
        wallet = new ContractPayer(payer);
        usdc.mint(address(wallet), 1_000_000_000);
        t = terms(number);
        t.from = address(wallet);
    }

    /// @dev A batch of one payment whose signature is longer than 65 bytes.
    function wrapped(Terms memory t) internal view returns (IJecpSplitterV2.Batch memory batch) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(t.key, authorizationDigest(t, address(splitter)));
        bytes memory signature = abi.encode(uint256(0), abi.encodePacked(r, s, v));
        // What lies before it belongs to another payment.
        batch = batchOf(pack(t, bytes32(uint256(3)), 0, signature.length));
        batch.signatures = bytes.concat(hex"c0ffee", signature);
    }

    /// @dev The owner of USDC's proxy upgrades it.
    function upgradeToken(address hook) internal {
        address implementation = address(new UsdcDouble());
        deployCodeTo(
            "UpgradedUsdc.sol:UpgradedUsdc", abi.encode(implementation, hook), address(usdc)
        );
    }

    // ------------------------------------------------------------ expectations

    function expectSettled(bytes32 capabilityId, IJecpSplitterV2.Payment memory p) internal {
        vm.expectEmit(address(splitter));
        emit IJecpSplitterV2.PaymentSettled(capabilityId, numberOf(p), p.payerAndValue, p.nonce);
    }

    function expectFailed(
        bytes32 capabilityId,
        IJecpSplitterV2.Payment memory p,
        bool used,
        bytes memory reason
    ) internal {
        vm.expectEmit(address(splitter));
        emit IJecpSplitterV2.PaymentFailed(
            capabilityId, numberOf(p), p.payerAndValue, p.nonce, used, reason
        );
    }

    function expectRefused(IJecpSplitterV2.Payment memory p, bool used, bytes4 reason) internal {
        expectFailed(CAPABILITY, p, used, abi.encodePacked(reason));
    }

    function expectRecorded(bytes32 capabilityId, IJecpSplitterV2.Payment memory p) internal {
        vm.expectEmit(address(splitter));
        emit IJecpSplitterV2.PaymentRecorded(capabilityId, numberOf(p), p.payerAndValue, p.nonce);
    }

    function expectRefunded(IJecpSplitterV2.Payment memory p) internal {
        vm.expectEmit(address(splitter));
        emit IJecpSplitterV2.PaymentRefunded(
            payerOf(p), numberOf(p), uint96(p.payerAndValue), p.nonce
        );
    }

    function expectSkipped(IJecpSplitterV2.Payment memory p, bytes4 reason) internal {
        vm.expectEmit(address(splitter));
        emit IJecpSplitterV2.PaymentSkipped(numberOf(p), p.payerAndValue, p.nonce, reason);
    }

    function revertText(string memory text) internal pure returns (bytes memory) {
        return abi.encodeWithSignature("Error(string)", text);
    }

    function numberOf(IJecpSplitterV2.Payment memory p) internal pure returns (uint64) {
        return uint64(p.terms >> 192);
    }

    function payerOf(IJecpSplitterV2.Payment memory p) internal pure returns (address) {
        return address(uint160(p.payerAndValue >> 96));
    }

    /// @dev Where the money is: provider, hub, reserve, Splitter.
    function assertBalances(uint256 p, uint256 h, uint256 r, uint256 left) internal view {
        assertEq(usdc.balanceOf(provider.addr), p, "provider");
        assertEq(usdc.balanceOf(hubTreasury), h, "hub treasury");
        assertEq(usdc.balanceOf(networkReserve), r, "network reserve");
        assertEq(usdc.balanceOf(address(splitter)), left, "splitter");
    }
}
