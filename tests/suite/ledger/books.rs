//! The mirror, the journal, and what the database itself refuses.

use super::*;

#[tokio::test]
async fn history_cannot_be_rewritten() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        let settlement = paid(&db.ledger, &payment(&draft(&payer), "request-1", 1), 3).await;
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
        tx.commit(HERE).await.unwrap();
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
        other.commit(HERE).await.unwrap();
        assert_eq!(tx.pulls(84_532, SPLITTER, 0, 10).await.unwrap().len(), before);
        drop(tx);

        let mut tx = db.ledger.begin_on_snapshot().await.unwrap();
        assert_eq!(tx.pulls(84_532, SPLITTER, 0, 10).await.unwrap().len(), 1);
        let ledger = db.ledger.clone();
        let writer = tokio::spawn(async move {
            let mut other = ledger.begin().await.unwrap();
            other.replace_window(84_532, SPLITTER, asset, &window(2)).await.unwrap();
            other.commit(HERE).await.unwrap();
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
        tx.commit(HERE).await.unwrap();
        let mut tx = db.ledger.read().await.unwrap();
        let accounts = tx.accounts(84_532, SPLITTER).await.unwrap();
        assert_eq!(accounts.len(), 2, "the refused one's account is undone too: {accounts:?}");
        assert_eq!((accounts[0].debits, accounts[0].credits, accounts[0].balance), (107, 0, 107));
    })
    .await;
}
