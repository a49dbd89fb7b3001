//! Every step of a refund: asked for, decided, proposed, paid; each with its journal and its events.

use super::{
    AccountCode, JournalKind, LedgerError, LogRef, Posting, Refund, RefundQuery, Requested, Result,
    Settlement, Stream, Tx,
    audit_log::Action,
    columns::{bigint, hex, now, unsigned},
    query::{execute, fetch_optional},
};
use crate::lifecycle::{
    Delivery, DeliveryEvent, Failure, HoldReason, RefundEvent, RefundHistory, RefundPolicy,
    RefundState, Status,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

/// Over which an agent's refunds are counted.
const DAY: TimeDelta = TimeDelta::hours(24);
/// Over which what the hub gives back is summed up.
const WEEK: TimeDelta = TimeDelta::days(7);

#[derive(sqlx::FromRow)]
struct Id {
    id: String,
}

#[derive(sqlx::FromRow)]
struct Number {
    number: i64,
}

impl Tx {
    /// Limits hold for all Splitters together: who counts, and then writes, does so alone. On SQLite
    /// this transaction is the only writer anyway.
    async fn alone_with_refunds(&mut self) -> Result<()> {
        const LOCK: &str = "SELECT 1 FROM splitters ORDER BY chain_id, address FOR NO KEY UPDATE";
        if matches!(self, Self::Postgres(_)) {
            execute!(self, LOCK)?;
        }
        Ok(())
    }

    /// Asks for all of a payment back, once. The policy decides whether it is owed at once or held;
    /// what its agent never came back for is always held.
    ///
    /// # Errors
    /// [`LedgerError::Conflict`] when its delivery changes in this very moment.
    pub async fn request_refund(
        &mut self,
        settlement: Uuid,
        reason: &str,
        policy: &RefundPolicy,
    ) -> Result<Requested> {
        const INSERT: &str = "INSERT INTO x402_refund_log
            (id, settlement_id, chain_id, splitter, agent_id, payer, provider, amount_micro, reason,
             state, hold_reason, requested_at, decided_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
        self.alone_with_refunds().await?;
        if let Some(known) = self.refunds(RefundQuery::OfSettlement(settlement)).await?.pop() {
            return Ok(Requested::Known(known));
        }
        let paid = self.settlement(settlement).await?;
        let Some(paid) = paid.filter(|paid| paid.status == Status::ChainConfirmed) else {
            return Ok(Requested::NotPaid);
        };
        if !self.end_delivery(&paid).await? {
            return Ok(Requested::NotFinished);
        }
        let agent = paid.agent_id.clone().unwrap_or_else(|| hex(paid.payer));
        let before = self.refund_history(&agent).await?;
        let is_forgone = self.delivery(paid.id).await?.is_some_and(|delivery| {
            delivery.state == Delivery::Failed && delivery.failure == Some(Failure::Forgone)
        });
        let hold =
            if is_forgone { Some(HoldReason::Forgone) } else { policy.hold(paid.amount, before) };
        let state = if hold.is_some() { RefundState::Held } else { RefundState::Approved };
        let (id, at) = (Uuid::new_v4(), self.clock().await?);
        execute!(
            self,
            INSERT,
            id.to_string(),
            paid.id.to_string(),
            bigint("chain id", paid.chain_id)?,
            hex(paid.pay_to),
            &agent,
            hex(paid.payer),
            hex(paid.terms.map(|terms| terms.provider).unwrap_or_default()),
            paid.amount.column(),
            reason,
            state.as_str(),
            hold.map(HoldReason::as_str),
            at,
            hold.is_none().then_some(at),
        )?;
        let body = json!({
            "refund": id,
            "amount_micro": paid.amount,
            "reason": reason,
            "agent_id": agent,
            "hold_reason": hold.map(HoldReason::as_str),
        });
        self.append_event(paid.id, paid.trace_id, "refund.request", state.as_str(), &body).await?;
        let place = Some((paid.chain_id, paid.pay_to));
        self.log_action(Action::RefundRequested, place, Some(paid.id), &body).await?;
        if let Some(hold) = hold {
            let body = json!({
                "refund": id, "agent_id": agent, "hold_reason": hold.as_str(),
                "agent_day": before.agent_day, "week_micro": before.week_micro,
            });
            self.log_action(Action::RefundHeld, place, Some(paid.id), &body).await?;
        } else {
            self.owe(&paid).await?;
        }
        let asked = self.refund(id).await?;
        Ok(Requested::New(asked.ok_or(sqlx::Error::RowNotFound)?))
    }

    /// Makes sure that the provider is not called for this payment any more. False when it may be.
    async fn end_delivery(&mut self, paid: &Settlement) -> Result<bool> {
        const UPDATE: &str = "UPDATE deliveries SET state = $1
            WHERE settlement_id = $2 AND state = $3 AND attempts = $4";
        let Some(known) = self.delivery(paid.id).await? else { return Ok(false) };
        match known.state {
            Delivery::None | Delivery::Calling => Ok(false),
            Delivery::Delivered | Delivery::Failed => Ok(true),
            Delivery::Unknown => {
                let (from, to) = (known.state, known.state.step(DeliveryEvent::Refund, false)?);
                let attempts = bigint("attempts", known.attempts)?;
                let id = paid.id.to_string();
                if execute!(self, UPDATE, to.as_str(), &id, from.as_str(), attempts)? != 1 {
                    return Err(LedgerError::Conflict(format!("delivery of payment {}", paid.id)));
                }
                let body = json!({"attempt": known.attempts, "refund_due": true});
                let kind = format!("delivery.{}", DeliveryEvent::Refund);
                self.append_event(paid.id, paid.trace_id, &kind, to.as_str(), &body).await?;
                Ok(true)
            }
        }
    }

    async fn refund_history(&mut self, agent: &str) -> Result<RefundHistory> {
        const DAY_COUNT: &str = "SELECT count(*) AS number FROM x402_refund_log
            WHERE agent_id = $1 AND requested_at > $2";
        const WEEK_SUM: &str = "SELECT CAST(coalesce(sum(amount_micro), 0) AS BIGINT) AS number
            FROM x402_refund_log
            WHERE state IN ('approved', 'proposed', 'paid') AND decided_at > $1";
        let clock = self.clock().await?;
        let day = fetch_optional!(self, Number, DAY_COUNT, agent, clock - DAY)?;
        let week = fetch_optional!(self, Number, WEEK_SUM, clock - WEEK)?;
        Ok(RefundHistory {
            agent_day: unsigned("x402_refund_log", day.map_or(0, |day| day.number))?,
            week_micro: unsigned("x402_refund_log", week.map_or(0, |week| week.number))?,
        })
    }

    /// Books what is owed, and has the treasury's Transfers looked at from the payment on: whoever
    /// pays a refund may do so before we know that it is owed.
    async fn owe(&mut self, paid: &Settlement) -> Result<()> {
        const JOURNAL: &str = "INSERT INTO journals
            (id, chain_id, splitter, kind, settlement_id, at) VALUES ($1, $2, $3, $4, $5, $6)";
        const OTHERS: &str = "SELECT count(*) AS number FROM x402_refund_log
            WHERE chain_id = $1 AND splitter = $2 AND state IN ('approved', 'proposed')
            AND settlement_id <> $3";
        let (chain, at) = (bigint("chain id", paid.chain_id)?, hex(paid.pay_to));
        let (journal, settlement) = (Uuid::new_v4().to_string(), paid.id.to_string());
        let postings = [
            Posting::debit(AccountCode::RefundExpense, paid.amount),
            Posting::credit(AccountCode::Refund(paid.payer), paid.amount),
        ];
        self.write_postings(&journal, chain, paid.pay_to, &postings).await?;
        let kind = JournalKind::RefundDue.as_str();
        execute!(self, JOURNAL, &journal, chain, &at, kind, &settlement, now())?;
        let since = paid.pull.map_or(0, |pull| pull.block_number);
        let others = fetch_optional!(self, Number, OTHERS, chain, &at, &settlement)?;
        let others = others.map_or(0, |others| others.number);
        let next = self.cursor(paid.chain_id, paid.pay_to, Stream::Refunds).await?;
        // Where nobody waits the cursor stands still, and may be long behind.
        if others == 0 || next.is_none_or(|next| next > since) {
            self.set_cursor(paid.chain_id, paid.pay_to, Stream::Refunds, since, None).await?;
        }
        Ok(())
    }

    /// Reverses what [`Tx::owe`] has booked.
    async fn owe_no_more(&mut self, refund: &Refund) -> Result<()> {
        const SELECT: &str =
            "SELECT id FROM journals WHERE settlement_id = $1 AND kind = 'refund_due'";
        const JOURNAL: &str = "INSERT INTO journals
            (id, chain_id, splitter, kind, settlement_id, reverses, at)
            VALUES ($1, $2, $3, $4, $5, $6, $7)";
        let settlement = refund.settlement.to_string();
        let due = fetch_optional!(self, Id, SELECT, &settlement)?
            .ok_or_else(|| LedgerError::Conflict(format!("journal of refund {}", refund.id)))?;
        let (chain, journal) = (bigint("chain id", refund.chain_id)?, Uuid::new_v4().to_string());
        let postings = [
            Posting::debit(AccountCode::Refund(refund.payer), refund.amount),
            Posting::credit(AccountCode::RefundExpense, refund.amount),
        ];
        self.write_postings(&journal, chain, refund.splitter, &postings).await?;
        let (at, kind) = (hex(refund.splitter), JournalKind::RefundDenied.as_str());
        execute!(self, JOURNAL, &journal, chain, at, kind, &settlement, due.id, now())?;
        Ok(())
    }

    /// What a human does with a refund: approve, deny, propose. It is paid by [`Tx::pay_refund`]
    /// only.
    ///
    /// # Errors
    /// [`LedgerError::Illegal`] when the machine has no such step, [`LedgerError::Conflict`] when
    /// the refund is not any more as `known` says.
    pub async fn step_refund(
        &mut self,
        known: &Refund,
        event: RefundEvent,
        note: Option<&str>,
    ) -> Result<RefundState> {
        const DECIDE: &str = "UPDATE x402_refund_log SET state = $1, note = $2, decided_at = $3
            WHERE id = $4 AND state = $5";
        const PROPOSE: &str = "UPDATE x402_refund_log SET state = $1, proposed_at = $2
            WHERE id = $3 AND state = $4";
        self.alone_with_refunds().await?;
        let state = known.state.step(event)?;
        let (id, from, to) = (known.id.to_string(), known.state.as_str(), state.as_str());
        let clock = self.clock().await?;
        let (rows, action) = match event {
            RefundEvent::Approve => {
                (execute!(self, DECIDE, to, note, clock, &id, from)?, Action::RefundApproved)
            }
            RefundEvent::Deny => {
                (execute!(self, DECIDE, to, note, clock, &id, from)?, Action::RefundDenied)
            }
            RefundEvent::Propose => {
                (execute!(self, PROPOSE, to, clock, &id, from)?, Action::RefundProposed)
            }
            RefundEvent::Pay => {
                return Err(LedgerError::Conflict(format!("refund {id} without its Transfer")));
            }
        };
        self.moved(known, rows)?;
        let paid = self.paid_for(known).await?;
        match event {
            RefundEvent::Approve => self.owe(&paid).await?,
            RefundEvent::Deny if known.state.is_owed() => self.owe_no_more(known).await?,
            _ => {}
        }
        let body = json!({"refund": known.id, "note": note});
        self.tell(&paid, event, state, action, &body).await?;
        Ok(state)
    }

    /// The treasury has paid a refund, in that block.
    ///
    /// # Errors
    /// As [`Tx::step_refund`]; and the database refuses a Transfer that has paid another one.
    pub async fn pay_refund(
        &mut self,
        known: &Refund,
        by: &LogRef,
        when: DateTime<Utc>,
    ) -> Result<()> {
        const UPDATE: &str = "UPDATE x402_refund_log SET state = $1, paid_at = $2, tx_hash = $3,
            log_index = $4, block_number = $5, block_hash = $6 WHERE id = $7 AND state = $8";
        let state = known.state.step(RefundEvent::Pay)?;
        let rows = execute!(
            self,
            UPDATE,
            state.as_str(),
            when,
            hex(by.tx_hash),
            bigint("log index", by.log_index)?,
            bigint("block number", by.block_number)?,
            hex(by.block_hash),
            known.id.to_string(),
            known.state.as_str(),
        )?;
        self.moved(known, rows)?;
        let postings = [
            Posting::debit(AccountCode::Refund(known.payer), known.amount),
            Posting::credit(AccountCode::RefundTreasury, known.amount),
        ];
        let (kind, settlement) = (JournalKind::RefundPaid, Some(known.settlement));
        self.post(known.chain_id, known.splitter, kind, settlement, by, &postings).await?;
        let paid = self.paid_for(known).await?;
        let body = json!({"refund": known.id, "amount_micro": known.amount, "at": by});
        self.tell(&paid, RefundEvent::Pay, state, Action::RefundPaid, &body).await
    }

    fn moved(&self, known: &Refund, rows: u64) -> Result<()> {
        if rows == 1 {
            Ok(())
        } else {
            Err(LedgerError::Conflict(format!(
                "refund {} is not {} any more",
                known.id, known.state
            )))
        }
    }

    async fn paid_for(&mut self, refund: &Refund) -> Result<Settlement> {
        let paid = self.settlement(refund.settlement).await?;
        paid.ok_or_else(|| LedgerError::Conflict(format!("payment {}", refund.settlement)))
    }

    /// Into the payment's events and the audit log.
    async fn tell(
        &mut self,
        paid: &Settlement,
        event: RefundEvent,
        state: RefundState,
        action: Action,
        body: &serde_json::Value,
    ) -> Result<()> {
        let kind = format!("refund.{event}");
        self.append_event(paid.id, paid.trace_id, &kind, state.as_str(), body).await?;
        let place = Some((paid.chain_id, paid.pay_to));
        self.log_action(action, place, Some(paid.id), body).await?;
        Ok(())
    }
}
