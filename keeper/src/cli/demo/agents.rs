//! Agents: stock x402 clients from npm, and `keeper pay`.

use alloy::{hex, signers::local::PrivateKeySigner};
use eyre::{WrapErr, ensure};
use sandbox::Tools;
use serde::Deserialize;
use serde_json::Value;
use std::{env, process::Stdio};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

/// Who pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Agent {
    /// npm x402-fetch, x402 v1.
    X402FetchV1,
    /// npm @x402/fetch, x402 v2.
    X402FetchV2,
    /// This program.
    KeeperPay,
}

/// One call as its client saw it.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) agent: Agent,
    pub(super) seen: Seen,
}

/// What a client prints of a call.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Seen {
    /// Status of the unpaid call. `keeper pay` pays only after a 402.
    #[serde(default = "payment_required")]
    pub(super) unpaid: u16,
    pub(super) status: u16,
    pub(super) receipt: Option<Value>,
    pub(super) answer: Value,
}

const fn payment_required() -> u16 {
    402
}

impl Call {
    /// Whether it was answered with a receipt.
    pub(super) fn is_paid(&self) -> bool {
        self.seen.status == 200
            && self.seen.receipt.as_ref().is_some_and(|receipt| {
                receipt["success"] == true && receipt["transaction"].is_string()
            })
    }

    /// Whether it got what it paid for: 402, then 200 with receipt and the provider's result.
    pub(super) fn is_served(&self) -> bool {
        self.seen.unpaid == 402 && self.is_paid() && self.seen.answer["result"]["echo"].is_object()
    }
}

impl Agent {
    /// Its name in the report.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::X402FetchV1 => "x402-fetch",
            Self::X402FetchV2 => "@x402/fetch",
            Self::KeeperPay => "keeper pay",
        }
    }

    /// Makes the calls, one after the other.
    pub(super) async fn buy(
        self,
        tools: &Tools,
        payer: &PrivateKeySigner,
        url: &str,
        count: u32,
        each: impl Fn(&Call),
    ) -> eyre::Result<Vec<Call>> {
        let key = hex::encode_prefixed(payer.to_bytes());
        let mut command = if self == Self::KeeperPay {
            let mut command = Command::new(env::current_exe()?);
            command.args(["pay", url, "--json"]).env("KEEPER_PAY_KEY", key);
            command
        } else {
            let mut command = Command::new("node");
            command
                .arg(tools.root().join("tests/clients/pay.mjs"))
                .args([self.name(), url, &count.to_string(), self.prefix()])
                .env("PAYER_KEY", key);
            command
        };
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .wrap_err_with(|| format!("cannot start {}", self.name()))?;
        let stdout = child.stdout.take().ok_or_else(|| eyre::eyre!("no output"))?;
        let mut lines = BufReader::new(stdout).lines();
        let mut calls = Vec::new();
        while let Some(line) = lines.next_line().await? {
            let seen = serde_json::from_str(&line)
                .wrap_err_with(|| format!("{} printed {line:?}", self.name()))?;
            let call = Call { agent: self, seen };
            each(&call);
            calls.push(call);
        }
        let status = child.wait().await?;
        ensure!(status.success(), "{} ended with {status}", self.name());
        Ok(calls)
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::X402FetchV1 => "demo-v1",
            Self::X402FetchV2 => "demo-v2",
            Self::KeeperPay => "demo-pay",
        }
    }
}
