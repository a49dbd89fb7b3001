//! Taking back what was booked: newest first, bit by bit, by new journals.

use super::*;

/// Two inflows and what became of the first.
async fn booked(db: &Database) {
    let inflow = [
        Posting::debit(AccountCode::Splitter, usdc(5)),
        Posting::credit(AccountCode::Suspense, usdc(5)),
    ];
    let outflow = [
        Posting::debit(AccountCode::Suspense, usdc(5)),
        Posting::credit(AccountCode::Splitter, usdc(5)),
    ];
    post(&db.ledger, &log(3, 1), &inflow).await.unwrap();
    post(&db.ledger, &log(4, 1), &outflow).await.unwrap();
    post(&db.ledger, &log(4, 2), &inflow).await.unwrap();
}

/// A rewind that is interrupted goes on where it was; in the end nothing is left, the old journals
/// are all there, and the same logs are booked again.
#[tokio::test]
async fn what_is_taken_back_in_bits_is_taken_back_once() {
    on_both(|db| async move {
        booked(&db).await;
        for expected in [2, 1, 0] {
            let mut tx = db.ledger.begin().await.unwrap();
            let lost = tx.first_lost(84_532, SPLITTER, 0, 10).await.unwrap();
            assert_eq!(lost.is_some(), expected > 0, "the first one is lost until it is reversed");
            let done = tx.reverse_from(84_532, SPLITTER, &log(3, 1), 2).await.unwrap();
            assert_eq!(done, expected);
            tx.commit(HERE).await.unwrap();
        }
        let mut tx = db.ledger.read().await.unwrap();
        let accounts = tx.accounts(84_532, SPLITTER).await.unwrap();
        let turnover = accounts.iter().map(|one| (one.debits, one.credits, one.balance));
        assert_eq!(turnover.collect::<Vec<_>>(), [(0, 0, 0); 2]);
        assert!(tx.booked_in(84_532, SPLITTER, (0, 1_000_000)).await.unwrap().is_empty());
        drop(tx);
        booked(&db).await;
        let mut tx = db.ledger.read().await.unwrap();
        assert_eq!(tx.booked_in(84_532, SPLITTER, (0, 1_000_000)).await.unwrap().len(), 3);
        let accounts = tx.accounts(84_532, SPLITTER).await.unwrap();
        assert_eq!((accounts[0].debits, accounts[0].credits, accounts[0].balance), (10, 5, 5));
    })
    .await;
}

/// Only what stands from the lost log on is taken back, and nothing twice.
#[tokio::test]
async fn what_stands_before_the_lost_log_stays() {
    on_both(|db| async move {
        booked(&db).await;
        let mut tx = db.ledger.begin().await.unwrap();
        assert_eq!(tx.reverse_from(84_532, SPLITTER, &log(4, 2), 9).await.unwrap(), 1);
        assert_eq!(tx.reverse_from(84_532, SPLITTER, &log(4, 1), 9).await.unwrap(), 1);
        tx.commit(HERE).await.unwrap();
        let mut tx = db.ledger.read().await.unwrap();
        let left = tx.booked_in(84_532, SPLITTER, (0, 1_000_000)).await.unwrap();
        let first = log(3, 1);
        assert_eq!(left, [(first.tx_hash, first.log_index, first.block_hash)].into());
        drop(tx);
        let twice = "INSERT INTO journals (id, chain_id, splitter, kind, reverses, at)
            SELECT '00000000-0000-0000-0000-000000000000', chain_id, splitter, kind, reverses, at
            FROM journals WHERE kind = 'reversal'";
        assert!(db.tamper(twice).await.is_err(), "reversed once");
    })
    .await;
}
