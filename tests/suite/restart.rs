//! Crashes and second instances: a payment is settled once, whoever was killed when.

use crate::support::{
    Draft, audited, call, eventually, invoke, keeper, on_chain, postgres, stack, through,
};
use sandbox::{AnvilOptions, PRICE_MICRO, StackOptions};
use serde_json::json;

/// Micro-USDC of every test's payer.
const FUNDS: u64 = 1_000_000;

/// Killed with a pull signed and sent but not mined; the chain goes on without the daemon.
#[tokio::test]
async fn a_killed_daemon_finishes_what_it_began() {
    for database in [None, Some(postgres().await)] {
        let stack = stack(
            "killed",
            StackOptions {
                anvil: AnvilOptions { block_time: None, ..AnvilOptions::default() },
                settle_timeout: "60s",
                ..StackOptions::default()
            },
        )
        .await;
        let database = database.unwrap_or_else(|| stack.sqlite());
        let mut daemon = stack.daemon(&keeper(), &database).await.unwrap();
        let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
        stack.anvil.rpc("evm_setAutomine", json!([false])).await.unwrap();
        let waiting = {
            let (url, header) = (daemon.url.clone(), draft.header());
            tokio::spawn(async move {
                let client = reqwest::Client::new();
                let request = client.post(format!("{url}/v1/invoke")).json(&call("killed-1"));
                request.header("x-payment", header).send().await.is_err()
            })
        };
        eventually("the pull is in the node's pool", || async {
            let pool = stack.anvil.rpc("txpool_status", json!([])).await.unwrap();
            pool["pending"] == "0x1"
        })
        .await;
        daemon.signal("KILL").await.unwrap();
        assert_eq!(daemon.wait().await.unwrap(), 128 + 9);
        assert!(waiting.await.unwrap(), "the agent's connection broke");
        assert_eq!(stack.provider.calls(), 0);

        stack.anvil.rpc("evm_mine", json!([])).await.unwrap();
        stack.anvil.rpc("evm_setIntervalMining", json!([1])).await.unwrap();
        let daemon = stack.daemon(&keeper(), &database).await.unwrap();
        // The agent asks again, as it was told to.
        eventually("the same call is served", || async {
            let answer = invoke(&daemon.url, &call("killed-1"), Some(&draft.header())).await;
            assert_ne!(answer.status, 402, "it must not pay again");
            answer.status == 200
        })
        .await;
        assert_eq!(stack.provider.calls(), 1);
        assert_eq!(on_chain(&stack, &draft.authorization).await, (FUNDS - PRICE_MICRO, true));
        through(&stack, &database, 1).await;
    }
}

/// killed and started again and again while agents pay: nothing is lost or doubled.
#[tokio::test]
async fn a_daemon_killed_again_and_again_loses_and_doubles_nothing() {
    for database in [None, Some(postgres().await)] {
        let stack = stack("again", StackOptions::default()).await;
        let database = database.unwrap_or_else(|| stack.sqlite());
        let payer = stack.agent(10 * FUNDS).await.unwrap();
        let mut paid = 0;
        for round in 0..3u32 {
            let mut daemon = stack.daemon(&keeper(), &database).await.unwrap();
            let mut calls = Vec::new();
            for n in 0..4u32 {
                let draft = Draft::new(&payer, stack.contracts.splitter);
                let body = call(&format!("again-{round}-{n}"));
                calls.push((body, draft));
            }
            for (body, draft) in &calls {
                let (url, body, header) = (daemon.url.clone(), body.clone(), draft.header());
                tokio::spawn(async move {
                    let request = reqwest::Client::new().post(format!("{url}/v1/invoke"));
                    let _ = request.json(&body).header("x-payment", header).send().await;
                });
            }
            // Somewhere between reservation and split; where exactly differs each time.
            tokio::time::sleep(std::time::Duration::from_millis(700 * u64::from(round + 1))).await;
            daemon.signal("KILL").await.unwrap();
            daemon.wait().await.unwrap();

            let daemon = stack.daemon(&keeper(), &database).await.unwrap();
            for (body, draft) in &calls {
                eventually("the same call is served in the end", || async {
                    invoke(&daemon.url, body, Some(&draft.header())).await.status == 200
                })
                .await;
                paid += 1;
            }
            drop(daemon);
        }
        let daemon = stack.daemon(&keeper(), &database).await.unwrap();
        through(&stack, &database, paid).await;
        audited(&daemon.config, &database).await;
    }
}

/// SQLite serves one daemon: a second one waits, says so, and takes over when the first is dead.
#[tokio::test]
async fn on_sqlite_a_second_daemon_stands_by() {
    let stack = stack("standby", StackOptions::default()).await;
    let database = stack.sqlite();
    let mut first = stack.daemon(&keeper(), &database).await.unwrap();
    let mut second = stack.spawn(&keeper(), &database, &[], |config| config).await.unwrap();
    eventually("it says that it stands by", || async {
        let url = format!("{}/readyz", second.url);
        let waiting: serde_json::Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        waiting["waiting_for"]["database"].is_string()
            && second.logged().contains("in use by another keeper")
    })
    .await;
    first.signal("KILL").await.unwrap();
    first.wait().await.unwrap();
    second.ready().await.unwrap();
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    let answer = invoke(&second.url, &call("standby-1"), Some(&draft.header())).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    through(&stack, &database, 1).await;
}

/// Two daemons on one PostgreSQL: both sell, one settles; the same call at both is one payment; when
/// the leader dies the other takes over.
#[tokio::test]
async fn on_postgresql_two_daemons_are_one_hub() {
    let stack = stack("two", StackOptions::default()).await;
    let database = postgres().await;
    let mut first = stack.daemon(&keeper(), &database).await.unwrap();
    let second = stack.daemon(&keeper(), &database).await.unwrap();
    assert!(!second.logged().contains("leading"), "one leads");
    let payer = stack.agent(FUNDS).await.unwrap();

    let draft = Draft::new(&payer, stack.contracts.splitter);
    let header = draft.header();
    let body = call("two-1");
    let (here, there) = tokio::join!(
        invoke(&first.url, &body, Some(&header)),
        invoke(&second.url, &body, Some(&header))
    );
    assert_eq!([here.status, there.status], [200, 200], "{here:?} {there:?}");
    assert_eq!(here.body["result"], there.body["result"]);
    assert_eq!(stack.provider.calls(), 1);

    first.signal("KILL").await.unwrap();
    first.wait().await.unwrap();
    let died = std::time::Instant::now();
    eventually("the other one leads", || async { second.logged().contains("leading") }).await;
    // The lease takes three seconds.
    assert!(died.elapsed() < std::time::Duration::from_secs(3 + 5), "{:?}", died.elapsed());
    // Until the lease runs out nothing is reserved, or it is, and waits for the next leader.
    let draft = Draft::new(&payer, stack.contracts.splitter);
    eventually("the other one takes over", || async {
        let answer = invoke(&second.url, &call("two-2"), Some(&draft.header())).await;
        assert!([200, 503].contains(&answer.status), "{answer:?}");
        answer.status == 200
    })
    .await;
    assert!(second.logged().contains("leading"));
    assert_eq!(on_chain(&stack, &draft.authorization).await.0, FUNDS - 2 * PRICE_MICRO);
    through(&stack, &database, 2).await;
}
