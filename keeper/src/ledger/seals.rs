//! Seals: events get positions without gaps, and ranges of positions a root, so that a missing event
//! is found, not only a changed one.

use super::{
    LedgerError, Result, Tx,
    columns::{bigint, hash, hex, now, unsigned},
    leases::Lease,
    query::{execute, fetch_all, fetch_optional},
};
use crate::lifecycle::{SealHasher, event_hash};
use alloy::primitives::B256;
use chrono::{DateTime, Utc};

/// Most events under one seal, and in one SQL transaction.
pub const MAX_SEALED: u64 = 1_000;

/// A range of positions under one root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// First position.
    pub from: u64,
    /// Last position.
    pub to: u64,
    /// Over the root before and every event.
    pub root: B256,
}

/// What a round of sealing came to.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// The new seal, if there was an event to seal.
    pub seal: Option<Seal>,
    /// An event that is not what its hash says, and was left out: its `seq`.
    pub broken: Option<u64>,
    /// The last `seq` that was looked at.
    pub last_seq: u64,
}

#[derive(sqlx::FromRow)]
struct Number {
    number: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct At {
    at: DateTime<Utc>,
}

#[derive(sqlx::FromRow)]
struct SealRow {
    from_position: i64,
    to_position: i64,
    root: String,
}

/// An event without a position, and the hash that it must follow.
#[derive(sqlx::FromRow)]
struct Loose {
    seq: i64,
    n: i64,
    kind: String,
    state: String,
    body: String,
    prev_hash: String,
    hash: String,
    before: Option<String>,
}

impl Loose {
    /// Its hash, if it is what it says and follows what stands before it.
    fn checked(&self) -> Option<B256> {
        let previous: B256 = self.prev_hash.parse().ok()?;
        let n = u32::try_from(self.n).ok()?;
        let expected = event_hash(previous, n, &self.state, &self.kind, self.body.as_bytes());
        let follows = self.before.as_deref() == Some(self.prev_hash.as_str());
        (follows && hex(expected) == self.hash).then_some(expected)
    }
}

impl TryFrom<SealRow> for Seal {
    type Error = LedgerError;

    fn try_from(row: SealRow) -> Result<Self> {
        Ok(Self {
            from: unsigned("event_seals.from_position", row.from_position)?,
            to: unsigned("event_seals.to_position", row.to_position)?,
            root: hash("event_seals.root", &row.root)?,
        })
    }
}

impl Tx {
    /// The first event behind `after` that has no position.
    pub async fn first_unsealed(&mut self, after: u64) -> Result<Option<u64>> {
        const SELECT: &str = "SELECT min(e.seq) AS number FROM settlement_events e
            LEFT JOIN event_positions p ON p.seq = e.seq AND p.seq > $1
            WHERE e.seq > $1 AND p.seq IS NULL";
        let after = bigint("event seq", after)?;
        let number = fetch_optional!(self, Number, SELECT, after)?.and_then(|row| row.number);
        number.map(|seq| unsigned("settlement_events.seq", seq)).transpose()
    }

    /// The last event that has a position, in the order of `seq`.
    pub async fn last_sealed(&mut self) -> Result<u64> {
        const SELECT: &str = "SELECT max(seq) AS number FROM event_positions";
        let number = fetch_optional!(self, Number, SELECT)?.and_then(|row| row.number);
        unsigned("event_positions.seq", number.unwrap_or(0))
    }

    /// The newest seal.
    pub async fn newest_seal(&mut self) -> Result<Option<Seal>> {
        const SELECT: &str = "SELECT from_position, to_position, root FROM event_seals
            ORDER BY from_position DESC LIMIT 1";
        fetch_optional!(self, SealRow, SELECT)?.map(Seal::try_from).transpose()
    }

    /// Every seal, oldest first.
    pub async fn seals(&mut self) -> Result<Vec<Seal>> {
        const SELECT: &str = "SELECT from_position, to_position, root FROM event_seals
            ORDER BY from_position";
        fetch_all!(self, SealRow, SELECT)?.into_iter().map(Seal::try_from).collect()
    }

    /// When the newest event was written.
    pub async fn newest_event_at(&mut self) -> Result<Option<DateTime<Utc>>> {
        const SELECT: &str = "SELECT at FROM settlement_events ORDER BY seq DESC LIMIT 1";
        Ok(fetch_optional!(self, At, SELECT)?.map(|row| row.at))
    }

    /// How many events that were written before a moment have no position.
    pub async fn unsealed_before(&mut self, at: DateTime<Utc>) -> Result<u64> {
        const SELECT: &str = "SELECT count(*) AS number FROM settlement_events e
            LEFT JOIN event_positions p ON p.seq = e.seq
            WHERE p.seq IS NULL AND e.at < $1";
        let number = fetch_optional!(self, Number, SELECT, at)?.and_then(|row| row.number);
        unsigned("settlement_events", number.unwrap_or(0))
    }

    /// By how many the positions differ from what the seals cover: both are given together.
    pub async fn uncovered_positions(&mut self) -> Result<u64> {
        const SELECT: &str = "SELECT (SELECT count(*) FROM event_positions)
                - CAST(coalesce(sum(to_position - from_position + 1), 0) AS BIGINT) AS number
            FROM event_seals";
        let number = fetch_optional!(self, Number, SELECT)?.and_then(|row| row.number);
        Ok(number.unwrap_or(0).unsigned_abs())
    }

    /// Gives positions to the events from `first` on that have none, up to one that is broken or to
    /// [`MAX_SEALED`], and seals them. Must run on one snapshot: what was checked is what is sealed.
    ///
    /// # Errors
    /// A conflict or duplicate when the daemon of another chain seals at the same time.
    pub async fn seal(&mut self, lease: &Lease, first: u64) -> Result<Sealed> {
        const LOOSE: &str = "SELECT e.seq, e.n, e.kind, e.state, e.body, e.prev_hash, e.hash,
                CASE WHEN e.n = 0 THEN s.trace_id ELSE b.hash END AS before
            FROM settlement_events e
            LEFT JOIN event_positions p ON p.seq = e.seq AND p.seq >= $1
            LEFT JOIN x402_settlements s ON s.id = e.settlement_id
            LEFT JOIN settlement_events b ON b.settlement_id = e.settlement_id AND b.n = e.n - 1
            WHERE e.seq >= $1 AND p.seq IS NULL ORDER BY e.seq LIMIT $2";
        const POSITIONS: &str = "INSERT INTO event_positions (position, seq)
            SELECT $1 + row_number() OVER (ORDER BY e.seq), e.seq FROM settlement_events e
            LEFT JOIN event_positions p ON p.seq = e.seq AND p.seq >= $2
            WHERE e.seq BETWEEN $2 AND $3 AND p.seq IS NULL";
        const SEAL: &str = "INSERT INTO event_seals
            (from_position, to_position, root, epoch, sealed_at) VALUES ($1, $2, $3, $4, $5)";
        self.hold_lease(lease).await?;
        let (limit, start) = (bigint("limit", MAX_SEALED)?, bigint("event seq", first)?);
        let loose = fetch_all!(self, Loose, LOOSE, start, limit)?;
        let hashes: Vec<_> = loose.iter().map_while(Loose::checked).collect();
        let seq = |event: &Loose| unsigned("settlement_events.seq", event.seq);
        let broken = loose.get(hashes.len()).map(seq).transpose()?;
        let last = hashes.len().checked_sub(1).and_then(|last| loose.get(last));
        let last_seq = broken.unwrap_or(last.map(seq).transpose()?.unwrap_or(first));
        let Some(last) = last else { return Ok(Sealed { seal: None, broken, last_seq }) };

        let newest = self.newest_seal().await?;
        let previous = newest.map_or(B256::ZERO, |seal| seal.root);
        let from = newest.map_or(0, |seal| seal.to.saturating_add(1));
        let count = bigint("events", hashes.len())?.unsigned_abs();
        let to = from.saturating_add(count).saturating_sub(1);
        let base = bigint("event position", from)?.saturating_sub(1);
        let positioned = execute!(self, POSITIONS, base, start, last.seq)?;
        if positioned != count {
            return Err(LedgerError::Conflict("the order of events".to_owned()));
        }
        let mut hasher = SealHasher::new(previous, from, to);
        hashes.iter().for_each(|event| hasher.add(event));
        let root = hasher.root();
        let range = (bigint("event position", from)?, bigint("event position", to)?);
        execute!(self, SEAL, range.0, range.1, hex(root), bigint("epoch", lease.epoch)?, now())?;
        Ok(Sealed { seal: Some(Seal { from, to, root }), broken, last_seq })
    }
}
