//! Every payment's events against each other and against its columns.
//!
//! The events go by once, in the order in which they were written; of each payment only what the
//! columns must agree with is kept, as fingerprints under a key of this run.

use super::report::Check;
use crate::{
    ledger::{EventRow, SettlementRow},
    lifecycle::{Delivery, KeeperState, Status, TraceTerms, event_hash},
    x402::MicroUsdc,
};
use alloy::{hex, primitives::B256};
use foldhash::quality::RandomState;
use serde::Deserialize;
use std::{
    borrow::Cow,
    collections::HashMap,
    hash::{BuildHasher, Hash},
};
use uuid::Uuid;

/// What a payment's events say, in some hundred bytes: a million of them must fit.
#[derive(Default)]
struct State {
    /// Previous hash of its first event: the trace id.
    genesis: u64,
    /// Hash of its last event.
    last: u64,
    terms: u64,
    pull: u64,
    record: u64,
    split: u64,
    events: u32,
    status: Option<Status>,
    keeper: Option<KeeperState>,
    delivery: Option<Delivery>,
    is_rebuilt: bool,
    seen: bool,
}

/// Where a log stands, as an event's body has it.
#[derive(Deserialize, Hash)]
struct At<'r> {
    tx_hash: &'r str,
    log_index: i64,
    block_number: i64,
    #[serde(default)]
    block_hash: Option<&'r str>,
}

/// Shares, as an event's body has them.
#[derive(Deserialize, Hash)]
struct SharesMicro {
    provider: i64,
    hub: i64,
    reserve: i64,
}

/// Body of a split.
#[derive(Deserialize, Hash)]
struct Split<'r> {
    #[serde(borrow)]
    at: At<'r>,
    shares_micro: SharesMicro,
}

/// What was sold, as event 0 has it.
#[derive(Deserialize, Hash)]
struct Terms<'r> {
    #[serde(borrow)]
    agent_id: Option<Cow<'r, str>>,
    #[serde(borrow)]
    capability: Option<Cow<'r, str>>,
    content_hash: Option<&'r str>,
    payment_hash: Option<&'r str>,
    provider: Option<&'r str>,
    #[serde(borrow)]
    request_id: Option<Cow<'r, str>>,
    split_bps: Option<[i64; 3]>,
    splitter_capability_id: Option<&'r str>,
    #[serde(borrow)]
    valid_before: Option<Cow<'r, str>>,
    x402_version: Option<i64>,
}

/// What was sold, as event 0 of a payment that was read back from the chain has it.
#[derive(Deserialize, Hash)]
struct RebuiltTerms<'r> {
    #[serde(borrow)]
    capability: Option<Cow<'r, str>>,
    provider: Option<&'r str>,
    split_bps: Option<[i64; 3]>,
    splitter_capability_id: Option<&'r str>,
}

/// The checks that go over events and settlements.
pub(super) struct Payments {
    states: HashMap<u128, State, RandomState>,
    keys: RandomState,
    chain: Check,
    bodies: Check,
    owned: Check,
    trace: Check,
    standing: Check,
    evidence: Check,
    terms: Check,
}

impl Payments {
    pub(super) fn new(expected: usize) -> Self {
        Self {
            states: HashMap::with_capacity_and_hasher(expected, RandomState::default()),
            keys: RandomState::default(),
            chain: Check::new(
                "events.chain",
                "each payment's events are numbered without gaps, and each follows from the one \
                 before by its hash, the first from the trace id",
            ),
            bodies: Check::new("events.bodies", "an event that cites the chain says where"),
            owned: Check::new("events.payment", "every event belongs to a payment"),
            trace: Check::new(
                "payments.trace",
                "the trace id follows from chain, token, payer, payee, amount and authorization nonce",
            ),
            standing: Check::new(
                "payments.state",
                "status, keeper state and delivery are those of the last events",
            ),
            evidence: Check::new(
                "payments.evidence",
                "pull, record, split and shares are those of the last events that cite them",
            ),
            terms: Check::new("payments.terms", "what was sold is what the first event says"),
        }
    }

    /// A fingerprint; zero is kept for nothing.
    fn print(&self, value: &impl Hash) -> u64 {
        self.keys.hash_one(value).max(1)
    }

    /// An event goes by. Its hash as it stands there.
    pub(super) fn event(&mut self, row: &EventRow<'_>) -> B256 {
        self.chain.pass();
        let event = || format!("settlement_events {}", row.seq);
        let of = |what: &str| format!("event {} of payment {}: {what}", row.n, row.settlement_id);
        let (Some(previous), Some(hash)) = (bytes32(row.prev_hash), bytes32(row.hash)) else {
            self.chain.fail(event(), of("its hashes are no hashes"));
            return B256::ZERO;
        };
        let (Ok(id), Ok(n)) = (Uuid::parse_str(row.settlement_id), u32::try_from(row.n)) else {
            self.chain.fail(event(), of("it has no payment and number"));
            return hash;
        };
        if event_hash(previous, n, row.state, row.kind, row.body.as_bytes()) != hash {
            self.chain.fail(event(), of("it is not what its hash says"));
        }
        let (before, after) = (self.print(&previous), self.print(&hash));
        let found = self.cited(row);
        let state = self.states.entry(id.as_u128()).or_default();
        if n != state.events {
            self.chain.fail(event(), of(&format!("it should be number {}", state.events)));
        } else if n > 0 && before != state.last {
            self.chain.fail(event(), of("it does not follow from the event before it"));
        }
        if state.events == 0 {
            state.genesis = before;
        }
        state.events = n.saturating_add(1);
        state.last = after;
        match row.kind.split_once('.') {
            Some(("status", _)) => state.status = Status::from_word(row.state),
            Some(("keeper", _)) => state.keeper = KeeperState::from_word(row.state),
            Some(("delivery", _)) => state.delivery = Delivery::from_word(row.state),
            _ => {}
        }
        match (row.kind, found) {
            ("status.reserve", Ok(print)) if n == 0 => state.terms = print,
            ("rebuilt", Ok(print)) if n == 0 => {
                state.terms = print;
                state.is_rebuilt = true;
            }
            ("status.pull_seen", Ok(print)) => state.pull = print,
            ("keeper.record_seen", Ok(print)) => state.record = print,
            ("keeper.split_seen", Ok(print)) => state.split = print,
            ("status.pull_lost", _) => state.pull = 0,
            ("keeper.record_lost", _) => state.record = 0,
            ("keeper.split_lost", _) => state.split = 0,
            (_, Err(error)) => self.bodies.fail(event(), of(&error.to_string())),
            _ => {}
        }
        hash
    }

    /// Fingerprint of what an event's body cites.
    fn cited(&self, row: &EventRow<'_>) -> Result<u64, serde_json::Error> {
        let body = row.body;
        Ok(match row.kind {
            "status.reserve" if row.n == 0 => self.print(&serde_json::from_str::<Terms<'_>>(body)?),
            "rebuilt" if row.n == 0 => self.print(&serde_json::from_str::<RebuiltTerms<'_>>(body)?),
            "status.pull_seen" => self.print(&serde_json::from_str::<At<'_>>(body)?),
            "keeper.record_seen" => self.print(&serde_json::from_str::<At<'_>>(body)?),
            "keeper.split_seen" => self.print(&serde_json::from_str::<Split<'_>>(body)?),
            _ => 0,
        })
    }

    /// A payment goes by, after all events have.
    pub(super) fn settlement(&mut self, row: &SettlementRow<'_>) {
        let name = || format!("x402_settlements {}", row.id);
        let trace = bytes32(row.trace_id);
        self.trace.expect(trace.is_some() && trace == trace_of(row), || {
            (name(), "its trace id does not follow from its columns".to_owned())
        });
        let id = Uuid::parse_str(row.id).map(|id| id.as_u128()).unwrap_or_default();
        let genesis = trace.map_or(0, |trace| self.print(&trace));
        let [pull, record, split, terms] = self.columns(row);
        let rebuilt = self.print(&RebuiltTerms {
            capability: row.capability_id.map(Cow::Borrowed),
            provider: row.provider,
            split_bps: split_bps(row),
            splitter_capability_id: row.splitter_capability_id,
        });
        self.standing.pass();
        let Some(state) = self.states.get_mut(&id) else {
            self.standing.fail(name(), "it has no events");
            return;
        };
        state.seen = true;
        if state.genesis != genesis {
            self.chain.fail(name(), "its events do not begin with its trace id");
        }
        let stands = |what: &str, column: &str, event: Option<&str>| {
            let event = event.unwrap_or("none");
            (column != event).then(|| format!("{what} is {column}, by its events {event}"))
        };
        let problems = [
            stands("status", row.status, state.status.map(Status::as_str)),
            stands("keeper_state", row.keeper_state, state.keeper.map(KeeperState::as_str)),
            stands(
                "its delivery",
                row.delivery.unwrap_or("none"),
                state.delivery.map(Delivery::as_str),
            ),
        ];
        for problem in problems.into_iter().flatten() {
            self.standing.fail(name(), problem);
        }
        self.evidence.pass();
        for (what, column, event) in [
            ("pull", pull, state.pull),
            ("record", record, state.record),
            ("split", split, state.split),
        ] {
            if column != event {
                self.evidence.fail(name(), format!("its {what} is not the one its events cite"));
            }
        }
        let terms = if state.is_rebuilt { rebuilt } else { terms };
        if state.terms != 0 {
            self.terms.expect(state.terms == terms, || {
                (name(), "its terms are not those of its first event".to_owned())
            });
        }
    }

    /// Fingerprints of pull, record, split and terms by the columns.
    fn columns(&self, row: &SettlementRow<'_>) -> [u64; 4] {
        let at = |tx_hash, log_index, block_number, block_hash| {
            Some(At {
                tx_hash: tx_hash?,
                log_index: log_index?,
                block_number: block_number?,
                block_hash,
            })
        };
        let pull = at(row.tx_hash, row.log_index, row.block_number, row.block_hash);
        let record = at(row.record_tx_hash, row.record_log_index, row.record_block_number, None);
        let split = at(row.split_tx_hash, row.split_log_index, row.split_block_number, None);
        let shares = match (row.provider_share_micro, row.hub_share_micro, row.network_share_micro)
        {
            (Some(provider), Some(hub), Some(reserve)) => {
                Some(SharesMicro { provider, hub, reserve })
            }
            _ => None,
        };
        let split = split.zip(shares).map(|(at, shares_micro)| Split { at, shares_micro });
        let terms = Terms {
            agent_id: row.agent_id.map(Cow::Borrowed),
            capability: row.capability_id.map(Cow::Borrowed),
            content_hash: row.content_hash,
            payment_hash: row.payment_hash,
            provider: row.provider,
            request_id: row.request_id.map(Cow::Borrowed),
            split_bps: split_bps(row),
            splitter_capability_id: row.splitter_capability_id,
            valid_before: Some(Cow::Owned(row.valid_before.to_string())),
            x402_version: row.x402_version,
        };
        [
            pull.map_or(0, |at| self.print(&at)),
            record.map_or(0, |at| self.print(&at)),
            split.map_or(0, |split| self.print(&split)),
            self.print(&terms),
        ]
    }

    /// All payments have gone by.
    pub(super) fn finish(mut self) -> Vec<Check> {
        for (id, state) in &self.states {
            self.owned.expect(state.seen, || {
                let id = Uuid::from_u128(*id);
                (
                    format!("x402_settlements {id}"),
                    format!("{} events are there, but not the payment", state.events),
                )
            });
        }
        self.bodies.checked = self.chain.checked;
        vec![
            self.chain,
            self.bodies,
            self.owned,
            self.trace,
            self.standing,
            self.evidence,
            self.terms,
        ]
    }
}

/// Shares by the columns.
fn split_bps(row: &SettlementRow<'_>) -> Option<[i64; 3]> {
    Some([row.provider_bps?, row.hub_bps?, row.reserve_bps?])
}

/// 32 bytes of lower-case 0x hex.
fn bytes32(text: &str) -> Option<B256> {
    let mut bytes = B256::ZERO;
    hex::decode_to_slice(text.strip_prefix("0x")?, bytes.as_mut_slice()).ok()?;
    Some(bytes)
}

/// The trace id that a payment must have.
fn trace_of(row: &SettlementRow<'_>) -> Option<B256> {
    let terms = TraceTerms {
        chain_id: u64::try_from(row.chain_id).ok()?,
        asset: row.asset.parse().ok()?,
        payer: row.payer.parse().ok()?,
        pay_to: row.pay_to.parse().ok()?,
        amount: MicroUsdc::new(u64::try_from(row.amount_usdc_micro).ok()?).ok()?,
        nonce: bytes32(row.eip3009_nonce)?,
    };
    terms.id().ok()
}
