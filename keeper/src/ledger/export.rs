//! The whole ledger as lines of JSON, the same bytes from either database.

use super::{Ledger, LedgerError, Result, Table, Tx, catalog::ColumnKind, scan::scan};
use alloy::{hex, primitives::B256};
use chrono::{DateTime, SecondsFormat, Utc};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use sqlx::Row;
use std::{collections::BTreeMap, io::Write};

/// Name and version of the format.
pub(super) const FORMAT: &str = "x402-keeper-export/1";

/// First line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExportHeader {
    /// Name and version of the format.
    pub format: String,
    /// Version of the schema.
    pub schema: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// The newest seal's root.
    pub root: Option<B256>,
    /// Whether payers' signatures are in it.
    pub signatures: bool,
}

/// A row.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ExportRow {
    pub(super) table: String,
    pub(super) row: Map<String, Value>,
}

/// Last line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportFooter {
    /// Rows per table.
    pub counts: BTreeMap<String, u64>,
    /// Over the lines of all rows, with their line feeds.
    pub sha256: B256,
}

/// Why an export was not written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The file.
    #[error("cannot write: {0}")]
    Write(#[from] std::io::Error),
}

impl Ledger {
    /// Writes everything, on one snapshot. A payer's signature may be submitted by anybody as long
    /// as its authorization can be used, so it is left out unless asked for.
    ///
    /// # Errors
    /// When the ledger cannot be read, or `to` not be written.
    pub async fn export(
        &self,
        to: &mut (impl Write + Send),
        signatures: bool,
    ) -> Result<ExportFooter, ExportError> {
        let mut lanes = self.snapshot(1).await?;
        let Some(mut tx) = lanes.pop() else {
            return Err(LedgerError::Conflict("snapshot".to_owned()).into());
        };
        let header = ExportHeader {
            format: FORMAT.to_owned(),
            schema: tx.schema_version().await?,
            at: super::columns::now(),
            root: tx.newest_seal().await?.map(|seal| seal.root),
            signatures,
        };
        writeln!(to, "{}", text(&header)?)?;
        let mut hasher = Sha256::new();
        let mut counts = BTreeMap::new();
        for table in tx.tables().await? {
            let mut rows = 0_u64;
            let mut failed = None;
            let each = |mut row: Map<String, Value>| {
                if !signatures {
                    redact(&table.name, &mut row);
                }
                let line = ExportRow { table: table.name.clone(), row };
                let line = format!("{}\n", text(&line)?);
                hasher.update(&line);
                rows = rows.saturating_add(1);
                if failed.is_none() {
                    failed = to.write_all(line.as_bytes()).err();
                }
                Ok(())
            };
            tx.scan_table(&table, each).await?;
            if let Some(error) = failed {
                return Err(error.into());
            }
            counts.insert(table.name, rows);
        }
        let footer = ExportFooter { counts, sha256: B256::from_slice(&hasher.finalize()) };
        writeln!(to, "{}", text(&footer)?)?;
        to.flush()?;
        Ok(footer)
    }
}

fn text(value: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string(value)?)
}

/// Takes out what somebody else could submit: signatures that no node has been given yet.
fn redact(table: &str, row: &mut Map<String, Value>) {
    let is = |row: &Map<String, Value>, column: &str, word: &str| {
        row.get(column).and_then(Value::as_str) == Some(word)
    };
    if table == "x402_settlements" {
        row.insert("signature".to_owned(), Value::Null);
    }
    let waits = table == "intents"
        && is(row, "kind", "pull")
        && (is(row, "state", "open") || is(row, "state", "claimed"));
    if waits || table == "transactions" && is(row, "state", "planned") {
        row.insert("calldata".to_owned(), Value::from("0x"));
    }
}

/// A cell as JSON.
macro_rules! cell {
    ($row:expr, $place:expr, $kind:expr) => {
        match $kind {
            ColumnKind::Integer => $row.try_get::<Option<i64>, _>($place)?.map(Value::from),
            ColumnKind::Boolean => $row.try_get::<Option<bool>, _>($place)?.map(Value::from),
            ColumnKind::Text => $row.try_get::<Option<String>, _>($place)?.map(Value::from),
            ColumnKind::Bytes => $row
                .try_get::<Option<Vec<u8>>, _>($place)?
                .map(|bytes| Value::from(hex::encode_prefixed(bytes))),
            ColumnKind::Time => $row
                .try_get::<Option<DateTime<Utc>>, _>($place)?
                .map(|at| Value::from(at.to_rfc3339_opts(SecondsFormat::Micros, true))),
            ColumnKind::Json => $row.try_get::<Option<Value>, _>($place)?,
        }
        .unwrap_or(Value::Null)
    };
}

impl Tx {
    /// Every row of a table, by its primary key; journals before those that reverse them.
    async fn scan_table(
        &mut self,
        table: &Table,
        mut each: impl FnMut(Map<String, Value>) -> Result<()>,
    ) -> Result<()> {
        let is_postgres = matches!(self, Self::Postgres(_));
        let names: Vec<_> =
            table.columns.iter().map(|column| format!("\"{}\"", column.name)).collect();
        let mut order: Vec<_> = table
            .key()
            .iter()
            .map(|column| match column.kind {
                ColumnKind::Text if is_postgres => format!("\"{}\" COLLATE \"C\"", column.name),
                _ => format!("\"{}\"", column.name),
            })
            .collect();
        if table.columns.iter().any(|column| column.name == "reverses") {
            order.insert(0, "CASE WHEN reverses IS NULL THEN 0 ELSE 1 END".to_owned());
        }
        let (names, order) = (names.join(", "), order.join(", "));
        let sql = format!("SELECT {names} FROM \"{}\" ORDER BY {order}", table.name);
        scan!(self, sqlx::AssertSqlSafe(sql), |row| {
            let mut cells = Map::new();
            for (place, column) in table.columns.iter().enumerate() {
                cells.insert(column.name.clone(), cell!(row, place, column.kind));
            }
            each(cells)?;
        });
        Ok(())
    }
}
