// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title IJecpSplitter
/// @notice The published JECP v1.1.1 Splitter: holds pulled USDC, lets one settler attribute it to
/// capabilities, and divides what is attributed between provider, hub and network reserve.
///
/// @dev Assumptions on the token, in the order in which they would hurt if they broke:
/// - it is USDC: 6 decimals, no fee on transfer, no rebasing, `transfer` either moves exactly the
///   amount or reverts;
/// - its proxy may be upgraded by its owner; the Splitter's immutables cannot follow;
/// - it may be paused, and any address may be blacklisted. A blacklisted provider is escrowed, a
///   blacklisted treasury or reserve stops every split, a blacklisted Splitter stops everything;
/// - it does not call back into the sender or the recipient. Reentrancy is guarded all the same.
///
/// Trust: the settler attributes, it cannot move USDC out other than by the registered split. See
/// docs/contracts.md.
interface IJecpSplitter {
    /// @notice One registered capability.
    /// @param provider Who signed the registration and receives `providerBps`.
    /// @param providerBps Provider's share in basis points.
    /// @param hubBps Hub treasury's share in basis points.
    /// @param reserveBps Network reserve's share in basis points; it also takes the rounding.
    /// @param active False before registration and after deactivation.
    struct Capability {
        address provider;
        uint16 providerBps;
        uint16 hubBps;
        uint16 reserveBps;
        bool active;
    }

    /// @notice A capability was registered.
    event CapabilityRegistered(
        bytes32 indexed capabilityId,
        address indexed provider,
        uint16 providerBps,
        uint16 hubBps,
        uint16 reserveBps
    );

    /// @notice A capability was deactivated by its provider.
    event CapabilityDeactivated(bytes32 indexed capabilityId, address indexed provider);

    /// @notice `amount` micro-USDC that lies in the Splitter now belongs to `capabilityId`.
    /// @param payer First 20 bytes of the 52-byte identity (payer, authorization nonce) that the
    /// settler appends to the calldata; zero when there is no such identity.
    event SettlementRecorded(bytes32 indexed capabilityId, uint256 amount, address payer);

    /// @notice Everything accounted to `capabilityId` was divided.
    /// @param payer A label that the caller of `splitFor` chose; it proves nothing.
    event PaymentSplit(
        bytes32 indexed capabilityId,
        address indexed payer,
        uint256 amount,
        uint256 providerAmount,
        uint256 hubAmount,
        uint256 reserveAmount
    );

    /// @notice A provider's share could not be pushed and waits in escrow.
    event ProviderEscrowed(address indexed provider, uint256 amount, string reason);

    /// @notice A provider took what was escrowed for him.
    event ProviderWithdrew(address indexed provider, uint256 amount);

    /// @notice The relayer was replaced.
    event RelayerRotated(address indexed oldRelayer, address indexed newRelayer);

    /// @notice The caller is not `AUTHORIZED_SETTLER`.
    error UnauthorizedSettler();
    /// @notice The caller is not `RELAYER_ADMIN`.
    error UnauthorizedRelayerAdmin();
    /// @notice An amount that must not be zero is zero.
    error AmountZero();
    /// @notice The amount is above `PER_TX_CAP`.
    error AmountExceedsCap();
    /// @notice The capability is not registered or was deactivated.
    error CapabilityNotActive();
    /// @notice The capability is registered and active.
    error CapabilityAlreadyExists();
    /// @notice The registration nonce was used before.
    error NonceUsed();
    /// @notice Nothing is escrowed for the caller.
    error NoEscrowedFunds();
    /// @notice The registration's deadline has passed.
    error SignatureExpired();
    /// @notice The three shares do not sum to 10000 basis points.
    error InvalidSplit();
    /// @notice The signature is not a 65-byte, low-s signature of the declared provider.
    error InvalidSignature();
    /// @notice The caller is not the capability's provider.
    error NotProvider();
    /// @notice The function may only be called by the contract itself.
    error OnlySelf();
    /// @notice An address that must be set is zero.
    error ZeroAddress();
    /// @notice One address holds two roles that must be apart.
    error RoleConflict(address account);
    /// @notice The Splitter does not hold `amount` beyond what it already owes.
    error InsufficientUnaccounted(uint256 unaccounted, uint256 amount);

    /// @notice Registers a capability on the provider's signature. Anyone may submit it.
    /// @dev EIP-712 `Register(bytes32 capabilityId,address provider,uint16 providerBps,uint16
    /// hubBps,uint16 reserveBps,bytes32 nonce,uint256 deadline)`, domain "JecpSplitter", "1.1.1".
    /// Whoever comes first owns an id: a hub must compare provider and shares before it advertises.
    /// @param deadline Last second, inclusive, at which the signature is accepted.
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

    /// @notice Ends a capability. What is accounted to it is split first, so that an inactive
    /// capability never holds money.
    function deactivate(bytes32 capabilityId) external;

    /// @notice Attributes `amount` micro-USDC, already in the Splitter, to a capability.
    /// @dev The settler may append 52 bytes to the calldata: payer (20) and EIP-3009 authorization
    /// nonce (32). The contract reads the payer for its event; the nonce is for readers of the
    /// chain.
    function recordSettlement(bytes32 capabilityId, uint256 amount) external;

    /// @notice Divides everything accounted to a capability. Anyone may call it.
    /// @param payer A label for the event.
    function splitFor(bytes32 capabilityId, address payer) external;

    /// @notice Pays the caller what is escrowed for him.
    function withdraw() external;

    /// @notice Replaces the relayer.
    function setRelayer(address newRelayer) external;

    /// @notice The token.
    function USDC() external view returns (address);
    /// @notice Receives the hub's share.
    function HUB_TREASURY() external view returns (address);
    /// @notice Receives the reserve's share and the rounding.
    function NETWORK_RESERVE() external view returns (address);
    /// @notice The only account that may record settlements.
    function AUTHORIZED_SETTLER() external view returns (address);
    /// @notice The only account that may replace the relayer.
    function RELAYER_ADMIN() external view returns (address);
    /// @notice Largest amount of one `recordSettlement`, in micro-USDC.
    function PER_TX_CAP() external view returns (uint256);
    /// @notice EIP-712 domain separator, fixed at construction.
    function EIP712_DOMAIN_SEPARATOR() external view returns (bytes32);
    /// @notice The account that usually submits registrations; it holds no power over money.
    function relayer() external view returns (address);
    /// @notice A capability's registration.
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
    /// @notice Recorded and not yet split, per capability, in micro-USDC.
    function accountedBalance(bytes32 capabilityId) external view returns (uint256);
    /// @notice Whether a registration nonce was used.
    function usedNonces(bytes32 nonce) external view returns (bool);
    /// @notice Escrowed for a provider whose push failed, in micro-USDC.
    function providerEscrow(address provider) external view returns (uint256);
    /// @notice Everything accounted plus everything escrowed, in micro-USDC.
    function totalOwed() external view returns (uint256);
}
