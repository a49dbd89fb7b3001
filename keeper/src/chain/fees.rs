//! Placeholder until the chain branch is merged.
use super::{Chain, Result};
/// Fees beside execution, wei.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DataFee {
    /// L1.
    pub l1: u128,
    /// Operator.
    pub operator: u128,
}
impl Chain {
    /// Placeholder.
    pub async fn data_fee(&self, _unsigned_size: u64, _gas_limit: u64) -> Result<DataFee> {
        Ok(DataFee::default())
    }
}
