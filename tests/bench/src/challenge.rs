//! `POST /v1/invoke` without a payment, at a hub without accounts: how many are told the price in a
//! second, and what ten thousand connections cost that have asked once and stay open.

use crate::{
    Ground,
    load::{Expected, ask, connect, post, send},
    memory::kib,
    report::{Figure, percentile},
};
use futures::{StreamExt, TryStreamExt, stream};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sandbox::{Stack, StackOptions};
use serde_json::json;
use std::net::SocketAddr;

/// Calls in each run.
const CALLS: u64 = 200_000;
/// Connections that they come over.
const CONNECTIONS: usize = 64;
/// Connections that stay open.
const OPEN: usize = 10_000;
/// Connections that are opened at a time.
const OPENING: usize = 64;
/// What is told.
const PRICE: Expected = Expected { status: 402, word: "\"accepts\":[{\"asset\"" };

pub(crate) async fn measure(ground: &Ground) -> eyre::Result<Vec<Figure>> {
    let folder = ground.folder.join(format!("challenge-{}", std::process::id()));
    let stack = Stack::start(&ground.tools, &folder, StackOptions::default()).await?;
    stack.register().await?;
    allow_files()?;
    let (mut rates, mut sizes) = (Vec::new(), Vec::new());
    for _ in 0..ground.runs {
        // A fresh process each time, or the size would be the one of the run before.
        let mut daemon = stack.daemon(&ground.keeper, &stack.sqlite()).await?;
        let hub: SocketAddr = daemon.url.trim_start_matches("http://").parse()?;
        let small = resident(daemon.id()?)?;
        let open = stay_open(hub).await?;
        let size = resident(daemon.id()?)?;
        drop(open);
        send(hub, calls(1_000), CONNECTIONS, PRICE).await?;
        let mut load = send(hub, calls(CALLS / ground.divide), CONNECTIONS, PRICE).await?;
        let rate = load.rate()?;
        println!(
            "challenge: {rate} a second over {CONNECTIONS} connections, p99 {:?}; {size} MiB with \
             {OPEN} open connections, {small} MiB without",
            percentile(&mut load.each, 99).unwrap_or_default(),
        );
        rates.push(rate);
        sizes.push(size);
        daemon.signal("TERM").await?;
        daemon.wait().await?;
    }
    Ok(vec![
        Figure::count("challenge_rps_c64", "1/s", &rates),
        Figure::count("memory_10k_conns_mib", "MiB", &sizes),
    ])
}

/// Calls that differ.
fn calls(count: u64) -> Vec<Vec<u8>> {
    (0..count.max(1)).map(call).collect()
}

fn call(number: u64) -> Vec<u8> {
    let body = json!({"jecp": "1.0", "id": format!("unpaid-{number}"), "capability": "demo/echo",
        "action": "echo", "input": {"text": "what does it cost?"}});
    post("/v1/invoke", "", &body.to_string())
}

/// Opens connections; each asks once.
async fn stay_open(to: SocketAddr) -> eyre::Result<Vec<tokio::net::TcpStream>> {
    let request = call(0);
    let open = (0..OPEN).map(|_| async {
        let mut stream = connect(to).await?;
        ask(&mut stream, &request, &mut Vec::new(), PRICE).await?;
        Ok::<_, eyre::Report>(stream)
    });
    stream::iter(open).buffer_unordered(OPENING).try_collect().await
}

/// Both ends of the connections are ours: the keeper inherits this limit.
fn allow_files() -> eyre::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let wanted = u64::try_from(OPEN)?.saturating_add(1_000);
    eyre::ensure!(
        maximum.is_none_or(|most| most >= wanted),
        "{OPEN} connections need {wanted} open files, and {maximum:?} are allowed: ulimit -Hn"
    );
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(())
}

/// What a process holds of the memory, MiB.
fn resident(pid: u32) -> eyre::Result<u32> {
    let kib = kib(pid, "VmRSS:").ok_or_else(|| eyre::eyre!("process {pid} is gone"))?;
    Ok(u32::try_from(kib.div_ceil(1_024))?)
}
