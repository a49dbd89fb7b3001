//! A ledger goes out as lines of JSON and comes back as it was.

use super::ground::{Ground, KINDS, Kind, force, texts};
use crate::support::{keeper, postgres, unique};
use keeper::ledger::{Ledger, Table};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

/// Runs `keeper export` over a database and reads what it wrote.
async fn export(ground: &Ground, database: &str, arguments: &[&str]) -> (PathBuf, String) {
    let file = ground.stack.folder.join(unique("export"));
    let output = tokio::process::Command::new(keeper())
        .args(["export", "--config"])
        .arg(&ground.config)
        .arg("--out")
        .arg(&file)
        .args(arguments)
        .env("KEEPER_DATABASE", database)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(&file).unwrap();
    (file, text)
}

async fn import(file: &Path, arguments: &[&str]) -> Output {
    tokio::process::Command::new(keeper())
        .arg("import")
        .args(arguments)
        .arg(file)
        .output()
        .await
        .unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Everything behind the first line, which says when it was.
fn rows(text: &str) -> &str {
    text.split_once('\n').unwrap().1
}

/// From either database into the other and back: the same bytes.
#[tokio::test]
async fn an_export_that_is_imported_is_exported_the_same() {
    for kind in KINDS {
        let ground = Ground::start(kind).await;
        let (file, first) = export(&ground, &ground.database, &["--with-signatures"]).await;
        let fresh = |name: &str| format!("sqlite:{}", ground.stack.folder.join(name).display());
        let there = match kind {
            Kind::Sqlite => postgres().await,
            Kind::Postgres => fresh("there.db"),
        };
        let output = import(&file, &["--into", &there]).await;
        assert!(output.status.success(), "{kind:?}: {}", errors(&output));
        let (file, second) = export(&ground, &there, &["--with-signatures"]).await;
        assert!(rows(&first) == rows(&second), "{kind:?}: the other database has the same rows");
        let back = match kind {
            Kind::Sqlite => fresh("back.db"),
            Kind::Postgres => postgres().await,
        };
        let output = import(&file, &["--into", &back]).await;
        assert!(output.status.success(), "{kind:?}: {}", errors(&output));
        let (_, third) = export(&ground, &back, &["--with-signatures"]).await;
        assert!(rows(&first) == rows(&third), "{kind:?}: and back");

        // What is imported is guarded as before, and goes on where it stood.
        let refused = crate::support::tamper(&back, "DELETE FROM settlement_events").await;
        assert!(refused.unwrap_err().to_string().contains("forbidden"), "{kind:?}");
        let again = import(&file, &["--into", &back]).await;
        assert_eq!(again.status.code(), Some(1));
        assert!(errors(&again).contains("is not empty"), "{}", errors(&again));
        let next =
            "INSERT INTO rereads (chain_id, splitter, from_block, to_block, reason, ordered_at)
            SELECT chain_id, address, 1, 2, 'a row with a number of its own', created_at
            FROM splitters";
        crate::support::tamper(&back, next).await.unwrap();
    }
}

/// `keeper import --verify` needs no database and no configuration, and finds every change.
#[tokio::test]
async fn an_export_that_was_changed_is_refused() {
    let ground = Ground::start(Kind::Sqlite).await;
    let (file, text) = export(&ground, &ground.database, &[]).await;
    let output = import(&file, &["--verify"]).await;
    assert!(output.status.success(), "{}", errors(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("events are sealed"));

    let changed = ground.stack.folder.join("changed.ndjson");
    let without = |line: &str| {
        text.lines().filter(|it| *it != line).map(|it| format!("{it}\n")).collect::<String>()
    };
    let line = |table: &str| {
        let start = format!("{{\"table\":\"{table}\"");
        text.lines().find(|line| line.starts_with(&start)).unwrap().to_owned()
    };
    for (what, changed_text, problem) in [
        ("a row", text.replacen("\"provider_bps\":8500", "\"provider_bps\":8499", 1), "changed"),
        ("a row left out", without(&line("event_seals")), "missing"),
        ("the last line", without(text.lines().last().unwrap()), "no last line"),
        ("another file", "{}\n".to_owned(), "line 1"),
        ("a line that is none", text.replacen("{\"table\"", "{\"tabel\"", 1), "line 2"),
        ("the release", text.replacen("export/1", "export/9", 1), "use the release"),
        ("something behind it", format!("{text}{{}}\n"), "follows its last line"),
    ] {
        assert_ne!(changed_text, text, "{what}");
        fs::write(&changed, changed_text).unwrap();
        let output = import(&changed, &["--verify"]).await;
        assert_eq!(output.status.code(), Some(1), "{what}");
        assert!(errors(&output).contains(problem), "{what}: {}", errors(&output));
    }

    // A ledger that was changed before it was exported: the audit finds it.
    force(
        &ground.database,
        "UPDATE x402_settlements SET agent_id = 'somebody else' WHERE id =
            (SELECT min(id) FROM x402_settlements)",
    )
    .await;
    let (file, _) = export(&ground, &ground.database, &[]).await;
    let output = import(&file, &["--verify"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("payments.terms: 1 broken"));
}

/// Payers' signatures leave only when the operator says so.
#[tokio::test]
async fn signatures_are_left_out_unless_asked_for() {
    let ground = Ground::start(Kind::Sqlite).await;
    let signatures =
        texts(&ground.database, "SELECT lower(hex(signature)) FROM x402_settlements").await;
    assert!(signatures.iter().all(|signature| signature.len() == 130), "{signatures:?}");
    let (_, text) = export(&ground, &ground.database, &[]).await;
    let (_, with) = export(&ground, &ground.database, &["--with-signatures"]).await;
    for signature in signatures {
        let cell = format!("\"signature\":\"0x{signature}\"");
        assert!(!text.contains(&cell));
        assert!(with.contains(&cell));
    }
    assert!(text.lines().next().unwrap().contains("\"signatures\":false"));
}

/// Both databases have the same tables, columns and keys, of the same kinds.
#[tokio::test]
async fn both_databases_have_one_schema() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite:{}", folder.path().join("keeper.db").display());
    let mut schemas = Vec::<Vec<Table>>::new();
    for url in [sqlite, postgres().await] {
        let ledger = Ledger::open(&url).await.unwrap();
        schemas.push(ledger.read().await.unwrap().tables().await.unwrap());
    }
    let [sqlite, postgres] = &schemas[..] else { panic!() };
    assert!(sqlite.len() > 25);
    for (one, other) in sqlite.iter().zip(postgres) {
        assert_eq!(one, other);
        assert!(!one.key().is_empty(), "{} has a primary key", one.name);
    }
    assert_eq!(sqlite.len(), postgres.len());
}
