//! `keeper flags`: what an operator switches off stops within seconds, and what was begun is
//! finished.

use crate::support::{
    Draft, HERE, call, chain, command, eventually, flags, invoke, keeper, now, postgres,
    settlement_of, settlements, stack, tally, through,
};
use alloy::signers::local::PrivateKeySigner;
use keeper::{
    chain::BlockTag,
    ledger::{ClosureReason, Ledger, Stream},
    lifecycle::{KeeperState, Status},
};
use sandbox::{AnvilOptions, Daemon, Stack, StackOptions};
use serde_json::{Value, json};

/// Micro-USDC of every test's payer.
const FUNDS: u64 = 20_000_000;

/// A hub whose blocks are mined by hand, on one of both databases.
pub(crate) struct Hub {
    pub(crate) stack: Stack,
    pub(crate) database: String,
    pub(crate) daemon: Daemon,
    payer: PrivateKeySigner,
}

impl Hub {
    /// On SQLite, then on PostgreSQL. A payment is confirmed after so many blocks.
    pub(crate) async fn on_both(name: &str, confirmations: u64) -> [Self; 2] {
        let postgres = postgres().await;
        [
            Self::start(name, None, confirmations).await,
            Self::start(name, Some(postgres), confirmations).await,
        ]
    }

    pub(crate) async fn start(name: &str, database: Option<String>, confirmations: u64) -> Self {
        let anvil = AnvilOptions { block_time: None, ..AnvilOptions::default() };
        let options =
            StackOptions { anvil, confirmations, settle_timeout: "1s", ..StackOptions::default() };
        let stack = stack(name, options).await;
        let database = database.unwrap_or_else(|| stack.sqlite());
        let daemon = stack.daemon(&keeper(), &database).await.unwrap();
        let payer = stack.agent(FUNDS).await.unwrap();
        stack.anvil.rpc("evm_setAutomine", json!([false])).await.unwrap();
        Self { stack, database, daemon, payer }
    }

    /// A payment that lasts longer than any test.
    pub(crate) fn draft(&self) -> Draft {
        let mut draft = Draft::new(&self.payer, self.stack.contracts.splitter);
        draft.authorization.valid_before = now() + 600;
        draft
    }

    /// A payment whose pull waits in the node's pool.
    pub(crate) async fn pending(&self, id: &str) -> Draft {
        let draft = self.draft();
        let answer = invoke(&self.daemon.url, &call(id), Some(&draft.header())).await;
        assert!(answer.body["error"]["details"]["tx_hash"].is_string(), "{answer:?}");
        draft
    }

    pub(crate) async fn mine(&self) {
        self.stack.anvil.rpc("evm_mine", json!([])).await.unwrap();
    }

    /// From here on a block each second.
    pub(crate) async fn mine_on(&self) {
        self.stack.anvil.rpc("evm_setIntervalMining", json!([1])).await.unwrap();
    }

    /// Mines so many blocks, each seen by the daemon.
    pub(crate) async fn blocks(&self, blocks: u64) {
        for _ in 0..blocks {
            self.mine().await;
            let head = chain(&self.stack).head(BlockTag::Latest).await.unwrap().number();
            eventually("the mirror follows", || async { self.mirrored().await > head }).await;
        }
    }

    async fn mirrored(&self) -> u64 {
        let ledger = Ledger::open_beside(&self.database).await.unwrap();
        let mut tx = ledger.read().await.unwrap();
        let splitter = self.stack.contracts.splitter;
        tx.cursor(84_532, splitter, Stream::Mirror).await.unwrap().unwrap_or(0)
    }

    /// Runs a command that must succeed, and returns what it shows as JSON.
    pub(crate) async fn flags(&self, arguments: &[&str]) -> Value {
        let arguments = [&["--json"], arguments].concat();
        let output = flags(&self.daemon.config, &self.stack, &arguments).await;
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) async fn switch(&self, flag: &str, value: &str) {
        let shown = self.flags(&["set", flag, value, "--reason", "a test"]).await;
        let all = shown["flags"].as_array().unwrap();
        let moved = all.iter().find(|one| one["flag"] == flag).unwrap();
        assert_eq!((&moved["value"], &moved["reason"]), (&json!(value == "on"), &json!("a test")));
    }

    /// What closes the intake, as readiness says.
    async fn waiting_for(&self) -> Value {
        let answer = reqwest::get(format!("{}/readyz", self.daemon.url)).await.unwrap();
        answer.json::<Value>().await.unwrap()["waiting_for"].clone()
    }

    /// Waits until a call without payment is answered with this status.
    async fn answers(&self, status: u16) {
        eventually("the switch counts", || async {
            invoke(&self.daemon.url, &call("unpaid"), None).await.status == status
        })
        .await;
    }

    pub(crate) async fn close(&self, reason: ClosureReason) {
        let ledger = Ledger::open_beside(&self.database).await.unwrap();
        let mut tx = ledger.begin().await.unwrap();
        let splitter = self.stack.contracts.splitter;
        assert!(tx.close(84_532, splitter, reason, "found by a test").await.unwrap());
        tx.commit(HERE).await.unwrap();
    }

    pub(crate) async fn keeper_state(&self, draft: &Draft) -> KeeperState {
        settlement_of(&self.database, &draft.authorization).await.unwrap().keeper_state
    }

    /// Transactions of the settler that nodes have seen.
    pub(crate) async fn settled(&self) -> u64 {
        let settler = self.stack.settler.1;
        chain(&self.stack).transaction_count(settler, BlockTag::Pending).await.unwrap()
    }
}

/// C-31: without a restart no payment is offered or taken any more; one that was
/// taken before is pulled, served, recorded and split all the same.
#[tokio::test]
async fn payments_switched_off_are_refused_and_what_was_taken_is_finished() {
    for hub in Hub::on_both("disabled", 2).await {
        let taken = hub.pending("taken").await;
        hub.switch("x402_enabled", "off").await;
        hub.answers(503).await;

        let unpaid = invoke(&hub.daemon.url, &call("unpaid"), None).await;
        assert_eq!((unpaid.code(), unpaid.header("payment-required")), ("SERVICE_DEGRADED", ""));
        assert!(!unpaid.header("www-authenticate").contains("x402"), "{unpaid:?}");
        assert_eq!(unpaid.body["next_action"]["type"], "wait");
        assert!(!unpaid.body.to_string().contains("exact"), "{unpaid:?}");
        let fresh = hub.draft().header();
        for payment in [fresh.as_str(), "not a payment"] {
            let answer = invoke(&hub.daemon.url, &call("fresh"), Some(payment)).await;
            let found = (answer.status, answer.code(), answer.subcause());
            assert_eq!(found, (422, "X402_NOT_ACCEPTED", "x402_disabled"), "{answer:?}");
        }
        assert_eq!(settlements(&hub.stack, &hub.database).await.len(), 1, "nothing is reserved");
        // It answers as it should, so that nobody takes it out of service.
        assert_eq!(hub.waiting_for().await, json!({}));
        let health = reqwest::get(format!("{}/health", hub.daemon.url)).await.unwrap();
        assert_eq!(health.json::<Value>().await.unwrap()["x402"]["enabled"], false);

        hub.mine_on().await;
        eventually("what was taken is served", || async {
            let again = invoke(&hub.daemon.url, &call("taken"), Some(&taken.header())).await;
            again.status == 200
        })
        .await;
        through(&hub.stack, &hub.database, 1).await;
        hub.switch("x402_enabled", "on").await;
        hub.answers(402).await;
        eventually("and taken again", || async {
            invoke(&hub.daemon.url, &call("fresh"), Some(&fresh)).await.status == 200
        })
        .await;
        through(&hub.stack, &hub.database, 2).await;
    }
}

/// with both switches off nothing is signed, whatever is under way stays where it is
/// and is still watched; with both on again it is finished, once.
#[tokio::test]
async fn signing_switched_off_holds_what_is_under_way_and_loses_nothing() {
    for hub in Hub::on_both("unsigned", 2).await {
        let first = hub.pending("first").await;
        hub.switch("x402_keeper_enabled", "off").await;
        hub.answers(503).await;
        assert!(hub.waiting_for().await["signing"].is_string());
        let fresh = hub.draft();
        let refused = invoke(&hub.daemon.url, &call("second"), Some(&fresh.header())).await;
        assert_eq!((refused.status, refused.code()), (503, "SERVICE_DEGRADED"), "{refused:?}");
        hub.switch("x402_enabled", "off").await;
        eventually("both keys rest", || async {
            hub.daemon.logged().matches("signing was switched").count() == 2
        })
        .await;

        // What was signed before may be mined, and is seen; its record is asked for, and waits.
        hub.blocks(3).await;
        eventually("the watcher goes on", || async {
            hub.keeper_state(&first).await == KeeperState::Recording
        })
        .await;
        let served = invoke(&hub.daemon.url, &call("first"), Some(&first.header())).await;
        assert_eq!(served.status, 200, "a call waits for its pull only: {served:?}");
        hub.blocks(4).await;
        assert_eq!(tally(&hub.database, "attempts", "kind").await, [("first".into(), 1)].into());
        assert_eq!(tally(&hub.database, "transactions", "state").await.len(), 1);
        assert_eq!(hub.settled().await, 0);

        hub.switch("x402_keeper_enabled", "on").await;
        hub.switch("x402_enabled", "on").await;
        hub.mine_on().await;
        eventually("it takes payments again", || async {
            invoke(&hub.daemon.url, &call("second"), Some(&fresh.header())).await.status == 200
        })
        .await;
        through(&hub.stack, &hub.database, 2).await;
    }
}

/// A pull that nodes have lost is handed to them again while nothing is signed: the bytes
/// are committed.
#[tokio::test]
async fn what_is_signed_is_sent_again_while_nothing_is_signed() {
    let hub = Hub::start("resent", None, 2).await;
    let draft = hub.pending("resent").await;
    hub.switch("x402_keeper_enabled", "off").await;
    eventually("both keys rest", || async {
        hub.daemon.logged().matches("signing was switched").count() == 2
    })
    .await;
    hub.stack.anvil.rpc("anvil_dropAllTransactions", json!([])).await.unwrap();
    let order = ["bump", "0", "--signer", "puller", "--reason", "it was lost"];
    let bump = command(&hub.daemon.config, &hub.stack, &order).await;
    let said = String::from_utf8_lossy(&bump.stderr).into_owned();
    assert!(!bump.status.success() && said.contains("switched off"), "{said}");
    eventually("it is in the pool again, and mined", || async {
        hub.mine().await;
        let settlement = settlement_of(&hub.database, &draft.authorization).await.unwrap();
        settlement.status == Status::FacilitatorAttested
    })
    .await;
    assert_eq!(tally(&hub.database, "attempts", "kind").await, [("first".into(), 1)].into());
}

/// What puts the books in doubt closes the intake, and keeps records and splits from being asked for
/// and from being sent, until an operator lifts it.
#[tokio::test]
async fn a_closure_that_needs_a_human_stops_recording_until_it_is_lifted() {
    for hub in Hub::on_both("closed", 2).await {
        let asked = hub.pending("asked").await;
        hub.switch("x402_keeper_enabled", "off").await;
        hub.blocks(2).await;
        eventually("its record is asked for", || async {
            hub.keeper_state(&asked).await == KeeperState::Recording
        })
        .await;
        hub.switch("x402_keeper_enabled", "on").await;
        hub.answers(402).await;
        hub.close(ClosureReason::Drift).await;
        hub.close(ClosureReason::SourcesDiffer).await;
        hub.answers(503).await;
        let waiting = hub.waiting_for().await;
        assert!(waiting["drift"].is_string() && waiting["sources_differ"].is_string(), "{waiting}");
        assert!(!waiting.to_string().contains("found by a test"), "details are not for strangers");
        let fresh = hub.draft();
        let refused = invoke(&hub.daemon.url, &call("fresh"), Some(&fresh.header())).await;
        assert_eq!((refused.status, refused.code()), (503, "SERVICE_DEGRADED"), "{refused:?}");

        let shown = hub.flags(&[]).await;
        assert_eq!(shown["closures"][0]["reason"], "drift");
        assert_eq!(shown["closures"][0]["detail"], "found by a test");
        hub.flags(&["lift", "sources_differ", "--reason", "the endpoint is right"]).await;
        let wrong = ["lift", "clock_skew", "--reason", "a guess"];
        let wrong = flags(&hub.daemon.config, &hub.stack, &wrong).await;
        assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
        let wrong = flags(&hub.daemon.config, &hub.stack, &["lift", "?", "--reason", "a guess"]);
        assert_eq!(wrong.await.status.code(), Some(2));
        let table = flags(&hub.daemon.config, &hub.stack, &[]).await;
        let table = String::from_utf8(table.stdout).unwrap();
        assert!(table.contains("keeper flags lift drift") && table.contains("x402_enabled"));

        hub.flags(&["lift", "drift", "--reason", "looked into"]).await;
        assert_eq!(hub.flags(&[]).await["closures"], json!([]));
        let reasons = tally(&hub.database, "audit_log", "action").await;
        assert_eq!((reasons["x402.closed"], reasons["x402.lifted"]), (2, 2), "{reasons:?}");
        assert_eq!(reasons["x402.flag_set"], 2, "{reasons:?}");
        hub.mine_on().await;
        through(&hub.stack, &hub.database, 1).await;
    }
}
