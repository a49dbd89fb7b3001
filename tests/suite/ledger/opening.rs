//! Opening a ledger, and refusing one.

use super::*;

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
