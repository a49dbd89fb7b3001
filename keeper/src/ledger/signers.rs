//! Signers: their account nonces, what they may spend, and whether they begin anything new.

use super::{
    Lease, LedgerError, Result, SignerRole, Tx,
    columns::{bigint, hex, now, unsigned, word},
    query::{execute, fetch_all, fetch_optional},
};
use crate::lifecycle::{Closed, Limits};
use alloy::primitives::Address;
use chrono::TimeDelta;

/// How far back spending is summed up.
const DAY: TimeDelta = TimeDelta::hours(24);

/// A signer as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignerRecord {
    /// Its address.
    pub address: Address,
    /// What its key may do.
    pub role: SignerRole,
    /// The next account nonce that the ledger will give out.
    pub next_account_nonce: u64,
    /// Set while account nonces may be used that the ledger knows nothing of.
    pub quarantine: Option<Quarantine>,
    /// Why it begins nothing new.
    pub closed: Option<Closed>,
}

/// Account nonces may be used that the ledger knows nothing of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    /// The first account nonce that is certainly free, once the chain was asked.
    pub end: Option<u64>,
    /// Why.
    pub reason: String,
}

/// What a signer's transactions cost, wei.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spending {
    /// Most that those can still cost that are not mined.
    pub owed: u64,
    /// What those of the last 24 hours cost, or can cost.
    pub day: u64,
}

#[derive(sqlx::FromRow)]
struct SignerRow {
    role: String,
    next_account_nonce: i64,
    quarantined: bool,
    quarantine_end: Option<i64>,
    quarantine_reason: Option<String>,
    closed: Option<String>,
}

#[derive(sqlx::FromRow)]
struct LimitsRow {
    transaction_wei: i64,
    hard_transaction_wei: i64,
    day_wei: i64,
    low_balance_wei: i64,
}

#[derive(sqlx::FromRow)]
struct SpendingRow {
    owed: i64,
    day: i64,
}

#[derive(sqlx::FromRow)]
struct AddressRow {
    address: String,
}

#[derive(sqlx::FromRow)]
struct Number {
    number: i64,
}

impl Tx {
    /// Takes a signer over for this epoch. One that is seen for the first time starts at `count`,
    /// its transaction count on the chain.
    pub async fn adopt_signer(
        &mut self,
        lease: &Lease,
        chain_id: u64,
        signer: Address,
        role: SignerRole,
        count: u64,
    ) -> Result<SignerRecord> {
        const INSERT: &str = "INSERT INTO signers
            (chain_id, address, role, next_account_nonce, epoch) VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT (chain_id, address) DO UPDATE SET epoch = excluded.epoch";
        self.hold_lease(lease).await?;
        execute!(
            self,
            INSERT,
            bigint("chain id", chain_id)?,
            hex(signer),
            role.as_str(),
            bigint("account nonce", count)?,
            bigint("epoch", lease.epoch)?,
        )?;
        let adopted = self.signer(chain_id, signer).await?;
        adopted.ok_or_else(|| LedgerError::Conflict(format!("signer {signer}")))
    }

    /// A signer.
    pub async fn signer(&mut self, chain_id: u64, signer: Address) -> Result<Option<SignerRecord>> {
        const SELECT: &str = "SELECT role, next_account_nonce,
            quarantined_at IS NOT NULL AS quarantined, quarantine_end, quarantine_reason, closed
            FROM signers WHERE chain_id = $1 AND address = $2";
        let chain = bigint("chain id", chain_id)?;
        let Some(row) = fetch_optional!(self, SignerRow, SELECT, chain, hex(signer))? else {
            return Ok(None);
        };
        let end = row.quarantine_end;
        let end = end.map(|end| unsigned("signers.quarantine_end", end)).transpose()?;
        let reason = row.quarantine_reason.unwrap_or_default();
        let closed = row.closed.as_deref();
        Ok(Some(SignerRecord {
            address: signer,
            role: word("signers.role", &row.role, SignerRole::from_word)?,
            next_account_nonce: unsigned("signers.next_account_nonce", row.next_account_nonce)?,
            quarantine: row.quarantined.then_some(Quarantine { end, reason }),
            closed: closed
                .map(|closed| word("signers.closed", closed, Closed::from_word))
                .transpose()?,
        }))
    }

    /// Every signer of a chain.
    pub async fn signers(&mut self, chain_id: u64) -> Result<Vec<SignerRecord>> {
        const SELECT: &str =
            "SELECT address FROM signers WHERE chain_id = $1 ORDER BY role, address";
        let rows = fetch_all!(self, AddressRow, SELECT, bigint("chain id", chain_id)?)?;
        let mut signers = Vec::with_capacity(rows.len());
        for row in rows {
            let signer = super::columns::address("signers.address", &row.address)?;
            signers.extend(self.signer(chain_id, signer).await?);
        }
        Ok(signers)
    }

    // ------------------------------------------------------------------------ spending

    /// Says why a signer begins nothing new, or that it does. True when that changed.
    pub async fn close_signer(
        &mut self,
        lease: &Lease,
        chain_id: u64,
        signer: Address,
        closed: Option<Closed>,
    ) -> Result<bool> {
        const UPDATE: &str = "UPDATE signers SET closed = $1 WHERE chain_id = $2 AND address = $3
            AND coalesce(closed, '') <> coalesce($1, '')";
        self.hold_lease(lease).await?;
        let (word, chain) = (closed.map(Closed::as_str), bigint("chain id", chain_id)?);
        Ok(execute!(self, UPDATE, word, chain, hex(signer))? == 1)
    }

    /// What a signer's transactions cost.
    pub async fn spending(&mut self, chain_id: u64, signer: Address) -> Result<Spending> {
        const SELECT: &str = "SELECT
            CAST(coalesce(sum(CASE WHEN state IN ('planned', 'signed', 'broadcast')
                THEN max_cost_wei ELSE 0 END), 0) AS BIGINT) AS owed,
            CAST(coalesce(sum(CASE WHEN l2_fee_wei IS NULL THEN max_cost_wei
                ELSE l2_fee_wei + coalesce(l1_fee_wei, 0) END), 0) AS BIGINT) AS day
            FROM transactions WHERE chain_id = $1 AND signer = $2
            AND (created_at >= $3 OR NOT final)";
        let since = self.clock().await? - DAY;
        let chain = bigint("chain id", chain_id)?;
        let row = fetch_optional!(self, SpendingRow, SELECT, chain, hex(signer), since)?;
        let Some(row) = row else { return Ok(Spending { owed: 0, day: 0 }) };
        Ok(Spending {
            owed: unsigned("transactions.max_cost_wei", row.owed)?,
            day: unsigned("transactions.max_cost_wei", row.day)?,
        })
    }

    /// Limits that an operator has set at run time.
    pub async fn limits(&mut self, chain_id: u64, signer: Address) -> Result<Option<Limits>> {
        const SELECT: &str = "SELECT transaction_wei, hard_transaction_wei, day_wei,
            low_balance_wei FROM spending_limits WHERE chain_id = $1 AND signer = $2";
        let chain = bigint("chain id", chain_id)?;
        let Some(row) = fetch_optional!(self, LimitsRow, SELECT, chain, hex(signer))? else {
            return Ok(None);
        };
        Ok(Some(Limits {
            transaction: unsigned("spending_limits.transaction_wei", row.transaction_wei)?,
            hard_transaction: unsigned(
                "spending_limits.hard_transaction_wei",
                row.hard_transaction_wei,
            )?,
            day: unsigned("spending_limits.day_wei", row.day_wei)?,
            low_balance: unsigned("spending_limits.low_balance_wei", row.low_balance_wei)?,
        }))
    }

    /// Sets a signer's limits, effective in the outbox's next round; `None` goes back to the
    /// configuration's.
    pub async fn set_limits(
        &mut self,
        chain_id: u64,
        signer: Address,
        limits: Option<&Limits>,
    ) -> Result<()> {
        const DELETE: &str = "DELETE FROM spending_limits WHERE chain_id = $1 AND signer = $2";
        const INSERT: &str = "INSERT INTO spending_limits (chain_id, signer, transaction_wei,
            hard_transaction_wei, day_wei, low_balance_wei) VALUES ($1, $2, $3, $4, $5, $6)";
        let (chain, signer) = (bigint("chain id", chain_id)?, hex(signer));
        execute!(self, DELETE, chain, &signer)?;
        let Some(limits) = limits else { return Ok(()) };
        execute!(
            self,
            INSERT,
            chain,
            signer,
            bigint("transaction limit", limits.transaction)?,
            bigint("hard transaction limit", limits.hard_transaction)?,
            bigint("day limit", limits.day)?,
            bigint("low balance", limits.low_balance)?,
        )?;
        Ok(())
    }

    // ------------------------------------------------------------------------ quarantine

    /// Puts a signer into quarantine, or begins the one anew in which it is.
    pub async fn quarantine(
        &mut self,
        lease: &Lease,
        chain_id: u64,
        signer: Address,
        reason: &str,
    ) -> Result<()> {
        const UPDATE: &str = "UPDATE signers SET quarantined_at = $1, quarantine_end = NULL,
            quarantine_reason = $2, closed = 'quarantine'
            WHERE chain_id = $3 AND address = $4";
        self.hold_lease(lease).await?;
        let chain = bigint("chain id", chain_id)?;
        execute!(self, UPDATE, now(), reason, chain, hex(signer))?;
        Ok(())
    }

    /// Occupies every account nonce that may be used, below `end`, with a transaction that does
    /// nothing.
    pub async fn occupy(
        &mut self,
        lease: &Lease,
        chain_id: u64,
        signer: Address,
        end: u64,
        gas_limit: u64,
    ) -> Result<()> {
        const END: &str = "UPDATE signers SET quarantine_end = $1
            WHERE chain_id = $2 AND address = $3 AND quarantined_at IS NOT NULL";
        const ALLOCATE: &str = "UPDATE signers SET next_account_nonce = next_account_nonce + 1
            WHERE chain_id = $1 AND address = $2 AND epoch = $3 AND next_account_nonce < $4
            RETURNING next_account_nonce - 1 AS number";
        const INSERT: &str = "INSERT INTO transactions
            (chain_id, signer, account_nonce, epoch, to_address, calldata, gas_limit, state, final,
             max_cost_wei, data_fee_wei, created_at)
            VALUES ($1, $2, $3, $4, $2, $5, $6, 'planned', $7, 0, 0, $8)";
        self.hold_lease(lease).await?;
        let (chain, at) = (bigint("chain id", chain_id)?, hex(signer));
        let epoch = bigint("epoch", lease.epoch)?;
        let begun = self.clock().await?;
        let last = bigint("account nonce", end)?;
        execute!(self, END, last, chain, &at)?;
        while let Some(row) = fetch_optional!(self, Number, ALLOCATE, chain, &at, epoch, last)? {
            let gas = bigint("gas limit", gas_limit)?;
            let nothing: &[u8] = &[];
            execute!(self, INSERT, chain, &at, row.number, epoch, nothing, gas, false, begun)?;
        }
        Ok(())
    }

    /// Ends a quarantine once every account nonce below its end is decided for good and the mirror
    /// of each of the Splitters that are served has seen what was done with them. True when it has
    /// ended.
    pub async fn end_quarantine(
        &mut self,
        lease: &Lease,
        chain_id: u64,
        signer: Address,
        splitters: &[Address],
        finalized_block: u64,
    ) -> Result<bool> {
        const MIRRORED: &str = "SELECT count(*) AS number FROM cursors WHERE chain_id = $1
            AND splitter = $2 AND stream = 'mirror' AND next_block > $3";
        const UPDATE: &str = "UPDATE signers SET quarantined_at = NULL, quarantine_end = NULL,
            quarantine_reason = NULL, closed = NULL
            WHERE chain_id = $1 AND address = $2 AND quarantine_end IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM transactions t WHERE t.chain_id = $1 AND t.signer = $2
                AND NOT t.final AND t.account_nonce < signers.quarantine_end)";
        self.hold_lease(lease).await?;
        let chain = bigint("chain id", chain_id)?;
        let block = bigint("block number", finalized_block)?;
        for splitter in splitters {
            let row = fetch_optional!(self, Number, MIRRORED, chain, hex(splitter), block)?;
            if row.is_none_or(|row| row.number == 0) {
                return Ok(false);
            }
        }
        Ok(execute!(self, UPDATE, chain, hex(signer))? == 1)
    }
}
