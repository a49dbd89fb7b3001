//! The two switches that an operator has at run time (S06 6.3, R-110, R-113).

use super::{
    LedgerError, Result, Tx,
    audit_log::Action,
    columns::{now, word},
    query::{execute, fetch_all, fetch_optional},
};
use crate::lifecycle::words;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;

/// A switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Flag {
    /// Payments are taken. Off, what was already taken is still recorded and split (C-31).
    X402Enabled,
    /// Transactions are signed. Off, everything is watched and nothing is signed.
    X402KeeperEnabled,
}

words!(Flag {
    X402Enabled => "x402_enabled",
    X402KeeperEnabled => "x402_keeper_enabled",
});

/// A switch as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FlagRecord {
    /// Which.
    pub flag: Flag,
    /// On or off.
    pub value: bool,
    /// Why, in the operator's words.
    pub reason: String,
    /// Since when.
    pub updated_at: DateTime<Utc>,
}

#[derive(sqlx::FromRow)]
struct Row {
    flag: String,
    value: bool,
    reason: String,
    updated_at: DateTime<Utc>,
}

impl Tx {
    /// Both switches.
    pub async fn flags(&mut self) -> Result<Vec<FlagRecord>> {
        const SELECT: &str =
            "SELECT flag, value, reason, updated_at FROM feature_flags ORDER BY flag";
        let rows = fetch_all!(self, Row, SELECT)?;
        rows.into_iter()
            .map(|row| {
                Ok(FlagRecord {
                    flag: word("feature_flags.flag", &row.flag, Flag::from_word)?,
                    value: row.value,
                    reason: row.reason,
                    updated_at: row.updated_at,
                })
            })
            .collect()
    }

    /// Whether a switch is on. One that is missing is off.
    pub async fn flag(&mut self, flag: Flag) -> Result<bool> {
        #[derive(sqlx::FromRow)]
        struct Value {
            value: bool,
        }
        const SELECT: &str = "SELECT value FROM feature_flags WHERE flag = $1";
        let row = fetch_optional!(self, Value, SELECT, flag.as_str())?;
        Ok(row.is_some_and(|row| row.value))
    }

    /// Moves a switch, and logs who says why.
    ///
    /// # Errors
    /// [`LedgerError::Conflict`] when its row is gone.
    pub async fn set_flag(&mut self, flag: Flag, value: bool, reason: &str) -> Result<()> {
        const UPDATE: &str =
            "UPDATE feature_flags SET value = $1, reason = $2, updated_at = $3 WHERE flag = $4";
        if execute!(self, UPDATE, value, reason, now(), flag.as_str())? != 1 {
            return Err(LedgerError::Conflict(format!("flag {flag}")));
        }
        let detail = json!({"flag": flag, "value": value, "reason": reason});
        self.log_action(Action::FlagSet, None, None, &detail).await?;
        Ok(())
    }
}
