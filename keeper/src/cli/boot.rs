//! From a configuration to a daemon that may settle: everything that could be wrong is looked at
//! before the first key signs.
//!
//! What is wrong for good ends the program with one sentence. What does not answer is waited for.
//! A trust root that does not match starts no service.

use super::config::{self, Config};
use crate::{
    chain::{BlockTag, Chain, ChainError},
    edge::{Health, Site, TrustRoot},
    eip3009::{FiatToken, domain},
    facilitator::Facilitator,
    failpoint::Point,
    ledger::{Action, Ledger, LedgerError, SplitterRecord},
    lifecycle::{Mode, RefundPolicy},
    metrics::{SETTLER_CHECK_TOTAL, UNAUTHORIZED_SIMULATION_TOTAL},
    signer::{Guard, Policy, Signer, SignerError},
    splitter::{DOMAIN_NAME, JecpSplitter, PaymentIdentity, SplitterVersion, record_call},
    x402::{MicroUsdc, Network},
};
use alloy::primitives::{Address, B256, U256};
use serde_json::json;
use std::{future::Future, path::Path, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Between two attempts: doubling from here …
const FIRST_DELAY: Duration = Duration::from_millis(500);
/// … up to here.
const MAX_DELAY: Duration = Duration::from_secs(15);

/// Why the daemon cannot go on.
#[derive(Debug)]
pub(super) enum Obstacle {
    /// The operator must change something.
    Fatal(String),
    /// The settler's key is not the Splitter's.
    TrustRoot(String),
    /// It may work later.
    Wait(String),
}

impl From<ChainError> for Obstacle {
    fn from(error: ChainError) -> Self {
        Self::Wait(error.to_string())
    }
}

impl From<LedgerError> for Obstacle {
    fn from(error: LedgerError) -> Self {
        // On SQLite a second daemon stands by until the first is dead.
        if error.is_unavailable() || matches!(error, LedgerError::InUse(_)) {
            Self::Wait(error.to_string())
        } else {
            Self::Fatal(error.to_string())
        }
    }
}

/// A Splitter that was looked at and found good, with its keys.
#[derive(Debug, Clone)]
pub(super) struct Station {
    pub(super) settings: config::Splitter,
    pub(super) chain_settings: config::Chain,
    pub(super) network: Network,
    pub(super) chain: Chain,
    pub(super) record: SplitterRecord,
    pub(super) refunds: RefundPolicy,
}

/// A station's keys.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    pub(super) settler: Signer,
    pub(super) puller: Option<Signer>,
}

/// Repeats an attempt until it succeeds or cannot, telling `health` what it waits for. `None` when
/// the program is stopped meanwhile.
pub(super) async fn persist<T, F>(
    health: &Health,
    component: &str,
    stop: &CancellationToken,
    mut attempt: impl FnMut() -> F,
) -> Result<Option<T>, Obstacle>
where
    F: Future<Output = Result<T, Obstacle>>,
{
    let mut delay = FIRST_DELAY;
    loop {
        match attempt().await {
            Ok(found) => {
                health.found(component);
                return Ok(Some(found));
            }
            Err(Obstacle::Wait(reason)) => {
                tracing::warn!(component, reason, retry_in = ?delay, "not there yet");
                health.wait_for(component);
            }
            Err(obstacle) => return Err(obstacle),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(delay) => {}
        }
        delay = MAX_DELAY.min(delay.saturating_mul(2));
    }
}

/// Opens the ledger.
pub(super) async fn open_ledger(url: &str) -> Result<Ledger, Obstacle> {
    let path = url.strip_prefix("sqlite:").map(|path| path.trim_start_matches("//"));
    let folder = path.and_then(|path| Path::new(path.split('?').next()?).parent());
    if let Some(folder) = folder
        && !folder.as_os_str().is_empty()
        && !folder.is_dir()
    {
        return Err(Obstacle::Fatal(format!(
            "database: the folder {} does not exist; create it, or correct database",
            folder.display()
        )));
    }
    Ok(Ledger::open(url).await?)
}

/// Looks at a Splitter: right chain, right code, right token.
pub(super) async fn inspect(
    config: &Config,
    settings: &config::Splitter,
) -> Result<Station, Obstacle> {
    let fatal = |what: String| Err(Obstacle::Fatal(what));
    let address = settings.address;
    let (Some(chain_settings), Some(network)) =
        (config.chain_of(settings), Network::from_chain_id(settings.chain))
    else {
        return fatal(format!("splitter {address}: chain {} is unknown", settings.chain));
    };
    let chain = Chain::new(&chain_settings.rpc)?.with_hints(&chain_settings.hints())?;
    let chain_id = chain.chain_id().await?;
    if chain_id != settings.chain {
        return fatal(format!(
            "chain {}: its rpc endpoint serves chain {chain_id}; correct id or rpc",
            settings.chain
        ));
    }
    let code = chain.code(address).await?;
    if code.is_empty() {
        return fatal(format!(
            "splitter {address}: there is no contract on chain {chain_id}; correct address or chain"
        ));
    }
    let (name, version) =
        match chain.call(address, &JecpSplitter::eip712DomainCall {}, BlockTag::Latest).await {
            Ok(domain) => (domain.name, domain.version),
            Err(ChainError::Reverted { .. } | ChainError::Malformed { .. }) => {
                (String::new(), String::new())
            }
            Err(error) => return Err(error.into()),
        };
    if name == DOMAIN_NAME && version == SplitterVersion::V2.domain_version() {
        return fatal(format!(
            "splitter {address}: it is a JecpSplitterV2, which this release deploys but does not \
             drive yet; correct address"
        ));
    }
    let expected = SplitterVersion::V1;
    if name != DOMAIN_NAME || version != expected.domain_version() {
        return fatal(format!(
            "splitter {address}: the contract is no JecpSplitter {} (eip712Domain says {name:?} \
             {version:?}); correct address",
            expected.domain_version()
        ));
    }
    let found = SplitterVersion::of_code(&code)
        .map_err(|error| Obstacle::Fatal(format!("an artifact in abi/ cannot be read: {error}")))?;
    if found != Some(expected) {
        return fatal(format!(
            "splitter {address}: it says that it is JecpSplitter {version}, but its code is not the \
             one in abi/ of this release; correct address, or deploy with script/Deploy.s.sol"
        ));
    }
    let usdc = network.usdc();
    let asset = chain.call(address, &JecpSplitter::USDCCall {}, BlockTag::Latest).await?;
    if asset != usdc.address {
        return fatal(format!(
            "splitter {address}: its token is {asset}, not {network}'s USDC {}; this Splitter \
             cannot be used",
            usdc.address
        ));
    }
    let separator = chain.call(asset, &FiatToken::DOMAIN_SEPARATORCall {}, BlockTag::Latest).await;
    let expected = domain(&usdc, chain_id).separator();
    match separator {
        Ok(separator) if separator == expected => {}
        Err(error @ (ChainError::Unavailable { .. } | ChainError::Refused { .. })) => {
            return Err(error.into());
        }
        _ => {
            return fatal(format!(
                "token {asset}: its DOMAIN_SEPARATOR is not that of {:?} version {:?}, so no \
                 payer's signature would be valid; correct chain or rpc",
                usdc.name, usdc.version
            ));
        }
    }
    let per_tx_cap =
        chain.call(address, &JecpSplitter::PER_TX_CAPCall {}, BlockTag::Latest).await?;
    let record = SplitterRecord {
        chain_id,
        address,
        asset,
        hub_treasury: chain
            .call(address, &JecpSplitter::HUB_TREASURYCall {}, BlockTag::Latest)
            .await?,
        network_reserve: chain
            .call(address, &JecpSplitter::NETWORK_RESERVECall {}, BlockTag::Latest)
            .await?,
        authorized_settler: chain
            .call(address, &JecpSplitter::AUTHORIZED_SETTLERCall {}, BlockTag::Latest)
            .await?,
        // A cap above what the ledger can hold is no cap.
        per_tx_cap: MicroUsdc::try_from(per_tx_cap)
            .unwrap_or_else(|_| MicroUsdc::new(i64::MAX.unsigned_abs()).unwrap_or_default()),
        first_block: settings.first_block,
    };
    check_puller(&chain, settings, &record).await?;
    // Final counts decide what became of a transaction: a node must have the state of that block.
    chain.transaction_count(settings.settler.address, BlockTag::Finalized).await?;
    Ok(Station {
        settings: settings.clone(),
        chain_settings: chain_settings.clone(),
        network,
        chain,
        record,
        refunds: config.refunds.policy(),
    })
}

/// The puller must hold no role at the contract.
async fn check_puller(
    chain: &Chain,
    settings: &config::Splitter,
    record: &SplitterRecord,
) -> Result<(), Obstacle> {
    let Some(puller) = &settings.puller else { return Ok(()) };
    let latest = BlockTag::Latest;
    let relayer = chain.call(record.address, &JecpSplitter::relayerCall {}, latest).await?;
    let admin = chain.call(record.address, &JecpSplitter::RELAYER_ADMINCall {}, latest).await?;
    for (role, holder) in [
        ("AUTHORIZED_SETTLER", record.authorized_settler),
        ("relayer", relayer),
        ("RELAYER_ADMIN", admin),
        ("HUB_TREASURY", record.hub_treasury),
        ("NETWORK_RESERVE", record.network_reserve),
    ] {
        if puller.address == holder {
            return Err(Obstacle::Fatal(format!(
                "splitter {}: the puller {holder} is also the contract's {role}; give the puller a \
                 key of its own",
                record.address
            )));
        }
    }
    Ok(())
}

/// Fetches the keys, tells them what they may sign, and holds them against configuration and contract.
pub(super) async fn connect_keys(station: &Station) -> Result<Keys, Obstacle> {
    let Station { settings, record, chain_settings, .. } = station;
    let wait = |error: SignerError| {
        let reason = format!("splitter {}: {error}", record.address);
        if error.is_permanent() { Obstacle::Fatal(reason) } else { Obstacle::Wait(reason) }
    };
    let max_per_minute = chain_settings.signing.max_signatures_per_minute;
    let (chain_id, source) = (record.chain_id, &settings.settler.source);
    let guard = Guard { policy: Policy::settler(record.address), max_per_minute };
    let settler = Signer::connect(source, chain_id, guard).await.map_err(wait)?;
    for (what, expected) in [
        ("the Splitter's AUTHORIZED_SETTLER", record.authorized_settler),
        ("the configuration's settler.address", settings.settler.address),
    ] {
        if settler.address() != expected {
            SETTLER_CHECK_TOTAL.add(1, ["mismatch"]);
            return Err(Obstacle::TrustRoot(format!(
                "splitter {}: {source} is {}, but {what} is {expected}; nothing will be settled \
                 with a key that the contract does not obey",
                record.address,
                settler.address()
            )));
        }
    }
    SETTLER_CHECK_TOTAL.add(1, ["match"]);
    let Some(expected) = &settings.puller else { return Ok(Keys { settler, puller: None }) };
    let source = &expected.source;
    let guard = Guard {
        policy: Policy::puller(record.asset, &chain_settings.signature_factories),
        max_per_minute,
    };
    let puller = Signer::connect(source, chain_id, guard).await.map_err(wait)?;
    if puller.address() != expected.address {
        return Err(Obstacle::Fatal(format!(
            "splitter {}: {source} is {}, but puller.address is {}; correct one of them",
            record.address,
            puller.address(),
            expected.address
        )));
    }
    Ok(Keys { settler, puller: Some(puller) })
}

/// Sets up the client of who pulls in mode `external`; a URL that may not be called, or has no address,
/// ends the start.
pub(super) async fn connect_facilitator(
    config: &Config,
    settings: &config::Splitter,
) -> Result<Option<Arc<Facilitator>>, Obstacle> {
    if settings.mode != Mode::External {
        return Ok(None);
    }
    let name = |problem: String| {
        Obstacle::Fatal(format!("splitter {}: facilitator: {problem}", settings.address))
    };
    let guard = config.guard();
    let found = config.facilitator.settings(&guard, config.test_mode).map_err(name)?;
    if found.pins.is_empty() {
        tracing::warn!(
            facilitator = %found.url,
            "ITS TLS KEY IS NOT PINNED: whoever the certificate authorities vouch for may settle; \
             for tests only"
        );
    }
    if found.keys.is_empty() {
        tracing::warn!(
            facilitator = %found.url,
            "ITS ANSWERS ARE NOT SIGNED: what it says rests on its TLS key alone"
        );
    }
    let facilitator =
        Facilitator::new(found, guard).await.map_err(|error| name(error.to_string()))?;
    tracing::info!(facilitator = facilitator.url(), "an external facilitator pulls");
    Ok(Some(Arc::new(facilitator)))
}

/// Enters a Splitter into the ledger.
pub(super) async fn enter(ledger: &Ledger, station: &Station) -> Result<(), Obstacle> {
    let mut tx = ledger.begin().await?;
    tx.enter_splitter(&station.record).await?;
    tx.commit(Point::Enter).await?;
    Ok(())
}

/// Far more than a record takes.
const SIMULATION_GAS: u64 = 500_000;

/// Tries whether an account of a facilitator could record, without sending anything, and writes
/// down that the settler's key is the contract's.
pub(super) async fn verify(
    fleet: &[Address],
    ledger: &Ledger,
    station: &Station,
) -> Result<(), Obstacle> {
    let Station { record, chain, .. } = station;
    let identity = PaymentIdentity { payer: record.hub_treasury, nonce: B256::ZERO };
    let call = record_call(B256::ZERO, U256::from(1), identity);
    for account in fleet {
        match chain.simulate(*account, record.address, &call, SIMULATION_GAS).await {
            Err(ChainError::Reverted { .. }) => {
                UNAUTHORIZED_SIMULATION_TOTAL.add(1, ["refused"]);
            }
            Err(error) => return Err(error.into()),
            Ok(_) => {
                UNAUTHORIZED_SIMULATION_TOTAL.add(1, ["allowed"]);
                return Err(Obstacle::Fatal(format!(
                    "splitter {}: it lets {account} of facilitator_fleet record; this Splitter \
                     cannot be used",
                    record.address
                )));
            }
        }
    }
    let place = Some((record.chain_id, record.address));
    let settler = json!({"authorized_settler": record.authorized_settler});
    let mut tx = ledger.begin().await?;
    tx.log_action(Action::TrustRootVerified, place, None, &settler).await?;
    if !fleet.is_empty() {
        let detail = json!({"accounts": fleet, "result": "refused"});
        tx.log_action(Action::UnauthorizedSimulation, place, None, &detail).await?;
    }
    tx.commit(Point::Enter).await?;
    Ok(())
}

/// Looks for the first time whether payments are taken.
pub(super) async fn look_at_intake(site: &Site) -> Result<(), Obstacle> {
    Ok(site.refresh_intake().await?)
}

/// Marks the trust root.
pub(super) fn mark(health: &Health, obstacle: &Obstacle) {
    if matches!(obstacle, Obstacle::TrustRoot(_)) {
        health.set_trust_root(TrustRoot::Mismatch);
    }
}
