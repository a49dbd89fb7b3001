//! The configuration file.

mod agents;
mod chain;
mod facilitator;
mod outbound;
mod outward;
mod refunds;

use agents::AuthKind;
pub(super) use chain::Chain;
use facilitator::Facilitator;
use outbound::Outbound;
pub(super) use outward::Webhook;
use outward::{Pools, Telemetry};
use refunds::Refunds;

use crate::{
    edge::{
        AdminToken, AgentPrefix, Caller, Callers, CallsPerMinute, Catalogue, Connections, Hub,
        KeySecret, UpstreamSettings, one_line,
    },
    lifecycle::Mode,
    outbound::Guard,
    signer::{KeySource, KmsKey},
    x402::Network,
};
use alloy::primitives::Address;
use figment::{
    Figment,
    providers::{Env, Format, Toml},
};
use serde::Deserialize;
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use url::Url;

/// A shorter lease would be lost to an ordinary pause of the process or the database.
const MIN_LEASE_TIME: Duration = Duration::from_secs(2);

/// A pull takes a block at least.
const MIN_SETTLE_TIMEOUT: Duration = Duration::from_secs(1);

/// Everything an operator decides. docs/operators.md explains each field; an unknown one is an
/// error.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    /// `postgres://…` or `sqlite:path`; `KEEPER_DATABASE` overrides it.
    pub(super) database: String,
    /// Permits plain http where agents' or providers' data travels. Never for real money.
    #[serde(default)]
    pub(super) test_mode: bool,
    /// Catalogue file, relative to this one.
    pub(super) catalogue: PathBuf,
    /// How long a dead daemon keeps another from taking over.
    #[serde(default = "default_lease_time", with = "humantime_serde")]
    pub(super) lease_time: Duration,
    /// Accounts with which facilitators pull; none of our keys may be among them.
    #[serde(default)]
    pub(super) facilitator_fleet: Vec<Address>,
    pub(super) http: Http,
    pub(super) chain: Vec<Chain>,
    pub(super) splitter: Vec<Splitter>,
    #[serde(default)]
    pub(super) refunds: Refunds,
    pub(super) upstream: Option<UpstreamSettings>,
    /// How the hub presents itself.
    #[serde(default)]
    pub(super) hub: Hub,
    /// Who may use the facilitator API.
    #[serde(default)]
    caller: Vec<Caller>,
    /// Who is told what happened.
    #[serde(default)]
    pub(super) webhook: Vec<Webhook>,
    #[serde(default)]
    pub(super) telemetry: Telemetry,
    #[serde(default)]
    pub(super) outbound: Outbound,
    #[serde(default)]
    pub(super) facilitator: Facilitator,
}

/// The edge.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Http {
    pub(super) listen: SocketAddr,
    /// How agents reach it from outside.
    pub(super) public_url: Url,
    /// Who an agent is.
    #[serde(default)]
    auth: AuthKind,
    /// Under which agents' keys are hashed.
    pub(super) agent_key_secret: Option<KeySecret>,
    /// Before the names of new agents.
    #[serde(default)]
    pub(super) agent_prefix: AgentPrefix,
    /// How often an agent may call, by tier.
    #[serde(default)]
    pub(super) calls_per_minute: CallsPerMinute,
    /// Opens what only the operator may see; `KEEPER_ADMIN_TOKEN` overrides it.
    pub(super) admin_token: Option<AdminToken>,
    /// How long a call waits for its pull before it is told to ask again.
    #[serde(default = "default_settle_timeout", with = "humantime_serde")]
    pub(super) settle_timeout: Duration,
    /// Seconds that a payer has between challenge and payment.
    #[serde(default = "default_max_timeout_seconds")]
    pub(super) max_timeout_seconds: u64,
    #[serde(default)]
    pub(super) pools: Pools,
    /// How much of its clients it bears with.
    #[serde(default)]
    pub(super) connections: Connections,
}

/// Whether a Splitter takes new payments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// It does.
    Active,
    /// It was replaced; what was paid to it is still recorded and split.
    Draining,
}

/// A Splitter.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Splitter {
    pub(super) chain: u64,
    pub(super) address: Address,
    pub(super) state: State,
    /// Who pulls.
    pub(super) mode: Mode,
    /// Block in which it was deployed, or any before.
    pub(super) first_block: u64,
    pub(super) settler: Key,
    /// In mode `external` it finishes what it began before.
    pub(super) puller: Option<Key>,
}

impl Splitter {
    /// Settler, and puller where there is one.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.settler).chain(&self.puller)
    }
}

/// A key.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "WrittenKey")]
pub(super) struct Key {
    /// Where it is.
    pub(super) source: KeySource,
    /// The address that it must have.
    pub(super) address: Address,
}

/// A key as the file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenKey {
    #[serde(default)]
    kind: KeyKind,
    address: Address,
    key_id: Option<String>,
    region: Option<String>,
    endpoint: Option<Url>,
    private_key_file: Option<PathBuf>,
}

/// Where keys may be.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KeyKind {
    /// In AWS KMS.
    #[default]
    Kms,
    /// In a file. For tests only.
    Local,
}

impl TryFrom<WrittenKey> for Key {
    type Error = &'static str;

    fn try_from(written: WrittenKey) -> Result<Self, Self::Error> {
        let WrittenKey { kind, address, key_id, region, endpoint, private_key_file } = written;
        // The name of a file is shown in errors; a key must not be.
        let is_key = |path: &PathBuf| {
            path.to_str().is_some_and(|text| {
                let digits = text.trim_start_matches("0x");
                digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
            })
        };
        if private_key_file.as_ref().is_some_and(is_key) {
            return Err("private_key_file is the name of a file, not the key itself");
        }
        let source = match (kind, key_id, private_key_file) {
            (KeyKind::Kms, Some(key_id), None) => {
                KeySource::Kms(KmsKey { key_id, region, endpoint })
            }
            (KeyKind::Local, None, Some(path)) if region.is_none() && endpoint.is_none() => {
                KeySource::Local(path)
            }
            (KeyKind::Kms, ..) => {
                return Err("a key of kind \"kms\" needs key_id, and has no private_key_file");
            }
            (KeyKind::Local, ..) => {
                return Err("a key of kind \"local\" has private_key_file and address only");
            }
        };
        Ok(Self { source, address })
    }
}

const fn default_lease_time() -> Duration {
    Duration::from_secs(15)
}

const fn default_settle_timeout() -> Duration {
    Duration::from_secs(20)
}

const fn default_max_timeout_seconds() -> u64 {
    60
}

impl Config {
    /// Reads and checks the file, and the catalogue that it names.
    pub(super) fn load(path: &Path) -> eyre::Result<(Self, Catalogue)> {
        eyre::ensure!(path.is_file(), "{} does not exist", path.display());
        let mut config: Self = Figment::from(Toml::file_exact(path))
            .merge(Env::prefixed("KEEPER_").only(&["database"]))
            .merge(
                Env::prefixed("KEEPER_").only(&["admin_token"]).map(|_| "http.admin_token".into()),
            )
            .extract()
            .map_err(|error| eyre::eyre!("{}: {}", path.display(), one_line(&error)))?;
        config.facilitator = config.facilitator.overridden();
        config.check().map_err(|problem| eyre::eyre!("{}: {problem}", path.display()))?;
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        config.facilitator.relative_to(folder);
        let keys = config.splitter.iter_mut();
        for key in keys.flat_map(|it| std::iter::once(&mut it.settler).chain(&mut it.puller)) {
            if let KeySource::Local(file) = &mut key.source {
                *file = folder.join(&file);
            }
        }
        let file = folder.join(&config.catalogue);
        eyre::ensure!(
            file.is_file(),
            "{}: catalogue {} does not exist",
            path.display(),
            file.display()
        );
        let catalogue = Catalogue::load(&file, &config.guard())
            .and_then(|catalogue| {
                catalogue.check_payable(config.upstream.is_some()).map(|()| catalogue)
            })
            .map_err(|error| eyre::eyre!("{}: {error}", file.display()))?;
        Ok((config, catalogue))
    }

    /// Takes the callers of the facilitator API.
    ///
    /// # Errors
    /// When they do not fit the catalogue, the Splitters or one another.
    pub(super) fn callers(&mut self, catalogue: &Catalogue) -> eyre::Result<Callers> {
        let splitters: Vec<_> = self.splitter.iter().map(|splitter| splitter.address).collect();
        if !self.caller.is_empty()
            && self.splitter.iter().any(|splitter| splitter.mode == Mode::External)
        {
            eyre::bail!(
                "[[caller]] needs mode = \"self\": with \"external\" nobody here settles for callers"
            );
        }
        let sold = |name: &str| catalogue.all().iter().any(|capability| capability.name() == name);
        Ok(Callers::new(std::mem::take(&mut self.caller), sold, &splitters)?)
    }

    /// Where spans are sent, if the file says so and can be read.
    pub(super) fn otlp_endpoint(path: &Path) -> Option<Url> {
        let file = path.is_file().then(|| Figment::from(Toml::file_exact(path)))?;
        file.extract_inner("telemetry.otlp_endpoint").ok()
    }

    fn check(&self) -> Result<(), String> {
        let http = &self.http;
        for splitter in &self.splitter {
            let local = splitter.keys().any(|key| matches!(key.source, KeySource::Local(_)));
            if local && (!self.test_mode || splitter.chain == Network::Base.chain_id()) {
                return Err(format!(
                    "splitter {}: a key of kind \"local\" is for test_mode = true, and never for \
                     chain 8453; keep the key in KMS",
                    splitter.address
                ));
            }
        }
        if http.public_url.scheme() != "https" && !self.test_mode {
            return Err(format!(
                "http.public_url {} must be https (http is for test_mode = true)",
                http.public_url
            ));
        }
        let real_money = self.chain.iter().any(|chain| chain.id == Network::Base.chain_id());
        if self.test_mode && real_money {
            return Err("test_mode = true is not for chain 8453, where money is real".to_owned());
        }
        if !self.test_mode && !real_money {
            return Err("Base Sepolia is sold on with test_mode = true only (S06 2.2)".to_owned());
        }
        http.check_agents()?;
        if http.settle_timeout < MIN_SETTLE_TIMEOUT {
            return Err("http.settle_timeout must be at least 1s".to_owned());
        }
        http.connections.check()?;
        self.hub.check()?;
        if self.lease_time < MIN_LEASE_TIME {
            return Err("lease_time must be at least 2s".to_owned());
        }
        if !(1..=600).contains(&http.max_timeout_seconds) {
            return Err("http.max_timeout_seconds must be between 1 and 600".to_owned());
        }
        let mut chains = BTreeSet::new();
        for chain in &self.chain {
            if !chains.insert(chain.id) {
                return Err(format!("chain {} is listed twice", chain.id));
            }
            chain.check(self.test_mode)?;
        }
        self.refunds.check()?;
        if let Some(upstream) = &self.upstream {
            upstream.check(&http.public_url, self.test_mode)?;
        }
        self.http.pools.check()?;
        self.telemetry.check()?;
        outward::check(&self.webhook, &self.guard())?;
        let mut splitters = BTreeSet::new();
        for splitter in &self.splitter {
            let name = format!("splitter {}", splitter.address);
            if !chains.contains(&splitter.chain) {
                return Err(format!("{name} is on chain {}, which is not listed", splitter.chain));
            }
            if !splitters.insert((splitter.chain, splitter.address)) {
                return Err(format!("{name} is listed twice"));
            }
            match (splitter.mode, &splitter.puller) {
                (Mode::SelfPull, None) => {
                    return Err(format!("{name}: mode = \"self\" needs a puller"));
                }
                (Mode::External, _) if splitter.state == State::Active => {
                    let settings = self.facilitator.settings(&self.guard(), self.test_mode);
                    settings.map_err(|problem| format!("{name}: {problem}"))?;
                }
                _ => {}
            }
            if splitter.puller.as_ref().is_some_and(|key| key.address == splitter.settler.address) {
                return Err(format!("{name}: settler and puller must be different keys"));
            }
            for key in splitter.keys().map(|key| key.address) {
                if self.facilitator_fleet.contains(&key) {
                    return Err(format!(
                        "{name}: {key} is in facilitator_fleet; whoever pulls for others must not \
                         hold a key of this hub"
                    ));
                }
            }
        }
        let active = self.splitter.iter().filter(|splitter| splitter.state == State::Active);
        match active.count() {
            1 => Ok(()),
            count => Err(format!("exactly one splitter must be active, but {count} are")),
        }
    }

    /// Which URLs of others may be called.
    pub(super) fn guard(&self) -> Guard {
        self.outbound.guard(self.test_mode)
    }

    /// The chain of a Splitter.
    pub(super) fn chain_of(&self, splitter: &Splitter) -> Option<&Chain> {
        self.chain.iter().find(|chain| chain.id == splitter.chain)
    }
}

#[cfg(test)]
mod tests;
