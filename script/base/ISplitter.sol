// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title ISplitter
/// @notice What the scripts call of a Splitter. Both versions answer all of it but what is marked.
interface ISplitter {
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

    /// @dev Version 2: makes a registration payable. Only the relayer.
    function approve(
        bytes32 capabilityId,
        address provider,
        uint16 providerBps,
        uint16 hubBps,
        uint16 reserveBps
    ) external;

    function setRelayer(address newRelayer) external;

    /// @dev Version 1.1.1.
    function splitFor(bytes32 capabilityId, address payer) external;
    /// @dev Version 1.1.1.
    function recordSettlement(bytes32 capabilityId, uint256 amount) external;
    /// @dev Version 1.1.1.
    function accountedBalance(bytes32 capabilityId) external view returns (uint256);
    /// @dev Version 1.1.1.
    function usedNonces(bytes32 nonce) external view returns (bool);
    /// @dev Version 1.1.1.
    function providerEscrow(address provider) external view returns (uint256);
    /// @dev Version 1.1.1.
    function totalOwed() external view returns (uint256);
    /// @dev Version 2.
    function usedNonces(address provider, bytes32 nonce) external view returns (bool);
    /// @dev Version 2.
    function registrations(bytes32 capabilityId, address provider)
        external
        view
        returns (uint16 providerBps, uint16 hubBps, uint16 reserveBps);
    /// @dev Version 2.
    function MIN_HUB_BPS() external view returns (uint256);
    /// @dev Version 2.
    function MIN_RESERVE_BPS() external view returns (uint256);

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
    function USDC() external view returns (address);
    function HUB_TREASURY() external view returns (address);
    function NETWORK_RESERVE() external view returns (address);
    function AUTHORIZED_SETTLER() external view returns (address);
    function RELAYER_ADMIN() external view returns (address);
    function PER_TX_CAP() external view returns (uint256);
    function EIP712_DOMAIN_SEPARATOR() external view returns (bytes32);
    function relayer() external view returns (address);
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
        );
}

/// @dev What the scripts read of USDC before they trust the address in a configuration.
interface IUsdc {
    function decimals() external view returns (uint8);
    function paused() external view returns (bool);
    function DOMAIN_SEPARATOR() external view returns (bytes32);
    function isBlacklisted(address account) external view returns (bool);
    function balanceOf(address account) external view returns (uint256);
}

/// @dev What a provider with code is asked (ERC-1271).
interface ISigner {
    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4);
}

/// @dev What tells a Safe from any other contract.
interface ISafe {
    function getThreshold() external view returns (uint256);
    function getOwners() external view returns (address[] memory);
}
