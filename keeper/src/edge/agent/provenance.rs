//! Provenance v2: a call was made just now by who has the key, and is not sent twice (S02 5.2,
//!
//!
//! `v2:<unix seconds>:<nonce>:<tag>`, where the tag is HMAC-SHA256, under the API key, over
//! `agent_id:timestamp:nonce`. Version 1 ended on 2026-11-01.

use super::credentials::ApiKey;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Seconds by which the agent's clock may be off, either way. It must not be widened (S02 5.2).
const MAX_SKEW: u64 = 300;
/// Characters of a nonce: at least 64 bits, and no more than a ledger should keep.
const NONCE: std::ops::RangeInclusive<usize> = 16..=128;
/// Characters of a tag.
const TAG: usize = 64;

/// Why a provenance is not accepted (S03 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::edge) enum Mismatch {
    /// It does not have the form.
    WireMalformed,
    /// It is one of version 1.
    V1Unavailable,
    /// The agent's clock is off by so many seconds; positive when it is ahead.
    ClockSkew(i64),
    /// Another key, agent, time or nonce.
    Hmac,
    /// It was used before.
    NonceReplay,
}

impl Mismatch {
    /// Its word.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::WireMalformed => "wire_malformed",
            Self::V1Unavailable => "v1_unavailable",
            Self::ClockSkew(_) => "clock_skew",
            Self::Hmac => "hmac_mismatch",
            Self::NonceReplay => "nonce_replay",
        }
    }
}

/// Checks a provenance but for its nonce, which it hands back as the ledger keeps it: two spellings
/// are one nonce.
pub(super) fn verify(
    wire: &str,
    agent_id: &str,
    key: &ApiKey,
    now: i64,
) -> Result<String, Mismatch> {
    let is_v1 = wire.len() == TAG && wire.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_v1 {
        return Err(Mismatch::V1Unavailable);
    }
    let mut parts = wire.split(':');
    let (Some("v2"), Some(timestamp), Some(nonce), Some(tag), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Mismatch::WireMalformed);
    };
    let is_form = is_all(timestamp, |byte| byte.is_ascii_digit())
        && NONCE.contains(&nonce.len())
        && is_all(nonce, |byte| byte.is_ascii_hexdigit())
        && tag.len() == TAG
        && is_all(tag, |byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let (true, Ok(seconds)) = (is_form, timestamp.parse::<i64>()) else {
        return Err(Mismatch::WireMalformed);
    };
    let drift = seconds.saturating_sub(now);
    if drift.unsigned_abs() > MAX_SKEW {
        return Err(Mismatch::ClockSkew(drift));
    }
    let tag = alloy::hex::decode(tag).map_err(|_| Mismatch::WireMalformed)?;
    let message = format!("{agent_id}:{timestamp}:{nonce}");
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).map_err(|_| Mismatch::Hmac)?;
    mac.update(message.as_bytes());
    // In constant time.
    mac.verify_slice(&tag).map_err(|_| Mismatch::Hmac)?;
    Ok(nonce.to_ascii_lowercase())
}

fn is_all(text: &str, is_good: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(is_good)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    const AGENT: &str = "keeper_ag_0123456789abcdef01234567";
    const KEY: &str = "keeper_ak_0123456789abcdef0123456789abcdef0123456789abcdef";
    const NOW: i64 = 1_800_000_000;

    /// What an agent sends.
    fn sign(agent_id: &str, key: &str, timestamp: i64, nonce: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
        mac.update(format!("{agent_id}:{timestamp}:{nonce}").as_bytes());
        format!("v2:{timestamp}:{nonce}:{}", alloy::hex::encode(mac.finalize().into_bytes()))
    }

    fn check(wire: &str) -> Result<String, Mismatch> {
        verify(wire, AGENT, &ApiKey::from(KEY), NOW)
    }

    /// Vectors of our own; the tags were computed by OpenSSL.
    #[test]
    fn known_answers() {
        for (timestamp, nonce, tag) in [
            (
                1_800_000_000,
                "0123456789abcdef",
                "7aa2cb16127f85c62c28f742e74fceccaf194080b24780f688dc7a502203e70f",
            ),
            (
                1_700_000_000,
                "DEADBEEF0123456789abcdef01234567",
                "8338f77376e93dfbc1ff973e0977bbd65948e7663b497eaa829584a3e949fd9c",
            ),
        ] {
            let wire = format!("v2:{timestamp}:{nonce}:{tag}");
            assert_eq!(sign(AGENT, KEY, timestamp, nonce), wire);
            let found = verify(&wire, AGENT, &ApiKey::from(KEY), timestamp);
            assert_eq!(found, Ok(nonce.to_lowercase()));
        }
    }

    /// the published vectors, where they lie beside the project or `JECP_SCHEMAS` names their
    /// folder.
    #[test]
    fn published_vectors() {
        let folder = std::env::var("JECP_SCHEMAS").unwrap_or_else(|_| {
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/jecp").to_owned()
        });
        let file = std::path::Path::new(&folder).join("provenance-v2-vectors.json");
        let Ok(text) = std::fs::read_to_string(&file) else {
            eprintln!("skipped: {} is not there", file.display());
            return;
        };
        let all: Value = serde_json::from_str(&text).unwrap();
        let text = |value: &Value, name: &str| value[name].as_str().unwrap().to_owned();
        let valid = all["valid"].as_array().unwrap();
        for vector in valid {
            let (input, wire) = (&vector["input"], text(vector, "expected_wire"));
            let now = input["timestamp"].as_i64().unwrap();
            let (agent_id, key) = (text(input, "agent_id"), text(input, "api_key"));
            let nonce = text(input, "nonce");
            assert_eq!(sign(&agent_id, &key, now, &nonce), wire, "{vector}");
            let key = ApiKey::from(key.as_str());
            assert_eq!(verify(&wire, &agent_id, &key, now), Ok(nonce), "{vector}");
            for skew in all["clock_skew"].as_array().unwrap() {
                let offset = skew["skew_offset_sec"].as_i64().unwrap();
                let found = verify(&wire, &agent_id, &key, now - offset).err();
                let expected = skew["expected_subcause"].as_str();
                assert_eq!(found.map(Mismatch::as_str), expected, "{skew}");
            }
        }
        let invalid = all["invalid"].as_array().unwrap();
        for vector in invalid {
            let input = &vector["input"];
            let key = ApiKey::from(text(input, "api_key").as_str());
            let (agent_id, now) = (text(input, "agent_id"), input["now"].as_i64().unwrap());
            let found = verify(&text(vector, "wire"), &agent_id, &key, now).unwrap_err();
            assert_eq!(found.as_str(), vector["expected_subcause"], "{vector}");
        }
        assert_eq!((valid.len(), invalid.len()), (3, 7));
    }

    /// 300 seconds are inside, either way.
    #[test]
    fn the_window_is_inclusive() {
        let nonce = "0123456789abcdef";
        for (offset, expected) in [
            (-301, Err(Mismatch::ClockSkew(-301))),
            (-300, Ok(nonce.to_owned())),
            (0, Ok(nonce.to_owned())),
            (300, Ok(nonce.to_owned())),
            (301, Err(Mismatch::ClockSkew(301))),
        ] {
            assert_eq!(check(&sign(AGENT, KEY, NOW + offset, nonce)), expected, "{offset}");
        }
    }

    #[test]
    fn what_is_not_of_the_form_is_refused() {
        let good = sign(AGENT, KEY, NOW, "0123456789abcdef");
        let long = sign(AGENT, KEY, NOW, &"a".repeat(129));
        let tag = good.rsplit(':').next().unwrap();
        for wire in [
            String::new(),
            "v2:".to_owned(),
            good.replacen("v2", "v3", 1),
            good.replacen("v2", "V2", 1),
            format!("{good}:"),
            format!(" {good}"),
            format!("v2:{NOW}:0123456789abcde:{tag}"),
            format!("v2:-{NOW}:0123456789abcdef:{tag}"),
            format!("v2:+{NOW}:0123456789abcdef:{tag}"),
            format!("v2::0123456789abcdef:{tag}"),
            format!("v2:99999999999999999999:0123456789abcdef:{tag}"),
            format!("v2:{NOW}:0123456789abcdef:{}", tag.to_uppercase()),
            format!("v2:{NOW}:0123456789abcdeg:{tag}"),
            long,
        ] {
            assert_eq!(check(&wire), Err(Mismatch::WireMalformed), "{wire}");
        }
        assert_eq!(check(&"a".repeat(64)), Err(Mismatch::V1Unavailable));
    }

    #[test]
    fn somebody_elses_is_refused() {
        let nonce = "0123456789ABCDEF";
        let good = sign(AGENT, KEY, NOW, nonce);
        assert_eq!(check(&good), Ok("0123456789abcdef".to_owned()), "kept in one spelling");
        for wire in [
            sign("keeper_ag_other", KEY, NOW, nonce),
            sign(AGENT, "keeper_ak_other", NOW, nonce),
            good.replacen(&NOW.to_string(), &(NOW + 1).to_string(), 1),
            good.replacen(nonce, "0123456789abcdef", 1),
        ] {
            assert_eq!(check(&wire), Err(Mismatch::Hmac), "{wire}");
        }
    }

    proptest! {
        /// No text is taken that was not signed, and none makes the parser panic.
        #[test]
        fn nothing_else_is_accepted(wire in ".{0,200}", nonce in "[0-9a-f]{16,64}", flip in 0usize..64) {
            prop_assert!(check(&wire).is_err());
            let good = sign(AGENT, KEY, NOW, &nonce);
            prop_assert_eq!(check(&good), Ok(nonce));
            let at = good.len() - 1 - flip;
            let other = if good.as_bytes()[at] == b'0' { "1" } else { "0" };
            let mut forged = good;
            forged.replace_range(at..=at, other);
            prop_assert_eq!(check(&forged), Err(Mismatch::Hmac));
        }
    }
}
