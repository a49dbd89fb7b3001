// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {IJecpSplitterV2} from "./interfaces/IJecpSplitterV2.sol";
import {IUsdc, IUsdcBytes} from "./interfaces/IUsdc.sol";
import {PaymentLib} from "./libraries/PaymentLib.sol";

/// @title JecpSplitterV2
/// @notice See IJecpSplitterV2.
contract JecpSplitterV2 is IJecpSplitterV2, EIP712, ReentrancyGuardTransient {
    using PaymentLib for Payment;
    using SafeERC20 for IERC20;

    uint256 internal constant BPS = 10_000;

    bytes32 internal constant REGISTER_TYPEHASH = keccak256(
        "Register(bytes32 capabilityId,address provider,uint16 providerBps,uint16 hubBps,uint16 reserveBps,bytes32 nonce,uint256 deadline)"
    );
    /// @dev EIP-3009.
    bytes32 internal constant TRANSFER_WITH_AUTHORIZATION_TYPEHASH = keccak256(
        "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );

    /// @dev "JECP", the first four bytes of a nonce that its payer bound to a capability.
    uint256 internal constant BOUND = 0x4a454350;

    /// @dev As much of a pull's revert data as is copied: Error(string) with 64 bytes of text.
    uint256 internal constant MAX_REASON = 4 + 32 + 32 + 64;

    /// @dev More than is spent between a gas check and the call that it protects.
    uint256 internal constant CALL_OVERHEAD = 4000;

    /// @dev No settlement number lies in this word of the bitmap.
    uint256 internal constant NO_WORD = type(uint256).max;

    /// @dev One entry of a batch's `capabilityIds` while the batch is worked on.
    /// `ceiling` is the largest value of a payment, zero if none may be booked.
    struct Line {
        bytes32 capabilityId;
        address provider;
        uint256 providerBps;
        uint256 hubBps;
        uint256 ceiling;
        uint256 providerAmount;
    }

    /// @dev What a batch adds up. One word of the bitmap is held back, since numbers of a batch are
    /// mostly neighbours. Nothing can write it meanwhile, the lock is taken; the view `isBooked`,
    /// asked by a payer's code in the middle of a batch, may be behind.
    struct Tally {
        uint256 wordIndex;
        uint256 word;
        uint256 total;
        uint256 hubAmount;
    }

    /// @inheritdoc IJecpSplitterV2
    address public immutable USDC;
    /// @inheritdoc IJecpSplitterV2
    address public immutable HUB_TREASURY;
    /// @inheritdoc IJecpSplitterV2
    address public immutable NETWORK_RESERVE;
    /// @inheritdoc IJecpSplitterV2
    address public immutable AUTHORIZED_SETTLER;
    /// @inheritdoc IJecpSplitterV2
    address public immutable RELAYER_ADMIN;
    /// @inheritdoc IJecpSplitterV2
    uint256 public immutable PER_TX_CAP;
    /// @inheritdoc IJecpSplitterV2
    uint256 public immutable MIN_HUB_BPS;
    /// @inheritdoc IJecpSplitterV2
    uint256 public immutable MIN_RESERVE_BPS;

    /// @inheritdoc IJecpSplitterV2
    address public relayer;
    /// @inheritdoc IJecpSplitterV2
    mapping(bytes32 capabilityId => Capability) public capabilities;
    /// @inheritdoc IJecpSplitterV2
    mapping(bytes32 capabilityId => mapping(address provider => Registration)) public registrations;
    /// @inheritdoc IJecpSplitterV2
    mapping(address provider => mapping(bytes32 nonce => bool)) public usedNonces;
    /// @inheritdoc IJecpSplitterV2
    mapping(address payer => mapping(bytes32 nonce => bool)) public recorded;
    /// @inheritdoc IJecpSplitterV2
    mapping(address account => uint256) public escrow;
    /// @inheritdoc IJecpSplitterV2
    uint256 public totalOwed;
    /// @dev Bit `number % 256` of word `number / 256`: the settlement number is booked.
    mapping(uint256 wordIndex => uint256 word) internal bookedWords;

    constructor(
        address usdc,
        address hubTreasury,
        address networkReserve,
        address relayer_,
        address relayerAdmin,
        address authorizedSettler,
        uint256 perTxCap,
        uint256 minHubBps,
        uint256 minReserveBps
    ) EIP712("JecpSplitter", "2") {
        address[6] memory roles = [
            usdc, hubTreasury, networkReserve, relayer_, relayerAdmin, authorizedSettler
        ];
        for (uint256 i = 0; i < roles.length; ++i) {
            if (roles[i] == address(0)) revert ZeroAddress();
            for (uint256 j = 0; j < i; ++j) {
                if (roles[i] == roles[j]) revert RoleConflict(roles[i]);
            }
        }
        if (usdc.code.length == 0 || IUsdc(usdc).decimals() != 6) revert UnsuitableToken(usdc);
        if (perTxCap == 0) revert AmountZero();
        if (minHubBps >= BPS || minReserveBps >= BPS || minHubBps + minReserveBps >= BPS) {
            revert InvalidMinimumShares();
        }

        USDC = usdc;
        HUB_TREASURY = hubTreasury;
        NETWORK_RESERVE = networkReserve;
        AUTHORIZED_SETTLER = authorizedSettler;
        RELAYER_ADMIN = relayerAdmin;
        PER_TX_CAP = perTxCap;
        MIN_HUB_BPS = minHubBps;
        MIN_RESERVE_BPS = minReserveBps;
        relayer = relayer_;
        emit RelayerRotated(address(0), relayer_);
    }

    // ---------------------------------------------------------------- payments

    /// @inheritdoc IJecpSplitterV2
    function settle(Batch calldata batch, uint256 pullGas) external nonReentrant {
        if (msg.sender != AUTHORIZED_SETTLER) revert UnauthorizedSettler();

        uint256 balanceBefore = _balance();
        Line[] memory lines = _openLines(batch);
        Tally memory tally = _openTally();
        Payment[] calldata payments = batch.payments;
        for (uint256 i = 0; i < payments.length; ++i) {
            Payment calldata payment = payments[i];
            Line memory line = lines[payment.capabilityIndex()];
            bytes4 refusal = _refusal(payment, line, tally);
            if (refusal != 0) {
                _emitFailed(payment, line.capabilityId, abi.encodePacked(refusal));
            } else if (!_pull(batch, payment, pullGas)) {
                // Nothing may be called before this: it reads the pull's return data.
                _emitFailed(payment, line.capabilityId, _reason());
            } else {
                _book(payment, line, tally);
                emit PaymentSettled(
                    line.capabilityId, payment.number(), payment.payerAndValue, payment.nonce
                );
            }
        }
        _closeTally(tally);
        if (tally.total == 0) return;

        uint256 expected = balanceBefore + tally.total;
        uint256 actual = _balance();
        if (actual < expected) revert PullShort(expected, actual);
        _payOut(lines, tally);
    }

    /// @inheritdoc IJecpSplitterV2
    function record(Batch calldata batch, uint256 checkGas) external nonReentrant {
        if (msg.sender != AUTHORIZED_SETTLER) revert UnauthorizedSettler();

        uint256 unaccounted = _unaccounted();
        bytes32 tokenDomain = IUsdc(USDC).DOMAIN_SEPARATOR();
        Line[] memory lines = _openLines(batch);
        Tally memory tally = _openTally();
        for (uint256 i = 0; i < batch.payments.length; ++i) {
            Payment calldata payment = batch.payments[i];
            Line memory line = lines[payment.capabilityIndex()];
            bytes4 refusal = _refusal(payment, line, tally);
            if (refusal == 0) {
                refusal = _claimRefusal(
                    payment, batch.signatures, tokenDomain, unaccounted - tally.total, checkGas
                );
            }
            if (refusal != 0) {
                _emitSkipped(payment, refusal);
                continue;
            }
            recorded[payment.payer()][payment.nonce] = true;
            _book(payment, line, tally);
            emit PaymentRecorded(
                line.capabilityId, payment.number(), payment.payerAndValue, payment.nonce
            );
        }
        _closeTally(tally);
        // A token that pays nobody is paused, or has blacklisted this contract. The money is safer
        // where it is than in three escrows.
        if (tally.total != 0 && !_payOut(lines, tally)) revert NoPushSucceeded();
    }

    /// @inheritdoc IJecpSplitterV2
    function refund(Batch calldata batch, uint256 checkGas) external nonReentrant {
        if (msg.sender != AUTHORIZED_SETTLER) revert UnauthorizedSettler();

        uint256 unaccounted = _unaccounted();
        bytes32 tokenDomain = IUsdc(USDC).DOMAIN_SEPARATOR();
        Tally memory tally = _openTally();
        bool[] memory taken = new bool[](batch.payments.length);
        for (uint256 i = 0; i < taken.length; ++i) {
            Payment calldata payment = batch.payments[i];
            bytes4 refusal;
            if (payment.value() == 0) {
                refusal = AmountZero.selector;
            } else if (_isBooked(payment.number(), tally)) {
                refusal = NumberBooked.selector;
            } else {
                refusal = _claimRefusal(
                    payment, batch.signatures, tokenDomain, unaccounted - tally.total, checkGas
                );
            }
            if (refusal != 0) {
                _emitSkipped(payment, refusal);
                continue;
            }
            taken[i] = true;
            recorded[payment.payer()][payment.nonce] = true;
            _mark(payment, tally);
            tally.total += payment.value();
            emit PaymentRefunded(payment.payer(), payment.number(), payment.value(), payment.nonce);
        }
        _closeTally(tally);
        for (uint256 i = 0; i < taken.length; ++i) {
            Payment calldata payment = batch.payments[i];
            if (taken[i]) _pushOrEscrow(payment.payer(), payment.value());
        }
    }

    /// @inheritdoc IJecpSplitterV2
    function withdraw(address account) external nonReentrant {
        uint256 amount = escrow[account];
        if (amount == 0) revert NoEscrowedFunds();
        escrow[account] = 0;
        totalOwed -= amount;
        emit Withdrawn(account, amount);
        IERC20(USDC).safeTransfer(account, amount);
    }

    // ---------------------------------------------------------------- capabilities

    /// @inheritdoc IJecpSplitterV2
    function register(
        bytes32 capabilityId,
        address provider,
        uint16 providerBps,
        uint16 hubBps,
        uint16 reserveBps,
        bytes32 nonce,
        uint256 deadline,
        bytes calldata providerSig
    ) external nonReentrant {
        if (uint256(providerBps) + hubBps + reserveBps != BPS) {
            revert InvalidSplit();
        }
        if (hubBps < MIN_HUB_BPS || reserveBps < MIN_RESERVE_BPS) revert ShareBelowMinimum();
        if (block.timestamp > deadline) revert SignatureExpired();
        if (usedNonces[provider][nonce]) revert NonceUsed();
        if (capabilities[capabilityId].active) revert CapabilityAlreadyExists();
        bytes32 structHash = keccak256(
            abi.encode(
                REGISTER_TYPEHASH,
                capabilityId,
                provider,
                providerBps,
                hubBps,
                reserveBps,
                nonce,
                deadline
            )
        );
        if (!_isProviderSignature(provider, _hashTypedDataV4(structHash), providerSig)) {
            revert InvalidSignature();
        }

        usedNonces[provider][nonce] = true;
        registrations[capabilityId][provider] = Registration(providerBps, hubBps, reserveBps);
        emit CapabilityRegistered(capabilityId, provider, providerBps, hubBps, reserveBps);
    }

    /// @inheritdoc IJecpSplitterV2
    function approve(
        bytes32 capabilityId,
        address provider,
        uint16 providerBps,
        uint16 hubBps,
        uint16 reserveBps
    ) external nonReentrant {
        if (msg.sender != relayer) revert UnauthorizedRelayer();
        if (capabilities[capabilityId].active) revert CapabilityAlreadyExists();
        Registration memory registration = registrations[capabilityId][provider];
        if (!_exists(registration)) revert NotRegistered();
        if (
            registration.providerBps != providerBps || registration.hubBps != hubBps
                || registration.reserveBps != reserveBps
        ) revert RegistrationChanged();

        capabilities[capabilityId] = Capability(provider, providerBps, hubBps, reserveBps, true);
        emit CapabilityApproved(capabilityId, provider, providerBps, hubBps, reserveBps);
    }

    /// @inheritdoc IJecpSplitterV2
    function revoke(bytes32 capabilityId) external nonReentrant {
        if (msg.sender != relayer) revert UnauthorizedRelayer();
        Capability storage capability = capabilities[capabilityId];
        if (!capability.active) revert CapabilityNotActive();
        capability.active = false;
        emit CapabilityRevoked(capabilityId, capability.provider);
    }

    /// @inheritdoc IJecpSplitterV2
    function deactivate(bytes32 capabilityId) external nonReentrant {
        if (!_exists(registrations[capabilityId][msg.sender])) revert NotRegistered();
        delete registrations[capabilityId][msg.sender];
        Capability storage capability = capabilities[capabilityId];
        if (capability.provider == msg.sender) capability.active = false;
        emit CapabilityDeactivated(capabilityId, msg.sender);
    }

    /// @inheritdoc IJecpSplitterV2
    function invalidateNonce(bytes32 nonce) external nonReentrant {
        if (usedNonces[msg.sender][nonce]) revert NonceUsed();
        usedNonces[msg.sender][nonce] = true;
        emit NonceInvalidated(msg.sender, nonce);
    }

    /// @inheritdoc IJecpSplitterV2
    function setRelayer(address newRelayer) external nonReentrant {
        if (msg.sender != RELAYER_ADMIN) revert UnauthorizedRelayerAdmin();
        if (newRelayer == address(0)) revert ZeroAddress();
        // The roles stay as distinct as the constructor made them.
        if (
            newRelayer == AUTHORIZED_SETTLER || newRelayer == RELAYER_ADMIN
                || newRelayer == HUB_TREASURY || newRelayer == NETWORK_RESERVE || newRelayer == USDC
        ) revert RoleConflict(newRelayer);
        emit RelayerRotated(relayer, newRelayer);
        relayer = newRelayer;
    }

    // ---------------------------------------------------------------- views

    /// @inheritdoc IJecpSplitterV2
    function EIP712_DOMAIN_SEPARATOR() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    /// @inheritdoc IJecpSplitterV2
    function isBooked(uint64 number) external view returns (bool) {
        return bookedWords[number >> 8] >> (number & 0xff) & 1 != 0;
    }

    /// @inheritdoc IJecpSplitterV2
    function boundNonce(bytes32 capabilityId, uint64 salt) public view returns (bytes32) {
        uint256 hash = uint256(
            keccak256(abi.encode(block.chainid, address(this), capabilityId, uint256(salt)))
        );
        return bytes32(BOUND << 224 | uint256(salt) << 160 | hash & type(uint160).max);
    }

    // ---------------------------------------------------------------- checks

    /// @dev Why the payment may not be booked to the line, whoever pulls it; zero if it may.
    function _refusal(Payment calldata payment, Line memory line, Tally memory tally)
        private
        returns (bytes4)
    {
        uint256 value = payment.value();
        // One comparison for an unpayable capability, a zero value and one above the cap: zero
        // wraps around, and the ceiling of an unpayable line is zero.
        unchecked {
            if (value - 1 >= line.ceiling) {
                if (line.ceiling == 0) return CapabilityNotActive.selector;
                return value == 0 ? AmountZero.selector : AmountExceedsCap.selector;
            }
        }
        if (_isBooked(payment.number(), tally)) return NumberBooked.selector;
        bytes32 nonce = payment.nonce;
        if (uint256(nonce) >> 224 == BOUND && !_isBoundTo(nonce, line.capabilityId)) {
            return BoundToAnotherCapability.selector;
        }
        return 0;
    }

    function _isBoundTo(bytes32 nonce, bytes32 capabilityId) private view returns (bool) {
        // The salt is eight bytes of the nonce; the rest is cut off on purpose.
        // forge-lint: disable-next-line(unsafe-typecast)
        return nonce == boundNonce(capabilityId, uint64(uint256(nonce) >> 160));
    }

    /// @dev Why the payment may not be taken as pulled by somebody else; zero if it may.
    function _claimRefusal(
        Payment calldata payment,
        bytes calldata longSignatures,
        bytes32 tokenDomain,
        uint256 unaccounted,
        uint256 checkGas
    ) private view returns (bytes4) {
        address payer = payment.payer();
        if (recorded[payer][payment.nonce]) return AlreadyRecorded.selector;
        if (!IUsdc(USDC).authorizationState(payer, payment.nonce)) {
            return AuthorizationNotUsed.selector;
        }
        bytes32 structHash = keccak256(
            abi.encode(
                TRANSFER_WITH_AUTHORIZATION_TYPEHASH,
                payer,
                address(this),
                payment.value(),
                payment.validAfter(),
                payment.validBefore(),
                payment.nonce
            )
        );
        bytes32 digest = MessageHashUtils.toTypedDataHash(tokenDomain, structHash);
        bytes memory signature = payment.signature(longSignatures);
        if (!_isPayerSignature(payer, digest, signature, checkGas)) {
            return InvalidSignature.selector;
        }
        // Last, so that it says something: signed and used, and yet the money is not here.
        if (payment.value() > unaccounted) return InsufficientUnaccounted.selector;
        return 0;
    }

    /// @dev ECDSA first: a key that signed stays a key when code is laid over it (EIP-7702).
    function _isProviderSignature(address provider, bytes32 digest, bytes calldata signature)
        private
        view
        returns (bool)
    {
        (address signer, ECDSA.RecoverError failure,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (failure == ECDSA.RecoverError.NoError && signer == provider) return true;
        return provider.code.length != 0
            && SignatureChecker.isValidERC1271SignatureNowCalldata(provider, digest, signature);
    }

    /// @dev As above, but a payer is nobody's friend: his code gets `checkGas` and no more.
    function _isPayerSignature(
        address payer,
        bytes32 digest,
        bytes memory signature,
        uint256 checkGas
    ) private view returns (bool valid) {
        (address signer, ECDSA.RecoverError failure,) = ECDSA.tryRecover(digest, signature);
        if (failure == ECDSA.RecoverError.NoError && signer == payer) return true;
        if (payer.code.length == 0) return false;

        bytes memory question = abi.encodeCall(IERC1271.isValidSignature, (digest, signature));
        bytes4 magic = IERC1271.isValidSignature.selector;
        _requireGas(checkGas);
        assembly ("memory-safe") {
            let success :=
                staticcall(checkGas, payer, add(question, 0x20), mload(question), 0x00, 0x20)
            valid := and(success, and(gt(returndatasize(), 0x1f), eq(mload(0x00), magic)))
        }
    }

    /// @dev A call asked to forward more than 63/64 of what is left forwards less without a word
    /// (EIP-150). Then a healthy callee fails; so the transaction must, and as a whole.
    function _requireGas(uint256 callGas) private view {
        uint256 needed = callGas + CALL_OVERHEAD;
        uint256 left = gasleft();
        unchecked {
            left -= left / 64;
        }
        if (left < needed) revert InsufficientGas();
    }

    // ---------------------------------------------------------------- booking

    function _openLines(Batch calldata batch) private view returns (Line[] memory lines) {
        lines = new Line[](batch.capabilityIds.length);
        for (uint256 i = 0; i < lines.length; ++i) {
            Line memory line = lines[i];
            line.capabilityId = batch.capabilityIds[i];
            Capability memory capability = capabilities[line.capabilityId];
            line.provider = capability.provider;
            line.providerBps = capability.providerBps;
            line.hubBps = capability.hubBps;
            if (capability.active && capability.provider == batch.providers[i]) {
                line.ceiling = PER_TX_CAP;
            }
        }
    }

    function _openTally() private pure returns (Tally memory tally) {
        tally.wordIndex = NO_WORD;
    }

    /// @dev Writes the held word back; if nothing changed in it, that is a cheap no-op.
    function _closeTally(Tally memory tally) private {
        if (tally.wordIndex != NO_WORD) bookedWords[tally.wordIndex] = tally.word;
    }

    /// @dev Holds the word of a settlement number, and writes back the one held before.
    function _turnTo(uint256 wordIndex, Tally memory tally) private {
        _closeTally(tally);
        tally.wordIndex = wordIndex;
        tally.word = bookedWords[wordIndex];
    }

    function _isBooked(uint256 number, Tally memory tally) private returns (bool) {
        if (number >> 8 != tally.wordIndex) _turnTo(number >> 8, tally);
        return tally.word >> (number & 0xff) & 1 != 0;
    }

    /// @dev Follows `_isBooked` of the same number, so the word is the right one.
    function _mark(Payment calldata payment, Tally memory tally) private pure {
        // forge-lint: disable-next-line(incorrect-shift)
        tally.word |= 1 << (payment.number() & 0xff);
    }

    /// @dev Floors for provider and hub, the remainder to the reserve (S06 8.5), per payment.
    function _book(Payment calldata payment, Line memory line, Tally memory tally) private pure {
        _mark(payment, tally);
        uint256 value = payment.value();
        // At most 2^96 * 10^4 each, and no batch holds 2^100 payments.
        unchecked {
            line.providerAmount += value * line.providerBps / BPS;
            tally.hubAmount += value * line.hubBps / BPS;
            tally.total += value;
        }
    }

    // ---------------------------------------------------------------- the token

    function _balance() private view returns (uint256) {
        return IERC20(USDC).balanceOf(address(this));
    }

    /// @dev What lies here and belongs to nobody yet: pulls of others, and donations.
    function _unaccounted() private view returns (uint256) {
        uint256 balance = _balance();
        return balance > totalOwed ? balance - totalOwed : 0;
    }

    /// @dev One pull with a gas limit of its own. Its return data is left for `_reason`.
    function _pull(Batch calldata batch, Payment calldata payment, uint256 pullGas)
        private
        returns (bool success)
    {
        if (payment.longSignatureLength() != 0) {
            return _pullLong(payment, batch.signatures, pullGas);
        }
        address usdc = USDC;
        bytes4 selector = IUsdc.transferWithAuthorization.selector;
        _requireGas(pullGas);
        // abi.encodeCall of the (v, r, s) overload, without a copy that nobody frees.
        assembly ("memory-safe") {
            let frame := mload(0x40)
            let payerAndValue := calldataload(payment)
            let terms := calldataload(add(payment, 0x40))
            let vs := calldataload(add(payment, 0x80))
            mstore(frame, selector)
            mstore(add(frame, 0x004), shr(96, payerAndValue))
            mstore(add(frame, 0x024), address())
            mstore(add(frame, 0x044), and(payerAndValue, 0xffffffffffffffffffffffff))
            mstore(add(frame, 0x064), and(shr(128, terms), 0xffffffffffffffff))
            mstore(add(frame, 0x084), and(shr(64, terms), 0xffffffffffffffff))
            mstore(add(frame, 0x0a4), calldataload(add(payment, 0x20)))
            mstore(add(frame, 0x0c4), add(27, shr(255, vs)))
            mstore(add(frame, 0x0e4), calldataload(add(payment, 0x60)))
            mstore(add(frame, 0x104), shr(1, shl(1, vs)))
            success := call(pullGas, usdc, 0, frame, 0x124, 0, 0)
        }
    }

    /// @dev The pull of a contract payer whose signature does not fit `r` and `vs`.
    function _pullLong(Payment calldata payment, bytes calldata longSignatures, uint256 pullGas)
        private
        returns (bool success)
    {
        address usdc = USDC;
        bytes memory data = abi.encodeCall(
            IUsdcBytes.transferWithAuthorization,
            (
                payment.payer(),
                address(this),
                payment.value(),
                payment.validAfter(),
                payment.validBefore(),
                payment.nonce,
                payment.signature(longSignatures)
            )
        );
        _requireGas(pullGas);
        assembly ("memory-safe") {
            success := call(pullGas, usdc, 0, add(data, 0x20), mload(data), 0, 0)
        }
    }

    /// @dev The beginning of the last call's return data. The rest is the payer's to blow up, and
    /// copying it would be ours to pay for.
    function _reason() private pure returns (bytes memory reason) {
        assembly ("memory-safe") {
            let length := returndatasize()
            if gt(length, MAX_REASON) { length := MAX_REASON }
            reason := mload(0x40)
            mstore(reason, length)
            // One whole word of zeros behind the text, whatever was in this memory before.
            mstore(add(add(reason, 0x20), length), 0)
            returndatacopy(add(reason, 0x20), 0, length)
            mstore(0x40, add(reason, 0xe0))
        }
    }

    /// @dev Pays what the batch added up. State before transfers: all bookings are written.
    /// @return paid Whether any recipient was paid.
    function _payOut(Line[] memory lines, Tally memory tally) private returns (bool paid) {
        uint256 reserveAmount = tally.total - tally.hubAmount;
        for (uint256 i = 0; i < lines.length; ++i) {
            uint256 amount = lines[i].providerAmount;
            reserveAmount -= amount;
            if (_pushOrEscrow(lines[i].provider, amount)) paid = true;
        }
        if (_pushOrEscrow(HUB_TREASURY, tally.hubAmount)) paid = true;
        if (_pushOrEscrow(NETWORK_RESERVE, reserveAmount)) paid = true;
    }

    /// @dev Pushes with all gas there is: a limit would be a constant that a repricing breaks.
    function _pushOrEscrow(address account, uint256 amount) private returns (bool paid) {
        if (amount == 0) return false;
        paid = IERC20(USDC).trySafeTransfer(account, amount);
        if (!paid) {
            escrow[account] += amount;
            totalOwed += amount;
            emit Escrowed(account, amount);
        }
    }

    // ---------------------------------------------------------------- helpers

    function _emitFailed(Payment calldata payment, bytes32 capabilityId, bytes memory reason)
        private
    {
        bool used = IUsdc(USDC).authorizationState(payment.payer(), payment.nonce);
        emit PaymentFailed(
            capabilityId, payment.number(), payment.payerAndValue, payment.nonce, used, reason
        );
    }

    function _emitSkipped(Payment calldata payment, bytes4 reason) private {
        emit PaymentSkipped(payment.number(), payment.payerAndValue, payment.nonce, reason);
    }

    /// @dev Shares of a registration sum to 10000; of none, to zero.
    function _exists(Registration memory registration) private pure returns (bool) {
        return registration.providerBps | registration.hubBps | registration.reserveBps != 0;
    }
}
