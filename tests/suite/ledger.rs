//! The ledger keeps its promises on both databases.

use crate::support::{Draft, new_settlement, postgres};
use alloy::{
    primitives::{Address, B256, Bytes, U256, address},
    signers::local::PrivateKeySigner,
};
use keeper::{
    ledger::{
        AccountCode, Envelope, IntentKind, JournalKind, Lease, Ledger, LedgerError, LogRef,
        MirrorWindow, NewIntent, NewSettlement, Posting, Pull, Reservation, Settlement,
        SettlementQuery, SignerRole, SplitterRecord, Stream,
    },
    lifecycle::{AttemptKind, Delivery, Failure, Standing, Status, StatusEvent, TransactionState},
    splitter::SplitTerms,
    x402::{MicroUsdc, Network},
};
use serde_json::json;
use std::{future::Future, time::Duration};

const SPLITTER: Address = address!("0x2222222222222222222222222222222222222222");
const SIGNER: Address = address!("0x3333333333333333333333333333333333333333");
const CAPABILITY: B256 = B256::repeat_byte(0xca);
const TTL: Duration = Duration::from_secs(60);

/// A fresh database and a way to change it behind the ledger's back.
struct Database {
    ledger: Ledger,
    url: String,
}

impl Database {
    /// Runs SQL as somebody who has the database's password.
    async fn tamper(&self, sql: &str) -> Result<(), sqlx::Error> {
        crate::support::tamper(&self.url, sql).await
    }
}

/// Runs a test on SQLite and on PostgreSQL.
async fn on_both<F: Future<Output = ()>>(test: impl Fn(Database) -> F) {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite:{}", folder.path().join("keeper.db").display());
    for url in [sqlite, postgres().await] {
        let ledger = Ledger::open(&url).await.unwrap();
        let mut tx = ledger.begin().await.unwrap();
        tx.enter_splitter(&splitter()).await.unwrap();
        tx.commit().await.unwrap();
        test(Database { ledger, url }).await;
    }
}

fn splitter() -> SplitterRecord {
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

fn usdc(micro: u64) -> MicroUsdc {
    MicroUsdc::new(micro).unwrap()
}

/// A verified payment of a payer, for a request.
fn payment(draft: &Draft, request: &str, content: u8) -> NewSettlement {
    let terms = SplitTerms { provider: Address::repeat_byte(0x99), bps: [8_500, 1_000, 500] };
    new_settlement(draft, terms, request, content)
}

fn draft(payer: &PrivateKeySigner) -> Draft {
    Draft::new(payer, SPLITTER)
}

async fn reserve(ledger: &Ledger, new: &NewSettlement) -> Result<Reservation, LedgerError> {
    let mut tx = ledger.begin().await?;
    let reservation = tx.reserve(new).await?;
    tx.commit().await?;
    Ok(reservation)
}

async fn reserved(ledger: &Ledger, new: &NewSettlement) -> Settlement {
    match reserve(ledger, new).await.unwrap() {
        Reservation::Reserved(settlement) => settlement,
        other => panic!("not reserved: {other:?}"),
    }
}

async fn step(ledger: &Ledger, known: &Settlement, event: StatusEvent) -> Settlement {
    let mut tx = ledger.begin().await.unwrap();
    tx.step_status(known, event, &json!({})).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = ledger.read().await.unwrap();
    tx.settlement(known.id).await.unwrap().unwrap()
}

fn log(block: u64, index: u64) -> LogRef {
    LogRef {
        tx_hash: B256::repeat_byte(u8::try_from(block).unwrap()),
        log_index: index,
        block_number: block,
        block_hash: B256::repeat_byte(0xb0),
    }
}

// ------------------------------------------------------------------------------ reserving

#[tokio::test]
async fn an_identity_belongs_to_one_request() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        let paid = draft(&payer);
        let new = payment(&paid, "request-1", 1);
        let settlement = reserved(&db.ledger, &new).await;
        assert_eq!(settlement.status, Status::Reserved);

        // The very same call joins.
        let again = reserve(&db.ledger, &new).await.unwrap();
        assert!(matches!(again, Reservation::Joined(known) if known.id == settlement.id));
        // The authorization for another request, or for other content, or under another header.
        for other in [
            payment(&paid, "request-2", 1),
            payment(&paid, "request-1", 2),
            NewSettlement { payment_hash: B256::ZERO, ..new.clone() },
            NewSettlement { agent_id: "somebody".to_owned(), ..new.clone() },
        ] {
            let answer = reserve(&db.ledger, &other).await.unwrap();
            assert!(matches!(answer, Reservation::NonceReused(known) if known.id == settlement.id));
        }
        // The request with another authorization: paid otherwise, or another call.
        let second = draft(&payer);
        let answer = reserve(&db.ledger, &payment(&second, "request-1", 1)).await.unwrap();
        assert!(matches!(answer, Reservation::PaidOtherwise(known) if known.id == settlement.id));
        let answer = reserve(&db.ledger, &payment(&second, "request-1", 2)).await.unwrap();
        assert!(matches!(answer, Reservation::DuplicateRequest));
    })
    .await;
}

#[tokio::test]
async fn many_callers_at_once_reserve_once() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        let new = payment(&draft(&payer), "request-1", 1);
        let callers = (0..20).map(|_| {
            let (ledger, new) = (db.ledger.clone(), new.clone());
            tokio::spawn(async move {
                loop {
                    match reserve(&ledger, &new).await {
                        Ok(reservation) => return matches!(reservation, Reservation::Reserved(_)),
                        Err(error) => {
                            assert!(error.is_conflict() || error.is_duplicate(), "{error}");
                        }
                    }
                }
            })
        });
        let mut winners = 0;
        for caller in callers.collect::<Vec<_>>() {
            winners += u32::from(caller.await.unwrap());
        }
        assert_eq!(winners, 1);
    })
    .await;
}

#[tokio::test]
async fn what_was_released_may_be_reserved_again_by_the_same_request_only() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        let paid = draft(&payer);
        let new = payment(&paid, "request-1", 1);
        let settlement = reserved(&db.ledger, &new).await;
        let settlement = step(&db.ledger, &settlement, StatusEvent::Lapse).await;
        assert_eq!(settlement.status, Status::Released);

        let other = reserve(&db.ledger, &payment(&paid, "request-2", 1)).await.unwrap();
        assert!(matches!(other, Reservation::NonceReused(_)));
        let again = reserved(&db.ledger, &new).await;
        assert_eq!(again.id, settlement.id, "rows are never deleted");
        assert_eq!(again.status, Status::Reserved);
        // And its request may be paid by another authorization once it is released for good.
        step(&db.ledger, &again, StatusEvent::Lapse).await;
        reserved(&db.ledger, &payment(&draft(&payer), "request-1", 1)).await;
    })
    .await;
}

#[tokio::test]
async fn a_stale_reader_cannot_move_a_settlement() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        let settlement = reserved(&db.ledger, &payment(&draft(&payer), "request-1", 1)).await;
        step(&db.ledger, &settlement, StatusEvent::Settle).await;
        let mut tx = db.ledger.begin().await.unwrap();
        let error = tx.step_status(&settlement, StatusEvent::Lapse, &json!({})).await.unwrap_err();
        assert!(matches!(error, LedgerError::Conflict(_)), "{error}");
    })
    .await;
}

// ------------------------------------------------------------------------------ events

#[tokio::test]
async fn every_step_is_chained_to_the_trace() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        let settlement = reserved(&db.ledger, &payment(&draft(&payer), "request-1", 1)).await;
        let settlement = step(&db.ledger, &settlement, StatusEvent::Settle).await;
        let mut tx = db.ledger.begin().await.unwrap();
        tx.pull_seen(&settlement, &log(3, 1)).await.unwrap();
        tx.commit().await.unwrap();

        let mut tx = db.ledger.read().await.unwrap();
        let events = tx.events(settlement.id).await.unwrap();
        let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(kinds, ["status.reserve", "status.settle", "status.pull_seen"]);
        let mut previous = settlement.trace_id;
        for event in &events {
            assert_eq!(event.prev_hash, previous);
            assert_eq!(event.expected_hash(), Some(event.hash));
            previous = event.hash;
        }
        let context: serde_json::Value = serde_json::from_str(&events[0].body).unwrap();
        assert_eq!(context["request_id"], "request-1");
    })
    .await;
}

/// Two services append to one log at the same time: both appear, in one chain.
#[tokio::test]
async fn concurrent_writers_append_one_after_the_other() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        let settlement = reserved(&db.ledger, &payment(&draft(&payer), "request-1", 1)).await;
        let settlement = step(&db.ledger, &settlement, StatusEvent::Settle).await;
        let pull = {
            let (ledger, settlement) = (db.ledger.clone(), settlement.clone());
            tokio::spawn(async move {
                let mut tx = ledger.begin().await.unwrap();
                tx.pull_seen(&settlement, &log(3, 1)).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
                tx.commit().await.unwrap();
            })
        };
        let delivery = {
            let (ledger, settlement) = (db.ledger.clone(), settlement.clone());
            tokio::spawn(async move {
                let mut tx = ledger.begin().await.unwrap();
                tx.begin_delivery(&settlement, None, false).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
                tx.commit().await.unwrap();
            })
        };
        pull.await.unwrap();
        delivery.await.unwrap();
        let mut tx = db.ledger.read().await.unwrap();
        let events = tx.events(settlement.id).await.unwrap();
        assert_eq!(events.len(), 4);
        assert!(events.windows(2).all(|pair| pair[1].prev_hash == pair[0].hash));
    })
    .await;
}

// ------------------------------------------------------------------------------ nothing is lost

#[tokio::test]
async fn history_cannot_be_rewritten() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        let settlement = reserved(&db.ledger, &payment(&draft(&payer), "request-1", 1)).await;
        let lease = lead(&db.ledger, "a").await;
        sign(&db.ledger, &lease, &settlement, 1).await;
        post(
            &db.ledger,
            &log(3, 1),
            &[
                Posting::debit(AccountCode::Splitter, usdc(5)),
                Posting::credit(AccountCode::Suspense, usdc(5)),
            ],
        )
        .await
        .unwrap();

        for sql in [
            "UPDATE settlement_events SET body = '{}'",
            "DELETE FROM settlement_events",
            "UPDATE attempts SET raw = raw",
            "DELETE FROM attempts",
            "UPDATE transaction_intents SET intent_id = intent_id",
            "DELETE FROM transaction_intents",
            "DELETE FROM transactions",
            "DELETE FROM intents",
            "DELETE FROM signers",
            "DELETE FROM leases",
            "DELETE FROM x402_settlements",
            "UPDATE journals SET kind = 'refund'",
            "DELETE FROM journals",
            "UPDATE postings SET amount_micro = 1",
            "DELETE FROM postings",
            "DELETE FROM accounts",
            "DELETE FROM splitters",
        ] {
            let error = db.tamper(sql).await.expect_err(sql).to_string();
            assert!(error.contains("forbidden"), "{sql}: {error}");
        }
        if db.url.starts_with("postgres") {
            for table in ["settlement_events", "attempts", "postings", "journals"] {
                let sql = format!("TRUNCATE {table} CASCADE");
                let error = db.tamper(&sql).await.expect_err(&sql).to_string();
                assert!(error.contains("forbidden"), "{sql}: {error}");
            }
        } else {
            let sql = "REPLACE INTO attempts SELECT * FROM attempts";
            let error = db.tamper(sql).await.expect_err(sql).to_string();
            assert!(error.contains("forbidden"), "{error}");
        }
    })
    .await;
}

/// Evidence before status, by the schema itself.
#[tokio::test]
async fn no_status_without_its_evidence() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        reserved(&db.ledger, &payment(&draft(&payer), "request-1", 1)).await;
        for sql in [
            "UPDATE x402_settlements SET status = 'chain_confirmed'",
            "UPDATE x402_settlements SET status = 'paid'",
            "UPDATE x402_settlements SET keeper_state = 'recorded'",
            "UPDATE x402_settlements SET keeper_state = 'split'",
            "UPDATE x402_settlements SET amount_usdc_micro = 0",
        ] {
            assert!(db.tamper(sql).await.is_err(), "{sql}");
        }
    })
    .await;
}

// ------------------------------------------------------------------------------ outbox

async fn lead(ledger: &Ledger, holder: &str) -> Lease {
    let mut tx = ledger.begin().await.unwrap();
    let lease = tx.acquire_lease("chain:84532", holder, TTL).await.unwrap().unwrap();
    tx.adopt_signer(&lease, 84_532, SIGNER, SignerRole::Settler, 7).await.unwrap();
    tx.commit().await.unwrap();
    lease
}

async fn add_record(ledger: &Ledger, settlement: &Settlement) -> Result<(), LedgerError> {
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
    tx.commit().await
}

fn envelope(byte: u8) -> Envelope {
    Envelope {
        hash: B256::repeat_byte(byte),
        kind: AttemptKind::First,
        raw: Bytes::from(vec![byte; 8]),
        max_fee_per_gas: 10,
        max_priority_fee_per_gas: 1,
    }
}

/// Takes a record from intent to signed envelope.
async fn sign(ledger: &Ledger, lease: &Lease, settlement: &Settlement, byte: u8) {
    add_record(ledger, settlement).await.unwrap();
    let mut tx = ledger.begin().await.unwrap();
    let intents = tx.due_intents(84_532, SIGNER, 10).await.unwrap();
    tx.plan(lease, 84_532, SIGNER, &intents[0]).await.unwrap();
    let unsigned = tx.unsigned(84_532, SIGNER).await.unwrap();
    tx.add_envelope(lease, unsigned[0].id, &envelope(byte)).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_payment_is_handed_to_the_outbox_once() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        let settlement = reserved(&db.ledger, &payment(&draft(&payer), "request-1", 1)).await;
        add_record(&db.ledger, &settlement).await.unwrap();
        let error = add_record(&db.ledger, &settlement).await.unwrap_err();
        assert!(error.is_duplicate(), "{error}");
    })
    .await;
}

#[tokio::test]
async fn account_nonces_are_allocated_without_gap_or_repeat() {
    on_both(|db| async move {
        let lease = lead(&db.ledger, "a").await;
        let mut nonces = Vec::new();
        for n in 0..5u8 {
            let payer = PrivateKeySigner::random();
            let new = payment(&draft(&payer), "request-1", 1);
            let settlement = reserved(&db.ledger, &new).await;
            add_record(&db.ledger, &settlement).await.unwrap();
            let mut tx = db.ledger.begin().await.unwrap();
            let intents = tx.due_intents(84_532, SIGNER, 10).await.unwrap();
            let nonce = tx.plan(&lease, 84_532, SIGNER, &intents[0]).await.unwrap();
            if n == 2 {
                // A crash before the commit: nothing happened.
                drop(tx);
                let mut tx = db.ledger.begin().await.unwrap();
                let again = tx.plan(&lease, 84_532, SIGNER, &intents[0]).await.unwrap();
                assert_eq!(again, nonce);
                tx.commit().await.unwrap();
            } else {
                tx.commit().await.unwrap();
            }
            nonces.push(nonce);
        }
        assert_eq!(nonces, [7, 8, 9, 10, 11]);
        let mut tx = db.ledger.read().await.unwrap();
        assert_eq!(tx.pending_transactions(84_532, SIGNER).await.unwrap(), 5);
    })
    .await;
}

/// An old leader that wakes up after another took over can neither allocate nor persist.
#[tokio::test]
async fn a_stale_leader_cannot_write() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        let settlement = reserved(&db.ledger, &payment(&draft(&payer), "request-1", 1)).await;
        let old = lead(&db.ledger, "a").await;
        add_record(&db.ledger, &settlement).await.unwrap();

        let mut tx = db.ledger.begin().await.unwrap();
        assert!(tx.acquire_lease("chain:84532", "b", TTL).await.unwrap().is_none(), "held");
        tx.release_lease(&old).await.unwrap();
        tx.commit().await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        let new = lead(&db.ledger, "b").await;
        assert_eq!(new.epoch, old.epoch + 1);

        let mut tx = db.ledger.begin().await.unwrap();
        let intents = tx.due_intents(84_532, SIGNER, 10).await.unwrap();
        let error = tx.plan(&old, 84_532, SIGNER, &intents[0]).await.unwrap_err();
        assert!(error.is_lease_lost(), "{error}");
        let error = tx.renew_lease(&old, TTL).await.unwrap_err();
        assert!(error.is_lease_lost(), "{error}");
        tx.plan(&new, 84_532, SIGNER, &intents[0]).await.unwrap();
        let unsigned = tx.unsigned(84_532, SIGNER).await.unwrap();
        let error = tx.add_envelope(&old, unsigned[0].id, &envelope(1)).await.unwrap_err();
        assert!(error.is_lease_lost(), "{error}");
        // Releasing what is not ours any more changes nothing.
        tx.release_lease(&old).await.unwrap();
        assert!(tx.lease_is_held("chain:84532").await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn a_final_transaction_stays_as_it_is() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        let settlement = reserved(&db.ledger, &payment(&draft(&payer), "request-1", 1)).await;
        let lease = lead(&db.ledger, "a").await;
        sign(&db.ledger, &lease, &settlement, 1).await;
        let mut tx = db.ledger.begin().await.unwrap();
        let outgoing = tx.outgoing(84_532, SIGNER).await.unwrap();
        assert_eq!(outgoing[0].envelopes[0].hash, B256::repeat_byte(1));
        let latest = tx.latest_envelope(settlement.id, IntentKind::Record).await.unwrap();
        assert_eq!(latest, Some(B256::repeat_byte(1)));
        let parked = Standing { state: TransactionState::Parked, is_final: true };
        tx.set_standing(&lease, &outgoing[0], parked, None).await.unwrap();
        let error = tx.set_standing(&lease, &outgoing[0], parked, None).await.unwrap_err();
        assert!(matches!(error, LedgerError::Conflict(_)), "{error}");
        assert!(tx.outgoing(84_532, SIGNER).await.unwrap().is_empty());
    })
    .await;
}

/// What would revert is put off behind what is due, each time for longer; what is held is not due.
#[tokio::test]
async fn work_that_is_put_off_makes_room() {
    on_both(|db| async move {
        let lease = lead(&db.ledger, "a").await;
        let mut settlements = Vec::new();
        for n in 0..3 {
            let payer = PrivateKeySigner::random();
            let new = payment(&draft(&payer), &format!("request-{n}"), 1);
            let settlement = reserved(&db.ledger, &new).await;
            add_record(&db.ledger, &settlement).await.unwrap();
            settlements.push(settlement);
        }
        let due = || async {
            let mut tx = db.ledger.read().await.unwrap();
            tx.due_intents(84_532, SIGNER, 10).await.unwrap()
        };
        let all: Vec<_> = due().await.iter().map(|intent| intent.id).collect();
        assert_eq!(all.len(), 3);
        let mut tx = db.ledger.begin().await.unwrap();
        tx.defer_intent(&lease, all[0], Duration::from_millis(500), "reverts").await.unwrap();
        assert!(tx.hold_record(settlements[1].id, "for a human").await.unwrap());
        assert!(!tx.hold_record(settlements[1].id, "again").await.unwrap(), "it is held already");
        tx.commit().await.unwrap();
        assert_eq!(due().await.iter().map(|intent| intent.id).collect::<Vec<_>>(), [all[2]]);
        crate::support::eventually("it is due again", || async { due().await.len() == 2 }).await;
        let again = due().await;
        assert_eq!((again[0].id, again[0].deferrals), (all[2], 0), "the other one was first");
        assert_eq!((again[1].id, again[1].deferrals), (all[0], 1));
    })
    .await;
}

// ------------------------------------------------------------------------------ deliveries

/// Whoever called the provider last stores the answer; one that comes late but first still counts,
/// and no refund is due any more.
#[tokio::test]
async fn a_delivery_belongs_to_its_last_attempt() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        let settlement = reserved(&db.ledger, &payment(&draft(&payer), "request-1", 1)).await;
        let mut tx = db.ledger.begin().await.unwrap();
        let first = tx.begin_delivery(&settlement, None, true).await.unwrap();
        let known = tx.delivery(settlement.id).await.unwrap();
        assert!(tx.begin_delivery(&settlement, known.as_ref(), true).await.is_err(), "called");
        tx.fail_delivery(&settlement, first, Failure::Lost, "gone").await.unwrap();
        let known = tx.delivery(settlement.id).await.unwrap();
        assert!(tx.begin_delivery(&settlement, known.as_ref(), false).await.is_err(), "once only");
        let second = tx.begin_delivery(&settlement, known.as_ref(), true).await.unwrap();
        assert_eq!((first, second), (1, 2));
        let late = tx.finish_delivery(&settlement, first, 200, &json!({"late": true})).await;
        assert!(matches!(late, Err(LedgerError::Conflict(_))), "{late:?}");
        tx.fail_delivery(&settlement, second, Failure::Lost, "gone").await.unwrap();
        tx.finish_delivery(&settlement, second, 200, &json!({"late": false})).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = db.ledger.read().await.unwrap();
        let known = tx.delivery(settlement.id).await.unwrap().unwrap();
        assert_eq!(known.state, Delivery::Delivered);
        assert_eq!((known.response, known.failure), (Some(json!({"late": false})), None));
    })
    .await;
}

// ------------------------------------------------------------------------------ journal

/// A refused journal does not spoil what was booked before it in the same transaction.
#[tokio::test]
async fn a_refused_journal_is_undone_alone() {
    on_both(|db| async move {
        let inflow = |account, amount| {
            [
                Posting::debit(account, usdc(amount)),
                Posting::credit(AccountCode::Suspense, usdc(amount)),
            ]
        };
        let kind = JournalKind::UnattributedInflow;
        let mut tx = db.ledger.begin().await.unwrap();
        tx.mark().await.unwrap();
        let good = inflow(AccountCode::Splitter, 100);
        tx.post(84_532, SPLITTER, kind, None, &log(1, 0), &good).await.unwrap();
        tx.keep().await.unwrap();
        tx.mark().await.unwrap();
        let overdrawn = inflow(AccountCode::Clearing(CAPABILITY), 1);
        let error =
            tx.post(84_532, SPLITTER, kind, None, &log(1, 1), &overdrawn).await.unwrap_err();
        assert!(error.is_refusal() && !error.is_conflict(), "{error}");
        tx.undo().await.unwrap();
        let good = inflow(AccountCode::Splitter, 7);
        tx.post(84_532, SPLITTER, kind, None, &log(1, 2), &good).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = db.ledger.read().await.unwrap();
        let accounts = tx.accounts(84_532, SPLITTER).await.unwrap();
        assert_eq!(accounts.len(), 2, "the refused one's account is undone too: {accounts:?}");
        assert_eq!((accounts[0].debits, accounts[0].credits, accounts[0].balance), (107, 0, 107));
    })
    .await;
}

async fn post(ledger: &Ledger, at: &LogRef, postings: &[Posting]) -> Result<(), LedgerError> {
    let mut tx = ledger.begin().await?;
    tx.post(84_532, SPLITTER, JournalKind::UnattributedInflow, None, at, postings).await?;
    tx.commit().await
}

#[tokio::test]
async fn a_journal_balances_or_is_refused() {
    on_both(|db| async move {
        let inflow = |credit| {
            [
                Posting::debit(AccountCode::Splitter, usdc(100)),
                Posting::credit(AccountCode::Suspense, usdc(credit)),
            ]
        };
        assert!(post(&db.ledger, &log(1, 0), &inflow(99)).await.is_err(), "does not balance");
        assert!(post(&db.ledger, &log(1, 0), &inflow(101)).await.is_err(), "does not balance");
        assert!(post(&db.ledger, &log(1, 0), &[]).await.is_err(), "empty");
        post(&db.ledger, &log(1, 0), &inflow(100)).await.unwrap();
        assert!(post(&db.ledger, &log(1, 0), &inflow(100)).await.is_err(), "the same log again");

        let overdraw = [
            Posting::debit(AccountCode::Clearing(CAPABILITY), usdc(1)),
            Posting::credit(AccountCode::Accounted(CAPABILITY), usdc(1)),
        ];
        assert!(post(&db.ledger, &log(1, 1), &overdraw).await.is_err(), "below zero");

        let mut tx = db.ledger.read().await.unwrap();
        let accounts = tx.accounts(84_532, SPLITTER).await.unwrap();
        let balances: Vec<_> =
            accounts.iter().map(|account| (account.code.as_str(), account.balance)).collect();
        assert_eq!(balances, [("asset:splitter", 100), ("suspense:unattributed", 100)]);
        let late = "INSERT INTO postings SELECT journal_id, 9, account_id, side, 1 FROM postings
            WHERE line = 0";
        assert!(db.tamper(late).await.is_err(), "the journal is closed");
    })
    .await;
}

// ------------------------------------------------------------------------------ mirror

#[tokio::test]
async fn a_window_is_replaced_as_a_whole() {
    on_both(|db| async move {
        let pull = |block, micro| Pull {
            at: log(block, 1),
            block_timestamp: 5,
            payer: Address::repeat_byte(1),
            nonce: Some(B256::repeat_byte(9)),
            amount: usdc(micro),
            settlement: None,
        };
        let window = |from, to, pulls| MirrorWindow { from, to, pulls, ..MirrorWindow::default() };
        let asset = splitter().asset;
        let mut tx = db.ledger.begin().await.unwrap();
        let first = window(1, 4, vec![pull(2, 5), pull(4, 6)]);
        tx.replace_window(84_532, SPLITTER, asset, &first).await.unwrap();
        let second = window(3, 6, vec![pull(5, 7)]);
        tx.replace_window(84_532, SPLITTER, asset, &second).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = db.ledger.read().await.unwrap();
        let pulls = tx.pulls(84_532, SPLITTER, 0, 10).await.unwrap();
        assert_eq!(pulls, [pull(2, 5), pull(5, 7)]);
        assert_eq!(tx.cursor(84_532, SPLITTER, Stream::Mirror).await.unwrap(), Some(7));
    })
    .await;
}

/// What is concluded from two reads must hold for both: a record and the split that covers it may
/// reach the mirror in one commit.
#[tokio::test]
async fn a_snapshot_does_not_move() {
    on_both(|db| async move {
        let window = |block| MirrorWindow {
            from: block,
            to: block,
            pulls: vec![Pull {
                at: log(block, 1),
                block_timestamp: 5,
                payer: Address::repeat_byte(1),
                nonce: None,
                amount: usdc(1),
                settlement: None,
            }],
            ..MirrorWindow::default()
        };
        let asset = splitter().asset;
        let mut tx = db.ledger.read().await.unwrap();
        let before = tx.pulls(84_532, SPLITTER, 0, 10).await.unwrap().len();
        let mut other = db.ledger.begin().await.unwrap();
        other.replace_window(84_532, SPLITTER, asset, &window(1)).await.unwrap();
        other.commit().await.unwrap();
        assert_eq!(tx.pulls(84_532, SPLITTER, 0, 10).await.unwrap().len(), before);
        drop(tx);

        let mut tx = db.ledger.begin_on_snapshot().await.unwrap();
        assert_eq!(tx.pulls(84_532, SPLITTER, 0, 10).await.unwrap().len(), 1);
        let ledger = db.ledger.clone();
        let writer = tokio::spawn(async move {
            let mut other = ledger.begin().await.unwrap();
            other.replace_window(84_532, SPLITTER, asset, &window(2)).await.unwrap();
            other.commit().await.unwrap();
        });
        // On SQLite the other writer queues; on PostgreSQL it has committed by then.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(tx.pulls(84_532, SPLITTER, 0, 10).await.unwrap().len(), 1);
        drop(tx);
        writer.await.unwrap();
        let mut tx = db.ledger.read().await.unwrap();
        assert_eq!(tx.pulls(84_532, SPLITTER, 0, 10).await.unwrap().len(), 2);
    })
    .await;
}

// ------------------------------------------------------------------------------ opening

#[tokio::test]
async fn opening_twice_changes_nothing() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        reserved(&db.ledger, &payment(&draft(&payer), "request-1", 1)).await;
        let url = db.url.clone();
        if url.starts_with("sqlite") {
            let error = Ledger::open(&url).await.unwrap_err();
            assert!(matches!(error, LedgerError::InUse(_)), "{error}");
            Ledger::open_beside(&url).await.unwrap();
            drop(db.ledger);
        }
        let ledger = Ledger::open(&url).await.unwrap();
        let mut tx = ledger.read().await.unwrap();
        let all = tx.settlements(84_532, SPLITTER, SettlementQuery::All).await.unwrap();
        assert_eq!(all.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_ledger_of_another_deployment_is_refused() {
    on_both(|db| async move {
        let mut tx = db.ledger.begin().await.unwrap();
        let other = SplitterRecord { hub_treasury: Address::repeat_byte(1), ..splitter() };
        let error = tx.enter_splitter(&other).await.unwrap_err();
        assert!(matches!(error, LedgerError::Corrupt { .. }), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_url_that_is_none_is_refused() {
    for url in ["", "mysql://localhost/x", "keeper.db"] {
        assert!(matches!(Ledger::open(url).await.unwrap_err(), LedgerError::Url(_)), "{url}");
    }
}

#[tokio::test]
async fn a_database_that_forgets_is_refused() {
    let url = postgres().await;
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    let name = url.rsplit_once('/').unwrap().1;
    let sql = format!("ALTER DATABASE {name} SET synchronous_commit = off");
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    let error = Ledger::open(&url).await.unwrap_err();
    assert!(matches!(error, LedgerError::NotDurable(_)), "{error}");
}

/// Amounts up to the largest that a column holds go in and come out unchanged.
#[tokio::test]
async fn large_numbers_survive() {
    on_both(|db| async move {
        let most = usdc(i64::MAX.unsigned_abs());
        post(
            &db.ledger,
            &log(1, 0),
            &[
                Posting::debit(AccountCode::Splitter, most),
                Posting::credit(AccountCode::Suspense, most),
            ],
        )
        .await
        .unwrap();
        let mut tx = db.ledger.read().await.unwrap();
        assert_eq!(tx.accounts(84_532, SPLITTER).await.unwrap()[0].balance, i64::MAX);
        drop(tx);
        assert!(MicroUsdc::try_from(U256::from(u64::MAX)).is_err());
        // One more would overflow: refused, not wrapped.
        let one = [
            Posting::debit(AccountCode::Splitter, usdc(1)),
            Posting::credit(AccountCode::Suspense, usdc(1)),
        ];
        assert!(post(&db.ledger, &log(1, 1), &one).await.is_err());
    })
    .await;
}
