//! The forge scripts change nothing twice, and stop before they broadcast when something is wrong.

use crate::support::{chain, hub, now};
use keeper::chain::BlockTag;
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
    let sender = stack.anvil.first_account().await.unwrap();
    let folder = stack.folder.join("again");
    fs::create_dir_all(&folder).unwrap();
    let config = stack.contracts.config();
    let environment: [(&str, &OsStr); 2] =
        [("DEPLOY_CONFIG", config.as_os_str()), ("DEPLOYMENTS_DIR", folder.as_os_str())];
    let script = "script/Deploy.s.sol";
    stack.contracts.forge_script(&stack.anvil, script, &environment).await.unwrap();
    let first = fs::read_to_string(stack.contracts.address_book()).unwrap();
    let again = fs::read_to_string(folder.join("84532.json")).unwrap();
    assert_eq!(first, again);
    // Other tests send from this account too; none deploys.
    let nonce = chain(stack).transaction_count(sender, BlockTag::Latest).await.unwrap();
    let book: Value = serde_json::from_str(&again).unwrap();
    assert!(nonce > 0 && book["JecpSplitter"]["codeHash"].is_string());
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
    assert!(now() > 0);
}
