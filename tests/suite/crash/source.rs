//! Nothing is committed or sent past the failpoints: the matrix would not know of it.

use crate::support::tools;
use keeper::failpoint::Point;
use std::{fs, path::Path};

/// Every file of keeper/src by its path in there.
fn sources() -> Vec<(String, String)> {
    fn walk(root: &Path, folder: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let root = tools().root().join("keeper/src");
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    assert!(found.len() > 50, "{}", found.len());
    found
}

/// What stands behind each occurrence of `call`, up to the end of its statement.
fn calls<'a>(text: &'a str, call: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(call).map(|(at, _)| {
        let rest = &text[at + call.len()..];
        rest.split(".await").next().unwrap()
    })
}

#[test]
fn every_commit_names_its_point() {
    let mut commits = 0;
    for (name, text) in sources() {
        // The model has commits of its own.
        if name.starts_with("lifecycle/histories/") {
            continue;
        }
        for argument in calls(&text, ".commit(") {
            let is_sqlx = argument == ")";
            assert_eq!(is_sqlx, name == "ledger/query.rs", "{name}: .commit({argument}");
            let named = argument.contains("Point::") || argument == "point(standing.state))";
            assert!(is_sqlx || named, "{name}: .commit({argument} has no point");
            commits += 1;
        }
        // What runs on a pool commits by itself. The schema is brought up to date before anything
        // else happens, under the migrator's lock.
        let in_tx = ["mut **tx", "mut **$tx"];
        let past_tx = calls(&text, ".execute(&")
            .any(|argument| !in_tx.iter().any(|start| argument.starts_with(start)));
        // A command of the program is executed, too.
        let may = name == "ledger/connect.rs" || name.starts_with("cli/");
        assert!(!past_tx || may, "{name}: a statement outside of Tx");
    }
    assert!(commits > 20, "{commits}");
}

#[test]
fn every_send_names_its_point() {
    let mut sends = 0;
    for (name, text) in sources() {
        let raw = text.contains("eth_sendRawTransaction") || text.contains("send_raw_transaction");
        assert!(!raw || name.starts_with("chain/"), "{name} sends past the chain room");
        if name.starts_with("chain/") {
            continue;
        }
        assert!(!text.contains(".send_raw"), "{name} sends past `Chain::broadcast`");
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        let is_send = |line: &str| line.contains("chain.broadcast(");
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| is_send(line)) {
            let around = (lines[at - 1], lines[at + 1]);
            let expected = ("Point::Send.before();", "Point::Send.after();");
            assert_eq!(around, expected, "{name}: {line}");
            sends += 1;
        }
    }
    assert_eq!(sends, 1, "one place from which bytes go to the nodes");
}

#[test]
fn every_point_is_somewhere() {
    let sources = sources();
    for point in Point::ALL {
        let word = format!("Point::{point:?}");
        let is_used = sources.iter().any(|(name, text)| {
            name != "failpoint.rs"
                && text.match_indices(&word).any(|(at, _)| {
                    !text[at + word.len()..].starts_with(|next: char| next.is_alphanumeric())
                })
        });
        assert!(is_used, "{word} is nowhere");
    }
}
