//! A double of AWS KMS for secp256k1 signing keys: CreateKey, DescribeKey, GetPublicKey and Sign in
//! the JSON protocol that the AWS SDK speaks.
//!
//! As KMS does, it checks the request's SigV4 signature, signs the 32 bytes it is given without
//! hashing them again, answers in DER, with another signature at each call, and half of them with
//! a high `s`. Keys live and die with it.

use alloy::primitives::Address;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{NaiveDateTime, Utc};
use hmac::{Hmac, Mac};
use k256::{
    ecdsa::{Signature, SigningKey, signature::hazmat::RandomizedPrehashSigner},
    pkcs8::EncodePublicKey,
};
use rand::{Rng, rngs::OsRng};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::net::TcpListener;

/// Region of every key.
const REGION: &str = "us-east-1";
/// How far a request's date may be off, as with AWS.
const MAX_SKEW_SECONDS: i64 = 300;

/// What a client must sign its requests with.
#[derive(Debug, Clone)]
pub struct KmsCredentials {
    /// `AWS_ACCESS_KEY_ID`.
    pub access_key_id: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: String,
}

impl KmsCredentials {
    /// The environment in which the AWS SDK finds them.
    pub fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("AWS_ACCESS_KEY_ID", self.access_key_id.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.secret_access_key.clone()),
            ("AWS_REGION", REGION.to_owned()),
        ]
    }
}

#[derive(Debug)]
struct Keys {
    credentials: KmsCredentials,
    /// How long a signature takes.
    delay: Mutex<Duration>,
    /// Signatures that are being made.
    signing: AtomicU64,
    keys: Mutex<BTreeMap<String, SigningKey>>,
}

/// A running double; it ends with this value.
#[derive(Debug)]
pub struct KmsDouble {
    url: String,
    state: Arc<Keys>,
    server: tokio::task::JoinHandle<()>,
}

impl KmsDouble {
    /// Starts it on a free port.
    pub async fn start() -> eyre::Result<Self> {
        let mut secret = [0u8; 20];
        OsRng.fill(&mut secret);
        let credentials = KmsCredentials {
            access_key_id: "AKIAKMSDOUBLE0000000".to_owned(),
            secret_access_key: BASE64_STANDARD.encode(secret),
        };
        let state = Arc::new(Keys {
            credentials,
            delay: Mutex::default(),
            signing: AtomicU64::new(0),
            keys: Mutex::default(),
        });
        let app = Router::new().route("/", post(answer)).with_state(Arc::clone(&state));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::error!(%error, "the KMS double stopped");
            }
        });
        Ok(Self { url, state, server })
    }

    /// Endpoint to override the SDK's with.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Creates a key, as its owner does in the console, and tells its ARN and address.
    pub fn create_key(&self) -> eyre::Result<(String, Address)> {
        let created = self.state.create_key(&CreateKey {
            key_spec: "ECC_SECG_P256K1".to_owned(),
            key_usage: "SIGN_VERIFY".to_owned(),
        });
        let metadata = created.map_err(|Failure(kind, what)| eyre::eyre!("{kind}: {what}"))?;
        let arn = metadata["KeyMetadata"]["Arn"].as_str().unwrap_or_default().to_owned();
        let (_, key) =
            self.state.key(&arn).map_err(|Failure(kind, what)| eyre::eyre!("{kind}: {what}"))?;
        Ok((arn, Address::from_public_key(key.verifying_key())))
    }

    /// From now on a signature takes so long.
    pub fn set_delay(&self, delay: Duration) {
        *self.state.delay.lock().unwrap_or_else(PoisonError::into_inner) = delay;
    }

    /// How many signatures are being made right now.
    pub fn signing(&self) -> u64 {
        self.state.signing.load(Ordering::SeqCst)
    }

    /// Credentials that it accepts.
    pub fn credentials(&self) -> &KmsCredentials {
        &self.state.credentials
    }
}

impl Drop for KmsDouble {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// An error as the AWS JSON protocol carries it.
struct Failure(&'static str, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = json!({"__type": self.0, "message": self.1}).to_string();
        (StatusCode::BAD_REQUEST, [("content-type", "application/x-amz-json-1.1")], body)
            .into_response()
    }
}

async fn answer(
    State(state): State<Arc<Keys>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    check_signature(&state.credentials, &headers, &body)?;
    let target = header(&headers, "x-amz-target")?;
    let answer = match target.strip_prefix("TrentService.") {
        Some("CreateKey") => state.create_key(&parse(&body)?),
        Some("DescribeKey") => state.describe_key(&parse(&body)?),
        Some("GetPublicKey") => state.get_public_key(&parse(&body)?),
        Some("Sign") => {
            let delay = *state.delay.lock().unwrap_or_else(PoisonError::into_inner);
            state.signing.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(delay).await;
            state.signing.fetch_sub(1, Ordering::SeqCst);
            state.sign(&parse(&body)?)
        }
        _ => Err(Failure("UnknownOperationException", format!("{target} is not doubled"))),
    }?;
    Ok(([("content-type", "application/x-amz-json-1.1")], answer.to_string()).into_response())
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| Failure("SerializationException", error.to_string()))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateKey {
    key_spec: String,
    key_usage: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct KeyReference {
    key_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Sign {
    key_id: String,
    message: String,
    message_type: Option<String>,
    signing_algorithm: String,
}

impl Keys {
    fn create_key(&self, request: &CreateKey) -> Result<Value, Failure> {
        if request.key_spec != "ECC_SECG_P256K1" || request.key_usage != "SIGN_VERIFY" {
            return Err(Failure(
                "ValidationException",
                "only ECC_SECG_P256K1 keys for SIGN_VERIFY are doubled".to_owned(),
            ));
        }
        let bytes: [u8; 16] = OsRng.r#gen();
        let id = format!(
            "{}-{}-{}-{}-{}",
            hex(&bytes[..4]),
            hex(&bytes[4..6]),
            hex(&bytes[6..8]),
            hex(&bytes[8..10]),
            hex(&bytes[10..])
        );
        self.lock().insert(id.clone(), SigningKey::random(&mut OsRng));
        Ok(metadata(&id))
    }

    fn describe_key(&self, request: &KeyReference) -> Result<Value, Failure> {
        let (id, _) = self.key(&request.key_id)?;
        Ok(metadata(&id))
    }

    fn get_public_key(&self, request: &KeyReference) -> Result<Value, Failure> {
        let (id, key) = self.key(&request.key_id)?;
        let der = k256::PublicKey::from(key.verifying_key())
            .to_public_key_der()
            .map_err(|error| Failure("KMSInternalException", error.to_string()))?;
        Ok(json!({
            "KeyId": arn(&id),
            "PublicKey": BASE64_STANDARD.encode(der.as_bytes()),
            "CustomerMasterKeySpec": "ECC_SECG_P256K1",
            "KeySpec": "ECC_SECG_P256K1",
            "KeyUsage": "SIGN_VERIFY",
            "SigningAlgorithms": ["ECDSA_SHA_256"],
        }))
    }

    fn sign(&self, request: &Sign) -> Result<Value, Failure> {
        let (id, key) = self.key(&request.key_id)?;
        let invalid = |what: &str| Failure("ValidationException", what.to_owned());
        if request.signing_algorithm != "ECDSA_SHA_256" {
            return Err(Failure(
                "InvalidKeyUsageException",
                format!("Algorithm {} is incompatible with key spec", request.signing_algorithm),
            ));
        }
        let message = BASE64_STANDARD
            .decode(&request.message)
            .map_err(|_| Failure("SerializationException", "Message is not base64".to_owned()))?;
        let digest: [u8; 32] = match request.message_type.as_deref() {
            Some("DIGEST") => message
                .try_into()
                .map_err(|_| invalid("Digest is invalid length for algorithm ECDSA_SHA_256"))?,
            Some("RAW") | None => Sha256::digest(&message).into(),
            Some(_) => return Err(invalid("MessageType must be RAW or DIGEST")),
        };
        let low: Signature = key
            .sign_prehash_with_rng(&mut OsRng, &digest)
            .map_err(|error| Failure("KMSInternalException", error.to_string()))?;
        // (r, s) and (r, n - s) are both valid; KMS answers with either.
        let signature = if OsRng.r#gen() {
            let (r, s) = low.split_scalars();
            Signature::from_scalars(r, -*s)
                .map_err(|error| Failure("KMSInternalException", error.to_string()))?
        } else {
            low
        };
        Ok(json!({
            "KeyId": arn(&id),
            "Signature": BASE64_STANDARD.encode(signature.to_der().as_bytes()),
            "SigningAlgorithm": "ECDSA_SHA_256",
        }))
    }

    /// The key behind an id or an ARN.
    fn key(&self, reference: &str) -> Result<(String, SigningKey), Failure> {
        let id = reference.strip_prefix(&arn("")).unwrap_or(reference);
        self.lock().get(id).map(|key| (id.to_owned(), key.clone())).ok_or_else(|| {
            Failure("NotFoundException", format!("Key '{}' does not exist", arn(id)))
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, SigningKey>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn arn(id: &str) -> String {
    format!("arn:aws:kms:{REGION}:000000000000:key/{id}")
}

fn metadata(id: &str) -> Value {
    json!({"KeyMetadata": {
        "AWSAccountId": "000000000000",
        "KeyId": id,
        "Arn": arn(id),
        "Enabled": true,
        "KeyState": "Enabled",
        "KeyManager": "CUSTOMER",
        "KeySpec": "ECC_SECG_P256K1",
        "CustomerMasterKeySpec": "ECC_SECG_P256K1",
        "KeyUsage": "SIGN_VERIFY",
        "Origin": "AWS_KMS",
        "SigningAlgorithms": ["ECDSA_SHA_256"],
        "MultiRegion": false,
    }})
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Failure> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| Failure("MissingAuthenticationTokenException", format!("no {name} header")))
}

/// AWS Signature Version 4, recomputed over what arrived.
fn check_signature(
    credentials: &KmsCredentials,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(), Failure> {
    let incomplete = |what: &str| Failure("IncompleteSignatureException", what.to_owned());
    let wrong = |what: &str| Failure("InvalidSignatureException", what.to_owned());

    let authorization = header(headers, "authorization")?
        .strip_prefix("AWS4-HMAC-SHA256 ")
        .ok_or_else(|| incomplete("not AWS4-HMAC-SHA256"))?;
    let parts: BTreeMap<&str, &str> =
        authorization.split(',').filter_map(|part| part.trim().split_once('=')).collect();
    let part = |name| parts.get(name).copied().ok_or_else(|| incomplete(name));
    let (access_key_id, scope) =
        part("Credential")?.split_once('/').ok_or_else(|| incomplete("Credential"))?;
    if access_key_id != credentials.access_key_id {
        return Err(Failure(
            "UnrecognizedClientException",
            "The security token included in the request is invalid.".to_owned(),
        ));
    }
    let date = header(headers, "x-amz-date")?;
    let when = NaiveDateTime::parse_from_str(date, "%Y%m%dT%H%M%SZ")
        .map_err(|_| incomplete("x-amz-date"))?
        .and_utc();
    if (Utc::now() - when).num_seconds().abs() > MAX_SKEW_SECONDS {
        return Err(wrong("Signature expired"));
    }
    if scope != format!("{}/{REGION}/kms/aws4_request", &date[..8]) {
        return Err(wrong("Credential should be scoped to a valid region and service"));
    }

    let signed = part("SignedHeaders")?;
    let mut canonical = String::from("POST\n/\n\n");
    for name in signed.split(';') {
        let value = header(headers, name)?.split_whitespace().collect::<Vec<_>>().join(" ");
        let _ = writeln!(canonical, "{name}:{value}");
    }
    let _ = write!(canonical, "\n{signed}\n{}", hex(&Sha256::digest(body)));
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
    let mut key = format!("AWS4{}", credentials.secret_access_key).into_bytes();
    for step in scope.split('/') {
        key = mac(&key, step)?;
    }
    if hex(&mac(&key, &to_sign)?) != part("Signature")? {
        return Err(wrong(
            "The request signature we calculated does not match the signature you provided.",
        ));
    }
    Ok(())
}

fn mac(key: &[u8], message: &str) -> Result<Vec<u8>, Failure> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key)
        .map_err(|error| Failure("KMSInternalException", error.to_string()))?;
    mac.update(message.as_bytes());
    Ok(mac.finalize().into_bytes().to_vec())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
