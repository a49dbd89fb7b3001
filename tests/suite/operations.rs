//! What an operator sees and does over HTTP, also when everything is busy.

use crate::support::{
    Draft, call, eventually, invoke, keeper, metric, on_chain, postgres, settlement_of, stack,
    tally, through,
};
use sandbox::{Daemon, PRICE_MICRO, Stack, StackOptions};
use serde_json::{Value, json};

/// The operator's token in every configuration below.
const TOKEN: &str = "the token of an operator in a test";

/// A daemon with the operator's token, and more of `[http]`.
async fn start(stack: &Stack, database: &str, arguments: &[&str], http: &str) -> Daemon {
    let change = |config: String| {
        config.replacen("[http]", &format!("[http]\nadmin_token = \"{TOKEN}\""), 1) + http
    };
    let mut daemon = stack.spawn(&keeper(), database, arguments, change).await.unwrap();
    daemon.ready().await.unwrap();
    daemon
}

/// What a path says, and with which status; with the token, if it is to be shown.
async fn look(daemon: &Daemon, path: &str, token: Option<&str>) -> (u16, Value) {
    let mut request = reqwest::Client::new().get(format!("{}{path}", daemon.url));
    if let Some(token) = token {
        request = request.header("x-admin-token", token);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
}

/// Tells the daemon something, as its operator.
async fn order(daemon: &Daemon, path: &str, body: &Value) -> (u16, Value) {
    let request = reqwest::Client::new().post(format!("{}{path}", daemon.url)).json(body);
    let answer = request.bearer_auth(TOKEN).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
}

/// with every place taken, calls are refused before any money moves, and `/health` says
/// so; what is under way is served, and what was refused can be paid afterwards.
#[tokio::test]
async fn full_pools_refuse_before_money_moves() {
    let stack = stack("pools", StackOptions::default()).await;
    let database = stack.sqlite();
    let pools = "\n[http.pools]\ninvoke = 2\nread = 1\nprovider = 1\n";
    let daemon = start(&stack, &database, &[], pools).await;
    let [mut first, mut second] = [stack.agent(PRICE_MICRO).await, stack.agent(PRICE_MICRO).await]
        .map(|agent| Draft::new(&agent.unwrap(), stack.contracts.splitter));
    for draft in [&mut first, &mut second] {
        draft.authorization.valid_before += 540;
    }
    stack.anvil.rpc("evm_setIntervalMining", json!([0])).await.unwrap();
    stack.anvil.rpc("evm_setAutomine", json!([false])).await.unwrap();

    let paying = tokio::spawn({
        let (url, header) = (daemon.url.clone(), first.header());
        async move { invoke(&url, &call("pools-1"), Some(&header)).await }
    });
    eventually("the first is on its way", || async {
        settlement_of(&database, &first.authorization).await.is_some()
    })
    .await;
    let health = look(&daemon, "/health", None).await;
    assert_eq!(health.0, 200);
    let shown = &health.1["pools"];
    assert_eq!(shown["provider"], json!({"limit": 1, "in_use": 1, "saturated": true}));
    assert_eq!(shown["invoke"]["in_use"], 1);
    for pool in ["invoke", "read", "provider", "background"] {
        assert!(shown[pool].is_object(), "{pool}");
    }
    assert_eq!(health.1["pool_assignments"]["reconciler"], "background");
    let refused = invoke(&daemon.url, &call("pools-2"), Some(&second.header())).await;
    assert_eq!((refused.status, refused.code()), (503, "SERVICE_DEGRADED"), "{refused:?}");
    assert!(refused.headers.contains_key("retry-after"));
    assert!(settlement_of(&database, &second.authorization).await.is_none(), "no row");
    assert_eq!(on_chain(&stack, &second.authorization).await, (PRICE_MICRO, false), "no money");

    stack.anvil.rpc("evm_setIntervalMining", json!([1])).await.unwrap();
    paying.await.unwrap();
    for (id, draft) in [("pools-1", &first), ("pools-2", &second)] {
        // On a busy machine one waits longer than a call does.
        eventually("it is served", || async {
            invoke(&daemon.url, &call(id), Some(&draft.header())).await.status == 200
        })
        .await;
    }
    through(&stack, &database, 2).await;
}

/// how it is, for anybody; and what was answered, by code.
#[tokio::test]
async fn health_and_metrics_say_how_it_is() {
    let stack = stack("health", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = start(&stack, &database, &[], "").await;
    let (status, health) = look(&daemon, "/health", None).await;
    assert_eq!((status, &health["status"]), (200, &json!("ok")), "{health}");
    assert_eq!(health["engine"], "x402-keeper");
    assert_eq!(health["checks"]["database"], "ok");
    assert!(health["checks"]["response_ms"].is_u64() && health["uptime_seconds"].is_u64());
    assert_eq!(health["x402"]["trust_root"], "ok");
    assert!(health["pools"]["background"]["in_use"].as_u64().unwrap() >= 6, "{health}");
    let alive = reqwest::get(format!("{}/livez", daemon.url)).await.unwrap();
    assert_eq!((alive.status().as_u16(), alive.text().await.unwrap().as_str()), (200, "ok"));

    assert_eq!(invoke(&daemon.url, &call("health-1"), None).await.status, 402);
    assert_eq!(invoke(&daemon.url, &call("health-1"), Some("***")).await.status, 422);
    let series = |status: &str, code: &str| {
        format!(
            "x402_invoke_total{{capability=\"demo\",action=\"echo\",status=\"{status}\",\
             code=\"{code}\"}}"
        )
    };
    assert_eq!(metric(&daemon, &series("402", "PAYMENT_REQUIRED")).await, 1);
    assert_eq!(metric(&daemon, &series("422", "X402_PAYMENT_INVALID")).await, 1);
    let text = reqwest::get(format!("{}/metrics", daemon.url)).await.unwrap().text().await.unwrap();
    for name in [
        "keeper_task_last_tick_timestamp_seconds{task=\"watcher ",
        "keeper_rpc_request_seconds_bucket{",
        "keeper_intents{kind=\"pull\"} 0",
        "keeper_settlements{status=\"settle_pending\"} 0",
        "x402_authorized_settler_check_total{result=\"match\"} 1",
    ] {
        assert!(text.contains(name), "{name}\n{text}");
    }
}

/// C-88: switches, status, replay and audit over HTTP, for who has the token only.
#[tokio::test]
async fn an_operator_with_the_token_works_over_http() {
    let stack = stack("admin", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = start(&stack, &database, &[], "").await;
    let paths = ["/v1/status/x402", "/admin/reconciler/attribution-audit"];
    for path in paths {
        assert_eq!(look(&daemon, path, None).await.0, 401, "{path}");
        assert_eq!(look(&daemon, path, Some("a token of somebody else's")).await.0, 401, "{path}");
    }
    for path in ["/admin/feature-flags", "/admin/keeper/replay-log"] {
        let answer = reqwest::Client::new().post(format!("{}{path}", daemon.url)).send().await;
        assert_eq!(answer.unwrap().status(), 401, "{path}");
    }
    let (status, told) = look(&daemon, "/v1/status/x402", Some(TOKEN)).await;
    assert_eq!(status, 200, "{told}");
    let settler = stack.settler.1.to_string();
    let shown = told["keeper"]["authorized_settler_eoa"].as_str().unwrap();
    assert!(shown.eq_ignore_ascii_case(&settler), "R-259: {told}");
    assert_eq!((&told["keeper"]["is_led"], &told["enabled"]), (&json!(true), &json!(true)));

    let off = json!({"flag": "x402_enabled", "value": false, "reason": "a test"});
    assert_eq!(order(&daemon, "/admin/feature-flags", &off).await.0, 200);
    assert_eq!(invoke(&daemon.url, &call("admin-1"), None).await.status, 503, "at once");
    let on = json!({"flag": "x402_enabled", "value": true});
    assert_eq!(order(&daemon, "/admin/feature-flags", &on).await.0, 200);
    let wrong = json!({"flag": "x402_enbled", "value": true});
    assert_eq!(order(&daemon, "/admin/feature-flags", &wrong).await.0, 400);
    let logged = tally(&database, "audit_log", "action").await;
    assert_eq!(logged["x402.flag_set"], 2);

    let draft = Draft::new(&stack.agent(PRICE_MICRO).await.unwrap(), stack.contracts.splitter);
    let served = invoke(&daemon.url, &call("admin-1"), Some(&draft.header())).await;
    assert_eq!(served.status, 200, "{served:?}");
    through(&stack, &database, 1).await;
    let pull = settlement_of(&database, &draft.authorization).await.unwrap().pull.unwrap();
    let log = json!({"tx_hash": pull.tx_hash, "log_index": pull.log_index});
    for _ in 0..2 {
        let (status, told) = order(&daemon, "/admin/keeper/replay-log", &log).await;
        assert_eq!((status, &told["duplicate"]), (200, &json!(true)), "{told}");
        assert_eq!(told["keeper_state"], "split");
    }
    // each replay is counted, and nothing else happens.
    assert_eq!(metric(&daemon, "x402_keeper_duplicate_ignored_total").await, 2);
    assert_eq!(metric(&daemon, "x402_replay_skipped_total").await, 2);
    assert!(daemon.logged().contains("x402.keeper.duplicate_ignored"));
    let none = json!({"tx_hash": pull.tx_hash, "log_index": 99});
    assert_eq!(order(&daemon, "/admin/keeper/replay-log", &none).await.0, 404);

    let (status, audit) = look(&daemon, "/admin/reconciler/attribution-audit", Some(TOKEN)).await;
    assert_eq!((status, &audit["drift_micro"]), (200, &json!(0)), "{audit}");
    let sums = &audit["capabilities"][0]["sums"];
    for sum in ["paid_micro", "inflow_micro", "recorded_micro", "recorded_logs_micro"] {
        assert_eq!(sums[sum], PRICE_MICRO, "{sum}: {audit}");
    }
    assert_eq!(metric(&daemon, "keeper_duplicate_prevented_total{how=\"joined\"}").await, 0);
    let again = invoke(&daemon.url, &call("admin-1"), Some(&draft.header())).await;
    assert_eq!(again.body["replayed"], true);
    assert_eq!(metric(&daemon, "keeper_duplicate_prevented_total{how=\"joined\"}").await, 1);
}

/// A process that only settles has no calls to answer, and tells its operator how it is all the same.
#[tokio::test]
async fn a_process_that_only_settles_answers_its_operator() {
    let stack = stack("keeper-http", StackOptions::default()).await;
    let database = postgres().await;
    let keeper = start(&stack, &database, &["--role", "keeper"], "").await;
    assert_eq!(metric(&keeper, "keeper_is_leader{chain_id=\"84532\"}").await, 1);
    assert_eq!(look(&keeper, "/livez", None).await.0, 200);
    assert_eq!(look(&keeper, "/v1/status/x402", Some(TOKEN)).await.0, 200);
    assert_eq!(invoke(&keeper.url, &call("keeper-1"), None).await.status, 404);
    let edge = start(&stack, &database, &["--role", "edge"], "").await;
    let draft = Draft::new(&stack.agent(PRICE_MICRO).await.unwrap(), stack.contracts.splitter);
    let served = invoke(&edge.url, &call("keeper-1"), Some(&draft.header())).await;
    assert_eq!(served.status, 200, "{served:?}");
    through(&stack, &database, 1).await;
    assert_eq!(metric(&keeper, "keeper_record_settlement_landed_total").await, 1);
}

/// after the window of its payment, after days, after a restart: the same call gets the same
/// answer, the provider is not asked again, and nothing is paid again.
#[tokio::test]
async fn an_answer_can_be_fetched_again_for_longer_than_a_day() {
    let stack = stack("again", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = start(&stack, &database, &[], "").await;
    let draft = Draft::new(&stack.agent(PRICE_MICRO).await.unwrap(), stack.contracts.splitter);
    let first = invoke(&daemon.url, &call("again-1"), Some(&draft.header())).await;
    assert_eq!(first.status, 200, "{first:?}");
    through(&stack, &database, 1).await;
    drop(daemon);
    stack.anvil.rpc("evm_increaseTime", json!([25 * 3_600])).await.unwrap();
    stack.anvil.rpc("evm_mine", json!([])).await.unwrap();
    let daemon = start(&stack, &database, &[], "").await;
    let again = invoke(&daemon.url, &call("again-1"), Some(&draft.header())).await;
    assert_eq!(again.status, 200, "{again:?}");
    assert_eq!(
        (&again.body["replayed"], &again.body["result"]),
        (&json!(true), &first.body["result"])
    );
    assert_eq!(again.receipt(), first.receipt());
    assert_eq!(stack.provider.calls(), 1);
}
