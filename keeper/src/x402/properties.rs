//! Whatever a client sends: a payment or a refusal with a name, never a panic, and nothing beyond the
//! limit is so much as decoded. What is written is read again.

use super::{
    MAX_PAYMENT_HEADER_BYTES, Network, Offer, Payment, PaymentRequired, Receipt,
    SignedAuthorization, Subcause, Version, encode_header, header::decode_header,
};
use crate::x402::MicroUsdc;
use alloy::primitives::{Address, B256, U256};
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Map, Value, json};

/// Any JSON that is not too deep.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        "(0x)?[0-9a-fA-F]{0,70}".prop_map(Value::from),
        "[-+]?[0-9]{0,90}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec(("[a-zA-Z0-9]{0,12}", inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn any_version() -> impl Strategy<Value = Version> {
    select(vec![Version::V1, Version::V2])
}

prop_compose! {
    fn any_authorization()(
        from in any::<[u8; 20]>(), to in any::<[u8; 20]>(), value in any::<[u64; 4]>(),
        valid_after in any::<u64>(), valid_before in any::<u64>(), nonce in any::<[u8; 32]>(),
    ) -> SignedAuthorization {
        SignedAuthorization {
            from: Address::new(from),
            to: Address::new(to),
            value: U256::from_limbs(value),
            valid_after,
            valid_before,
            nonce: B256::new(nonce),
        }
    }
}

/// What an agent sends.
fn written(version: Version, signed: &SignedAuthorization, signature: &[u8]) -> Value {
    let signature = alloy::hex::encode_prefixed(signature);
    let payload = json!({"signature": signature, "authorization": signed});
    match version {
        Version::V1 => json!({"x402Version": 1, "scheme": "exact", "network": "base-sepolia",
                              "payload": payload}),
        Version::V2 => {
            json!({"x402Version": 2, "payload": payload, "accepted": offer().v2_requirements()})
        }
    }
}

fn offer() -> Offer {
    Offer {
        network: Network::BaseSepolia,
        asset: Network::BaseSepolia.usdc(),
        pay_to: Address::repeat_byte(7),
        amount: MicroUsdc::new(200_000).unwrap(),
        resource: "https://hub.example/v1/invoke".to_owned(),
        description: "Echoes".to_owned(),
        max_timeout_seconds: 60,
        splitter_capability_id: B256::repeat_byte(9),
        facilitator_url: "https://hub.example".to_owned(),
    }
}

/// Replaces what stands at some place of a document.
fn spoil(document: &mut Value, path: &[usize], with: Value) {
    let mut at = document;
    for step in path {
        let places = match at {
            Value::Object(fields) => fields.len(),
            Value::Array(items) => items.len(),
            _ => 0,
        };
        if places == 0 {
            break;
        }
        at = match at {
            Value::Object(fields) => fields.values_mut().nth(step % places).unwrap(),
            Value::Array(items) => &mut items[step % places],
            _ => break,
        };
    }
    *at = with;
}

proptest! {
    #[test]
    fn any_bytes_are_refused_by_name(version in any_version(), bytes in vec(any::<u8>(), 0..9_000)) {
        let too_long = bytes.len() > MAX_PAYMENT_HEADER_BYTES;
        match Payment::decode(version, &bytes) {
            Ok(_) => prop_assert!(!too_long),
            Err(subcause) => prop_assert_eq!(subcause == Subcause::HeaderTooLarge, too_long),
        }
        let _ = Payment::parse(version, &bytes);
    }

    /// The limit is on what came, before anything is made of it.
    #[test]
    fn what_is_decoded_is_shorter_than_what_came(text in "[A-Za-z0-9+/]{0,2000}={0,3}") {
        if let Ok(decoded) = decode_header(text.as_bytes()) {
            prop_assert!(decoded.len() <= text.len() && decoded.capacity() <= text.len().max(16));
        }
    }

    #[test]
    fn any_json_is_refused_by_name(version in any_version(), json in any_json()) {
        let header = encode_header(&json).unwrap();
        prop_assert!(Payment::decode(version, header.as_bytes()).is_err());
    }

    #[test]
    fn what_is_written_is_read_again(
        version in any_version(), signed in any_authorization(), signature in vec(any::<u8>(), 0..200),
    ) {
        let header = encode_header(&written(version, &signed, &signature)).unwrap();
        let payment = Payment::decode(version, header.as_bytes()).unwrap();
        prop_assert_eq!(&payment.authorization, &signed);
        prop_assert_eq!(payment.signature.as_ref(), signature.as_slice());
        prop_assert_eq!(payment.network, Network::BaseSepolia);
        prop_assert_eq!(payment.accepted, (version == Version::V2).then(|| offer().v2_requirements()));
        let other = if version == Version::V1 { Version::V2 } else { Version::V1 };
        prop_assert_eq!(
            Payment::decode(other, header.as_bytes()).err(), Some(Subcause::UnsupportedScheme)
        );
    }

    /// One place of a good payment is anything: it is still read the same way twice, or refused.
    #[test]
    fn a_payment_spoilt_anywhere_is_read_or_refused(
        version in any_version(), signed in any_authorization(), path in vec(any::<usize>(), 0..5),
        with in any_json(),
    ) {
        let mut json = written(version, &signed, &[7; 65]);
        spoil(&mut json, &path, with);
        let header = encode_header(&json).unwrap();
        let twice = [(); 2].map(|()| Payment::decode(version, header.as_bytes()));
        match twice {
            [Ok(one), Ok(other)] => {
                prop_assert_eq!(&one.authorization, &other.authorization);
                let again = written(version, &one.authorization, &one.signature);
                let again = encode_header(&again).unwrap();
                let again = Payment::decode(version, again.as_bytes()).unwrap();
                prop_assert_eq!(again.authorization, one.authorization);
            }
            [Err(one), Err(other)] => prop_assert_eq!(one, other),
            _ => prop_assert!(false, "once it is read, once refused"),
        }
    }

    /// What we answer is read by who reads it: the challenge and the receipt.
    #[test]
    fn what_we_write_is_read_again(hash in any::<[u8; 32]>(), payer in any::<[u8; 20]>()) {
        let header = encode_header(&offer().v2_challenge("why")).unwrap();
        let read: PaymentRequired =
            serde_json::from_slice(&decode_header(header.as_bytes()).unwrap()).unwrap();
        prop_assert_eq!(read.accepts, vec![offer().v2_requirements()]);
        let receipt = Receipt {
            transaction: B256::new(hash), network: Network::Base, payer: Address::new(payer),
        };
        for version in [Version::V1, Version::V2] {
            let header = receipt.encode(version).unwrap();
            let read: Value =
                serde_json::from_slice(&decode_header(header.as_bytes()).unwrap()).unwrap();
            prop_assert_eq!(&read["transaction"], &json!(receipt.transaction));
            prop_assert_eq!(&read["payer"], &json!(receipt.payer));
        }
    }
}

/// A document of brackets would recurse; it is refused.
#[test]
fn depth_is_refused() {
    let deep = "[".repeat(6_000);
    let header = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, deep);
    for version in [Version::V1, Version::V2] {
        let refused = Payment::decode(version, header.as_bytes()).err();
        assert_eq!(refused, Some(Subcause::PayloadDecodeError));
    }
}
