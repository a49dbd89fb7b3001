//! What inclusion costs: the market for gas, and what rollups take beyond it.

use super::{BlockTag, Chain, ChainError, Result};
use crate::lifecycle::{Fees, Market};
use alloy::{
    primitives::{Address, U256, address},
    sol,
};

/// Tip that is always offered, wei per gas. Base orders by tip; its blocks are rarely full.
const MIN_PRIORITY_FEE: u64 = 1_000_000;
/// Tip that is never exceeded, whatever a node advises: the tip is paid in full, so a node that
/// lies about it would cost real money. Ten times the usual is twice Base's lowest base fee, and
/// still a third of a cent for a pull when ether is at 3,000 dollars. If more is needed, the
/// outbox bids it up by itself, and stops at its own limit.
const MAX_PRIORITY_FEE: u64 = 10 * MIN_PRIORITY_FEE;

/// The fee oracle that chains of the OP stack have at this address.
pub const GAS_PRICE_ORACLE: Address = address!("0x420000000000000000000000000000000000000F");

sol! {
    function getL1FeeUpperBound(uint256 unsignedTxSize) external view returns (uint256);
    function getOperatorFee(uint256 gasUsed) external view returns (uint256);
}

/// What a rollup takes for a transaction beyond its gas, at most, wei.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DataFee {
    /// For its data on L1.
    pub l1: u128,
    /// For the operator.
    pub operator: u128,
}

impl DataFee {
    /// Both.
    pub const fn total(&self) -> u128 {
        self.l1.saturating_add(self.operator)
    }
}

impl Chain {
    /// Fees with headroom: twice the base fee, which cannot double in fewer than six full blocks
    /// anywhere and in many more on Base, plus a tip.
    ///
    /// # Errors
    /// When no node tells the base fee. A node that advises no tip is no reason to wait.
    pub async fn market(&self) -> Result<Market> {
        let (head, advised) = tokio::join!(
            self.head(BlockTag::Latest),
            self.request::<_, U256>("eth_maxPriorityFeePerGas", ())
        );
        let base_fee = head?.base_fee();
        let tip = tip(advised.ok());
        let fees = Fees {
            max_fee_per_gas: base_fee.saturating_mul(2).saturating_add(tip),
            max_priority_fee_per_gas: tip,
        };
        Ok(Market { base_fee, fees })
    }

    /// The most that a transaction costs beyond its gas. Chains without the oracle take nothing.
    ///
    /// # Errors
    /// When the oracle cannot be asked, or is older than Fjord.
    pub async fn data_fee(&self, unsigned_size: u64, gas_limit: u64) -> Result<DataFee> {
        if !self.has_oracle().await? {
            return Ok(DataFee::default());
        }
        let bound = getL1FeeUpperBoundCall { unsignedTxSize: U256::from(unsigned_size) };
        let l1 = self.call(GAS_PRICE_ORACLE, &bound, BlockTag::Latest).await?;
        let fee = getOperatorFeeCall { gasUsed: U256::from(gas_limit) };
        let operator = match self.call(GAS_PRICE_ORACLE, &fee, BlockTag::Latest).await {
            // An oracle that does not know the function: nothing was taken then.
            Err(ChainError::Reverted { .. }) => U256::ZERO,
            answer => answer?,
        };
        Ok(DataFee { l1: wei("L1 fee", l1)?, operator: wei("operator fee", operator)? })
    }

    /// Asked once per process: a chain does not lose its predeploys.
    async fn has_oracle(&self) -> Result<bool> {
        let asked = self.oracle.get_or_try_init(|| async {
            let code = self.code(GAS_PRICE_ORACLE).await?;
            Ok(!code.is_empty())
        });
        asked.await.copied()
    }
}

/// The tip that is offered when a node advises this one.
fn tip(advised: Option<U256>) -> u64 {
    let advised = advised.map_or(0, |wei| wei.saturating_to::<u64>());
    advised.clamp(MIN_PRIORITY_FEE, MAX_PRIORITY_FEE)
}

fn wei(what: &str, value: U256) -> Result<u128> {
    u128::try_from(value).map_err(|_| ChainError::Malformed {
        method: "eth_call",
        reason: format!("{what} of {value} wei"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Advice is taken within limits; a node that lies does not make us pay.
    #[test]
    fn a_tip_has_a_floor_and_a_ceiling() {
        for (advised, offered) in [
            (None, 1_000_000),
            (Some(U256::ZERO), 1_000_000),
            (Some(U256::from(999_999)), 1_000_000),
            (Some(U256::from(2_500_000)), 2_500_000),
            (Some(U256::from(10_000_000)), 10_000_000),
            (Some(U256::from(1_000_000_000)), 10_000_000),
            (Some(U256::MAX), 10_000_000),
        ] {
            assert_eq!(tip(advised), offered, "{advised:?}");
        }
    }
}
