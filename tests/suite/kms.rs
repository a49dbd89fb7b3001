//! The KMS double is as strict as KMS, and the signer copes with what KMS answers.

use alloy::{
    consensus::{TxEip1559, TxEnvelope, transaction::SignerRecoverable},
    eips::eip2718::Decodable2718,
    primitives::{Address, B256, Signature, U256},
    signers::k256::ecdsa::VerifyingKey,
};
use aws_config::{BehaviorVersion, Region};
use aws_sdk_kms::{
    Client,
    config::Credentials,
    error::ProvideErrorMetadata,
    primitives::Blob,
    types::{KeySpec, KeyUsageType, MessageType, SigningAlgorithmSpec},
};
use keeper::signer::KmsSigner;
use sandbox::KmsDouble;

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

pub(crate) async fn good_client(kms: &KmsDouble) -> Client {
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

/// What goes out always has a low s and recovers to the key, whatever KMS answers: the signer checks
/// both and would refuse.
#[tokio::test]
async fn the_signer_normalizes_high_s() {
    let kms = KmsDouble::start().await.unwrap();
    let (arn, address) = kms.create_key().unwrap();
    let client = good_client(&kms).await;
    let signer = KmsSigner::with_client(client, arn, 84_532).await.unwrap();
    assert_eq!(signer.address(), address);
    for nonce in 0..32 {
        let transaction = TxEip1559 { chain_id: 84_532, nonce, ..TxEip1559::default() };
        let signed = signer.sign(transaction).await.unwrap();
        let envelope = TxEnvelope::decode_2718_exact(&signed.raw).unwrap();
        assert_eq!(*envelope.tx_hash(), signed.hash);
        assert_eq!(envelope.recover_signer().unwrap(), address);
        assert!(envelope.signature().normalize_s().is_none(), "low s");
    }
}

#[tokio::test]
async fn the_signer_signs_for_its_chain_only() {
    let kms = KmsDouble::start().await.unwrap();
    let (arn, _) = kms.create_key().unwrap();
    let client = good_client(&kms).await;
    let signer = KmsSigner::with_client(client, arn, 84_532).await.unwrap();
    let elsewhere = TxEip1559 { chain_id: 1, ..TxEip1559::default() };
    assert!(signer.sign(elsewhere).await.is_err());
}

#[tokio::test]
async fn errors_are_short_and_name_the_key() {
    let kms = KmsDouble::start().await.unwrap();
    let client = good_client(&kms).await;
    let missing = "no-such-key".to_owned();
    let error = KmsSigner::with_client(client.clone(), missing, 84_532).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "KMS key no-such-key: NotFoundException; correct key_id and region, or the key in KMS"
    );

    let (arn, _) = kms.create_key().unwrap();
    drop(kms);
    let error = KmsSigner::with_client(client, arn.clone(), 84_532).await.unwrap_err();
    assert_eq!(error.to_string(), format!("KMS key {arn}: no connection"));
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
