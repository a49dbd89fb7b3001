//! The schema: names that the specification gives, and what it refuses to everybody.

use super::*;
use alloy::hex;
use keeper::outbound::{Field, Reason, Refused};
use std::collections::BTreeSet;

/// Tables whose rows are never changed at all.
const APPEND_ONLY: [&str; 10] = [
    "settlement_events",
    "event_positions",
    "event_seals",
    "transaction_intents",
    "attempts",
    "journals",
    "postings",
    "audit_log",
    "token_sightings",
    "ssrf_attempts",
];
/// Tables whose rows may be deleted: the mirror, how far it is, limits that are taken back, and what is
/// counted of agents.
const DELETABLE: [&str; 8] = [
    "agent_calls",
    "cursors",
    "passed_events",
    "payout_events",
    "provenance_nonces",
    "spending_limits",
    "splitter_events",
    "x402_pull_events",
];

/// The first column of a query, as text.
async fn texts(url: &str, sql: &str) -> Vec<String> {
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    if url.starts_with("postgres") {
        let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
        let options = options.options([("search_path", "jecp")]);
        let pool = sqlx::PgPool::connect_with(options).await.unwrap();
        sqlx::query_scalar(sql).fetch_all(&pool).await.unwrap()
    } else {
        let pool = sqlx::SqlitePool::connect(url).await.unwrap();
        sqlx::query_scalar(sql).fetch_all(&pool).await.unwrap()
    }
}

/// The columns of each unique key of a table, one line each.
async fn unique_keys(url: &str, table: &str) -> BTreeSet<String> {
    let sql = if url.starts_with("postgres") {
        format!(
            "SELECT string_agg(CAST(a.attname AS TEXT), ' ' ORDER BY k.place)
             FROM pg_constraint c CROSS JOIN unnest(c.conkey) WITH ORDINALITY AS k (number, place)
             JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number
             WHERE c.conrelid = CAST('jecp.{table}' AS regclass) AND c.contype IN ('u', 'p')
             GROUP BY c.oid"
        )
    } else {
        format!(
            "SELECT (SELECT group_concat(i.name, ' ') FROM pragma_index_info(l.name) i)
             FROM pragma_index_list('{table}') l WHERE l.\"unique\" AND NOT l.partial"
        )
    };
    texts(url, &sql).await.into_iter().collect()
}

async fn columns(ledger: &Ledger, table: &str) -> BTreeSet<String> {
    let tables = ledger.read().await.unwrap().tables().await.unwrap();
    let found = tables.into_iter().find(|it| it.name == table).unwrap();
    found.columns.into_iter().map(|column| column.name).collect()
}

/// the settlements' table has the specification's columns, and its identity is unique.
#[tokio::test]
async fn settlements_have_the_columns_of_the_specification() {
    on_both(|db| async move {
        let columns = columns(&db.ledger, "x402_settlements").await;
        for name in [
            "id",
            "tx_hash",
            "payer",
            "eip3009_nonce",
            "agent_id",
            "request_id",
            "capability_id",
            "amount_usdc_micro",
            "status",
            "facilitator_response_jsonb",
            "settled_at",
            "chain_confirmed_at",
        ] {
            assert!(columns.contains(name), "{name}");
        }
        let keys = unique_keys(&db.url, "x402_settlements").await;
        // In whatever order.
        let keys: BTreeSet<BTreeSet<_>> = keys.iter().map(|key| key.split(' ').collect()).collect();
        for key in ["id", "chain_id asset payer eip3009_nonce", "trace_id"] {
            assert!(keys.contains(&key.split(' ').collect()), "{key}: {keys:?}");
        }
    })
    .await;
}

/// C-70: a log is the pull of one payment; a transaction may carry several.
#[tokio::test]
async fn a_log_is_the_pull_of_one_payment() {
    on_both(|db| async move {
        for table in ["x402_settlements", "x402_pull_events"] {
            let keys = unique_keys(&db.url, table).await;
            assert!(keys.contains("chain_id tx_hash log_index"), "{table}: {keys:?}");
            assert!(!keys.contains("tx_hash"), "{table}: a batch has one hash");
        }
        let (payer, other) = (PrivateKeySigner::random(), PrivateKeySigner::random());
        paid(&db.ledger, &payment(&draft(&payer), "request-1", 1), 3).await;
        let second = reserved(&db.ledger, &payment(&draft(&other), "request-2", 2)).await;
        let second = step(&db.ledger, &second, StatusEvent::Settle).await;
        let mut tx = db.ledger.begin().await.unwrap();
        let error = tx.pull_seen(&second, &log(3, 1)).await.unwrap_err();
        assert!(error.is_duplicate(), "{error}");
        drop(tx);
        let mut tx = db.ledger.begin().await.unwrap();
        tx.pull_seen(&second, &log(3, 2)).await.unwrap();
        tx.commit(HERE).await.unwrap();
    })
    .await;
}

/// refunds, switches and the audit log have their tables.
#[tokio::test]
async fn the_tables_of_the_specification_are_there() {
    on_both(|db| async move {
        for (table, column) in [
            ("x402_refund_log", "amount_micro"),
            ("feature_flags", "value"),
            ("audit_log", "action"),
            // The answers that are kept for who asks again.
            ("deliveries", "response_body"),
        ] {
            assert!(columns(&db.ledger, table).await.contains(column), "{table}.{column}");
        }
    })
    .await;
}

/// the views that the conformance suite joins.
#[tokio::test]
async fn an_agents_debits_and_everybodys_shares_can_be_asked_for() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        let known = paid(&db.ledger, &payment(&draft(&payer), "request-1", 1), 3).await;
        let other = PrivateKeySigner::random();
        reserved(&db.ledger, &payment(&draft(&other), "request-2", 2)).await;
        let debits = "SELECT l.settlement_id || ' ' || CAST(l.debit_amount_micro AS TEXT)
            FROM agent_ledger l JOIN x402_settlements s ON s.id = l.settlement_id
            WHERE s.amount_usdc_micro = l.debit_amount_micro AND l.tx_hash = s.tx_hash";
        assert_eq!(texts(&db.url, debits).await, [format!("{} 200000", known.id)]);
        let columns = columns(&db.ledger, "splitter_events").await;
        for name in ["event_name", "log_index", "tx_hash", "amount", "block_timestamp"] {
            assert!(columns.contains(name), "{name}");
        }
        assert_eq!(texts(&db.url, "SELECT party FROM revenue_splits").await.len(), 0);
        let hash = hex::encode_prefixed([7; 32]);
        let split = format!(
            "UPDATE x402_settlements SET keeper_state = 'split', record_tx_hash = '{hash}',
             split_tx_hash = '{hash}', provider_share_micro = 170000, hub_share_micro = 20000,
             network_share_micro = 10000 WHERE id = '{}'",
            known.id
        );
        db.tamper(&split).await.unwrap();
        let shares = "SELECT party || ' ' || CAST(bps AS TEXT) || ' ' || CAST(amount_micro AS TEXT)
            FROM revenue_splits ORDER BY bps DESC";
        let expected = ["provider 8500 170000", "hub 1000 20000", "reserve 500 10000"];
        assert_eq!(texts(&db.url, shares).await, expected);
    })
    .await;
}

/// the words of a status, and no others.
#[tokio::test]
async fn a_status_is_one_of_the_known_words() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        paid(&db.ledger, &payment(&draft(&payer), "request-1", 1), 3).await;
        let set = |status: &str| format!("UPDATE x402_settlements SET status = '{status}'");
        for status in Status::ALL {
            db.tamper(&set(status.as_str())).await.unwrap();
        }
        for status in
            ["facilitator_attested", "chain_confirmed", "failed", "orphaned", "mismatched"]
        {
            assert!(Status::from_word(status).is_some(), "{status}");
        }
        for status in ["paid", "", "FAILED", "pending"] {
            let error = db.tamper(&set(status)).await.expect_err(status).to_string();
            assert!(error.to_lowercase().contains("check constraint"), "{status}: {error}");
        }
    })
    .await;
}

/// what is unique is so by the database, whatever any process remembers.
#[tokio::test]
async fn constraints_decide_and_not_memory() {
    on_both(|db| async move {
        let payer = PrivateKeySigner::random();
        let draft = draft(&payer);
        reserved(&db.ledger, &payment(&draft, "request-1", 1)).await;
        // A process that has just begun remembers nothing.
        let other = Ledger::open_beside(&db.url).await.unwrap();
        let again = reserve(&other, &payment(&draft, "request-1", 1)).await.unwrap();
        assert!(matches!(again, Reservation::Joined(_)), "{again:?}");
        let taken = reserve(&other, &payment(&draft, "request-2", 2)).await.unwrap();
        assert!(matches!(taken, Reservation::NonceReused(_)), "{taken:?}");
        let copy = "INSERT INTO x402_settlements (id, trace_id, chain_id, splitter, asset, payer,
                eip3009_nonce, pay_to, amount_usdc_micro, valid_after, valid_before, kind, mode,
                capability_id, splitter_capability_id, status, keeper_state, reserved_at)
            SELECT '00000000-0000-0000-0000-000000000000', replace(trace_id, '0x', '1x'), chain_id,
                splitter, asset, payer, eip3009_nonce, pay_to, amount_usdc_micro, valid_after,
                valid_before, kind, mode, capability_id, splitter_capability_id, status,
                keeper_state, reserved_at FROM x402_settlements";
        let error = LedgerError::from(db.tamper(copy).await.unwrap_err());
        assert!(error.is_duplicate(), "{error}");
    })
    .await;
}

/// a refused URL is kept as it was refused; the database knows the same words as the guard.
#[tokio::test]
async fn every_refusal_of_a_url_can_be_kept() {
    on_both(|db| async move {
        let url = "https://user:secret@10.0.0.1/path?secret".parse().unwrap();
        let mut tx = db.ledger.begin().await.unwrap();
        for reason in Reason::ALL {
            for field in Field::ALL {
                let refused = Refused::of(*reason, &url);
                tx.add_ssrf_attempt(Some("agent"), Some("demo"), *field, &refused).await.unwrap();
            }
        }
        tx.commit(HERE).await.unwrap();
        let kept = db.ledger.read().await.unwrap().ssrf_attempts().await.unwrap();
        assert_eq!(kept.len(), Reason::ALL.len() * Field::ALL.len());
        assert!(kept.iter().all(|one| one.refused.blocked_url == "https://10.0.0.1/path"));
        assert_eq!(kept[0].agent_id.as_deref(), Some("agent"));
        assert_eq!(kept[0].provider_id.as_deref(), Some("demo"));
    })
    .await;
}

/// A row of every table that is never changed.
async fn populate(db: &Database) {
    let payer = PrivateKeySigner::random();
    let settlement = paid(&db.ledger, &payment(&draft(&payer), "request-1", 1), 3).await;
    let lease = lead(&db.ledger, "a").await;
    sign(&db.ledger, &lease, &settlement, 1).await;
    let postings = [
        Posting::debit(AccountCode::Splitter, usdc(5)),
        Posting::credit(AccountCode::Suspense, usdc(5)),
    ];
    post(&db.ledger, &log(3, 1), &postings).await.unwrap();
    let mut tx = db.ledger.begin_on_snapshot().await.unwrap();
    let first = tx.first_unsealed(0).await.unwrap().unwrap();
    assert!(tx.seal(&lease, first).await.unwrap().seal.is_some());
    tx.commit(HERE).await.unwrap();
    let mut tx = db.ledger.begin().await.unwrap();
    tx.log_action(Action::Closed, None, None, &json!({})).await.unwrap();
    let asset = Network::BaseSepolia.usdc().address;
    let seen = TokenSighting { implementation: B256::ZERO, code_hash: B256::ZERO };
    tx.add_token_sighting(84_532, SPLITTER, asset, &seen).await.unwrap();
    let url = "https://10.0.0.1/".parse().unwrap();
    let refused = Refused::of(Reason::ResolvedToDenyCidr, &url);
    tx.add_ssrf_attempt(None, Some("demo"), Field::EndpointUrl, &refused).await.unwrap();
    tx.commit(HERE).await.unwrap();
}

/// UPDATE, DELETE, REPLACE and TRUNCATE are refused, row by row, on both databases.
#[tokio::test]
async fn what_is_written_once_stays() {
    on_both(|db| async move {
        populate(&db).await;
        let tables = db.ledger.read().await.unwrap().tables().await.unwrap();
        for table in tables.iter().filter(|table| APPEND_ONLY.contains(&table.name.as_str())) {
            let (name, column) = (&table.name, &table.columns[0].name);
            let mut forbidden = vec![
                format!("UPDATE {name} SET {column} = {column}"),
                format!("DELETE FROM {name}"),
            ];
            if db.url.starts_with("postgres") {
                forbidden.push(format!("TRUNCATE {name} CASCADE"));
            } else {
                forbidden.push(format!("REPLACE INTO {name} SELECT * FROM {name}"));
                forbidden.push(format!("INSERT OR REPLACE INTO {name} SELECT * FROM {name}"));
            }
            for sql in forbidden {
                let error = db.tamper(&sql).await.expect_err(&sql).to_string();
                let closed = sql.starts_with("REPLACE INTO postings")
                    || sql.starts_with("INSERT OR REPLACE INTO postings");
                assert!(
                    error.contains("forbidden") || closed && error.contains("closed"),
                    "{sql}: {error}"
                );
            }
        }
    })
    .await;
}

/// Of nothing but the mirror is a row ever deleted, of whatever table a later release adds, too.
#[tokio::test]
async fn only_the_mirror_is_ever_deleted_from() {
    on_both(|db| async move {
        let postgres = db.url.starts_with("postgres");
        let triggers = if postgres {
            "SELECT CAST(tgname AS TEXT) FROM pg_trigger WHERE NOT tgisinternal"
        } else {
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        };
        let triggers: BTreeSet<_> = texts(&db.url, triggers).await.into_iter().collect();
        for table in db.ledger.read().await.unwrap().tables().await.unwrap() {
            let name = table.name;
            let guarded = !DELETABLE.contains(&name.as_str());
            assert_eq!(triggers.contains(&format!("{name}_no_delete")), guarded, "{name}");
            if postgres {
                assert_eq!(triggers.contains(&format!("{name}_no_truncate")), guarded, "{name}");
            }
            let append_only = APPEND_ONLY.contains(&name.as_str());
            assert_eq!(triggers.contains(&format!("{name}_no_update")), append_only, "{name}");
        }
    })
    .await;
}
