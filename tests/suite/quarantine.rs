//! A ledger that knows less than was sent: restored from a backup, or promoted from a replica that
//! was behind. Nothing begins before the fate of everything lost is known, and nothing is done twice.

use crate::support::{
    Draft, call, chain, command, eventually, folder, invoke, keeper, reconciled, sound,
    splitter_logs, stack, tally, tools,
};
use alloy::primitives::B256;
use keeper::{chain::BlockTag, splitter::SplitterEvent};
use sandbox::{Daemon, KmsFault, PRICE_MICRO, Postgres, Stack, StackOptions};
use serde_json::json;
use std::{collections::BTreeMap, fs, path::Path};

/// Micro-USDC of every test's payer.
const FUNDS: u64 = 2_000_000;

/// How often each payment was recorded on the chain, and how much was split in all.
async fn recorded(stack: &Stack) -> (BTreeMap<B256, u32>, u64) {
    let mut records = BTreeMap::new();
    let mut split = 0;
    for (event, identity) in splitter_logs(stack).await {
        match event {
            SplitterEvent::SettlementRecorded { .. } => {
                *records.entry(identity.unwrap()).or_default() += 1;
            }
            SplitterEvent::PaymentSplit { amount, .. } => split += u64::try_from(amount).unwrap(),
            _ => {}
        }
    }
    (records, split)
}

/// Pays for a call and waits until the chain shows its split.
async fn pay(stack: &Stack, daemon: &Daemon, id: &str, split_before: u64) -> Draft {
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    eventually("the call is served", || async {
        invoke(&daemon.url, &call(id), Some(&draft.header())).await.status == 200
    })
    .await;
    eventually("and split", || async {
        recorded(stack).await.1 == (split_before + 1) * PRICE_MICRO
    })
    .await;
    draft
}

/// A payment that is reserved, and in the backup, but not pulled: KMS does not answer.
async fn reserved(stack: &Stack, daemon: &Daemon, id: &str) -> Draft {
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    let answer = invoke(&daemon.url, &call(id), Some(&draft.header())).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    draft
}

/// What is in the chain and not in the ledger is not done again, what was lost is in suspense, and
/// its records, which the ledger does not know, close the Splitter.
async fn healed(stack: &Stack, daemon: &Daemon, database: &str) {
    eventually("the quarantine ends", || async { daemon.logged().contains("quarantine is over") })
        .await;
    eventually("it is closed for drift", || async {
        tally(database, "closures", "reason").await.contains_key("drift")
    })
    .await;
    eventually("what the ledger does know agrees with the chain", || async {
        let report = reconciled(stack, database).await;
        report.totals.split == 2 && report.totals.confirmed == 2
    })
    .await;
    let (records, split) = recorded(stack).await;
    assert_eq!((records.len(), split), (4, 4 * PRICE_MICRO), "every payment, once: {records:?}");
    assert!(records.values().all(|times| *times == 1), "{records:?}");
    assert!(!tally(database, "transactions", "state").await.contains_key("parked"));
    let on_chain = chain(stack).transaction_count(stack.settler.1, BlockTag::Latest).await.unwrap();
    let known = tally(database, "transactions", "signer").await;
    let settler = format!("{:#x}", stack.settler.1);
    assert!(u64::try_from(known[&settler]).unwrap() <= on_chain);
}

/// Copies a closed SQLite database with what belongs to it, but for its lock.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in ["keeper.db", "keeper.db-wal", "keeper.db-shm"] {
        let _ = fs::remove_file(to.join(name));
        if from.join(name).exists() {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

/// A backup that is two payments old, one of them reserved when it was made, is put back; somebody
/// else's money lies in the Splitter, so that a second record would go through.
#[tokio::test]
async fn an_old_backup_is_quarantined_before_anything_is_sent() {
    let options = StackOptions { settle_timeout: "1s", ..StackOptions::default() };
    let stack = stack("backup", options).await;
    let database = stack.sqlite();
    let mut daemon = stack.daemon(&keeper(), &database).await.unwrap();
    pay(&stack, &daemon, "before", 0).await;
    stack.kms.go_wrong(KmsFault::Refused("KMSInternalException"));
    let open = reserved(&stack, &daemon, "open").await;
    daemon.signal("KILL").await.unwrap();
    daemon.wait().await.unwrap();
    let backup = folder("backup-copy");
    copy(&stack.folder, &backup);
    stack.kms.go_wrong(None);

    let mut daemon = stack.daemon(&keeper(), &database).await.unwrap();
    eventually("the open one is served", || async {
        invoke(&daemon.url, &call("open"), Some(&open.header())).await.status == 200
    })
    .await;
    pay(&stack, &daemon, "lost-1", 2).await;
    pay(&stack, &daemon, "lost-2", 3).await;
    daemon.signal("TERM").await.unwrap();
    daemon.wait().await.unwrap();
    stack.contracts.mint(&stack.anvil, stack.contracts.splitter, 9 * PRICE_MICRO).await.unwrap();

    copy(&backup, &stack.folder);
    let daemon = stack.spawn(&keeper(), &database, &[], |config| config).await.unwrap();
    eventually("it is noticed", || async {
        daemon.logged().contains("ALARM: the database is not the one")
    })
    .await;
    healed(&stack, &daemon, &database).await;
}

/// The primary dies, and a replica that has not received the last payments is promoted under the
/// running daemon.
#[tokio::test]
async fn a_promoted_stale_replica_is_quarantined_before_anything_is_sent() {
    let options = StackOptions { settle_timeout: "1s", ..StackOptions::default() };
    let stack = stack("replica", options).await;
    let primary = Postgres::start(&tools()).await.unwrap();
    // The address that the daemon knows, wherever the server is.
    let address = stack.folder.join("postgres");
    std::os::unix::fs::symlink(primary.folder(), &address).unwrap();
    let database = Postgres::url_in(&address, "postgres");
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    pay(&stack, &daemon, "before", 0).await;
    stack.kms.go_wrong(KmsFault::Refused("KMSInternalException"));
    let open = reserved(&stack, &daemon, "open").await;

    let admin = sqlx::PgPool::connect(&primary.url("postgres")).await.unwrap();
    let mut session = admin.acquire().await.unwrap();
    sqlx::query("SELECT pg_backup_start('test', true)").execute(&mut *session).await.unwrap();
    let replica = primary.copy().await.unwrap();
    let label: (String,) = sqlx::query_as("SELECT labelfile FROM pg_backup_stop(false)")
        .fetch_one(&mut *session)
        .await
        .unwrap();
    replica.finish(&label.0).await.unwrap();
    drop(session);
    admin.close().await;
    stack.kms.go_wrong(None);

    eventually("the open one is served", || async {
        invoke(&daemon.url, &call("open"), Some(&open.header())).await.status == 200
    })
    .await;
    pay(&stack, &daemon, "lost-1", 2).await;
    pay(&stack, &daemon, "lost-2", 3).await;
    stack.contracts.mint(&stack.anvil, stack.contracts.splitter, 9 * PRICE_MICRO).await.unwrap();

    drop(primary);
    let promoted = replica.start().await.unwrap();
    let admin = sqlx::PgPool::connect(&promoted.url("postgres")).await.unwrap();
    sqlx::query("SELECT pg_promote()").execute(&admin).await.unwrap();
    fs::remove_file(&address).unwrap();
    std::os::unix::fs::symlink(promoted.folder(), &address).unwrap();
    eventually("it is noticed", || async {
        daemon.logged().contains("ALARM: the database is not the one")
    })
    .await;
    healed(&stack, &daemon, &database).await;
}

/// An operator who restored something puts the signers into quarantine by hand, with a daemon that
/// leads or without one.
#[tokio::test]
async fn quarantine_by_hand() {
    let stack = stack("by-hand", StackOptions::default()).await;
    let database = stack.sqlite();
    let mut daemon = stack.daemon(&keeper(), &database).await.unwrap();
    pay(&stack, &daemon, "first", 0).await;
    let reason = ["quarantine", "--reason", "restored from last night"];
    let ordered = command(&daemon.config, &stack, &reason).await;
    assert!(ordered.status.success(), "{ordered:?}");
    eventually("it ends by itself", || async {
        daemon.logged().matches("quarantine is over").count() == 2
    })
    .await;
    pay(&stack, &daemon, "second", 1).await;

    daemon.signal("TERM").await.unwrap();
    assert_eq!(daemon.wait().await.unwrap(), 0);
    let alone = command(&daemon.config, &stack, &reason).await;
    assert!(alone.status.success(), "{alone:?}");
    let listed = command(&daemon.config, &stack, &["list", "--json"]).await;
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    for signer in listed.as_array().unwrap() {
        assert_eq!(signer["quarantine"]["reason"], json!("restored from last night"), "{signer}");
        assert_eq!(signer["closed"], json!("quarantine"));
    }
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    pay(&stack, &daemon, "third", 2).await;
    sound(&stack, &database, 3).await;
}
