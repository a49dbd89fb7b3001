//! Several calls in one. Pure.

use alloy::{
    primitives::{Address, address},
    sol,
};

/// Where Multicall3 is, on every chain that has it.
pub const MULTICALL3: Address = address!("0xcA11bde05977b3631167028862bE2a173976CA11");

sol! {
    /// Multicall3, as far as the keeper needs it.
    #[derive(Debug)]
    interface Multicall3 {
        /// A call, and whether the others are done all the same when it fails.
        struct Call3 {
            address target;
            bool allowFailure;
            bytes callData;
        }

        /// What came of one.
        struct Result {
            bool success;
            bytes returnData;
        }

        /// Does them in their order.
        function aggregate3(Call3[] calldata calls) external payable returns (Result[] memory returnData);
    }
}
