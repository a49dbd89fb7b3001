//! What a signer may spend on fees.

use super::words;

/// Limits of one signer, wei.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most that a new transaction may cost.
    pub transaction: u64,
    /// Most that a transaction may cost that has its account nonce already: what is begun must be
    /// finished, at a price that is still sane.
    pub hard_transaction: u64,
    /// Most that the transactions of the last 24 hours may cost together.
    pub day: u64,
    /// What must be left of the balance when everything under way is paid.
    pub low_balance: u64,
}

/// What a signer has and owes, wei.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purse {
    /// Its balance in the newest block.
    pub balance: u128,
    /// Most that its transactions can still cost that are not mined.
    pub owed: u128,
    /// What its transactions of the last 24 hours cost, or can cost.
    pub day: u128,
}

/// Why a signer begins nothing new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Closed {
    /// Fees are above what one transaction may cost.
    TransactionCap,
    /// The last 24 hours cost as much as they may.
    DayCap,
    /// The balance is low.
    LowBalance,
    /// Account nonces may be used that the ledger knows nothing of.
    Quarantine,
}

words!(Closed {
    TransactionCap => "transaction_cap",
    DayCap => "day_cap",
    LowBalance => "low_balance",
    Quarantine => "quarantine",
});

impl Limits {
    /// Whether one more transaction of at most `cost` wei may be begun.
    ///
    /// # Errors
    /// Why not.
    pub fn allow(&self, purse: &Purse, cost: u128) -> Result<(), Closed> {
        if cost > u128::from(self.transaction) {
            return Err(Closed::TransactionCap);
        }
        if purse.day.saturating_add(cost) > u128::from(self.day) {
            return Err(Closed::DayCap);
        }
        let needed = purse.owed.saturating_add(cost).saturating_add(self.low_balance.into());
        if purse.balance < needed {
            return Err(Closed::LowBalance);
        }
        Ok(())
    }

    /// Most that an envelope may offer, wei per gas, when data costs `data_fee` wei beside.
    pub fn ceiling(&self, gas_limit: u64, data_fee: u64) -> u64 {
        self.hard_transaction.saturating_sub(data_fee).checked_div(gas_limit).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { transaction: 100, hard_transaction: 300, day: 1_000, low_balance: 50 };
    const PURSE: Purse = Purse { balance: 1_000, owed: 200, day: 500 };

    #[test]
    fn each_limit_to_the_last_wei() {
        assert_eq!(LIMITS.allow(&PURSE, 100), Ok(()));
        assert_eq!(LIMITS.allow(&PURSE, 101), Err(Closed::TransactionCap));
        assert_eq!(LIMITS.allow(&Purse { day: 900, ..PURSE }, 100), Ok(()));
        assert_eq!(LIMITS.allow(&Purse { day: 901, ..PURSE }, 100), Err(Closed::DayCap));
        assert_eq!(LIMITS.allow(&Purse { balance: 350, ..PURSE }, 100), Ok(()));
        assert_eq!(LIMITS.allow(&Purse { balance: 349, ..PURSE }, 100), Err(Closed::LowBalance));
    }

    #[test]
    fn nothing_overflows_into_permission() {
        let purse = Purse { balance: 0, owed: u128::MAX, day: u128::MAX };
        assert!(LIMITS.allow(&purse, u128::MAX).is_err());
        assert!(LIMITS.allow(&purse, 0).is_err());
    }

    #[test]
    fn what_is_begun_may_cost_up_to_the_hard_limit() {
        assert_eq!(LIMITS.ceiling(3, 0), 100);
        assert_eq!(LIMITS.ceiling(3, 30), 90);
        assert_eq!(LIMITS.ceiling(3, 301), 0);
        assert_eq!(LIMITS.ceiling(0, 0), 0, "never a division by zero");
    }
}
