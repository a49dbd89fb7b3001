//! `POST /verify` with payments that differ and are signed beforehand, each sent once: in sequence, and
//! over 64 connections; and the same of the npm facilitator in the same run, beside the same chain.
//! Neither side remembers anything that it has verified.

use crate::{
    Ground,
    load::{Expected, Load, post, send},
    payer::{IN_ADVANCE, authorize},
    report::{Figure, percentile},
};
use alloy::{hex, signers::local::PrivateKeySigner};
use futures::{StreamExt, TryStreamExt, stream};
use sandbox::{PRICE_MICRO, Stack, StackOptions};
use serde_json::json;
use std::{net::SocketAddr, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

/// Payments verified one after the other.
const IN_SEQUENCE: u64 = 2_000;
/// Payments over many connections.
const AT_ONCE: u64 = 30_000;
/// The same for the npm facilitator, which takes as long for fewer.
const AT_ONCE_NPM: u64 = 3_000;
/// Connections.
const CONNECTIONS: usize = 64;
/// Who pays.
const PAYERS: usize = 500;
/// How many of them get their money at a time: anvil loses count of more.
const FUNDED_AT_ONCE: usize = 10;
/// What the keeper knows its caller by.
const TOKEN: &str = "a-token-of-the-bench-only";

pub(crate) async fn measure(ground: &Ground) -> eyre::Result<Vec<Figure>> {
    let folder = ground.folder.join(format!("verify-{}", std::process::id()));
    let stack = Stack::start(&ground.tools, &folder, StackOptions::default()).await?;
    stack.register().await?;
    let payers = (0..PAYERS).map(|_| stack.agent(PRICE_MICRO));
    let payers: Vec<_> = stream::iter(payers).buffered(FUNDED_AT_ONCE).try_collect().await?;
    let caller = |config: String| {
        let caller = format!(
            "\n[[caller]]\nname = \"bench\"\ntoken = \"{TOKEN}\"\n\
             requests_per_minute = 100000000\ncapabilities = [\"demo/echo\"]\n"
        );
        format!("{config}{caller}")
    };
    let mut daemon = stack.spawn(&ground.keeper, &stack.sqlite(), &[], caller).await?;
    daemon.ready().await?;
    let keeper: SocketAddr = daemon.url.trim_start_matches("http://").parse()?;
    let (_peer, npm) = peer(ground, &stack).await?;
    // Both are warm before anything counts.
    for to in [keeper, npm] {
        run(&stack, &payers, to, 500 / ground.divide, CONNECTIONS).await?;
    }
    let (mut medians, mut rates, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ground.runs {
        let mut one = run(&stack, &payers, keeper, IN_SEQUENCE / ground.divide, 1).await?;
        let median = percentile(&mut one.each, 50).unwrap_or_default();
        let mut ours = run(&stack, &payers, keeper, AT_ONCE / ground.divide, CONNECTIONS).await?;
        let theirs = run(&stack, &payers, npm, AT_ONCE_NPM / ground.divide, CONNECTIONS).await?;
        let (rate, npm_rate) = (ours.rate()?, theirs.rate()?);
        println!(
            "verify: p50 {median:?} in sequence; at {CONNECTIONS} connections {rate} a second, p99 \
             {:?}; the npm facilitator {npm_rate} a second",
            percentile(&mut ours.each, 99).unwrap_or_default(),
        );
        medians.push(median);
        rates.push(rate);
        ratios.push((rate, npm_rate));
    }
    Ok(vec![
        Figure::milliseconds("verify_p50_ms", &medians),
        Figure::count("verify_rps_c64", "1/s", &rates),
        Figure::ratio("verify_ratio_npm_c64", &ratios),
    ])
}

/// Signs that many payments, and then has all of them verified.
async fn run(
    stack: &Stack,
    payers: &[PrivateKeySigner],
    to: SocketAddr,
    count: u64,
    connections: usize,
) -> eyre::Result<Load> {
    let mut requests = Vec::new();
    for (_, payer) in (0..count.max(1)).zip(payers.iter().cycle()) {
        requests.push(post(
            "/verify",
            &format!("Authorization: Bearer {TOKEN}\r\n"),
            &order(stack, payer)?,
        ));
    }
    let valid = Expected { status: 200, word: "\"isValid\":true" };
    send(to, requests, connections, valid).await
}

/// A body as resource servers of version 2 send it.
fn order(stack: &Stack, payer: &PrivateKeySigner) -> eyre::Result<String> {
    let (authorization, signature) = authorize(payer, stack.contracts.splitter, IN_ADVANCE)?;
    let requirements = json!({
        "scheme": "exact",
        "network": "eip155:84532",
        "amount": PRICE_MICRO.to_string(),
        "asset": stack.contracts.usdc,
        "payTo": stack.contracts.splitter,
        "maxTimeoutSeconds": 60,
        "extra": {"name": "USDC", "version": "2"},
    });
    let order = json!({
        "x402Version": 2,
        "paymentPayload": {
            "x402Version": 2,
            "resource": {"url": "https://shop.example/report"},
            "accepted": requirements,
            "payload": {
                "signature": hex::encode_prefixed(signature),
                "authorization": authorization,
            },
        },
        "paymentRequirements": requirements,
    });
    Ok(order.to_string())
}

/// Starts the npm facilitator; it ends with the first value.
async fn peer(ground: &Ground, stack: &Stack) -> eyre::Result<(Child, SocketAddr)> {
    let mut child = Command::new("node")
        .arg("tests/bench/facilitator.mjs")
        .current_dir(ground.tools.root())
        .env("RPC", stack.anvil.url())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let output = child.stdout.take().ok_or_else(|| eyre::eyre!("node has no output"))?;
    let mut lines = BufReader::new(output).lines();
    let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await??;
    let port = line
        .as_deref()
        .and_then(|line| line.strip_prefix("Listening on ")?.parse().ok())
        .ok_or_else(|| eyre::eyre!("the npm facilitator did not start: {line:?}"))?;
    Ok((child, SocketAddr::from(([127, 0, 0, 1], port))))
}
