//! A load generator that costs little: prepared requests over kept connections, on a thread of its own,
//! and of each answer nothing is read but its length and one word.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// What every answer must have in its body.
const GOOD: &[u8] = b"\"isValid\":true";

/// How long it took.
#[derive(Debug)]
pub(crate) struct Load {
    /// From the first request to the last answer.
    pub(crate) took: Duration,
    /// Each.
    pub(crate) each: Vec<Duration>,
}

impl Load {
    /// Requests a second.
    pub(crate) fn rate(&self) -> eyre::Result<u32> {
        let count = u64::try_from(self.each.len())?.saturating_mul(1_000_000);
        let micros = u64::try_from(self.took.as_micros())?.max(1);
        Ok(u32::try_from(count / micros)?)
    }
}

/// An HTTP request with a JSON body.
pub(crate) fn post(path: &str, token: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n\
         Authorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Sends every request once, over so many connections.
pub(crate) async fn send(
    to: SocketAddr,
    requests: Vec<Vec<u8>>,
    connections: usize,
) -> eyre::Result<Load> {
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(all(to, requests, connections))
    };
    tokio::task::spawn_blocking(work).await?
}

async fn all(to: SocketAddr, requests: Vec<Vec<u8>>, connections: usize) -> eyre::Result<Load> {
    let mut open = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        open.push(stream);
    }
    let (requests, next) = (Arc::new(requests), Arc::new(AtomicUsize::new(0)));
    let began = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for mut stream in open {
        let (requests, next) = (Arc::clone(&requests), Arc::clone(&next));
        running.spawn(async move {
            let mut each = Vec::new();
            let mut buffer = Vec::with_capacity(4_096);
            while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                let asked = Instant::now();
                stream.write_all(request).await?;
                answer(&mut stream, &mut buffer).await?;
                each.push(asked.elapsed());
            }
            Ok::<_, eyre::Report>(each)
        });
    }
    let mut each = Vec::with_capacity(requests.len());
    while let Some(done) = running.join_next().await {
        each.extend(done??);
    }
    Ok(Load { took: began.elapsed(), each })
}

/// Reads one answer and asserts that it is a good one.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> eyre::Result<()> {
    buffer.clear();
    loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            let (head, body) = buffer.split_at(end.saturating_add(4));
            let head = std::str::from_utf8(head)?.to_ascii_lowercase();
            let length: usize = head
                .split_once("content-length: ")
                .and_then(|(_, rest)| rest.lines().next()?.parse().ok())
                .ok_or_else(|| eyre::eyre!("an answer without content-length: {head}"))?;
            if body.len() >= length {
                let good = find(body, GOOD).is_some();
                eyre::ensure!(good, "refused: {head}{}", String::from_utf8_lossy(body));
                return Ok(());
            }
        }
        eyre::ensure!(stream.read_buf(buffer).await? > 0, "the connection was closed");
    }
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|window| window == word)
}
