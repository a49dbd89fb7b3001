//! The journal: double entry over what the chain says, one journal per log.

use super::{
    LedgerError, LogRef, Result, Tx,
    columns::{bigint, hex, now, unsigned},
    query::{execute, fetch_all, fetch_optional},
};
use crate::{lifecycle::words, x402::MicroUsdc};
use alloy::primitives::{Address, B256};
use std::fmt;
use uuid::Uuid;

/// Debit or credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Debit.
    Debit,
    /// Credit.
    Credit,
}

words!(Side {
    Debit => "debit",
    Credit => "credit",
});

/// What kind of log a journal books.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JournalKind {
    /// An authorization was pulled for a settlement.
    Pull,
    /// USDC came in that no settlement asked for.
    UnattributedInflow,
    /// A settlement was recorded.
    Record,
    /// A record without a settlement of ours.
    UnattributedRecord,
    /// A capability was split.
    Split,
    /// A provider's share went to escrow.
    Escrow,
    /// A provider took it out.
    Withdrawal,
    /// USDC left the Splitter.
    Payout,
    /// A log that could not be booked as what it says.
    Unexplained,
    /// A refund is owed for a settlement; cites no log.
    RefundDue,
    /// It is not owed after all; reverses the above.
    RefundDenied,
    /// The treasury has paid a refund.
    RefundPaid,
    /// Another journal, the other way round: a reorg took its log.
    Reversal,
}

words!(JournalKind {
    Pull => "pull",
    UnattributedInflow => "unattributed_inflow",
    Record => "record",
    UnattributedRecord => "unattributed_record",
    Split => "split",
    Escrow => "escrow",
    Withdrawal => "withdrawal",
    Payout => "payout",
    Unexplained => "unexplained",
    RefundDue => "refund_due",
    RefundDenied => "refund_denied",
    RefundPaid => "refund_paid",
    Reversal => "reversal",
});

/// An account of one Splitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccountCode {
    /// USDC that the Splitter holds.
    Splitter,
    /// Pulled for a capability, not recorded yet.
    Clearing(B256),
    /// Recorded for a capability, not split yet.
    Accounted(B256),
    /// Split to an address, about to leave.
    Payable(Address),
    /// Escrowed for a provider.
    Escrow(Address),
    /// Came in unasked; belongs to nobody we know.
    Suspense,
    /// What refunds have cost the hub.
    RefundExpense,
    /// Owed to a payer.
    Refund(Address),
    /// Given back by the treasury, from what it was paid before.
    RefundTreasury,
    /// What payers paid past the Splitter.
    PassedThrough,
    /// Paid to somebody past the Splitter.
    Passed(Address),
}

impl AccountCode {
    /// The side on which it grows.
    pub const fn side(self) -> Side {
        match self {
            Self::Splitter | Self::RefundExpense | Self::PassedThrough => Side::Debit,
            _ => Side::Credit,
        }
    }

    /// Whether it may never be overdrawn. Suspense may: a record of something that never came in
    /// is exactly what it must show.
    const fn floor_zero(self) -> bool {
        !matches!(self, Self::Suspense)
    }
}

impl fmt::Display for AccountCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Splitter => f.write_str("asset:splitter"),
            Self::Clearing(capability) => write!(f, "clearing:{}", hex(capability)),
            Self::Accounted(capability) => write!(f, "accounted:{}", hex(capability)),
            Self::Payable(account) => write!(f, "payable:{}", hex(account)),
            Self::Escrow(provider) => write!(f, "escrow:{}", hex(provider)),
            Self::Suspense => f.write_str("suspense:unattributed"),
            Self::RefundExpense => f.write_str("expense:refunds"),
            Self::Refund(payer) => write!(f, "refund:{}", hex(payer)),
            Self::RefundTreasury => f.write_str("treasury:refunds"),
            Self::PassedThrough => f.write_str("passed_through"),
            Self::Passed(payee) => write!(f, "passed:{}", hex(payee)),
        }
    }
}

/// One line of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posting {
    /// Which account.
    pub account: AccountCode,
    /// Which side.
    pub side: Side,
    /// How much, above zero.
    pub amount: MicroUsdc,
}

impl Posting {
    /// A debit.
    pub const fn debit(account: AccountCode, amount: MicroUsdc) -> Self {
        Self { account, side: Side::Debit, amount }
    }

    /// A credit.
    pub const fn credit(account: AccountCode, amount: MicroUsdc) -> Self {
        Self { account, side: Side::Credit, amount }
    }
}

#[derive(sqlx::FromRow)]
struct Id {
    id: i64,
}

#[derive(sqlx::FromRow)]
struct Count {
    number: i64,
}

#[derive(sqlx::FromRow)]
struct AccountRow {
    code: String,
    side: String,
    debits_micro: i64,
    credits_micro: i64,
}

/// An account of a Splitter, in micro-USDC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub code: String,
    /// Everything that was ever debited and not reversed.
    pub debits: u64,
    /// Everything that was ever credited and not reversed.
    pub credits: u64,
    /// What is on it, on its own side. Negative only for an overdrawn suspense account.
    pub balance: i64,
}

impl Tx {
    /// Books one log. The database refuses a journal that does not balance, an account below zero,
    /// and a second journal for the same log.
    ///
    /// # Errors
    /// [`LedgerError::Database`] with the constraint that refused.
    pub async fn post(
        &mut self,
        chain_id: u64,
        splitter: Address,
        kind: JournalKind,
        settlement: Option<Uuid>,
        evidence: &LogRef,
        postings: &[Posting],
    ) -> Result<()> {
        const JOURNAL: &str = "INSERT INTO journals
            (id, chain_id, splitter, kind, settlement_id, tx_hash, log_index, block_number,
             block_hash, generation, at)
            SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, count(reversal.id), $10
            FROM journals original JOIN journals reversal ON reversal.reverses = original.id
            WHERE original.chain_id = $2 AND original.splitter = $3 AND original.tx_hash = $6
            AND original.log_index = $7";
        let id = Uuid::new_v4().to_string();
        let chain = bigint("chain id", chain_id)?;
        self.write_postings(&id, chain, splitter, postings).await?;
        // The journal closes over its postings: its triggers check that they balance.
        execute!(
            self,
            JOURNAL,
            &id,
            chain,
            hex(splitter),
            kind.as_str(),
            settlement.map(|id| id.to_string()),
            hex(evidence.tx_hash),
            bigint("log index", evidence.log_index)?,
            bigint("block number", evidence.block_number)?,
            hex(evidence.block_hash),
            now(),
        )?;
        Ok(())
    }

    /// The lines of a journal that is about to close over them.
    pub(super) async fn write_postings(
        &mut self,
        journal: &str,
        chain: i64,
        splitter: Address,
        postings: &[Posting],
    ) -> Result<()> {
        const POSTING: &str = "INSERT INTO postings
            (journal_id, line, account_id, side, amount_micro) VALUES ($1, $2, $3, $4, $5)";
        let lines = postings.iter().filter(|posting| posting.amount != MicroUsdc::ZERO);
        for (line, posting) in lines.enumerate() {
            let account = self.account(chain, splitter, posting.account).await?;
            let line = bigint("journal line", line)?;
            let amount = posting.amount.column();
            execute!(self, POSTING, journal, line, account, posting.side.as_str(), amount)?;
        }
        Ok(())
    }

    async fn account(&mut self, chain: i64, splitter: Address, code: AccountCode) -> Result<i64> {
        const SELECT: &str =
            "SELECT id FROM accounts WHERE chain_id = $1 AND splitter = $2 AND code = $3";
        const INSERT: &str = "INSERT INTO accounts (chain_id, splitter, code, side, floor_zero)
            VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
        let at = hex(splitter);
        let text = code.to_string();
        if let Some(row) = fetch_optional!(self, Id, SELECT, chain, &at, &text)? {
            return Ok(row.id);
        }
        execute!(self, INSERT, chain, &at, &text, code.side().as_str(), code.floor_zero())?;
        fetch_optional!(self, Id, SELECT, chain, &at, &text)?
            .map(|row| row.id)
            .ok_or_else(|| LedgerError::Conflict(format!("account {text}")))
    }

    /// What a settlement's pull and record leave on an account, credits less debits. What was
    /// reversed leaves nothing.
    pub async fn left_by(&mut self, settlement: Uuid, account: AccountCode) -> Result<i64> {
        const SELECT: &str = "SELECT CAST(coalesce(sum(CASE p.side WHEN 'credit'
                THEN p.amount_micro ELSE -p.amount_micro END), 0) AS BIGINT) AS number
            FROM journals j JOIN postings p ON p.journal_id = j.id
            JOIN accounts a ON a.id = p.account_id
            WHERE j.settlement_id = $1 AND j.kind IN ('pull', 'record', 'reversal')
            AND a.code = $2";
        let row =
            fetch_optional!(self, Count, SELECT, settlement.to_string(), account.to_string())?;
        Ok(row.map_or(0, |row| row.number))
    }

    /// Marks a point to which [`Tx::undo`] can go back without giving up what was done before it.
    pub async fn mark(&mut self) -> Result<()> {
        execute!(self, "SAVEPOINT mark")?;
        Ok(())
    }

    /// Keeps what was done since [`Tx::mark`].
    pub async fn keep(&mut self) -> Result<()> {
        execute!(self, "RELEASE SAVEPOINT mark")?;
        Ok(())
    }

    /// Undoes what was done since [`Tx::mark`], a refused statement too.
    pub async fn undo(&mut self) -> Result<()> {
        execute!(self, "ROLLBACK TO SAVEPOINT mark")?;
        self.keep().await
    }

    /// Every account of a Splitter.
    pub async fn accounts(&mut self, chain_id: u64, splitter: Address) -> Result<Vec<Account>> {
        // A line that was reversed stands on both sides. `> ''` finds the few reversals by index.
        const SELECT: &str = "SELECT code, side,
                debits_micro - coalesce(r.micro, 0) AS debits_micro,
                credits_micro - coalesce(r.micro, 0) AS credits_micro
            FROM accounts a LEFT JOIN (
                SELECT p.account_id, CAST(sum(p.amount_micro) AS BIGINT) AS micro
                FROM journals j JOIN postings p ON p.journal_id = j.id
                WHERE j.reverses > '' GROUP BY p.account_id) r ON r.account_id = a.id
            WHERE chain_id = $1 AND splitter = $2 ORDER BY code";
        let chain = bigint("chain id", chain_id)?;
        let rows = fetch_all!(self, AccountRow, SELECT, chain, hex(splitter))?;
        rows.into_iter()
            .map(|row| {
                let (plus, minus) = if row.side == Side::Debit.as_str() {
                    (row.debits_micro, row.credits_micro)
                } else {
                    (row.credits_micro, row.debits_micro)
                };
                let balance = plus.checked_sub(minus).ok_or_else(|| LedgerError::Corrupt {
                    column: "accounts",
                    value: row.code.clone(),
                    expected: "balance in range",
                })?;
                Ok(Account {
                    debits: unsigned("accounts.debits_micro", row.debits_micro)?,
                    credits: unsigned("accounts.credits_micro", row.credits_micro)?,
                    balance,
                    code: row.code,
                })
            })
            .collect()
    }
}
