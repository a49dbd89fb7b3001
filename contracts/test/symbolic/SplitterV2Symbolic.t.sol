// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Test} from "forge-std/Test.sol";
import {JecpSplitterV2} from "../../src/JecpSplitterV2.sol";
import {IJecpSplitterV2} from "../../src/interfaces/IJecpSplitterV2.sol";
import {PaymentLib} from "../../src/libraries/PaymentLib.sol";
import {UsdcDouble} from "../doubles/UsdcDouble.sol";
import {Svm} from "./SplitterSymbolic.t.sol";

/// @dev What PaymentLib reads of a payment, for a caller who holds it in memory.
contract PaymentReader {
    using PaymentLib for IJecpSplitterV2.Payment;

    function fields(IJecpSplitterV2.Payment calldata p)
        external
        pure
        returns (address, uint256, uint64, uint256, uint256, uint256, uint256)
    {
        return (
            p.payer(),
            p.value(),
            p.number(),
            p.validAfter(),
            p.validBefore(),
            p.longSignatureLength(),
            p.capabilityIndex()
        );
    }

    function signature(IJecpSplitterV2.Payment calldata p, bytes calldata longSignatures)
        external
        pure
        returns (bytes memory)
    {
        return p.signature(longSignatures);
    }
}

/// @dev As SplitterSymbolic, for version 2, in batches of one payment. That the shares which
/// `settle` pays add up does not end here (tried: two minutes); fuzz, invariants and the model show
/// it.
contract SplitterV2Symbolic is Test {
    Svm internal constant SVM = Svm(address(uint160(uint256(keccak256("svm cheat code")))));
    bytes32 internal constant REGISTER_TYPEHASH =
        0xf39281b2b70b55eacbdf74c62f0e3723a046ffcdad655521cee338584c3d96d8;
    bytes32 internal constant TRANSFER_TYPEHASH =
        0x7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267;
    bytes32 internal constant CAPABILITY = keccak256("demo:echo");
    uint256 internal constant CAP = 1_000_000_000;
    uint256 internal constant PAYER_KEY = 0xA11CE;
    uint256 internal constant HIGHEST_S =
        0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    /// @dev Slots of JecpSplitterV2; `setUp` looks whether they are still these.
    uint256 internal constant CAPABILITIES = 3;
    uint256 internal constant REGISTRATIONS = 4;
    uint256 internal constant ESCROW = 7;
    uint256 internal constant TOTAL_OWED = 8;
    uint256 internal constant BOOKED_WORDS = 9;
    /// @dev Of UsdcDouble, likewise.
    uint256 internal constant AUTHORIZATIONS = 5;

    address internal hubTreasury = address(0x1001);
    address internal networkReserve = address(0x1002);
    address internal relayer = address(0x1003);
    address internal relayerAdmin = address(0x1004);
    address internal settler = address(0x1005);
    address internal provider = address(0x1006);
    address internal payer = vm.addr(PAYER_KEY);

    UsdcDouble internal usdc;
    JecpSplitterV2 internal splitter;
    PaymentReader internal reader;

    function setUp() public {
        usdc = new UsdcDouble();
        usdc.initialize("USDC", address(this));
        splitter = new JecpSplitterV2(
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
        reader = new PaymentReader();
        activate(8500, 1000, 500);
        (address who,, uint16 hubBps,, bool active) = splitter.capabilities(CAPABILITY);
        assertTrue(active && who == provider && hubBps == 1000);
        (, hubBps,) = splitter.registrations(CAPABILITY, provider);
        assertEq(hubBps, 1000);
        book(7, 1 << 3);
        assertTrue(splitter.isBooked(7 * 256 + 3));
        book(7, 0);
        owe(provider, 5, 6);
        assertTrue(splitter.escrow(provider) == 5 && splitter.totalOwed() == 6);
        owe(provider, 0, 0);
        markUsed("looked at");
        assertTrue(usdc.authorizationState(payer, "looked at"));
    }

    // ------------------------------------------------------------ packing

    function check_PackedFieldsComeBack(
        address from,
        uint96 value,
        uint64 number,
        uint64 validAfter,
        uint64 validBefore,
        uint32 length,
        uint32 index
    ) public view {
        IJecpSplitterV2.Payment memory p;
        p.payerAndValue = uint256(uint160(from)) << 96 | value;
        p.terms = uint256(number) << 192 | uint256(validAfter) << 128 | uint256(validBefore) << 64
            | uint256(length) << 32 | index;
        (
            address from_,
            uint256 value_,
            uint64 number_,
            uint256 after_,
            uint256 before_,
            uint256 length_,
            uint256 index_
        ) = reader.fields(p);
        assertTrue(from_ == from && value_ == value && number_ == number);
        assertTrue(after_ == validAfter && before_ == validBefore);
        assertTrue(length_ == length && index_ == index);
    }

    /// @dev EIP-2098 and back to the 65 bytes that the token takes.
    function check_CompactSignatureIsUnfolded(bytes32 r, uint256 s, bool high) public view {
        vm.assume(s < 1 << 255);
        IJecpSplitterV2.Payment memory p;
        (p.r, p.vs) = (r, bytes32(s | (high ? 1 << 255 : 0)));
        bytes memory expected = abi.encodePacked(r, s, high ? uint8(28) : uint8(27));
        assertEq(keccak256(reader.signature(p, "")), keccak256(expected));
    }

    // ------------------------------------------------------------ binding

    function check_BoundNonceHasTagAndSalt(bytes32 id, uint64 salt) public view {
        uint256 nonce = uint256(splitter.boundNonce(id, salt));
        assertEq(nonce >> 224, 0x4a454350);
        assertEq(nonce >> 160 & type(uint64).max, salt);
    }

    /// @dev A nonce passes if it is bound to nothing, or to the capability that it is booked to;
    /// every nonce, in a payment that lacks nothing else.
    function check_BoundNonceIsBookedToItsCapabilityAlone(bytes32 nonce) public {
        vm.assume(nonce != "looked at");
        IJecpSplitterV2.Payment memory p = signed(1, nonce, 1);
        settle(p);
        bool unbound = uint256(nonce) >> 224 != 0x4a454350;
        bool bound = nonce == splitter.boundNonce(CAPABILITY, uint64(uint256(nonce) >> 160));
        assertEq(splitter.isBooked(1), unbound || bound);
        assertEq(usdc.authorizationState(payer, nonce), unbound || bound);
    }

    // ------------------------------------------------------------ who may

    function check_OnlyTheSettlerBooks(address caller, bytes32[5] memory words, uint256 limit)
        public
    {
        vm.assume(caller != settler);
        usdc.mint(address(splitter), CAP);
        IJecpSplitterV2.Payment memory p = IJecpSplitterV2.Payment({
            payerAndValue: uint256(words[0]),
            nonce: words[1],
            terms: uint256(words[2]),
            r: words[3],
            vs: words[4]
        });
        IJecpSplitterV2.Batch memory batch = batchOf(p);
        vm.startPrank(caller);
        (bool settled,) =
            address(splitter).call(abi.encodeCall(IJecpSplitterV2.settle, (batch, limit)));
        (bool recorded,) =
            address(splitter).call(abi.encodeCall(IJecpSplitterV2.record, (batch, limit)));
        (bool refunded,) =
            address(splitter).call(abi.encodeCall(IJecpSplitterV2.refund, (batch, limit)));
        vm.stopPrank();
        assertFalse(settled || recorded || refunded);
    }

    /// @dev Every function with every argument: with nothing escrowed, nobody but the settler moves
    /// a unit or owes one.
    /// @custom:halmos --default-array-lengths 1 --default-bytes-lengths 65
    function check_WithoutTheSettlerNothingMoves(address caller, uint64 number) public {
        vm.assume(caller != settler);
        usdc.mint(address(splitter), CAP);
        bytes memory call = SVM.createCalldata("JecpSplitterV2");
        vm.prank(caller);
        (bool success,) = address(splitter).call(call);
        success;
        assertEq(splitter.totalOwed(), 0);
        assertEq(usdc.balanceOf(address(splitter)), CAP);
        assertFalse(splitter.isBooked(number));
    }

    function check_OnlyTheAdminRotatesTheRelayer(address caller, address next) public {
        vm.prank(caller);
        (bool success,) = address(splitter).call(abi.encodeCall(IJecpSplitterV2.setRelayer, (next)));
        bool free = next != address(0) && next != settler && next != relayerAdmin
            && next != hubTreasury && next != networkReserve && next != address(usdc);
        assertEq(success, caller == relayerAdmin && free);
        assertEq(splitter.relayer(), success ? next : relayer);
    }

    function check_OnlyTheProviderDeactivates(address caller, bytes32 id) public {
        vm.prank(caller);
        (bool success,) = address(splitter).call(abi.encodeCall(IJecpSplitterV2.deactivate, (id)));
        assertEq(success, caller == provider && id == CAPABILITY);
        (,,,, bool active) = splitter.capabilities(CAPABILITY);
        assertEq(active, !success);
    }

    function check_OnlyTheRelayerRevokes(address caller, bytes32 id) public {
        vm.prank(caller);
        (bool success,) = address(splitter).call(abi.encodeCall(IJecpSplitterV2.revoke, (id)));
        assertEq(success, caller == relayer && id == CAPABILITY);
        (,,,, bool active) = splitter.capabilities(CAPABILITY);
        assertEq(active, !success);
    }

    /// @dev And approves nothing but what the provider registered.
    function check_OnlyTheRelayerApprovesWhatWasRegistered(
        address caller,
        bytes32 id,
        address who,
        uint16 providerBps,
        uint16 hubBps,
        uint16 reserveBps
    ) public {
        vm.prank(relayer);
        splitter.revoke(CAPABILITY);
        vm.prank(caller);
        (bool success,) = address(splitter)
            .call(
                abi.encodeCall(IJecpSplitterV2.approve, (id, who, providerBps, hubBps, reserveBps))
            );
        bool same = id == CAPABILITY && who == provider && providerBps == 8500 && hubBps == 1000
            && reserveBps == 500;
        assertEq(success, caller == relayer && same);
    }

    /// @dev A registration is in the contract only with a signature over exactly its terms, by the
    /// provider whose it is, with a nonce that is used from then on. Of a provider without code.
    function check_RegisterNeedsTheProvidersSignature(
        bytes32 id,
        uint16 providerBps,
        uint16 hubBps,
        uint16 reserveBps,
        bytes32 nonce,
        uint256 deadline,
        bytes32 r,
        bytes32 s,
        uint8 v
    ) public {
        vm.assume(id != CAPABILITY);
        splitter.register(
            id,
            provider,
            providerBps,
            hubBps,
            reserveBps,
            nonce,
            deadline,
            abi.encodePacked(r, s, v)
        );
        bytes32 structHash = keccak256(
            abi.encode(
                REGISTER_TYPEHASH, id, provider, providerBps, hubBps, reserveBps, nonce, deadline
            )
        );
        bytes32 digest =
            keccak256(abi.encodePacked("\x19\x01", splitter.EIP712_DOMAIN_SEPARATOR(), structHash));
        assertEq(ecrecover(digest, v, r, s), provider);
        assertLe(uint256(s), HIGHEST_S);
        assertLe(block.timestamp, deadline);
        assertEq(uint256(providerBps) + hubBps + reserveBps, 10_000);
        assertTrue(hubBps >= 500 && reserveBps >= 100);
        assertTrue(splitter.usedNonces(provider, nonce));
        (,,,, bool active) = splitter.capabilities(id);
        assertFalse(active);
    }

    /// @dev Nonces of registrations only ever become used, whatever anyone calls.
    /// @custom:halmos --default-array-lengths 1 --default-bytes-lengths 65
    function check_UsedNonceStaysUsed(address caller, address who, bytes32 nonce) public {
        vm.prank(who);
        splitter.invalidateNonce(nonce);
        bytes memory call = SVM.createCalldata("JecpSplitterV2");
        vm.assume(caller != settler);
        vm.prank(caller);
        (bool success,) = address(splitter).call(call);
        success;
        assertTrue(splitter.usedNonces(who, nonce));
    }

    // ------------------------------------------------------------ money

    function check_NothingAndTooMuchAreRefused(uint96 value) public {
        vm.assume(value == 0 || value > CAP);
        settle(signed(value, "nonce", 1));
        assertFalse(splitter.isBooked(1));
        assertFalse(usdc.authorizationState(payer, "nonce"));
        assertEq(usdc.balanceOf(payer), type(uint96).max);
    }

    /// @dev What lies in the contract for others does not shrink, whatever lies there.
    function check_RecordTakesOnlyWhatBelongsToNobody(uint64 balance, uint64 owed) public {
        vm.assume(owed <= balance);
        usdc.mint(address(splitter), balance);
        owe(address(0x2001), owed, owed);
        IJecpSplitterV2.Payment memory p = signed(1000, "nonce", 1);
        markUsed("nonce");
        vm.prank(settler);
        splitter.record(batchOf(p), 100_000);
        bool booked = splitter.isBooked(1);
        assertEq(booked, balance - owed >= 1000);
        assertEq(splitter.recorded(payer, "nonce"), booked);
        assertEq(splitter.totalOwed(), owed);
        assertEq(usdc.balanceOf(address(splitter)), balance - (booked ? 1000 : 0));
    }

    /// @dev The same for a refund, of every value: it knows no cap.
    function check_RefundPaysThePayerAlone(uint96 value, uint64 balance, uint64 owed) public {
        vm.assume(owed <= balance);
        usdc.mint(address(splitter), balance);
        owe(address(0x2001), owed, owed);
        IJecpSplitterV2.Payment memory p = signed(value, "nonce", 1);
        markUsed("nonce");
        uint256 had = usdc.balanceOf(payer);
        vm.prank(settler);
        splitter.refund(batchOf(p), 100_000);
        bool booked = splitter.isBooked(1);
        assertEq(booked, value != 0 && value <= balance - owed);
        assertEq(usdc.balanceOf(payer), had + (booked ? value : 0));
        assertEq(usdc.balanceOf(address(splitter)), balance - (booked ? value : 0));
        assertEq(splitter.totalOwed(), owed);
    }

    /// @dev A payment that was recorded is not taken again, under any number, by either function.
    function check_RecordedIsTakenOnce(uint64 number, uint64 again) public {
        usdc.mint(address(splitter), CAP);
        IJecpSplitterV2.Payment memory p = signed(1000, "nonce", number);
        markUsed("nonce");
        vm.startPrank(settler);
        splitter.record(batchOf(p), 100_000);
        p.terms = uint256(again) << 192 | uint192(p.terms);
        splitter.record(batchOf(p), 100_000);
        splitter.refund(batchOf(p), 100_000);
        vm.stopPrank();
        assertTrue(splitter.isBooked(number));
        assertEq(splitter.isBooked(again), again == number);
        assertEq(usdc.balanceOf(address(splitter)), CAP - 1000);
    }

    /// @dev A number that is booked is refused by all three, and its neighbours stay as they are.
    function check_BookedNumberIsRefused(uint64 number, uint256 word, uint64 other) public {
        vm.assume(word >> (number & 0xff) & 1 == 1);
        book(number >> 8, word);
        bool otherBooked = splitter.isBooked(other);
        usdc.mint(address(splitter), CAP);
        IJecpSplitterV2.Payment memory p = signed(1000, "nonce", number);
        settle(p);
        assertFalse(usdc.authorizationState(payer, "nonce"));
        markUsed("nonce");
        vm.startPrank(settler);
        splitter.record(batchOf(p), 100_000);
        splitter.refund(batchOf(p), 100_000);
        vm.stopPrank();
        assertEq(usdc.balanceOf(address(splitter)), CAP);
        assertEq(splitter.isBooked(other), otherBooked);
    }

    /// @dev Booking one number sets its bit and no other, whatever was booked before.
    function check_BookingSetsOneNumber(uint64 number, uint256 word, uint64 other) public {
        vm.assume(word >> (number & 0xff) & 1 == 0 && other != number);
        book(number >> 8, word);
        bool otherBooked = splitter.isBooked(other);
        settle(signed(1000, "nonce", number));
        assertTrue(splitter.isBooked(number));
        assertEq(splitter.isBooked(other), otherBooked);
    }

    /// @dev Escrow, `totalOwed` and the balance fall by the same amount, and it reaches its owner.
    function check_WithdrawMovesEscrowAndTotalTogether(
        address caller,
        uint128 amount,
        uint128 owedToOthers,
        uint128 more
    ) public {
        address account = address(0x2001);
        uint256 owed = uint256(amount) + owedToOthers;
        usdc.mint(address(splitter), owed + more);
        owe(account, amount, owed);
        vm.prank(caller);
        (bool success,) =
            address(splitter).call(abi.encodeCall(IJecpSplitterV2.withdraw, (account)));
        assertEq(success, amount != 0);
        assertEq(splitter.escrow(account), 0);
        assertEq(splitter.totalOwed(), owedToOthers);
        assertEq(usdc.balanceOf(account), amount);
        assertEq(usdc.balanceOf(address(splitter)), uint256(owedToOthers) + more);
    }

    // ------------------------------------------------------------ helpers

    function settle(IJecpSplitterV2.Payment memory p) internal {
        vm.prank(settler);
        splitter.settle(batchOf(p), 100_000);
    }

    function batchOf(IJecpSplitterV2.Payment memory p)
        internal
        view
        returns (IJecpSplitterV2.Batch memory batch)
    {
        batch.capabilityIds = new bytes32[](1);
        batch.capabilityIds[0] = CAPABILITY;
        batch.providers = new address[](1);
        batch.providers[0] = provider;
        batch.payments = new IJecpSplitterV2.Payment[](1);
        batch.payments[0] = p;
    }

    /// @dev A payment by a payer who can pay anything that a payment can say.
    function signed(uint96 value, bytes32 nonce, uint64 number)
        internal
        returns (IJecpSplitterV2.Payment memory p)
    {
        // A solver does not know whose address a key has.
        vm.assume(payer != address(splitter) && payer != address(usdc) && payer != provider);
        vm.assume(payer != hubTreasury && payer != networkReserve && payer != address(0));
        vm.assume(payer != address(this) && payer != address(reader) && payer != address(0x2001));
        usdc.mint(payer, type(uint96).max);
        uint256 validBefore = block.timestamp + 60;
        bytes32 structHash = keccak256(
            abi.encode(
                TRANSFER_TYPEHASH,
                payer,
                address(splitter),
                uint256(value),
                uint256(0),
                validBefore,
                nonce
            )
        );
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(
            PAYER_KEY, keccak256(abi.encodePacked("\x19\x01", usdc.DOMAIN_SEPARATOR(), structHash))
        );
        vm.assume(uint256(s) <= HIGHEST_S);
        p.payerAndValue = uint256(uint160(payer)) << 96 | value;
        p.nonce = nonce;
        p.terms = uint256(number) << 192 | validBefore << 64;
        p.r = r;
        p.vs = bytes32(uint256(s) | uint256(v - 27) << 255);
    }

    /// @dev What the token says after somebody else's pull.
    function markUsed(bytes32 nonce) internal {
        bytes32 inner = keccak256(abi.encode(payer, AUTHORIZATIONS));
        vm.store(address(usdc), keccak256(abi.encode(nonce, inner)), bytes32(uint256(1)));
    }

    /// @dev A payable capability without a signature, which a solver cannot invert.
    function activate(uint16 providerBps, uint16 hubBps, uint16 reserveBps) internal {
        uint256 bps = uint256(providerBps) | uint256(hubBps) << 16 | uint256(reserveBps) << 32;
        bytes32 inner = keccak256(abi.encode(CAPABILITY, REGISTRATIONS));
        vm.store(address(splitter), keccak256(abi.encode(provider, inner)), bytes32(bps));
        vm.store(
            address(splitter),
            keccak256(abi.encode(CAPABILITY, CAPABILITIES)),
            bytes32(uint256(uint160(provider)) | bps << 160 | 1 << 208)
        );
    }

    function book(uint256 wordIndex, uint256 word) internal {
        vm.store(address(splitter), keccak256(abi.encode(wordIndex, BOOKED_WORDS)), bytes32(word));
    }

    function owe(address account, uint256 amount, uint256 total) internal {
        vm.store(address(splitter), keccak256(abi.encode(account, ESCROW)), bytes32(amount));
        vm.store(address(splitter), bytes32(TOTAL_OWED), bytes32(total));
    }
}
