//! A facilitator that pulls with an account of its own, over TLS and with signed answers, and that does
//! whatever else a test wants of it.
//!
//! It is as strict as a real one: it takes no other body than that of x402 v1, looks at the chain before
//! it says yes, and settles nothing that it has not verified.

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::{sol, sol_types::SolCall};
use axum::{
    Router,
    body::Bytes as Body,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    serve::Listener,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use ed25519_dalek::{Signer, SigningKey};
use rand::{Rng, rngs::OsRng};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer},
    server::TlsStream,
};

sol! {
    function transferWithAuthorization(address from, address to, uint256 value,
        uint256 validAfter, uint256 validBefore, bytes32 nonce, uint8 v, bytes32 r, bytes32 s);
}

/// What it answers.
#[derive(Debug, Clone, Default)]
pub enum Reply {
    /// What is true.
    #[default]
    Honest,
    /// This JSON, well signed.
    Says(Value),
    /// This status, without a word.
    Status(u16),
    /// What is true, signed by another key.
    WrongKey,
    /// What is true, unsigned.
    Unsigned,
}

/// What it does when it is asked.
#[derive(Debug, Clone)]
pub struct Turn {
    /// Whether it does what it is asked, at `/settle`.
    pub pulls: bool,
    /// How long it takes after that.
    pub delay: Duration,
    /// What it says then.
    pub reply: Reply,
}

impl Default for Turn {
    fn default() -> Self {
        Self { pulls: true, delay: Duration::ZERO, reply: Reply::Honest }
    }
}

impl Turn {
    /// It does what it is asked, and answers so.
    pub fn replies(reply: Reply) -> Self {
        Self { reply, ..Self::default() }
    }

    /// It only answers.
    pub fn only_says(reply: Reply) -> Self {
        Self { pulls: false, ..Self::replies(reply) }
    }
}

/// How it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Plain http.
    Http,
    /// TLS, with a certificate of its own authority.
    Tls,
}

#[derive(Debug, Default)]
struct Script {
    next: BTreeMap<String, VecDeque<Turn>>,
    always: BTreeMap<String, Turn>,
    calls: Vec<String>,
    verified: BTreeSet<B256>,
}

struct Shared {
    rpc: String,
    client: reqwest::Client,
    account: Address,
    key: SigningKey,
    script: Mutex<Script>,
}

/// A running facilitator; it ends with this value.
pub struct FacilitatorStub {
    url: String,
    pin: String,
    ca_file: Option<PathBuf>,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

impl fmt::Debug for FacilitatorStub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FacilitatorStub").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Drop for FacilitatorStub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl FacilitatorStub {
    /// Starts it on a free port, below the path `/facilitator`. `folder` gets its authority's
    /// certificate.
    pub async fn start(rpc: &str, folder: &Path, transport: Transport) -> eyre::Result<Self> {
        let account = Address::from(OsRng.r#gen::<[u8; 20]>());
        let seed: [u8; 32] = OsRng.r#gen();
        let shared = Arc::new(Shared {
            rpc: rpc.to_owned(),
            client: reqwest::Client::builder().pool_max_idle_per_host(0).build()?,
            account,
            key: SigningKey::from_bytes(&seed),
            script: Mutex::default(),
        });
        let ether = U256::from(10u64.pow(18));
        shared.rpc("anvil_setBalance", json!([account, ether])).await?;
        shared.rpc("anvil_impersonateAccount", json!([account])).await?;
        let app = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (url, pin, ca_file, server) = match transport {
            Transport::Http => {
                let server = tokio::spawn(async move {
                    if let Err(error) = axum::serve(listener, app).await {
                        tracing::error!(%error, "the facilitator stopped");
                    }
                });
                (format!("http://{address}/facilitator"), String::new(), None, server)
            }
            Transport::Tls => {
                let identity = Identity::new()?;
                let file = folder.join(format!("facilitator-{}.pem", address.port()));
                fs::write(&file, &identity.authority)?;
                let listener = TlsListener { listener, acceptor: identity.acceptor };
                let server = tokio::spawn(async move {
                    if let Err(error) = axum::serve(listener, app).await {
                        tracing::error!(%error, "the facilitator stopped");
                    }
                });
                let url = format!("https://localhost:{}/facilitator", address.port());
                (url, identity.pin, Some(file), server)
            }
        };
        Ok(Self { url, pin, ca_file, shared, server })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// SHA-256 of its TLS key, hex; nothing without TLS.
    pub fn pin(&self) -> &str {
        &self.pin
    }

    /// The key of its answers, hex.
    pub fn pubkey(&self) -> String {
        alloy::hex::encode(self.shared.key.verifying_key().as_bytes())
    }

    /// The configuration that trusts it.
    pub fn config(&self) -> String {
        let mut config =
            format!("[facilitator]\nurl = \"{}\"\npubkey = \"{}\"\n", self.url, self.pubkey());
        if let Some(file) = &self.ca_file {
            config += &format!("cert_pin = \"{}\"\nca_file = \"{}\"\n", self.pin, file.display());
        }
        config
    }

    /// From now on it does this at `path` ("verify" or "settle").
    pub fn always(&self, path: &str, turn: Turn) {
        self.script().always.insert(path.to_owned(), turn);
    }

    /// The next time it does this, before what it always does.
    pub fn once(&self, path: &str, turn: Turn) {
        self.script().next.entry(path.to_owned()).or_default().push_back(turn);
    }

    /// What it was asked, in order.
    pub fn calls(&self) -> Vec<String> {
        self.script().calls.clone()
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.shared.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Question {
    x402_version: u64,
    payment_payload: Payload,
    payment_requirements: Requirements,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Payload {
    x402_version: u64,
    scheme: String,
    network: String,
    payload: Signed,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    signature: Bytes,
    authorization: Authorization,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Authorization {
    from: Address,
    to: Address,
    value: String,
    valid_after: String,
    valid_before: String,
    nonce: B256,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Requirements {
    scheme: String,
    network: String,
    max_amount_required: String,
    #[serde(rename = "max_amount_required")]
    max_amount_required_alias: String,
    asset: Address,
    pay_to: Address,
    #[serde(rename = "pay_to")]
    pay_to_alias: Address,
    resource: String,
    description: String,
    mime_type: String,
    max_timeout_seconds: u64,
}

impl Question {
    /// Whether payload and requirements are about the same, in the way of x402 v1.
    fn problem(&self) -> Option<&'static str> {
        let (payload, wanted) = (&self.payment_payload, &self.payment_requirements);
        let authorization = &payload.payload.authorization;
        if self.x402_version != 1 || payload.x402_version != 1 {
            Some("invalid_x402_version")
        } else if payload.scheme != "exact" || wanted.scheme != "exact" {
            Some("unsupported_scheme")
        } else if payload.network != wanted.network {
            Some("invalid_network")
        } else if authorization.to != wanted.pay_to {
            Some("invalid_exact_evm_payload_recipient_mismatch")
        } else if authorization.value != wanted.max_amount_required {
            Some("invalid_exact_evm_payload_authorization_value")
        } else if wanted.max_amount_required != wanted.max_amount_required_alias
            || wanted.pay_to != wanted.pay_to_alias
            || !wanted.resource.starts_with("http")
            || wanted.description.is_empty()
            || wanted.mime_type != "application/json"
            || wanted.max_timeout_seconds == 0
        {
            Some("invalid_payment_requirements")
        } else {
            None
        }
    }

    /// The call that pulls.
    fn pull(&self) -> eyre::Result<Value> {
        let Signed { signature, authorization } = &self.payment_payload.payload;
        eyre::ensure!(signature.len() == 65, "a signature of {} bytes", signature.len());
        let call = transferWithAuthorizationCall {
            from: authorization.from,
            to: authorization.to,
            value: authorization.value.parse()?,
            validAfter: authorization.valid_after.parse()?,
            validBefore: authorization.valid_before.parse()?,
            nonce: authorization.nonce,
            v: signature[64],
            r: B256::from_slice(&signature[..32]),
            s: B256::from_slice(&signature[32..64]),
        };
        Ok(json!({
            "to": self.payment_requirements.asset,
            "input": Bytes::from(call.abi_encode()),
        }))
    }
}

impl Shared {
    async fn rpc(&self, method: &str, params: Value) -> eyre::Result<Value> {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let answer = self.client.post(&self.rpc).json(&request).send().await?;
        let mut answer: Value = answer.json().await?;
        if let Some(error) = answer.get("error") {
            eyre::bail!("{method}: {error}");
        }
        Ok(answer["result"].take())
    }

    async fn verify(&self, question: &Question, hash: B256) -> eyre::Result<Value> {
        let payer = question.payment_payload.payload.authorization.from;
        let no = |reason: &str| json!({"isValid": false, "invalidReason": reason, "payer": payer});
        if let Some(problem) = question.problem() {
            return Ok(no(problem));
        }
        let mut call = question.pull()?;
        call["from"] = json!(self.account);
        if self.rpc("eth_call", json!([call, "latest"])).await.is_err() {
            return Ok(no("invalid_transaction_state"));
        }
        self.script.lock().unwrap_or_else(PoisonError::into_inner).verified.insert(hash);
        Ok(json!({"isValid": true, "invalidReason": null, "payer": payer}))
    }

    async fn settle(&self, question: &Question, hash: B256) -> eyre::Result<Value> {
        let payload = &question.payment_payload;
        let (payer, network) = (payload.payload.authorization.from, &payload.network);
        let verified = {
            let script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
            script.verified.contains(&hash)
        };
        eyre::ensure!(verified, "it settles nothing that it was not asked to verify");
        let mut call = question.pull()?;
        call["from"] = json!(self.account);
        let Ok(sent) = self.rpc("eth_sendTransaction", json!([call])).await else {
            return Ok(json!({
                "success": false, "errorReason": "invalid_transaction_state",
                "transaction": "", "network": network, "payer": payer,
            }));
        };
        Ok(json!({
            "success": true, "errorReason": null, "transaction": sent, "network": network,
            "payer": payer,
        }))
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let path = request.uri().path().trim_start_matches("/facilitator/").to_owned();
    let body = axum::body::to_bytes(request.into_body(), 64 * 1024).await.unwrap_or_default();
    let turn = {
        let mut script = shared.script.lock().unwrap_or_else(PoisonError::into_inner);
        script.calls.push(path.clone());
        let next = script.next.get_mut(&path).and_then(VecDeque::pop_front);
        next.or_else(|| script.always.get(&path).cloned()).unwrap_or_default()
    };
    let truth = match truth(&shared, &path, &body, turn.pulls).await {
        Ok(truth) => truth,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    tokio::time::sleep(turn.delay).await;
    let (said, key) = match turn.reply {
        Reply::Honest => (truth, Some(shared.key.clone())),
        Reply::Says(said) => (said, Some(shared.key.clone())),
        Reply::WrongKey => (truth, Some(SigningKey::from_bytes(&[9; 32]))),
        Reply::Unsigned => (truth, None),
        Reply::Status(status) => {
            return StatusCode::from_u16(status).unwrap_or_default().into_response();
        }
    };
    let body = said.to_string();
    let signature = key.map(|key| BASE64_STANDARD.encode(key.sign(body.as_bytes()).to_bytes()));
    let mut response = ([("content-type", "application/json")], body).into_response();
    if let Some(value) = signature.and_then(|signature| signature.parse().ok()) {
        response.headers_mut().insert("x-x402-signature", value);
    }
    response
}

/// What it does, and would honestly say.
async fn truth(shared: &Shared, path: &str, body: &Body, pulls: bool) -> eyre::Result<Value> {
    let question: Question = serde_json::from_slice(body)?;
    let hash = keccak256(body);
    match path {
        "verify" => shared.verify(&question, hash).await,
        "settle" if pulls => shared.settle(&question, hash).await,
        "settle" => Ok(Value::Null),
        other => eyre::bail!("there is no {other}"),
    }
}

/// A certificate of an authority of its own.
struct Identity {
    authority: String,
    pin: String,
    acceptor: TlsAcceptor,
}

impl Identity {
    fn new() -> eyre::Result<Self> {
        use rcgen::{
            BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PublicKeyData,
        };
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(vec!["localhost".to_owned()])?;
        let certificate = params.signed_by(&key, &authority)?;
        let pin = alloy::hex::encode(Sha256::digest(key.subject_public_key_info()));
        let private =
            PrivateKeyDer::try_from(key.serialize_der()).map_err(|why| eyre::eyre!(why))?;
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)?;
        Ok(Self { authority: authority.pem(), pin, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }
}

/// Takes TLS connections; whoever does not finish the handshake is left out.
struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.listener.accept().await else { continue };
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
