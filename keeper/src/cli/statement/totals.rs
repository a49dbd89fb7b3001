//! The sums of a statement.

use crate::ledger::{PaymentLine, RefundLine, SplitLine};
use alloy::primitives::B256;
use std::collections::BTreeMap;

/// What splits come to, micro-USDC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum {
    /// Payments in them that the ledger knows.
    pub(super) payments: u64,
    /// What those come to.
    pub(super) paid: i128,
    /// All that was split.
    pub(super) gross: i128,
    /// The provider's.
    pub(super) provider: i128,
    /// The hub's.
    pub(super) hub: i128,
    /// The network reserve's.
    pub(super) reserve: i128,
}

impl Sum {
    fn add(&mut self, split: &SplitLine, payments: &[PaymentLine]) {
        let add = |sum: &mut i128, micro: u64| *sum = sum.saturating_add(i128::from(micro));
        for payment in payments {
            self.payments = self.payments.saturating_add(1);
            add(&mut self.paid, payment.amount.micro());
        }
        add(&mut self.gross, split.amount.micro());
        add(&mut self.provider, split.shares.provider.micro());
        add(&mut self.hub, split.shares.hub.micro());
        add(&mut self.reserve, split.shares.reserve.micro());
    }

    /// What was split that no payment of the ledger explains.
    pub(super) const fn unattributed(&self) -> i128 {
        self.gross.saturating_sub(self.paid)
    }
}

/// Everything of one Splitter.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) all: Sum,
    /// Per id at the Splitter, with the name that payments have for it.
    pub(super) capabilities: BTreeMap<B256, (Option<String>, Sum)>,
    /// What recording these payments cost, wei.
    pub(super) record_fees_wei: u128,
    /// What the split transactions cost, wei. Each is counted once, also if it has several splits.
    pub(super) split_fees_wei: u128,
    /// Refunds that the hub paid, micro-USDC.
    pub(super) refunded: i128,
    last_split: Option<B256>,
}

impl Totals {
    pub(super) fn split(&mut self, split: &SplitLine, payments: &[PaymentLine]) {
        self.all.add(split, payments);
        let (name, sum) = self.capabilities.entry(split.capability).or_default();
        sum.add(split, payments);
        if let Some(payment) = payments.first() {
            name.clone_from(&payment.capability);
        }
        let records = payments.iter().filter_map(|payment| payment.record_fee_wei);
        for fee in records {
            self.record_fees_wei = self.record_fees_wei.saturating_add(u128::from(fee));
        }
        if self.last_split != Some(split.at.tx_hash) {
            let fee = u128::from(split.fee_wei.unwrap_or_default());
            self.split_fees_wei = self.split_fees_wei.saturating_add(fee);
        }
        self.last_split = Some(split.at.tx_hash);
    }

    pub(super) fn refund(&mut self, refund: &RefundLine) {
        self.refunded = self.refunded.saturating_add(i128::from(refund.amount.micro()));
    }
}
