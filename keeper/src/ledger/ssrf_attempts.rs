//! URLs that were not called because of where they lead. Append-only.

use super::{
    Result, Tx,
    columns::{now, word},
    query::{execute, fetch_all},
};
use crate::outbound::{Field, Reason, Refused};
use chrono::{DateTime, Utc};

/// A URL that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SsrfAttempt {
    /// Whose call led to it, if an agent's did.
    pub agent_id: Option<String>,
    /// Whose URL it is, if a provider's: the namespace.
    pub provider_id: Option<String>,
    /// What it was for.
    pub field: Field,
    /// What and why.
    pub refused: Refused,
    /// When.
    pub at: DateTime<Utc>,
}

#[derive(sqlx::FromRow)]
struct Row {
    agent_id: Option<String>,
    provider_id: Option<String>,
    field_name: String,
    blocked_url: String,
    reason: String,
    at: DateTime<Utc>,
}

impl Tx {
    /// Keeps that a URL was refused.
    pub async fn add_ssrf_attempt(
        &mut self,
        agent_id: Option<&str>,
        provider_id: Option<&str>,
        field: Field,
        refused: &Refused,
    ) -> Result<()> {
        const INSERT: &str = "INSERT INTO ssrf_attempts
            (agent_id, provider_id, field_name, blocked_url, reason, at)
            VALUES ($1, $2, $3, $4, $5, $6)";
        let (field, reason) = (field.as_str(), refused.reason.as_str());
        let url = &refused.blocked_url;
        execute!(self, INSERT, agent_id, provider_id, field, url, reason, now())?;
        Ok(())
    }

    /// Every URL that was refused, oldest first.
    pub async fn ssrf_attempts(&mut self) -> Result<Vec<SsrfAttempt>> {
        const SELECT: &str = "SELECT agent_id, provider_id, field_name, blocked_url, reason, at
            FROM ssrf_attempts ORDER BY id";
        let rows = fetch_all!(self, Row, SELECT)?;
        rows.into_iter()
            .map(|row| {
                Ok(SsrfAttempt {
                    agent_id: row.agent_id,
                    provider_id: row.provider_id,
                    field: word("ssrf_attempts.field_name", &row.field_name, Field::from_word)?,
                    refused: Refused {
                        reason: word("ssrf_attempts.reason", &row.reason, Reason::from_word)?,
                        blocked_url: row.blocked_url,
                    },
                    at: row.at,
                })
            })
            .collect()
    }
}
