//! A database of an older release is brought up to date as it is; one of a newer release is refused.

use super::*;
use crate::support::{db, tools, unique};
use sqlx::migrate::Migrator;
use std::{fs, path::PathBuf};

/// Rows of the first schema, with what the second one changes.
const ROWS: &str = "
    INSERT INTO splitters (chain_id, address, version, asset, hub_treasury, network_reserve,
        authorized_settler, per_tx_cap_micro, first_block, created_at)
    VALUES (84532, '0x2222222222222222222222222222222222222222', '1.1.1',
        '0x036cbd53842c5426634e7929541ec2318f3dcf7e', '0x7777777777777777777777777777777777777777',
        '0x8888888888888888888888888888888888888888', '0x3333333333333333333333333333333333333333',
        1000000000, 5, '2026-01-01T00:00:00+00:00');
    INSERT INTO x402_settlements (id, trace_id, chain_id, splitter, asset, payer, eip3009_nonce,
        pay_to, amount_usdc_micro, valid_after, valid_before, kind, mode, capability_id,
        splitter_capability_id, status, keeper_state, reserved_at)
    SELECT '11111111-1111-1111-1111-111111111111', '0x' || hash, 84532, address, asset,
        hub_treasury, '0x' || hash, address, 200000, 1, 2, 'capability', 'self', 'demo/echo',
        '0x' || hash, 'reserved', 'none', created_at FROM splitters,
        (SELECT 'abababababababababababababababababababababababababababababababab' AS hash) h;
    INSERT INTO cursors (chain_id, splitter, stream, next_block, updated_at)
    SELECT chain_id, address, stream, next, created_at FROM splitters,
        (SELECT 'mirror' AS stream, 12 AS next UNION ALL SELECT 'journal', 10
         UNION ALL SELECT 'evidence', 7) c;";

/// A folder with the first migration alone.
fn first_release(database: &str) -> PathBuf {
    let folder = tools().root().join("target/suite").join(unique("migrations"));
    fs::create_dir_all(&folder).unwrap();
    let name = "0001_ledger.sql";
    let from = tools().root().join("keeper/migrations").join(database).join(name);
    fs::copy(from, folder.join(name)).unwrap();
    folder
}

/// Databases as the first release left them.
async fn old_databases() -> Vec<String> {
    let folder = tools().root().join("target/suite").join(unique("old"));
    fs::create_dir_all(&folder).unwrap();
    let sqlite = format!("sqlite:{}", folder.join("keeper.db").display());
    let options: sqlx::sqlite::SqliteConnectOptions = sqlite.parse().unwrap();
    let pool = sqlx::SqlitePool::connect_with(options.create_if_missing(true)).await.unwrap();
    Migrator::new(first_release("sqlite")).await.unwrap().run(&pool).await.unwrap();
    sqlx::raw_sql(ROWS).execute(&pool).await.unwrap();
    pool.close().await;

    let postgres = postgres().await;
    crate::support::tamper(&postgres, "CREATE SCHEMA jecp").await.unwrap();
    let options: sqlx::postgres::PgConnectOptions = postgres.parse().unwrap();
    let options = options.options([("search_path", "jecp")]);
    let pool = sqlx::PgPool::connect_with(options).await.unwrap();
    Migrator::new(first_release("postgres")).await.unwrap().run(&pool).await.unwrap();
    sqlx::raw_sql(ROWS).execute(&pool).await.unwrap();
    pool.close().await;
    vec![sqlite, postgres]
}

#[tokio::test]
async fn a_database_of_the_first_release_keeps_its_rows() {
    for url in old_databases().await {
        let output = db(&url, &["migrate"]).await;
        assert!(output.status.success(), "{url}: {output:?}");
        let ledger = Ledger::open_beside(&url).await.unwrap();
        let mut tx = ledger.begin().await.unwrap();
        let all = tx.settlements(84_532, SPLITTER, SettlementQuery::All).await.unwrap();
        assert_eq!(all.len(), 1, "{url}");
        assert_eq!((all[0].amount, all[0].status), (usdc(200_000), Status::Reserved), "{url}");
        for (stream, next) in [(Stream::Mirror, 12), (Stream::Journal, 10), (Stream::Evidence, 7)] {
            let found = tx.cursor(84_532, SPLITTER, stream).await.unwrap();
            assert_eq!(found, Some(next), "{url}: {stream:?}");
        }
        // What the second schema brings.
        tx.set_cursor(84_532, SPLITTER, Stream::Refunds, 3, None).await.unwrap();
        tx.commit(HERE).await.unwrap();
        let gone = "INSERT INTO cursors SELECT chain_id, splitter, 'nothing', 1, NULL, updated_at
            FROM cursors LIMIT 1";
        assert!(
            crate::support::tamper(&url, gone).await.is_err(),
            "{url}: a stream is a known word"
        );
        let again = db(&url, &["migrate"]).await;
        assert!(again.status.success(), "{url}: {again:?}");
    }
}

#[tokio::test]
async fn a_database_of_a_newer_release_is_refused_in_one_sentence() {
    on_both(|database| async move {
        let later = "INSERT INTO _sqlx_migrations
            (version, description, installed_on, success, checksum, execution_time)
            SELECT 9999, 'later', installed_on, success, checksum, 1 FROM _sqlx_migrations
            WHERE version = 1";
        database.tamper(later).await.unwrap();
        let Database { ledger, url } = database;
        drop(ledger);
        let output = db(&url, &["migrate"]).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("schema 9999"), "{text}");
        assert!(text.contains("run the newer release"), "{text}");
        assert_eq!(text.trim().lines().count(), 1, "{text}");
    })
    .await;
}
