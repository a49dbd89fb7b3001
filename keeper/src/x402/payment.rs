//! A payment as a client sends it.

use super::{Network, Subcause, challenge::PaymentRequirements, header::decode_header};
use alloy::primitives::{Address, B256, Bytes, U256};
use serde::{Deserialize, Deserializer, Serialize, de};
use sha2::{Digest, Sha256};

/// Version of x402 that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// `X-PAYMENT`.
    V1,
    /// `PAYMENT-SIGNATURE`.
    V2,
}

impl Version {
    /// The number in `x402Version`.
    pub const fn number(self) -> u64 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }
}

/// An EIP-3009 `transferWithAuthorization` with its signature, as it stands on the wire. Numbers
/// are decimal strings there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignedAuthorization {
    /// Payer.
    pub from: Address,
    /// Payee.
    pub to: Address,
    /// Atomic units of the token.
    #[serde(with = "decimal")]
    pub value: U256,
    /// Valid after this second (strictly).
    #[serde(with = "decimal")]
    pub valid_after: u64,
    /// Valid before this second (strictly).
    #[serde(with = "decimal")]
    pub valid_before: u64,
    /// Authorization nonce, chosen by the payer.
    pub nonce: B256,
}

/// A decoded payment header. Nothing about it has been checked but its form.
#[derive(Debug, Clone)]
pub struct Payment {
    /// Which header it came in.
    pub version: Version,
    /// Network that the client says it pays on.
    pub network: Network,
    /// The authorization.
    pub authorization: SignedAuthorization,
    /// Its signature, of any length.
    pub signature: Bytes,
    /// v2 only: the requirements that the client says it accepted.
    pub accepted: Option<PaymentRequirements>,
    /// SHA-256 of the decoded header, which names this payment among all spellings of its base64
    /// (R-091).
    pub hash: B256,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    x402_version: u64,
}

#[derive(Deserialize)]
struct WireV1 {
    scheme: String,
    network: String,
    payload: WirePayload,
}

#[derive(Deserialize)]
struct WireV2 {
    accepted: PaymentRequirements,
    payload: WirePayload,
}

#[derive(Deserialize)]
struct WirePayload {
    signature: Bytes,
    authorization: SignedAuthorization,
}

impl Payment {
    /// Decodes the value of a payment header.
    ///
    /// # Errors
    /// `header_too_large`, `payload_decode_error`, `unsupported_scheme` or `network_mismatch`.
    pub fn decode(version: Version, header: &[u8]) -> Result<Self, Subcause> {
        Self::parse(version, &decode_header(header)?)
    }

    /// Reads what a payment header carries.
    ///
    /// # Errors
    /// `payload_decode_error`, `unsupported_scheme` or `network_mismatch`.
    pub fn parse(version: Version, json: &[u8]) -> Result<Self, Subcause> {
        let hash = B256::from_slice(&Sha256::digest(json));
        let undecodable = |_| Subcause::PayloadDecodeError;
        let probe: Probe = serde_json::from_slice(json).map_err(undecodable)?;
        if probe.x402_version != version.number() {
            return Err(Subcause::UnsupportedScheme);
        }
        let (scheme, network, payload, accepted) = match version {
            Version::V1 => {
                let wire: WireV1 = serde_json::from_slice(json).map_err(undecodable)?;
                (wire.scheme, wire.network, wire.payload, None)
            }
            Version::V2 => {
                let wire: WireV2 = serde_json::from_slice(json).map_err(undecodable)?;
                let accepted = wire.accepted;
                (accepted.scheme.clone(), accepted.network.clone(), wire.payload, Some(accepted))
            }
        };
        if scheme != "exact" {
            return Err(Subcause::UnsupportedScheme);
        }
        let network = Network::from_wire(&network).ok_or(Subcause::NetworkMismatch)?;
        let WirePayload { signature, authorization } = payload;
        Ok(Self { version, network, authorization, signature, accepted, hash })
    }
}

/// Decimal strings without sign, blanks or leading zeros.
mod decimal {
    use super::{Deserialize, Deserializer, de};
    use serde::Serializer;
    use std::{fmt::Display, str::FromStr};

    pub(super) fn serialize<T: Display, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let canonical = text.bytes().all(|byte| byte.is_ascii_digit())
            && (text.len() == 1 || !text.starts_with('0'));
        if text.is_empty() || !canonical {
            return Err(de::Error::custom("not a decimal integer"));
        }
        text.parse().map_err(|_| de::Error::custom("integer out of range"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::{Engine, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
    use serde_json::{Value, json};

    fn v1() -> Value {
        json!({
            "x402Version": 1, "scheme": "exact", "network": "base-sepolia",
            "payload": {
                "signature": format!("0x{}", "11".repeat(65)),
                "authorization": {
                    "from": "0x1111111111111111111111111111111111111111",
                    "to": "0x2222222222222222222222222222222222222222",
                    "value": "200000", "validAfter": "0", "validBefore": "1800000000",
                    "nonce": format!("0x{}", "ab".repeat(32)),
                },
            },
        })
    }

    fn decode(json: &Value) -> Result<Payment, Subcause> {
        Payment::decode(Version::V1, BASE64_STANDARD.encode(json.to_string()).as_bytes())
    }

    #[test]
    fn decodes_v1_in_any_key_order() {
        let payment = decode(&v1()).unwrap();
        assert_eq!(payment.network, Network::BaseSepolia);
        assert_eq!(payment.authorization.value, U256::from(200_000));
        assert_eq!(payment.authorization.valid_before, 1_800_000_000);

        let shuffled = r#"{"payload":{"authorization":{"nonce":"0xabababababababababababababababababababababababababababababababab","validBefore":"1800000000","validAfter":"0","value":"200000","to":"0x2222222222222222222222222222222222222222","from":"0x1111111111111111111111111111111111111111"},"signature":"0x11"},"network":"base-sepolia","scheme":"exact","x402Version":1}"#;
        let payment =
            Payment::decode(Version::V1, BASE64_STANDARD.encode(shuffled).as_bytes()).unwrap();
        assert_eq!(payment.authorization, decode(&v1()).unwrap().authorization);
    }

    #[test]
    fn hash_names_the_decoded_bytes() {
        let text = v1().to_string();
        let payment = Payment::decode(Version::V1, BASE64_STANDARD.encode(&text).as_bytes());
        assert_eq!(payment.unwrap().hash, B256::from_slice(&Sha256::digest(&text)));
    }

    #[test]
    fn rejects_by_name() {
        type Case = (&'static str, fn(&mut Value), Subcause);
        let cases: [Case; 12] = [
            ("scheme", |v| v["scheme"] = "upto".into(), Subcause::UnsupportedScheme),
            ("version", |v| v["x402Version"] = 2.into(), Subcause::UnsupportedScheme),
            ("network", |v| v["network"] = "base-goerli".into(), Subcause::NetworkMismatch),
            (
                "no payload",
                |v| drop(v.as_object_mut().unwrap().remove("payload")),
                Subcause::PayloadDecodeError,
            ),
            (
                "number",
                |v| v["payload"]["authorization"]["value"] = 200_000.into(),
                Subcause::PayloadDecodeError,
            ),
            (
                "signed",
                |v| v["payload"]["authorization"]["value"] = "+200000".into(),
                Subcause::PayloadDecodeError,
            ),
            (
                "zeros",
                |v| v["payload"]["authorization"]["value"] = "0200000".into(),
                Subcause::PayloadDecodeError,
            ),
            (
                "hex",
                |v| v["payload"]["authorization"]["value"] = "0x30d40".into(),
                Subcause::PayloadDecodeError,
            ),
            (
                "empty",
                |v| v["payload"]["authorization"]["validAfter"] = "".into(),
                Subcause::PayloadDecodeError,
            ),
            (
                "huge",
                |v| v["payload"]["authorization"]["validBefore"] = "18446744073709551616".into(),
                Subcause::PayloadDecodeError,
            ),
            (
                "short nonce",
                |v| v["payload"]["authorization"]["nonce"] = "0xab".into(),
                Subcause::PayloadDecodeError,
            ),
            (
                "address",
                |v| v["payload"]["authorization"]["to"] = "0x22".into(),
                Subcause::PayloadDecodeError,
            ),
        ];
        for (name, change, expected) in cases {
            let mut json = v1();
            change(&mut json);
            assert_eq!(decode(&json).err(), Some(expected), "{name}");
        }
    }

    #[test]
    fn base64_is_strict() {
        let mut text = v1().to_string();
        // A length that needs padding.
        while text.len().is_multiple_of(3) {
            text.push(' ');
        }
        let refused = |header: &[u8]| {
            assert_eq!(
                Payment::decode(Version::V1, header).err(),
                Some(Subcause::PayloadDecodeError)
            );
        };
        refused(BASE64_URL_SAFE_NO_PAD.encode(&text).as_bytes());
        refused(format!(" {}", BASE64_STANDARD.encode(&text)).as_bytes());
        refused(format!("{}\n", BASE64_STANDARD.encode(&text)).as_bytes());
        refused(b"");
        refused(b"!!!!");
        refused(&[0xff; 8]);
        let long = vec![b'A'; super::super::MAX_PAYMENT_HEADER_BYTES + 1];
        assert_eq!(Payment::decode(Version::V1, &long).err(), Some(Subcause::HeaderTooLarge));
        assert_eq!(
            Payment::decode(Version::V1, &long[1..]).err(),
            Some(Subcause::PayloadDecodeError)
        );
    }
}
