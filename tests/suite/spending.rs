//! What fees may cost: limits close the intake before money is promised, and what is begun is
//! finished.

use crate::support::{
    Draft, call, command, eventually, invoke, keeper, sound, stack, tally, through,
};
use alloy::primitives::U256;
use sandbox::{AnvilOptions, Daemon, Stack, StackOptions};
use serde_json::{Value, json};

/// Micro-USDC of every test's payer.
const FUNDS: u64 = 2_000_000;
/// A base fee of 5 gwei: a record may cost 0.003 ether then.
const DEAR: &str = "0x12a05f200";

/// Whether readiness says that spending is why nothing is taken.
async fn is_closed(daemon: &Daemon) -> bool {
    let answer = reqwest::get(format!("{}/readyz", daemon.url)).await.unwrap();
    let body: Value = answer.json().await.unwrap();
    body["waiting_for"]["spending"].is_string()
}

async fn refused(stack: &Stack, daemon: &Daemon, id: &str) -> Draft {
    let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    is_refused(daemon, id, &draft).await;
    draft
}

async fn is_refused(daemon: &Daemon, id: &str, draft: &Draft) {
    let answer = invoke(&daemon.url, &call(id), Some(&draft.header())).await;
    assert_eq!((answer.status, answer.code()), (503, "SERVICE_DEGRADED"), "{answer:?}");
}

/// With little ether left nothing is reserved and no account nonce is given out; with ether again,
/// the same payment goes through.
#[tokio::test]
async fn a_low_balance_closes_the_intake() {
    let stack = stack("poor", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    for (key, poor) in [(stack.puller.1, "puller"), (stack.settler.1, "settler")] {
        stack.anvil.set_balance(key, U256::from(1_000_000_000_000_000u64)).await.unwrap();
        eventually("it is noticed", || is_closed(&daemon)).await;
        let draft = refused(&stack, &daemon, poor).await;
        let rich = U256::from(1_000_000_000_000_000_000u64);
        stack.anvil.set_balance(key, rich).await.unwrap();
        eventually("it opens again", || async { !is_closed(&daemon).await }).await;
        let answer = invoke(&daemon.url, &call(poor), Some(&draft.header())).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert!(daemon.logged().contains("ALARM: nothing new is begun"), "{}", daemon.tail());
    for key in [stack.puller.1, stack.settler.1] {
        let open = format!("keeper_paused{{signer=\"{key}\",reason=\"low_balance\"}} 0");
        let text = reqwest::get(format!("{}/metrics", daemon.url)).await.unwrap().text().await;
        assert!(text.unwrap().lines().any(|line| line == open), "{open}");
    }
    through(&stack, &database, 2).await;
}

/// the day's limit is lowered and raised while the daemon runs.
#[tokio::test]
async fn a_days_limit_is_changed_at_run_time() {
    let stack = stack("day", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let set = async |arguments: &[&str]| {
        let output = command(&daemon.config, &stack, &[&["limits"], arguments].concat()).await;
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let limits = set(&["--signer", "puller", "--day", "1"]).await;
    assert_eq!(limits["day"], json!(1), "{limits}");
    eventually("nothing more is begun", || is_closed(&daemon)).await;
    let draft = refused(&stack, &daemon, "day-1").await;
    assert_eq!(tally(&database, "transactions", "state").await.len(), 0);
    let limits = set(&["--signer", "puller", "--reset"]).await;
    assert_eq!(limits["day"], json!(100_000_000_000_000_000u64));
    eventually("it opens again", || async { !is_closed(&daemon).await }).await;
    assert_eq!(invoke(&daemon.url, &call("day-1"), Some(&draft.header())).await.status, 200);
    through(&stack, &database, 1).await;

    let wrong = command(&daemon.config, &stack, &["limits", "--hard-transaction", "1"]).await;
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}

/// Fees rise above what a new transaction may cost: nothing new is begun, but the pull that is
/// under way is paid more for, up to the hard limit; above that it waits until an operator raises
/// it.
#[tokio::test]
async fn what_is_begun_is_paid_up_to_the_hard_limit() {
    let anvil = AnvilOptions { block_time: None, ..AnvilOptions::default() };
    let options = StackOptions { anvil, settle_timeout: "1s", ..StackOptions::default() };
    let stack = stack("dear", options).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    // A pull's gas limit is 250,000: that leaves 4 gwei, below the dear block's base fee.
    let capped = [
        "limits",
        "--signer",
        "puller",
        "--hard-transaction",
        "1000000000000000",
        "--transaction",
        "1000000000000000",
    ];
    assert!(command(&daemon.config, &stack, &capped).await.status.success());
    let mut draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    draft.authorization.valid_before += 500;
    let other = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
    stack.anvil.rpc("evm_setAutomine", json!([false])).await.unwrap();
    let pending = invoke(&daemon.url, &call("dear-1"), Some(&draft.header())).await;
    assert!(pending.body["error"]["details"]["tx_hash"].is_string(), "{pending:?}");
    stack.anvil.rpc("anvil_setNextBlockBaseFeePerGas", json!([DEAR])).await.unwrap();
    stack.anvil.rpc("evm_mine", json!([])).await.unwrap();
    eventually("it waits", || async {
        daemon.logged().contains("ALARM: fees are above what may be paid")
    })
    .await;
    eventually("nothing new is begun", || is_closed(&daemon)).await;
    is_refused(&daemon, "dear-2", &other).await;
    assert_eq!(tally(&database, "attempts", "kind").await.get("bump"), None);

    let raised = ["limits", "--signer", "puller", "--hard-transaction", "9000000000000000"];
    assert!(command(&daemon.config, &stack, &raised).await.status.success());
    eventually("it is paid more for", || async {
        tally(&database, "attempts", "kind").await.get("bump") == Some(&1)
    })
    .await;
    assert!(is_closed(&daemon).await, "that was no new transaction");
    let raised = ["limits", "--signer", "puller", "--reset"];
    assert!(command(&daemon.config, &stack, &raised).await.status.success());
    stack.anvil.rpc("evm_setIntervalMining", json!([1])).await.unwrap();
    sound(&stack, &database, 1).await;
}
