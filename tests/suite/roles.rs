//! The daemon's role does not own the tables: it works with what it is granted, and cannot take the
//! guards away.

use crate::support::{
    Draft, call, db, eventually, hub, invoke, keeper, postgres, stack, tamper, through, unique,
};
use sandbox::{PRICE_MICRO, StackOptions};

/// The same database as another role.
fn as_role(url: &str, role: &str) -> String {
    let (_, rest) = url.split_once('@').unwrap();
    format!("postgres://{role}@{rest}")
}

#[tokio::test]
async fn a_daemon_works_without_owning_its_tables() {
    let owner = postgres().await;
    let role = unique("daemon");
    tamper(&owner, &format!("CREATE ROLE {role} LOGIN")).await.unwrap();
    let daemons = as_role(&owner, &role);

    // Before the owner has made the tables the daemon says what to do.
    let refused = db(&daemons, &["migrate"]).await;
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("run `keeper db migrate` as the owner"), "{text}");

    assert!(db(&owner, &["migrate"]).await.status.success());
    let grants = db(&owner, &["grants", "--role", &role]).await;
    assert!(grants.status.success(), "{grants:?}");
    let grants = String::from_utf8(grants.stdout).unwrap();
    assert!(!grants.contains("TRUNCATE") && !grants.contains("ALL"), "{grants}");
    for line in grants.lines() {
        tamper(&owner, line).await.unwrap();
    }

    let stack = stack("roles", StackOptions::default()).await;
    let daemon = stack.daemon(&keeper(), &daemons).await.unwrap();
    let draft = Draft::new(&stack.agent(PRICE_MICRO).await.unwrap(), stack.contracts.splitter);
    eventually("the call is served", || async {
        invoke(&daemon.url, &call("roles"), Some(&draft.header())).await.status == 200
    })
    .await;
    through(&stack, &daemons, 1).await;
    super::audit::ground::sealed(&daemons).await;

    for sql in [
        "ALTER TABLE settlement_events DISABLE TRIGGER ALL",
        "DROP TRIGGER settlement_events_no_update ON settlement_events",
        "DROP TABLE event_seals CASCADE",
        "CREATE TABLE jecp.mine (id BIGINT)",
        "TRUNCATE x402_pull_events",
        "DELETE FROM settlement_events",
        "UPDATE journals SET kind = kind",
        "DELETE FROM x402_settlements",
        "UPDATE _sqlx_migrations SET success = success",
        "SET session_replication_role = replica",
    ] {
        let error = tamper(&daemons, sql).await.expect_err(sql).to_string();
        let denied = error.contains("permission denied") || error.contains("must be owner");
        assert!(denied, "{sql}: {error}");
    }
}

/// SQLite knows no roles, and the command says so.
#[tokio::test]
async fn there_are_no_grants_on_sqlite() {
    let hub = hub().await;
    let refused = db(&hub.database, &["grants", "--role", "daemon"]).await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("SQLite knows no roles"));
}
