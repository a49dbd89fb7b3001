//! What is read to reserve a payment does not grow with the payments that are there.

use super::*;
use crate::support::{eventually, tamper};

/// Payments that are there when the database looks at its tables for the first time.
const BEFORE: u64 = 60;
/// Payments after that.
const AFTER: u64 = 600;
/// Rows and index entries that a reservation may read: itself, several times over, for what refers to
/// it.
const MOST: u64 = 25;
/// Tables that a reservation writes.
const TABLES: [&str; 3] = ["x402_settlements", "settlement_events", "intents"];

/// A plan that is made while a table is empty, or as small as it is when PostgreSQL first gathers
/// statistics, stays while thousands of payments come in.
#[tokio::test]
async fn a_reservation_reads_no_more_when_there_are_many_payments() {
    for looks in [false, true] {
        let url = postgres().await;
        let ledger = Ledger::open(&url).await.unwrap();
        let mut tx = ledger.begin().await.unwrap();
        tx.enter_splitter(&splitter()).await.unwrap();
        tx.commit(HERE).await.unwrap();
        // Statistics that come at some other moment would hide a bad plan, or make one.
        for table in TABLES {
            let sql = format!("ALTER TABLE {table} SET (autovacuum_enabled = false)");
            tamper(&url, &sql).await.unwrap();
        }
        for n in 0..BEFORE {
            take(&ledger, n).await;
        }
        if looks {
            for table in TABLES {
                tamper(&url, &format!("ANALYZE {table}")).await.unwrap();
            }
        }
        for n in BEFORE..BEFORE + AFTER {
            take(&ledger, n).await;
        }
        // A connection counts what it read, and tells when it ends.
        drop(ledger);
        eventually("all is counted", || async { counted(&url).await.0 == BEFORE + AFTER }).await;
        let (_, read) = counted(&url).await;
        let each = read / (BEFORE + AFTER);
        assert!(each <= MOST, "{each} entries are read for a reservation; analyzed: {looks}");
    }
}

/// What the edge does in one SQL transaction between signature and pull.
async fn take(ledger: &Ledger, n: u64) {
    let payer = PrivateKeySigner::random();
    let new = payment(&draft(&payer), &format!("request-{n}"), 1);
    let mut tx = ledger.begin().await.unwrap();
    tx.open_payments(new.chain_id, new.asset, payer.address()).await.unwrap();
    assert!(matches!(tx.identity(&new).await.unwrap(), Identity::Free), "payment {n} is there");
    let settlement = tx.reserve_to_settle(&new, None).await.unwrap();
    tx.add_intent(&NewIntent {
        chain_id: new.chain_id,
        splitter: SPLITTER,
        signer: SIGNER,
        kind: IntentKind::Pull,
        settlement: Some(settlement.id),
        splitter_capability_id: CAPABILITY,
        to: new.asset,
        calldata: Bytes::from_static(b"call"),
        gas_limit: 100_000,
        valid_before: None,
    })
    .await
    .unwrap();
    tx.commit(HERE).await.unwrap();
}

/// Settlements that were inserted, and everything that was read of the tables, in the database's own
/// count.
async fn counted(url: &str) -> (u64, u64) {
    const INSERTED: &str = "SELECT n_tup_ins FROM pg_stat_user_tables
        WHERE relname = 'x402_settlements'";
    const READ: &str = "SELECT CAST(
            (SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE relname = ANY($1))
            + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = ANY($1)) AS BIGINT)";
    let pool = sqlx::PgPool::connect(url).await.unwrap();
    let inserted: i64 = sqlx::query_scalar(INSERTED).fetch_one(&pool).await.unwrap();
    let read: i64 = sqlx::query_scalar(READ).bind(TABLES).fetch_one(&pool).await.unwrap();
    (inserted.unsigned_abs(), read.unsigned_abs())
}
