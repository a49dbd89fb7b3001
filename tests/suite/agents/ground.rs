//! Hubs with accounts, one on each database, each with two edges; and agents with their keys.

use crate::support::{
    Answer, Draft, invoke_with, keeper, on_a_runtime_of_its_own, postgres, settlement_of, stack,
};
use hmac::{Hmac, Mac};
use sandbox::{Daemon, Stack, StackOptions};
use serde_json::{Value, json};
use sha2::Sha256;
use std::path::Path;
use tokio::sync::OnceCell;

/// Micro-USDC of every payer.
pub(super) const FUNDS: u64 = 1_000_000;

/// Under which these hubs hash keys.
const SECRET: &str = "a secret of the hub, of forty characters";

/// A hub with accounts.
pub(super) struct Hub {
    pub(super) stack: Stack,
    pub(super) database: String,
    pub(super) daemon: Daemon,
    /// Another process with the same ledger; SQLite knows only one.
    pub(super) edge: Option<Daemon>,
}

/// An agent of a hub.
#[derive(Debug, Clone)]
pub(super) struct Agent {
    pub(super) id: String,
    pub(super) key: String,
}

/// With accounts, and the specification's limits.
pub(super) fn with_accounts(config: &str) -> String {
    let auth = format!("auth = \"credentials\"\nagent_key_secret = \"{SECRET}\"");
    config.replacen("auth = \"payer\"", &auth, 1).replacen(
        "calls_per_minute = { bronze = 1000000 }",
        "",
        1,
    )
}

/// The hubs, on SQLite and on PostgreSQL.
pub(super) async fn hubs() -> &'static [Hub; 2] {
    static HUBS: OnceCell<[Hub; 2]> = OnceCell::const_new();
    HUBS.get_or_init(|| async {
        on_a_runtime_of_its_own(async {
            Ok([
                start("agents_sqlite", None).await?,
                start("agents_postgres", Some(postgres().await)).await?,
            ])
        })
    })
    .await
}

async fn start(name: &str, postgres: Option<String>) -> eyre::Result<Hub> {
    // A repeated call would count.
    let options = StackOptions { settle_timeout: "60s", ..StackOptions::default() };
    let stack = stack(name, options).await;
    let database = postgres.clone().unwrap_or_else(|| stack.sqlite());
    let accounts = |config: String| with_accounts(&config);
    let mut daemon = stack.spawn(&keeper(), &database, &[], accounts).await?;
    daemon.ready().await?;
    let edge = match postgres {
        None => None,
        Some(_) => {
            let role = ["--role", "edge"];
            let mut edge = stack.spawn(&keeper(), &database, &role, accounts).await?;
            edge.ready().await?;
            Some(edge)
        }
    };
    Ok(Hub { stack, database, daemon, edge })
}

impl Hub {
    /// Where either edge is reached.
    pub(super) fn urls(&self) -> Vec<&str> {
        [Some(&self.daemon), self.edge.as_ref()]
            .into_iter()
            .flatten()
            .map(|daemon| daemon.url.as_str())
            .collect()
    }

    /// A new agent.
    pub(super) async fn agent(&self) -> Agent {
        let made = self.agents(&["--json", "add", "--name", "a test"]).await.unwrap();
        let made: Value = serde_json::from_str(&made).unwrap();
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        Agent { id: text("agent_id"), key: text("api_key") }
    }

    /// `keeper agents`.
    pub(super) async fn agents(&self, arguments: &[&str]) -> Result<String, String> {
        keeper_agents(&self.daemon.config, arguments).await
    }

    /// A good payment of a new payer.
    pub(super) async fn draft(&self) -> Draft {
        Draft::new(&self.stack.agent(FUNDS).await.unwrap(), self.stack.contracts.splitter)
    }

    /// Nothing was reserved and nothing was paid.
    pub(super) async fn is_untouched(&self, draft: &Draft) {
        assert!(settlement_of(&self.database, &draft.authorization).await.is_none(), "a row");
        let found = crate::support::on_chain(&self.stack, &draft.authorization).await;
        assert_eq!(found, (FUNDS, false), "money");
    }
}

/// `keeper agents` with a configuration.
pub(super) async fn keeper_agents(config: &Path, arguments: &[&str]) -> Result<String, String> {
    let mut command = tokio::process::Command::new(keeper());
    command.args(["agents", "--config"]).arg(config).args(arguments);
    let output = command.output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

impl Agent {
    /// Calls with its credentials in the headers, paying if there is a payment.
    pub(super) async fn call(&self, url: &str, body: &Value, payment: Option<&str>) -> Answer {
        let mut headers = vec![("x-agent-id", self.id.as_str()), ("x-api-key", self.key.as_str())];
        headers.extend(payment.map(|payment| ("x-payment", payment)));
        invoke_with(url, body, &headers).await
    }

    /// A body with a mandate that has its credentials.
    pub(super) fn mandated(&self, mut body: Value, mandate: &Value) -> Value {
        body["mandate"] = mandate.clone();
        body["mandate"]["agent_id"] = json!(self.id);
        body["mandate"]["api_key"] = json!(self.key);
        body
    }

    /// A provenance of version 2.
    pub(super) fn provenance(&self, timestamp: u64, nonce: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.key.as_bytes()).unwrap();
        mac.update(format!("{}:{timestamp}:{nonce}", self.id).as_bytes());
        let tag = alloy::hex::encode(mac.finalize().into_bytes());
        format!("v2:{timestamp}:{nonce}:{tag}")
    }
}

/// A nonce that nobody used.
pub(super) fn nonce() -> String {
    alloy::hex::encode(alloy::primitives::B256::random())
}
