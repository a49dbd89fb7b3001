//! `keeper agents`: who has credentials of this hub.
//!
//! It works on the database alone, beside a running daemon, and counts at once.

use super::{ConfigArgs, Exit, config::Config};
use crate::{
    edge::Credentials,
    failpoint::Point,
    ledger::{AgentRecord, Ledger},
};
use clap::Subcommand;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde_json::json;

/// Longest name of an agent.
const MAX_NAME: usize = 100;

/// Show the agents, give credentials and take them away.
#[derive(Debug, clap::Args)]
pub(super) struct Agents {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an agent. Its key is shown this once, and kept nowhere.
    Add {
        /// Whose it is, in your words.
        #[arg(long)]
        name: String,
    },
    /// Every agent that there ever was.
    List,
    /// Take an agent's key away, for good and at once. What it has paid is still served and refunded.
    Revoke {
        /// Which.
        agent_id: String,
        /// Why; it is kept.
        #[arg(long)]
        reason: String,
    },
}

impl Agents {
    pub(super) async fn execute(self) -> Result<(), Exit> {
        let (config, _) = Config::load(&self.config.config).map_err(Exit::misconfigured)?;
        let ledger = Ledger::open_beside(&config.database).await?;
        match self.command {
            Command::Add { name } => add(&config, &ledger, &name, self.json).await,
            Command::List => list(&ledger, self.json).await,
            Command::Revoke { agent_id, reason } => {
                revoke(&ledger, &agent_id, &reason, self.json).await
            }
        }
    }
}

async fn add(config: &Config, ledger: &Ledger, name: &str, json: bool) -> Result<(), Exit> {
    let Some(secret) = &config.http.agent_key_secret else {
        return Err(Exit::misconfigured(eyre::eyre!(
            "http.agent_key_secret is not set; agents' keys are hashed under it"
        )));
    };
    if name.trim().is_empty() || name.chars().count() > MAX_NAME {
        return Err(Exit::misconfigured(eyre::eyre!("--name has 1 to {MAX_NAME} characters")));
    }
    let Credentials { agent_id, api_key } = Credentials::generate(&config.http.agent_prefix);
    let mut tx = ledger.begin().await?;
    tx.add_agent(&agent_id, name, secret.hash(&agent_id, &api_key)).await?;
    tx.commit(Point::Order).await?;
    if json {
        let made = json!({"agent_id": agent_id, "api_key": api_key.reveal(), "name": name});
        println!("{}", serde_json::to_string_pretty(&made)?);
    } else {
        println!("X-Agent-ID: {agent_id}\nX-API-Key: {}", api_key.reveal());
        println!("the key is shown this once; hand both to {name} on a way that nobody else reads");
    }
    Ok(())
}

async fn list(ledger: &Ledger, json: bool) -> Result<(), Exit> {
    let agents = ledger.read().await?.agents().await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&json!({"agents": agents}))?);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["agent", "name", "since", "calls served", "revoked"]);
    for AgentRecord { agent_id, name, created_at, revoked_at, served } in agents {
        let revoked = revoked_at.map(|at| at.to_rfc3339()).unwrap_or_default();
        table.add_row([agent_id, name, created_at.to_rfc3339(), served.to_string(), revoked]);
    }
    println!("{table}");
    Ok(())
}

async fn revoke(ledger: &Ledger, agent_id: &str, reason: &str, json: bool) -> Result<(), Exit> {
    let mut tx = ledger.begin().await?;
    if !tx.revoke_agent(agent_id, reason).await? {
        return Err(eyre::eyre!(
            "there is no agent {agent_id} with a key; `keeper agents list` shows them"
        )
        .into());
    }
    tx.commit(Point::Order).await?;
    match json {
        true => println!("{}", json!({"agent_id": agent_id, "revoked": true})),
        false => println!("{agent_id} is revoked: its key is good for nothing from now on"),
    }
    Ok(())
}
