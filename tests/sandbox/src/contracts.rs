//! The contracts on a local chain, deployed with the project's own forge scripts.

use crate::{Anvil, Tools};
use alloy::{
    primitives::{Address, B256, Bytes, U256, address, b256},
    sol,
    sol_types::SolCall,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{ffi::OsStr, fs, path::Path, path::PathBuf};
use tokio::process::Command;

sol! {
    function initialize(string name, address admin);
    function mint(address to, uint256 amount);
}

/// Where USDC is on Base Sepolia; stock clients pay it with their defaults.
pub const USDC_BASE_SEPOLIA: Address = address!("0x036CbD53842c5426634e7929541eC2318f3dCF7e");

/// Where Multicall3 is on every chain that has it.
const MULTICALL3: Address = address!("0xcA11bde05977b3631167028862bE2a173976CA11");

/// `DOMAIN_SEPARATOR()` of that USDC.
const USDC_DOMAIN_SEPARATOR: B256 =
    b256!("0x71f17a3b2ff373b803d70a5a07c046c1a2bc8e89c09ef722fcb047abe94c9818");

/// Who is who at a Splitter.
#[derive(Debug, Clone, Copy)]
pub struct Roles {
    /// Receives the hub's share.
    pub hub_treasury: Address,
    /// Receives the reserve's share.
    pub network_reserve: Address,
    /// Usually submits registrations.
    pub relayer: Address,
    /// May replace the relayer.
    pub relayer_admin: Address,
    /// May record settlements: the keeper.
    pub authorized_settler: Address,
}

/// A capability's registration as its provider signed it; the file that script/Register.s.sol
/// reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registration {
    /// Chain of the Splitter.
    pub chain_id: u64,
    /// The Splitter.
    pub splitter: Address,
    /// keccak256 of "namespace:action".
    pub capability_id: B256,
    /// Who signed.
    pub provider: Address,
    /// Provider's share, basis points.
    pub provider_bps: u16,
    /// Hub's share, basis points.
    pub hub_bps: u16,
    /// Reserve's share, basis points.
    pub reserve_bps: u16,
    /// Registration nonce.
    pub nonce: B256,
    /// Last second at which the signature is accepted.
    pub deadline: u64,
    /// 65 bytes.
    pub signature: Bytes,
}

/// A deployed toolkit: USDC double and Splitter.
#[derive(Debug)]
pub struct Contracts {
    tools: Tools,
    folder: PathBuf,
    minter: Address,
    /// Signs for forge scripts, which count its account nonces themselves: nobody else may.
    deployer: Address,
    /// The token.
    pub usdc: Address,
    /// The Splitter.
    pub splitter: Address,
}

impl Contracts {
    /// Lays the USDC double at its canonical address and runs script/Deploy.s.sol. Everything
    /// written, the address book `84532.json` too, goes into `folder`, which must lie in
    /// `target/`.
    pub async fn deploy(
        tools: &Tools,
        anvil: &Anvil,
        folder: &Path,
        roles: &Roles,
    ) -> eyre::Result<Self> {
        fs::create_dir_all(folder)?;
        let [minter, deployer] = anvil.accounts().await?;
        let code = compiled(tools, "UsdcDouble").await?;
        anvil.set_code(USDC_BASE_SEPOLIA, &code).await?;
        let initialize = initializeCall { name: "USDC".to_owned(), admin: minter };
        anvil.send(minter, USDC_BASE_SEPOLIA, &initialize.abi_encode().into()).await?;
        anvil.set_code(MULTICALL3, &multicall3(tools, anvil).await?).await?;

        let config = folder.join("deploy.json");
        let json = json!({
            "version": "1.1.1",
            "chainId": 84_532,
            "usdc": USDC_BASE_SEPOLIA,
            "usdcDomainSeparator": USDC_DOMAIN_SEPARATOR,
            "hubTreasury": roles.hub_treasury,
            "networkReserve": roles.network_reserve,
            "relayer": roles.relayer,
            "relayerAdmin": roles.relayer_admin,
            "authorizedSettler": roles.authorized_settler,
            "perTxCap": 1_000_000_000,
            "allowEoaRoles": true,
            "facilitators": [],
        });
        fs::write(&config, serde_json::to_vec_pretty(&json)?)?;
        let mut contracts = Self {
            tools: tools.clone(),
            folder: folder.to_owned(),
            minter,
            deployer,
            usdc: USDC_BASE_SEPOLIA,
            splitter: Address::ZERO,
        };
        let environment = [
            ("DEPLOY_CONFIG", config.as_os_str()),
            ("DEPLOYMENTS_DIR", contracts.folder.as_os_str()),
        ];
        contracts.forge_script(anvil, "script/Deploy.s.sol", &environment).await?;
        let book: Value = serde_json::from_slice(&fs::read(contracts.address_book())?)?;
        contracts.splitter = serde_json::from_value(book["JecpSplitter"]["address"].clone())?;
        Ok(contracts)
    }

    /// The address book that the deploy script wrote.
    pub fn address_book(&self) -> PathBuf {
        self.folder.join("84532.json")
    }

    /// The configuration that the deploy script read.
    pub fn config(&self) -> PathBuf {
        self.folder.join("deploy.json")
    }

    /// Submits a signed registration with script/Register.s.sol.
    pub async fn register(&self, anvil: &Anvil, registration: &Registration) -> eyre::Result<()> {
        let file = self.folder.join(format!("registration-{}.json", registration.nonce));
        fs::write(&file, serde_json::to_vec_pretty(registration)?)?;
        let environment = [("REGISTRATION", file.as_os_str())];
        self.forge_script(anvil, "script/Register.s.sol", &environment).await
    }

    /// Mints micro-USDC.
    pub async fn mint(&self, anvil: &Anvil, to: Address, micro: u64) -> eyre::Result<()> {
        let mint = mintCall { to, amount: U256::from(micro) };
        anvil.send(self.minter, self.usdc, &mint.abi_encode().into()).await
    }

    /// Runs a forge script with broadcast, signed by anvil's second account.
    ///
    /// # Errors
    /// With everything that forge wrote when the script refuses.
    pub async fn forge_script(
        &self,
        anvil: &Anvil,
        script: &str,
        environment: &[(&str, &OsStr)],
    ) -> eyre::Result<()> {
        let mut command = Command::new(self.tools.foundry("forge")?);
        command
            .current_dir(self.tools.root())
            .args(["script", script, "--broadcast", "--unlocked", "--slow", "--rpc-url"])
            .arg(anvil.url())
            .args(["--sender", &self.deployer.to_string()])
            // Runs side by side must not write the same files.
            .env("FOUNDRY_BROADCAST", self.folder.join("broadcast"))
            .envs(environment.iter().copied());
        run(&mut command).await
    }
}

/// The runtime code of a double in contracts/test/doubles, to be laid where the chain has the real
/// contract.
pub async fn compiled(tools: &Tools, double: &str) -> eyre::Result<Bytes> {
    build(tools).await?;
    let artifact = tools.root().join(format!("out/{double}.sol/{double}.json"));
    let artifact: Value = serde_json::from_slice(&fs::read(&artifact)?)?;
    Ok(serde_json::from_value(artifact["deployedBytecode"]["object"].clone())?)
}

/// Compiles a double in contracts/test/doubles and deploys it from the first of anvil's accounts;
/// `arguments` are its constructor's.
pub async fn create(
    tools: &Tools,
    anvil: &Anvil,
    double: &str,
    arguments: &[u8],
) -> eyre::Result<Address> {
    build(tools).await?;
    let artifact = tools.root().join(format!("out/{double}.sol/{double}.json"));
    let artifact: Value = serde_json::from_slice(&fs::read(&artifact)?)?;
    let code: Bytes = serde_json::from_value(artifact["bytecode"]["object"].clone())?;
    let from = anvil.first_account().await?;
    let input = Bytes::from([&code[..], arguments].concat());
    let hash = anvil.rpc("eth_sendTransaction", json!([{"from": from, "input": input}])).await?;
    loop {
        let receipt = anvil.rpc("eth_getTransactionReceipt", json!([hash])).await?;
        if receipt["status"] == "0x1" {
            return Ok(serde_json::from_value(receipt["contractAddress"].clone())?);
        }
        eyre::ensure!(receipt.is_null(), "{double} was not deployed: {receipt}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// The code of Multicall3, as the npm package viem carries it: what deploys it answers with it.
async fn multicall3(tools: &Tools, anvil: &Anvil) -> eyre::Result<Bytes> {
    let file = tools.root().join("node_modules/viem/_cjs/constants/contracts.js");
    let text = fs::read_to_string(file)?;
    let code = text
        .split_once("exports.multicall3Bytecode = '")
        .and_then(|(_, rest)| rest.split_once('\''))
        .ok_or_else(|| eyre::eyre!("viem has no code of Multicall3"))?;
    let runtime = anvil.rpc("eth_call", json!([{"input": code.0}, "latest"])).await?;
    Ok(serde_json::from_value(runtime)?)
}

/// Compiles the contracts unless that is done. One process at a time: forge does not lock its
/// cache. Scripts that run afterwards find everything compiled and write nothing shared.
async fn build(tools: &Tools) -> eyre::Result<()> {
    let path = tools.root().join("target/forge.lock");
    let lock = tokio::task::spawn_blocking(move || {
        let file = fs::File::create(path)?;
        file.lock()?;
        Ok::<_, std::io::Error>(file)
    });
    let lock = lock.await??;
    let mut build = Command::new(tools.foundry("forge")?);
    run(build.current_dir(tools.root()).arg("build")).await?;
    drop(lock);
    Ok(())
}

/// Runs a command to its end; a failure carries what it wrote.
async fn run(command: &mut Command) -> eyre::Result<()> {
    let output = command.output().await?;
    if !output.status.success() {
        eyre::bail!(
            "{:?} failed:\n{}{}",
            command.as_std(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
