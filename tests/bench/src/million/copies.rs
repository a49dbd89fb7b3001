//! Copies of the template: every identity, hash and signature of a copy is its own.

use super::template::{Per, Piece, Slots, Table};
use alloy::{
    consensus::{SignableTransaction, TxEip1559, TxEnvelope},
    eips::eip2718::{Decodable2718, Encodable2718},
    primitives::{Address, B256, Bytes, hex, keccak256},
    signers::{SignerSync, local::PrivateKeySigner},
};
use eyre::{OptionExt, eyre};
use keeper::{
    lifecycle::{TraceTerms, event_hash},
    x402::MicroUsdc,
};
use serde_json::Value;
use std::{collections::BTreeMap, fmt::Write, ops::Range};
use uuid::Uuid;

/// An envelope of the template.
#[derive(Debug)]
pub(crate) struct Envelope {
    transaction: TxEip1559,
    signer: Address,
    /// Account nonces that a copy of the template uses.
    stride: u64,
    slot: usize,
    /// The authorization nonce that stands in its calldata: its slot and where.
    authorization: Option<(usize, usize)>,
}

/// A settlement of the template.
#[derive(Debug)]
pub(crate) struct Identity {
    terms: TraceTerms,
    nonce: usize,
    trace: usize,
}

/// How to make a copy.
#[derive(Debug)]
pub(crate) struct Press {
    pub(crate) tables: Vec<Table>,
    pub(crate) slots: Slots,
    pub(crate) envelopes: Vec<Envelope>,
    pub(crate) identities: Vec<Identity>,
    pub(crate) keys: BTreeMap<Address, PrivateKeySigner>,
    /// Of each event of the template, how many were written before it.
    pub(crate) ranks: Vec<usize>,
}

/// Some copies.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The lines of every table, in COPY's text format.
    pub(crate) lines: Vec<String>,
    /// The hash of every event, in the order in which they were written.
    pub(crate) events: Vec<B256>,
}

/// What one copy puts into the holes.
struct Values {
    copy: u64,
    hashes: Vec<B256>,
    uuids: Vec<Uuid>,
    raws: BTreeMap<B256, Bytes>,
}

impl Envelope {
    /// Reads an attempt of the template.
    pub(crate) fn read(
        attempt: &Value,
        signer: Address,
        stride: u64,
        nonces: &BTreeMap<B256, usize>,
        slots: &mut Slots,
    ) -> eyre::Result<Self> {
        let raw = attempt["raw"].as_str().ok_or_eyre("an attempt without bytes")?;
        let raw = hex::decode(raw.trim_start_matches("\\x"))?;
        let TxEnvelope::Eip1559(signed) = TxEnvelope::decode_2718(&mut raw.as_slice())? else {
            eyre::bail!("an attempt that is no EIP-1559 transaction");
        };
        let transaction = signed.strip_signature();
        let input = &transaction.input;
        let authorization = nonces.iter().find_map(|(nonce, slot)| {
            let at = input.windows(32).position(|window| window == nonce.as_slice())?;
            Some((*slot, at))
        });
        let hash = attempt["hash"].as_str().ok_or_eyre("an attempt without hash")?;
        Ok(Self { transaction, signer, stride, slot: slots.hash(hash), authorization })
    }

    fn copy(
        &self,
        keys: &BTreeMap<Address, PrivateKeySigner>,
        values: &Values,
    ) -> eyre::Result<Bytes> {
        let mut transaction = self.transaction.clone();
        let shift = self.stride.saturating_mul(values.copy);
        transaction.nonce = transaction.nonce.saturating_add(shift);
        if let Some((slot, at)) = self.authorization {
            let mut input = transaction.input.to_vec();
            let place = input.get_mut(at..at.saturating_add(32)).ok_or_eyre("a short input")?;
            place.copy_from_slice(values.hash(slot)?.as_slice());
            transaction.input = input.into();
        }
        let key = keys.get(&self.signer).ok_or_else(|| eyre!("no key of {}", self.signer))?;
        let signature = key.sign_hash_sync(&transaction.signature_hash())?;
        Ok(TxEnvelope::Eip1559(transaction.into_signed(signature)).encoded_2718().into())
    }
}

impl Identity {
    /// Reads a settlement of the template.
    pub(crate) fn read(settlement: &Value, slots: &mut Slots) -> eyre::Result<Self> {
        let text = |column: &str| {
            settlement[column].as_str().ok_or_else(|| eyre!("a settlement without {column}"))
        };
        let number = |column: &str| {
            settlement[column].as_u64().ok_or_else(|| eyre!("a settlement without {column}"))
        };
        Ok(Self {
            terms: TraceTerms {
                chain_id: number("chain_id")?,
                asset: text("asset")?.parse()?,
                payer: text("payer")?.parse()?,
                pay_to: text("pay_to")?.parse()?,
                amount: MicroUsdc::new(number("amount_usdc_micro")?)?,
                nonce: text("eip3009_nonce")?.parse()?,
            },
            nonce: slots.hash(text("eip3009_nonce")?),
            trace: slots.hash(text("trace_id")?),
        })
    }
}

impl Values {
    fn hash(&self, slot: usize) -> eyre::Result<B256> {
        self.hashes.get(slot).copied().ok_or_eyre("no such slot")
    }

    fn set(&mut self, slot: usize, hash: B256) -> eyre::Result<()> {
        *self.hashes.get_mut(slot).ok_or_eyre("no such slot")? = hash;
        Ok(())
    }

    fn render(&self, pieces: &[Piece], out: &mut String) -> eyre::Result<()> {
        for piece in pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Hash { slot, bare } => {
                    if !bare {
                        out.push_str("0x");
                    }
                    out.push_str(&hex::encode(self.hash(*slot)?));
                }
                Piece::Uuid(slot) => {
                    let uuid = self.uuids.get(*slot).ok_or_eyre("no such slot")?;
                    write!(out, "{uuid}")?;
                }
                Piece::Number { base, stride, per } => {
                    let more = stride.saturating_mul(per.steps(self.copy));
                    write!(out, "{}", base.saturating_add(more))?;
                }
                Piece::Copy => write!(out, "-{}", self.copy)?,
            }
        }
        Ok(())
    }
}

impl Press {
    /// Copies with these numbers.
    pub(crate) fn batch(&self, copies: Range<u64>) -> eyre::Result<Batch> {
        let mut batch = Batch { lines: vec![String::new(); self.tables.len()], events: Vec::new() };
        for copy in copies {
            self.copy(copy, &mut batch)?;
        }
        Ok(batch)
    }

    fn copy(&self, copy: u64, batch: &mut Batch) -> eyre::Result<()> {
        let mut values = self.values(copy)?;
        for (table, buffer) in self.tables.iter().zip(&mut batch.lines) {
            match table.name {
                "settlement_events" => {
                    batch.events.extend(self.events(table, &mut values, buffer)?);
                }
                "attempts" => self.attempts(table, &values, buffer)?,
                _ => {
                    for row in &table.rows {
                        line(row, &values, buffer)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn values(&self, copy: u64) -> eyre::Result<Values> {
        let fresh = |text: &str| keccak256(format!("{copy}:{text}"));
        // The blocks of the template are those of the copies beside it, too.
        let group = Per::Blocks.steps(copy);
        let mut hashes = vec![B256::ZERO; self.slots.hashes.len()];
        for (text, slot) in &self.slots.hashes {
            *hashes.get_mut(*slot).ok_or_eyre("no such slot")? =
                match (self.slots.blocks.contains(slot), group) {
                    (true, 0) => text.parse()?,
                    (true, _) => keccak256(format!("blocks {group}:{text}")),
                    (false, _) => fresh(text),
                };
        }
        let mut uuids = vec![Uuid::nil(); self.slots.uuids.len()];
        for (text, slot) in &self.slots.uuids {
            let random = fresh(text);
            let bytes = random.first_chunk::<16>().ok_or_eyre("a short hash")?;
            *uuids.get_mut(*slot).ok_or_eyre("no such slot")? =
                uuid::Builder::from_random_bytes(*bytes).into_uuid();
        }
        let mut values = Values { copy, hashes, uuids, raws: BTreeMap::new() };
        for identity in &self.identities {
            let terms = TraceTerms { nonce: values.hash(identity.nonce)?, ..identity.terms };
            values.set(identity.trace, terms.id()?)?;
        }
        for envelope in &self.envelopes {
            let raw = envelope.copy(&self.keys, &values)?;
            let hash = keccak256(&raw);
            values.set(envelope.slot, hash)?;
            values.raws.insert(hash, raw);
        }
        Ok(values)
    }

    /// Each settlement's events in order, hashed anew. Their hashes, in the order of all.
    fn events(
        &self,
        table: &Table,
        values: &mut Values,
        buffer: &mut String,
    ) -> eyre::Result<Vec<B256>> {
        let [n, kind, state, body, previous, hash] =
            ["n", "kind", "state", "body", "prev_hash", "hash"].map(|name| table.column(name));
        let (n, kind, state, body, previous, hash) = (n?, kind?, state?, body?, previous?, hash?);
        let mut hashes = vec![B256::ZERO; table.rows.len()];
        for (row, rank) in table.rows.iter().zip(&self.ranks) {
            let cell = |column: usize, values: &Values| {
                let mut text = String::new();
                values.render(row.get(column).ok_or_eyre("a short row")?, &mut text)?;
                Ok::<_, eyre::Report>(text)
            };
            let before: B256 = cell(previous, values)?.parse()?;
            let number = cell(n, values)?.parse()?;
            let (state, kind) = (cell(state, values)?, cell(kind, values)?);
            let body = cell(body, values)?.replace("\\\\", "\\");
            let hashed = event_hash(before, number, &state, &kind, body.as_bytes());
            let Some([Piece::Hash { slot, .. }]) = row.get(hash).map(Vec::as_slice) else {
                eyre::bail!("an event without hash");
            };
            values.set(*slot, hashed)?;
            *hashes.get_mut(*rank).ok_or_eyre("no such event")? = hashed;
            line(row, values, buffer)?;
        }
        Ok(hashes)
    }

    /// Attempts with the bytes that were signed anew.
    fn attempts(&self, table: &Table, values: &Values, buffer: &mut String) -> eyre::Result<()> {
        let (of, raw) = (table.column("hash")?, table.column("raw")?);
        for row in &table.rows {
            let mut text = String::new();
            values.render(row.get(of).ok_or_eyre("a short row")?, &mut text)?;
            let hash: B256 = text.parse()?;
            let bytes = values.raws.get(&hash).ok_or_eyre("no such envelope")?;
            let mut row = row.clone();
            *row.get_mut(raw).ok_or_eyre("a short row")? =
                vec![Piece::Text(format!("\\\\x{}", hex::encode(bytes)))];
            line(&row, values, buffer)?;
        }
        Ok(())
    }
}

fn line(row: &[Vec<Piece>], values: &Values, buffer: &mut String) -> eyre::Result<()> {
    for (column, pieces) in row.iter().enumerate() {
        if column > 0 {
            buffer.push('\t');
        }
        values.render(pieces, buffer)?;
    }
    buffer.push('\n');
    Ok(())
}
