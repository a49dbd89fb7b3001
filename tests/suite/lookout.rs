//! What closes a Splitter from outside the books: its token, this machine's clock; and a chain that
//! stands still.

use crate::support::{Draft, HERE, call, eventually, invoke, keeper, postgres, stack, tally};
use alloy::{
    primitives::{Address, B256, Bytes},
    sol,
    sol_types::SolCall,
};
use keeper::ledger::{Closure, ClosureReason, Ledger};
use sandbox::{AnvilOptions, Daemon, PRICE_MICRO, Stack, StackOptions};
use serde_json::{Value, json};

sol! {
    function blacklist(address account);
    function unBlacklist(address account);
    function pause();
    function unpause();
}

/// Where USDC's proxy has its implementation.
const SLOT: &str = "0x7050c9e0f4ca769c69bd3a8ef740bc37934f8e2c036e5a723fd8ee048ed3f8c3";

/// The token's administrator calls it.
async fn as_admin(stack: &Stack, call: impl SolCall) {
    let admin = stack.anvil.first_account().await.unwrap();
    let input = call.abi_encode().into();
    stack.anvil.send(admin, stack.contracts.usdc, &input).await.unwrap();
}

/// What closes the stack's Splitter.
async fn closures(stack: &Stack, database: &str) -> Vec<Closure> {
    let ledger = Ledger::open_beside(database).await.unwrap();
    let mut tx = ledger.read().await.unwrap();
    tx.closures(84_532, stack.contracts.splitter).await.unwrap()
}

async fn reasons(stack: &Stack, database: &str) -> Vec<ClosureReason> {
    closures(stack, database).await.into_iter().map(|closure| closure.reason).collect()
}

/// Waits until the Splitter is closed for just these reasons.
async fn closed(stack: &Stack, database: &str, expected: &[ClosureReason]) {
    eventually(&format!("it is closed for {expected:?}"), || async {
        reasons(stack, database).await == expected
    })
    .await;
}

/// A stack's daemon with other settings of its chain.
async fn daemon(stack: &Stack, database: &str, settings: &[(&str, &str)]) -> Daemon {
    let change = |mut config: String| {
        for (name, value) in settings {
            let old = config.lines().find(|line| line.starts_with(&format!("{name} = ")));
            let old = old.map(str::to_owned);
            let new = format!("{name} = \"{value}\"");
            config = match old {
                Some(old) => config.replace(&old, &new),
                None => config.replace("poll_interval = ", &format!("{new}\npoll_interval = ")),
            };
        }
        config
    };
    let mut daemon = stack.spawn(&keeper(), database, &[], change).await.unwrap();
    daemon.ready().await.unwrap();
    daemon
}

/// What is missing, as `/readyz` says it.
async fn waiting(daemon: &Daemon) -> Value {
    let answer = reqwest::get(format!("{}/readyz", daemon.url)).await.unwrap();
    answer.json::<Value>().await.unwrap()["waiting_for"].take()
}

/// A metric's value.
async fn metric(daemon: &Daemon, name: &str) -> Option<u64> {
    let text = reqwest::get(format!("{}/metrics", daemon.url)).await.unwrap().text().await.unwrap();
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// The token is paused, then bars the treasury: each closes, with an alarm and a line in the audit
/// log, and each is over by itself.
async fn the_token_bars(stack: &Stack, database: &str) {
    let daemon = stack.daemon(&keeper(), database).await.unwrap();
    as_admin(stack, pauseCall {}).await;
    closed(stack, database, &[ClosureReason::TokenPaused]).await;
    as_admin(stack, unpauseCall {}).await;
    closed(stack, database, &[]).await;
    let account = stack.roles.hub_treasury;
    as_admin(stack, blacklistCall { account }).await;
    closed(stack, database, &[ClosureReason::Blacklisted]).await;
    assert!(closures(stack, database).await[0].detail.contains("has the treasury at block"));
    as_admin(stack, unBlacklistCall { account }).await;
    closed(stack, database, &[]).await;
    let log = daemon.logged();
    for words in ["ALARM: the token is paused", "ALARM: the token's blacklist has an account"] {
        assert_eq!(log.matches(words).count(), 1, "{words}: {}", daemon.tail());
    }
    let actions = tally(database, "audit_log", "action").await;
    assert_eq!((actions["x402.closed"], actions["x402.lifted"]), (2, 2));
}

#[tokio::test]
async fn a_token_that_bars_closes_until_that_is_over() {
    let stack = stack("bars", StackOptions::default()).await;
    the_token_bars(&stack, &stack.sqlite()).await;
}

#[tokio::test]
async fn a_token_that_bars_closes_until_that_is_over_on_postgres() {
    let stack = stack("bars-pg", StackOptions::default()).await;
    the_token_bars(&stack, &postgres().await).await;
}

async fn implement(stack: &Stack, implementation: u8) {
    let params = json!([stack.contracts.usdc, SLOT, B256::with_last_byte(implementation)]);
    stack.anvil.rpc("anvil_setStorageAt", params).await.unwrap();
    stack.anvil.rpc("evm_mine", json!([])).await.unwrap();
}

async fn lift(stack: &Stack, database: &str, reason: ClosureReason) {
    let ledger = Ledger::open_beside(database).await.unwrap();
    let mut tx = ledger.begin().await.unwrap();
    assert!(tx.lift(84_532, stack.contracts.splitter, reason, "looked at").await.unwrap());
    tx.commit(HERE).await.unwrap();
}

/// The token's implementation becomes another one while the daemon is down: that is noticed, and
/// stays closed over a restart, until somebody has looked. Then the new one is the known one.
async fn the_token_changes(stack: &Stack, database: &str) {
    let mut first = stack.daemon(&keeper(), database).await.unwrap();
    eventually("the token is known", || async {
        !tally(database, "token_sightings", "asset").await.is_empty()
    })
    .await;
    first.signal("TERM").await.unwrap();
    first.wait().await.unwrap();
    assert_eq!(reasons(stack, database).await, []);

    implement(stack, 0xaa).await;
    let mut second = stack.spawn(&keeper(), database, &[], |config| config).await.unwrap();
    closed(stack, database, &[ClosureReason::TokenChanged]).await;
    eventually("somebody is called", || async {
        second.logged().contains("ALARM: the token is not what it was")
    })
    .await;
    second.signal("TERM").await.unwrap();
    second.wait().await.unwrap();

    let third = stack.spawn(&keeper(), database, &[], |config| config).await.unwrap();
    lift(stack, database, ClosureReason::TokenChanged).await;
    implement(stack, 0xbb).await;
    closed(stack, database, &[ClosureReason::TokenChanged]).await;
    let detail = closures(stack, database).await.remove(0).detail;
    let (new, old) = (B256::with_last_byte(0xbb), B256::with_last_byte(0xaa));
    assert!(detail.contains(&format!("implementation {new} was {old}")), "{detail}");
    eventually("somebody is called again", || async {
        third.logged().matches("ALARM: the token is not what it was").count() == 1
    })
    .await;
    assert_eq!(tally(database, "token_sightings", "asset").await.values().sum::<i64>(), 3);
}

#[tokio::test]
async fn a_token_that_changed_closes_until_somebody_has_looked() {
    let stack = stack("changes", StackOptions::default()).await;
    the_token_changes(&stack, &stack.sqlite()).await;
}

#[tokio::test]
async fn a_token_that_changed_closes_until_somebody_has_looked_on_postgres() {
    let stack = stack("changes-pg", StackOptions::default()).await;
    the_token_changes(&stack, &postgres().await).await;
}

/// Other code at the token's address is another token, too.
#[tokio::test]
async fn other_code_at_the_token_closes() {
    let stack = stack("code", StackOptions::default()).await;
    let database = stack.sqlite();
    let _daemon = stack.daemon(&keeper(), &database).await.unwrap();
    eventually("the token is known", || async {
        !tally(&database, "token_sightings", "asset").await.is_empty()
    })
    .await;
    let usdc = stack.contracts.usdc;
    let code = stack.anvil.rpc("eth_getCode", json!([usdc, "latest"])).await.unwrap();
    let mut code: Vec<u8> = serde_json::from_value::<Bytes>(code).unwrap().into();
    code.push(0);
    stack.anvil.set_code(usdc, &code.into()).await.unwrap();
    closed(&stack, &database, &[ClosureReason::TokenChanged]).await;
}

/// The chain is a minute ahead of this machine's clock: closed. A daemon whose clock is right, as
/// its settings say, opens it.
#[tokio::test]
async fn a_clock_that_is_wrong_closes() {
    let stack = stack("clock", StackOptions::default()).await;
    let database = stack.sqlite();
    let mut wrong = daemon(&stack, &database, &[("max_clock_skew", "5s")]).await;
    assert_eq!(reasons(&stack, &database).await, []);
    stack.anvil.rpc("evm_increaseTime", json!([60])).await.unwrap();
    closed(&stack, &database, &[ClosureReason::ClockSkew]).await;
    eventually("somebody is called", || async {
        wrong.logged().contains("ALARM: this machine's clock and the chain's disagree")
    })
    .await;
    wrong.signal("TERM").await.unwrap();
    wrong.wait().await.unwrap();
    let _right = daemon(&stack, &database, &[("max_clock_skew", "2m")]).await;
    closed(&stack, &database, &[]).await;
}

/// A node that answers and stands still: not ready, somebody is called, the websocket that announces
/// nothing is given up. When blocks come again, everything goes on.
#[tokio::test]
async fn a_silent_chain_is_noticed() {
    let stack = stack("silent", StackOptions::default()).await;
    let database = stack.sqlite();
    let ws = stack.anvil.url().replace("http://", "ws://");
    let daemon = daemon(&stack, &database, &[("max_silence", "10s"), ("ws", &ws)]).await;
    eventually("heads are announced", || async {
        metric(&daemon, "keeper_head_stream_up{chain_id=\"84532\"}").await == Some(1)
    })
    .await;
    stack.anvil.rpc("evm_setIntervalMining", json!([0])).await.unwrap();
    eventually("it is not ready", || async { waiting(&daemon).await["chain"] == "no new block" })
        .await;
    eventually("somebody is called, and the stream is given up", || async {
        let log = daemon.logged();
        log.contains("ALARM: the chain is silent: no new block")
            && log.contains("no head was announced for 10s")
    })
    .await;
    assert_eq!(metric(&daemon, "keeper_head_stream_up{chain_id=\"84532\"}").await, Some(0));
    stack.anvil.rpc("evm_setIntervalMining", json!([1])).await.unwrap();
    eventually("it is ready, and heads are announced", || async {
        waiting(&daemon).await == json!({})
            && metric(&daemon, "keeper_head_stream_up{chain_id=\"84532\"}").await == Some(1)
    })
    .await;
}

/// Heads that are announced are enough: the head is polled once an hour, and a payment is settled.
#[tokio::test]
async fn announced_heads_are_followed() {
    let stack = stack("announced", StackOptions::default()).await;
    let database = stack.sqlite();
    let ws = stack.anvil.url().replace("http://", "ws://");
    let daemon = daemon(&stack, &database, &[("poll_interval", "1h"), ("ws", &ws)]).await;
    let draft = Draft::new(&stack.agent(PRICE_MICRO).await.unwrap(), stack.contracts.splitter);
    let paid = invoke(&daemon.url, &call("announced-1"), Some(&draft.header())).await;
    assert_eq!(paid.status, 200, "{paid:?}");
    assert!(metric(&daemon, "keeper_head_block{chain_id=\"84532\"}").await.unwrap() > 1);
}

/// Without the websocket the head is polled: nothing is lost but time.
#[tokio::test]
async fn without_its_stream_the_head_is_polled() {
    let anvil = AnvilOptions::default();
    let stack = stack("polled", StackOptions { anvil, ..StackOptions::default() }).await;
    let database = stack.sqlite();
    let daemon = daemon(&stack, &database, &[("ws", "ws://127.0.0.1:1")]).await;
    let draft = Draft::new(&stack.agent(PRICE_MICRO).await.unwrap(), stack.contracts.splitter);
    let paid = invoke(&daemon.url, &call("polled-1"), Some(&draft.header())).await;
    assert_eq!(paid.status, 200, "{paid:?}");
    assert_eq!(metric(&daemon, "keeper_head_stream_up{chain_id=\"84532\"}").await, Some(0));
    assert!(daemon.logged().contains("the stream of new heads has ended"));
    eventually("how fresh each stream is, is shown", || async {
        let splitter: Address = stack.contracts.splitter;
        for stream in ["mirror", "journal"] {
            let labels = format!("{{splitter=\"{splitter}\",stream=\"{stream}\"}}");
            let block = metric(&daemon, &format!("keeper_stream_block{labels}")).await;
            let lag = metric(&daemon, &format!("keeper_stream_lag_blocks{labels}")).await;
            if block.is_none_or(|block| block == 0) || lag.is_none() {
                return false;
            }
        }
        true
    })
    .await;
}
