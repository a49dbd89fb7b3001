//! A load generator that costs little: prepared requests over kept connections, on a thread of its own,
//! and of each answer nothing is looked at but its status and one word.

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

/// What every answer must be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    /// HTTP status.
    pub(crate) status: u16,
    /// What its body begins with, or has near its beginning.
    pub(crate) word: &'static str,
}

/// Where that word stands at the latest.
const BEGINNING: usize = 256;

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

/// An HTTP request with a JSON body; `headers` are whole lines.
pub(crate) fn post(path: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n\
         {headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Sends every request once, over so many connections.
pub(crate) async fn send(
    to: SocketAddr,
    requests: Vec<Vec<u8>>,
    connections: usize,
    expected: Expected,
) -> eyre::Result<Load> {
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(all(to, requests, connections, expected))
    };
    tokio::task::spawn_blocking(work).await?
}

async fn all(
    to: SocketAddr,
    requests: Vec<Vec<u8>>,
    connections: usize,
    expected: Expected,
) -> eyre::Result<Load> {
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(connect(to).await?);
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
                ask(&mut stream, request, &mut buffer, expected).await?;
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

pub(crate) async fn connect(to: SocketAddr) -> eyre::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends one request, reads its answer and asserts that it is the expected one.
pub(crate) async fn ask(
    stream: &mut TcpStream,
    request: &[u8],
    buffer: &mut Vec<u8>,
    expected: Expected,
) -> eyre::Result<()> {
    stream.write_all(request).await?;
    buffer.clear();
    loop {
        eyre::ensure!(stream.read_buf(buffer).await? > 0, "the connection was closed");
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(end) = head.parse(buffer)? else { continue };
        let length = head.headers.iter().find(|it| it.name.eq_ignore_ascii_case("content-length"));
        let length = length.ok_or_else(|| eyre::eyre!("an answer without content-length"))?;
        let length: usize = std::str::from_utf8(length.value)?.parse()?;
        let body = buffer.get(end..).unwrap_or_default();
        if body.len() < length {
            continue;
        }
        let beginning = body.get(..BEGINNING.min(body.len())).unwrap_or_default();
        let is_good =
            beginning.windows(expected.word.len()).any(|window| window == expected.word.as_bytes());
        eyre::ensure!(
            is_good && head.code == Some(expected.status),
            "refused: {}",
            String::from_utf8_lossy(buffer)
        );
        return Ok(());
    }
}
