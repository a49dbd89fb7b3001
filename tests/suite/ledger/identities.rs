//! Reserving an identity, its steps and its events.

use super::*;

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

#[tokio::test]
async fn every_step_is_chained_to_the_trace() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        let settlement = reserved(&db.ledger, &payment(&draft(&payer), "request-1", 1)).await;
        let settlement = step(&db.ledger, &settlement, StatusEvent::Settle).await;
        let mut tx = db.ledger.begin().await.unwrap();
        tx.pull_seen(&settlement, &log(3, 1)).await.unwrap();
        tx.commit(HERE).await.unwrap();

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
                tx.commit(HERE).await.unwrap();
            })
        };
        let delivery = {
            let (ledger, settlement) = (db.ledger.clone(), settlement.clone());
            tokio::spawn(async move {
                let mut tx = ledger.begin().await.unwrap();
                tx.begin_delivery(&settlement, None, false).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
                tx.commit(HERE).await.unwrap();
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
