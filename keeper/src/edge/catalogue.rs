//! What is sold: a file, validated when it is loaded.

use crate::{
    outbound::{Guard, Reason, Refused},
    shared_secret::secret,
    splitter::{SplitTerms, capability_id},
    x402::{AmountError, MicroUsdc},
};
use alloy::primitives::Address;
use chrono::{DateTime, Utc};
use figment::{
    Figment,
    providers::{Format, Toml},
};
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use super::{Capability, InputSchema, PaymentMethods, Sunset, Tier};

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
    #[serde(default)]
    model: Model,
    #[serde(default = "default_methods")]
    payment_methods: Vec<Method>,
    description: String,
    provider: Address,
    #[serde(default = "default_split")]
    split_bps: [u16; 3],
    endpoint: String,
    hmac_secret: String,
    #[serde(default)]
    trust_tier_required: Tier,
    #[serde(default)]
    idempotent: bool,
    input_schema: Option<Value>,
    sunset_at: Option<String>,
    successor: Option<String>,
    #[serde(default = "default_timeout", with = "humantime_serde")]
    timeout: Duration,
}

/// How a price is meant (S04 5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Model {
    /// Per call, whatever it does.
    Flat,
    /// Per call.
    #[default]
    PerCall,
    /// By what it turns out to cost; not with an exact payment.
    PerToken,
    /// As above.
    PerChunk,
    /// As above.
    PerSecond,
    /// As above.
    Tiered,
}

/// A way to pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Method {
    /// From a wallet.
    Stripe,
    /// With x402.
    X402,
}

/// R-004: what is not said to take x402 does not.
fn default_methods() -> Vec<Method> {
    vec![Method::Stripe]
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

    /// Whether everything can be paid. `has_upstream`: somewhere is a hub that takes wallets.
    ///
    /// # Errors
    /// [`CatalogueError`] with what nobody could buy.
    pub fn check_payable(&self, has_upstream: bool) -> Result<(), CatalogueError> {
        let unpayable = |sold: &&Capability| !has_upstream && !sold.methods.take_x402();
        match self.capabilities.iter().find(unpayable) {
            None => Ok(()),
            Some(capability) => Err(CatalogueError::Invalid {
                capability: capability.name(),
                problem: "takes only wallets, and there is no [upstream] that has them: give it \
                          payment_methods = [\"x402\"], or name an upstream"
                    .to_owned(),
            }),
        }
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
        let methods = methods(&self.payment_methods)?;
        // C-65: what a call costs must be known before it is made.
        if methods.take_x402() && !matches!(self.model, Model::Flat | Model::PerCall) {
            return Err("model must be \"flat\" or \"per_call\" where x402 is taken".to_owned());
        }
        let input_schema = self.input_schema.map(input_schema).transpose()?;
        let sunset = sunset(self.sunset_at.as_deref(), self.successor)?;
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
            methods,
            description: self.description,
            input_schema: input_schema.map(Arc::new),
            sunset,
            terms: SplitTerms { provider: self.provider, bps: self.split_bps },
            endpoint,
            trust_tier_required: self.trust_tier_required,
            idempotent: self.idempotent,
            timeout: self.timeout,
        })
    }
}

/// What stands in `payment_methods`: at least one, none twice (S06 7).
fn methods(listed: &[Method]) -> Result<PaymentMethods, String> {
    match listed {
        [Method::Stripe] => Ok(PaymentMethods::Stripe),
        [Method::X402] => Ok(PaymentMethods::X402),
        [Method::Stripe, Method::X402] | [Method::X402, Method::Stripe] => Ok(PaymentMethods::Both),
        _ => Err("payment_methods is one or both of \"stripe\" and \"x402\"".to_owned()),
    }
}

/// A schema as a table, or as the text of a JSON document.
fn input_schema(written: Value) -> Result<InputSchema, String> {
    let schema = match written {
        Value::String(text) => serde_json::from_str(&text)
            .map_err(|error| format!("input_schema is not JSON: {error}"))?,
        table => table,
    };
    InputSchema::compile(schema).map_err(|problem| format!("input_schema: {problem}"))
}

fn sunset(at: Option<&str>, successor: Option<String>) -> Result<Option<Sunset>, String> {
    let Some(at) = at else {
        return match successor {
            None => Ok(None),
            Some(_) => Err("successor needs sunset_at".to_owned()),
        };
    };
    let at = DateTime::parse_from_rfc3339(at)
        .map_err(|_| format!("sunset_at {at:?} is not a time such as \"2027-01-31T00:00:00Z\""))?
        .with_timezone(&Utc);
    let is_name = |name: &String| {
        name.split_once('/')
            .is_some_and(|(namespace, action)| is_word(namespace) && is_word(action))
    };
    if successor.as_ref().is_some_and(|name| !is_name(name)) {
        return Err("successor is the name of a capability, \"namespace/action\"".to_owned());
    }
    Ok(Some(Sunset { at, successor }))
}

/// `^[a-z][a-z0-9-]*$`, which also keeps ':' and '/' out of ids (H22).
pub(super) fn is_word(text: &str) -> bool {
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
        payment_methods = ["x402"]
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

    /// R-004, R-340: what a capability takes; nothing said means wallets.
    #[test]
    fn ways_to_pay() {
        for (written, words) in [
            ("", &["stripe"][..]),
            ("payment_methods = [\"stripe\"]", &["stripe"]),
            ("payment_methods = [\"x402\"]", &["x402"]),
            ("payment_methods = [\"x402\", \"stripe\"]", &["stripe", "x402"]),
        ] {
            let catalogue = load(&GOOD.replace("payment_methods = [\"x402\"]", written)).unwrap();
            assert_eq!(catalogue.all()[0].methods.words(), words, "{written}");
        }
    }

    #[test]
    fn what_may_be_said_of_a_capability() {
        let more = r#"
            input_schema = { type = "object", required = ["text"] }
            sunset_at = "2030-01-31T12:00:00+02:00"
            successor = "demo/echo-two"
            hmac_secret"#;
        let catalogue = load(&GOOD.replace("hmac_secret", more)).unwrap();
        let sold = &catalogue.all()[0];
        let schema = sold.input_schema.as_ref().unwrap();
        assert_eq!(schema.source()["required"][0], "text");
        let sunset = sold.sunset.as_ref().unwrap();
        let days = chrono::TimeDelta::days;
        assert_eq!(sunset.at.to_rfc3339(), "2030-01-31T10:00:00+00:00");
        assert_eq!(sunset.successor.as_deref(), Some("demo/echo-two"));
        assert!(!sunset.is_near(sunset.at - days(31)) && sunset.is_near(sunset.at - days(30)));
        assert!(sunset.is_over(sunset.at) && !sunset.is_over(sunset.at - days(1)));
        let json = "input_schema = '{\"type\": \"string\"}'\nhmac_secret";
        let catalogue = load(&GOOD.replace("hmac_secret", json)).unwrap();
        assert!(catalogue.all()[0].input_schema.is_some());
    }

    /// R-340, R-341.
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
            ("hmac_secret", "trust_tier_required = \"lead\"\nhmac_secret", "unknown variant"),
            ("hmac_secret", "timeout = \"1h\"\nhmac_secret", "between 1s and 5m"),
            ("[\"x402\"]", "[]", "one or both of"),
            ("[\"x402\"]", "[\"x402\", \"x402\"]", "one or both of"),
            ("[\"x402\"]", "[\"card\"]", "unknown variant"),
            (
                "payment_methods",
                "model = \"per_token\"\npayment_methods",
                "\"flat\" or \"per_call\"",
            ),
            ("hmac_secret", "sunset_at = \"soon\"\nhmac_secret", "is not a time such as"),
            ("hmac_secret", "successor = \"demo/other\"\nhmac_secret", "needs sunset_at"),
            (
                "hmac_secret",
                "sunset_at = \"2030-01-01T00:00:00Z\"\nsuccessor = \"other\"\nhmac_secret",
                "\"namespace/action\"",
            ),
            ("hmac_secret", "input_schema = \"{\"\nhmac_secret", "is not JSON"),
            ("hmac_secret", "input_schema = { type = \"thing\" }\nhmac_secret", "input_schema: "),
        ] {
            let error = load(&GOOD.replace(from, to)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let unpaid = load(&GOOD.replace("payment_methods", "#")).unwrap();
        unpaid.check_payable(true).unwrap();
        let error = unpaid.check_payable(false).unwrap_err().to_string();
        assert!(error.contains("takes only wallets"), "{error}");
        let twice = load(&[GOOD, GOOD].concat()).unwrap_err();
        assert!(twice.contains("listed twice"), "{twice}");
    }
}
