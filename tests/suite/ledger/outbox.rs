//! The outbox's tables: work, account nonces, envelopes, leases; and deliveries.

use super::*;
use keeper::ledger::ClosureReason;

/// written down once, whoever asks again.
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

/// one writer at a time, each number once.
#[tokio::test]
async fn account_nonces_are_allocated_without_gap_or_repeat() {
    on_both(|db| async move {
        let lease = lead(&db.ledger, "a").await;
        let mut nonces = Vec::new();
        for n in 0..5u8 {
            let payer = PrivateKeySigner::random();
            let new = payment(&draft(&payer), "request-1", 1);
            let settlement = paid(&db.ledger, &new, u64::from(n) + 1).await;
            add_record(&db.ledger, &settlement).await.unwrap();
            let mut tx = db.ledger.begin().await.unwrap();
            let intents = tx.due_intents(84_532, SIGNER, 10).await.unwrap();
            let nonce = tx.plan(&lease, 84_532, SIGNER, &intents[0], COST).await.unwrap();
            if n == 2 {
                // A crash before the commit: nothing happened.
                drop(tx);
                let mut tx = db.ledger.begin().await.unwrap();
                let again = tx.plan(&lease, 84_532, SIGNER, &intents[0], COST).await.unwrap();
                assert_eq!(again, nonce);
                tx.commit(HERE).await.unwrap();
            } else {
                tx.commit(HERE).await.unwrap();
            }
            nonces.push(nonce);
        }
        assert_eq!(nonces, [7, 8, 9, 10, 11]);
        let mut tx = db.ledger.read().await.unwrap();
        assert_eq!(tx.pending_transactions(84_532, SIGNER).await.unwrap(), 5);
    })
    .await;
}

/// an old leader that wakes up after another took over can neither allocate nor persist.
#[tokio::test]
async fn a_stale_leader_cannot_write() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        let settlement = paid(&db.ledger, &payment(&draft(&payer), "request-1", 1), 3).await;
        let old = lead(&db.ledger, "a").await;
        add_record(&db.ledger, &settlement).await.unwrap();

        let held = db.ledger.acquire_lease("chain:84532", "b", TTL).await.unwrap();
        assert!(held.is_none(), "held");
        let mut tx = db.ledger.begin().await.unwrap();
        tx.release_lease(&old).await.unwrap();
        tx.commit(HERE).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        let new = lead(&db.ledger, "b").await;
        assert_eq!(new.epoch, old.epoch + 1);

        let mut tx = db.ledger.begin().await.unwrap();
        let intents = tx.due_intents(84_532, SIGNER, 10).await.unwrap();
        let error = tx.plan(&old, 84_532, SIGNER, &intents[0], COST).await.unwrap_err();
        assert!(error.is_lease_lost(), "{error}");
        let error = tx.renew_lease(&old, TTL).await.unwrap_err();
        assert!(error.is_lease_lost(), "{error}");
        tx.plan(&new, 84_532, SIGNER, &intents[0], COST).await.unwrap();
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
        let settlement = paid(&db.ledger, &payment(&draft(&payer), "request-1", 1), 3).await;
        let lease = lead(&db.ledger, "a").await;
        sign(&db.ledger, &lease, &settlement, 1).await;
        let mut tx = db.ledger.begin().await.unwrap();
        let outgoing = tx.outgoing(84_532, SIGNER).await.unwrap();
        assert_eq!(outgoing[0].envelopes[0].hash, B256::repeat_byte(1));
        let latest = tx.latest_envelope(settlement.id, IntentKind::Record).await.unwrap();
        assert_eq!(latest, Some(B256::repeat_byte(1)));
        let gone = Standing { state: TransactionState::Superseded, is_final: true };
        tx.set_standing(&lease, &outgoing[0], gone, None).await.unwrap();
        let error = tx.set_standing(&lease, &outgoing[0], gone, None).await.unwrap_err();
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
            let settlement = paid(&db.ledger, &new, n + 1).await;
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
        tx.commit(HERE).await.unwrap();
        assert_eq!(due().await.iter().map(|intent| intent.id).collect::<Vec<_>>(), [all[2]]);
        crate::support::eventually("it is due again", || async { due().await.len() == 2 }).await;
        let again = due().await;
        assert_eq!((again[0].id, again[0].deferrals), (all[2], 0), "the other one was first");
        assert_eq!((again[1].id, again[1].deferrals), (all[0], 1));
    })
    .await;
}

/// what has least time left comes first, so that many splits delay no record, and many
/// records not a split for ever.
#[tokio::test]
async fn records_come_before_splits_unless_those_have_waited() {
    on_both(|db| async move {
        let split = async |capability: u8| {
            let mut tx = db.ledger.begin().await.unwrap();
            tx.add_intent(&NewIntent {
                chain_id: 84_532,
                splitter: SPLITTER,
                signer: SIGNER,
                kind: IntentKind::Split,
                settlement: None,
                splitter_capability_id: B256::repeat_byte(capability),
                to: SPLITTER,
                calldata: Bytes::from_static(b"split"),
                gas_limit: 100_000,
                valid_before: None,
            })
            .await
            .unwrap();
            tx.commit(HERE).await.unwrap();
        };
        split(1).await;
        db.tamper("UPDATE intents SET due_at_ms = due_at_ms - 60000").await.unwrap();
        split(2).await;
        let payer = PrivateKeySigner::random();
        let settlement = paid(&db.ledger, &payment(&draft(&payer), "request-1", 1), 3).await;
        add_record(&db.ledger, &settlement).await.unwrap();
        let mut tx = db.ledger.read().await.unwrap();
        let due = tx.due_intents(84_532, SIGNER, 10).await.unwrap();
        let kinds: Vec<_> = due.iter().map(|intent| intent.kind).collect();
        assert_eq!(kinds, [IntentKind::Split, IntentKind::Record, IntentKind::Split]);
    })
    .await;
}

/// A record is due only while its pull is on the chain.
#[tokio::test]
async fn a_record_waits_for_its_pull() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        let settlement = paid(&db.ledger, &payment(&draft(&payer), "request-1", 1), 3).await;
        add_record(&db.ledger, &settlement).await.unwrap();
        let due = || async {
            let mut tx = db.ledger.read().await.unwrap();
            tx.due_intents(84_532, SIGNER, 10).await.unwrap().len()
        };
        assert_eq!(due().await, 1);
        let mut tx = db.ledger.begin().await.unwrap();
        let known = tx.settlement(settlement.id).await.unwrap().unwrap();
        tx.step_status(&known, StatusEvent::PullLost, &json!({})).await.unwrap();
        tx.commit(HERE).await.unwrap();
        assert_eq!(due().await, 0, "a reorg took its pull");
    })
    .await;
}

/// What has an account nonce and no bytes yet gets none while its Splitter's books are in doubt, nor does
/// what comes after it; a closure that stops the intake alone holds up nothing.
#[tokio::test]
async fn nothing_is_signed_for_a_splitter_whose_books_are_in_doubt() {
    on_both(|db| async move {
        let lease = lead(&db.ledger, "a").await;
        for block in 1..=2 {
            let new = payment(&draft(&PrivateKeySigner::random()), "request-1", 1);
            let settlement = paid(&db.ledger, &new, block).await;
            add_record(&db.ledger, &settlement).await.unwrap();
        }
        let mut tx = db.ledger.begin().await.unwrap();
        for intent in tx.due_intents(84_532, SIGNER, 10).await.unwrap() {
            tx.plan(&lease, 84_532, SIGNER, &intent, COST).await.unwrap();
        }
        tx.close(84_532, SPLITTER, ClosureReason::TokenPaused, "a test's").await.unwrap();
        assert_eq!(tx.unsigned(84_532, SIGNER).await.unwrap().len(), 2);
        tx.close(84_532, SPLITTER, ClosureReason::Drift, "a test's").await.unwrap();
        assert!(tx.unsigned(84_532, SIGNER).await.unwrap().is_empty());
        tx.lift(84_532, SPLITTER, ClosureReason::Drift, "a test's").await.unwrap();
        assert_eq!(tx.unsigned(84_532, SIGNER).await.unwrap().len(), 2);
    })
    .await;
}

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
        tx.fail_delivery(&settlement, first, Failure::Lost, None, "gone").await.unwrap();
        let known = tx.delivery(settlement.id).await.unwrap();
        assert!(tx.begin_delivery(&settlement, known.as_ref(), false).await.is_err(), "once only");
        let second = tx.begin_delivery(&settlement, known.as_ref(), true).await.unwrap();
        assert_eq!((first, second), (1, 2));
        let late = tx.finish_delivery(&settlement, first, 200, &json!({"late": true})).await;
        assert!(matches!(late, Err(LedgerError::Conflict(_))), "{late:?}");
        tx.fail_delivery(&settlement, second, Failure::Lost, None, "gone").await.unwrap();
        tx.finish_delivery(&settlement, second, 200, &json!({"late": false})).await.unwrap();
        tx.commit(HERE).await.unwrap();
        let mut tx = db.ledger.read().await.unwrap();
        let known = tx.delivery(settlement.id).await.unwrap().unwrap();
        assert_eq!(known.state, Delivery::Delivered);
        assert_eq!((known.response, known.failure), (Some(json!({"late": false})), None));
    })
    .await;
}

/// What is owed is the dearest that is not mined; a day is what was paid, or can be, in 24 hours.
#[tokio::test]
async fn spending_is_summed_over_a_rolling_day() {
    on_both(|db| async move {
        let lease = lead(&db.ledger, "a").await;
        for n in 0..3u8 {
            let payer = PrivateKeySigner::random();
            let settlement =
                paid(&db.ledger, &payment(&draft(&payer), "request-1", 1), u64::from(n) + 1).await;
            add_record(&db.ledger, &settlement).await.unwrap();
            let mut tx = db.ledger.begin().await.unwrap();
            let intents = tx.due_intents(84_532, SIGNER, 10).await.unwrap();
            let cost = Cost { max: 1_000 * 10u64.pow(n.into()), data: 0 };
            tx.plan(&lease, 84_532, SIGNER, &intents[0], cost).await.unwrap();
            tx.commit(HERE).await.unwrap();
        }
        let spending = || async {
            let mut tx = db.ledger.read().await.unwrap();
            let found = tx.spending(84_532, SIGNER).await.unwrap();
            (found.owed, found.day)
        };
        assert_eq!(spending().await, (111_000, 111_000), "all of it is owed");
        // The first is mined, for less than it could have cost.
        let hash = format!("0x{}", "11".repeat(32));
        db.tamper(&format!(
            "UPDATE transactions SET state = 'included', mined_hash = '{hash}', l2_fee_wei = 300,
             l1_fee_wei = 33 WHERE account_nonce = 7"
        ))
        .await
        .unwrap();
        assert_eq!(spending().await, (110_000, 110_333));
        // A day later it does not count; what is still open does, however old.
        let old = match db.url.starts_with("sqlite") {
            true => "'2020-01-01T00:00:00+00:00'",
            false => "now() - interval '25 hours'",
        };
        db.tamper(&format!("UPDATE transactions SET created_at = {old}")).await.unwrap();
        assert_eq!(spending().await, (110_000, 110_333), "it is not final");
        db.tamper("UPDATE transactions SET final = TRUE WHERE account_nonce = 7").await.unwrap();
        assert_eq!(spending().await, (110_000, 110_000));
        // Another key's do not.
        let mut tx = db.ledger.read().await.unwrap();
        let other = tx.spending(84_532, Address::repeat_byte(9)).await.unwrap();
        assert_eq!((other.owed, other.day), (0, 0));
    })
    .await;
}

/// A Splitter that is not served any more does not keep a key in quarantine; one that is served and
/// not read far enough does.
#[tokio::test]
async fn a_quarantine_ends_with_what_is_served() {
    on_both(|db| async move {
        let lease = lead(&db.ledger, "a").await;
        let end = |splitters: Vec<Address>| {
            let (ledger, lease) = (db.ledger.clone(), lease.clone());
            async move {
                let mut tx = ledger.begin().await.unwrap();
                let ended = tx.end_quarantine(&lease, 84_532, SIGNER, &splitters, 9).await.unwrap();
                tx.commit(HERE).await.unwrap();
                ended
            }
        };
        let mut tx = db.ledger.begin().await.unwrap();
        tx.quarantine(&lease, 84_532, SIGNER, "restored").await.unwrap();
        tx.commit(HERE).await.unwrap();
        assert!(!end(vec![]).await, "nobody has asked the chain yet");
        let mut tx = db.ledger.begin().await.unwrap();
        tx.occupy(&lease, 84_532, SIGNER, 9, 21_000).await.unwrap();
        assert_eq!(tx.unsigned(84_532, SIGNER).await.unwrap().len(), 2, "account nonces 7 and 8");
        tx.commit(HERE).await.unwrap();
        assert!(!end(vec![]).await, "two account nonces are open");
        db.tamper("UPDATE transactions SET state = 'superseded', final = TRUE").await.unwrap();
        assert!(!end(vec![SPLITTER]).await, "its mirror is not there yet");
        let mut tx = db.ledger.begin().await.unwrap();
        tx.set_cursor(84_532, SPLITTER, Stream::Mirror, 10, None).await.unwrap();
        tx.commit(HERE).await.unwrap();
        assert!(end(vec![SPLITTER]).await);
        let mut tx = db.ledger.read().await.unwrap();
        let signer = tx.signer(84_532, SIGNER).await.unwrap().unwrap();
        assert_eq!((signer.next_account_nonce, signer.quarantine, signer.closed), (9, None, None));
    })
    .await;
}
