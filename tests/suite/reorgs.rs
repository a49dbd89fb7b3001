//! Reorgs at every point of a payment's way: whatever the chain forgets, keeps or puts in its place,
//! there is at most one effect per payment in the end, ledger and chain agree, and somebody is
//! called where money is missing for good.
//!
//! Blocks are mined by hand, so that a case is what its name says. `safe` is four blocks behind the
//! head, `finalized` eight: no reorg here is deeper than that.

use crate::{
    kms::signer,
    support::{
        BOOKED, Draft, call, chain, invoke, keeper, on_chain, postgres, reconciled, settlement_of,
        stack, tally,
    },
};
use alloy::{
    consensus::TxEip1559,
    primitives::{Address, B256, Bytes, TxKind, U64},
    signers::local::PrivateKeySigner,
};
use keeper::{
    chain::BlockTag,
    ledger::{Ledger, Settlement, Stream},
    lifecycle::{KeeperState, Status},
    signer::Policy,
};
use sandbox::{AnvilOptions, Daemon, PRICE_MICRO, Stack, StackOptions};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{task::JoinHandle, time::Instant};

/// Micro-USDC of a payer.
pub(crate) const FUNDS: u64 = 200 * PRICE_MICRO;
/// Blocks between head and `safe`; `finalized` is twice as far.
const SAFE: u64 = 4;
/// Confirmations of a booked log: one more than the deepest reorg takes.
const CONFIRMATIONS: u64 = 6;
/// Deepest reorg.
const DEEPEST: u64 = 5;
/// Hubs among which the cases of one test are divided.
const LANES: usize = 6;
/// How long one step of a case may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// How far a payment is when the reorg comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum At {
    PullBroadcast,
    PullIncluded,
    RecordBroadcast,
    RecordIncluded,
    SplitBroadcast,
    SplitIncluded,
    PullSafe,
    Booked,
}

const WAY: [At; 8] = [
    At::PullBroadcast,
    At::PullIncluded,
    At::RecordBroadcast,
    At::RecordIncluded,
    At::SplitBroadcast,
    At::SplitIncluded,
    At::PullSafe,
    At::Booked,
];

/// What the new branch has in place of the old one's transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// The same transactions.
    Kept,
    /// Nothing, and the node's pool has lost them too.
    Lost,
    /// A foreign transaction of the same key with the account nonce of the one that the case is
    /// about, and nothing after it.
    Replaced,
}

const FATES: [Fate; 3] = [Fate::Kept, Fate::Lost, Fate::Replaced];

/// One reorg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Case {
    at: At,
    depth: u64,
    fate: Fate,
}

/// Every combination.
fn grid() -> Vec<Case> {
    let cases = WAY.into_iter().flat_map(|at| {
        let depths = (1..=DEEPEST).flat_map(move |depth| FATES.map(|fate| (depth, fate)));
        depths.map(move |(depth, fate)| Case { at, depth, fate })
    });
    cases.collect()
}

/// One case for every two values that can meet: a third of the grid, chosen as in a Latin square.
fn pairs() -> Vec<Case> {
    let third = |case: &Case| {
        let row = WAY.iter().position(|at| *at == case.at).unwrap() as u64;
        FATES[((row + case.depth) % 3) as usize] == case.fate
    };
    grid().into_iter().filter(third).collect()
}

/// The selection misses no pair of values.
#[test]
fn every_two_values_meet() {
    fn met<T: Ord>(cases: &[Case], pair: impl Fn(&Case) -> T) -> usize {
        cases.iter().map(pair).collect::<BTreeSet<_>>().len()
    }
    let cases = pairs();
    assert_eq!(cases.len(), 40);
    assert_eq!(met(&cases, |case| (case.at, case.depth)), 8 * 5);
    assert_eq!(met(&cases, |case| (case.at, case.fate)), 8 * 3);
    assert_eq!(met(&cases, |case| (case.depth, case.fate)), 5 * 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reorg_at_any_point_loses_and_doubles_nothing() {
    run("pairs", pairs()).await;
}

/// All hundred and twenty; `make test-deep`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: make test-deep"]
async fn a_reorg_of_every_kind_loses_and_doubles_nothing() {
    run("grid", grid()).await;
}

/// Divides cases among hubs, each of which lives through many.
async fn run(name: &str, mut cases: Vec<Case>) {
    // The last case comes first. A record that is lost for good leaves its payment's money in the
    // Splitter, from which another's record could take it: those come last (surplus.rs has that).
    let leaves_money = |case: &Case| {
        case.fate == Fate::Replaced && matches!(case.at, At::RecordBroadcast | At::RecordIncluded)
    };
    cases.sort_by_key(|case| (!leaves_money(case), case.fate == Fate::Replaced));
    let cases = Arc::new(Mutex::new(cases));
    let lanes: Vec<_> = (0..LANES)
        .map(|lane| {
            let (name, cases) = (name.to_owned(), Arc::clone(&cases));
            tokio::spawn(async move {
                // Every other one on PostgreSQL.
                let database = if lane % 2 == 0 { Some(postgres().await) } else { None };
                let mut lane = Lane::start(&name, database).await;
                while let Some(case) = { cases.lock().unwrap().pop() } {
                    lane.live_through(case).await;
                }
            })
        })
        .collect();
    for lane in lanes {
        lane.await.unwrap();
    }
}

/// A hub whose chain moves only when it is told to.
pub(crate) struct Lane {
    pub(crate) stack: Stack,
    pub(crate) daemon: Daemon,
    pub(crate) database: String,
    ledger: Ledger,
    payer: PrivateKeySigner,
    /// Payments that were begun, and those that moved money for good.
    begun: u64,
    paid: u64,
}

/// The case's payment.
pub(crate) struct Payment {
    pub(crate) draft: Draft,
    pub(crate) answer: JoinHandle<u16>,
}

impl Lane {
    pub(crate) async fn start(name: &str, database: Option<String>) -> Self {
        Self::start_with(name, database, CONFIRMATIONS).await
    }

    /// With another number of confirmations.
    pub(crate) async fn start_with(
        name: &str,
        database: Option<String>,
        confirmations: u64,
    ) -> Self {
        let anvil =
            AnvilOptions { block_time: None, slots_in_an_epoch: SAFE, ..AnvilOptions::default() };
        let options =
            StackOptions { anvil, confirmations, settle_timeout: "1s", ..StackOptions::default() };
        let stack = stack(name, options).await;
        let payer = stack.agent(FUNDS).await.unwrap();
        stack.anvil.rpc("evm_setAutomine", json!([false])).await.unwrap();
        stack.anvil.rpc("anvil_mine", json!(["0xa", "0x1"])).await.unwrap();
        let database = database.unwrap_or_else(|| stack.sqlite());
        let daemon = stack.daemon(&keeper(), &database).await.unwrap();
        let ledger = Ledger::open_beside(&database).await.unwrap();
        Self { stack, daemon, database, ledger, payer, begun: 0, paid: 0 }
    }

    /// One payment, one reorg, and what must hold in the end.
    async fn live_through(&mut self, case: Case) {
        let began = Instant::now();
        self.stack.anvil.rpc("anvil_mine", json!(["0x6", "0x1"])).await.unwrap();
        self.mine().await;
        let alarms = self.alarms().len();
        let served = self.stack.provider.calls();
        let payment = self.begin().await;
        let target = self.bring(case.at, &payment).await;
        let hit = self.reorg(case, target).await;
        let replaced = hit && case.fate == Fate::Replaced;
        match case.at {
            At::PullBroadcast | At::PullIncluded | At::PullSafe if replaced => {
                self.never_paid(&payment).await;
                let unpaid =
                    self.alarms().iter().any(|line| line.contains("served, but never paid"));
                assert!(unpaid || self.stack.provider.calls() == served, "{case:?}");
            }
            At::RecordBroadcast | At::RecordIncluded if replaced => {
                self.until("its record is held", &payment, |settlement| {
                    settlement.status == Status::ChainConfirmed
                        && settlement.keeper_state == KeeperState::Held
                })
                .await;
                self.paid += 1;
            }
            _ => {
                self.until("it is split", &payment, |settlement| {
                    settlement.status == Status::ChainConfirmed
                        && (settlement.keeper_state == KeeperState::Split
                            || case.fate == Fate::Lost
                                && settlement.keeper_state == KeeperState::Held)
                })
                .await;
                self.paid += 1;
            }
        }
        self.comes_to_rest(case).await;
        let news = self.alarms().split_off(alarms);
        let taken = news.iter().any(|line| line.contains("none of our envelopes took it"));
        assert_eq!(taken, replaced, "{case:?}: somebody is told of it: {news:?}");
        // A record that was on its way when its pull was lost reverts, and its payment is held.
        let settlement = settlement_of(&self.database, &payment.draft.authorization).await.unwrap();
        let held = settlement.keeper_state == KeeperState::Held;
        assert_eq!(replaced || held, !news.is_empty(), "{case:?}: who must be called is: {news:?}");
        let left = on_chain(&self.stack, &payment.draft.authorization).await.0;
        assert_eq!(left, FUNDS - self.paid * PRICE_MICRO, "{case:?}: paid once or not at all");
        let status = payment.answer.await.unwrap();
        let unpaid =
            replaced && matches!(case.at, At::PullBroadcast | At::PullIncluded | At::PullSafe);
        assert!(status == 200 || (unpaid && status == 422), "{case:?}: {status}");
        eprintln!("{case:?}: {:.1?}", began.elapsed());
    }

    /// An agent pays, and asks again as it is told to until it is served or refused.
    pub(crate) async fn begin(&mut self) -> Payment {
        self.begun += 1;
        let mut draft = Draft::new(&self.payer, self.stack.contracts.splitter);
        let head = chain(&self.stack).head(BlockTag::Latest).await.unwrap();
        draft.authorization.valid_after = 0;
        draft.authorization.valid_before = head.timestamp() + 600;
        let (url, header) = (self.daemon.url.clone(), draft.header());
        let body = call(&format!("reorg-{}", self.begun));
        let answer = tokio::spawn(async move {
            loop {
                let answer = invoke(&url, &body, Some(&header)).await;
                if [200, 422].contains(&answer.status) {
                    return answer.status;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        Payment { draft, answer }
    }

    /// Mines until the payment is where the case wants it, and tells the transaction that the case
    /// is about.
    pub(crate) async fn bring(&self, at: At, payment: &Payment) -> Target {
        let [puller, settler] = [self.stack.puller.clone(), self.stack.settler.clone()];
        let pull = self.pooled(puller).await;
        if at == At::PullBroadcast {
            return pull;
        }
        self.mine().await;
        if at == At::PullIncluded {
            return pull;
        }
        let record = self.pooled(settler.clone()).await;
        if at == At::RecordBroadcast {
            return record;
        }
        self.mine().await;
        if at == At::RecordIncluded {
            return record;
        }
        let split = self.pooled(settler).await;
        if at == At::SplitBroadcast {
            return split;
        }
        self.mine().await;
        if at == At::SplitIncluded {
            return split;
        }
        let node = chain(&self.stack);
        let mined = node.receipt(pull.hash).await.unwrap().unwrap().block_number();
        if at == At::PullSafe {
            while node.head(BlockTag::Safe).await.unwrap().number() < mined {
                self.mine().await;
            }
            return pull;
        }
        self.until("it is confirmed", payment, |settlement| {
            settlement.status == Status::ChainConfirmed
        })
        .await;
        let booked = || async {
            let journals = tally(&self.database, BOOKED, "kind").await;
            journals.get("split").copied().unwrap_or(0)
        };
        let before = booked().await;
        self.mining("its split is booked", || async { booked().await > before }).await;
        split
    }

    /// The transaction that a signer has in the node's pool.
    async fn pooled(&self, (key, signer): (String, Address)) -> Target {
        let found = Mutex::new(None);
        self.waiting("it is in the pool", || async {
            let pool = self.stack.anvil.rpc("txpool_content", json!([])).await.unwrap();
            let mine = pool["pending"]
                .as_object()
                .unwrap()
                .iter()
                .find(|(sender, _)| sender.parse::<Address>().unwrap() == signer);
            let newest = mine.and_then(|(_, all)| all.as_object().unwrap().values().next_back());
            *found.lock().unwrap() = newest.cloned();
            newest.is_some()
        })
        .await;
        let transaction = found.into_inner().unwrap().unwrap();
        let hash = serde_json::from_value(transaction["hash"].clone()).unwrap();
        self.target(key, hash).await
    }

    /// A transaction that the node knows.
    pub(crate) async fn target(&self, key: String, hash: B256) -> Target {
        let found = self.stack.anvil.rpc("eth_getTransactionByHash", json!([hash])).await.unwrap();
        let nonce: U64 = serde_json::from_value(found["nonce"].clone()).unwrap();
        Target { key, hash, nonce: nonce.to() }
    }

    /// The chain forgets its newest blocks. True when the target was in them, or in the pool.
    async fn reorg(&self, Case { depth, fate, .. }: Case, target: Target) -> bool {
        let anvil = &self.stack.anvil;
        self.daemon.signal("STOP").await.unwrap();
        let head: U64 =
            serde_json::from_value(anvil.rpc("eth_blockNumber", json!([])).await.unwrap()).unwrap();
        let first = head.to::<u64>() + 1 - depth;
        let mut old = Vec::new();
        for place in 0..depth {
            let number = U64::from(first + place);
            let block = anvil.rpc("eth_getBlockByNumber", json!([number, false])).await.unwrap();
            for hash in block["transactions"].as_array().unwrap() {
                old.push((serde_json::from_value::<B256>(hash.clone()).unwrap(), place));
            }
        }
        let receipt = anvil.rpc("eth_getTransactionReceipt", json!([target.hash])).await.unwrap();
        if receipt.is_null() {
            old.push((target.hash, depth - 1));
        }
        let place = old.iter().position(|(hash, _)| *hash == target.hash);
        let mut branch = Vec::new();
        let kept = match (fate, place) {
            (Fate::Lost, _) => 0,
            (Fate::Replaced, Some(place)) => place,
            (Fate::Kept | Fate::Replaced, _) => old.len(),
        };
        for (hash, place) in &old[..kept] {
            branch.push(json!([self.raw(*hash).await, place]));
        }
        if fate == Fate::Replaced
            && let Some(place) = place
        {
            branch.push(json!([self.foreign(&target).await, old[place].1]));
        }
        self.rewrite(depth, &branch, fate != Fate::Kept).await;
        place.is_some()
    }

    /// Replaces the newest blocks by others with these transactions, by raw bytes and block, and
    /// empties the node's pool or does not. For the keeper it happens at once.
    pub(crate) async fn rewrite(&self, depth: u64, branch: &[Value], empty_pool: bool) {
        let anvil = &self.stack.anvil;
        self.daemon.signal("STOP").await.unwrap();
        if empty_pool {
            anvil.rpc("anvil_dropAllTransactions", json!([])).await.unwrap();
        }
        anvil.rpc("anvil_reorg", json!([depth, branch])).await.unwrap();
        self.daemon.signal("CONT").await.unwrap();
    }

    /// The bytes of a transaction that the node knows.
    pub(crate) async fn raw(&self, hash: B256) -> Value {
        let raw = self.stack.anvil.rpc("eth_getRawTransactionByHash", json!([hash])).await.unwrap();
        assert!(raw.is_string(), "{hash} is known");
        raw
    }

    /// What somebody else with our key sends.
    pub(crate) async fn foreign(&self, target: &Target) -> Bytes {
        let policy = Policy::settler(self.stack.contracts.splitter);
        let key = signer(&self.stack.kms, &target.key, policy, 600).await.unwrap();
        let transaction = TxEip1559 {
            chain_id: 84_532,
            nonce: target.nonce,
            gas_limit: 21_000,
            max_fee_per_gas: 10_000_000_000,
            max_priority_fee_per_gas: 1_000_000_000,
            to: TxKind::Call(key.address()),
            ..TxEip1559::default()
        };
        key.sign(transaction).await.unwrap().raw
    }

    /// The pull's account nonce is gone: nothing happens until its window closes.
    async fn never_paid(&self, payment: &Payment) {
        let parked = || async {
            tally(&self.database, "transactions", "state").await.get("parked").copied()
        };
        let before = parked().await;
        self.mining("its pull is parked", || async { parked().await != before }).await;
        self.stack.anvil.rpc("evm_increaseTime", json!([700])).await.unwrap();
        self.until("it is released", payment, |settlement| settlement.status == Status::Released)
            .await;
    }

    /// Mines until every transaction is final and ledger and chain agree to the last micro-USDC.
    async fn comes_to_rest(&self, case: Case) {
        let what = format!("{case:?}: everything agrees");
        self.mining(&what, || async {
            let open = tally(
                &self.database,
                "transactions WHERE NOT final AND state <> 'parked'",
                "state",
            )
            .await;
            open.is_empty() && reconciled(&self.stack, &self.database).await.is_sound()
        })
        .await;
    }

    /// Mines until the case's settlement is as it should be.
    pub(crate) async fn until(
        &self,
        what: &str,
        payment: &Payment,
        check: impl Fn(&Settlement) -> bool,
    ) {
        self.mining(what, || async {
            let settlement = settlement_of(&self.database, &payment.draft.authorization).await;
            settlement.is_some_and(|settlement| check(&settlement))
        })
        .await;
    }

    /// Mines a block whenever `check` says no.
    pub(crate) async fn mining<F: Future<Output = bool>>(
        &self,
        what: &str,
        mut check: impl FnMut() -> F,
    ) {
        let deadline = Instant::now() + PATIENCE;
        while !check().await {
            assert!(Instant::now() < deadline, "never happened: {what}: {}", self.daemon.tail());
            self.mine().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// One block. The keeper has read it when this returns.
    pub(crate) async fn mine(&self) {
        self.stack.anvil.rpc("evm_mine", json!([])).await.unwrap();
        let head = chain(&self.stack).head(BlockTag::Latest).await.unwrap().number();
        self.waiting("the block is read", || async {
            let mut tx = self.ledger.read().await.unwrap();
            let splitter = self.stack.contracts.splitter;
            let cursor = tx.cursor(84_532, splitter, Stream::Mirror).await.unwrap();
            cursor.is_some_and(|next| next > head)
        })
        .await;
    }

    /// Waits without mining.
    async fn waiting<F: Future<Output = bool>>(&self, what: &str, mut check: impl FnMut() -> F) {
        let deadline = Instant::now() + PATIENCE;
        while !check().await {
            assert!(Instant::now() < deadline, "never happened: {what}: {}", self.daemon.tail());
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Everything that somebody was called for so far.
    pub(crate) fn alarms(&self) -> Vec<String> {
        let log = self.daemon.logged();
        let is_late = |line: &str| line.contains("X402_RECONCILER_MISMATCH_FLAGGED");
        let alarms = log.lines().filter(|line| line.contains("ALARM") && !is_late(line));
        alarms.map(str::to_owned).collect()
    }
}

/// The transaction that a case is about.
pub(crate) struct Target {
    pub(crate) key: String,
    pub(crate) hash: B256,
    pub(crate) nonce: u64,
}
