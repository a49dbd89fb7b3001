//! The forge scripts change nothing twice, and stop before they broadcast when something is wrong.

use crate::support::{chain, hub, keeper, tools};
use alloy::primitives::Address;
use keeper::{chain::BlockTag, splitter::SplitterVersion};
use sandbox::Registration;
use serde_json::Value;
use std::{ffi::OsStr, fs, path::Path};

/// Runs a script and returns what it said when it refused.
async fn refusal(script: &str, variable: &str, file: &Path) -> String {
    let stack = &hub().await.stack;
    let folder = stack.folder.join("refused");
    fs::create_dir_all(&folder).unwrap();
    let environment: [(&str, &OsStr); 2] =
        [(variable, file.as_os_str()), ("DEPLOYMENTS_DIR", folder.as_os_str())];
    let run = stack.contracts.forge_script(&stack.anvil, script, &environment);
    let error = run.await.expect_err("the script must refuse").to_string();
    assert!(!folder.join("84532.json").exists(), "an address book was written: {error}");
    error
}

#[tokio::test]
async fn deploying_again_changes_nothing() {
    let stack = &hub().await.stack;
    let folder = stack.folder.join("again");
    fs::create_dir_all(&folder).unwrap();
    let config = stack.contracts.config();
    let broadcast = folder.join("broadcast");
    let environment: [(&str, &OsStr); 3] = [
        ("DEPLOY_CONFIG", config.as_os_str()),
        ("DEPLOYMENTS_DIR", folder.as_os_str()),
        ("FOUNDRY_BROADCAST", broadcast.as_os_str()),
    ];
    let script = "script/Deploy.s.sol";
    let code_before = code(stack).await;
    stack.contracts.forge_script(&stack.anvil, script, &environment).await.unwrap();
    let first = fs::read_to_string(stack.contracts.address_book()).unwrap();
    let again = fs::read_to_string(folder.join("84532.json")).unwrap();
    // The second run has seen on the chain what the first only simulated.
    let checked = |yes: bool| format!("\"checkedOnChain\": {yes}");
    assert!(first.contains(&checked(false)), "{first}");
    assert_eq!(first.replace(&checked(false), &checked(true)), again);
    assert_eq!(code_before, code(stack).await);
    // What forge sends, it writes down.
    assert!(!broadcast.exists(), "the second run sent something");
}

/// Code at the Splitter.
async fn code(stack: &sandbox::Stack) -> Vec<u8> {
    chain(stack).code(stack.contracts.splitter).await.unwrap().to_vec()
}

/// A deployer whose key lies in KMS: `forge script --aws`.
#[tokio::test]
async fn a_key_in_kms_deploys() {
    let stack = &hub().await.stack;
    let (key, deployer) = stack.kms.create_key().unwrap();
    stack.anvil.set_balance(deployer, alloy::primitives::U256::from(10u64.pow(18))).await.unwrap();
    let folder = stack.folder.join("kms");
    fs::create_dir_all(&folder).unwrap();
    // Another cap, another address: the same terms are deployed already.
    let mut config: Value =
        serde_json::from_slice(&fs::read(stack.contracts.config()).unwrap()).unwrap();
    config["perTxCap"] = Value::from(77_000_000);
    let file = folder.join("deploy.json");
    fs::write(&file, config.to_string()).unwrap();
    let credentials = stack.kms.credentials().environment();
    let mut command = tokio::process::Command::new(tools().foundry("forge").unwrap());
    command
        .current_dir(tools().root())
        .args(["script", "script/Deploy.s.sol", "--broadcast", "--aws", "--slow", "--rpc-url"])
        .arg(stack.anvil.url())
        .args(["--sender", &deployer.to_string()])
        .env("DEPLOY_CONFIG", &file)
        .env("DEPLOYMENTS_DIR", &folder)
        .env("FOUNDRY_BROADCAST", folder.join("broadcast"))
        .env("AWS_KMS_KEY_ID", key)
        .env("AWS_ENDPOINT_URL", stack.kms.url())
        .envs(credentials);
    let output = command.output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let book: Value =
        serde_json::from_slice(&fs::read(folder.join("84532.json")).unwrap()).unwrap();
    let splitter = serde_json::from_value(book["JecpSplitter"]["address"].clone()).unwrap();
    assert!(folder.join("broadcast").exists(), "what forge sends, it writes down");
    let chain = chain(stack);
    assert!(!chain.code(splitter).await.unwrap().is_empty());
    assert_eq!(chain.transaction_count(deployer, BlockTag::Latest).await.unwrap(), 1);
}

/// Version 2 beside version 1: what lies on the chain is what abi/ says, and the daemon, which does
/// not drive it yet, says so.
#[tokio::test]
async fn version_2_deploys_and_is_recognised() {
    let stack = &hub().await.stack;
    let folder = stack.folder.join("version-2");
    fs::create_dir_all(&folder).unwrap();
    let mut config: Value =
        serde_json::from_slice(&fs::read(stack.contracts.config()).unwrap()).unwrap();
    for (key, value) in [("version", "2".into()), ("minHubBps", 1_000.into())] {
        config[key] = value;
    }
    config["minReserveBps"] = 500.into();
    let file = folder.join("deploy.json");
    fs::write(&file, config.to_string()).unwrap();
    let environment: [(&str, &OsStr); 2] =
        [("DEPLOY_CONFIG", file.as_os_str()), ("DEPLOYMENTS_DIR", folder.as_os_str())];
    let script = "script/Deploy.s.sol";
    stack.contracts.forge_script(&stack.anvil, script, &environment).await.unwrap();
    let book: Value =
        serde_json::from_slice(&fs::read(folder.join("84532.json")).unwrap()).unwrap();
    let splitter: Address =
        serde_json::from_value(book["JecpSplitterV2"]["address"].clone()).unwrap();
    let code = chain(stack).code(splitter).await.unwrap();
    assert_eq!(SplitterVersion::of_code(&code).unwrap(), Some(SplitterVersion::V2));
    let code = chain(stack).code(stack.contracts.splitter).await.unwrap();
    assert_eq!(SplitterVersion::of_code(&code).unwrap(), Some(SplitterVersion::V1));

    let database = format!("sqlite:{}", folder.join("keeper.db").display());
    let (v1, v2) = (stack.contracts.splitter.to_string(), splitter.to_string());
    let change = |config: String| config.replace(&v1, &v2);
    let mut daemon = stack.spawn(&keeper(), &database, &[], change).await.unwrap();
    assert_eq!(daemon.wait().await.unwrap(), 2, "{}", daemon.tail());
    assert!(daemon.tail().contains("does not drive yet"), "{}", daemon.tail());
}

#[tokio::test]
async fn a_wrong_deployment_names_the_line_to_change() {
    let stack = &hub().await.stack;
    let good: Value = serde_json::from_slice(&fs::read(stack.contracts.config()).unwrap()).unwrap();
    for (key, value, sentence) in [
        ("chainId", Value::from(8453), "chainId is not the chain behind --rpc-url"),
        ("usdc", good["hubTreasury"].clone(), "usdc has no code"),
        (
            "usdcDomainSeparator",
            Value::from(format!("0x{}", "11".repeat(32))),
            "usdcDomainSeparator is not the token's DOMAIN_SEPARATOR()",
        ),
        ("perTxCap", Value::from(0), "perTxCap is zero"),
        ("relayer", Value::from(format!("0x{}", "00".repeat(20))), "relayer is not set"),
        (
            "authorizedSettler",
            good["relayer"].clone(),
            "authorizedSettler is the same address as relayer",
        ),
        ("allowEoaRoles", Value::from(false), "hubTreasury is not a Safe"),
    ] {
        let mut config = good.clone();
        config[key] = value;
        let file = stack.folder.join(format!("wrong-{key}.json"));
        fs::write(&file, config.to_string()).unwrap();
        let error = refusal("script/Deploy.s.sol", "DEPLOY_CONFIG", &file).await;
        assert!(error.contains(sentence), "{key}: {error}");
    }
}

#[tokio::test]
async fn a_wrong_registration_is_not_sent() {
    let stack = &hub().await.stack;
    let other = alloy::primitives::keccak256("demo:other");
    type Change = fn(&mut Registration);
    let cases: [(&str, Change, &str); 3] = [
        ("chain", |r| r.chain_id = 8453, "chainId is not the chain behind --rpc-url"),
        ("deadline", |r| r.deadline = 1, "deadline has passed; have it signed again"),
        ("terms", |r| r.provider_bps = 1, "capabilityId is already registered with other terms"),
    ];
    for (name, change, sentence) in cases {
        let registration = stack
            .registration(|registration| {
                if name != "terms" {
                    registration.capability_id = other;
                }
                change(registration);
            })
            .unwrap();
        let file = stack.folder.join(format!("wrong-{name}.json"));
        fs::write(&file, serde_json::to_vec(&registration).unwrap()).unwrap();
        let error = refusal("script/Register.s.sol", "REGISTRATION", &file).await;
        assert!(error.contains(sentence), "{name}: {error}");
    }
    // The very same terms again are no error.
    stack.register().await.unwrap();
}
