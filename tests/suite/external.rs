//! Mode `external`: somebody else pulls. What he says is his word; what the chain says is booked.

use crate::support::{
    Answer, Draft, audited, call, eventually, invoke, keeper, metric, on_chain, postgres,
    settlement_of, settlements, sound, stack, tally,
};
use alloy::{primitives::B256, signers::local::PrivateKeySigner};
use keeper::{
    ledger::{Action, Ledger},
    lifecycle::{KeeperState, Status},
};
use sandbox::{Daemon, FacilitatorStub, PRICE_MICRO, Reply, Stack, StackOptions, Transport, Turn};
use serde_json::{Value, json};
use std::time::Duration;

/// Micro-USDC of each agent.
const FUNDS: u64 = 10 * PRICE_MICRO;

/// A hub without a puller, and who pulls for it.
struct Hub {
    stack: Stack,
    stub: FacilitatorStub,
    database: String,
    daemon: Daemon,
    agent: PrivateKeySigner,
}

/// A configuration in mode `external`, with this `[facilitator]`.
fn external(config: &str, facilitator: &str) -> String {
    let (config, _) = config.split_once("[splitter.puller]").unwrap();
    format!("{}{facilitator}", config.replace("mode = \"self\"", "mode = \"external\""))
}

impl Hub {
    async fn start(name: &str, transport: Transport, database: Option<String>) -> Self {
        let options = StackOptions { settle_timeout: "4s", ..StackOptions::default() };
        let stack = stack(name, options).await;
        let stub =
            FacilitatorStub::start(stack.anvil.url(), &stack.folder, transport).await.unwrap();
        let database = database.unwrap_or_else(|| stack.sqlite());
        let daemon = ready(&stack, &database, &stub.config(), None).await;
        let agent = stack.agent(FUNDS).await.unwrap();
        Self { stack, stub, database, daemon, agent }
    }

    fn draft(&self) -> Draft {
        Draft::new(&self.agent, self.stack.contracts.splitter)
    }

    async fn pay(&self, id: &str, draft: &Draft) -> Answer {
        invoke(&self.daemon.url, &call(id), Some(&draft.header())).await
    }

    async fn status(&self, draft: &Draft) -> Option<Status> {
        settlement_of(&self.database, &draft.authorization).await.map(|known| known.status)
    }

    /// How often an action stands in the log, and the last one's detail.
    async fn actions(&self, action: Action) -> (usize, Value) {
        let ledger = Ledger::open_beside(&self.database).await.unwrap();
        let found = ledger.read().await.unwrap().actions(action).await.unwrap();
        let last = found.last().map_or("null", |record| record.detail.as_str());
        (found.len(), serde_json::from_str(last).unwrap())
    }

    /// Ends the daemon and starts another in its place.
    async fn restart(&mut self, config: &str, crash: Option<&str>) {
        self.daemon.signal("KILL").await.unwrap();
        self.daemon.wait().await.unwrap();
        self.daemon = ready(&self.stack, &self.database, config, crash).await;
    }

    /// Lets so much time pass, up to a final block, that every window is closed.
    async fn close_windows(&self) {
        self.stack.anvil.rpc("evm_increaseTime", json!([700])).await.unwrap();
        self.stack.anvil.rpc("anvil_mine", json!(["0x50"])).await.unwrap();
    }

    /// The same call until it is served.
    async fn served(&self, id: &str, draft: &Draft) {
        eventually("it is served", || async { self.pay(id, draft).await.status == 200 }).await;
    }
}

/// A daemon in mode `external` that is ready, unless it is to crash.
async fn ready(stack: &Stack, database: &str, config: &str, crash: Option<&str>) -> Daemon {
    let change = |own: String| external(&own, config);
    let mut daemon = match crash {
        Some(point) => stack.spawn_armed(&keeper(), database, point, change).await.unwrap(),
        None => stack.spawn(&keeper(), database, &[], change).await.unwrap(),
    };
    daemon.ready().await.unwrap();
    daemon
}

async fn settled(name: &str, database: Option<String>) {
    let hub = Hub::start(name, Transport::Tls, database).await;
    let challenge = invoke(&hub.daemon.url, &call("price"), None).await;
    assert_eq!(challenge.status, 402);
    let offer = &challenge.body["payment"]["accepts"][0];
    assert_eq!(offer["extra"]["facilitator_url"], hub.stub.url());
    let draft = hub.draft();
    let answer = hub.pay("call-1", &draft).await;
    assert_eq!(answer.status, 200, "{:?}\n{}", answer.body, hub.daemon.tail());
    assert_eq!(answer.body["billing"]["x402"]["facilitator"], hub.stub.url());
    assert_eq!(hub.stub.calls(), ["verify", "settle"], "each once, in this order");
    // The same again is answered from the ledger, and asks nobody.
    let again = hub.pay("call-1", &draft).await;
    assert_eq!((again.status, &again.body["replayed"]), (200, &json!(true)));
    assert_eq!(hub.stub.calls().len(), 2);
    sound(&hub.stack, &hub.database, 1).await;
    let known = settlement_of(&hub.database, &draft.authorization).await.unwrap();
    assert_eq!((known.status, known.keeper_state), (Status::ChainConfirmed, KeeperState::Split));
    let told =
        "(SELECT facilitator_response_jsonb ->> 'transaction' AS hash FROM x402_settlements) t";
    assert!(
        tally(&hub.database, told, "hash")
            .await
            .contains_key(&known.pull.unwrap().tx_hash.to_string())
    );
    assert_eq!(tally(&hub.database, "x402_settlements", "mode").await["external"], 1);
    assert_eq!(
        tally(&hub.database, "signers", "role").await.keys().collect::<Vec<_>>(),
        ["settler"]
    );
    assert_eq!(on_chain(&hub.stack, &draft.authorization).await, (FUNDS - PRICE_MICRO, true));
    audited(&hub.daemon.config, &hub.database).await;
}

/// verified, written down, settled once; recorded and split by us.
#[tokio::test]
async fn a_facilitator_pulls_and_we_record_and_split() {
    settled("external", None).await;
}

/// the same on PostgreSQL.
#[tokio::test]
async fn a_facilitator_pulls_and_we_record_and_split_on_postgres() {
    settled("external-pg", Some(postgres().await)).await;
}

/// C-56: a no is told in the registry's words and frees the payment; a 5xx is tried
/// once more; a no is not believed against the chain.
#[tokio::test]
async fn what_a_facilitator_refuses_is_released_and_may_be_tried_again() {
    let hub = Hub::start("refused", Transport::Http, None).await;
    let draft = hub.draft();

    let no = json!({"isValid": false, "invalidReason": "insufficient_funds"});
    hub.stub.once("verify", Turn::only_says(Reply::Says(no)));
    let answer = hub.pay("call-1", &draft).await;
    assert_eq!((answer.status, answer.code()), (422, "X402_PAYMENT_INVALID"));
    assert_eq!(answer.subcause(), "insufficient_funds");
    assert_eq!(hub.stub.calls(), ["verify"], "nothing was settled");
    assert_eq!(hub.status(&draft).await, Some(Status::Released));
    assert_eq!(hub.actions(Action::PaymentRejected).await.0, 1);

    let no = json!({"success": false, "errorReason": "insufficient_funds", "transaction": ""});
    hub.stub.once("settle", Turn::only_says(Reply::Says(no.clone())));
    let answer = hub.pay("call-1", &draft).await;
    assert_eq!((answer.status, answer.subcause()), (422, "insufficient_funds"));
    assert_eq!(hub.status(&draft).await, Some(Status::Released));
    assert!(!on_chain(&hub.stack, &draft.authorization).await.1, "it is unused");

    // It has the signature: while it could use it, the call is not paid with a second one.
    let (second, asked) = (hub.draft(), hub.stub.calls().len());
    let answer = hub.pay("call-1", &second).await;
    assert_eq!((answer.status, answer.code()), (503, "SERVICE_DEGRADED"), "{answer:?}");
    assert_eq!(answer.body["error"]["details"]["settlement"], "settle_pending");
    assert!(hub.status(&second).await.is_none(), "nothing was reserved");
    assert_eq!(hub.stub.calls().len(), asked, "nobody was shown it");

    // Twice 503: R-065.
    for _ in 0..2 {
        hub.stub.once("verify", Turn::only_says(Reply::Status(503)));
    }
    let answer = hub.pay("call-1", &draft).await;
    assert_eq!((answer.status, answer.code()), (502, "X402_FACILITATOR_UNREACHABLE"));
    assert_eq!(answer.subcause(), "connection_refused");
    assert_eq!(answer.body["error"]["details"]["last_error"], "upstream_5xx");
    assert_eq!(answer.header("retry-after"), "30");
    assert!(answer.body["next_action"]["type"].is_string());
    assert_eq!(hub.status(&draft).await, Some(Status::Released));

    // Once 503, and it had pulled: the second attempt finds its own first one.
    hub.stub.once("verify", Turn::only_says(Reply::Status(503)));
    hub.stub.once("settle", Turn::replies(Reply::Status(503)));
    let answer = hub.pay("call-1", &draft).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);

    // It pulls and says that it has not.
    let lied = hub.draft();
    hub.stub.once("settle", Turn::replies(Reply::Says(no)));
    let answer = hub.pay("call-2", &lied).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    sound(&hub.stack, &hub.database, 2).await;
    assert_eq!(hub.stack.provider.calls(), 2);
    audited(&hub.daemon.config, &hub.database).await;
}

/// C-55: no answer in five seconds. Before it has the payment that ends the
/// reservation; after it only the chain does.
#[tokio::test]
async fn a_slow_facilitator_costs_nobody_money() {
    let hub = Hub::start("slow", Transport::Http, None).await;
    let draft = hub.draft();
    let slow = Turn { delay: Duration::from_secs(8), ..Turn::default() };
    hub.stub.once("verify", slow.clone());
    let answer = hub.pay("call-1", &draft).await;
    assert_eq!((answer.status, answer.code()), (504, "X402_SETTLEMENT_TIMEOUT"));
    assert_eq!(answer.subcause(), "facilitator_slow");
    let elapsed = answer.body["error"]["details"]["elapsed_ms"].as_u64().unwrap();
    assert!((5_000..8_000).contains(&elapsed), "{elapsed}");
    assert_eq!(answer.header("retry-after"), "30");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(hub.status(&draft).await, Some(Status::Released));
    assert_eq!(hub.stub.calls(), ["verify"]);
    assert_eq!(metric(&hub.daemon, "x402_facilitator_timeout_total").await, 1);

    hub.stub.once("settle", slow);
    let answer = hub.pay("call-1", &draft).await;
    assert_eq!((answer.status, answer.subcause()), (504, "facilitator_slow"));
    assert_eq!(answer.body["error"]["details"]["settlement"], "settle_pending");
    hub.served("call-1", &draft).await;
    assert_eq!(hub.stub.calls(), ["verify", "verify", "settle"], "nothing is settled twice");
    assert_eq!(hub.stack.provider.calls(), 1);
    sound(&hub.stack, &hub.database, 1).await;
    assert_eq!(on_chain(&hub.stack, &draft.authorization).await.0, FUNDS - PRICE_MICRO);

    // it says itself that the chain is the reason.
    let congested = json!({"isValid": false, "invalidReason": "chain_congested"});
    hub.stub.once("verify", Turn::only_says(Reply::Says(congested)));
    let other = hub.draft();
    let answer = hub.pay("call-2", &other).await;
    assert_eq!((answer.status, answer.subcause()), (504, "chain_congested"));
    assert_eq!(hub.status(&other).await, Some(Status::Released));
    audited(&hub.daemon.config, &hub.database).await;
}

/// a facilitator that names a transaction and has pulled nothing: no provider works for it, and when the
/// window is over the payment is released. Its word stays on file. `tx_hash_seen` where the transaction
/// is another payment's.
#[tokio::test]
async fn a_facilitator_that_lies_is_not_believed() {
    let hub = Hub::start("liar", Transport::Http, None).await;
    let honest = hub.draft();
    assert_eq!(hub.pay("call-1", &honest).await.status, 200);
    let pull = settlement_of(&hub.database, &honest.authorization).await.unwrap().pull.unwrap();

    let lie = |hash: B256| json!({"success": true, "transaction": hash, "network": "base-sepolia"});
    let replayed = hub.draft();
    hub.stub.once("settle", Turn::only_says(Reply::Says(lie(pull.tx_hash))));
    let answer = hub.pay("call-2", &replayed).await;
    assert_eq!(
        (answer.status, answer.code()),
        (409, "X402_SETTLEMENT_REUSED"),
        "{:?}",
        answer.body
    );
    assert_eq!(answer.subcause(), "tx_hash_seen");
    assert_eq!(answer.body["error"]["details"]["tx_hash"], json!(pull.tx_hash));
    assert_eq!(hub.actions(Action::TxHashSeen).await.0, 1);

    let invented = hub.draft();
    hub.stub.once("settle", Turn::only_says(Reply::Says(lie(B256::repeat_byte(7)))));
    let answer = hub.pay("call-3", &invented).await;
    assert_eq!(
        (answer.status, answer.code()),
        (504, "X402_SETTLEMENT_TIMEOUT"),
        "{:?}",
        answer.body
    );
    for draft in [&replayed, &invented] {
        assert_eq!(hub.status(draft).await, Some(Status::SettlePending), "only the chain ends it");
        assert!(!on_chain(&hub.stack, &draft.authorization).await.1);
    }
    assert_eq!(hub.stack.provider.calls(), 1, "no provider worked for a lie");

    hub.close_windows().await;
    for draft in [&replayed, &invented] {
        eventually("it is released", || async {
            hub.status(draft).await == Some(Status::Released)
        })
        .await;
    }
    // Its word stays on file; `keeper reconcile` shows such payments as told only.
    let told = "(SELECT status FROM x402_settlements
        WHERE (facilitator_response_jsonb ->> 'transaction') IS NOT NULL) t";
    assert_eq!(tally(&hub.database, told, "status").await["released"], 2);
    audited(&hub.daemon.config, &hub.database).await;
}

/// what is not signed by the pinned key is not read, whatever it says.
#[tokio::test]
async fn an_answer_that_is_not_signed_is_not_read() {
    let hub = Hub::start("unsigned", Transport::Http, None).await;
    let draft = hub.draft();
    for reply in [Reply::WrongKey, Reply::Unsigned] {
        hub.stub.once("verify", Turn::replies(reply));
        let answer = hub.pay("call-1", &draft).await;
        assert_eq!((answer.status, answer.code()), (502, "X402_FACILITATOR_UNREACHABLE"));
        assert_eq!(answer.subcause(), "signature_pin_mismatch");
        assert_eq!(hub.status(&draft).await, Some(Status::Released));
    }
    assert_eq!(hub.stub.calls(), ["verify", "verify"], "a wrong key is not asked again");
    assert_eq!(hub.actions(Action::SignaturePinMismatch).await.0, 2);
    assert!(hub.daemon.logged().contains("ALARM: an answer of the facilitator"));

    // It has pulled, and cannot prove who it is: the chain can.
    hub.stub.once("settle", Turn::replies(Reply::WrongKey));
    let answer = hub.pay("call-1", &draft).await;
    assert_eq!((answer.status, answer.subcause()), (502, "signature_pin_mismatch"));
    assert_eq!(answer.body["error"]["details"]["settlement"], "settle_pending");
    hub.served("call-1", &draft).await;
    sound(&hub.stack, &hub.database, 1).await;
    assert_eq!(hub.stack.provider.calls(), 1);
}

/// another TLS key, though the authorities vouch for it; nobody at the port. Nothing was
/// sent, so nothing is pending.
#[tokio::test]
async fn a_facilitator_with_another_tls_key_is_asked_nothing() {
    let mut hub = Hub::start("pinned", Transport::Tls, None).await;
    let wrong = "ab".repeat(32);
    let config = hub.stub.config().replace(hub.stub.pin(), &wrong);
    hub.restart(&config, None).await;
    let draft = hub.draft();
    let answer = hub.pay("call-1", &draft).await;
    assert_eq!((answer.status, answer.code()), (502, "X402_FACILITATOR_UNREACHABLE"));
    assert_eq!(answer.subcause(), "cert_pin_mismatch", "{}", hub.daemon.tail());
    assert_eq!(answer.body["error"]["details"]["last_error"], "tls_cert_spki_pin_mismatch");
    assert_eq!(hub.status(&draft).await, Some(Status::Released));
    assert!(hub.stub.calls().is_empty());
    let (count, detail) = hub.actions(Action::CertPinMismatch).await;
    assert_eq!(count, 1);
    assert_eq!(detail["observed"], hub.stub.pin());
    assert_eq!(detail["expected"], json!([wrong]));

    // Two pins, while keys change.
    let both = hub.stub.config().replace(hub.stub.pin(), &format!("{wrong},{}", hub.stub.pin()));
    hub.restart(&both, None).await;
    assert_eq!(hub.pay("call-1", &draft).await.status, 200);

    // Nobody is there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody =
        format!("[facilitator]\nurl = \"http://127.0.0.1:{port}\"\nunsigned = \"allow\"\n");
    hub.restart(&nobody, None).await;
    let other = hub.draft();
    let answer = hub.pay("call-2", &other).await;
    assert_eq!((answer.status, answer.subcause()), (502, "connection_refused"));
    assert_eq!(hub.status(&other).await, Some(Status::Released));
    assert!(hub.daemon.logged().contains("ITS TLS KEY IS NOT PINNED"), "R-266");
}

/// what may not be called, or is not said well, is no facilitator.
#[tokio::test]
async fn a_facilitator_that_may_not_be_called_stops_the_start() {
    let stack = stack("unstarted", StackOptions::default()).await;
    let zeros = "0".repeat(64);
    for (facilitator, why) in [
        ("", "needs facilitator.url"),
        ("url = \"https://10.0.0.1\"\nunsigned = \"allow\"", "resolved_to_deny_cidr"),
        ("url = \"https://facilitator.invalid\"\nunsigned = \"allow\"", "dns_resolve_failed"),
        ("url = \"ftp://localhost\"\nunsigned = \"allow\"", "scheme"),
        ("url = \"http://localhost:1\"", "facilitator.pubkey is missing"),
        ("url = \"http://localhost:1\"\npubkey = \"12\"", "no Ed25519 public key"),
        (&format!("url = \"http://localhost:1\"\npubkey = \"{zeros}\""), "no Ed25519 public key"),
        ("url = \"http://localhost:1\"\ncert_pin = \"12\"", "facilitator.cert_pin \"12\""),
        (
            "url = \"http://localhost:1\"\nunsigned = \"allow\"\nca_file = \"nowhere.pem\"",
            "facilitator.ca_file",
        ),
    ] {
        let change = |own: String| external(&own, &format!("[facilitator]\n{facilitator}\n"));
        let mut daemon = stack.spawn(&keeper(), &stack.sqlite(), &[], change).await.unwrap();
        assert_eq!(daemon.wait().await.unwrap(), 2, "{facilitator}: {}", daemon.tail());
        assert!(daemon.logged().contains(why), "{facilitator}: {}", daemon.tail());
    }
}

/// Killed before and after everything that is written down around a facilitator: the same call is
/// served in the end, paid once; or nothing was paid, and nothing is served.
#[tokio::test]
async fn killed_around_a_facilitator_it_settles_once() {
    let mut hub = Hub::start("killed", Transport::Http, None).await;
    let refused = json!({"isValid": false, "invalidReason": "insufficient_funds"});
    let mut paid = 0;
    for (point, is_sent) in [
        ("before:hand_over:1:kill", true),
        ("before:attest:1:kill", true),
        ("after:attest:1:kill", true),
        ("before:withdraw:1:kill", true),
        ("after:withdraw:1:kill", true),
        // The last: the chain's time runs ahead from here on.
        ("after:hand_over:1:kill", false),
    ] {
        let config = hub.stub.config();
        hub.restart(&config, Some(point)).await;
        let draft = hub.draft();
        if point.contains("withdraw") {
            hub.stub.once("verify", Turn::only_says(Reply::Says(refused.clone())));
        }
        let client = reqwest::Client::new();
        let request = client
            .post(format!("{}/v1/invoke", hub.daemon.url))
            .header("x-payment", draft.header())
            .json(&call(&point.replace(':', "-")));
        request.send().await.expect_err("it was killed");
        assert_eq!(hub.daemon.wait().await.unwrap(), 128 + 9, "{point}");
        hub.daemon = ready(&hub.stack, &hub.database, &config, None).await;
        let id = point.replace(':', "-");
        if is_sent {
            hub.served(&id, &draft).await;
            paid += 1;
        } else {
            // Nobody was asked to settle it: it is over when its window is.
            let answer = hub.pay(&id, &draft).await;
            assert_eq!((answer.status, answer.code()), (504, "X402_SETTLEMENT_TIMEOUT"), "{point}");
            hub.close_windows().await;
            eventually("it is released", || async {
                hub.status(&draft).await == Some(Status::Released)
            })
            .await;
        }
        assert_eq!(on_chain(&hub.stack, &draft.authorization).await.1, is_sent, "{point}");
        assert_eq!(hub.stack.provider.calls(), paid, "{point}");
    }
    sound(&hub.stack, &hub.database, paid).await;
    assert_eq!(settlements(&hub.stack, &hub.database).await.len(), 6);
    assert_eq!(
        on_chain(&hub.stack, &hub.draft().authorization).await.0,
        FUNDS - paid * PRICE_MICRO
    );
    audited(&hub.daemon.config, &hub.database).await;
}
