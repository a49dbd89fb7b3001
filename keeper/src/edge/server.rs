//! HTTP/1.1 within bounds: how much of a client the edge bears with before it lets go.
//!
//! A head that does not come, one that is too long, a body that stops, connections without number:
//! each ends by itself, before anything behind it has begun. A handler reads the whole body first; a
//! body that did not come is answered 408 whatever the handler made of it.

use axum::{
    BoxError, Json, Router,
    body::{Body, Bytes},
    http::{HeaderValue, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use hyper::{
    body::{Body as HttpBody, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use serde::Deserialize;
use serde_json::json;
use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::Service;

/// Longest head of a request: room for a payment header that is too long by far, which is refused in
/// the words of JECP (C-68). Longer ones are 431.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Most headers of a request; more are 431.
const MAX_HEADERS: usize = 100;
/// Most connections above the limit that are told so; the others are closed without a word.
const MAX_REFUSALS: usize = 256;
/// How long such a one may take to listen.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// Between two attempts when this process has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long a call that has begun may take when the daemon stops: the longest provider, and its pull.
const STOP_TIME: Duration = Duration::from_secs(400);
/// What a connection above the limit is told.
const REFUSAL: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
    Retry-After: 2\r\nConnection: close\r\nContent-Length: 86\r\n\r\n\
    {\"error\":{\"code\":\"SERVICE_DEGRADED\",\"message\":\"too many connections; come back soon\"}}";

/// How long a client may take, and how many there may be.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Connections {
    /// Most that are open at a time; a further one is answered 503.
    pub max: usize,
    /// How long a head may take, and how long a connection may wait for its next request.
    #[serde(with = "humantime_serde")]
    pub head_timeout: Duration,
    /// How long a body may pause.
    #[serde(with = "humantime_serde")]
    pub pause_timeout: Duration,
    /// How long a body may take in all.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            max: 16_384,
            head_timeout: Duration::from_secs(30),
            pause_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(60),
        }
    }
}

impl Connections {
    /// Whether they can be kept.
    ///
    /// # Errors
    /// The field to change.
    pub fn check(&self) -> Result<(), String> {
        if self.max == 0 || self.max > Semaphore::MAX_PERMITS {
            return Err("http.connections.max must be at least 1".to_owned());
        }
        let times = [self.head_timeout, self.pause_timeout, self.body_timeout];
        let allowed = Duration::from_millis(100)..=Duration::from_secs(3_600);
        if times.iter().any(|time| !allowed.contains(time)) {
            return Err("the timeouts of http.connections are between 100ms and 1h".to_owned());
        }
        Ok(())
    }
}

/// Serves until `stop`, and then until what has begun is answered.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    limits: Connections,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits.max));
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_header_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    pause_after(&error).await;
                    continue;
                }
            },
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            if let Ok(refusal) = Arc::clone(&refusals).try_acquire_owned() {
                tokio::spawn(async move {
                    refuse(stream).await;
                    drop(refusal);
                });
            }
            continue;
        };
        // Answers are small: none shall wait for a second packet.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "edge: a connection was gone at once");
            continue;
        }
        let app = app.clone();
        let service = service_fn(move |request| answer(app.clone(), limits, request));
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // The client went away, or was too slow: nothing to do about either.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "edge: a connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    if timeout(STOP_TIME, graceful.shutdown()).await.is_err() {
        tracing::warn!("edge: clients that do not read their answers are left behind");
    }
}

/// A client that was gone already is no reason to wait; a process without file descriptors is.
async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::error!(%error, "edge: cannot accept a connection; raise the limit of open files");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// Says that there is no room.
async fn refuse(mut stream: TcpStream) {
    let farewell = async {
        stream.write_all(REFUSAL.as_bytes()).await?;
        stream.shutdown().await?;
        // What was sent and not read would take the answer back.
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    // Whoever does not listen is not told.
    if let Ok(Err(error)) = timeout(REFUSAL_TIME, farewell).await {
        tracing::debug!(%error, "edge: a refused connection was gone at once");
    }
}

async fn answer(
    mut app: Router,
    limits: Connections,
    request: Request<Incoming>,
) -> Result<Response, Infallible> {
    let late = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&late);
    let request = request.map(|inner| Body::new(Timed { inner, limits, late: flag, bounds: None }));
    let response = app.call(request).await?;
    if !late.load(Ordering::Relaxed) {
        return Ok(response);
    }
    let error = json!({"code": "REQUEST_TIMEOUT", "message": "the body did not arrive in time"});
    let body = json!({"jecp": "1.0", "status": "failed", "error": error,
                      "next_action": {"type": "wait", "retry_after_seconds": 2}});
    let mut response = (StatusCode::REQUEST_TIMEOUT, Json(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// A body that must come in time.
struct Timed {
    inner: Incoming,
    limits: Connections,
    /// Whether it did not.
    late: Arc<AtomicBool>,
    /// From the moment that it was first waited for: the next bound, and the last.
    bounds: Option<(Pin<Box<Sleep>>, Instant)>,
}

impl HttpBody for Timed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_frame(context);
        let now = Instant::now();
        if let Poll::Ready(frame) = polled {
            if let Some((next, last)) = &mut this.bounds {
                next.as_mut().reset((*last).min(now + this.limits.pause_timeout));
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let (next, _) = this.bounds.get_or_insert_with(|| {
            let last = now + this.limits.body_timeout;
            (Box::pin(sleep_until(last.min(now + this.limits.pause_timeout))), last)
        });
        if next.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        this.late.store(true, Ordering::Relaxed);
        Poll::Ready(Some(Err("the body did not arrive in time".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_how_long_it_is() {
        let (_, body) = REFUSAL.split_once("\r\n\r\n").unwrap();
        assert!(REFUSAL.contains(&format!("Content-Length: {}\r\n", body.len())), "{}", body.len());
        serde_json::from_str::<serde_json::Value>(body).unwrap();
    }

    #[test]
    fn limits_that_would_shut_everybody_out_are_refused() {
        Connections::default().check().unwrap();
        Connections { max: 0, ..Connections::default() }.check().unwrap_err();
        let never = Duration::ZERO;
        Connections { head_timeout: never, ..Connections::default() }.check().unwrap_err();
        Connections { body_timeout: never, ..Connections::default() }.check().unwrap_err();
    }
}
