//! The tables as the database itself describes them, in the same words for both databases.

use super::{
    LedgerError, Result, Tx,
    query::{fetch_all, fetch_optional},
};
use std::collections::BTreeMap;

/// Tables before those that refer to them; any that is not listed follows, by name.
const ORDER: [&str; 23] = [
    "agents",
    "splitters",
    "x402_settlements",
    "deliveries",
    "settlement_events",
    "event_positions",
    "event_seals",
    "leases",
    "chains",
    "signers",
    "spending_limits",
    "outbox_orders",
    "intents",
    "transactions",
    "transaction_intents",
    "attempts",
    "cursors",
    "x402_pull_events",
    "payout_events",
    "splitter_events",
    "accounts",
    "journals",
    "postings",
];
/// Columns that hold yes or no; SQLite knows only integers.
const BOOLEANS: [&str; 5] = ["refund_due", "final", "floor_zero", "value", "succeeded"];

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// An integer of 64 bits.
    Integer,
    /// Yes or no.
    Boolean,
    /// Text.
    Text,
    /// Bytes.
    Bytes,
    /// A time, to the microsecond.
    Time,
    /// JSON.
    Json,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: ColumnKind,
    /// Its place in the primary key.
    pub key: Option<i64>,
    /// Whether the database numbers the rows.
    pub numbered: bool,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its columns, by name.
    pub columns: Vec<Column>,
}

#[derive(sqlx::FromRow)]
struct Row {
    table_name: String,
    column_name: String,
    data_type: String,
    key: i64,
    numbered: i64,
}

#[derive(sqlx::FromRow)]
struct Version {
    version: Option<i64>,
}

impl Table {
    /// The columns of its primary key, in order.
    pub fn key(&self) -> Vec<&Column> {
        let mut key: Vec<_> = self.columns.iter().filter(|column| column.key.is_some()).collect();
        key.sort_by_key(|column| column.key);
        key
    }
}

impl Tx {
    /// Every table, those first that others refer to.
    pub async fn tables(&mut self) -> Result<Vec<Table>> {
        const POSTGRES: &str = "SELECT CAST(c.relname AS TEXT) AS table_name,
                CAST(a.attname AS TEXT) AS column_name,
                format_type(a.atttypid, NULL) AS data_type,
                CAST(coalesce(array_position(CAST(i.indkey AS int2[]), a.attnum) + 1, 0) AS BIGINT)
                    AS key,
                CASE WHEN a.attidentity = '' THEN 0::BIGINT ELSE 1::BIGINT END AS numbered
            FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
            WHERE s.nspname = 'jecp' AND c.relkind = 'r' AND c.relname <> '_sqlx_migrations'";
        const SQLITE: &str = "SELECT m.name AS table_name, p.name AS column_name,
                p.type AS data_type, p.pk AS key,
                m.sql LIKE '%AUTOINCREMENT%' AND p.pk > 0 AS numbered
            FROM sqlite_master m JOIN pragma_table_info(m.name) p
            WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite~_%' ESCAPE '~'
            AND m.name <> '_sqlx_migrations'";
        let is_postgres = matches!(self, Self::Postgres(_));
        let sql = if is_postgres { POSTGRES } else { SQLITE };
        let mut found = BTreeMap::<String, Vec<Column>>::new();
        for row in fetch_all!(self, Row, sql)? {
            let kind = kind(&row.column_name, &row.data_type)?;
            let column = Column {
                name: row.column_name,
                kind,
                key: (row.key > 0).then_some(row.key),
                numbered: row.numbered > 0,
            };
            found.entry(row.table_name).or_default().push(column);
        }
        let mut tables: Vec<_> = found
            .into_iter()
            .map(|(name, mut columns)| {
                columns.sort_by(|one, other| one.name.cmp(&other.name));
                for (place, column) in (1..).zip(key_order(&mut columns)) {
                    column.key = Some(place);
                }
                Table { name, columns }
            })
            .collect();
        let place = |table: &Table| ORDER.iter().position(|name| *name == table.name);
        tables.sort_by_key(|table| place(table).unwrap_or(ORDER.len()));
        Ok(tables)
    }

    /// Version of the schema.
    pub async fn schema_version(&mut self) -> Result<i64> {
        const SELECT: &str = "SELECT max(version) AS version FROM _sqlx_migrations";
        let row = fetch_optional!(self, Version, SELECT)?;
        Ok(row.and_then(|row| row.version).unwrap_or(0))
    }
}

/// The columns of the primary key, in order.
fn key_order(columns: &mut [Column]) -> Vec<&mut Column> {
    let mut key: Vec<_> = columns.iter_mut().filter(|column| column.key.is_some()).collect();
    key.sort_by_key(|column| column.key);
    key
}

fn kind(name: &str, data_type: &str) -> Result<ColumnKind> {
    Ok(match data_type {
        "boolean" => ColumnKind::Boolean,
        "INTEGER" if BOOLEANS.contains(&name) => ColumnKind::Boolean,
        "bigint" | "INTEGER" => ColumnKind::Integer,
        "bytea" | "BLOB" => ColumnKind::Bytes,
        "timestamp with time zone" => ColumnKind::Time,
        "jsonb" => ColumnKind::Json,
        "TEXT" if name == "at" || name.ends_with("_at") => ColumnKind::Time,
        "TEXT" if name.ends_with("_jsonb") => ColumnKind::Json,
        "text" | "TEXT" => ColumnKind::Text,
        _ => {
            return Err(LedgerError::Corrupt {
                column: "the schema",
                value: format!("{name} {data_type}"),
                expected: "type of this program's",
            });
        }
    })
}
