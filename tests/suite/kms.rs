//! The KMS double is as strict as KMS, and the signer copes with what KMS answers.

use alloy::{
    consensus::{Transaction, TxEip1559, TxEnvelope, transaction::SignerRecoverable},
    eips::eip2718::Decodable2718,
    primitives::{Address, B256, Bytes, Signature, TxKind, U256},
    signers::k256::ecdsa::VerifyingKey,
};
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::{
    credential_fn::provide_credentials_fn, provider::error::CredentialsError,
};
use aws_sdk_kms::{
    Client,
    config::Credentials,
    error::ProvideErrorMetadata,
    primitives::Blob,
    types::{KeySpec, KeyUsageType, MessageType, SigningAlgorithmSpec},
};
use keeper::{
    signer::{Guard, KmsFault, Policy, Refusal, Signer, SignerError},
    splitter::split_call,
};
use sandbox::{KmsDouble, KmsFault as Wrong};
use std::time::Duration;
use tokio::net::TcpStream;

async fn client(kms: &KmsDouble, secret: &str) -> Client {
    let id = kms.credentials().access_key_id.clone();
    let config = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(kms.url())
        .credentials_provider(Credentials::new(id, secret, None, None, "test"))
        .load()
        .await;
    Client::new(&config)
}

async fn good_client(kms: &KmsDouble) -> Client {
    client(kms, &kms.credentials().secret_access_key).await
}

#[tokio::test]
async fn create_describe_and_sign_through_the_real_sdk() {
    let kms = KmsDouble::start().await.unwrap();
    let client = good_client(&kms).await;
    let created = client
        .create_key()
        .key_spec(KeySpec::EccSecgP256K1)
        .key_usage(KeyUsageType::SignVerify)
        .send()
        .await
        .unwrap();
    let metadata = created.key_metadata().unwrap();
    let id = metadata.key_id();
    let described = client.describe_key().key_id(metadata.arn().unwrap()).send().await.unwrap();
    assert_eq!(described.key_metadata().unwrap().key_id(), id);
    assert_eq!(described.key_metadata().unwrap().key_spec(), Some(&KeySpec::EccSecgP256K1));

    let public = client.get_public_key().key_id(id).send().await.unwrap();
    assert_eq!(public.public_key().unwrap().as_ref().len(), 88, "SPKI of an uncompressed point");

    let digest = B256::repeat_byte(7);
    let mut signatures = Vec::new();
    for _ in 0..64 {
        let signed = client
            .sign()
            .key_id(id)
            .message(Blob::new(digest.to_vec()))
            .message_type(MessageType::Digest)
            .signing_algorithm(SigningAlgorithmSpec::EcdsaSha256)
            .send()
            .await
            .unwrap();
        signatures.push(signed.signature().unwrap().as_ref().to_vec());
    }
    let different: std::collections::BTreeSet<_> = signatures.iter().collect();
    assert_eq!(different.len(), 64, "another signature at each call");

    // The digest itself is signed, and both halves of s occur.
    let key = spki(public.public_key().unwrap().as_ref());
    let address = Address::from_public_key(&key);
    let mut high = 0;
    for der in &signatures {
        let (r, s) = der_scalars(der);
        let signature = Signature::new(r, s, false);
        high += u32::from(signature.normalize_s().is_some());
        let low = signature.normalize_s().unwrap_or(signature);
        let recovered = [false, true]
            .map(|parity| low.with_parity(parity).recover_address_from_prehash(&digest).unwrap());
        assert!(recovered.contains(&address), "the signature is over the digest as given");
    }
    assert!((1..64).contains(&high), "{high} of 64 signatures have a high s");
}

#[tokio::test]
async fn refuses_what_kms_refuses() {
    let kms = KmsDouble::start().await.unwrap();
    let (arn, _) = kms.create_key().unwrap();

    let stranger = client(&kms, "not the secret").await;
    let error = stranger.get_public_key().key_id(&arn).send().await.unwrap_err();
    assert_eq!(error.code(), Some("InvalidSignatureException"));

    let client = good_client(&kms).await;
    let error = client.get_public_key().key_id("no-such-key").send().await.unwrap_err();
    assert_eq!(error.code(), Some("NotFoundException"));

    let sign = |message: &[u8], kind| {
        client
            .sign()
            .key_id(&arn)
            .message(Blob::new(message))
            .message_type(kind)
            .signing_algorithm(SigningAlgorithmSpec::EcdsaSha256)
            .send()
    };
    let error = sign(&[1; 31], MessageType::Digest).await.unwrap_err();
    assert_eq!(error.code(), Some("ValidationException"));
    sign(&[1; 31], MessageType::Raw).await.unwrap();
    for length in [0, 4097] {
        let error = sign(&vec![1; length], MessageType::Raw).await.unwrap_err();
        assert_eq!(error.code(), Some("ValidationException"), "{length} bytes");
    }

    let error = client
        .sign()
        .key_id(&arn)
        .message(Blob::new([1; 32]))
        .signing_algorithm(SigningAlgorithmSpec::EcdsaSha512)
        .send()
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some("InvalidKeyUsageException"));

    let error = client
        .create_key()
        .key_spec(KeySpec::EccNistP256)
        .key_usage(KeyUsageType::SignVerify)
        .send()
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some("ValidationException"));
}

/// The chain of every signer here, and where it may call.
const CHAIN: u64 = 84_532;
const SPLITTER: Address = Address::repeat_byte(2);

/// A settler's key, and a signer that may use it so often in a minute.
async fn settler(kms: &KmsDouble, max_per_minute: u32) -> (Signer, Address) {
    let (arn, address) = kms.create_key().unwrap();
    (signer(kms, &arn, Policy::settler(SPLITTER), max_per_minute).await.unwrap(), address)
}

pub(crate) async fn signer(
    kms: &KmsDouble,
    key: &str,
    policy: Policy,
    max_per_minute: u32,
) -> Result<Signer, SignerError> {
    let guard = Guard { policy, max_per_minute };
    let credentials = kms.credentials();
    let (id, secret) = (&credentials.access_key_id, &credentials.secret_access_key);
    let credentials = Credentials::new(id, secret, None, None, "test");
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(kms.url())
        .credentials_provider(credentials)
        .build();
    Signer::with_kms(config, key.to_owned(), CHAIN, guard).await
}

/// Something that a settler may sign.
fn split(nonce: u64) -> TxEip1559 {
    TxEip1559 {
        chain_id: CHAIN,
        nonce,
        to: TxKind::Call(SPLITTER),
        input: split_call(B256::repeat_byte(9), Address::ZERO),
        ..TxEip1559::default()
    }
}

/// The kind of the fault that kept a transaction from being signed.
async fn fault(signer: &Signer) -> KmsFault {
    match signer.sign(split(0)).await.unwrap_err() {
        SignerError::Kms { kind, .. } | SignerError::Unusable { kind, .. } => kind,
        SignerError::WrongSignature { .. } => KmsFault::WrongSignature,
        error => panic!("{error}"),
    }
}

/// What goes out has a low s and recovers to the key, whatever KMS answers.
#[tokio::test]
async fn the_signer_normalizes_high_s() {
    let kms = KmsDouble::start().await.unwrap();
    let (signer, address) = settler(&kms, 600).await;
    assert_eq!(signer.address(), address);
    for fault in [Some(Wrong::HighS), None] {
        kms.go_wrong(fault);
        for nonce in 0..16 {
            let signed = signer.sign(split(nonce)).await.unwrap();
            let envelope = TxEnvelope::decode_2718_exact(&signed.raw).unwrap();
            assert_eq!(*envelope.tx_hash(), signed.hash);
            assert_eq!(envelope.recover_signer().unwrap(), address);
            assert_eq!(envelope.nonce(), nonce);
            assert!(envelope.signature().normalize_s().is_none(), "low s");
        }
    }
    assert_eq!((kms.asked(), kms.signed()), (32, 32));
}

/// So the bytes must be kept: they cannot be made again.
#[tokio::test]
async fn the_same_transaction_is_another_one_each_time() {
    let kms = KmsDouble::start().await.unwrap();
    let (signer, _) = settler(&kms, 600).await;
    let first = signer.sign(split(0)).await.unwrap();
    let second = signer.sign(split(0)).await.unwrap();
    assert_ne!((first.hash, first.raw), (second.hash, second.raw));
}

#[tokio::test]
async fn what_a_key_may_not_sign_never_reaches_kms() {
    let kms = KmsDouble::start().await.unwrap();
    let (signer, address) = settler(&kms, 600).await;
    let elsewhere = Address::repeat_byte(7);
    let good = split(0);
    for (bad, expected) in [
        (TxEip1559 { chain_id: 1, ..good.clone() }, Refusal::Chain),
        (TxEip1559 { to: TxKind::Call(elsewhere), ..good.clone() }, Refusal::Destination),
        (TxEip1559 { to: TxKind::Create, ..good.clone() }, Refusal::Creation),
        (TxEip1559 { value: U256::from(1), ..good.clone() }, Refusal::Value),
        (TxEip1559 { input: [0xa9, 5, 0x9c, 0xbb].into(), ..good.clone() }, Refusal::Selector),
        (TxEip1559 { input: good.input.slice(..67), ..good.clone() }, Refusal::Calldata),
        (TxEip1559 { to: TxKind::Call(address), ..good.clone() }, Refusal::Calldata),
    ] {
        match signer.sign(bad).await.unwrap_err() {
            SignerError::Forbidden { key, refusal, .. } => {
                assert_eq!((key, refusal), (address, expected));
            }
            error => panic!("{error}"),
        }
    }
    let bad = TxEip1559 { to: TxKind::Call(elsewhere), ..good.clone() };
    assert_eq!(
        signer.sign(bad).await.unwrap_err().to_string(),
        format!(
            "key {address} may not sign this: another destination (to {elsewhere}, selector \
             0x286eae40)"
        )
    );
    assert_eq!(kms.asked(), 0);
    // A transaction to itself that does nothing takes an account nonce.
    let noop = TxEip1559 { to: TxKind::Call(address), input: Bytes::new(), ..good.clone() };
    signer.sign(noop).await.unwrap();
    signer.sign(good).await.unwrap();
    assert_eq!(kms.asked(), 2);
}

/// A puller of a Splitter and of the one that it replaced, say.
#[tokio::test]
async fn a_key_of_several_splitters_signs_for_each() {
    let kms = KmsDouble::start().await.unwrap();
    let (arn, _) = kms.create_key().unwrap();
    let second = Address::repeat_byte(5);
    let mut signer = signer(&kms, &arn, Policy::settler(SPLITTER), 2).await.unwrap();
    let other = self::signer(&kms, &arn, Policy::settler(second), 2).await.unwrap();
    let there = TxEip1559 { to: TxKind::Call(second), ..split(0) };
    signer.sign(there.clone()).await.unwrap_err();
    signer.permit_too(&other);
    signer.sign(there).await.unwrap();
    signer.sign(split(1)).await.unwrap();
    let over = signer.sign(split(2)).await.unwrap_err();
    assert!(matches!(over, SignerError::TooMany { .. }), "one count for both: {over}");
}

#[tokio::test]
async fn no_more_than_the_limit_reaches_kms() {
    let kms = KmsDouble::start().await.unwrap();
    let (signer, address) = settler(&kms, 3).await;
    let clone = signer.clone();
    for nonce in 0..3 {
        // Forbidden ones do not count.
        signer.sign(TxEip1559 { chain_id: 1, ..split(nonce) }).await.unwrap_err();
        signer.sign(split(nonce)).await.unwrap();
    }
    for signer in [&signer, &clone] {
        match signer.sign(split(3)).await.unwrap_err() {
            SignerError::TooMany { key, most, wait } => {
                assert_eq!((key, most), (address, 3));
                assert!((1..=60).contains(&wait), "{wait}");
            }
            error => panic!("{error}"),
        }
    }
    assert_eq!(kms.asked(), 3);
    // Another key has a count of its own.
    settler(&kms, 3).await.0.sign(split(0)).await.unwrap();
}

/// Two refusals are nothing but a delay; a third ends the attempt, and the caller decides.
#[tokio::test]
async fn throttling_is_waited_out_within_bounds() {
    let kms = KmsDouble::start().await.unwrap();
    let (signer, _) = settler(&kms, 600).await;
    kms.go_wrong(Wrong::Throttled(2));
    signer.sign(split(0)).await.unwrap();
    assert_eq!((kms.asked(), kms.signed()), (3, 1));
    kms.go_wrong(Wrong::Throttled(u32::MAX));
    assert_eq!(fault(&signer).await, KmsFault::Throttled);
    assert_eq!((kms.asked(), kms.signed()), (6, 1));
}

#[tokio::test]
async fn a_kms_that_does_not_answer_is_not_waited_for_long() {
    let kms = KmsDouble::start().await.unwrap();
    let (signer, _) = settler(&kms, 600).await;
    kms.go_wrong(Wrong::Hanging);
    let given_up = tokio::time::timeout(Duration::from_secs(30), fault(&signer)).await;
    assert_eq!(given_up.unwrap(), KmsFault::Timeout);
    assert!((2..=3).contains(&kms.asked()), "{} attempts", kms.asked());
    kms.go_wrong(None);
    signer.sign(split(0)).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_is_not_the_keys_signature_is_refused() {
    let kms = KmsDouble::start().await.unwrap();
    let (signer, _) = settler(&kms, 600).await;
    kms.go_wrong(Wrong::WrongKey);
    assert_eq!(fault(&signer).await, KmsFault::WrongSignature);
    kms.go_wrong(Wrong::Torn);
    assert_eq!(fault(&signer).await, KmsFault::UnusableAnswer);
    kms.go_wrong(None);
    signer.sign(split(0)).await.unwrap();
}

/// Whoever reads an error or a metric learns what to do, and nothing else.
#[tokio::test]
async fn faults_of_kms_have_few_names() {
    let kms = KmsDouble::start().await.unwrap();
    let (signer, _) = settler(&kms, 600).await;
    for (code, kind, word) in [
        ("AccessDeniedException", KmsFault::AccessDenied, "access_denied"),
        ("DisabledException", KmsFault::Disabled, "disabled"),
        ("NotFoundException", KmsFault::NotFound, "not_found"),
        ("KMSInvalidStateException", KmsFault::InvalidState, "invalid_state"),
        ("InvalidKeyUsageException", KmsFault::WrongKeyType, "wrong_key_type"),
        ("ValidationException", KmsFault::BadRequest, "bad_request"),
        ("ExpiredTokenException", KmsFault::BadCredentials, "bad_credentials"),
        ("KMSInternalException", KmsFault::Service, "service"),
        ("SomethingNewException", KmsFault::Service, "service"),
    ] {
        kms.go_wrong(Wrong::Refused(code));
        assert_eq!(fault(&signer).await, kind, "{code}");
        assert_eq!(kind.as_str(), word);
    }
    assert_eq!(kms.signed(), 0);

    let error = self::signer(&kms, "no-such-key", Policy::default(), 600).await.unwrap_err();
    assert!(error.is_permanent());
    assert_eq!(
        error.to_string(),
        "KMS key no-such-key: not_found; correct key_id and region, or the key in KMS"
    );

    let (arn, _) = kms.create_key().unwrap();
    let none = provide_credentials_fn(|| async { Err(CredentialsError::not_loaded("none")) });
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(kms.url())
        .credentials_provider(none)
        .build();
    let guard = Guard { policy: Policy::settler(SPLITTER), max_per_minute: 600 };
    let error = Signer::with_kms(config, arn.clone(), CHAIN, guard).await.unwrap_err();
    assert_eq!(error.to_string(), format!("KMS key {arn}: no_credentials"));

    let policy = Policy::settler(SPLITTER);
    let signer = self::signer(&kms, &arn, policy, 600).await.unwrap();
    let url = kms.url().to_owned();
    drop(kms);
    // Its port is closed once its task has ended.
    while TcpStream::connect(url.strip_prefix("http://").unwrap()).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let error = signer.sign(split(0)).await.unwrap_err();
    assert!(!error.is_permanent());
    assert_eq!(error.to_string(), format!("KMS key {arn}: dispatch_io"));
}

/// The point in a SubjectPublicKeyInfo of 88 bytes.
fn spki(der: &[u8]) -> VerifyingKey {
    VerifyingKey::from_sec1_bytes(&der[23..]).unwrap()
}

/// The two integers of a DER signature.
fn der_scalars(der: &[u8]) -> (U256, U256) {
    let length = usize::from(der[3]);
    let (r, s) = (&der[4..4 + length], &der[6 + length..]);
    (U256::from_be_slice(trim(r)), U256::from_be_slice(trim(s)))
}

fn trim(bytes: &[u8]) -> &[u8] {
    if bytes.len() == 33 { &bytes[1..] } else { bytes }
}
