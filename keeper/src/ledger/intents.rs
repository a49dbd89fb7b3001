//! Intents: work that a transaction must do, and when it is looked at next.

use super::{
    Lease, LedgerError, Result, Tx,
    closures::unfrozen,
    columns::{address, bigint, hash, hex, moment, now, unsigned, uuid, word},
    query::{execute, fetch_all, fetch_optional},
};
use crate::lifecycle::IntentKind;
use alloy::primitives::{Address, B256, Bytes};
use chrono::TimeDelta;
use std::time::Duration;
use uuid::Uuid;

/// Work for the outbox.
#[derive(Debug, Clone)]
pub struct NewIntent {
    /// Chain.
    pub chain_id: u64,
    /// The Splitter that it concerns.
    pub splitter: Address,
    /// Who must sign.
    pub signer: Address,
    /// What.
    pub kind: IntentKind,
    /// For which payment; a split has none.
    pub settlement: Option<Uuid>,
    /// For which capability.
    pub splitter_capability_id: B256,
    /// Contract to call.
    pub to: Address,
    /// With what.
    pub calldata: Bytes,
    /// Gas limit.
    pub gas_limit: u64,
    /// A pull: not mined before this second, it cannot succeed.
    pub valid_before: Option<u64>,
}

/// Open work as stored.
#[derive(Debug, Clone)]
pub struct Intent {
    /// Id of the row.
    pub id: i64,
    /// How often it was put off because it would have reverted.
    pub deferrals: u64,
    /// What.
    pub kind: IntentKind,
    /// Contract to call.
    pub to: Address,
    /// With what.
    pub calldata: Bytes,
    /// Gas limit.
    pub gas_limit: u64,
    /// A pull: not mined before this second, it cannot succeed.
    pub valid_before: Option<u64>,
}

/// Work that should be on the chain and is not.
#[derive(Debug, Clone)]
pub struct Late {
    /// Id of the row.
    pub id: i64,
    /// A record or a split.
    pub kind: IntentKind,
    /// For which payment; a split has none.
    pub settlement: Option<Uuid>,
    /// At which Splitter.
    pub splitter: Address,
    /// Why it was put off, if it was.
    pub reason: Option<String>,
}

#[derive(sqlx::FromRow)]
struct LateRow {
    id: i64,
    kind: String,
    settlement_id: Option<String>,
    splitter: String,
    reason: Option<String>,
}

#[derive(sqlx::FromRow)]
struct IntentRow {
    id: i64,
    deferrals: i64,
    kind: String,
    to_address: String,
    calldata: Vec<u8>,
    gas_limit: i64,
    valid_before: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct SplitRow {
    id: i64,
    splitter_capability_id: String,
}

#[derive(sqlx::FromRow)]
struct Number {
    number: i64,
}

/// Whether everything that is recorded of a split's capability has its pull on the chain. The
/// Splitter divides all of it at once, and would take what is missing from other people's money.
/// `$intents` names the intent's table.
macro_rules! backed {
    ($intents:literal) => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM x402_settlements u JOIN splitter_events r
                ON r.chain_id = u.chain_id AND r.splitter = u.splitter AND r.account = u.payer
                AND r.eip3009_nonce = u.eip3009_nonce AND r.event_name = 'SettlementRecorded'
            WHERE u.status NOT IN ('facilitator_attested', 'chain_confirmed')
            AND u.chain_id = ",
            $intents,
            ".chain_id AND u.splitter = ",
            $intents,
            ".splitter AND u.splitter_capability_id = ",
            $intents,
            ".splitter_capability_id
            AND NOT EXISTS (SELECT 1 FROM splitter_events p WHERE p.chain_id = r.chain_id
                AND p.splitter = r.splitter AND p.event_name = 'PaymentSplit'
                AND p.splitter_capability_id = r.splitter_capability_id
                AND (p.block_number > r.block_number
                    OR p.block_number = r.block_number AND p.log_index > r.log_index)))"
        )
    };
}
pub(super) use backed;

/// Whether open work is wanted as the chain is now, at a Splitter whose books are not in doubt: a pull while its payment has not come in, by
/// whomever; a record while its pull is on the chain, no record of it is, and nobody holds it; a
/// split while each of its records has its pull. The mirror decides, so that a ledger that has lost what it did does not
/// do it again.
macro_rules! wanted {
    () => {
        concat!(
            unfrozen!("intents"),
            " AND (kind = 'split' AND ",
            backed!("intents"),
            " OR kind = 'pull' AND NOT EXISTS (SELECT 1 FROM x402_settlements s
                WHERE s.id = intents.settlement_id
                AND s.status NOT IN ('settle_pending', 'orphaned'))
            OR kind = 'record' AND EXISTS (SELECT 1 FROM x402_settlements s
                WHERE s.id = intents.settlement_id
                AND s.status IN ('facilitator_attested', 'chain_confirmed')
                AND s.keeper_state = 'recording'
                AND NOT EXISTS (SELECT 1 FROM splitter_events e WHERE e.chain_id = s.chain_id
                    AND e.splitter = s.splitter AND e.event_name = 'SettlementRecorded'
                    AND e.account = s.payer AND e.eip3009_nonce = s.eip3009_nonce)))"
        )
    };
}

impl Tx {
    /// Hands work to the outbox.
    pub async fn add_intent(&mut self, new: &NewIntent) -> Result<()> {
        const INSERT: &str = "INSERT INTO intents
            (chain_id, splitter, signer, kind, settlement_id, splitter_capability_id, to_address,
             calldata, gas_limit, valid_before, state, due_at_ms, created_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'open', $11, $12)";
        let due = self.clock_ms().await?;
        let at = moment(due)?;
        execute!(
            self,
            INSERT,
            bigint("chain id", new.chain_id)?,
            hex(new.splitter),
            hex(new.signer),
            new.kind.as_str(),
            new.settlement.map(|id| id.to_string()),
            hex(new.splitter_capability_id),
            hex(new.to),
            new.calldata.to_vec(),
            bigint("gas limit", new.gas_limit)?,
            new.valid_before.map(|second| bigint("validBefore", second)).transpose()?,
            due,
            at,
        )?;
        Ok(())
    }

    /// Puts the pull of a settlement back to work after its identity was reserved again.
    pub async fn reopen_pull(&mut self, settlement: Uuid) -> Result<bool> {
        const UPDATE: &str = "UPDATE intents SET state = 'open', reason = NULL, deferrals = 0,
            due_at_ms = $1 WHERE settlement_id = $2 AND kind = 'pull' AND state = 'cancelled'";
        let due = self.clock_ms().await?;
        Ok(execute!(self, UPDATE, due, settlement.to_string())? == 1)
    }

    /// Gives up the pull of a settlement that is closed, if it was not begun.
    pub async fn give_up_pull(&mut self, settlement: Uuid) -> Result<()> {
        const UPDATE: &str = "UPDATE intents SET state = 'cancelled',
            reason = 'its payment is closed'
            WHERE settlement_id = $1 AND kind = 'pull' AND state = 'open'";
        execute!(self, UPDATE, settlement.to_string())?;
        Ok(())
    }

    /// Open work of a signer that is due, what has least time left first. A split may take twice as
    /// long as a record, four blocks of Base after its pull instead of two: it counts as due later,
    /// so that splits keep no record waiting, and records no split for ever.
    pub async fn due_intents(
        &mut self,
        chain_id: u64,
        signer: Address,
        limit: u64,
    ) -> Result<Vec<Intent>> {
        const SELECT: &str = concat!(
            "SELECT id, deferrals, kind, to_address, calldata, gas_limit, valid_before
            FROM intents WHERE chain_id = $1 AND signer = $2 AND state = 'open'
            AND due_at_ms <= $3 AND ",
            wanted!(),
            " ORDER BY due_at_ms + CASE kind WHEN 'split' THEN 4000 ELSE 0 END, id LIMIT $4"
        );
        let chain = bigint("chain id", chain_id)?;
        let limit = bigint("limit", limit)?;
        let clock = self.clock_ms().await?;
        let rows = fetch_all!(self, IntentRow, SELECT, chain, hex(signer), clock, limit)?;
        rows.into_iter()
            .map(|row| {
                Ok(Intent {
                    id: row.id,
                    deferrals: unsigned("intents.deferrals", row.deferrals)?,
                    kind: word("intents.kind", &row.kind, IntentKind::from_word)?,
                    to: address("intents.to_address", &row.to_address)?,
                    calldata: row.calldata.into(),
                    gas_limit: unsigned("intents.gas_limit", row.gas_limit)?,
                    valid_before: row
                        .valid_before
                        .map(|second| unsigned("intents.valid_before", second))
                        .transpose()?,
                })
            })
            .collect()
    }

    /// Gives up work that was not begun.
    pub async fn cancel_intent(&mut self, intent: i64, reason: &str) -> Result<()> {
        const UPDATE: &str =
            "UPDATE intents SET state = 'cancelled', reason = $1 WHERE id = $2 AND state = 'open'";
        let rows = execute!(self, UPDATE, reason, intent)?;
        one(rows, intent)
    }

    /// Puts off work that would revert now.
    pub async fn defer_intent(
        &mut self,
        lease: &Lease,
        intent: i64,
        delay: Duration,
        reason: &str,
    ) -> Result<()> {
        const UPDATE: &str = "UPDATE intents SET deferrals = deferrals + 1, due_at_ms = $1,
            reason = $2 WHERE id = $3 AND state = 'open'";
        self.hold_lease(lease).await?;
        let delay = bigint("delay", delay.as_millis())?;
        let due = self.clock_ms().await?.saturating_add(delay);
        let rows = execute!(self, UPDATE, due, reason, intent)?;
        one(rows, intent)
    }

    /// Flags records and splits that were handed over longer than `patience` ago and are not on
    /// the chain; each once. Returns their ids, kinds and what held them up.
    pub async fn flag_late(
        &mut self,
        lease: &Lease,
        chain_id: u64,
        signer: Address,
        patience: TimeDelta,
    ) -> Result<Vec<Late>> {
        const FLAG: &str = concat!(
            "UPDATE intents SET flagged_at = $1 WHERE chain_id = $2 AND signer = $3
            AND state IN ('open', 'claimed') AND kind <> 'pull' AND flagged_at IS NULL
            AND created_at < $4 AND ",
            wanted!(),
            " RETURNING id, kind, settlement_id, splitter, reason"
        );
        self.hold_lease(lease).await?;
        let since = self.clock().await? - patience;
        let chain = bigint("chain id", chain_id)?;
        let rows = fetch_all!(self, LateRow, FLAG, now(), chain, hex(signer), since)?;
        rows.into_iter()
            .map(|row| {
                let settlement = row.settlement_id.as_deref();
                Ok(Late {
                    id: row.id,
                    kind: word("intents.kind", &row.kind, IntentKind::from_word)?,
                    settlement: settlement
                        .map(|id| uuid("intents.settlement_id", id))
                        .transpose()?,
                    splitter: address("intents.splitter", &row.splitter)?,
                    reason: row.reason,
                })
            })
            .collect()
    }

    /// Lets the record of a held payment go on. True when there was one.
    pub async fn reopen_record(&mut self, settlement: Uuid) -> Result<bool> {
        const UPDATE: &str = "UPDATE intents SET state = 'open', reason = NULL, deferrals = 0,
            due_at_ms = $1 WHERE settlement_id = $2 AND kind = 'record'
            AND state IN ('held', 'open') AND NOT EXISTS (SELECT 1 FROM transaction_intents ti
                JOIN transactions t ON t.id = ti.transaction_id
                WHERE ti.intent_id = intents.id AND NOT t.final)";
        let due = self.clock_ms().await?;
        Ok(execute!(self, UPDATE, due, settlement.to_string())? == 1)
    }

    /// Whether the record of a payment was ever handed to the outbox.
    pub async fn has_record(&mut self, settlement: Uuid) -> Result<bool> {
        const SELECT: &str = "SELECT count(*) AS number FROM intents
            WHERE settlement_id = $1 AND kind = 'record'";
        let row = fetch_optional!(self, Number, SELECT, settlement.to_string())?;
        Ok(row.is_some_and(|row| row.number > 0))
    }

    /// Keeps the record of a payment for a human, unless it is on its way already. True when it
    /// was not begun.
    pub async fn hold_record(&mut self, settlement: Uuid, reason: &str) -> Result<bool> {
        const UPDATE: &str = "UPDATE intents SET state = 'held', reason = $1
            WHERE settlement_id = $2 AND kind = 'record' AND state = 'open'";
        Ok(execute!(self, UPDATE, reason, settlement.to_string())? == 1)
    }

    /// Splits that wait for an account nonce, with their capabilities.
    pub async fn open_splits(
        &mut self,
        chain_id: u64,
        splitter: Address,
    ) -> Result<Vec<(i64, B256)>> {
        const SELECT: &str = "SELECT id, splitter_capability_id FROM intents
            WHERE kind = 'split' AND chain_id = $1 AND splitter = $2 AND state = 'open'";
        let chain = bigint("chain id", chain_id)?;
        let rows = fetch_all!(self, SplitRow, SELECT, chain, hex(splitter))?;
        rows.into_iter()
            .map(|row| {
                let column = "intents.splitter_capability_id";
                Ok((row.id, hash(column, &row.splitter_capability_id)?))
            })
            .collect()
    }

    /// Whether a split of this capability is under way: not mined yet, or mined in a block that the
    /// mirror, whose next block is `mirrored`, does not hold yet. In between it has divided what
    /// still looks undivided here.
    pub async fn split_is_pending(
        &mut self,
        chain_id: u64,
        splitter: Address,
        capability: B256,
        mirrored: u64,
    ) -> Result<bool> {
        const SELECT: &str = "SELECT count(*) AS number FROM intents i WHERE i.kind = 'split'
            AND i.chain_id = $1 AND i.splitter = $2 AND i.splitter_capability_id = $3
            AND (i.state IN ('open', 'claimed') OR EXISTS (
                SELECT 1 FROM transaction_intents ti
                JOIN transactions t ON t.id = ti.transaction_id
                WHERE ti.intent_id = i.id AND t.block_number >= $4))";
        let chain = bigint("chain id", chain_id)?;
        let next = bigint("block number", mirrored)?;
        let (at, capability) = (hex(splitter), hex(capability));
        let row = fetch_optional!(self, Number, SELECT, chain, at, capability, next)?;
        Ok(row.is_some_and(|row| row.number > 0))
    }
}

fn one(rows: u64, intent: i64) -> Result<()> {
    if rows == 1 { Ok(()) } else { Err(LedgerError::Conflict(format!("intent {intent}"))) }
}
