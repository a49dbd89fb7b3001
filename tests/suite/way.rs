//! The demo: one command settles real payments of stock clients, from the signed header to a
//! reconciled ledger.

use crate::support::{keeper, tools};
use serde_json::{Value, json};
use std::{fs, process::Command};

/// On both databases, one after the other: the demo has one folder.
#[test]
fn one_command_settles_sixteen_payments_and_reconciles() {
    for database in ["sqlite", "postgres"] {
        let tools = tools();
        let output = Command::new(keeper())
            .args(["demo", "--database", database])
            .current_dir(tools.root())
            .output()
            .unwrap();
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "{database}: {text}");
        let report: Value = serde_json::from_slice(
            &fs::read(tools.root().join("target/demo/report.json")).unwrap(),
        )
        .unwrap();
        let expected = json!({
            "payments_sent": 16,
            "answered_200": 16,
            "confirmed": 16,
            "recorded": 16,
            "split": 16,
            "amount_micro": 3_200_000,
            "provider_micro": 2_720_000,
            "hub_micro": 320_000,
            "reserve_micro": 160_000,
            "chain_drift_micro": 0,
            "ledger_drift_micro": 0,
            "clients": {"x402-fetch": 10, "@x402/fetch": 5, "keeper pay": 1},
        });
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&report[key], value, "{database}: {key}");
        }
        let count = |kind: &str| {
            let transactions = report["transactions"].as_array().unwrap();
            transactions.iter().filter(|transaction| transaction["kind"] == kind).count()
        };
        assert_eq!((count("pull"), count("record")), (16, 16), "{database}");
        assert!((1..=16).contains(&count("split")), "{database}: a split may cover several");
        assert!(report["duration_seconds"].is_u64());
        assert!(text.contains("chain_confirmed, split"), "{database}: the table is shown");
    }
}
