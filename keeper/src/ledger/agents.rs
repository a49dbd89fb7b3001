//! Agents with credentials, and what is counted of them.
//!
//! What is counted is of the last minutes: it is pruned as it grows, one agent at a time.

use super::{
    Result, Tx,
    audit_log::Action,
    columns::{bigint, hash, hex, now, unsigned},
    query::{execute, fetch_all, fetch_optional},
};
use alloy::primitives::B256;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::json;

/// How long a provenance's nonce is kept. One that was sent 300 seconds early is good for 600 seconds
/// after it was seen, and clocks differ.
const NONCES_KEPT: TimeDelta = TimeDelta::seconds(900);

/// An agent, without its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AgentRecord {
    /// Its id.
    pub agent_id: String,
    /// What the operator calls it.
    pub name: String,
    /// Since when.
    pub created_at: DateTime<Utc>,
    /// Since when its key is good for nothing.
    pub revoked_at: Option<DateTime<Utc>>,
    /// Calls that were paid and served.
    pub served: u64,
}

#[derive(sqlx::FromRow)]
struct Row {
    agent_id: String,
    name: String,
    created_at: DateTime<Utc>,
    revoked_at: Option<DateTime<Utc>>,
    served: i64,
}

#[derive(sqlx::FromRow)]
struct Key {
    key_hash: String,
}

#[derive(sqlx::FromRow)]
struct Number {
    number: i64,
}

#[derive(sqlx::FromRow)]
struct Moment {
    at: DateTime<Utc>,
}

impl Tx {
    /// Enters an agent. Of its key only a hash is kept.
    ///
    /// # Errors
    /// When there is one of that id.
    pub async fn add_agent(&mut self, agent_id: &str, name: &str, key_hash: B256) -> Result<()> {
        const INSERT: &str = "INSERT INTO agents (agent_id, name, key_hash, created_at)
            VALUES ($1, $2, $3, $4)";
        execute!(self, INSERT, agent_id, name, hex(key_hash), now())?;
        let detail = json!({"agent_id": agent_id, "name": name});
        self.log_action(Action::AgentAdded, None, None, &detail).await?;
        Ok(())
    }

    /// Takes an agent's key away, for good and at once. False when there is no such agent, or it has
    /// none any more.
    pub async fn revoke_agent(&mut self, agent_id: &str, reason: &str) -> Result<bool> {
        const UPDATE: &str = "UPDATE agents SET revoked_at = $1, revoked_why = $2
            WHERE agent_id = $3 AND revoked_at IS NULL";
        if execute!(self, UPDATE, now(), reason, agent_id)? == 0 {
            return Ok(false);
        }
        let detail = json!({"agent_id": agent_id, "reason": reason});
        self.log_action(Action::AgentRevoked, None, None, &detail).await?;
        Ok(true)
    }

    /// Every agent that was ever entered, oldest first.
    pub async fn agents(&mut self) -> Result<Vec<AgentRecord>> {
        const SELECT: &str = "SELECT a.agent_id, a.name, a.created_at, a.revoked_at,
                (SELECT count(*) FROM x402_settlements s
                    JOIN deliveries d ON d.settlement_id = s.id
                    WHERE s.agent_id = a.agent_id AND d.state = 'delivered') AS served
            FROM agents a ORDER BY a.created_at, a.agent_id";
        let rows = fetch_all!(self, Row, SELECT)?;
        rows.into_iter()
            .map(|row| {
                Ok(AgentRecord {
                    agent_id: row.agent_id,
                    name: row.name,
                    created_at: row.created_at,
                    revoked_at: row.revoked_at,
                    served: unsigned("deliveries", row.served)?,
                })
            })
            .collect()
    }

    /// The hash of an agent's key, unless it was revoked.
    pub async fn agent_key(&mut self, agent_id: &str) -> Result<Option<B256>> {
        const SELECT: &str =
            "SELECT key_hash FROM agents WHERE agent_id = $1 AND revoked_at IS NULL";
        let row = fetch_optional!(self, Key, SELECT, agent_id)?;
        row.map(|row| hash("agents.key_hash", &row.key_hash)).transpose()
    }

    /// Calls of an agent that were paid and served, counted up to `most`.
    pub async fn served_calls(&mut self, agent_id: &str, most: u64) -> Result<u64> {
        const SELECT: &str = "SELECT count(*) AS number FROM (
            SELECT s.id FROM x402_settlements s JOIN deliveries d ON d.settlement_id = s.id
            WHERE s.agent_id = $1 AND d.state = 'delivered' LIMIT $2) AS served";
        let row = fetch_optional!(self, Number, SELECT, agent_id, bigint("most calls", most)?)?;
        unsigned("deliveries", row.map_or(0, |row| row.number))
    }

    /// Uses up a nonce of an agent's provenance: false when it was used in the last minutes. Whoever
    /// uses the same one waits until this transaction ends.
    pub async fn use_nonce(&mut self, agent_id: &str, nonce: &str) -> Result<bool> {
        const PRUNE: &str = "DELETE FROM provenance_nonces WHERE agent_id = $1 AND seen_at < $2";
        const INSERT: &str = "INSERT INTO provenance_nonces (agent_id, nonce, seen_at)
            VALUES ($1, $2, $3) ON CONFLICT (agent_id, nonce) DO NOTHING";
        let now = self.clock().await?;
        let kept = now.checked_sub_signed(NONCES_KEPT).unwrap_or(now);
        execute!(self, PRUNE, agent_id, kept)?;
        Ok(execute!(self, INSERT, agent_id, nonce, now)? == 1)
    }

    /// Until this transaction ends nobody else counts calls of this agent.
    pub async fn lock_calls(&mut self, agent_id: &str) -> Result<()> {
        const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1, 312))";
        // On SQLite this is the only writer.
        if matches!(self, Self::Postgres(_)) {
            execute!(self, LOCK, agent_id)?;
        }
        Ok(())
    }

    /// Counts a call of an agent, and forgets those up to `since`.
    pub async fn count_call(
        &mut self,
        agent_id: &str,
        at: DateTime<Utc>,
        since: DateTime<Utc>,
    ) -> Result<()> {
        const PRUNE: &str = "DELETE FROM agent_calls WHERE agent_id = $1 AND at <= $2";
        const INSERT: &str = "INSERT INTO agent_calls (agent_id, at) VALUES ($1, $2)";
        execute!(self, PRUNE, agent_id, since)?;
        execute!(self, INSERT, agent_id, at)?;
        Ok(())
    }

    /// When an agent made the call that is `last` calls back, if that was after `since`.
    pub async fn call_before_last(
        &mut self,
        agent_id: &str,
        since: DateTime<Utc>,
        last: u32,
    ) -> Result<Option<DateTime<Utc>>> {
        const SELECT: &str = "SELECT at FROM agent_calls WHERE agent_id = $1 AND at > $2
            ORDER BY at DESC LIMIT 1 OFFSET $3";
        let row = fetch_optional!(self, Moment, SELECT, agent_id, since, skipped(last))?;
        Ok(row.map(|row| row.at))
    }

    /// The same for the payments that were reserved for an agent.
    pub async fn payment_before_last(
        &mut self,
        agent_id: &str,
        since: DateTime<Utc>,
        last: u32,
    ) -> Result<Option<DateTime<Utc>>> {
        const SELECT: &str = "SELECT reserved_at AS at FROM x402_settlements
            WHERE agent_id = $1 AND reserved_at > $2
            ORDER BY reserved_at DESC LIMIT 1 OFFSET $3";
        let row = fetch_optional!(self, Moment, SELECT, agent_id, since, skipped(last))?;
        Ok(row.map(|row| row.at))
    }
}

/// Rows before the one that is `last` back.
fn skipped(last: u32) -> i64 {
    i64::from(last.saturating_sub(1))
}
