//! A local Base: anvil with Base's chain id.

use crate::{
    Tools,
    guard::{Guarded, Order},
};
use alloy::primitives::{Address, Bytes, U256};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

/// How the chain behaves.
#[derive(Debug, Clone)]
pub struct AnvilOptions {
    /// Chain id; 84532 is Base Sepolia.
    pub chain_id: u64,
    /// Seconds between blocks. `None` mines each transaction at once.
    pub block_time: Option<u64>,
    /// `safe` is the head less this many blocks, `finalized` less twice as many.
    pub slots_in_an_epoch: u64,
}

impl Default for AnvilOptions {
    fn default() -> Self {
        Self { chain_id: 84_532, block_time: Some(1), slots_in_an_epoch: 1 }
    }
}

/// A running anvil; it ends with this value.
#[derive(Debug)]
pub struct Anvil {
    url: String,
    client: reqwest::Client,
    /// Anvil gives two calls at once from one account the same account nonce.
    sending: tokio::sync::Mutex<()>,
    _process: Guarded,
}

impl Anvil {
    /// Starts anvil on a free port and waits until it listens.
    pub async fn start(tools: &Tools, options: &AnvilOptions) -> eyre::Result<Self> {
        let mut arguments = vec![
            "--port".to_owned(),
            "0".to_owned(),
            "--chain-id".to_owned(),
            options.chain_id.to_string(),
            "--slots-in-an-epoch".to_owned(),
            options.slots_in_an_epoch.to_string(),
            "--hardfork".to_owned(),
            "osaka".to_owned(),
        ];
        if let Some(seconds) = options.block_time {
            arguments.extend(["--block-time".to_owned(), seconds.to_string()]);
        }
        let mut process = Guarded::spawn(Order::new(&tools.foundry("anvil")?, arguments))?;
        let mut lines = BufReader::new(process.stdout()?).lines();
        let address = loop {
            let Some(line) = lines.next_line().await? else {
                eyre::bail!("anvil ended before it listened: {}", process.last_words().await);
            };
            if let Some(address) = line.strip_prefix("Listening on ") {
                break address.to_owned();
            }
        };
        // Anvil writes a line per request; somebody has to take them.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self {
            url: format!("http://{address}"),
            // A connection ends with the runtime that opened it, and tests have one each.
            client: reqwest::Client::builder().pool_max_idle_per_host(0).build()?,
            sending: tokio::sync::Mutex::new(()),
            _process: process,
        })
    }

    /// Its JSON-RPC endpoint.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// One JSON-RPC call.
    pub async fn rpc(&self, method: &str, params: Value) -> eyre::Result<Value> {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let mut answer: Value =
            self.client.post(&self.url).json(&request).send().await?.json().await?;
        if let Some(error) = answer.get("error") {
            eyre::bail!("{method}: {error}");
        }
        Ok(answer["result"].take())
    }

    /// Gives `account` that much ether.
    pub async fn set_balance(&self, account: Address, wei: U256) -> eyre::Result<()> {
        self.rpc("anvil_setBalance", json!([account, wei])).await.map(drop)
    }

    /// Lays `code` at `account`.
    pub async fn set_code(&self, account: Address, code: &Bytes) -> eyre::Result<()> {
        self.rpc("anvil_setCode", json!([account, code])).await.map(drop)
    }

    /// Sends a transaction from an unlocked account and waits until it is mined with success.
    pub async fn send(&self, from: Address, to: Address, input: &Bytes) -> eyre::Result<()> {
        let transaction = json!({"from": from, "to": to, "input": input});
        let turn = self.sending.lock().await;
        let hash = loop {
            match self.rpc("eth_sendTransaction", json!([&transaction])).await {
                Ok(hash) => break hash,
                // While it mines a block it may hand out an account nonce that is taken.
                Err(error) if error.to_string().contains("replacement transaction underpriced") => {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
                Err(error) => return Err(error),
            }
        };
        drop(turn);
        loop {
            let receipt = self.rpc("eth_getTransactionReceipt", json!([hash])).await?;
            if receipt["status"] == "0x1" {
                return Ok(());
            }
            if !receipt.is_null() {
                eyre::bail!("{hash} from {from} to {to} reverted");
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Two of anvil's unlocked accounts; they have ether.
    pub async fn accounts(&self) -> eyre::Result<[Address; 2]> {
        let accounts = self.rpc("eth_accounts", json!([])).await?;
        Ok([
            serde_json::from_value(accounts[0].clone())?,
            serde_json::from_value(accounts[1].clone())?,
        ])
    }

    /// The first of them.
    pub async fn first_account(&self) -> eyre::Result<Address> {
        let [first, _] = self.accounts().await?;
        Ok(first)
    }
}
