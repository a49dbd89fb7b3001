//! Paused instead of killed, and asked to stop: another daemon takes over, and whoever wakes up
//! does nothing new.

use super::{
    case::Scene,
    ground::{Ground, Kind},
    play::Play,
};
use crate::support::{eventually, tally};
use sandbox::{Daemon, RpcProxy};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// How long a stale leader is watched.
const WATCHED: Duration = Duration::from_secs(2);

/// How long a signature takes; the keeper asks again after one and a half seconds.
const KMS_DELAY: Duration = Duration::from_millis(800);

/// Everything that was ever signed, and every account nonce with the epoch that allocated it.
async fn signed(database: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let allocated = "signer || ' ' || account_nonce || ' ' || epoch";
    let attempts = tally(database, "attempts", "hash").await.into_keys().collect();
    (attempts, tally(database, "transactions", allocated).await.into_keys().collect())
}

/// Starts a daemon behind `proxy`; the chain, KMS and the database are the other's, too.
async fn behind(
    ground: &Ground,
    proxy: &RpcProxy,
    database: &str,
    failpoint: Option<&str>,
    lease_time: &str,
) -> Daemon {
    let change = |config: String| {
        let config = config.replace(ground.stack.anvil.url(), proxy.url());
        config.replace("lease_time = \"3s\"", &format!("lease_time = \"{lease_time}\""))
    };
    let mut daemon = ground.changed_daemon(database, failpoint, change).await;
    daemon.ready().await.unwrap();
    daemon
}

/// The leader is paused; the follower takes over and settles; the leader wakes up and neither
/// allocates, signs nor sends anything that is not committed.
async fn paused(ground: &Ground, failpoint: &str) {
    let play = Play::new(failpoint.to_owned(), Scene::Plain, ground, Kind::Postgres).await;
    let [stale_proxy, proxy] = [ground.stack.anvil.url(); 2].map(RpcProxy::start);
    let (stale_proxy, proxy) = (stale_proxy.await.unwrap(), proxy.await.unwrap());
    let mut stale = behind(ground, &stale_proxy, &play.database, Some(failpoint), "3s").await;
    let mut leader = behind(ground, &proxy, &play.database, None, "3s").await;
    assert!(stale.logged().contains("leading") && !leader.logged().contains("leading"));

    play.agent(&leader.url, &play.first).await;
    eventually("the leader is paused", || async {
        stale.logged().contains(&format!("failpoint {failpoint}"))
    })
    .await;
    play.settled(&leader, &play.first, 1).await;
    assert!(leader.logged().contains("leading"));
    let before = signed(&play.database).await;
    let sent = stale_proxy.sent().len();

    stale.signal("CONT").await.unwrap();
    eventually("it notices", || async {
        // By a service's write, by the renewal that is refused, or by one that a dead connection
        // cuts short.
        let log = stale.logged();
        log.contains("stopping the services") || log.contains("service stopped")
    })
    .await;
    tokio::time::sleep(WATCHED).await;
    assert_eq!(signed(&play.database).await, before, "{failpoint}: {}", stale.tail());
    for hash in &stale_proxy.sent()[sent..] {
        let known = before.0.contains(&hash.to_string());
        assert!(known, "{failpoint}: {hash} was never committed: {}", stale.tail());
    }
    play.settled(&leader, &play.first, 1).await;
    leader.signal("KILL").await.unwrap();
    leader.wait().await.unwrap();
    stale.signal("KILL").await.unwrap();
    stale.wait().await.unwrap();
}

/// The database frees the locks of a session that is idle within a transaction.
#[tokio::test]
async fn a_leader_that_is_paused_within_a_transaction_does_nothing_new() {
    let ground = Ground::new("within").await;
    let cases = async {
        for failpoint in ["before:plan:1:stop", "before:first:1:stop", "before:first:2:stop"] {
            paused(&ground, failpoint).await;
        }
    };
    ground.during(cases).await;
}

/// Between allocation and signature, between commit and send, and between send and the next commit.
#[tokio::test]
async fn a_leader_that_is_paused_between_transactions_does_nothing_new() {
    let ground = Ground::new("between").await;
    let cases = async {
        for failpoint in ["after:plan:1:stop", "after:first:1:stop", "after:send:2:stop"] {
            paused(&ground, failpoint).await;
        }
    };
    ground.during(cases).await;
}

/// SIGTERM while KMS signs: the signature is kept, nothing is sent any more, and the next daemon
/// leads at once and finishes what is open.
#[tokio::test]
async fn asked_to_stop_it_finishes_its_commits_and_hands_over() {
    let ground = Ground::new("term").await;
    let case = async {
        let play = Play::new("term".to_owned(), Scene::Plain, &ground, Kind::Postgres).await;
        let proxy = RpcProxy::start(ground.stack.anvil.url()).await.unwrap();
        let mut first = behind(&ground, &proxy, &play.database, None, "60s").await;
        let direct = RpcProxy::start(ground.stack.anvil.url()).await.unwrap();
        let mut next = behind(&ground, &direct, &play.database, None, "60s").await;
        ground.stack.kms.take(KMS_DELAY);
        let signing = async {
            eventually("KMS signs", || async {
                ground.stack.kms.asked() > ground.stack.kms.signed()
            })
            .await;
            first.signal("TERM").await.unwrap();
        };
        tokio::select! {
            () = play.agent(&first.url, &play.first) => panic!("served before it was signed"),
            () = signing => {}
        }
        assert_eq!(first.wait().await.unwrap(), 0, "{}", first.tail());
        let stopped = Instant::now();
        assert!(proxy.sent().is_empty(), "sent after it was asked to stop: {}", first.tail());
        let kinds = tally(&play.database, "attempts", "kind").await;
        assert_eq!(kinds.get("first"), Some(&1), "the signature was kept: {kinds:?}");
        let signature = signed(&play.database).await.0.pop_first();
        ground.stack.kms.take(Duration::ZERO);
        eventually("the next one leads", || async { next.logged().contains("leading") }).await;
        assert!(stopped.elapsed() < Duration::from_secs(30), "it waited for the lease's end");
        play.agent(&next.url, &play.first).await;
        play.settled(&next, &play.first, 1).await;
        let sent = direct.sent().first().map(ToString::to_string);
        assert_eq!(sent, signature, "the same bytes");
        next.signal("KILL").await.unwrap();
        next.wait().await.unwrap();
    };
    ground.during(case).await;
}
