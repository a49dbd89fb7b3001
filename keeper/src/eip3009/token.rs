//! What the keeper calls and reads of USDC.

use alloy::sol;

sol! {
    /// Circle's FiatTokenV2_2, as far as the keeper needs it.
    #[allow(missing_docs)]
    #[derive(Debug)]
    interface FiatToken {
        event Transfer(address indexed from, address indexed to, uint256 value);
        event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
        event AuthorizationCanceled(address indexed authorizer, bytes32 indexed nonce);

        function DOMAIN_SEPARATOR() external view returns (bytes32);
        function paused() external view returns (bool);
        function balanceOf(address account) external view returns (uint256);
        function isBlacklisted(address account) external view returns (bool);
        function authorizationState(address authorizer, bytes32 nonce) external view returns (bool);
        function transferWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, uint8 v, bytes32 r, bytes32 s) external;
    }
}

sol! {
    /// Its overload for payers with code (ERC-1271).
    #[allow(missing_docs)]
    #[derive(Debug)]
    interface FiatTokenBytes {
        function transferWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, bytes signature) external;
    }
}
