//! The documents say what the program does.

use crate::support::tools;
use keeper::metrics::ALL;
use std::{collections::BTreeSet, fs, path::Path};

/// Every file under a folder.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// An operator who is woken by an alarm finds its words in the guide.
#[test]
fn every_alarm_is_explained() {
    let root = tools().root().to_owned();
    let guide = fs::read_to_string(root.join("docs/operators.md")).unwrap();
    let mut alarms = 0;
    for file in files(&root.join("keeper/src")) {
        let source = fs::read_to_string(&file).unwrap();
        for alarm in source.split("\"ALARM: ").skip(1) {
            let words = alarm.split(['"', '{', '\\', ';', ':']).next().unwrap().trim();
            alarms += 1;
            let first = words.split(", ").next().unwrap();
            assert!(guide.contains(first), "{}: {words:?} is not explained", file.display());
        }
    }
    assert!(alarms > 10, "no alarms were found: the search is wrong");
}

/// Whoever builds a dashboard finds every number, and no other.
#[test]
fn every_metric_is_in_the_list() {
    let list = fs::read_to_string(tools().root().join("docs/metrics.md")).unwrap();
    let written: BTreeSet<_> = list.lines().filter(|line| line.starts_with("| `")).collect();
    let rows = ALL.iter().map(|metric| {
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let (kind, labels) = (metric.kind.as_str(), labels.join(", "));
        format!("| `{}` | {kind} | {labels} | {} |", metric.name, metric.help)
    });
    let rows: BTreeSet<_> = rows.collect();
    assert_eq!(written, rows.iter().map(String::as_str).collect());
}

/// each rule that wakes somebody asks for a metric that there is.
#[test]
fn alerts_ask_for_metrics_that_there_are() {
    let rules = fs::read_to_string(tools().root().join("docs/examples/alerts.yml")).unwrap();
    let is_part = |it: char| it.is_ascii_alphanumeric() || it == '_';
    let mut found = BTreeSet::new();
    for word in rules.split(|it: char| !is_part(it)) {
        if word.starts_with("keeper_") || word.starts_with("x402_") {
            let name = word.trim_end_matches("_bucket");
            assert!(ALL.iter().any(|metric| metric.name == name), "there is no {name}");
            found.insert(name.to_owned());
        }
    }
    for name in [
        "x402_reconciler_attribution_drift_total",
        "x402_authorized_settler_check_total",
        "keeper_record_settlement_latency_seconds",
        "keeper_settlements",
    ] {
        assert!(found.contains(name), "{name} wakes nobody");
    }
}

/// The documents' links lead somewhere.
#[test]
fn links_lead_to_files() {
    let root = tools().root().to_owned();
    let mut documents = files(&root.join("docs"));
    documents.extend(["README.md", "CONTRIBUTING.md"].map(|name| root.join(name)));
    for document in documents.iter().filter(|path| path.extension().is_some_and(|e| e == "md")) {
        let text = fs::read_to_string(document).unwrap();
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let path = document.parent().unwrap().join(target);
            assert!(path.exists(), "{}: {target} leads nowhere", document.display());
        }
    }
}

/// The doc comment directly above a function.
fn comment(source: &str, function: &str) -> Option<String> {
    let (before, _) = source.split_once(function)?;
    let above = before.lines().rev().skip(1).map(str::trim);
    let above = above.take_while(|line| line.starts_with("///") || line.starts_with("#["));
    Some(above.filter(|line| line.starts_with("///")).collect::<Vec<_>>().join(" "))
}

/// Whether a number stands in a text, and not only one that begins like it.
fn cites(text: &str, number: &str) -> bool {
    text.split(|it: char| !it.is_ascii_alphanumeric() && it != '-').any(|word| word == number)
}

/// Every requirement of the ledger has a row, and each row a test that cites it or a reason why there
/// is none.
#[test]
fn every_requirement_has_its_test() {
    let root = tools().root().to_owned();
    let sources: Vec<_> = [root.join("tests/suite"), root.join("keeper/src")]
        .iter()
        .flat_map(|folder| files(folder))
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    let text = fs::read_to_string(root.join("docs/conformance.md")).unwrap();
    let mut seen = BTreeSet::new();
    for row in text.lines().filter(|line| line.starts_with("| R-")) {
        let [_, number, _, shown, _] = row.split('|').collect::<Vec<_>>()[..] else {
            panic!("not a row: {row}");
        };
        let number = number.trim();
        assert!(seen.insert(number.to_owned()), "{number} has two rows");
        let names: Vec<_> = shown.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty() || shown.contains("Not ours"), "{number} has no test");
        for name in names {
            let function = format!("fn {}()", name.rsplit("::").next().unwrap());
            let mut comments =
                sources.iter().filter_map(|source| comment(source, &function)).peekable();
            assert!(comments.peek().is_some(), "{number}: there is no {name}");
            assert!(comments.any(|text| cites(&text, number)), "{name} does not cite {number}");
        }
    }
    let asked = (1..=23).chain(30..=36).chain([38]).chain(40..=54).chain([56, 83, 101]);
    let asked = asked.chain(305..=307).chain(314..=317).chain([340, 341]);
    let asked = asked.chain([110, 111, 112, 113, 115]).chain(120..=129).chain(140..=155);
    let asked = asked.chain(225..=231).chain([245, 246, 248, 249, 250]).chain(275..=283);
    for number in asked {
        assert!(seen.contains(&format!("R-{number:03}")), "R-{number} has no row");
    }
}

/// Every accident has a test that shows that it cannot happen here, or says why it does not apply.
#[test]
fn every_accident_has_its_test() {
    let root = tools().root().to_owned();
    let sources = [root.join("tests/suite"), root.join("keeper/src")];
    let sources: String = sources
        .iter()
        .flat_map(|folder| files(folder))
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    let text = fs::read_to_string(root.join("docs/accidents.md")).unwrap();
    let mut number = 0;
    for row in text.lines().filter(|line| line.starts_with("| ") && !line.contains("| number")) {
        let [_, found, _, why, tests, _] = row.split('|').collect::<Vec<_>>()[..] else {
            panic!("not a row: {row}");
        };
        number += 1;
        assert_eq!(found.trim(), number.to_string());
        let names: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty() || why.contains("Does not apply"), "{number} has no test");
        for name in names {
            assert!(sources.contains(&format!("fn {name}()")), "{number}: there is no {name}");
        }
    }
    assert_eq!(number, 35);
}
