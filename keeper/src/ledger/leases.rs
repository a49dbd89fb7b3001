//! Leases: who may allocate, sign and persist. Time is the database's clock, because processes'
//! clocks differ; this is the one place where the two databases' SQL does.

use super::{
    Ledger, LedgerError, Result, Tx,
    columns::{bigint, hex, moment, now, unsigned},
    query::{execute, fetch_optional},
};
use crate::failpoint::Point;
use alloy::primitives::Address;
use chrono::{DateTime, Utc};
use std::time::Duration;
use uuid::Uuid;

/// The right to allocate, sign and persist, as long as its epoch is the newest.
#[derive(Debug, Clone)]
pub struct Lease {
    /// What is leased.
    pub name: String,
    /// Who holds it.
    pub holder: String,
    /// Rises by one with every holder.
    pub epoch: u64,
}

#[derive(sqlx::FromRow)]
struct Origin {
    origin: String,
}

#[derive(sqlx::FromRow)]
struct Number {
    number: i64,
}

/// Which history of the database this is: its cluster, and how often a copy of it was promoted or
/// recovered. Both functions may be called by everybody unless somebody has revoked it.
macro_rules! history {
    () => {
        "(SELECT system_identifier || ':' || left(pg_walfile_name(pg_current_wal_lsn()), 8)
            FROM pg_control_system())"
    };
}

impl Ledger {
    /// Takes a lease that is free or has run out. `None` when somebody holds it.
    ///
    /// When the database is not the one in which the last holder wrote, but an older copy, the
    /// chain's signers go into quarantine in the same transaction: envelopes may be on their way
    /// that this ledger knows nothing of. PostgreSQL tells by its timeline; beside a SQLite file
    /// stands a note of the last holder.
    pub async fn acquire_lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<Lease>> {
        let mut tx = self.begin().await?;
        let (before, after) = match self.lock_file() {
            None => {
                let history = tx.history().await?;
                (history.clone(), history)
            }
            Some(file) => (file.note(name)?.unwrap_or_default(), Uuid::new_v4().to_string()),
        };
        let lease = tx.acquire_lease(name, holder, ttl, (&before, &after)).await?;
        let file = self.lock_file().filter(|_| lease.is_some());
        if let Some(file) = file {
            // Whoever dies around the commit leaves both, or the next one would see an old copy.
            file.set_note(name, &format!("{before} {after}"))?;
        }
        tx.commit(Point::Acquire).await?;
        if let Some(file) = file {
            file.set_note(name, &after)?;
        }
        Ok(lease)
    }
}

impl Tx {
    /// Which history of the database this is.
    pub(super) async fn history(&mut self) -> Result<String> {
        const SELECT: &str = concat!("SELECT ", history!(), " AS origin");
        let row = fetch_optional!(self, Origin, SELECT).map_err(|error| {
            let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
            // insufficient_privilege, undefined_function
            match code.as_deref() {
                Some("42501" | "42883") => LedgerError::NoHistory(error),
                _ => error.into(),
            }
        })?;
        row.map(|row| row.origin).ok_or_else(|| sqlx::Error::RowNotFound.into())
    }

    async fn acquire_lease(
        &mut self,
        name: &str,
        holder: &str,
        ttl: Duration,
        (before, after): (&str, &str),
    ) -> Result<Option<Lease>> {
        const KNOWN: &str = "SELECT origin FROM leases WHERE name = $1";
        const ACQUIRE: &str = "INSERT INTO leases (name, holder, epoch, expires_at_ms, origin)
            VALUES ($1, $2, 1, $3, $5) ON CONFLICT (name) DO UPDATE SET holder = excluded.holder,
            epoch = leases.epoch + 1, expires_at_ms = excluded.expires_at_ms,
            origin = excluded.origin
            WHERE leases.expires_at_ms < $4 RETURNING epoch AS number";
        const QUARANTINE: &str = "UPDATE signers SET quarantined_at = $1, quarantine_end = NULL,
            quarantine_reason = $2, closed = 'quarantine'
            WHERE 'chain:' || CAST(chain_id AS TEXT) = $3";
        let ttl = bigint("lease time", ttl.as_millis())?;
        let time = self.clock_ms().await?;
        let expiry = time.saturating_add(ttl);
        let known = fetch_optional!(self, Origin, KNOWN, name)?;
        let row = fetch_optional!(self, Number, ACQUIRE, name, holder, expiry, time, after)?;
        let Some(row) = row else { return Ok(None) };
        if known.is_some_and(|known| !before.split(' ').any(|note| note == known.origin)) {
            tracing::error!(
                lease = name,
                "ALARM: the database is not the one in which the last leader wrote: quarantine"
            );
            let reason = "the database was restored, or a copy of it promoted";
            execute!(self, QUARANTINE, now(), reason, name)?;
        }
        let epoch = unsigned("leases.epoch", row.number)?;
        Ok(Some(Lease { name: name.to_owned(), holder: holder.to_owned(), epoch }))
    }

    /// Extends a lease.
    ///
    /// # Errors
    /// [`LedgerError::LeaseLost`] when somebody else has taken it, or the database is another copy.
    pub async fn renew_lease(&mut self, lease: &Lease, ttl: Duration) -> Result<()> {
        const RENEW: &str = "UPDATE leases SET expires_at_ms = $1
            WHERE name = $2 AND holder = $3 AND epoch = $4";
        self.hold_lease(lease).await?;
        let ttl = bigint("lease time", ttl.as_millis())?;
        let epoch = bigint("epoch", lease.epoch)?;
        let expiry = self.clock_ms().await?.saturating_add(ttl);
        if execute!(self, RENEW, expiry, &lease.name, &lease.holder, epoch)? == 1 {
            Ok(())
        } else {
            Err(LedgerError::LeaseLost(lease.name.clone()))
        }
    }

    /// Whether somebody holds a lease right now.
    pub async fn lease_is_held(&mut self, name: &str) -> Result<bool> {
        const SELECT: &str =
            "SELECT count(*) AS number FROM leases WHERE name = $1 AND expires_at_ms > $2";
        let now = self.clock_ms().await?;
        let row = fetch_optional!(self, Number, SELECT, name, now)?;
        Ok(row.is_some_and(|row| row.number > 0))
    }

    /// Whether somebody holds a lease right now and has taken these signers over: before, it is not
    /// known whether they may begin anything.
    pub async fn is_led(
        &mut self,
        name: &str,
        chain_id: u64,
        signers: [Address; 2],
    ) -> Result<bool> {
        const SELECT: &str = "SELECT count(*) AS number FROM leases l
            JOIN signers s ON s.epoch = l.epoch AND s.chain_id = $3 AND s.address IN ($4, $5)
            WHERE l.name = $1 AND l.expires_at_ms > $2";
        let now = self.clock_ms().await?;
        let chain = bigint("chain id", chain_id)?;
        let [first, second] = signers.map(hex);
        let row = fetch_optional!(self, Number, SELECT, name, now, chain, first, second)?;
        // With one key for both there is one to take over.
        let needed = if signers[0] == signers[1] { 1 } else { 2 };
        Ok(row.is_some_and(|row| row.number == needed))
    }

    /// Gives a lease back, so that another process need not wait for its end.
    pub async fn release_lease(&mut self, lease: &Lease) -> Result<()> {
        const RELEASE: &str = "UPDATE leases SET expires_at_ms = 0
            WHERE name = $1 AND holder = $2 AND epoch = $3";
        let epoch = bigint("epoch", lease.epoch)?;
        execute!(self, RELEASE, &lease.name, &lease.holder, epoch)?;
        Ok(())
    }

    /// Locks the lease until this transaction ends and checks that it is still ours, in the same
    /// copy of the database. Every write of a background service begins with this.
    ///
    /// # Errors
    /// [`LedgerError::LeaseLost`].
    pub async fn hold_lease(&mut self, lease: &Lease) -> Result<()> {
        const SELECT: &str = "SELECT epoch AS number FROM leases
            WHERE name = $1 AND holder = $2 AND epoch = $3";
        const SELECT_FOR_SHARE: &str = concat!(
            "SELECT epoch AS number FROM leases
            WHERE name = $1 AND holder = $2 AND epoch = $3 AND origin = ",
            history!(),
            " FOR SHARE"
        );
        // On SQLite this transaction is the only writer already.
        let sql = if matches!(self, Self::Postgres(_)) { SELECT_FOR_SHARE } else { SELECT };
        let epoch = bigint("epoch", lease.epoch)?;
        fetch_optional!(self, Number, sql, &lease.name, &lease.holder, epoch)?
            .map(drop)
            .ok_or_else(|| LedgerError::LeaseLost(lease.name.clone()))
    }

    /// The database's clock: processes' clocks differ.
    pub async fn clock(&mut self) -> Result<DateTime<Utc>> {
        moment(self.clock_ms().await?)
    }

    /// The database's clock, milliseconds since 1970.
    pub(super) async fn clock_ms(&mut self) -> Result<i64> {
        const POSTGRES: &str =
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::BIGINT AS number";
        const SQLITE: &str = "SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS number";
        let sql = if matches!(self, Self::Postgres(_)) { POSTGRES } else { SQLITE };
        let row = fetch_optional!(self, Number, sql)?;
        row.map(|row| row.number).ok_or_else(|| sqlx::Error::RowNotFound.into())
    }
}
