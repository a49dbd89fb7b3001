//! An export back into an empty database, in one SQL transaction.

use super::{
    ColumnKind, ExportFooter, ExportHeader, Ledger, LedgerError, Result, Table, Tx,
    export::{ExportRow, FORMAT},
};
use crate::failpoint::Point;
use alloy::{hex, primitives::B256};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Row};
use std::{
    collections::{BTreeMap, HashMap},
    io::BufRead,
};

/// Tables that a new database has rows in.
const SEEDED: [&str; 1] = ["feature_flags"];

/// Why an export was not read in.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The file.
    #[error("cannot read: {0}")]
    Read(#[from] std::io::Error),
    /// Somebody else's file, or a line was changed.
    #[error("line {line} is not one of an export: {problem}")]
    Malformed {
        /// Which line.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// Of another release.
    #[error(
        "the export has format {format:?} and schema {schema}, this release reads {FORMAT:?} and \
         schema {ours}; use the release that wrote it"
    )]
    OtherRelease {
        /// Its format.
        format: String,
        /// Its schema.
        schema: i64,
        /// Ours.
        ours: i64,
    },
    /// Changed, or cut off.
    #[error("the export is not what its last line says: {0}")]
    Changed(String),
    /// Nothing is overwritten.
    #[error("the database is not empty: {0} has rows; import into a new one")]
    NotEmpty(String),
}

impl Ledger {
    /// Reads an export into this ledger, which must be empty. All of it or nothing.
    ///
    /// # Errors
    /// When the export is not what its last line says, or the database refuses a row of it.
    pub async fn import(
        &self,
        from: &mut (impl BufRead + Send),
    ) -> Result<ExportFooter, ImportError> {
        let mut lines = Lines { from, number: 0 };
        let mut tx = self.begin().await?;
        let tables = tx.tables().await?;
        for table in &tables {
            let rows = tx.rows_of(&table.name).await?;
            if rows > 0 && !SEEDED.contains(&table.name.as_str()) {
                return Err(ImportError::NotEmpty(table.name.clone()));
            }
        }
        let header: ExportHeader = lines.parse()?;
        let ours = tx.schema_version().await?;
        let ExportHeader { format, schema, .. } = header;
        if format != FORMAT || schema != ours {
            return Err(ImportError::OtherRelease { format, schema, ours });
        }
        let triggers = tx.lift_triggers(&tables).await?;
        let by_name: HashMap<_, _> =
            tables.iter().map(|table| (table.name.as_str(), (table, insert(table)))).collect();
        let mut counts: BTreeMap<_, u64> =
            tables.iter().map(|table| (table.name.clone(), 0)).collect();
        let mut hasher = Sha256::new();
        let footer = loop {
            let Some(line) = lines.next()? else {
                return Err(ImportError::Changed("it has no last line".to_owned()));
            };
            if line.starts_with("{\"counts\"") {
                break lines.read::<ExportFooter>(&line)?;
            }
            let ExportRow { table, row } = lines.read(&line)?;
            let Some(((table, sql), count)) =
                by_name.get(table.as_str()).zip(counts.get_mut(&table))
            else {
                return Err(lines.malformed(format!("there is no table {table:?}")));
            };
            hasher.update(&line);
            *count = count.saturating_add(1);
            let cells = cells(table, &row).map_err(|problem| lines.malformed(problem))?;
            tx.insert_cells(sql, cells).await.map_err(|error| match error.is_refusal() {
                true => lines.malformed(error.to_string()),
                false => error.into(),
            })?;
        };
        if lines.next()?.is_some() {
            return Err(ImportError::Changed("something follows its last line".to_owned()));
        }
        let sha256 = B256::from_slice(&hasher.finalize());
        if footer.counts != counts {
            return Err(ImportError::Changed("rows are missing, or were added".to_owned()));
        }
        if footer.sha256 != sha256 {
            return Err(ImportError::Changed("a row was changed".to_owned()));
        }
        if header.root != tx.newest_seal().await?.map(|seal| seal.root) {
            return Err(ImportError::Changed("its newest root is not its first line's".to_owned()));
        }
        tx.restore_triggers(&tables, &triggers).await?;
        tx.commit(Point::Enter).await?;
        Ok(footer)
    }
}

/// The lines of an export.
struct Lines<'f, R> {
    from: &'f mut R,
    number: u64,
}

impl<R: BufRead> Lines<'_, R> {
    /// With its line feed.
    fn next(&mut self) -> Result<Option<String>, ImportError> {
        let mut line = String::new();
        self.number = self.number.saturating_add(1);
        Ok((self.from.read_line(&mut line)? > 0).then_some(line))
    }

    fn parse<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, ImportError> {
        let line = self.next()?.unwrap_or_default();
        self.read(&line)
    }

    fn read<T: serde::de::DeserializeOwned>(&self, line: &str) -> Result<T, ImportError> {
        serde_json::from_str(line).map_err(|error| self.malformed(error.to_string()))
    }

    fn malformed(&self, problem: String) -> ImportError {
        ImportError::Malformed { line: self.number, problem }
    }
}

/// A value on its way into a column.
enum Cell {
    Integer(Option<i64>),
    Boolean(Option<bool>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
    Time(Option<DateTime<Utc>>),
    Json(Option<Value>),
}

/// The values of a row, in the order of the columns.
fn cells(table: &Table, row: &Map<String, Value>) -> Result<Vec<Cell>, String> {
    if row.len() != table.columns.len() {
        return Err(format!("{} has other columns", table.name));
    }
    let cell = |column: &super::Column| {
        let wrong = || format!("{}.{} is missing or of another kind", table.name, column.name);
        let value = row.get(&column.name).ok_or_else(wrong)?;
        let value = Some(value).filter(|value| !value.is_null());
        let text = || {
            value.map(|value| value.as_str().ok_or_else(wrong).map(ToOwned::to_owned)).transpose()
        };
        Ok(match column.kind {
            ColumnKind::Integer => {
                let number = |value: &Value| value.as_i64().ok_or_else(wrong);
                Cell::Integer(value.map(number).transpose()?)
            }
            ColumnKind::Boolean => {
                let flag = |value: &Value| value.as_bool().ok_or_else(wrong);
                Cell::Boolean(value.map(flag).transpose()?)
            }
            ColumnKind::Text => Cell::Text(text()?),
            ColumnKind::Bytes => {
                let bytes = |text: String| hex::decode(text).map_err(|_| wrong());
                Cell::Bytes(text()?.map(bytes).transpose()?)
            }
            ColumnKind::Time => {
                let time = |text: String| text.parse().map_err(|_| wrong());
                Cell::Time(text()?.map(time).transpose()?)
            }
            ColumnKind::Json => Cell::Json(value.cloned()),
        })
    };
    table.columns.iter().map(cell).collect()
}

/// The statement that writes a row of a table.
fn insert(table: &Table) -> String {
    let names: Vec<_> = table.columns.iter().map(|column| format!("\"{}\"", column.name)).collect();
    let places: Vec<_> = (1..=names.len()).map(|place| format!("${place}")).collect();
    let (names, places) = (names.join(", "), places.join(", "));
    format!("INSERT INTO \"{}\" ({names}) /* numbers */ VALUES ({places})", table.name)
}

/// Binds a row and runs its statement.
macro_rules! insert_bound {
    ($tx:expr, $sql:expr, $cells:expr) => {{
        let mut query = sqlx::query(AssertSqlSafe($sql));
        for cell in $cells {
            query = match cell {
                Cell::Integer(value) => query.bind(value),
                Cell::Boolean(value) => query.bind(value),
                Cell::Text(value) => query.bind(value),
                Cell::Bytes(value) => query.bind(value),
                Cell::Time(value) => query.bind(value),
                Cell::Json(value) => query.bind(value),
            };
        }
        query.execute(&mut **$tx).await?;
    }};
}

impl Tx {
    async fn insert_cells(&mut self, sql: &str, cells: Vec<Cell>) -> Result<()> {
        match self {
            Self::Postgres(tx) => {
                let sql = sql.replace("/* numbers */", "OVERRIDING SYSTEM VALUE");
                insert_bound!(tx, sql, cells);
            }
            Self::Sqlite(tx) => insert_bound!(tx, sql.to_owned(), cells),
        }
        Ok(())
    }

    async fn rows_of(&mut self, table: &str) -> Result<i64> {
        let sql = AssertSqlSafe(format!("SELECT count(*) FROM \"{table}\""));
        Ok(match self {
            Self::Postgres(tx) => sqlx::query(sql).fetch_one(&mut **tx).await?.try_get(0)?,
            Self::Sqlite(tx) => sqlx::query(sql).fetch_one(&mut **tx).await?.try_get(0)?,
        })
    }

    async fn run(&mut self, sql: String) -> Result<()> {
        match self {
            Self::Postgres(tx) => {
                sqlx::query(AssertSqlSafe(sql)).execute(&mut **tx).await?;
            }
            Self::Sqlite(tx) => {
                sqlx::query(AssertSqlSafe(sql)).execute(&mut **tx).await?;
            }
        }
        Ok(())
    }

    /// What triggers keep up while the daemon writes is in the export already; and rows come in
    /// another order. Only the owner of the tables may do this. Answers how to make them again.
    async fn lift_triggers(&mut self, tables: &[Table]) -> Result<Vec<String>> {
        let mut lifted = Vec::new();
        if matches!(self, Self::Postgres(_)) {
            self.run("SET LOCAL idle_in_transaction_session_timeout = 0".to_owned()).await?;
            for table in tables {
                self.run(format!("ALTER TABLE \"{}\" DISABLE TRIGGER USER", table.name)).await?;
            }
        } else if let Self::Sqlite(tx) = self {
            const TRIGGERS: &str = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'";
            let triggers = sqlx::query(TRIGGERS).fetch_all(&mut **tx).await?;
            self.run("PRAGMA defer_foreign_keys = ON".to_owned()).await?;
            for trigger in triggers {
                let name: String = trigger.try_get(0)?;
                lifted.push(trigger.try_get(1)?);
                self.run(format!("DROP TRIGGER \"{name}\"")).await?;
            }
        }
        for table in SEEDED {
            self.run(format!("DELETE FROM \"{table}\"")).await?;
        }
        Ok(lifted)
    }

    async fn restore_triggers(&mut self, tables: &[Table], lifted: &[String]) -> Result<()> {
        for sql in lifted {
            self.run(sql.clone()).await?;
        }
        if !matches!(self, Self::Postgres(_)) {
            return Ok(());
        }
        // What is to be checked at the end is checked now, or the tables could not be altered.
        self.run("SET CONSTRAINTS ALL IMMEDIATE".to_owned()).await?;
        for table in tables {
            let name = &table.name;
            self.run(format!("ALTER TABLE \"{name}\" ENABLE TRIGGER USER")).await?;
            for column in table.columns.iter().filter(|column| column.numbered) {
                let column = &column.name;
                self.run(format!(
                    "SELECT setval(pg_get_serial_sequence('jecp.{name}', '{column}'),
                        max(\"{column}\")) FROM \"{name}\" HAVING max(\"{column}\") IS NOT NULL"
                ))
                .await?;
            }
        }
        Ok(())
    }
}
