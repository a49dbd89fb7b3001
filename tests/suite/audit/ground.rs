//! A ledger that a daemon has written, and what an attacker with every right over the database does.

use crate::support::{
    Draft, call, eventually, invoke, keeper, postgres, stack, tally, through, unique,
};
use sandbox::{Daemon, PRICE_MICRO, Stack, StackOptions};
use serde_json::Value;
use std::{fs, path::PathBuf};

/// Payments of every ledger here.
pub(super) const PAYMENTS: u64 = 3;
/// Both databases.
pub(super) const KINDS: [Kind; 2] = [Kind::Sqlite, Kind::Postgres];

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Sqlite,
    Postgres,
}

/// A hub whose daemon has settled and sealed some payments, and has stopped.
pub(super) struct Ground {
    pub(super) stack: Stack,
    pub(super) database: String,
    pub(super) config: PathBuf,
}

impl Ground {
    pub(super) async fn start(kind: Kind) -> Self {
        let stack = stack("audit", StackOptions::default()).await;
        let database = match kind {
            Kind::Sqlite => stack.sqlite(),
            Kind::Postgres => postgres().await,
        };
        let mut daemon = stack.daemon(&keeper(), &database).await.unwrap();
        for number in 0..PAYMENTS {
            let payer = stack.agent(PRICE_MICRO).await.unwrap();
            let draft = Draft::new(&payer, stack.contracts.splitter);
            let body = call(&format!("audit-{number}"));
            eventually("the call is served", || async {
                invoke(&daemon.url, &body, Some(&draft.header())).await.status == 200
            })
            .await;
        }
        through(&stack, &database, PAYMENTS).await;
        sealed(&database).await;
        daemon.signal("TERM").await.unwrap();
        assert_eq!(daemon.wait().await.unwrap(), 0, "{}", daemon.tail());
        Self { config: daemon.config.clone(), stack, database }
    }

    /// The daemon again.
    pub(super) async fn restart(&self) -> Daemon {
        self.stack.daemon(&keeper(), &self.database).await.unwrap()
    }
}

/// Waits until every event is under a seal.
pub(crate) async fn sealed(database: &str) {
    eventually("every event is sealed", || async {
        let loose = texts(
            database,
            "SELECT CAST(e.seq AS TEXT) FROM settlement_events e
             LEFT JOIN event_positions p ON p.seq = e.seq WHERE p.seq IS NULL",
        );
        loose.await.is_empty() && !tally(database, "event_seals", "root").await.is_empty()
    })
    .await;
}

/// A copy of a ledger that nobody has open.
pub(super) async fn copy(ground: &Ground, name: &str) -> String {
    if let Some(path) = ground.database.strip_prefix("sqlite:") {
        let to = ground.stack.folder.join(format!("{name}.db"));
        force(&ground.database, "PRAGMA wal_checkpoint(TRUNCATE)").await;
        fs::copy(path, &to).unwrap();
        return format!("sqlite:{}", to.display());
    }
    let (base, from) = ground.database.rsplit_once('/').unwrap();
    let to = unique("copy");
    let pool = sqlx::PgPool::connect(&format!("{base}/postgres")).await.unwrap();
    eventually("nobody has it open", || async {
        let sql = format!("CREATE DATABASE {to} TEMPLATE {from}");
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await.is_ok()
    })
    .await;
    format!("{base}/{to}")
}

/// Runs SQL as the owner of the database, who drops triggers and foreign keys first.
pub(super) async fn force(url: &str, sql: &str) {
    if url.starts_with("postgres") {
        let mut connection = connect_postgres(url).await;
        let sql = format!("SET session_replication_role = replica; {sql}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    } else {
        use sqlx::ConnectOptions;
        let options: sqlx::sqlite::SqliteConnectOptions = url.parse().unwrap();
        let mut connection = options.foreign_keys(false).connect().await.unwrap();
        let triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'";
        for name in texts(url, triggers).await {
            let sql = format!("DROP TRIGGER {name}");
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        }
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    }
}

async fn connect_postgres(url: &str) -> sqlx::PgConnection {
    use sqlx::ConnectOptions;
    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    options.options([("search_path", "jecp")]).connect().await.unwrap()
}

/// The first column of a query.
pub(super) async fn texts(url: &str, sql: &str) -> Vec<String> {
    use sqlx::ConnectOptions;
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    if url.starts_with("postgres") {
        let mut connection = connect_postgres(url).await;
        sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap()
    } else {
        let options: sqlx::sqlite::SqliteConnectOptions = url.parse().unwrap();
        let mut connection = options.connect().await.unwrap();
        sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap()
    }
}

/// What an audit said.
#[derive(Debug)]
pub(super) struct Audited {
    pub(super) code: i32,
    pub(super) report: Value,
    pub(super) stderr: String,
}

impl Audited {
    /// Every row that does not fit, with its check and what is wrong.
    pub(super) fn findings(&self) -> Vec<String> {
        let checks = self.report["checks"].as_array().unwrap().iter();
        checks
            .flat_map(|check| {
                let findings = check["findings"].as_array().unwrap().iter();
                findings.map(|finding| {
                    let text = |part: &str| finding[part].as_str().unwrap().to_owned();
                    let name = check["name"].as_str().unwrap();
                    format!("{name}: {}: {}", text("row"), text("problem"))
                })
            })
            .collect()
    }
}

/// Runs `keeper audit` over a database.
pub(super) async fn audit(ground: &Ground, database: &str, arguments: &[&str]) -> Audited {
    let output = tokio::process::Command::new(keeper())
        .args(["audit", "--json", "--config"])
        .arg(&ground.config)
        .args(arguments)
        .env("KEEPER_DATABASE", database)
        .output()
        .await
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Audited {
        code: output.status.code().unwrap(),
        report: serde_json::from_slice(&output.stdout).unwrap_or_default(),
        stderr,
    }
}
