//! What is sold: a file, validated when it is loaded.

use crate::{
    outbound::{Guard, Reason, Refused},
    shared_secret::secret,
    splitter::{SplitTerms, capability_id},
    x402::{AmountError, MicroUsdc},
};
use alloy::primitives::Address;
use figment::{
    Figment,
    providers::{Format, Toml},
};
use serde::Deserialize;
use std::{collections::BTreeSet, path::Path, time::Duration};

use super::Capability;

/// Longest answer time of a provider that an agent is made to wait for.
const MAX_TIMEOUT: Duration = Duration::from_secs(300);

/// S06 2.1. It travels in a header, too.
const MAX_DESCRIPTION: usize = 500;

/// Everything that is sold.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    capabilities: Vec<Capability>,
}

/// What is wrong with a catalogue.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// Unreadable, or with a field that does not belong there.
    #[error("{}", one_line(.0))]
    Unreadable(Box<figment::Error>),
    /// A capability that cannot be sold.
    #[error("capability {capability}: {problem}")]
    Invalid {
        /// Which.
        capability: String,
        /// Why.
        problem: String,
    },
}

/// What is wrong with a file, as one sentence: the field, then why.
pub(crate) fn one_line(error: &figment::Error) -> String {
    let problem = error.kind.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    if error.path.is_empty() { problem } else { format!("{}: {problem}", error.path.join(".")) }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    capability: Vec<Entry>,
}

/// One capability as it stands in the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    namespace: String,
    action: String,
    price: String,
    description: String,
    provider: Address,
    #[serde(default = "default_split")]
    split_bps: [u16; 3],
    endpoint: String,
    hmac_secret: String,
    #[serde(default)]
    idempotent: bool,
    #[serde(default = "default_timeout", with = "humantime_serde")]
    timeout: Duration,
}

/// 85/10/5 (S06 8).
const fn default_split() -> [u16; 3] {
    [8_500, 1_000, 500]
}

const fn default_timeout() -> Duration {
    Duration::from_secs(30)
}

impl Catalogue {
    /// Reads and checks a catalogue; `guard` says which endpoints may be called.
    ///
    /// # Errors
    /// [`CatalogueError`] with the line to change.
    pub fn load(path: &Path, guard: &Guard) -> Result<Self, CatalogueError> {
        let file: File = Figment::from(Toml::file_exact(path))
            .extract()
            .map_err(|error| CatalogueError::Unreadable(Box::new(error)))?;
        let mut seen = BTreeSet::new();
        let mut capabilities = Vec::with_capacity(file.capability.len());
        for entry in file.capability {
            let name = format!("{}/{}", entry.namespace, entry.action);
            let capability = entry
                .check(guard)
                .map_err(|problem| CatalogueError::Invalid { capability: name.clone(), problem })?;
            if !seen.insert(capability.id) {
                return Err(CatalogueError::Invalid {
                    capability: name,
                    problem: "is listed twice".to_owned(),
                });
            }
            capabilities.push(capability);
        }
        Ok(Self { capabilities })
    }

    /// Everything in it.
    pub fn all(&self) -> &[Capability] {
        &self.capabilities
    }
}

impl Entry {
    fn check(self, guard: &Guard) -> Result<Capability, String> {
        if !is_word(&self.namespace) || !is_word(&self.action) {
            return Err("namespace and action are lower-case words ([a-z][a-z0-9-]*)".to_owned());
        }
        let price = MicroUsdc::from_price(&self.price)
            .map_err(|error: AmountError| format!("price {:?} is {error}", self.price))?;
        if price == MicroUsdc::ZERO {
            return Err("price is zero".to_owned());
        }
        let shares = self.split_bps.iter().map(|bps| u32::from(*bps)).sum::<u32>();
        if shares != 10_000 {
            return Err(format!("split_bps sums to {shares}, not to 10000"));
        }
        let endpoint = guard.admit(&self.endpoint).map_err(|refused| {
            let Refused { reason, blocked_url } = refused;
            let hint = if reason == Reason::Scheme {
                ": it must be https (http is for test_mode = true)"
            } else {
                ""
            };
            format!("endpoint {blocked_url} is not called: {reason}{hint}")
        })?;
        if self.description.chars().count() > MAX_DESCRIPTION {
            return Err(format!("description is longer than {MAX_DESCRIPTION} characters"));
        }
        if self.timeout.is_zero() || self.timeout > MAX_TIMEOUT {
            return Err("timeout must be between 1s and 5m".to_owned());
        }
        Ok(Capability {
            id: capability_id(&self.namespace, &self.action),
            hmac_secret: secret("hmac_secret", &self.hmac_secret)?,
            namespace: self.namespace,
            action: self.action,
            price,
            description: self.description,
            terms: SplitTerms { provider: self.provider, bps: self.split_bps },
            endpoint,
            idempotent: self.idempotent,
            timeout: self.timeout,
        })
    }
}

/// `^[a-z][a-z0-9-]*$`, which also keeps ':' and '/' out of ids (H22).
fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const GOOD: &str = r#"
        [[capability]]
        namespace = "demo"
        action = "echo"
        price = "$0.20"
        description = "Echoes"
        provider = "0x1111111111111111111111111111111111111111"
        endpoint = "https://provider.example/echo"
        hmac_secret = "MDEyMzQ1Njc4OWFiY2RlZg=="
    "#;

    fn load(text: &str) -> Result<Catalogue, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalogue.toml");
        fs::write(&path, text).unwrap();
        Catalogue::load(&path, &Guard::new(false, &[])).map_err(|error| error.to_string())
    }

    #[test]
    fn a_good_one_loads() {
        let catalogue = load(GOOD).unwrap();
        assert_eq!(catalogue.all()[0].price.micro(), 200_000);
        assert_eq!(catalogue.all()[0].terms.bps, [8_500, 1_000, 500]);
    }

    #[test]
    fn a_bad_one_says_why() {
        for (from, to, expected) in [
            ("$0.20", "0.20", "price \"0.20\" is not a price"),
            ("$0.20", "$0.0000001", "at most 6 decimals"),
            ("$0.20", "$0.0", "price is zero"),
            ("\"demo\"", "\"de:mo\"", "lower-case words"),
            ("\"echo\"", "\"\"", "lower-case words"),
            ("https:", "http:", "must be https"),
            ("provider.example", "10.0.0.1", "not called: resolved_to_deny_cidr"),
            ("provider.example", "user:secret@[::1]", "https://[::1]/echo is not called"),
            ("MDEyMzQ1Njc4OWFiY2RlZg==", "MDEy", "shorter than 16 bytes"),
            ("MDEyMzQ1Njc4OWFiY2RlZg==", "$NO_SUCH_VARIABLE", "no variable NO_SUCH_VARIABLE"),
            ("description", "descripton", "unknown field"),
            ("hmac_secret", "split_bps = [1, 2, 3]\nhmac_secret", "sums to 6"),
            ("hmac_secret", "timeout = \"1h\"\nhmac_secret", "between 1s and 5m"),
        ] {
            let error = load(&GOOD.replace(from, to)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let twice = load(&[GOOD, GOOD].concat()).unwrap_err();
        assert!(twice.contains("listed twice"), "{twice}");
    }
}
