//! Somebody who is told something over HTTP: a receiver of webhooks, or a collector of spans. It keeps
//! what it got, and answers as it was told to.

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::net::TcpListener;

/// What it got.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Path of the request.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
}

#[derive(Debug)]
struct Desk {
    letters: Mutex<Vec<Letter>>,
    status: AtomicU16,
    delay_ms: AtomicU64,
}

/// A running receiver; it ends with this value.
#[derive(Debug)]
pub struct Inbox {
    /// Where it listens.
    pub url: String,
    desk: Arc<Desk>,
    server: tokio::task::JoinHandle<()>,
}

impl Inbox {
    /// Starts it on a free port; it answers 200.
    pub async fn start() -> eyre::Result<Self> {
        let desk = Arc::new(Desk {
            letters: Mutex::default(),
            status: AtomicU16::new(200),
            delay_ms: AtomicU64::new(0),
        });
        let app = Router::new().fallback(take).with_state(Arc::clone(&desk));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::error!(%error, "an inbox stopped");
            }
        });
        Ok(Self { url, desk, server })
    }

    /// From now on it answers this.
    pub fn answer(&self, status: u16) {
        self.desk.status.store(status, Ordering::SeqCst);
    }

    /// From now on it takes so long to answer.
    pub fn be_slow(&self, delay: Duration) {
        let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.desk.delay_ms.store(delay, Ordering::SeqCst);
    }

    /// Everything that it got, whatever it answered.
    pub fn letters(&self) -> Vec<Letter> {
        self.desk.letters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(
    State(desk): State<Arc<Desk>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let letter = Letter { path: uri.path().to_owned(), headers, body: body.to_vec() };
    desk.letters.lock().unwrap_or_else(PoisonError::into_inner).push(letter);
    tokio::time::sleep(Duration::from_millis(desk.delay_ms.load(Ordering::SeqCst))).await;
    StatusCode::from_u16(desk.status.load(Ordering::SeqCst)).unwrap_or(StatusCode::OK)
}
