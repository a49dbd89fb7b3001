//! The seals, and what they find that hashes do not.

use super::ground::{Ground, Kind, audit, copy, force, sealed, texts};
use keeper::ledger::Ledger;

/// Events that were sealed, if ever, long ago.
const LONG_AGO: &str = "UPDATE settlement_events SET at = '2020-01-01T00:00:00+00:00'";

/// A root from the log finds even a history that was rewritten as a whole.
#[tokio::test]
async fn a_root_of_the_log_must_still_be_there() {
    let ground = Ground::start(Kind::Sqlite).await;
    let daemon = ground.restart().await;
    drop(daemon);
    let root = texts(&ground.database, "SELECT min(root) FROM event_seals").await.remove(0);
    let logs = std::fs::read_dir(&ground.stack.folder).unwrap();
    let logs = logs
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    let logged: String = logs.map(|path| std::fs::read_to_string(path).unwrap()).collect();
    assert!(logged.contains(&root), "the log keeps it");
    let since = ["--since-root", root.as_str()];
    assert_eq!(audit(&ground, &ground.database, &since).await.code, 0);

    // Somebody with every right takes all seals and positions away: nothing contradicts any more.
    let rewritten = copy(&ground, "rewritten").await;
    force(&rewritten, "DELETE FROM event_seals; DELETE FROM event_positions").await;
    force(&rewritten, LONG_AGO).await;
    let audited = audit(&ground, &rewritten, &[]).await;
    assert_eq!(audited.code, 2, "evidence is missing: {audited:?}");
    assert!(audited.stderr.contains("should be under a seal"), "{audited:?}");
    let audited = audit(&ground, &rewritten, &since).await;
    assert_eq!(audited.code, 1, "{audited:?}");
    assert!(audited.findings()[0].contains(&root));
}

/// An event that is not what its hash says is called out, and holds up no other.
#[tokio::test]
async fn a_broken_event_is_not_sealed_and_others_are() {
    for kind in super::ground::KINDS {
        let ground = Ground::start(kind).await;
        let database = &ground.database;
        force(database, "DELETE FROM event_seals; DELETE FROM event_positions").await;
        force(database, LONG_AGO).await;
        let broken = "SELECT CAST(min(seq) + 3 AS TEXT) FROM settlement_events";
        let broken = texts(database, broken).await.remove(0);
        force(database, &format!("UPDATE settlement_events SET body = '[]' WHERE seq = {broken}"))
            .await;
        let daemon = ground.restart().await;
        crate::support::eventually("all others are sealed", || async {
            let loose = "SELECT CAST(e.seq AS TEXT) FROM settlement_events e
                LEFT JOIN event_positions p ON p.seq = e.seq WHERE p.seq IS NULL";
            texts(database, loose).await == [broken.clone()]
        })
        .await;
        let log = daemon.logged();
        assert!(log.contains("ALARM: old events are under no seal"), "{}", daemon.tail());
        assert!(log.contains("ALARM: an event is not what its hash says"), "{}", daemon.tail());
        drop(daemon);
        let audited = audit(&ground, database, &[]).await;
        assert_eq!(audited.code, 1);
        let findings = audited.findings();
        let name = format!("events.chain: settlement_events {broken}");
        assert!(findings.iter().any(|text| text.starts_with(&name)), "{findings:?}");
        assert!(!findings.iter().any(|text| text.starts_with("seals.")), "{findings:?}");
    }
}

/// `seq` is not the order of commits: what becomes visible late is sealed all the same.
#[tokio::test]
async fn an_event_that_is_committed_late_is_sealed() {
    let ground = Ground::start(Kind::Postgres).await;
    let database = &ground.database;
    let daemon = ground.restart().await;
    // An event in the middle that nobody has seen: its positions, and its seal, are taken away.
    let middle = "SELECT CAST(min(seq) + 4 AS TEXT) FROM settlement_events";
    let middle = texts(database, middle).await.remove(0);
    drop(daemon);
    force(database, "DELETE FROM event_seals; DELETE FROM event_positions").await;
    force(
        database,
        &format!(
            "CREATE TABLE hidden AS SELECT * FROM settlement_events WHERE seq = {middle};
             DELETE FROM settlement_events WHERE seq = {middle}"
        ),
    )
    .await;
    let ledger = Ledger::open(database).await.unwrap();
    seal_all(&ledger, "late").await;
    force(
        database,
        "INSERT INTO settlement_events OVERRIDING SYSTEM VALUE SELECT * FROM hidden;
         DROP TABLE hidden",
    )
    .await;
    seal_all(&ledger, "late").await;
    sealed(database).await;
    let audited = audit(&ground, database, &[]).await;
    // The event behind the hidden one was sealed late, too: it follows what was not there.
    assert_eq!(audited.code, 0, "{audited:?}");
}

/// Seals everything there is, as the service does.
async fn seal_all(ledger: &Ledger, holder: &str) {
    let ttl = std::time::Duration::from_secs(30);
    let lease = ledger.acquire_lease(&crate::support::unique(holder), holder, ttl).await.unwrap();
    let lease = lease.unwrap();
    let mut after = 0;
    loop {
        let mut tx = ledger.begin_on_snapshot().await.unwrap();
        let Some(first) = tx.first_unsealed(after).await.unwrap() else { return };
        after = tx.seal(&lease, first).await.unwrap().last_seq;
        tx.commit(crate::support::HERE).await.unwrap();
    }
}
