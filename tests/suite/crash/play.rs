//! What happens in a case: what was before, what goes on around the daemon, and what must be true in
//! the end.

use super::{
    case::Scene,
    ground::{FUNDS, Ground, Kind},
};
use crate::support::{
    Answer, BOOKED, Draft, PATIENCE, call, chain, eventually, on_chain, splitter_record, tally,
    tamper, unique,
};
use alloy::{
    primitives::{B256, Bytes, U256},
    sol,
    sol_types::SolCall,
};
use keeper::{
    chain::BlockTag,
    ledger::{ClosureReason, Ledger, Order, OrderAction, Settlement, SettlementQuery},
    lifecycle::{KeeperState, Status},
    reconciler::reconcile,
};
use sandbox::{Daemon, PRICE_MICRO};
use serde_json::{Value, json};
use std::{
    cell::{Cell, OnceCell},
    future::{Future, pending},
    time::Duration,
};

sol! {
    function blacklist(address account);
    function unBlacklist(address account);
    function transfer(address to, uint256 value);
}

/// A payment of the agent, which it repeats until it is served.
pub(super) struct Payment {
    draft: Draft,
    body: Value,
}

/// A case that is being played.
pub(super) struct Play<'a> {
    name: String,
    scene: Scene,
    ground: &'a Ground,
    pub(super) database: String,
    ledger: Ledger,
    pub(super) first: Payment,
    /// Calls that the provider had before.
    calls: u64,
    /// Whether what happens once in a scene has happened.
    done: Cell<bool>,
    /// What the puller's key signed elsewhere.
    foreign: OnceCell<B256>,
}

impl<'a> Play<'a> {
    pub(super) async fn new(name: String, scene: Scene, ground: &'a Ground, kind: Kind) -> Self {
        let database = ground.reset(kind).await;
        Self {
            name,
            scene,
            ground,
            ledger: Ledger::open_beside(&database).await.unwrap(),
            database,
            first: payment(ground).await,
            calls: ground.stack.provider.calls(),
            done: Cell::new(false),
            foreign: OnceCell::new(),
        }
    }

    // ------------------------------------------------------------------------ before

    /// What was before the daemon that dies at the case's failpoint.
    pub(super) async fn before(&self, scene: Scene) {
        let ground = self.ground;
        match scene {
            Scene::Takeover | Scene::Parked => {
                ground.mine(false).await;
                let mut daemon = ground.daemon(&self.database, None).await;
                tokio::select! {
                    () = self.agent(&daemon.url, &self.first) => panic!("{}: served", self.name),
                    () = self.pulled() => {}
                }
                self.kill(&mut daemon).await;
                if scene == Scene::Parked {
                    let hash = ground.use_the_puller_elsewhere().await;
                    self.foreign.set(hash).unwrap();
                }
                ground.mine(true).await;
            }
            Scene::Quarantined => {
                let mut daemon = ground.daemon(&self.database, None).await;
                eventually("both signers are known", || async {
                    tally(&self.database, "signers", "role").await.len() == 2
                })
                .await;
                self.kill(&mut daemon).await;
                ground.use_the_puller_elsewhere().await;
            }
            Scene::Lost => self.killed_at("after:begin_delivery:1:kill").await,
            Scene::Forgone => {
                self.killed_at("after:begin_delivery:1:kill").await;
                self.age("deliveries", "started_at", 400).await;
            }
            Scene::Expired => {
                self.killed_at("before:plan:1:kill").await;
                ground.let_windows_close().await;
            }
            Scene::Deferred => {
                self.killed_at("before:plan:1:kill").await;
                ground.as_admin(blacklistCall { account: ground.payer.address() }).await;
            }
            Scene::Late => {
                self.killed_at("before:first:2:kill").await;
                self.age("intents", "created_at", 60).await;
            }
            Scene::Refunded => {
                ground.stack.provider.set_failing(true);
                let treasury = ground.stack.roles.hub_treasury;
                ground.stack.contracts.mint(&ground.stack.anvil, treasury, FUNDS).await.unwrap();
            }
            Scene::Plain
            | Scene::Replaced
            | Scene::Stopped
            | Scene::Overdue
            | Scene::Broke
            | Scene::Outrun
            | Scene::Reverted
            | Scene::Ordered
            | Scene::Reorged
            | Scene::Drifted => {}
        }
    }

    /// A daemon that died somewhere else before.
    async fn killed_at(&self, failpoint: &str) {
        let mut daemon = self.ground.daemon(&self.database, Some(failpoint)).await;
        let url = daemon.url.clone();
        tokio::select! {
            () = self.persist(&url) => {}
            () = self.died(&mut daemon, failpoint) => {}
        }
        self.let_time_pass().await;
    }

    async fn kill(&self, daemon: &mut Daemon) {
        daemon.signal("KILL").await.unwrap();
        daemon.wait().await.unwrap();
        self.let_time_pass().await;
    }

    // ------------------------------------------------------------------------ the crash

    /// Plays the scene until the daemon dies at the failpoint.
    pub(super) async fn end(&self, daemon: &mut Daemon, failpoint: &str) {
        let url = daemon.url.clone();
        tokio::select! {
            () = self.during(&url) => {}
            () = self.died(daemon, failpoint) => {}
        }
        if self.scene == Scene::Drifted {
            tamper(&self.database, &spoil('-')).await.unwrap();
        }
        self.let_time_pass().await;
    }

    /// The daemon dies by SIGKILL, at the failpoint and nowhere else.
    async fn died(&self, daemon: &mut Daemon, failpoint: &str) {
        let code = daemon.wait().await;
        let code = code.unwrap_or_else(|_| panic!("{}: not reached: {}", self.name, daemon.tail()));
        assert_eq!(code, 128 + 9, "{}: {}", self.name, daemon.tail());
        let said = daemon.logged().contains(&format!("failpoint {failpoint}"));
        assert!(said, "{}: died elsewhere: {}", self.name, daemon.tail());
    }

    /// A lease runs out, and a call of the provider has taken too long.
    async fn let_time_pass(&self) {
        let sql = "UPDATE leases SET expires_at_ms = 0";
        tamper(&self.database, sql).await.unwrap();
        self.age("deliveries", "started_at", 60).await;
    }

    /// Makes something older than it is, unless it is that old.
    async fn age(&self, table: &str, column: &str, seconds: u32) {
        let when = if self.database.starts_with("postgres") {
            format!("now() - interval '{seconds} seconds'")
        } else {
            format!("strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', '-{seconds} seconds')")
        };
        let sql = format!("UPDATE {table} SET {column} = {when} WHERE {column} > {when}");
        tamper(&self.database, &sql).await.unwrap();
    }

    /// What goes on until the daemon dies; it never ends by itself.
    async fn during(&self, url: &str) {
        let ground = self.ground;
        match self.scene {
            // Nobody comes.
            Scene::Forgone | Scene::Expired | Scene::Parked | Scene::Deferred | Scene::Stopped => {
                pending().await
            }
            Scene::Outrun => both(self.persist(url), self.outrun()).await,
            Scene::Reverted => both(self.persist(url), self.revert()).await,
            Scene::Replaced => both(self.persist(url), self.replace()).await,
            Scene::Ordered => both(self.persist(url), self.order()).await,
            Scene::Refunded => both(self.refuse(url), self.give_back()).await,
            Scene::Reorged => both(self.persist(url), self.reorg()).await,
            Scene::Drifted => {
                let spoilt = async {
                    eventually("it is booked", || self.is_split_booked()).await;
                    tamper(&self.database, &spoil('+')).await.unwrap();
                };
                both(self.persist(url), spoilt).await;
            }
            Scene::Overdue => {
                let overdue = async {
                    ground.mine(false).await;
                    self.pulled().await;
                    self.age("x402_settlements", "reserved_at", 700).await;
                };
                both(self.persist(url), overdue).await;
            }
            Scene::Broke => {
                let broke = async {
                    ground.set_puller_rich(false).await;
                    eventually("the intake is closed", || async {
                        let closed = "coalesce(closed, 'open')";
                        let signers = tally(&self.database, "signers", closed).await;
                        signers.contains_key("low_balance")
                    })
                    .await;
                    ground.set_puller_rich(true).await;
                };
                both(self.persist(url), broke).await;
            }
            Scene::Plain | Scene::Takeover | Scene::Lost | Scene::Late | Scene::Quarantined => {
                self.persist(url).await;
            }
        }
        pending().await
    }

    /// What goes on when the next daemon runs, until the agent is served.
    pub(super) async fn after(&self, scene: Scene, url: &str) {
        let ground = self.ground;
        match scene {
            Scene::Replaced => both(self.agent(url, &self.first), self.replace()).await,
            Scene::Ordered => both(self.agent(url, &self.first), self.order()).await,
            Scene::Refunded => both(self.refuse(url), self.give_back()).await,
            Scene::Deferred => {
                ground.as_admin(unBlacklistCall { account: ground.payer.address() }).await;
                self.agent(url, &self.first).await;
            }
            Scene::Overdue => {
                ground.mine(true).await;
                self.agent(url, &self.first).await;
            }
            Scene::Broke => {
                ground.set_puller_rich(true).await;
                self.agent(url, &self.first).await;
            }
            Scene::Outrun => both(self.outrun(), self.ask(url, &self.first)).await,
            Scene::Reverted => self.revert().await,
            Scene::Parked => self.resolve().await,
            Scene::Expired => {}
            Scene::Drifted => {
                self.lift().await;
                self.agent(url, &self.first).await;
            }
            Scene::Plain
            | Scene::Takeover
            | Scene::Stopped
            | Scene::Lost
            | Scene::Forgone
            | Scene::Late
            | Scene::Quarantined
            | Scene::Reorged => self.agent(url, &self.first).await,
        }
    }

    // ------------------------------------------------------------------------ parts of scenes

    /// A pull is in the node's pool.
    async fn pulled(&self) {
        let ground = self.ground;
        eventually("a pull is in the pool", || ground.has_pending()).await;
    }

    async fn has_attempt(&self, kind: &str) -> bool {
        tally(&self.database, "attempts", "kind").await.contains_key(kind)
    }

    /// The pull is too cheap until it is signed again.
    async fn replace(&self) {
        let ground = self.ground;
        if !self.has_attempt("bump").await {
            ground.mine(false).await;
            self.pulled().await;
            ground.mine_a_dear_block().await;
            eventually("it is signed again", || self.has_attempt("bump")).await;
        }
        ground.mine(true).await;
    }

    /// The pull is too cheap until its window is over.
    async fn outrun(&self) {
        let ground = self.ground;
        if !self.has_attempt("noop").await {
            if !self.done.get() {
                ground.mine(false).await;
                self.pulled().await;
                self.done.set(true);
                ground.let_windows_close().await;
                ground.mine_a_dear_block().await;
            }
            eventually("it gives way", || self.has_attempt("noop")).await;
        }
        ground.mine(true).await;
    }

    /// The payer has code that answers with nothing when the pull is mined.
    async fn revert(&self) {
        let (ground, payer) = (self.ground, self.ground.payer.address());
        if !self.done.get() {
            ground.mine(false).await;
            self.pulled().await;
            self.done.set(true);
            ground.stack.anvil.set_code(payer, &Bytes::from_static(&[0x00])).await.unwrap();
            ground.stack.anvil.rpc("evm_mine", json!([])).await.unwrap();
            ground.stack.anvil.set_code(payer, &Bytes::new()).await.unwrap();
            ground.let_windows_close().await;
        }
        ground.mine(true).await;
    }

    /// An operator orders more fees; blocks wait until that is done.
    async fn order(&self) {
        let ground = self.ground;
        if !self.done.get() {
            ground.mine(false).await;
            self.pulled().await;
            self.add_order(OrderAction::Bump, None).await;
            self.done.set(true);
        }
        eventually("the order is carried out", || self.is_obeyed()).await;
        ground.mine(true).await;
    }

    /// An operator says what took the account nonce of a parked transaction.
    async fn resolve(&self) {
        eventually("it is parked", || async {
            tally(&self.database, "transactions", "state").await.contains_key("parked")
        })
        .await;
        self.add_order(OrderAction::Resolve, self.foreign.get().copied()).await;
        eventually("the order is carried out", || self.is_obeyed()).await;
        self.ground.let_windows_close().await;
    }

    /// The treasury pays once what is owed, whenever that is, whichever daemon runs.
    async fn give_back(&self) {
        eventually("a refund is owed or paid", || async {
            let states = tally(&self.database, "x402_refund_log", "state").await;
            states.contains_key("approved") || states.contains_key("paid")
        })
        .await;
        let (stack, payer) = (&self.ground.stack, self.ground.payer.address());
        let treasury = stack.roles.hub_treasury;
        stack.anvil.rpc("anvil_impersonateAccount", json!([treasury])).await.unwrap();
        stack.anvil.set_balance(treasury, U256::from(u64::MAX)).await.unwrap();
        let input = transferCall { to: payer, value: U256::from(PRICE_MICRO) }.abi_encode();
        // With its account nonce it is one transfer, however often it is sent.
        let transfer = json!({
            "from": treasury, "to": stack.contracts.usdc, "nonce": "0x0", "gas": "0x30d40",
            "input": Bytes::from(input),
        });
        let sent = stack.anvil.rpc("eth_sendTransaction", json!([transfer])).await;
        eventually("the treasury has paid", || async {
            let count = chain(stack).transaction_count(treasury, BlockTag::Latest).await;
            let count = count.unwrap();
            assert!(count <= 1, "{sent:?}");
            count == 1
        })
        .await;
    }

    /// The block with the split is replaced by another one with it, after it was booked.
    async fn reorg(&self) {
        let (ground, anvil) = (self.ground, &self.ground.stack.anvil);
        let found = OnceCell::new();
        eventually("it is split", || async {
            let first = self.settlement(&self.first).await;
            let split = first.and_then(|first| first.split);
            split.map(|split| found.set(split)).is_some()
        })
        .await;
        ground.mine(false).await;
        eventually("it is booked", || async {
            anvil.rpc("evm_mine", json!([])).await.unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
            self.is_split_booked().await
        })
        .await;
        let split = found.into_inner().unwrap();
        let head = chain(&ground.stack).head(BlockTag::Latest).await.unwrap().number();
        let raw = anvil.rpc("eth_getRawTransactionByHash", json!([split.tx_hash])).await.unwrap();
        let depth = head + 1 - split.block_number;
        assert!(depth < 8, "{}: {depth} blocks: through a final one", self.name);
        anvil.rpc("anvil_reorg", json!([depth, [[raw, 0]]])).await.unwrap();
        ground.mine(true).await;
    }

    async fn is_split_booked(&self) -> bool {
        tally(&self.database, BOOKED, "kind").await.contains_key("split")
    }

    /// An operator has found out, and opens the Splitter again.
    async fn lift(&self) {
        let ledger = Ledger::open_beside(&self.database).await.unwrap();
        let mut tx = ledger.begin().await.unwrap();
        let splitter = self.ground.stack.contracts.splitter;
        tx.lift(84_532, splitter, ClosureReason::Drift, "a test's").await.unwrap();
        tx.commit(crate::support::HERE).await.unwrap();
    }

    async fn add_order(&self, action: OrderAction, tx_hash: Option<B256>) {
        let reason = "a test's".to_owned();
        let order = Order { action, account_nonce: Some(0), settlement: None, tx_hash, reason };
        let ledger = Ledger::open_beside(&self.database).await.unwrap();
        let mut tx = ledger.begin().await.unwrap();
        tx.add_order(84_532, self.ground.stack.puller.1, &order).await.unwrap();
        tx.commit(crate::support::HERE).await.unwrap();
    }

    async fn is_obeyed(&self) -> bool {
        let outcomes = "coalesce(CASE WHEN succeeded THEN 'yes' ELSE 'no: ' || outcome END, '-')";
        let outcomes = tally(&self.database, "outbox_orders", outcomes).await;
        assert!(!outcomes.keys().any(|outcome| outcome.starts_with("no")), "{outcomes:?}");
        outcomes.contains_key("yes") && !outcomes.contains_key("-")
    }

    // ------------------------------------------------------------------------ the agent

    /// Asks once. It must never be asked to pay again.
    async fn ask(&self, url: &str, payment: &Payment) {
        self.answer(url, payment).await;
    }

    /// What is answered; `None` when the connection breaks.
    async fn answer(&self, url: &str, payment: &Payment) -> Option<Answer> {
        let request = reqwest::Client::new().post(format!("{url}/v1/invoke"));
        let request = request.json(&payment.body).header("x-payment", payment.draft.header());
        let response = request.send().await.ok()?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.json().await.ok()?;
        let answer = Answer { status, headers, body };
        assert_ne!(status, 402, "{}: it must not pay again: {answer:?}", self.name);
        Some(answer)
    }

    /// Asks until it is served.
    pub(super) async fn agent(&self, url: &str, payment: &Payment) {
        while self.answer(url, payment).await.is_none_or(|answer| answer.status != 200) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asks until it is told that the provider failed.
    async fn refuse(&self, url: &str) {
        while self.answer(url, &self.first).await.is_none_or(|answer| answer.status != 502) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asks until it is served, and stays.
    async fn persist(&self, url: &str) {
        self.agent(url, &self.first).await;
        pending().await
    }

    // ------------------------------------------------------------------------ the end

    async fn settlement(&self, payment: &Payment) -> Option<Settlement> {
        let authorization = &payment.draft.authorization;
        let (payer, nonce) = (authorization.from, authorization.nonce);
        let usdc = self.ground.stack.contracts.usdc;
        let mut tx = self.ledger.read().await.unwrap();
        tx.settlement_by_identity(84_532, usdc, payer, nonce).await.unwrap()
    }

    /// One pull, one record, one split, on the chain and in the ledger, and nothing besides.
    pub(super) async fn check(&self, scene: Scene, daemon: &Daemon) {
        if scene == Scene::Refunded {
            return self.refunded(daemon).await;
        }
        let next = if scene.releases() { Some(self.instead(&daemon.url).await) } else { None };
        let paid = next.as_ref().unwrap_or(&self.first);
        self.settled(daemon, paid, scene.pulls()).await;
        let calls = self.ground.stack.provider.calls() - self.calls;
        assert!((1..=2).contains(&calls), "{}: {calls} calls of the provider", self.name);
        let again = self.answer(&daemon.url, paid).await.unwrap();
        assert_eq!((again.status, &again.body["replayed"]), (200, &json!(true)), "{}", self.name);
        let calls = self.ground.stack.provider.calls() - self.calls - calls;
        assert_eq!(calls, 0, "{}: the answer was kept", self.name);
    }

    /// The payment went its way, and came back once; the capability is not sold.
    async fn refunded(&self, daemon: &Daemon) {
        let ground = self.ground;
        eventually("it is given back, and not sold any more", || async {
            let refunds = tally(&self.database, "x402_refund_log", "state").await;
            let holds =
                tally(&self.database, "capability_holds", "coalesce(lifted_why, '-')").await;
            refunds.get("paid") == Some(&1) && holds.get("-") == Some(&1)
        })
        .await;
        self.settled(daemon, &self.first, 1).await;
        let again = self.answer(&daemon.url, &self.first).await.unwrap();
        assert_eq!(again.status, 502, "{}: not served as well", self.name);
        assert_eq!(ground.stack.provider.calls() - self.calls, 1, "{}", self.name);
        ground.stack.provider.set_failing(false);
    }

    /// The first payment is released untouched; the agent pays with another authorization.
    async fn instead(&self, url: &str) -> Payment {
        eventually("the first payment is released", || async {
            let first = self.settlement(&self.first).await;
            first.is_none_or(|first| first.status == Status::Released)
        })
        .await;
        let untouched = on_chain(&self.ground.stack, &self.first.draft.authorization).await;
        assert_eq!(untouched, (FUNDS, false), "{}", self.name);
        let next = payment(self.ground).await;
        let served = tokio::time::timeout(PATIENCE, self.agent(url, &next)).await;
        assert!(served.is_ok(), "{}: the next one is not served", self.name);
        next
    }

    /// Waits until nothing is open, and counts.
    pub(super) async fn settled(&self, daemon: &Daemon, paid: &Payment, pulls: u64) {
        let stack = &self.ground.stack;
        let (node, record) = (chain(stack), splitter_record(stack));
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let report = loop {
            let report = reconcile(&self.ledger, &node, &record).await.unwrap();
            if report.is_sound() && report.totals.split == 1 && self.is_quiet().await {
                break report;
            }
            let late = tokio::time::Instant::now() >= deadline;
            assert!(!late, "{}: unsettled: {report:?}\n{}", self.name, daemon.tail());
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        assert_eq!(report.totals.paid_micro, PRICE_MICRO, "{}", self.name);
        let settlement = self.settlement(paid).await.unwrap();
        let states = (settlement.status, settlement.keeper_state);
        assert_eq!(states, (Status::ChainConfirmed, KeeperState::Split), "{}", self.name);
        let on_chain = on_chain(stack, &paid.draft.authorization).await;
        // A refund gives all of it back, and is booked when it is owed and when it is paid.
        let (back, more) = if self.scene == Scene::Refunded { (PRICE_MICRO, 2) } else { (0, 0) };
        assert_eq!(on_chain, (FUNDS - PRICE_MICRO + back, true), "{}", self.name);
        assert_eq!(self.ground.used().await, (pulls, 2), "{}: account nonces", self.name);
        let journals = tally(&self.database, BOOKED, "kind").await;
        let booked = ["pull", "record", "split"].map(|kind| journals.get(kind).copied());
        let all: i64 = journals.values().sum();
        // The split is paid out to three.
        assert_eq!((booked, all), ([Some(1); 3], 6 + more), "{}: {journals:?}", self.name);
    }

    /// Nothing is under way: every payment has its outcome, every transaction is final.
    async fn is_quiet(&self) -> bool {
        let transactions = "CASE WHEN final THEN 'final' ELSE 'open' END";
        let transactions = tally(&self.database, "transactions", transactions).await;
        let intents = tally(&self.database, "intents", "state").await;
        let under_way = ["open", "claimed", "included"];
        let splitter = self.ground.stack.contracts.splitter;
        let mut tx = self.ledger.read().await.unwrap();
        let all = tx.settlements(84_532, splitter, SettlementQuery::All).await.unwrap();
        !transactions.contains_key("open")
            && !under_way.iter().any(|state| intents.contains_key(*state))
            && all
                .iter()
                .all(|one| [Status::ChainConfirmed, Status::Released].contains(&one.status))
    }
}

/// A payment by the chain's clock.
async fn payment(ground: &Ground) -> Payment {
    let head = chain(&ground.stack).head(BlockTag::Latest).await.unwrap();
    let mut draft = Draft::new(&ground.payer, ground.stack.contracts.splitter);
    draft.authorization.valid_after = head.timestamp() - 600;
    draft.authorization.valid_before = head.timestamp() + 300;
    Payment { draft, body: call(&unique("crash")) }
}

/// One micro-USDC more, or less, on an account than was ever posted to it.
fn spoil(sign: char) -> String {
    format!(
        "UPDATE accounts SET debits_micro = debits_micro {sign} 1 WHERE code = 'asset:splitter'"
    )
}

async fn both(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    tokio::join!(one, other);
}
