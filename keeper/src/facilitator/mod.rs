//! The client of an external facilitator (`mode = "external"`, jecp.md A.4): it pulls, we only hand it
//! the payer's authorization.
//!
//! Its URL is the operator's and passes [`crate::outbound`]; its TLS key is pinned, beside the usual
//! checks; its answers are signed with a pinned Ed25519 key, and no field is read before that is
//! checked (E.3). Its connections are its own. What it says of money is its word only: what
//! became of a payment, the chain's logs say.

mod circuit;
mod fault;
mod pin;
mod wire;

pub use fault::Fault;
pub use pin::{Pin, PinMismatch};
pub use wire::{Settled, Verified, request};

use crate::outbound::{Guard, Outbound, Refused};
use circuit::Circuit;
use ed25519_dalek::VerifyingKey;
use fault::Failed;
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;
use url::Url;

/// How long a question may take, the second attempt included.
const LIMIT: Duration = Duration::from_secs(5);
/// Before the second attempt.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest answer.
const MAX_ANSWER: usize = 64 * 1024;
/// Carries the signature over the body, base64 (C-60).
const SIGNATURE: &str = "x-x402-signature";

/// What an operator says about a facilitator. Read once, at the start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it is; `/verify` and `/settle` are appended to the path (C-59).
    pub url: Url,
    /// Keys that sign its answers: more than one while they change. None: it signs nothing.
    pub keys: Vec<VerifyingKey>,
    /// Keys of its TLS certificate. None: any that the roots vouch for.
    pub pins: Vec<Pin>,
    /// Who vouches for its certificate instead of the system's roots.
    pub roots: Option<Vec<CertificateDer<'static>>>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Its URL is one that we do not call.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// There are no roots, or none that can be used.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// The HTTP client could not be made.
    #[error("the client cannot be set up: {0}")]
    Client(#[from] reqwest::Error),
}

/// A facilitator.
#[derive(Debug)]
pub struct Facilitator {
    url: Url,
    verify: Url,
    settle: Url,
    keys: Vec<VerifyingKey>,
    http: Outbound,
    circuit: Circuit,
}

impl Facilitator {
    /// Looks at the URL, with DNS, and sets the client up.
    ///
    /// # Errors
    /// [`SetupError`]; the daemon does not start with one.
    pub async fn new(settings: Settings, guard: Guard) -> Result<Self, SetupError> {
        let Settings { url, keys, pins, roots } = settings;
        let url = guard.check(url.as_str()).await?;
        let http = match url.scheme() {
            "https" => Outbound::with_tls(guard, pin::tls(pins, roots)?)?,
            _ => Outbound::new(guard)?,
        };
        let below = |name: &str| {
            let mut below = url.clone();
            below.set_path(&format!("{}/{name}", url.path().trim_end_matches('/')));
            below
        };
        let (verify, settle) = (below("verify"), below("settle"));
        Ok(Self { url, verify, settle, keys, http, circuit: Circuit::default() })
    }

    /// Where it is, as agents are told.
    pub fn url(&self) -> &str {
        self.url.as_str().trim_end_matches('/')
    }

    /// Whether it would settle this payment.
    ///
    /// # Errors
    /// [`Fault`] when it does not say.
    pub async fn verify(&self, request: &Value) -> Result<Verified, Fault> {
        wire::verified(&self.ask(&self.verify, request).await?)
    }

    /// Has it settle. Only after [`Self::verify`] said yes, and only when what may come of it
    /// is expected in the ledger.
    ///
    /// # Errors
    /// [`Fault`] when it does not say what became of it; it may have settled all the same.
    pub async fn settle(&self, request: &Value) -> Result<Settled, Fault> {
        wire::settled(&self.ask(&self.settle, request).await?)
    }

    /// An answer's body, signed.
    async fn ask(&self, url: &Url, request: &Value) -> Result<Vec<u8>, Fault> {
        if self.circuit.is_open(Instant::now()) {
            return Err(Failed::before("circuit_open").into());
        }
        let started = Instant::now();
        if let Ok(answer) = tokio::time::timeout(LIMIT, self.attempts(url, request)).await {
            return answer.map_err(Fault::from);
        }
        self.circuit.timed_out(Instant::now());
        crate::metrics::FACILITATOR_TIMEOUT_TOTAL.add(1, []);
        Err(Fault::slow(started.elapsed()))
    }

    /// Asks, and once more when nothing usable came (R-065, R-068, C-56).
    async fn attempts(&self, url: &Url, request: &Value) -> Result<Vec<u8>, Failed> {
        let first = match self.attempt(url, request).await {
            Err(failed) if failed.may_pass() => failed,
            decided => return decided,
        };
        tokio::time::sleep(PAUSE).await;
        self.attempt(url, request).await.map_err(|second| second.after(&first))
    }

    async fn attempt(&self, url: &Url, request: &Value) -> Result<Vec<u8>, Failed> {
        let post =
            self.http.post(url).map_err(|refused| Failed::before(refused.reason.as_str()))?;
        let mut answer = post.json(request).send().await.map_err(|error| Failed::of(&error))?;
        if answer.status().is_server_error() {
            return Err(Failed::after_it_was_sent("upstream_5xx"));
        }
        let signature = answer.headers().get(SIGNATURE).cloned();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| Failed::of(&error))? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ANSWER {
                return Err(Failed::after_it_was_sent("answer_too_large"));
            }
        }
        let signature = signature.as_ref().map(|value| value.as_bytes());
        if pin::is_signed(&self.keys, signature, &body) {
            Ok(body)
        } else {
            Err(Failed::unsigned())
        }
    }
}
