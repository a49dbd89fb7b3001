// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC5267} from "@openzeppelin/contracts/interfaces/IERC5267.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {IJecpSplitter} from "./interfaces/IJecpSplitter.sol";

/// @title JecpSplitter
/// @notice See IJecpSplitter. No proxy, no pause, no sweep.
/// @dev Beyond the published text, within its ABI: `recordSettlement` checks solvency, `deactivate`
/// splits first, the errors and events that the text leaves unnamed have names, ERC-5267.
contract JecpSplitter is IJecpSplitter, IERC5267, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    string internal constant NAME = "JecpSplitter";
    string internal constant VERSION = "1.1.1";
    uint256 internal constant BPS = 10_000;

    bytes32 internal constant REGISTER_TYPEHASH = keccak256(
        "Register(bytes32 capabilityId,address provider,uint16 providerBps,uint16 hubBps,uint16 reserveBps,bytes32 nonce,uint256 deadline)"
    );

    /// @dev Calldata of `recordSettlement` with the identity appended: selector, two words, payer,
    /// authorization nonce. Any other length carries no identity.
    uint256 internal constant RECORD_LENGTH = 4 + 64;
    uint256 internal constant RECORD_WITH_IDENTITY_LENGTH = RECORD_LENGTH + 20 + 32;

    /// @inheritdoc IJecpSplitter
    address public immutable USDC;
    /// @inheritdoc IJecpSplitter
    address public immutable HUB_TREASURY;
    /// @inheritdoc IJecpSplitter
    address public immutable NETWORK_RESERVE;
    /// @inheritdoc IJecpSplitter
    address public immutable AUTHORIZED_SETTLER;
    /// @inheritdoc IJecpSplitter
    address public immutable RELAYER_ADMIN;
    /// @inheritdoc IJecpSplitter
    uint256 public immutable PER_TX_CAP;
    /// @inheritdoc IJecpSplitter
    bytes32 public immutable EIP712_DOMAIN_SEPARATOR;

    /// @inheritdoc IJecpSplitter
    address public relayer;
    /// @inheritdoc IJecpSplitter
    mapping(bytes32 capabilityId => Capability) public capabilities;
    /// @inheritdoc IJecpSplitter
    mapping(bytes32 capabilityId => uint256) public accountedBalance;
    /// @inheritdoc IJecpSplitter
    mapping(bytes32 nonce => bool) public usedNonces;
    /// @inheritdoc IJecpSplitter
    mapping(address provider => uint256) public providerEscrow;
    /// @inheritdoc IJecpSplitter
    uint256 public totalOwed;

    constructor(
        address usdc,
        address hubTreasury,
        address networkReserve,
        address relayer_,
        address relayerAdmin,
        address authorizedSettler,
        uint256 perTxCap
    ) {
        if (
            usdc == address(0) || hubTreasury == address(0) || networkReserve == address(0)
                || relayer_ == address(0) || relayerAdmin == address(0)
                || authorizedSettler == address(0)
        ) revert ZeroAddress();
        // The settler's key must not double as any other role (S06 8.2, errata E.1.1).
        if (
            authorizedSettler == hubTreasury || authorizedSettler == networkReserve
                || authorizedSettler == relayer_ || authorizedSettler == relayerAdmin
        ) revert RoleConflict(authorizedSettler);
        if (perTxCap == 0) revert AmountZero();

        USDC = usdc;
        HUB_TREASURY = hubTreasury;
        NETWORK_RESERVE = networkReserve;
        AUTHORIZED_SETTLER = authorizedSettler;
        RELAYER_ADMIN = relayerAdmin;
        PER_TX_CAP = perTxCap;
        relayer = relayer_;
        EIP712_DOMAIN_SEPARATOR = keccak256(
            abi.encode(
                keccak256(
                    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
                ),
                keccak256(bytes(NAME)),
                keccak256(bytes(VERSION)),
                block.chainid,
                address(this)
            )
        );
        emit RelayerRotated(address(0), relayer_);
    }

    /// @inheritdoc IJecpSplitter
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
        if (block.timestamp > deadline) revert SignatureExpired();
        if (usedNonces[nonce]) revert NonceUsed();
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
        bytes32 digest = MessageHashUtils.toTypedDataHash(EIP712_DOMAIN_SEPARATOR, structHash);
        // Rejects high-s and every length but 65; on error the recovered address is zero.
        (address signer, ECDSA.RecoverError failure,) = ECDSA.tryRecover(digest, providerSig);
        if (failure != ECDSA.RecoverError.NoError || signer != provider) revert InvalidSignature();

        usedNonces[nonce] = true;
        capabilities[capabilityId] = Capability(provider, providerBps, hubBps, reserveBps, true);
        emit CapabilityRegistered(capabilityId, provider, providerBps, hubBps, reserveBps);
    }

    /// @inheritdoc IJecpSplitter
    function deactivate(bytes32 capabilityId) external nonReentrant {
        Capability memory capability = capabilities[capabilityId];
        if (!capability.active) revert CapabilityNotActive();
        if (msg.sender != capability.provider) revert NotProvider();

        capabilities[capabilityId].active = false;
        emit CapabilityDeactivated(capabilityId, capability.provider);
        // Whoever registers the id next must find nothing in it.
        uint256 amount = accountedBalance[capabilityId];
        if (amount != 0) _split(capabilityId, capability, amount, address(0));
    }

    /// @inheritdoc IJecpSplitter
    function recordSettlement(bytes32 capabilityId, uint256 amount) external nonReentrant {
        if (msg.sender != AUTHORIZED_SETTLER) revert UnauthorizedSettler();
        if (amount == 0) revert AmountZero();
        if (amount > PER_TX_CAP) revert AmountExceedsCap();
        if (!capabilities[capabilityId].active) revert CapabilityNotActive();

        uint256 owed = totalOwed;
        uint256 balance = IERC20(USDC).balanceOf(address(this));
        uint256 unaccounted = balance > owed ? balance - owed : 0;
        if (amount > unaccounted) revert InsufficientUnaccounted(unaccounted, amount);

        totalOwed = owed + amount;
        accountedBalance[capabilityId] += amount;
        emit SettlementRecorded(capabilityId, amount, _appendedPayer());
    }

    /// @inheritdoc IJecpSplitter
    function splitFor(bytes32 capabilityId, address payer) external nonReentrant {
        Capability memory capability = capabilities[capabilityId];
        if (!capability.active) revert CapabilityNotActive();
        uint256 amount = accountedBalance[capabilityId];
        if (amount == 0) revert AmountZero();
        _split(capabilityId, capability, amount, payer);
    }

    /// @inheritdoc IJecpSplitter
    function withdraw() external nonReentrant {
        uint256 amount = providerEscrow[msg.sender];
        if (amount == 0) revert NoEscrowedFunds();
        providerEscrow[msg.sender] = 0;
        totalOwed -= amount;
        emit ProviderWithdrew(msg.sender, amount);
        IERC20(USDC).safeTransfer(msg.sender, amount);
    }

    /// @inheritdoc IJecpSplitter
    function setRelayer(address newRelayer) external {
        if (msg.sender != RELAYER_ADMIN) revert UnauthorizedRelayerAdmin();
        if (newRelayer == address(0)) revert ZeroAddress();
        if (newRelayer == AUTHORIZED_SETTLER) revert RoleConflict(newRelayer);
        emit RelayerRotated(relayer, newRelayer);
        relayer = newRelayer;
    }

    /// @notice Pushes a provider's share; an external call so that its failure can be caught.
    /// @dev Only callable by this contract.
    function _pushProvider(address provider, uint256 amount) external {
        if (msg.sender != address(this)) revert OnlySelf();
        IERC20(USDC).safeTransfer(provider, amount);
    }

    /// @inheritdoc IERC5267
    function eip712Domain()
        external
        view
        returns (
            bytes1 fields,
            string memory name,
            string memory version,
            uint256 chainId,
            address verifyingContract,
            bytes32 salt,
            uint256[] memory extensions
        )
    {
        return (hex"0f", NAME, VERSION, block.chainid, address(this), 0, new uint256[](0));
    }

    /// @dev Divides `amount`, which is all that is accounted to the capability. Floors for provider
    /// and hub, the remainder to the reserve (S06 8.5). State before transfers.
    function _split(
        bytes32 capabilityId,
        Capability memory capability,
        uint256 amount,
        address payer
    ) internal {
        uint256 providerAmount = amount * capability.providerBps / BPS;
        uint256 hubAmount = amount * capability.hubBps / BPS;
        uint256 reserveAmount = amount - providerAmount - hubAmount;

        accountedBalance[capabilityId] = 0;
        totalOwed -= amount;
        emit PaymentSplit(capabilityId, payer, amount, providerAmount, hubAmount, reserveAmount);

        if (providerAmount != 0) {
            try this._pushProvider(capability.provider, providerAmount) {}
            catch {
                providerEscrow[capability.provider] += providerAmount;
                totalOwed += providerAmount;
                emit ProviderEscrowed(capability.provider, providerAmount, "push_failed");
            }
        }
        if (hubAmount != 0) IERC20(USDC).safeTransfer(HUB_TREASURY, hubAmount);
        if (reserveAmount != 0) IERC20(USDC).safeTransfer(NETWORK_RESERVE, reserveAmount);
    }

    /// @dev The payer of the appended identity, or zero when the calldata carries none.
    function _appendedPayer() internal pure returns (address payer) {
        if (msg.data.length == RECORD_WITH_IDENTITY_LENGTH) {
            payer = address(bytes20(msg.data[RECORD_LENGTH:RECORD_LENGTH + 20]));
        }
    }
}
