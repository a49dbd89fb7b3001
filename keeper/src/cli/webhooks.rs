//! `keeper webhooks`: what others are told, and telling them again. It works on the database alone,
//! beside a running daemon.

use super::{ConfigArgs, Exit, config::Config};
use crate::{
    failpoint::Point,
    ledger::{Ledger, WebhookRecord, WebhookState},
};
use clap::Subcommand;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde_json::json;
use uuid::Uuid;

/// Show webhooks, and have one sent again.
#[derive(Debug, clap::Args)]
pub(super) struct Webhooks {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The newest of them.
    List {
        /// Only those in this state: waiting, delivered, abandoned.
        #[arg(long, value_parser = state)]
        state: Option<WebhookState>,
        /// How many.
        #[arg(long, default_value_t = 50)]
        newest: u64,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Send one again that was given up, up to twelve times.
    Retry {
        /// Which.
        id: Uuid,
    },
}

fn state(word: &str) -> Result<WebhookState, String> {
    WebhookState::from_word(word).ok_or_else(|| {
        let all: Vec<_> = WebhookState::ALL.iter().map(WebhookState::to_string).collect();
        format!("must be one of {}", all.join(", "))
    })
}

impl Webhooks {
    pub(super) async fn execute(self) -> Result<(), Exit> {
        let (config, _) = Config::load(&self.config.config).map_err(Exit::misconfigured)?;
        let ledger = Ledger::open_beside(&config.database).await?;
        match self.command {
            Command::List { state, newest, json } => list(&ledger, state, newest, json).await,
            Command::Retry { id } => retry(&ledger, id).await,
        }
    }
}

async fn list(
    ledger: &Ledger,
    state: Option<WebhookState>,
    newest: u64,
    json: bool,
) -> Result<(), Exit> {
    let webhooks = ledger.read().await?.webhooks(state, newest).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&json!({"webhooks": webhooks}))?);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["id", "type", "endpoint", "state", "attempts", "last answer", "next"]);
    for webhook in webhooks {
        let WebhookRecord { id, kind, endpoint, state, attempts, due_at, reason, .. } = webhook;
        let next = match state {
            WebhookState::Waiting => due_at.to_rfc3339(),
            WebhookState::Delivered | WebhookState::Abandoned => String::new(),
        };
        let answer = reason.unwrap_or_default();
        let (state, attempts) = (state.to_string(), attempts.to_string());
        table.add_row([id.to_string(), kind, endpoint, state, attempts, answer, next]);
    }
    println!("{table}");
    Ok(())
}

async fn retry(ledger: &Ledger, id: Uuid) -> Result<(), Exit> {
    let mut tx = ledger.begin().await?;
    if !tx.retry_webhook(id).await? {
        return Err(eyre::eyre!(
            "webhook {id} was not given up; `keeper webhooks list --state abandoned` shows what was"
        )
        .into());
    }
    tx.commit(Point::Order).await?;
    println!("it is sent again within seconds, if a daemon leads");
    Ok(())
}
