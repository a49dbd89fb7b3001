//! Reading whole tables, row by row, for who checks or copies everything. Nothing here holds more than
//! a row.

use super::{Ledger, LedgerError, Result, Tx};
use futures::TryStreamExt;
use sqlx::{FromRow, Row};
use std::collections::{HashMap, HashSet};

/// An event, its place in the order of all, and what was hashed.
#[derive(Debug)]
pub struct EventRow<'r> {
    /// Order of insertion, with gaps.
    pub seq: i64,
    /// Order without gaps, once it is sealed.
    pub position: Option<i64>,
    /// Whose it is.
    pub settlement_id: &'r str,
    /// Number within the payment.
    pub n: i64,
    /// Machine and event.
    pub kind: &'r str,
    /// State of that machine afterwards.
    pub state: &'r str,
    /// The bytes that were hashed.
    pub body: &'r str,
    /// Hash of the event before.
    pub prev_hash: &'r str,
    /// Hash of this one.
    pub hash: &'r str,
}

/// What the columns of a settlement and of its delivery say.
#[derive(Debug, FromRow)]
#[expect(missing_docs, reason = "the names of the columns")]
pub struct SettlementRow<'r> {
    pub id: &'r str,
    pub trace_id: &'r str,
    pub chain_id: i64,
    pub asset: &'r str,
    pub payer: &'r str,
    pub eip3009_nonce: &'r str,
    pub pay_to: &'r str,
    pub amount_usdc_micro: i64,
    pub valid_before: i64,
    pub capability_id: Option<&'r str>,
    pub splitter_capability_id: Option<&'r str>,
    pub provider: Option<&'r str>,
    pub provider_bps: Option<i64>,
    pub hub_bps: Option<i64>,
    pub reserve_bps: Option<i64>,
    pub x402_version: Option<i64>,
    pub agent_id: Option<&'r str>,
    pub request_id: Option<&'r str>,
    pub content_hash: Option<&'r str>,
    pub payment_hash: Option<&'r str>,
    pub status: &'r str,
    pub keeper_state: &'r str,
    pub tx_hash: Option<&'r str>,
    pub log_index: Option<i64>,
    pub block_number: Option<i64>,
    pub block_hash: Option<&'r str>,
    pub record_tx_hash: Option<&'r str>,
    pub record_log_index: Option<i64>,
    pub record_block_number: Option<i64>,
    pub split_tx_hash: Option<&'r str>,
    pub split_log_index: Option<i64>,
    pub split_block_number: Option<i64>,
    pub provider_share_micro: Option<i64>,
    pub hub_share_micro: Option<i64>,
    pub network_share_micro: Option<i64>,
    pub splitter: Option<&'r str>,
    pub delivery: Option<&'r str>,
    pub is_booked: bool,
    pub is_record_booked: bool,
}

/// A journal with what its postings sum up to; either may be missing.
#[derive(Debug, FromRow)]
#[expect(missing_docs, reason = "the names of the columns")]
pub struct JournalRow<'r> {
    pub id: Option<&'r str>,
    pub journal_id: Option<&'r str>,
    pub chain_id: Option<i64>,
    pub splitter: Option<&'r str>,
    pub kind: Option<&'r str>,
    pub settlement_id: Option<&'r str>,
    pub tx_hash: Option<&'r str>,
    pub log_index: Option<i64>,
    pub block_number: Option<i64>,
    pub block_hash: Option<&'r str>,
    pub reverses: Option<&'r str>,
    pub is_booked: bool,
    pub debits: Option<i64>,
    pub credits: Option<i64>,
    pub booked: Option<i64>,
    pub lines: Option<i64>,
    pub first_side: Option<&'r str>,
    pub first_account: Option<i64>,
    pub second_account: Option<i64>,
}

/// A log of the mirror, and whether it lies before the journal's cursor. `account` is who paid, or whom
/// money was paid to.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names of the columns")]
pub struct LogRow<'r> {
    pub chain_id: i64,
    pub splitter: &'r str,
    pub tx_hash: &'r str,
    pub log_index: i64,
    pub block_number: i64,
    pub block_hash: &'r str,
    pub amount: i64,
    pub class: &'r str,
    pub account: Option<&'r str>,
    pub capability: Option<&'r str>,
    pub asset: Option<&'r str>,
    pub eip3009_nonce: Option<&'r str>,
    pub settlement_id: Option<&'r str>,
    pub is_booked: bool,
}

/// A signed envelope, its transaction, or both.
#[derive(Debug)]
pub struct EnvelopeRow<'r> {
    /// Hash and bytes of the envelope, if there is one.
    pub envelope: Option<(&'r str, &'r [u8])>,
    /// Id and state of the transaction, if there is one.
    pub transaction: Option<(i64, &'r str)>,
    /// Whether the transaction is on the chain as this envelope.
    pub is_mined: bool,
}

/// A signed envelope, and the transaction that it is one of.
#[derive(Debug, FromRow)]
#[expect(missing_docs, reason = "the names of the columns")]
pub struct AttemptRow<'r> {
    pub hash: &'r str,
    pub raw: &'r [u8],
    pub chain_id: i64,
    pub signer: &'r str,
    pub account_nonce: i64,
}

/// Runs a query and hands over row after row.
macro_rules! scan {
    ($tx:expr, $sql:expr, |$row:ident| $each:expr) => {
        match $tx {
            $crate::ledger::Tx::Postgres(tx) => {
                let mut rows = sqlx::query($sql).fetch(&mut **tx);
                while let Some($row) = rows.try_next().await? {
                    $each
                }
            }
            $crate::ledger::Tx::Sqlite(tx) => {
                let mut rows = sqlx::query($sql).fetch(&mut **tx);
                while let Some($row) = rows.try_next().await? {
                    $each
                }
            }
        }
    };
}

pub(super) use scan;

impl Ledger {
    /// Connections that all see the same moment: as many as were asked for on PostgreSQL, one on
    /// SQLite.
    pub async fn snapshot(&self, lanes: usize) -> Result<Vec<Tx>> {
        const EXPORT: &str = "SELECT pg_export_snapshot() AS name";
        // Sorting and hashing millions of rows, and a lane that waits for another. Whole tables are read:
        // from end to end, not page by page in the order of an index of random ids.
        const SETTINGS: [&str; 3] = [
            "SET LOCAL work_mem = '64MB'",
            "SET LOCAL random_page_cost = 4",
            "SET LOCAL idle_in_transaction_session_timeout = 0",
        ];
        let mut first = self.read().await?;
        let Tx::Postgres(tx) = &mut first else { return Ok(vec![first]) };
        for setting in SETTINGS {
            sqlx::query(setting).execute(&mut **tx).await?;
        }
        let name: String = sqlx::query(EXPORT).fetch_one(&mut **tx).await?.try_get("name")?;
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(LedgerError::Conflict(format!("snapshot {name:?}")));
        }
        let mut all = vec![first];
        while all.len() < lanes {
            let mut lane = self.read().await?;
            let Tx::Postgres(tx) = &mut lane else { break };
            let import = format!("SET TRANSACTION SNAPSHOT '{name}'");
            sqlx::query(sqlx::AssertSqlSafe(import)).execute(&mut **tx).await?;
            for setting in SETTINGS {
                sqlx::query(setting).execute(&mut **tx).await?;
            }
            all.push(lane);
        }
        Ok(all)
    }
}

impl Tx {
    /// Every event in the order of `seq`.
    ///
    /// # Errors
    /// Whatever `each` says, too.
    pub async fn scan_events(
        &mut self,
        mut each: impl FnMut(EventRow<'_>) -> Result<()>,
    ) -> Result<()> {
        const SELECT: &str =
            "SELECT e.seq, p.position, e.settlement_id, e.n, e.kind, e.state, e.body,
                e.prev_hash, e.hash
            FROM settlement_events e LEFT JOIN event_positions p ON p.seq = e.seq ORDER BY e.seq";
        scan!(self, SELECT, |row| each(EventRow {
            seq: row.try_get(0)?,
            position: row.try_get(1)?,
            settlement_id: row.try_get(2)?,
            n: row.try_get(3)?,
            kind: row.try_get(4)?,
            state: row.try_get(5)?,
            body: row.try_get(6)?,
            prev_hash: row.try_get(7)?,
            hash: row.try_get(8)?,
        })?);
        Ok(())
    }

    /// Every settlement with the state of its delivery.
    ///
    /// # Errors
    /// Whatever `each` says, too.
    pub async fn scan_settlements(
        &mut self,
        mut each: impl FnMut(SettlementRow<'_>) -> Result<()>,
    ) -> Result<()> {
        const SELECT: &str =
            "SELECT s.id, trace_id, s.chain_id, asset, payer, eip3009_nonce, pay_to,
                amount_usdc_micro, valid_before, capability_id, splitter_capability_id, provider,
                provider_bps, hub_bps, reserve_bps, x402_version, agent_id, request_id,
                content_hash, payment_hash, status, keeper_state, tx_hash, log_index, block_number,
                block_hash, record_tx_hash, record_log_index, record_block_number, split_tx_hash,
                split_log_index, split_block_number, provider_share_micro, hub_share_micro,
                network_share_micro, s.splitter, d.state AS delivery,
                coalesce(s.block_number < c.next_block, FALSE) AS is_booked,
                coalesce(s.record_block_number < c.next_block, FALSE) AS is_record_booked
            FROM x402_settlements s LEFT JOIN deliveries d ON d.settlement_id = s.id
            LEFT JOIN cursors c ON c.chain_id = s.chain_id AND c.splitter = s.splitter
                AND c.stream = 'journal'";
        scan!(self, SELECT, |row| each(SettlementRow::from_row(&row)?)?);
        Ok(())
    }

    /// Every envelope that was signed with its transaction; either may be missing.
    ///
    /// # Errors
    /// When the database cannot answer it.
    pub async fn scan_envelopes(&mut self, mut each: impl FnMut(EnvelopeRow<'_>)) -> Result<()> {
        const SELECT: &str = "SELECT a.hash, a.raw, t.id, t.state,
                coalesce(t.mined_hash = a.hash AND t.state IN (
                    'included', 'safe', 'finalized', 'reverted'), FALSE)
            FROM attempts a FULL JOIN transactions t ON t.id = a.transaction_id";
        scan!(self, SELECT, |row| {
            let hash: Option<&str> = row.try_get(0)?;
            let id: Option<i64> = row.try_get(2)?;
            each(EnvelopeRow {
                envelope: hash.zip(row.try_get(1)?),
                transaction: id.zip(row.try_get(3)?),
                is_mined: row.try_get(4)?,
            });
        });
        Ok(())
    }

    /// Every envelope that was signed, and for what.
    ///
    /// # Errors
    /// When the database cannot answer it.
    pub async fn scan_attempts(&mut self, mut each: impl FnMut(AttemptRow<'_>)) -> Result<()> {
        const SELECT: &str = "SELECT a.hash, a.raw, t.chain_id, t.signer, t.account_nonce
            FROM attempts a JOIN transactions t ON t.id = a.transaction_id";
        scan!(self, SELECT, |row| each(AttemptRow::from_row(&row)?));
        Ok(())
    }

    /// Every journal with the sums of its postings, and postings without a journal.
    ///
    /// # Errors
    /// Whatever `each` says, too.
    pub async fn scan_journals(&mut self, mut each: impl FnMut(JournalRow<'_>)) -> Result<()> {
        const SELECT: &str = "SELECT j.id, s.journal_id, j.chain_id, j.splitter, j.kind,
                j.settlement_id, j.tx_hash, j.log_index, j.block_number, j.block_hash, j.reverses,
                s.debits, s.credits, s.booked, s.lines, s.first_side, s.first_account,
                s.second_account,
                coalesce(j.block_number < c.next_block, FALSE) AS is_booked
            FROM journals j FULL JOIN (SELECT journal_id,
                CAST(sum(CASE WHEN side = 'debit' THEN amount_micro ELSE 0 END) AS BIGINT) AS debits,
                CAST(sum(CASE WHEN side = 'credit' THEN amount_micro ELSE 0 END) AS BIGINT) AS credits,
                max(CASE WHEN line = 0 THEN amount_micro END) AS booked,
                count(*) AS lines,
                max(CASE WHEN line = 0 THEN side END) AS first_side,
                max(CASE WHEN line = 0 THEN account_id END) AS first_account,
                max(CASE WHEN line = 1 THEN account_id END) AS second_account
                FROM postings GROUP BY journal_id) s ON s.journal_id = j.id
            LEFT JOIN cursors c ON c.chain_id = j.chain_id AND c.splitter = j.splitter
                AND c.stream = 'journal'";
        scan!(self, SELECT, |row| each(JournalRow::from_row(&row)?));
        Ok(())
    }

    /// Every pull, payout and log with an amount of the mirror.
    ///
    /// # Errors
    /// When the database cannot answer it.
    pub async fn scan_logs(&mut self, mut each: impl FnMut(LogRow<'_>)) -> Result<()> {
        const SELECT: &str =
            "SELECT l.*, coalesce(l.block_number < c.next_block, FALSE) AS is_booked
            FROM (SELECT chain_id, splitter, tx_hash, log_index, block_number, block_hash,
                    amount_micro AS amount, 'inflow' AS class, payer AS account,
                    CAST(NULL AS TEXT) AS capability, asset, eip3009_nonce, settlement_id
                FROM x402_pull_events
            UNION ALL SELECT chain_id, splitter, tx_hash, log_index, block_number, block_hash,
                    amount_micro, 'inflow', payer, NULL, asset, eip3009_nonce, settlement_id
                FROM passed_events
            UNION ALL SELECT chain_id, splitter, tx_hash, log_index, block_number, block_hash,
                    amount_micro, 'outflow', recipient, NULL, NULL, NULL, NULL FROM payout_events
            UNION ALL SELECT chain_id, splitter, tx_hash, log_index, block_number, block_hash,
                    amount, event_name, account, splitter_capability_id, NULL, NULL, NULL
                FROM splitter_events WHERE amount IS NOT NULL) l
            LEFT JOIN cursors c ON c.chain_id = l.chain_id AND c.splitter = l.splitter
                AND c.stream = 'journal'";
        // By their places: names are looked up for every row.
        scan!(self, SELECT, |row| each(LogRow {
            chain_id: row.try_get(0)?,
            splitter: row.try_get(1)?,
            tx_hash: row.try_get(2)?,
            log_index: row.try_get(3)?,
            block_number: row.try_get(4)?,
            block_hash: row.try_get(5)?,
            amount: row.try_get(6)?,
            class: row.try_get(7)?,
            account: row.try_get(8)?,
            capability: row.try_get(9)?,
            asset: row.try_get(10)?,
            eip3009_nonce: row.try_get(11)?,
            settlement_id: row.try_get(12)?,
            is_booked: row.try_get(13)?,
        }));
        Ok(())
    }

    /// The name of every account, by its id.
    ///
    /// # Errors
    /// When the database cannot answer it.
    pub async fn account_codes(&mut self) -> Result<HashMap<i64, String>> {
        const SELECT: &str = "SELECT id, code FROM accounts";
        let mut codes = HashMap::new();
        scan!(self, SELECT, |row| {
            codes.insert(row.try_get(0)?, row.try_get(1)?);
        });
        Ok(codes)
    }

    /// The journals that others take back.
    ///
    /// # Errors
    /// When the database cannot answer it.
    pub async fn reversed(&mut self) -> Result<HashSet<String>> {
        const SELECT: &str = "SELECT reverses FROM journals WHERE reverses IS NOT NULL";
        let mut reversed = HashSet::new();
        scan!(self, SELECT, |row| {
            reversed.insert(row.try_get(0)?);
        });
        Ok(reversed)
    }

    /// What a query of two texts finds, the row's name and what is wrong with it.
    ///
    /// # Errors
    /// When the database cannot answer it.
    pub async fn scan_violations(
        &mut self,
        sql: &'static str,
        mut each: impl FnMut(&str, &str),
    ) -> Result<()> {
        scan!(self, sql, |row| each(row.try_get(0)?, row.try_get(1)?));
        Ok(())
    }

    /// What a query of one number answers.
    ///
    /// # Errors
    /// When the database cannot answer it.
    pub async fn count(&mut self, sql: &'static str) -> Result<u64> {
        let mut number = 0;
        scan!(self, sql, |row| number = row.try_get::<Option<i64>, _>(0)?.unwrap_or(0));
        super::columns::unsigned("count", number)
    }
}
