//! The checked-in artifacts are what the sources compile to.

use crate::support::tools;
use foundry_compilers::{
    ConfigurableArtifacts, ProjectBuilder, ProjectPathsConfig,
    artifacts::{
        BytecodeHash, EvmVersion, Remapping, Settings, SettingsMetadata,
        output_selection::OutputSelection,
    },
    solc::{Solc, SolcCompiler, SolcSettings},
};
use serde_json::{Value, json};
use std::{env, fs, process::Command};

/// Every contract whose artifact is checked in.
const CONTRACTS: [&str; 2] = ["JecpSplitter", "JecpSplitterV2"];

/// Compiles `contracts/src` with the settings of foundry.toml.
fn compile() -> Vec<(String, Value)> {
    let root = tools().root().to_owned();
    let scratch = tempfile::tempdir().unwrap();
    let paths = ProjectPathsConfig::builder()
        .root(&root)
        .sources(root.join("contracts/src"))
        .artifacts(scratch.path().join("out"))
        .cache(scratch.path().join("cache.json"))
        .remapping(Remapping {
            context: None,
            name: "@openzeppelin/".to_owned(),
            path: "node_modules/@openzeppelin/".to_owned(),
        })
        .build()
        .unwrap();
    let mut settings = Settings {
        evm_version: Some(EvmVersion::Prague),
        output_selection: OutputSelection::default_output_selection(),
        ..Settings::default()
    };
    settings.optimizer.enabled = Some(true);
    settings.optimizer.runs = Some(1_000_000);
    settings.metadata = Some(SettingsMetadata::new(BytecodeHash::None, false));
    let solc = Solc::new(root.join("tools/solc")).unwrap();
    let project = ProjectBuilder::<SolcCompiler>::new(ConfigurableArtifacts::default())
        .paths(paths)
        .settings(SolcSettings { settings, ..SolcSettings::default() })
        .ephemeral()
        .no_artifacts()
        .build(SolcCompiler::Specific(solc))
        .unwrap();
    let files = CONTRACTS.map(|name| root.join(format!("contracts/src/{name}.sol")));
    let output = project.compile_files(files).unwrap().succeeded();
    CONTRACTS
        .iter()
        .map(|name| {
            let contract = output.find_first(name).unwrap();
            let contract = serde_json::to_value(contract).unwrap();
            let artifact = json!({
                "contractName": name,
                "abi": contract["abi"],
                "bytecode": contract["bytecode"]["object"],
                "deployedBytecode": contract["deployedBytecode"]["object"],
                "immutableReferences": contract["deployedBytecode"]["immutableReferences"],
            });
            ((*name).to_owned(), artifact)
        })
        .collect()
}

/// UPDATE_ABI=1 rewrites them.
#[test]
fn artifacts_are_what_the_sources_compile_to() {
    for (name, artifact) in compile() {
        let path = tools().root().join(format!("abi/{name}.json"));
        if env::var_os("UPDATE_ABI").is_some() {
            fs::write(&path, serde_json::to_string_pretty(&artifact).unwrap() + "\n").unwrap();
        }
        let checked_in: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert!(
            checked_in == artifact,
            "{} has drifted from contracts/src: run UPDATE_ABI=1 make test and commit it",
            path.display()
        );
    }
}

/// The scripts deploy what forge compiles; both compilers must agree.
#[test]
fn forge_compiles_the_same() {
    let tools = tools();
    let scratch = tempfile::tempdir().unwrap();
    let output = Command::new(tools.foundry("forge").unwrap())
        .current_dir(tools.root())
        .args(["build", "contracts/src", "--out"])
        .arg(scratch.path().join("out"))
        .arg("--cache-path")
        .arg(scratch.path().join("cache"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in CONTRACTS {
        let path = scratch.path().join(format!("out/{name}.sol/{name}.json"));
        let forge: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let path = tools.root().join(format!("abi/{name}.json"));
        let checked_in: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        assert_eq!(forge["bytecode"]["object"], checked_in["bytecode"], "{name}");
        assert_eq!(forge["deployedBytecode"]["object"], checked_in["deployedBytecode"], "{name}");
    }
}
