//! A chain, and what may be spent and signed there.

use crate::{
    chain,
    eip3009::MULTICALL3,
    lifecycle::{DEFAULT_PENDING, Limits, MAX_PENDING},
    x402::Network,
};
use alloy::primitives::Address;
use serde::Deserialize;
use std::time::Duration;
use url::Url;

/// Blocks of Base come every two seconds, and some late.
const MIN_SILENCE: Duration = Duration::from_secs(10);
/// Blocks tell whole seconds.
const MIN_CLOCK_SKEW: Duration = Duration::from_secs(1);
/// So many blocks are read again at each new head.
const MAX_CONFIRMATIONS: u64 = 500;
/// What KMS signs for an account and region, unless AWS was asked for more.
const MAX_SIGNATURES_PER_MINUTE: u32 = 60_000;

/// A chain.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::cli) struct Chain {
    pub(in crate::cli) id: u64,
    /// JSON-RPC endpoints, best first.
    pub(in crate::cli) rpc: Vec<Url>,
    /// A websocket that announces new heads; they are polled all the same.
    pub(in crate::cli) ws: Option<Url>,
    /// Without a new block for so long the chain counts as silent.
    #[serde(default = "default_max_silence", with = "humantime_serde")]
    pub(in crate::cli) max_silence: Duration,
    /// By how much this machine's clock may be off.
    #[serde(default = "default_max_clock_skew", with = "humantime_serde")]
    pub(in crate::cli) max_clock_skew: Duration,
    /// How often the head is looked at.
    #[serde(default = "default_poll_interval", with = "humantime_serde")]
    pub(in crate::cli) poll_interval: Duration,
    /// Confirmations before a pull is recorded.
    #[serde(default = "default_record_confirmations")]
    pub(in crate::cli) record_confirmations: u64,
    /// Confirmations before a payment is confirmed and booked.
    #[serde(default = "default_confirmations")]
    pub(in crate::cli) confirmations: u64,
    /// At most this long between two reconciliations.
    #[serde(default = "default_reconcile_interval", with = "humantime_serde")]
    pub(in crate::cli) reconcile_interval: Duration,
    /// Most transactions of one key that are under way and not mined.
    #[serde(default = "default_max_pending")]
    pub(in crate::cli) max_pending: u64,
    /// Contracts that may deploy a payer in its first payment (ERC-6492).
    #[serde(default)]
    pub(in crate::cli) signature_factories: Vec<Address>,
    /// What each signer may spend.
    #[serde(default)]
    pub(in crate::cli) spending: Spending,
    #[serde(default)]
    hints: Hints,
    #[serde(default)]
    pub(in crate::cli) signing: Signing,
}

/// What each signer may spend on fees, wei; `keeper tx limits` changes it at run time.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::cli) struct Spending {
    /// Most that a new transaction may cost.
    transaction_wei: u64,
    /// Most that a transaction may cost that has its account nonce already.
    hard_transaction_wei: u64,
    /// Most that the transactions of 24 hours may cost.
    day_wei: u64,
    /// What must be left of the balance when everything under way is paid.
    low_balance_wei: u64,
}

impl Default for Spending {
    fn default() -> Self {
        Self {
            transaction_wei: 2_000_000_000_000_000,
            hard_transaction_wei: 6_000_000_000_000_000,
            day_wei: 100_000_000_000_000_000,
            low_balance_wei: 5_000_000_000_000_000,
        }
    }
}

impl Spending {
    fn check(&self) -> Result<(), String> {
        if self.hard_transaction_wei < self.transaction_wei {
            return Err(
                "spending.hard_transaction_wei must be at least spending.transaction_wei: \
                 what is begun must be finished"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// For the outbox.
    pub(in crate::cli) const fn limits(&self) -> Limits {
        Limits {
            transaction: self.transaction_wei,
            hard_transaction: self.hard_transaction_wei,
            day: self.day_wei,
            low_balance: self.low_balance_wei,
        }
    }
}

impl Chain {
    /// Refuses what cannot be, or must not be where money is real.
    pub(super) fn check(&self, test_mode: bool) -> Result<(), String> {
        if Network::from_chain_id(self.id).is_none() {
            return Err(format!("chain {} is not Base (8453) or Base Sepolia (84532)", self.id));
        }
        if self.rpc.is_empty() {
            return Err(format!("chain {} has no rpc endpoint", self.id));
        }
        if let Some(url) = &self.hints.preconfirmations
            && !["http", "https"].contains(&url.scheme())
        {
            return Err(format!(
                "chain {}: hints.preconfirmations must be http or https; the websocket of \
                 flashblocks is not for applications",
                self.id
            ));
        }
        if let Some(url) = &self.ws
            && url.scheme() != "wss"
            && !(url.scheme() == "ws" && test_mode)
        {
            return Err(format!("chain {}: ws must be wss (ws is for test_mode = true)", self.id));
        }
        if self.max_silence < MIN_SILENCE || self.max_clock_skew < MIN_CLOCK_SKEW {
            return Err(format!(
                "chain {}: max_silence must be at least 10s, max_clock_skew at least 1s",
                self.id
            ));
        }
        if self.record_confirmations == 0 || self.confirmations == 0 {
            return Err(format!("chain {}: confirmations begin at 1", self.id));
        }
        if self.confirmations > MAX_CONFIRMATIONS || self.record_confirmations > self.confirmations
        {
            return Err(format!(
                "chain {}: confirmations must be at most {MAX_CONFIRMATIONS}, and \
                 record_confirmations no more than that",
                self.id
            ));
        }
        if !(1..=MAX_PENDING).contains(&self.max_pending) {
            return Err(format!(
                "chain {}: max_pending must be between 1 and {MAX_PENDING}: nodes take no more \
                 of one sender",
                self.id
            ));
        }
        self.spending.check().map_err(|problem| format!("chain {}: {problem}", self.id))?;
        if self.poll_interval.is_zero() || self.reconcile_interval.is_zero() {
            return Err(format!("chain {}: intervals must not be zero", self.id));
        }
        self.check_factories()?;
        let most = self.signing.max_signatures_per_minute;
        if !(1..=MAX_SIGNATURES_PER_MINUTE).contains(&most) {
            return Err(format!(
                "chain {}: signing.max_signatures_per_minute must be between 1 and \
                 {MAX_SIGNATURES_PER_MINUTE}",
                self.id
            ));
        }
        if self.reconcile_interval > Duration::from_secs(60) {
            return Err(format!(
                "chain {}: reconcile_interval must be at most 60s (S06 6.2)",
                self.id
            ));
        }
        Ok(())
    }

    /// Some contracts are no factories: what they are called with would not deploy anybody.
    fn check_factories(&self) -> Result<(), String> {
        let usdc = Network::from_chain_id(self.id).map(|network| network.usdc().address);
        let others = [Some(Address::ZERO), Some(MULTICALL3), usdc];
        let wrong = |factory: &&Address| others.contains(&Some(**factory));
        match self.signature_factories.iter().find(wrong) {
            None => Ok(()),
            Some(factory) => Err(format!(
                "chain {}: {factory} in signature_factories is no wallet factory",
                self.id
            )),
        }
    }

    /// For the chain's client.
    pub(in crate::cli) fn hints(&self) -> chain::Hints {
        chain::Hints {
            send_sync: self.hints.send_sync,
            preconfirmations: self.hints.preconfirmations.clone(),
        }
    }
}

/// Ways to hear of a transaction sooner. None changes what is booked.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hints {
    /// Whether a send waits for inclusion, where nodes can do that.
    #[serde(default)]
    send_sync: bool,
    /// An endpoint that shows receipts of blocks which are not sealed yet.
    preconfirmations: Option<Url>,
}

/// Bounds of what the keys of a chain do.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::cli) struct Signing {
    /// Most signatures of one key in any minute.
    #[serde(default = "default_max_signatures_per_minute")]
    pub(in crate::cli) max_signatures_per_minute: u32,
}

impl Default for Signing {
    fn default() -> Self {
        Self { max_signatures_per_minute: default_max_signatures_per_minute() }
    }
}

/// Ten a second; Base mines twelve transactions of a key every two seconds at the most.
const fn default_max_signatures_per_minute() -> u32 {
    600
}

const fn default_poll_interval() -> Duration {
    Duration::from_secs(1)
}

/// Thirty blocks of Base.
const fn default_max_silence() -> Duration {
    Duration::from_secs(60)
}

const fn default_max_clock_skew() -> Duration {
    Duration::from_secs(5)
}

const fn default_max_pending() -> u64 {
    DEFAULT_PENDING
}

const fn default_record_confirmations() -> u64 {
    1
}

/// C-27: enough for Base; testnets may do with less.
const fn default_confirmations() -> u64 {
    12
}

const fn default_reconcile_interval() -> Duration {
    Duration::from_secs(15)
}
