//! The ledger: settlements, their events, the outbox, the mirror of the chain's logs and the
//! journal, in PostgreSQL or SQLite.
//!
//! One logical schema, two DDL files per migration (`migrations/`), shared query text in the
//! common subset; what differs (leases, connecting) stands in one place each. Every change happens
//! in a [`Tx`] that the caller opens and commits; none may be open across an RPC or KMS call. A
//! state moves by compare-and-set: a writer that lost a race gets [`LedgerError::Conflict`] and
//! starts over from what it reads then.

mod agents;
mod audit_log;
mod backlog;
mod capability_holds;
mod catalog;
mod closures;
mod columns;
mod comparison;
mod connect;
mod contention;
mod deliveries;
mod events;
mod export;
mod facilitator;
mod finality;
mod flags;
mod foreign;
mod grants;
mod import;
mod intents;
mod journal;
mod leases;
mod lock;
mod mirror;
mod orders;
mod outbox;
mod outbox_view;
mod query;
mod rebuilt;
mod refund_steps;
mod refunds;
mod rereads;
mod reservations;
mod reversals;
mod scan;
mod seals;
mod settlements;
mod sightings;
mod signal;
mod signers;
mod splitter_logs;
mod ssrf_attempts;
mod standing;
mod statements;
mod steps;
mod sums;
mod totals;
mod trace;
mod verdict;
mod webhooks;

pub use agents::AgentRecord;
pub use audit_log::{Action, ActionRecord};
pub use backlog::Backlog;
pub use capability_holds::{CapabilityCalls, CapabilityHold};
pub use catalog::{Column, ColumnKind, Table};
pub use closures::{Closure, ClosureReason};
pub use comparison::{Finding, Scope, VerdictCount};
pub use connect::Ledger;
pub use contention::Contention;
pub use deliveries::DeliveryRecord;
pub use events::TraceEvent;
pub use export::{ExportError, ExportFooter, ExportHeader};
pub use flags::{Flag, FlagRecord};
pub use import::ImportError;
pub use intents::{Intent, NewIntent};
pub use journal::{Account, AccountCode, JournalKind, Posting, Side};
pub use leases::Lease;
pub use mirror::{END, LogRef, MirrorWindow, Payout, Pull, SplitterLog, Stream};
pub use orders::{Order, OrderAction, Outcome};
pub use outbox::{Cost, Envelope, MinedCost, Outgoing, SignerRole, Unsigned, Work};
pub use outbox_view::{AttemptView, TransactionQuery, TransactionView};
pub use query::Tx;
pub use rebuilt::RebuiltSettlement;
pub use refunds::{Refund, RefundQuery, Requested};
pub use rereads::Reread;
pub use reservations::{Identity, NewSettlement, Reservation, Sale};
pub use scan::{AttemptRow, EnvelopeRow, EventRow, JournalRow, LogRow, SettlementRow};
pub use seals::{MAX_SEALED, Seal, Sealed};
pub use settlements::{KeeperEvidence, OpenPayments, Settlement, SettlementQuery, Shares};
pub use sightings::TokenSighting;
pub use signal::{Listener, Topic};
pub use signers::{Quarantine, SignerRecord, Spending};
pub use ssrf_attempts::SsrfAttempt;
pub use standing::{Attribution, LOOK_BACK, Standing};
pub use statements::{
    EscrowLine, PaymentLine, ProviderSums, RefundLine, SplitLine, StatementScope,
};
pub use sums::{CapabilitySums, MirrorSums};
pub use totals::{LedgerTotals, SplitterRecord};
pub use trace::{Trace, TracedLine, TracedSettlement, TracedTransaction};
pub use verdict::Verdict;
pub use webhooks::{NotableEvent, WebhookOutcome, WebhookRecord, WebhookState};

use crate::lifecycle::IllegalStep;

/// Why the ledger could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The database did not answer, or refused.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("database migration: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A newer release was here.
    #[error(
        "the database has schema {found} and this release knows schema {ours} at most; run the newer \
         release, or restore a backup from before it"
    )]
    NewerSchema {
        /// The database's.
        found: i64,
        /// This release's.
        ours: i64,
    },
    /// The schema is old, and the role is not its owner.
    #[error(
        "the schema is not up to date and this role may not change it; run `keeper db migrate` as the \
         owner of the tables, then `keeper db grants`: {0}"
    )]
    MayNotMigrate(sqlx::Error),
    /// The URL names no database that the keeper can use.
    #[error("database url: {0}")]
    Url(String),
    /// The database may lose what it has confirmed.
    #[error("{0}: committed payments could be lost; switch it on")]
    NotDurable(String),
    /// The role may not ask which history of the database this is.
    #[error(
        "the database's role must be allowed to call pg_walfile_name, pg_current_wal_lsn and \
         pg_control_system, or a restored copy could not be told from the original; grant EXECUTE: \
         {0}"
    )]
    NoHistory(sqlx::Error),
    /// Another keeper has this SQLite file open.
    #[error("{0} is in use by another keeper; this one stands by until that one ends")]
    InUse(String),
    /// A stored value is not what the schema promises.
    #[error("{column} holds {value:?}, which is not a {expected}: the ledger was tampered with")]
    Corrupt {
        /// Which column.
        column: &'static str,
        /// What stands there.
        value: String,
        /// What should.
        expected: &'static str,
    },
    /// Somebody else moved the row in between; read again.
    #[error("{0} was changed by somebody else in between")]
    Conflict(String),
    /// This process does not hold the lease any more.
    #[error("the lease {0} is lost")]
    LeaseLost(String),
    /// A number does not fit its column.
    #[error("{what} does not fit the ledger: {value}")]
    OutOfRange {
        /// What it is.
        what: &'static str,
        /// The number.
        value: String,
    },
    /// A message cannot be written as JSON.
    #[error("json: {0}")]
    Json(#[from] serde_json::Error),
    /// A state machine has no such step.
    #[error(transparent)]
    Illegal(#[from] IllegalStep),
}

impl LedgerError {
    /// Whether the same call may succeed later, once the database answers again.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Database(
                sqlx::Error::Io(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::Tls(_)
                | sqlx::Error::WorkerCrashed,
            ) => true,
            // PostgreSQL: connection lost, out of something, stopped by an operator, transaction
            // left idle, a standby that is not promoted. SQLite: I/O error, disk full, cannot open.
            Self::Database(sqlx::Error::Database(error)) => error.code().is_some_and(|code| {
                ["08", "53", "57", "25P0", "55000"].iter().any(|class| code.starts_with(class))
                    || ["10", "13", "14"].contains(&code.as_ref())
            }),
            _ => false,
        }
    }

    /// Whether another daemon has taken over.
    pub const fn is_lease_lost(&self) -> bool {
        matches!(self, Self::LeaseLost(_))
    }

    /// Whether somebody else was at the same rows at the same time: read again and start over.
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Conflict(_) => true,
            // Deadlock and serialization failure on PostgreSQL, busy on SQLite; and an event that
            // somebody appended after our snapshot.
            Self::Database(sqlx::Error::Database(error)) => {
                matches!(error.code().as_deref(), Some("40P01" | "40001" | "5" | "517"))
                    || error.constraint() == Some("settlement_events_settlement_id_n_key")
            }
            _ => false,
        }
    }

    /// Whether somebody else has just inserted the same thing.
    pub fn is_duplicate(&self) -> bool {
        matches!(self, Self::Database(sqlx::Error::Database(error)) if error.is_unique_violation())
    }

    /// Whether the database refused what was asked because it would break the books: a constraint
    /// or one of our triggers. It would be refused again.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::Database(error)) => {
                // PostgreSQL's class 23 and RAISE, SQLite's CONSTRAINT with its extended codes.
                let code = error.code().unwrap_or_default();
                !self.is_conflict()
                    && (code.len() == 5 && code.starts_with("23")
                        || code == "P0001"
                        || code.parse::<u32>().is_ok_and(|code| code & 0xff == 19))
            }
            Self::OutOfRange { .. } => true,
            _ => false,
        }
    }
}

/// Result of a ledger call.
pub type Result<T, E = LedgerError> = std::result::Result<T, E>;
