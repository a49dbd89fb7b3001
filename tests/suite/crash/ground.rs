//! A chain that many cases use one after the other. It is mined as a case wants it, and taken back
//! to its beginning before the next one.

use crate::support::{keeper, on_a_fresh_schema, postgres, stack, unique};
use alloy::{
    primitives::{Address, B256, U256},
    signers::local::PrivateKeySigner,
    sol_types::SolCall,
};
use keeper::ledger::Ledger;
use sandbox::{AnvilOptions, Daemon, Stack, StackOptions};
use serde_json::{Value, json};
use std::{cell::Cell, future::Future, time::Duration};
use tokio::sync::Mutex;

/// Micro-USDC of the payer.
pub(super) const FUNDS: u64 = 1_000_000;
/// Ether that lasts.
const RICH: U256 = U256::from_limbs([1_000_000_000_000_000_000, 0, 0, 0]);
/// Between two blocks.
const FAST: Duration = Duration::from_millis(200);
/// Between two blocks, when what is true for a few of them only must be seen by a busy machine.
const SLOW: Duration = Duration::from_secs(1);
/// A base fee as usual, wei.
const CHEAP: &str = "0x3b9aca00";
/// A base fee at which what was signed before cannot be mined, wei.
const DEAR: &str = "0x12a05f200";

/// Which database a case runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Sqlite,
    Postgres,
}

/// Chain, contracts, keys and provider.
pub(super) struct Ground {
    pub(super) stack: Stack,
    pub(super) payer: PrivateKeySigner,
    /// URL of the lane's own PostgreSQL database.
    postgres: String,
    /// The chain's beginning.
    snapshot: Mutex<Value>,
    /// Between two blocks.
    block_time: Cell<Duration>,
    /// Whether blocks are mined. Whoever holds it stands between two blocks.
    mining: Mutex<bool>,
}

impl Ground {
    pub(super) async fn new(name: &str) -> Self {
        let anvil = AnvilOptions { block_time: None, slots_in_an_epoch: 4, ..Default::default() };
        let options = StackOptions { anvil, settle_timeout: "5s", ..StackOptions::default() };
        let stack = stack(name, options).await;
        let payer = stack.agent(FUNDS).await.unwrap();
        stack.anvil.rpc("evm_setAutomine", json!([false])).await.unwrap();
        stack.anvil.rpc("anvil_mine", json!(["0x10", "0x0"])).await.unwrap();
        let snapshot = stack.anvil.rpc("evm_snapshot", json!([])).await.unwrap();
        Self {
            stack,
            payer,
            postgres: postgres().await,
            snapshot: Mutex::new(snapshot),
            block_time: Cell::new(FAST),
            mining: Mutex::new(true),
        }
    }

    /// Runs something while blocks are mined.
    pub(super) async fn during<T>(&self, what: impl Future<Output = T>) -> T {
        let pump = async {
            loop {
                if *self.mining.lock().await {
                    self.stack.anvil.rpc("evm_mine", json!([])).await.unwrap();
                }
                tokio::time::sleep(self.block_time.get()).await;
            }
        };
        tokio::select! {
            () = pump => unreachable!(),
            done = what => done,
        }
    }

    /// Begins or ends mining; no block is on its way when this returns.
    pub(super) async fn mine(&self, on: bool) {
        *self.mining.lock().await = on;
    }

    /// From now on blocks come slowly, or fast again.
    pub(super) fn set_slow(&self, slow: bool) {
        self.block_time.set(if slow { SLOW } else { FAST });
    }

    /// Takes the chain back to its beginning and gives out an empty database with the schema.
    pub(super) async fn reset(&self, kind: Kind) -> String {
        self.mine(false).await;
        let anvil = &self.stack.anvil;
        let mut snapshot = self.snapshot.lock().await;
        assert_eq!(anvil.rpc("evm_revert", json!([*snapshot])).await.unwrap(), json!(true));
        anvil.rpc("anvil_dropAllTransactions", json!([])).await.unwrap();
        *snapshot = anvil.rpc("evm_snapshot", json!([])).await.unwrap();
        // Anvil goes on to ask for the base fee that it would have asked for before.
        anvil.rpc("anvil_setNextBlockBaseFeePerGas", json!([CHEAP])).await.unwrap();
        anvil.rpc("evm_mine", json!([])).await.unwrap();
        self.mine(true).await;
        let database = match kind {
            Kind::Sqlite => {
                format!("sqlite:{}", self.stack.folder.join(unique("crash")).display())
            }
            Kind::Postgres => on_a_fresh_schema(&self.postgres).await,
        };
        drop(Ledger::open(&database).await.unwrap());
        database
    }

    /// Starts a daemon that is quick, and ends itself at a failpoint if one is given.
    pub(super) async fn daemon(&self, database: &str, failpoint: Option<&str>) -> Daemon {
        self.changed_daemon(database, failpoint, |config| config).await
    }

    /// The same with another configuration.
    pub(super) async fn changed_daemon(
        &self,
        database: &str,
        failpoint: Option<&str>,
        change: impl Fn(String) -> String,
    ) -> Daemon {
        let quick = |config: String| {
            let config = config.replace("poll_interval = \"200ms\"", "poll_interval = \"100ms\"");
            change(config.replace("reconcile_interval = \"1s\"", "reconcile_interval = \"300ms\""))
        };
        let daemon = match failpoint {
            Some(failpoint) => self.stack.spawn_armed(&keeper(), database, failpoint, quick).await,
            None => self.stack.spawn(&keeper(), database, &[], quick).await,
        };
        daemon.unwrap()
    }

    /// Whether a transaction waits in the node's pool.
    pub(super) async fn has_pending(&self) -> bool {
        let pool = self.stack.anvil.rpc("txpool_status", json!([])).await.unwrap();
        pool["pending"] != "0x0"
    }

    /// Mines a block that is too dear for what is in the pool.
    pub(super) async fn mine_a_dear_block(&self) {
        let anvil = &self.stack.anvil;
        anvil.rpc("anvil_setNextBlockBaseFeePerGas", json!([DEAR])).await.unwrap();
        anvil.rpc("evm_mine", json!([])).await.unwrap();
    }

    /// More time than any authorization has.
    pub(super) async fn let_windows_close(&self) {
        self.stack.anvil.rpc("evm_increaseTime", json!([1_000])).await.unwrap();
    }

    /// The puller's key signs something that is not ours; nothing of ours stays in the pool.
    pub(super) async fn use_the_puller_elsewhere(&self) -> B256 {
        let (anvil, puller) = (&self.stack.anvil, self.stack.puller.1);
        anvil.rpc("anvil_dropAllTransactions", json!([])).await.unwrap();
        anvil.rpc("anvil_impersonateAccount", json!([puller])).await.unwrap();
        let nothing = json!({"from": puller, "to": puller, "nonce": "0x0", "gas": "0x5208"});
        let hash = anvil.rpc("eth_sendTransaction", json!([nothing])).await.unwrap();
        anvil.rpc("anvil_mine", json!(["0x10", "0x0"])).await.unwrap();
        serde_json::from_value(hash).unwrap()
    }

    /// The administrator of the token calls it.
    pub(super) async fn as_admin(&self, call: impl SolCall) {
        let admin = self.stack.anvil.first_account().await.unwrap();
        let input = call.abi_encode().into();
        self.stack.anvil.send(admin, self.stack.contracts.usdc, &input).await.unwrap();
    }

    /// Takes the puller's ether, or gives it back.
    pub(super) async fn set_puller_rich(&self, rich: bool) {
        let balance = if rich { RICH } else { U256::ZERO };
        self.stack.anvil.set_balance(self.stack.puller.1, balance).await.unwrap();
    }

    /// How many account nonces puller and settler have used.
    pub(super) async fn used(&self) -> (u64, u64) {
        let count = |signer: Address| async move {
            let chain = crate::support::chain(&self.stack);
            chain.transaction_count(signer, keeper::chain::BlockTag::Latest).await.unwrap()
        };
        (count(self.stack.puller.1).await, count(self.stack.settler.1).await)
    }
}
