//! Whoever wants to know is told what the ledger says happened: signed, at least once, under one id,
//! and never of an answer that was only given again.

use crate::support::{
    Draft, call, eventually, invoke, keeper, postgres, stack, tally, tamper, through,
};
use keeper::shared_secret::signature;
use sandbox::{Daemon, Inbox, Letter, PRICE_MICRO, Stack, StackOptions};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// The secret that the configurations below have, and its base64.
const SECRET: &[u8] = b"a secret of webhooks";
const SECRET_BASE64: &str = "YSBzZWNyZXQgb2Ygd2ViaG9va3M=";

/// All that happens to a payment that goes well.
const EVENTS: &str = r#""invocation.completed", "settlement.confirmed", "settlement.recorded""#;

/// A configuration with endpoints.
fn told(config: String, inboxes: &[(&Inbox, &str)]) -> String {
    inboxes.iter().fold(config, |config, (inbox, events)| {
        let url = &inbox.url;
        format!(
            "{config}\n[[webhook]]\nurl = \"{url}/hook\"\nsecret = \"{SECRET_BASE64}\"\n\
             events = [{events}]\n"
        )
    })
}

async fn start(stack: &Stack, database: &str, inboxes: &[(&Inbox, &str)]) -> Daemon {
    let change = |config| told(config, inboxes);
    let mut daemon = stack.spawn(&keeper(), database, &[], change).await.unwrap();
    daemon.ready().await.unwrap();
    daemon
}

/// The letters' bodies, each signed as it must be.
fn bodies(inbox: &Inbox) -> Vec<Value> {
    let read = |letter: Letter| {
        let header = |name: &str| letter.headers[name].to_str().unwrap();
        let timestamp = header("x-jecp-webhook-timestamp");
        let age = i64::try_from(crate::support::now()).unwrap() - timestamp.parse::<i64>().unwrap();
        assert!((-1..300).contains(&age), "outside the replay window: {age}");
        let expected = signature(SECRET, timestamp, &letter.body).unwrap();
        assert_eq!(header("x-jecp-webhook-signature"), expected);
        let body: Value = serde_json::from_slice(&letter.body).unwrap();
        assert_eq!(body["id"], header("idempotency-key"));
        body
    };
    inbox.letters().into_iter().map(read).collect()
}

/// How often each type was told, and under how many ids.
fn told_of(inbox: &Inbox) -> BTreeMap<String, (usize, usize)> {
    let mut told = BTreeMap::<_, (usize, BTreeSet<String>)>::new();
    for body in bodies(inbox) {
        let (count, ids) = told.entry(body["type"].as_str().unwrap().to_owned()).or_default();
        *count += 1;
        ids.insert(body["id"].to_string());
    }
    told.into_iter().map(|(kind, (count, ids))| (kind, (count, ids.len()))).collect()
}

/// Everything that has happened is turned into webhooks, and none waits.
async fn all_is_told(database: &str) {
    eventually("everything is told", || async {
        let events: i64 =
            tally(database, "settlement_events", "CAST(n >= 0 AS TEXT)").await.values().sum();
        let next = tally(database, "webhook_cursors", "CAST(next_position AS TEXT)").await;
        let states = tally(database, "webhook_deliveries", "state").await;
        next.contains_key(&events.to_string()) && !states.contains_key("waiting")
    })
    .await;
}

/// R-328, R-329: each event once, signed, with what it is about; who asks again for an answer changes
/// nothing; and nobody is told what happened before anybody could be told.
async fn each_event_is_told_once(name: &str, database: impl Fn(&Stack) -> String) {
    let stack = stack(name, StackOptions::default()).await;
    let database = database(&stack);
    let inbox = Inbox::start().await.unwrap();
    let daemon = start(&stack, &database, &[(&inbox, EVENTS)]).await;
    let payer = stack.agent(2 * PRICE_MICRO).await.unwrap();
    let mut payments = Vec::new();
    for id in ["told-1", "told-2"] {
        let draft = Draft::new(&payer, stack.contracts.splitter);
        let answer = invoke(&daemon.url, &call(id), Some(&draft.header())).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        payments.push((id, draft, answer.body["billing"]["transaction_id"].clone()));
    }
    through(&stack, &database, 2).await;
    for (id, draft, _) in &payments {
        let again = invoke(&daemon.url, &call(id), Some(&draft.header())).await;
        assert_eq!((again.status, &again.body["replayed"]), (200, &json!(true)));
    }
    all_is_told(&database).await;
    let told = told_of(&inbox);
    let twice = |kind: &str| (kind.to_owned(), (2, 2));
    let expected = ["invocation.completed", "settlement.confirmed", "settlement.recorded"];
    assert_eq!(told, expected.map(twice).into_iter().collect(), "R-329");
    let (_, _, first) = &payments[0];
    let about: Vec<_> = bodies(&inbox)
        .into_iter()
        .filter(|body| body["data"]["transaction_id"] == *first)
        .collect();
    assert_eq!(about.len(), 3);
    for body in about {
        let data = &body["data"];
        assert_eq!(data["amount_usdc_micro"], PRICE_MICRO.to_string());
        assert_eq!(
            (&data["capability"], &data["request_id"]),
            (&json!("demo/echo"), &json!("told-1"))
        );
        assert!(data["settlement_tx"].as_str().unwrap().len() == 66);
        assert!(body["created_at"].as_str().unwrap().ends_with('Z'));
    }

    // A second receiver is not told of the past, and the first one not again.
    drop(daemon);
    let late = Inbox::start().await.unwrap();
    let _daemon = start(&stack, &database, &[(&inbox, EVENTS), (&late, EVENTS)]).await;
    all_is_told(&database).await;
    assert!(late.letters().is_empty());
    assert_eq!(inbox.letters().len(), 6);
}

/// R-328, R-329 on SQLite.
#[tokio::test]
async fn each_event_is_told_once_on_sqlite() {
    each_event_is_told_once("told", Stack::sqlite).await;
}

/// R-328, R-329 on PostgreSQL.
#[tokio::test]
async fn each_event_is_told_once_on_postgres() {
    let database = postgres().await;
    each_event_is_told_once("told-pg", |_| database.clone()).await;
}

/// Makes everything due that waits.
async fn let_pauses_pass(database: &str) {
    let past = "UPDATE webhook_deliveries SET due_at = created_at WHERE state = 'waiting'";
    tamper(database, past).await.unwrap();
}

/// An endpoint that does not answer and one that refuses hold up nobody else; each is told again, with
/// the same id and the same bytes, until it takes it.
#[tokio::test]
async fn a_slow_endpoint_holds_up_nobody() {
    let stack = stack("slow-hook", StackOptions::default()).await;
    let database = stack.sqlite();
    let (good, slow, bad) = (
        Inbox::start().await.unwrap(),
        Inbox::start().await.unwrap(),
        Inbox::start().await.unwrap(),
    );
    slow.be_slow(Duration::from_secs(3_600));
    bad.answer(500);
    let events = r#""invocation.completed", "settlement.confirmed""#;
    let inboxes = [(&good, events), (&slow, events), (&bad, "\"invocation.completed\"")];
    let daemon = start(&stack, &database, &inboxes).await;
    let payer = stack.agent(PRICE_MICRO).await.unwrap();
    let draft = Draft::new(&payer, stack.contracts.splitter);
    let answer = invoke(&daemon.url, &call("slow-1"), Some(&draft.header())).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    eventually("the good one has both", || async { good.letters().len() == 2 }).await;
    eventually("the bad one has refused", || async {
        let reasons = tally(&database, "webhook_deliveries", "coalesce(reason, '-')").await;
        reasons.contains_key("HTTP status 500 Internal Server Error")
    })
    .await;
    assert_eq!(bad.letters().len(), 1, "the next attempt is a minute later");
    bad.answer(204);
    let_pauses_pass(&database).await;
    eventually("the bad one has taken it", || async {
        let url = format!("{}/hook", bad.url);
        let waiting = format!("webhook_deliveries WHERE endpoint = '{url}'");
        tally(&database, &waiting, "state").await.contains_key("delivered")
    })
    .await;
    let letters = bad.letters();
    assert_eq!(letters.len(), 2);
    assert_eq!(letters[0].body, letters[1].body, "the same id and the same words");
    assert_eq!(good.letters().len(), 2, "nobody else was told again");
}

/// Killed after an endpoint has taken a webhook and before that was noted: the next daemon tells it
/// again, under the same id.
#[tokio::test]
async fn killed_in_between_it_tells_again_under_the_same_id() {
    let stack = stack("killed-hook", StackOptions::default()).await;
    let database = stack.sqlite();
    let inbox = Inbox::start().await.unwrap();
    inbox.answer(503);
    let inboxes = [(&inbox, "\"settlement.confirmed\"")];
    let mut daemon = start(&stack, &database, &inboxes).await;
    let payer = stack.agent(PRICE_MICRO).await.unwrap();
    let draft = Draft::new(&payer, stack.contracts.splitter);
    let answer = invoke(&daemon.url, &call("killed-1"), Some(&draft.header())).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    through(&stack, &database, 1).await;
    eventually("it was refused, and nothing is left to be written down", || async {
        let events: i64 =
            tally(&database, "settlement_events", "CAST(n >= 0 AS TEXT)").await.values().sum();
        let next = tally(&database, "webhook_cursors", "CAST(next_position AS TEXT)").await;
        let attempts = tally(&database, "webhook_deliveries", "CAST(attempts AS TEXT)").await;
        next.contains_key(&events.to_string()) && attempts.contains_key("1")
    })
    .await;
    daemon.signal("TERM").await.unwrap();
    daemon.wait().await.unwrap();
    inbox.answer(200);
    let_pauses_pass(&database).await;
    let change = |config| told(config, &inboxes);
    let failpoint = "before:webhook:1:kill";
    let mut daemon = stack.spawn_armed(&keeper(), &database, failpoint, change).await.unwrap();
    assert_eq!(daemon.wait().await.unwrap(), 128 + 9, "{}", daemon.tail());
    assert_eq!(inbox.letters().len(), 2, "it was told, and nobody noted it");
    let _daemon = start(&stack, &database, &inboxes).await;
    all_is_told(&database).await;
    assert_eq!(told_of(&inbox)["settlement.confirmed"], (3, 1), "three times under one id");
    let states = tally(&database, "webhook_deliveries", "state").await;
    assert_eq!(states, BTreeMap::from([("delivered".to_owned(), 1)]));
}

/// R-238: an endpoint that leads to another machine's inside by the time it is told is not called, and
/// not tried again; an operator sees it and has it sent when that is over.
#[tokio::test]
async fn an_endpoint_that_may_not_be_called_is_given_up() {
    let stack = stack("blocked-hook", StackOptions::default()).await;
    let database = stack.sqlite();
    let inbox = Inbox::start().await.unwrap();
    let inboxes = [(&inbox, "\"invocation.completed\"")];
    // A name passes at load; where it leads is seen when it is called.
    let named = |config: String| {
        format!(
            "{}\n[outbound]\ndeny = [\"127.0.0.0/8\", \"::1/128\"]\n",
            told(config, &inboxes)
                .replace(&inbox.url, &inbox.url.replace("127.0.0.1", "localhost"))
        )
    };
    // The provider of this stack is at a denied address, too: so a payment is smuggled past it.
    let open = |config: String| {
        told(config, &inboxes).replace(&inbox.url, &inbox.url.replace("127.0.0.1", "localhost"))
    };
    inbox.answer(500);
    let mut daemon = stack.spawn(&keeper(), &database, &[], open).await.unwrap();
    daemon.ready().await.unwrap();
    let payer = stack.agent(PRICE_MICRO).await.unwrap();
    let draft = Draft::new(&payer, stack.contracts.splitter);
    let answer = invoke(&daemon.url, &call("blocked-1"), Some(&draft.header())).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    through(&stack, &database, 1).await;
    eventually("it was refused", || async {
        tally(&database, "webhook_deliveries", "CAST(attempts AS TEXT)").await.contains_key("1")
    })
    .await;
    daemon.signal("TERM").await.unwrap();
    daemon.wait().await.unwrap();
    let before = inbox.letters().len();
    inbox.answer(200);
    let catalogue = |config: String| {
        let path = stack.folder.join("catalogue.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("127.0.0.1", "provider.invalid")).unwrap();
        named(config)
    };
    let_pauses_pass(&database).await;
    let daemon = stack.spawn(&keeper(), &database, &[], catalogue).await.unwrap();
    eventually("it is given up", || async {
        tally(&database, "webhook_deliveries", "state").await.contains_key("abandoned")
    })
    .await;
    assert_eq!(inbox.letters().len(), before, "it was not called");
    let reasons = tally(&database, "webhook_deliveries", "reason").await;
    assert!(reasons.contains_key("resolved_to_deny_cidr"), "{reasons:?}");
    let kept = tally(&database, "ssrf_attempts", "field_name").await;
    assert_eq!(kept["webhook_destination_url"], 1);
    assert!(daemon.logged().contains("ALARM: a webhook was given up"), "{}", daemon.tail());
    drop(daemon);

    let mut daemon = stack.spawn(&keeper(), &database, &[], open).await.unwrap();
    daemon.ready().await.unwrap();
    let keeper_webhooks = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(keeper());
        command.args(["webhooks", "--config"]).arg(&daemon.config).args(arguments);
        let output = command.current_dir(&stack.folder).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let listed = keeper_webhooks(&["list", "--state", "abandoned", "--json"]).await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let id = listed["webhooks"][0]["id"].as_str().unwrap();
    keeper_webhooks(&["retry", id]).await;
    eventually("it is told", || async {
        tally(&database, "webhook_deliveries", "state").await.contains_key("delivered")
    })
    .await;
}
