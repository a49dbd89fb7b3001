//! The ledger keeps its promises on both databases.

mod books;
mod identities;
mod migration;
mod opening;
mod outbox;
mod plans;
mod reversals;
mod schema;

use crate::support::{Draft, HERE, new_settlement, postgres};
use alloy::{
    primitives::{Address, B256, Bytes, U256, address},
    signers::local::PrivateKeySigner,
};
use keeper::{
    ledger::{
        AccountCode, Action, Cost, Envelope, Identity, JournalKind, Lease, Ledger, LedgerError,
        LogRef, MirrorWindow, NewIntent, NewSettlement, Posting, Pull, Reservation, Settlement,
        SettlementQuery, SignerRole, SplitterRecord, Stream, TokenSighting,
    },
    lifecycle::{
        AttemptKind, Delivery, Failure, Fees, IntentKind, KeeperEvent, Standing, Status,
        StatusEvent, TransactionState,
    },
    splitter::SplitTerms,
    x402::{MicroUsdc, Network},
};
use serde_json::json;
use std::{future::Future, time::Duration};

pub(super) const SPLITTER: Address = address!("0x2222222222222222222222222222222222222222");
pub(super) const SIGNER: Address = address!("0x3333333333333333333333333333333333333333");
pub(super) const CAPABILITY: B256 = B256::repeat_byte(0xca);
pub(super) const COST: Cost = Cost { max: 1_000, data: 0 };
pub(super) const TTL: Duration = Duration::from_secs(60);

/// A fresh database and a way to change it behind the ledger's back.
pub(super) struct Database {
    pub(super) ledger: Ledger,
    pub(super) url: String,
}

impl Database {
    /// Runs SQL as somebody who has the database's password.
    pub(super) async fn tamper(&self, sql: &str) -> Result<(), sqlx::Error> {
        crate::support::tamper(&self.url, sql).await
    }
}

/// Runs a test on SQLite and on PostgreSQL.
pub(super) async fn on_both<F: Future<Output = ()>>(test: impl Fn(Database) -> F) {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite:{}", folder.path().join("keeper.db").display());
    for url in [sqlite, postgres().await] {
        let ledger = Ledger::open(&url).await.unwrap();
        let mut tx = ledger.begin().await.unwrap();
        tx.enter_splitter(&splitter()).await.unwrap();
        tx.commit(HERE).await.unwrap();
        test(Database { ledger, url }).await;
    }
}

pub(super) fn splitter() -> SplitterRecord {
    SplitterRecord {
        chain_id: 84_532,
        address: SPLITTER,
        asset: Network::BaseSepolia.usdc().address,
        hub_treasury: Address::repeat_byte(0x77),
        network_reserve: Address::repeat_byte(0x88),
        authorized_settler: SIGNER,
        per_tx_cap: MicroUsdc::new(1_000_000_000).unwrap(),
        first_block: 0,
    }
}

pub(super) fn usdc(micro: u64) -> MicroUsdc {
    MicroUsdc::new(micro).unwrap()
}

/// A verified payment of a payer, for a request.
pub(super) fn payment(draft: &Draft, request: &str, content: u8) -> NewSettlement {
    let terms = SplitTerms { provider: Address::repeat_byte(0x99), bps: [8_500, 1_000, 500] };
    new_settlement(draft, terms, request, content)
}

pub(super) fn draft(payer: &PrivateKeySigner) -> Draft {
    Draft::new(payer, SPLITTER)
}

pub(super) async fn reserve(
    ledger: &Ledger,
    new: &NewSettlement,
) -> Result<Reservation, LedgerError> {
    let mut tx = ledger.begin().await?;
    let reservation = tx.reserve(new).await?;
    tx.commit(HERE).await?;
    Ok(reservation)
}

pub(super) async fn reserved(ledger: &Ledger, new: &NewSettlement) -> Settlement {
    match reserve(ledger, new).await.unwrap() {
        Reservation::Reserved(settlement) => settlement,
        other => panic!("not reserved: {other:?}"),
    }
}

/// A payment that was seen on the chain.
pub(super) async fn paid(ledger: &Ledger, new: &NewSettlement, block: u64) -> Settlement {
    let settlement = reserved(ledger, new).await;
    let settlement = step(ledger, &settlement, StatusEvent::Settle).await;
    let mut tx = ledger.begin().await.unwrap();
    tx.pull_seen(&settlement, &log(block, 1)).await.unwrap();
    tx.commit(HERE).await.unwrap();
    settlement
}

pub(super) async fn step(ledger: &Ledger, known: &Settlement, event: StatusEvent) -> Settlement {
    let mut tx = ledger.begin().await.unwrap();
    tx.step_status(known, event, &json!({})).await.unwrap();
    tx.commit(HERE).await.unwrap();
    let mut tx = ledger.read().await.unwrap();
    tx.settlement(known.id).await.unwrap().unwrap()
}

pub(super) fn log(block: u64, index: u64) -> LogRef {
    LogRef {
        tx_hash: B256::repeat_byte(u8::try_from(block).unwrap()),
        log_index: index,
        block_number: block,
        block_hash: B256::repeat_byte(0xb0),
    }
}

pub(super) async fn lead(ledger: &Ledger, holder: &str) -> Lease {
    let lease = ledger.acquire_lease("chain:84532", holder, TTL).await.unwrap().unwrap();
    let mut tx = ledger.begin().await.unwrap();
    tx.adopt_signer(&lease, 84_532, SIGNER, SignerRole::Settler, 7).await.unwrap();
    tx.commit(HERE).await.unwrap();
    lease
}

pub(super) async fn add_record(
    ledger: &Ledger,
    settlement: &Settlement,
) -> Result<(), LedgerError> {
    let mut tx = ledger.begin().await?;
    tx.add_intent(&NewIntent {
        chain_id: 84_532,
        splitter: SPLITTER,
        signer: SIGNER,
        kind: IntentKind::Record,
        settlement: Some(settlement.id),
        splitter_capability_id: CAPABILITY,
        to: SPLITTER,
        calldata: Bytes::from_static(b"call"),
        gas_limit: 100_000,
        valid_before: None,
    })
    .await?;
    let known = tx.settlement(settlement.id).await?.unwrap();
    tx.step_keeper(&known, KeeperEvent::Record, &json!({})).await?;
    tx.commit(HERE).await
}

pub(super) fn envelope(byte: u8) -> Envelope {
    Envelope {
        hash: B256::repeat_byte(byte),
        kind: AttemptKind::First,
        raw: Bytes::from(vec![byte; 8]),
        fees: Fees { max_fee_per_gas: 10, max_priority_fee_per_gas: 1 },
        age: 0,
    }
}

/// Takes a record from intent to signed envelope.
pub(super) async fn sign(ledger: &Ledger, lease: &Lease, settlement: &Settlement, byte: u8) {
    add_record(ledger, settlement).await.unwrap();
    let mut tx = ledger.begin().await.unwrap();
    let intents = tx.due_intents(84_532, SIGNER, 10).await.unwrap();
    tx.plan(lease, 84_532, SIGNER, &intents[0], COST).await.unwrap();
    let unsigned = tx.unsigned(84_532, SIGNER).await.unwrap();
    tx.add_envelope(lease, unsigned[0].id, &envelope(byte)).await.unwrap();
    tx.commit(HERE).await.unwrap();
}

pub(super) async fn post(
    ledger: &Ledger,
    at: &LogRef,
    postings: &[Posting],
) -> Result<(), LedgerError> {
    let mut tx = ledger.begin().await?;
    tx.post(84_532, SPLITTER, JournalKind::UnattributedInflow, None, at, postings).await?;
    tx.commit(HERE).await
}
