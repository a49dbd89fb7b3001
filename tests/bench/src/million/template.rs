//! Rows of real payments, with holes where copies differ.

use eyre::{OptionExt, eyre};
use serde_json::Value;
use sqlx::{PgPool, Row};
use std::collections::{BTreeMap, BTreeSet};

/// Characters of a hash after its 0x.
const HASH_DIGITS: usize = 64;
/// Keys of numbers in events that count blocks.
const BLOCK_KEYS: &[&str] = &["block_number", "confirmations_from", "finalized", "finalized_block"];
/// Key of a log's place in its block.
const LOG_KEY: &str = "log_index";
/// Seconds between two blocks.
const BLOCK_TIME: u64 = 2;
/// Copies that stand in the same blocks, their logs one behind the other.
pub(crate) const SHARING: u64 = 100;

/// What a number grows with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Per {
    /// Every copy.
    Copy,
    /// Copies in other blocks.
    Blocks,
    /// Copies in the same blocks.
    Place,
}

impl Per {
    /// How often it has grown by a copy.
    pub(crate) const fn steps(self, copy: u64) -> u64 {
        match self {
            Self::Copy => copy,
            Self::Blocks => copy / SHARING,
            Self::Place => copy % SHARING,
        }
    }
}

/// A part of a cell.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    /// The same in every copy.
    Text(String),
    /// A hash of the slots, with or without its 0x.
    Hash { slot: usize, bare: bool },
    /// A UUID of the slots.
    Uuid(usize),
    /// A number that grows.
    Number { base: u64, stride: u64, per: Per },
    /// What makes a request's id this copy's own.
    Copy,
}

/// A table with its rows as pieces.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<Vec<Piece>>>,
}

/// Everything that copies replace, in the order of its slots.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    pub(crate) hashes: BTreeMap<String, usize>,
    /// Those that are blocks'.
    pub(crate) blocks: BTreeSet<usize>,
    pub(crate) uuids: BTreeMap<String, usize>,
}

impl Slots {
    /// The slot of a hash, entered if it is new.
    pub(crate) fn hash(&mut self, hash: &str) -> usize {
        let next = self.hashes.len();
        *self.hashes.entry(hash.to_owned()).or_insert(next)
    }

    fn uuid(&mut self, uuid: &str) -> usize {
        let next = self.uuids.len();
        *self.uuids.entry(uuid.to_owned()).or_insert(next)
    }
}

/// What does not differ between copies, and by how much what counts up grows.
#[derive(Debug, Default)]
pub(crate) struct Strides {
    /// Blocks of the template.
    pub(crate) blocks: u64,
    /// Places that it takes up in a block.
    pub(crate) logs: u64,
    /// By table and column.
    pub(crate) columns: BTreeMap<(&'static str, &'static str), u64>,
    /// Account nonces by signer.
    pub(crate) nonces: BTreeMap<String, u64>,
    /// Hashes that are the same everywhere: capabilities.
    pub(crate) fixed: Vec<String>,
    /// Authorization nonces, which stand in calldata without their 0x.
    pub(crate) authorizations: Vec<String>,
}

/// Every row of a table that matches, as JSON.
pub(crate) async fn rows(pool: &PgPool, table: &str, which: &str) -> eyre::Result<Vec<Value>> {
    let sql = format!("SELECT row_to_json(t)::text FROM (SELECT * FROM {table} {which}) t");
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(pool).await?;
    rows.iter().map(|row| Ok(serde_json::from_str(&row.try_get::<String, _>(0)?)?)).collect()
}

/// The columns of a table, in its order.
pub(crate) async fn columns(pool: &PgPool, table: &str) -> eyre::Result<Vec<String>> {
    const SELECT: &str = "SELECT column_name::text FROM information_schema.columns
        WHERE table_schema = 'jecp' AND table_name = $1 ORDER BY ordinal_position";
    let rows = sqlx::query(SELECT).bind(table).fetch_all(pool).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

impl Table {
    /// Cuts rows into pieces.
    pub(crate) fn cut(
        name: &'static str,
        columns: Vec<String>,
        rows: &[Value],
        slots: &mut Slots,
        strides: &Strides,
    ) -> eyre::Result<Self> {
        let rows = rows
            .iter()
            .map(|row| {
                let cell = |column: &String| cut_cell(name, column, row, slots, strides);
                columns.iter().map(cell).collect::<eyre::Result<Vec<_>>>()
            })
            .collect::<eyre::Result<Vec<_>>>();
        Ok(Self { name, rows: rows?, columns })
    }

    /// Where a column stands.
    pub(crate) fn column(&self, name: &str) -> eyre::Result<usize> {
        self.columns
            .iter()
            .position(|column| column == name)
            .ok_or_else(|| eyre!("{} has no column {name}", self.name))
    }
}

fn cut_cell(
    table: &'static str,
    column: &str,
    row: &Value,
    slots: &mut Slots,
    strides: &Strides,
) -> eyre::Result<Vec<Piece>> {
    let stride = |base: &Value| -> Option<Piece> {
        let (stride, per) = match column {
            "block_number" | "record_block_number" | "split_block_number" => {
                (strides.blocks, Per::Blocks)
            }
            "block_timestamp" => (strides.blocks.saturating_mul(BLOCK_TIME), Per::Blocks),
            "log_index" | "record_log_index" | "split_log_index" => (strides.logs, Per::Place),
            "account_nonce" => (*strides.nonces.get(row["signer"].as_str()?)?, Per::Copy),
            _ => {
                let mut columns = strides.columns.iter();
                (*columns.find(|((of, name), _)| *of == table && *name == column)?.1, Per::Copy)
            }
        };
        Some(Piece::Number { base: base.as_u64()?, stride, per })
    };
    Ok(match &row[column] {
        Value::Null => vec![Piece::Text("\\N".to_owned())],
        number @ Value::Number(same) => {
            vec![stride(number).unwrap_or_else(|| Piece::Text(same.to_string()))]
        }
        Value::Bool(same) => vec![Piece::Text(same.to_string())],
        Value::String(text) => cut_text(text, slots, strides)?,
        json @ (Value::Object(_) | Value::Array(_)) => cut_text(&json.to_string(), slots, strides)?,
    })
}

/// Cuts a text at its hashes, UUIDs, numbers of blocks and logs, and request ids.
fn cut_text(text: &str, slots: &mut Slots, strides: &Strides) -> eyre::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let found = if let Some(hash) = hash_at(rest, text, strides) {
            let known = hash.len() == HASH_DIGITS;
            let full = if known { format!("0x{hash}") } else { hash.to_owned() };
            Some((hash.len(), Piece::Hash { slot: slots.hash(&full), bare: known }))
        } else if let Some(uuid) = uuid_at(rest) {
            Some((uuid.len(), Piece::Uuid(slots.uuid(uuid))))
        } else if let Some((key, digits)) = place_at(rest) {
            plain.push_str(&escape(key));
            let (stride, per) = match key.contains(LOG_KEY) {
                true => (strides.logs, Per::Place),
                false => (strides.blocks, Per::Blocks),
            };
            let number = Piece::Number { base: digits.parse()?, stride, per };
            Some((key.len().saturating_add(digits.len()), number))
        } else {
            request_at(rest).map(|request| {
                plain.push_str(request);
                (request.len(), Piece::Copy)
            })
        };
        let used = match found {
            Some((length, piece)) => {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
                pieces.push(piece);
                length
            }
            None => {
                let next = rest.chars().next().ok_or_eyre("an empty rest")?;
                plain.push_str(&escape(&next.to_string()));
                next.len_utf8()
            }
        };
        rest = rest.get(used..).unwrap_or_default();
    }
    pieces.push(Piece::Text(plain));
    pieces.retain(|piece| !matches!(piece, Piece::Text(text) if text.is_empty()));
    Ok(pieces)
}

/// COPY's escapes.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n")
}

/// A hash here: 0x and 64 digits that end there; or in bytes a known authorization nonce.
fn hash_at<'a>(rest: &'a str, whole: &str, strides: &Strides) -> Option<&'a str> {
    if whole.starts_with("\\x") {
        let bare = rest.get(..HASH_DIGITS)?;
        return strides.authorizations.iter().any(|known| known == bare).then_some(bare);
    }
    let hash = rest.strip_prefix("0x").and_then(|_| rest.get(..HASH_DIGITS.saturating_add(2)))?;
    let digits = hash.get(2..)?.bytes().all(|digit| digit.is_ascii_hexdigit());
    let ends = !rest.get(hash.len()..)?.starts_with(|next: char| next.is_ascii_hexdigit());
    (digits && ends && !strides.fixed.iter().any(|fixed| fixed == hash)).then_some(hash)
}

fn uuid_at(rest: &str) -> Option<&str> {
    let uuid = rest.get(..36)?;
    let fits = uuid.bytes().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    });
    fits.then_some(uuid)
}

/// A key that counts blocks, or places in one, with its colon, and its number.
fn place_at(rest: &str) -> Option<(&str, &str)> {
    let key = BLOCK_KEYS.iter().chain([&LOG_KEY]).find_map(|key| {
        let end = rest.strip_prefix('"')?.strip_prefix(key)?.strip_prefix("\":")?;
        rest.get(..rest.len().saturating_sub(end.len()))
    })?;
    let after = rest.get(key.len()..)?;
    let length = after.bytes().take_while(u8::is_ascii_digit).count();
    (length > 0).then(|| after.get(..length)).flatten().map(|digits| (key, digits))
}

fn request_at(rest: &str) -> Option<&str> {
    rest.starts_with("bench-").then(|| rest.get(..12)).flatten()
}
