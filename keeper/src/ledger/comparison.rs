//! The ledger held against its mirror of the chain, payment by payment, in the database: a million
//! of them are joined and counted there, and only what is to be shown leaves it.

use super::{
    LedgerError, Result, Tx, Verdict,
    columns::{bigint, hex, unsigned, word},
    query::{execute, fetch_all},
};
use alloy::primitives::Address;
use futures::TryStreamExt;

/// Verdicts over one Splitter ($1 chain, $2 Splitter, $3 last block that counts, $4 token), as
/// `verdicts`. Whoever pulled is our outbox, or the facilitator whose answer is kept.
///
/// Each relation is joined by what is unique in it, so that nothing is counted twice; what no
/// payment cites is found the other way round.
macro_rules! verdicts {
    ($rest:literal) => {
        concat!(
            "WITH registered AS (
                SELECT splitter_capability_id, account, provider_bps, hub_bps, reserve_bps,
                    block_number, log_index, lead(block_number) OVER later AS next_block,
                    lead(log_index) OVER later AS next_index
                FROM splitter_events
                WHERE chain_id = $1 AND splitter = $2 AND event_name = 'CapabilityRegistered'
                WINDOW later AS (
                    PARTITION BY splitter_capability_id ORDER BY block_number, log_index)
            ), last_split AS (
                SELECT splitter_capability_id, max(block_number) AS block_number
                FROM splitter_events
                WHERE chain_id = $1 AND splitter = $2 AND event_name = 'PaymentSplit'
                AND block_number <= $3 GROUP BY splitter_capability_id
            ), shared AS (
                SELECT record_tx_hash, record_log_index FROM x402_settlements
                WHERE chain_id = $1 AND splitter = $2 AND record_tx_hash IS NOT NULL
                GROUP BY record_tx_hash, record_log_index HAVING count(*) > 1
            ), told AS (
                SELECT i.settlement_id, min(t.mined_hash) AS tx_hash
                FROM intents i
                JOIN transaction_intents ti ON ti.intent_id = i.id
                JOIN transactions t ON t.id = ti.transaction_id
                WHERE i.chain_id = $1 AND i.kind = 'pull' AND t.state = 'finalized'
                GROUP BY i.settlement_id
            ), booked AS NOT MATERIALIZED (
                SELECT kind, settlement_id, tx_hash, log_index, block_number, block_hash
                FROM journals
                WHERE chain_id = $1 AND splitter = $2 AND reverses IS NULL
                AND kind IN ('pull', 'unattributed_inflow', 'record', 'unattributed_record',
                    'split', 'escrow', 'withdrawal', 'payout', 'unexplained')
                AND id NOT IN (SELECT reverses FROM journals WHERE reverses IS NOT NULL)
            ), payments AS (
                SELECT CASE
                    WHEN s.splitter_capability_id IS NOT NULL AND s.pay_to <> s.splitter
                        THEN 'payee'
                    WHEN s.tx_hash IS NULL THEN CASE
                        WHEN EXISTS (SELECT 1 FROM x402_pull_events e
                            WHERE e.eip3009_nonce = s.eip3009_nonce AND e.payer = s.payer
                            AND e.chain_id = $1 AND e.splitter = $2 AND e.block_number <= $3)
                            THEN NULL
                        WHEN EXISTS (SELECT 1 FROM passed_events e
                            WHERE e.settlement_id = s.id AND e.block_number <= $3)
                            THEN 'pull_not_noted'
                        WHEN told.tx_hash IS NOT NULL
                            OR s.status IN ('released', 'failed', 'orphaned')
                            AND (s.facilitator_response_jsonb ->> 'transaction') IS NOT NULL
                            THEN 'told_only'
                        WHEN s.status IN ('released', 'failed', 'mismatched') THEN NULL
                        ELSE 'pending' END
                    WHEN s.kind = 'pass_through' THEN CASE
                        WHEN q.tx_hash IS NULL THEN 'pull_gone'
                        WHEN q.payer <> s.payer OR q.eip3009_nonce <> s.eip3009_nonce
                            THEN 'pull_other'
                        WHEN q.amount_micro <> s.amount_usdc_micro THEN 'pull_amount'
                        WHEN told.tx_hash <> s.tx_hash THEN 'told_only'
                        WHEN s.status = 'mismatched' THEN 'receipt'
                        WHEN s.status = 'chain_confirmed' AND s.block_number <= $3
                            THEN 'passed'
                        ELSE 'pending' END
                    WHEN p.tx_hash IS NULL THEN 'pull_gone'
                    WHEN p.payer <> s.payer OR coalesce(p.eip3009_nonce, '') <> s.eip3009_nonce
                        THEN 'pull_other'
                    WHEN p.amount_micro <> s.amount_usdc_micro THEN 'pull_amount'
                    WHEN CAST(s.facilitator_response_jsonb ->> 'amount' AS TEXT)
                        <> CAST(s.amount_usdc_micro AS TEXT) THEN 'told_amount'
                    WHEN told.tx_hash <> s.tx_hash THEN 'told_only'
                    WHEN s.status = 'mismatched' THEN 'receipt'
                    WHEN shared.record_tx_hash IS NOT NULL THEN 'record_shared'
                    WHEN s.record_tx_hash IS NULL THEN CASE
                        WHEN s.keeper_state = 'violation' THEN (SELECT CASE
                            WHEN count(*) > 1 THEN 'recorded_twice'
                            WHEN max(e.splitter_capability_id) <> s.splitter_capability_id
                                THEN 'record_capability'
                            WHEN max(e.amount) <> s.amount_usdc_micro THEN 'record_amount'
                            ELSE 'split_terms' END
                            FROM splitter_events e
                            WHERE e.eip3009_nonce = s.eip3009_nonce AND e.account = s.payer
                            AND e.chain_id = $1 AND e.splitter = $2
                            AND e.event_name = 'SettlementRecorded')
                        WHEN EXISTS (SELECT 1 FROM splitter_events e
                            WHERE e.eip3009_nonce = s.eip3009_nonce AND e.account = s.payer
                            AND e.chain_id = $1 AND e.splitter = $2
                            AND e.event_name = 'SettlementRecorded' AND e.block_number <= $3)
                            THEN 'record_not_noted'
                        ELSE 'pending' END
                    WHEN r.tx_hash IS NULL THEN 'record_gone'
                    WHEN r.splitter_capability_id <> s.splitter_capability_id
                        THEN 'record_capability'
                    WHEN r.amount <> s.amount_usdc_micro THEN 'record_amount'
                    WHEN r.account <> s.payer OR coalesce(r.eip3009_nonce, '') <> s.eip3009_nonce
                        THEN 'record_other'
                    WHEN s.keeper_state = 'violation' THEN 'split_terms'
                    WHEN s.split_tx_hash IS NULL THEN CASE
                        WHEN l.block_number > s.record_block_number THEN 'split_not_noted'
                        ELSE 'pending' END
                    WHEN x.tx_hash IS NULL
                        OR x.splitter_capability_id <> s.splitter_capability_id
                        OR (x.block_number, x.log_index)
                            < (s.record_block_number, s.record_log_index) THEN 'split_gone'
                    WHEN t.account IS NULL OR t.account <> s.provider
                        OR t.provider_bps <> s.provider_bps OR t.hub_bps <> s.hub_bps
                        OR t.reserve_bps <> s.reserve_bps THEN 'split_terms'
                    WHEN s.status <> 'chain_confirmed' OR s.keeper_state <> 'split'
                        OR s.split_block_number > $3 THEN 'pending'
                    WHEN s.record_block_number - s.block_number > 2 THEN 'record_late'
                    WHEN s.split_block_number - s.block_number > 4 THEN 'split_late'
                    ELSE 'matched' END AS verdict,
                    s.id AS settlement_id, s.payer, s.eip3009_nonce, s.splitter_capability_id,
                    s.amount_usdc_micro AS amount_micro,
                    CASE WHEN p.amount_micro <> s.amount_usdc_micro THEN p.amount_micro
                        WHEN r.amount <> s.amount_usdc_micro THEN r.amount END AS found_micro,
                    s.tx_hash, s.log_index, s.block_number, s.record_tx_hash, s.split_tx_hash
                FROM x402_settlements s
                LEFT JOIN x402_pull_events p ON p.chain_id = s.chain_id
                    AND p.tx_hash = s.tx_hash AND p.log_index = s.log_index
                    AND p.block_hash = s.block_hash AND p.splitter = s.splitter
                LEFT JOIN passed_events q ON q.chain_id = s.chain_id
                    AND q.tx_hash = s.tx_hash AND q.log_index = s.log_index
                    AND q.block_hash = s.block_hash AND q.splitter = s.splitter
                LEFT JOIN splitter_events r ON r.chain_id = s.chain_id
                    AND r.tx_hash = s.record_tx_hash AND r.log_index = s.record_log_index
                    AND r.block_number = s.record_block_number
                    AND r.event_name = 'SettlementRecorded'
                LEFT JOIN splitter_events x ON x.chain_id = s.chain_id
                    AND x.tx_hash = s.split_tx_hash AND x.log_index = s.split_log_index
                    AND x.block_number = s.split_block_number AND x.event_name = 'PaymentSplit'
                LEFT JOIN registered t ON t.splitter_capability_id = s.splitter_capability_id
                    AND (t.block_number, t.log_index) < (s.split_block_number, s.split_log_index)
                    AND (t.next_block IS NULL OR (t.next_block, t.next_index)
                        > (s.split_block_number, s.split_log_index))
                LEFT JOIN last_split l ON l.splitter_capability_id = s.splitter_capability_id
                LEFT JOIN shared ON shared.record_tx_hash = s.record_tx_hash
                    AND shared.record_log_index = s.record_log_index
                LEFT JOIN told ON told.settlement_id = s.id
                WHERE s.chain_id = $1 AND s.splitter = $2
            ), inflows AS (
                SELECT CASE
                    WHEN o.id IS NULL AND p.eip3009_nonce IS NOT NULL
                        AND (p.settlement_id IS NOT NULL OR EXISTS (
                            SELECT 1 FROM splitter_events e
                            WHERE e.eip3009_nonce = p.eip3009_nonce AND e.account = p.payer
                            AND e.chain_id = $1 AND e.splitter = $2
                            AND e.event_name = 'SettlementRecorded')) THEN 'pull_unknown'
                    WHEN o.id IS NULL OR o.status IN ('released', 'failed') THEN 'inflow'
                    WHEN o.amount_usdc_micro <> p.amount_micro THEN CASE
                        WHEN o.status = 'mismatched' AND EXISTS (SELECT 1 FROM booked b
                            WHERE b.tx_hash = p.tx_hash AND b.log_index = p.log_index
                            AND b.kind = 'unattributed_inflow') THEN 'held_amount'
                        ELSE 'pull_amount' END
                    WHEN o.status = 'mismatched' THEN 'receipt'
                    WHEN o.tx_hash IS NOT NULL THEN 'pulled_twice'
                    ELSE 'pull_not_noted' END AS verdict,
                    coalesce(o.id, p.settlement_id) AS settlement_id, p.payer, p.eip3009_nonce,
                    o.splitter_capability_id,
                    coalesce(o.amount_usdc_micro, p.amount_micro) AS amount_micro,
                    p.amount_micro AS found_micro, p.tx_hash, p.log_index, p.block_number,
                    o.record_tx_hash, o.split_tx_hash
                FROM x402_pull_events p
                LEFT JOIN x402_settlements s ON s.chain_id = p.chain_id
                    AND s.tx_hash = p.tx_hash AND s.log_index = p.log_index
                LEFT JOIN x402_settlements o ON o.chain_id = p.chain_id AND o.asset = $4
                    AND o.payer = p.payer AND o.eip3009_nonce = p.eip3009_nonce
                WHERE p.chain_id = $1 AND p.splitter = $2 AND p.block_number <= $3
                AND p.amount_micro > 0 AND s.id IS NULL
            ), records AS (
                SELECT CASE
                    WHEN o.record_tx_hash IS NOT NULL THEN 'recorded_twice'
                    WHEN o.id IS NULL AND NOT EXISTS (SELECT 1 FROM x402_pull_events e
                        WHERE e.eip3009_nonce = r.eip3009_nonce AND e.payer = r.account
                        AND e.chain_id = $1 AND e.splitter = $2 AND e.amount_micro > 0
                        AND e.block_number <= $3) THEN 'record_unknown'
                    END AS verdict,
                    o.id AS settlement_id, r.account AS payer, r.eip3009_nonce,
                    r.splitter_capability_id, r.amount AS amount_micro, r.amount AS found_micro,
                    r.tx_hash, r.log_index, r.block_number, r.tx_hash AS record_tx_hash,
                    CAST(NULL AS TEXT) AS split_tx_hash
                FROM splitter_events r
                LEFT JOIN x402_settlements s ON s.record_tx_hash = r.tx_hash
                    AND s.record_log_index = r.log_index AND s.chain_id = r.chain_id
                LEFT JOIN x402_settlements o ON o.chain_id = r.chain_id AND o.asset = $4
                    AND o.payer = r.account AND o.eip3009_nonce = r.eip3009_nonce
                WHERE r.chain_id = $1 AND r.splitter = $2 AND r.block_number <= $3
                AND r.event_name = 'SettlementRecorded' AND s.id IS NULL
            ), splits AS (
                SELECT 'split_amount' AS verdict, c.settlement_id, x.account AS payer,
                    CAST(NULL AS TEXT) AS eip3009_nonce, x.splitter_capability_id,
                    c.amount_micro, x.amount AS found_micro, x.tx_hash, x.log_index,
                    x.block_number, CAST(NULL AS TEXT) AS record_tx_hash,
                    x.tx_hash AS split_tx_hash
                FROM (SELECT split_tx_hash, split_log_index, min(id) AS settlement_id,
                        CAST(sum(amount_usdc_micro) AS BIGINT) AS amount_micro
                    FROM x402_settlements
                    WHERE chain_id = $1 AND splitter = $2 AND keeper_state = 'split'
                    GROUP BY split_tx_hash, split_log_index) c
                JOIN splitter_events x ON x.chain_id = $1 AND x.tx_hash = c.split_tx_hash
                    AND x.log_index = c.split_log_index
                WHERE x.block_number <= $3 AND x.amount <> c.amount_micro
            ), logs AS NOT MATERIALIZED (
                SELECT tx_hash, log_index, block_number, block_hash, payer AS account,
                    amount_micro AS amount
                FROM x402_pull_events WHERE chain_id = $1 AND splitter = $2 AND amount_micro > 0
                UNION ALL
                SELECT tx_hash, log_index, block_number, block_hash, payer, amount_micro
                FROM passed_events WHERE chain_id = $1 AND splitter = $2 AND amount_micro > 0
                UNION ALL
                SELECT tx_hash, log_index, block_number, block_hash, recipient, amount_micro
                FROM payout_events WHERE chain_id = $1 AND splitter = $2 AND amount_micro > 0
                UNION ALL
                SELECT tx_hash, log_index, block_number, block_hash, account, amount
                FROM splitter_events WHERE chain_id = $1 AND splitter = $2 AND amount > 0
            ), unbooked AS (
                SELECT 'not_booked' AS verdict, CAST(NULL AS TEXT) AS settlement_id,
                    e.account AS payer, CAST(NULL AS TEXT) AS eip3009_nonce,
                    CAST(NULL AS TEXT) AS splitter_capability_id, e.amount AS amount_micro,
                    CAST(NULL AS BIGINT) AS found_micro, e.tx_hash, e.log_index, e.block_number,
                    CAST(NULL AS TEXT) AS record_tx_hash, CAST(NULL AS TEXT) AS split_tx_hash
                FROM logs e
                WHERE e.block_number <= $3 AND NOT EXISTS (SELECT 1 FROM booked b
                    WHERE b.tx_hash = e.tx_hash
                    AND (b.log_index = e.log_index OR b.block_hash <> e.block_hash))
            ), unseen AS (
                SELECT 'booked_unseen' AS verdict, b.settlement_id, CAST(NULL AS TEXT) AS payer,
                    CAST(NULL AS TEXT) AS eip3009_nonce,
                    CAST(NULL AS TEXT) AS splitter_capability_id,
                    CAST(NULL AS BIGINT) AS amount_micro, CAST(NULL AS BIGINT) AS found_micro,
                    b.tx_hash, b.log_index, b.block_number, CAST(NULL AS TEXT) AS record_tx_hash,
                    CAST(NULL AS TEXT) AS split_tx_hash
                FROM booked b
                WHERE b.block_number <= $3 AND NOT EXISTS (SELECT 1 FROM logs e
                    WHERE e.tx_hash = b.tx_hash
                    AND (e.log_index = b.log_index OR e.block_hash <> b.block_hash))
            ), verdicts AS MATERIALIZED (
                SELECT * FROM payments WHERE verdict IS NOT NULL
                UNION ALL SELECT * FROM inflows
                UNION ALL SELECT * FROM records WHERE verdict IS NOT NULL
                UNION ALL SELECT * FROM splits
                UNION ALL SELECT * FROM unbooked
                UNION ALL SELECT * FROM unseen
            ) ",
            $rest
        )
    };
}

/// How many of a verdict there are, and their sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerdictCount {
    /// Which.
    pub verdict: Verdict,
    /// How many.
    pub count: u64,
    /// Sum of their amounts, micro-USDC.
    pub micro: u64,
}

/// One line of the comparison: a payment, or a log or journal that belongs to none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What came of it.
    pub verdict: Verdict,
    /// Which payment, if the ledger has it.
    pub settlement: Option<String>,
    /// Who paid, or whom a log names.
    pub payer: Option<String>,
    /// The authorization.
    pub nonce: Option<String>,
    /// Capability, by its id at the Splitter.
    pub capability: Option<String>,
    /// By the ledger; of what it does not have, by the chain.
    pub amount_micro: Option<i64>,
    /// By the chain, where it differs.
    pub found_micro: Option<i64>,
    /// The pull, or the log.
    pub tx_hash: Option<String>,
    /// Its position in the block.
    pub log_index: Option<i64>,
    /// Its block.
    pub block_number: Option<i64>,
    /// The record.
    pub record_tx_hash: Option<String>,
    /// The split.
    pub split_tx_hash: Option<String>,
}

/// A finding, or, with a number, the sum of a verdict.
#[derive(sqlx::FromRow)]
struct SumRow {
    #[sqlx(flatten)]
    finding: FindingRow,
    number: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct FindingRow {
    verdict: String,
    settlement_id: Option<String>,
    payer: Option<String>,
    eip3009_nonce: Option<String>,
    splitter_capability_id: Option<String>,
    amount_micro: Option<i64>,
    found_micro: Option<i64>,
    tx_hash: Option<String>,
    log_index: Option<i64>,
    block_number: Option<i64>,
    record_tx_hash: Option<String>,
    split_tx_hash: Option<String>,
}

fn verdict(text: &str) -> Result<Verdict> {
    word("verdict", text, Verdict::from_word)
}

impl TryFrom<FindingRow> for Finding {
    type Error = LedgerError;

    fn try_from(row: FindingRow) -> Result<Self> {
        Ok(Self {
            verdict: verdict(&row.verdict)?,
            settlement: row.settlement_id,
            payer: row.payer,
            nonce: row.eip3009_nonce,
            capability: row.splitter_capability_id,
            amount_micro: row.amount_micro,
            found_micro: row.found_micro.filter(|found| Some(*found) != row.amount_micro),
            tx_hash: row.tx_hash,
            log_index: row.log_index,
            block_number: row.block_number,
            record_tx_hash: row.record_tx_hash,
            split_tx_hash: row.split_tx_hash,
        })
    }
}

/// Which Splitter is compared, up to which block.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// Chain.
    pub chain_id: u64,
    /// The Splitter.
    pub splitter: Address,
    /// Its token.
    pub asset: Address,
    /// Last block that counts. What is in a later one is on its way.
    pub up_to: u64,
}

impl Scope {
    pub(super) fn binds(&self) -> Result<(i64, String, i64, String)> {
        let chain = bigint("chain id", self.chain_id)?;
        let up_to = bigint("block number", self.up_to)?;
        Ok((chain, hex(self.splitter), up_to, hex(self.asset)))
    }
}

impl Tx {
    /// Lets this transaction sort and hash in memory: it reads everything there is.
    pub async fn prepare_comparison(&mut self) -> Result<()> {
        if matches!(self, Self::Postgres(_)) {
            execute!(self, "SET LOCAL work_mem = '64MB'")?;
            // Statements of this kind are compiled for longer than they run.
            execute!(self, "SET LOCAL jit = off")?;
        }
        Ok(())
    }

    /// How many payments, logs and journals there are of each verdict, and the first findings of
    /// each, in chain order; what matches is none.
    pub async fn verdicts(
        &mut self,
        scope: &Scope,
        limit: u64,
    ) -> Result<(Vec<VerdictCount>, Vec<Finding>)> {
        const SELECT: &str = verdicts!(
            "SELECT verdict, settlement_id, payer, eip3009_nonce, splitter_capability_id,
                amount_micro, found_micro, tx_hash, log_index, block_number, record_tx_hash,
                split_tx_hash, CAST(NULL AS BIGINT) AS number, place
            FROM (SELECT v.*, row_number() OVER (
                    PARTITION BY verdict ORDER BY block_number, log_index, settlement_id) AS place
                FROM verdicts v WHERE verdict <> 'matched') ranked
            WHERE place <= $5
            UNION ALL
            SELECT verdict, NULL, NULL, NULL, NULL,
                CAST(coalesce(sum(amount_micro), 0) AS BIGINT), NULL, NULL, NULL, NULL, NULL, NULL,
                count(*), 0
            FROM verdicts GROUP BY verdict
            ORDER BY verdict, place"
        );
        let (chain, splitter, up_to, asset) = scope.binds()?;
        let limit = bigint("limit", limit)?;
        let rows = fetch_all!(self, SumRow, SELECT, chain, splitter, up_to, asset, limit)?;
        let (mut counts, mut findings) = (Vec::new(), Vec::new());
        for SumRow { finding, number } in rows {
            match number {
                Some(number) => counts.push(VerdictCount {
                    verdict: verdict(&finding.verdict)?,
                    count: unsigned("count", number)?,
                    micro: unsigned("sum", finding.amount_micro.unwrap_or_default())?,
                }),
                None => findings.push(Finding::try_from(finding)?),
            }
        }
        Ok((counts, findings))
    }

    /// Every payment and every finding, one after the other: there may be more than fit into
    /// memory.
    pub async fn each_verdict<E: From<LedgerError>>(
        &mut self,
        scope: &Scope,
        mut each: impl FnMut(Finding) -> Result<(), E>,
    ) -> Result<(), E> {
        const SELECT: &str = verdicts!("SELECT * FROM verdicts");
        let (chain, splitter, up_to, asset) = scope.binds()?;
        macro_rules! stream {
            ($tx:expr) => {{
                let query = sqlx::query_as::<_, FindingRow>(SELECT);
                let mut rows =
                    query.bind(chain).bind(splitter).bind(up_to).bind(asset).fetch(&mut **$tx);
                while let Some(row) = rows.try_next().await.map_err(LedgerError::from)? {
                    each(Finding::try_from(row)?)?;
                }
            }};
        }
        match self {
            Self::Postgres(tx) => stream!(tx),
            Self::Sqlite(tx) => stream!(tx),
        }
        Ok(())
    }
}
