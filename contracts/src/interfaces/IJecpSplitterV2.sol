// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title IJecpSplitterV2
/// @notice Pulls EIP-3009 payments, attributes them to capabilities and pays provider, hub and
/// network reserve, all in one transaction. What is booked is paid at once; what cannot be paid is
/// escrowed for its recipient. No proxy, no pause, no sweep, no ether.
///
/// @dev Assumptions on the token, in the order in which they would hurt if they broke:
/// - it is USDC: 6 decimals, EIP-3009, no fee on transfer, no rebasing; `transfer` and
///   `transferWithAuthorization` either move exactly the amount or revert;
/// - `authorizationState` of a nonce never returns from used to unused;
/// - its proxy may be upgraded by its owner; the immutables here cannot follow. Gas limits are
///   given in the call, so that a repricing does not brick anything;
/// - it may be paused, and any address may be blacklisted. A blacklisted recipient is escrowed; a
///   blacklisted Splitter cannot be paid and cannot pay;
/// - one `transfer` costs less than 200,000 gas. Above that, a caller who starves a push could have
///   a healthy recipient escrowed (H6): a push behind the token's proxy leaves 1/32 of its gas;
/// - it does not call back. Reentrancy is guarded all the same (one transient lock).
///
/// A payment has two identities. On the chain it is (payer, authorization nonce), which the token
/// lets pass once. In the ledger it is a settlement number, which this contract lets pass once.
/// The ledger gives every (payer, authorization nonce) one number and never a second; this contract
/// cannot see whether it does. See docs/contracts.md for the trust in each role.
interface IJecpSplitterV2 {
    /// @notice A payable capability.
    /// @param provider Who signed the registration and receives `providerBps`.
    /// @param providerBps Provider's share in basis points.
    /// @param hubBps Hub treasury's share in basis points.
    /// @param reserveBps Network reserve's share in basis points; it also takes the rounding.
    /// @param active True from the relayer's approval to revocation or deactivation.
    struct Capability {
        address provider;
        uint16 providerBps;
        uint16 hubBps;
        uint16 reserveBps;
        bool active;
    }

    /// @notice What one provider signed for one capability id, and has not taken back.
    struct Registration {
        uint16 providerBps;
        uint16 hubBps;
        uint16 reserveBps;
    }

    /// @notice One payer's EIP-3009 `TransferWithAuthorization` to this contract, and where it
    /// belongs. 160 bytes of calldata.
    /// @param payerAndValue Payer in the upper 160 bits, value in micro-USDC in the lower 96.
    /// @param nonce Authorization nonce. Starts with "JECP" when the payer bound it to a
    /// capability, see `boundNonce`.
    /// @param terms From the upper end: settlement number (64 bits), validAfter (64), validBefore
    /// (64), length of a long signature (32, zero for an ordinary one), index into `capabilityIds`
    /// (32).
    /// @param r Of an ordinary signature; of a long one its offset in `signatures`.
    /// @param vs Of an ordinary signature: s, with `v - 27` in the highest bit (EIP-2098). It is
    /// handed to the token as 65 bytes. Unused for a long one.
    struct Payment {
        uint256 payerAndValue;
        bytes32 nonce;
        uint256 terms;
        bytes32 r;
        bytes32 vs;
    }

    /// @notice Payments that are settled, recorded or refunded together. An index or an offset that
    /// points outside reverts the call: that is not a payment's fault, but the batch's.
    /// @param capabilityIds Every capability of the batch, once: one entry is read and paid once.
    /// @param providers Whom the settler expects behind each of them. A capability that is payable
    /// to somebody else is refused, so that a stolen relayer key alone redirects nothing.
    /// @param payments In the order in which they are tried.
    /// @param signatures Long signatures of contract payers (ERC-1271), one after the other.
    struct Batch {
        bytes32[] capabilityIds;
        address[] providers;
        Payment[] payments;
        bytes signatures;
    }

    /// @notice A provider's signed registration was accepted; it is not payable yet.
    event CapabilityRegistered(
        bytes32 indexed capabilityId,
        address indexed provider,
        uint16 providerBps,
        uint16 hubBps,
        uint16 reserveBps
    );

    /// @notice The relayer made a registered capability payable, with these shares.
    event CapabilityApproved(
        bytes32 indexed capabilityId,
        address indexed provider,
        uint16 providerBps,
        uint16 hubBps,
        uint16 reserveBps
    );

    /// @notice The relayer made a capability unpayable.
    event CapabilityRevoked(bytes32 indexed capabilityId, address indexed provider);

    /// @notice A provider took its registration back; if it was payable, it no longer is.
    event CapabilityDeactivated(bytes32 indexed capabilityId, address indexed provider);

    /// @notice A provider made one of its registration nonces unusable.
    event NonceInvalidated(address indexed provider, bytes32 indexed nonce);

    /// @notice The payment was pulled here and paid out, in this transaction.
    /// @param payerAndValue Packed as in `Payment`: a word less is 256 gas less per payment.
    event PaymentSettled(
        bytes32 indexed capabilityId, uint64 number, uint256 payerAndValue, bytes32 nonce
    );

    /// @notice The payment was not pulled here; nothing of it happened.
    /// @param used The token's `authorizationState` at that moment. True means that somebody
    /// consumed the authorization, by a pull or by a cancellation; `reason` may hide it ("expired"
    /// is reported before "used").
    /// @param reason The first 132 bytes of the token's revert data, empty when the pull ran out of
    /// gas; or an error selector of this interface when the payment was refused before the pull.
    event PaymentFailed(
        bytes32 indexed capabilityId,
        uint64 number,
        uint256 payerAndValue,
        bytes32 nonce,
        bool used,
        bytes reason
    );

    /// @notice The payment, pulled by somebody else before, was attributed and paid out.
    event PaymentRecorded(
        bytes32 indexed capabilityId, uint64 number, uint256 payerAndValue, bytes32 nonce
    );

    /// @notice The payment, pulled by somebody else before, was paid back to its payer.
    event PaymentRefunded(address indexed payer, uint64 number, uint256 value, bytes32 nonce);

    /// @notice `record` or `refund` left the payment alone.
    /// @param reason An error selector of this interface.
    event PaymentSkipped(uint64 number, uint256 payerAndValue, bytes32 nonce, bytes4 reason);

    /// @notice A push failed; the amount waits for `withdraw`.
    event Escrowed(address indexed account, uint256 amount);

    /// @notice Escrowed money went to its owner.
    event Withdrawn(address indexed account, uint256 amount);

    /// @notice The relayer was replaced.
    event RelayerRotated(address indexed oldRelayer, address indexed newRelayer);

    /// @notice The caller is not `AUTHORIZED_SETTLER`.
    error UnauthorizedSettler();
    /// @notice The caller is not the relayer.
    error UnauthorizedRelayer();
    /// @notice The caller is not `RELAYER_ADMIN`.
    error UnauthorizedRelayerAdmin();
    /// @notice An amount that must not be zero is zero.
    error AmountZero();
    /// @notice The amount is above `PER_TX_CAP`.
    error AmountExceedsCap();
    /// @notice The capability is not payable, or not to the provider that the settler named.
    error CapabilityNotActive();
    /// @notice The capability is payable.
    error CapabilityAlreadyExists();
    /// @notice There is no such registration of that provider.
    error NotRegistered();
    /// @notice The registration's shares are not those that the relayer expected.
    error RegistrationChanged();
    /// @notice The provider's registration nonce was used or invalidated before.
    error NonceUsed();
    /// @notice Nothing is escrowed for the account.
    error NoEscrowedFunds();
    /// @notice The registration's deadline has passed.
    error SignatureExpired();
    /// @notice The three shares do not sum to 10000 basis points.
    error InvalidSplit();
    /// @notice A share of hub or reserve is below the minimum.
    error ShareBelowMinimum();
    /// @notice The signature is not one of the declared provider, or payer.
    error InvalidSignature();
    /// @notice An address that must be set is zero.
    error ZeroAddress();
    /// @notice One address holds two roles.
    error RoleConflict(address account);
    /// @notice The token has no code or does not have 6 decimals.
    error UnsuitableToken(address token);
    /// @notice The minimum shares leave nothing for the provider.
    error InvalidMinimumShares();
    /// @notice The settlement number is booked.
    error NumberBooked();
    /// @notice (payer, authorization nonce) was recorded or refunded before.
    error AlreadyRecorded();
    /// @notice The payer bound the authorization nonce to another capability.
    error BoundToAnotherCapability();
    /// @notice The authorization was not used, so nothing was pulled.
    error AuthorizationNotUsed();
    /// @notice The Splitter does not hold the value beyond what it already owes.
    error InsufficientUnaccounted();
    /// @notice What is left of the transaction's gas cannot carry the gas limit that the call
    /// names.
    error InsufficientGas();
    /// @notice The pulls returned without error, but the money did not arrive.
    error PullShort(uint256 expected, uint256 actual);
    /// @notice No recipient could be paid: the token is paused, or refuses this contract.
    error NoPushSucceeded();

    /// @notice Pulls every payment of the batch, attributes it and pays it out.
    /// @dev Only the settler. Emits exactly one event per payment, `PaymentSettled` or
    /// `PaymentFailed`; one payment's failure is its own. Provider, hub and reserve are paid once
    /// per batch (a provider once per entry of `capabilityIds`); shares are floored per payment,
    /// the remainder is the reserve's, so that a payment's split does not depend on its batch.
    /// Reverts as a whole when gas is short, never lets a payment fail for it.
    /// @param pullGas Gas limit of one pull, and so the most that a hostile contract payer can
    /// burn. The first pull of a transaction is the dearest. A limit that is too low fails payments
    /// with an empty reason, and harms nothing.
    function settle(Batch calldata batch, uint256 pullGas) external;

    /// @notice Attributes and pays out payments that somebody else pulled into this contract: a
    /// facilitator, or a stranger who submitted an authorization first.
    /// @dev Only the settler. Emits one `PaymentRecorded` or `PaymentSkipped` per payment. A
    /// payment is taken only if its capability is payable, its value within the cap, its number not
    /// booked, its nonce not bound to another capability; if (payer, nonce) was neither recorded
    /// nor refunded, the token says that the nonce is used, the payer signed (this contract, value,
    /// nonce), and the contract holds the value beyond what it owes; in this order, the first that
    /// fails is the reason. A payer who signs and then cancels passes: only who reads the token's
    /// events sees that. Reverts when money was booked and nobody could be paid.
    /// @param checkGas Gas limit of one contract payer's ERC-1271 answer.
    function record(Batch calldata batch, uint256 checkGas) external;

    /// @notice Pays payments that somebody else pulled into this contract back to their payers.
    /// @dev Only the settler. Checks and keys of `record`, without capability, binding and cap:
    /// a refund attributes nothing, and what should never have been paid must be refundable.
    /// `capabilityIds` and `providers` are not read. Emits one `PaymentRefunded` or
    /// `PaymentSkipped` per payment.
    function refund(Batch calldata batch, uint256 checkGas) external;

    /// @notice Stores a provider's signed registration. Anyone may submit it. It becomes payable
    /// when the relayer approves it. Several providers may register one id; at most one is payable.
    /// @dev EIP-712 `Register(bytes32 capabilityId,address provider,uint16 providerBps,uint16
    /// hubBps,uint16 reserveBps,bytes32 nonce,uint256 deadline)`, domain "JecpSplitter", "2".
    /// @param nonce Any value that the provider has not used before; nonces have no order.
    /// @param deadline Last second, inclusive, at which the signature is accepted.
    /// @param providerSig 65 bytes, low-s; or whatever the provider's ERC-1271 contract accepts.
    function register(
        bytes32 capabilityId,
        address provider,
        uint16 providerBps,
        uint16 hubBps,
        uint16 reserveBps,
        bytes32 nonce,
        uint256 deadline,
        bytes calldata providerSig
    ) external;

    /// @notice Makes a registration payable. Only the relayer.
    /// @dev Names everything that it approves, so that nobody can slip in something else before.
    function approve(
        bytes32 capabilityId,
        address provider,
        uint16 providerBps,
        uint16 hubBps,
        uint16 reserveBps
    ) external;

    /// @notice Makes a payable capability unpayable. Only the relayer. The provider's registration
    /// stays and may be approved again.
    function revoke(bytes32 capabilityId) external;

    /// @notice Takes the caller's registration back; if it was payable, it no longer is.
    function deactivate(bytes32 capabilityId) external;

    /// @notice Makes one of the caller's registration nonces unusable.
    function invalidateNonce(bytes32 nonce) external;

    /// @notice Pays `account` what is escrowed for it. Anyone may call.
    function withdraw(address account) external;

    /// @notice Replaces the relayer. Only the relayer admin.
    function setRelayer(address newRelayer) external;

    /// @notice The token.
    function USDC() external view returns (address);
    /// @notice Receives the hub's share.
    function HUB_TREASURY() external view returns (address);
    /// @notice Receives the reserve's share and the rounding.
    function NETWORK_RESERVE() external view returns (address);
    /// @notice The only account that may settle, record and refund.
    function AUTHORIZED_SETTLER() external view returns (address);
    /// @notice The only account that may replace the relayer.
    function RELAYER_ADMIN() external view returns (address);
    /// @notice Largest value of one payment, in micro-USDC.
    function PER_TX_CAP() external view returns (uint256);
    /// @notice Smallest hub share of a registration, in basis points.
    function MIN_HUB_BPS() external view returns (uint256);
    /// @notice Smallest reserve share of a registration, in basis points.
    function MIN_RESERVE_BPS() external view returns (uint256);
    /// @notice EIP-712 domain separator.
    function EIP712_DOMAIN_SEPARATOR() external view returns (bytes32);
    /// @notice The account that approves and revokes; it holds no power over money.
    function relayer() external view returns (address);
    /// @notice The payable registration of a capability id. `active` is false, and the rest is what
    /// was payable last, when there is none.
    function capabilities(bytes32 capabilityId)
        external
        view
        returns (
            address provider,
            uint16 providerBps,
            uint16 hubBps,
            uint16 reserveBps,
            bool active
        );
    /// @notice A provider's registration for a capability id; zero shares when there is none.
    function registrations(bytes32 capabilityId, address provider)
        external
        view
        returns (uint16 providerBps, uint16 hubBps, uint16 reserveBps);
    /// @notice Whether a provider's registration nonce was used or invalidated.
    function usedNonces(address provider, bytes32 nonce) external view returns (bool);
    /// @notice Whether a settlement number was settled, recorded or refunded.
    function isBooked(uint64 number) external view returns (bool);
    /// @notice Whether (payer, authorization nonce) was recorded or refunded. What was settled is
    /// not in here: the token lets it pass once, and its number is booked.
    function recorded(address payer, bytes32 nonce) external view returns (bool);
    /// @notice Escrowed for an account whose push failed, in micro-USDC.
    function escrow(address account) external view returns (uint256);
    /// @notice Everything escrowed, in micro-USDC.
    function totalOwed() external view returns (uint256);

    /// @notice The authorization nonce that binds a payment to a capability: "JECP", the salt, and
    /// the low 20 bytes of keccak256(abi.encode(chainid, this, capabilityId, uint256(salt))).
    /// @dev A nonce that starts with "JECP" and is not of this form for the named capability can
    /// only be refunded. A random nonce starts so once in 2^32.
    function boundNonce(bytes32 capabilityId, uint64 salt) external view returns (bytes32);
}
