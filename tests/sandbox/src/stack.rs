//! A whole hub on one machine: chain, contracts, keys, a provider with one capability, and the
//! daemon's configuration.

use crate::{
    Anvil, AnvilOptions, Contracts, KmsDouble, Registration, Roles, SampleProvider, Tools,
    guard::{Guarded, Order},
};
use alloy::{
    primitives::{Address, B256, U256, keccak256},
    signers::{SignerSync, local::PrivateKeySigner},
    sol,
    sol_types::{SolStruct, eip712_domain},
};
use rand::{Rng, rngs::OsRng};
use std::{
    fmt, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{process::Command, time::Instant};

/// How long a daemon may take to get ready on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(150);
/// How often another port is tried when somebody else was faster.
const PORT_ATTEMPTS: u32 = 5;
/// Price of a call of demo/echo, micro-USDC.
pub const PRICE_MICRO: u64 = 200_000;
/// Ether for whoever sends transactions.
const GAS_MONEY: U256 = U256::from_limbs([1_000_000_000_000_000_000, 0, 0, 0]);

sol! {
    struct Register {
        bytes32 capabilityId;
        address provider;
        uint16 providerBps;
        uint16 hubBps;
        uint16 reserveBps;
        bytes32 nonce;
        uint256 deadline;
    }
}

/// What may differ between stacks.
#[derive(Debug, Clone)]
pub struct StackOptions {
    /// How the chain behaves.
    pub anvil: AnvilOptions,
    /// Confirmations before a payment is confirmed.
    pub confirmations: u64,
    /// At most this long between two rounds of the reconciler.
    pub reconcile_interval: &'static str,
    /// How long a call waits for its pull.
    pub settle_timeout: &'static str,
    /// Whether demo/echo may be repeated.
    pub idempotent: bool,
    /// Where the daemon's keys are.
    pub keys: KeyPlace,
}

/// Where the daemon's keys are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPlace {
    /// In the KMS double.
    Kms,
    /// In files of the stack's folder.
    Files,
}

impl Default for StackOptions {
    fn default() -> Self {
        Self {
            anvil: AnvilOptions::default(),
            confirmations: 2,
            reconcile_interval: "1s",
            settle_timeout: "20s",
            idempotent: true,
            keys: KeyPlace::Kms,
        }
    }
}

/// Everything around the daemon.
pub struct Stack {
    /// Where everything of this stack is written.
    pub folder: PathBuf,
    /// The chain.
    pub anvil: Anvil,
    /// The contracts.
    pub contracts: Contracts,
    /// The keys.
    pub kms: KmsDouble,
    /// The provider.
    pub provider: SampleProvider,
    /// Receives the provider's share.
    pub provider_account: Address,
    /// Who is who at the Splitter.
    pub roles: Roles,
    /// Key id, or file, and address of the settler.
    pub settler: (String, Address),
    /// Key id, or file, and address of the puller.
    pub puller: (String, Address),
    provider_key: PrivateKeySigner,
    options: StackOptions,
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// A running daemon. It ends with this value.
#[derive(Debug)]
pub struct Daemon {
    /// Where agents reach it.
    pub url: String,
    /// Its configuration.
    pub config: PathBuf,
    /// Its log.
    pub log: PathBuf,
    pid: PathBuf,
    process: Guarded,
}

impl Stack {
    /// The chain, with USDC and a Splitter whose settler is a fresh KMS key. `folder` must lie in
    /// the checkout's `target/`: forge may write nowhere else.
    pub async fn start(tools: &Tools, folder: &Path, options: StackOptions) -> eyre::Result<Self> {
        fs::create_dir_all(folder)?;
        let anvil = Anvil::start(tools, &options.anvil).await?;
        let kms = KmsDouble::start().await?;
        let create = |name: &str| match options.keys {
            KeyPlace::Kms => kms.create_key(),
            KeyPlace::Files => {
                let key = PrivateKeySigner::random();
                fs::write(folder.join(name), key.to_bytes().to_string())?;
                Ok((name.to_owned(), key.address()))
            }
        };
        let settler = create("settler.key")?;
        let puller = create("puller.key")?;
        for account in [settler.1, puller.1] {
            anvil.set_balance(account, GAS_MONEY).await?;
        }
        let provider_key = PrivateKeySigner::random();
        let roles = Roles {
            hub_treasury: PrivateKeySigner::random().address(),
            network_reserve: PrivateKeySigner::random().address(),
            relayer: PrivateKeySigner::random().address(),
            relayer_admin: PrivateKeySigner::random().address(),
            authorized_settler: settler.1,
        };
        let contracts = Contracts::deploy(tools, &anvil, folder, &roles).await?;
        let provider = SampleProvider::start().await?;
        Ok(Self {
            folder: folder.to_owned(),
            anvil,
            contracts,
            kms,
            provider,
            provider_account: provider_key.address(),
            roles,
            settler,
            puller,
            provider_key,
            options,
        })
    }

    /// Registers demo/echo, signed by its provider, 85/10/5.
    pub async fn register(&self) -> eyre::Result<()> {
        let registration = self.registration(|_| {})?;
        self.contracts.register(&self.anvil, &registration).await
    }

    /// The registration of demo/echo, changed before its provider signs it.
    pub fn registration(&self, change: impl Fn(&mut Registration)) -> eyre::Result<Registration> {
        let deadline = u64::try_from(chrono::Utc::now().timestamp())?.saturating_add(3_600);
        let mut registration = Registration {
            chain_id: 84_532,
            splitter: self.contracts.splitter,
            capability_id: keccak256("demo:echo"),
            provider: self.provider_account,
            provider_bps: 8_500,
            hub_bps: 1_000,
            reserve_bps: 500,
            nonce: B256::new(OsRng.r#gen()),
            deadline,
            signature: Default::default(),
        };
        change(&mut registration);
        let domain = eip712_domain! {
            name: "JecpSplitter",
            version: "1.1.1",
            chain_id: 84_532,
            verifying_contract: self.contracts.splitter,
        };
        let hash = Register {
            capabilityId: registration.capability_id,
            provider: registration.provider,
            providerBps: registration.provider_bps,
            hubBps: registration.hub_bps,
            reserveBps: registration.reserve_bps,
            nonce: registration.nonce,
            deadline: U256::from(registration.deadline),
        }
        .eip712_signing_hash(&domain);
        registration.signature = self.provider_key.sign_hash_sync(&hash)?.as_bytes().into();
        Ok(registration)
    }

    /// An agent with that much micro-USDC.
    pub async fn agent(&self, micro: u64) -> eyre::Result<PrivateKeySigner> {
        let agent = PrivateKeySigner::random();
        self.contracts.mint(&self.anvil, agent.address(), micro).await?;
        Ok(agent)
    }

    /// The daemon's configuration, before anything is changed in it.
    pub fn config(&self, database: &str, listen: u16) -> String {
        format!(
            r#"database = "{database}"
test_mode = true
catalogue = "catalogue.toml"
lease_time = "3s"

[http]
listen = "127.0.0.1:{listen}"
public_url = "http://127.0.0.1:{listen}"
auth = "payer"
settle_timeout = "{settle_timeout}"
# A test pays as often as it likes.
calls_per_minute = {{ bronze = 1000000 }}

[[chain]]
id = 84532
rpc = ["{rpc}"]
poll_interval = "200ms"
max_silence = "365d"
max_clock_skew = "365d"
confirmations = {confirmations}
reconcile_interval = "{reconcile_interval}"

[[splitter]]
chain = 84532
address = "{splitter}"
state = "active"
mode = "self"
first_block = 0

[splitter.settler]
{settler}
[splitter.puller]
{puller}"#,
            settle_timeout = self.options.settle_timeout,
            rpc = self.anvil.url(),
            confirmations = self.options.confirmations,
            reconcile_interval = self.options.reconcile_interval,
            splitter = self.contracts.splitter,
            settler = self.key_config(&self.settler),
            puller = self.key_config(&self.puller),
        )
    }

    /// How the configuration names a key.
    fn key_config(&self, (reference, address): &(String, Address)) -> String {
        let place = match self.options.keys {
            KeyPlace::Kms => format!("key_id = \"{reference}\"\nendpoint = \"{}\"", self.kms.url()),
            KeyPlace::Files => format!("kind = \"local\"\nprivate_key_file = \"{reference}\""),
        };
        format!("{place}\naddress = \"{address}\"\n")
    }

    /// What is sold: demo/echo for $0.20.
    pub fn catalogue(&self) -> String {
        format!(
            r#"[[capability]]
namespace = "demo"
action = "echo"
price = "$0.20"
payment_methods = ["x402"]
description = "Answers with what it was sent"
provider = "{provider}"
endpoint = "{endpoint}"
hmac_secret = "{secret}"
idempotent = {idempotent}
timeout = "5s"
"#,
            provider = self.provider_account,
            endpoint = self.provider.url(),
            secret = self.provider.secret(),
            idempotent = self.options.idempotent,
        )
    }

    /// URL of a SQLite database in this stack's folder.
    pub fn sqlite(&self) -> String {
        format!("sqlite:{}", self.folder.join("keeper.db").display())
    }

    /// Starts `keeper run` and waits until it is ready.
    pub async fn daemon(&self, keeper: &Path, database: &str) -> eyre::Result<Daemon> {
        let mut daemon = self.spawn(keeper, database, &[], |config| config).await?;
        daemon.ready().await?;
        Ok(daemon)
    }

    /// Starts `keeper run` with more arguments and a changed configuration, and waits until it
    /// listens or has ended.
    pub async fn spawn(
        &self,
        keeper: &Path,
        database: &str,
        arguments: &[&str],
        change: impl Fn(String) -> String,
    ) -> eyre::Result<Daemon> {
        self.launch(keeper, database, arguments, None, change).await
    }

    /// Starts `keeper run` so that it ends or pauses itself at a failpoint, such as
    /// `before:plan:1:kill`.
    pub async fn spawn_armed(
        &self,
        keeper: &Path,
        database: &str,
        failpoint: &str,
        change: impl Fn(String) -> String,
    ) -> eyre::Result<Daemon> {
        self.launch(keeper, database, &[], Some(failpoint), change).await
    }

    async fn launch(
        &self,
        keeper: &Path,
        database: &str,
        arguments: &[&str],
        failpoint: Option<&str>,
        change: impl Fn(String) -> String,
    ) -> eyre::Result<Daemon> {
        fs::write(self.folder.join("catalogue.toml"), self.catalogue())?;
        for _ in 0..PORT_ATTEMPTS {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let config = self.folder.join(format!("keeper-{port}.toml"));
            fs::write(&config, change(self.config(database, port)))?;
            let log = self.folder.join(format!("keeper-{port}.log"));
            let pid = self.folder.join(format!("keeper-{port}.pid"));
            let mut order = Order::new(keeper, ["run", "--config"]);
            order.arguments.push(config.clone().into());
            order.arguments.extend(arguments.iter().map(Into::into));
            let credentials = self.kms.credentials().environment();
            order.environment = credentials.map(|(name, value)| (name, value.into())).to_vec();
            let armed = failpoint.map(|failpoint| ("KEEPER_FAILPOINT", failpoint.into()));
            order.environment.extend(armed);
            order.pid = Some(&pid);
            order.log = Some(fs::File::create(&log)?);
            let process = Guarded::spawn(order)?;
            let url = format!("http://127.0.0.1:{port}");
            let mut daemon = Daemon { url, config, log, pid, process };
            if !daemon.lost_its_port().await? {
                return Ok(daemon);
            }
        }
        eyre::bail!("no free port in {PORT_ATTEMPTS} attempts")
    }
}

impl Daemon {
    /// True when somebody else took the port in between.
    async fn lost_its_port(&mut self) -> eyre::Result<bool> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            if reqwest::get(format!("{}/livez", self.url)).await.is_ok() {
                return Ok(false);
            }
            if self.process.try_wait()?.is_some() {
                return Ok(fs::read_to_string(&self.log)?.contains("Address already in use"));
            }
            eyre::ensure!(Instant::now() < deadline, "the daemon does not listen: {}", self.tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until `/readyz` says yes.
    pub async fn ready(&mut self) -> eyre::Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            if let Ok(answer) = reqwest::get(format!("{}/readyz", self.url)).await
                && answer.status().is_success()
            {
                return Ok(());
            }
            if let Some(code) = self.process.try_wait()? {
                eyre::bail!("the daemon ended with exit code {code}: {}", self.tail());
            }
            eyre::ensure!(Instant::now() < deadline, "the daemon is not ready: {}", self.tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Its process id.
    pub fn id(&self) -> eyre::Result<u32> {
        Ok(fs::read_to_string(&self.pid)?.trim().parse()?)
    }

    /// Sends it a signal: "KILL" ends it as a crash does, "TERM" asks it to stop, "STOP" and "CONT"
    /// pause and wake it.
    pub async fn signal(&self, name: &str) -> eyre::Result<()> {
        let id = self.id()?.to_string();
        // The shell's own kill: the program is in a package that small systems lack.
        let script = "kill -s \"$1\" \"$2\"";
        let status = Command::new("sh").args(["-c", script, "sh", name, &id]).status().await?;
        eyre::ensure!(status.success(), "no such process: {id}");
        Ok(())
    }

    /// Waits for its end and tells its exit code; 128 and the signal's number if a signal ended it.
    pub async fn wait(&mut self) -> eyre::Result<i32> {
        tokio::time::timeout(READY_LIMIT, self.process.wait()).await?
    }

    /// Everything it has logged.
    pub fn logged(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines of its log.
    pub fn tail(&self) -> String {
        let log = self.logged();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}
