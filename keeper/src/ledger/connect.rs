//! Opening the ledger.

use super::{LedgerError, Listener, Result, Topic, Tx, lock::LockFile, signal::Signals};
use sqlx::{
    Connection, PgPool, Row, SqlitePool,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{str::FromStr, sync::Arc, time::Duration};

/// Schema of every table on PostgreSQL.
const SCHEMA: &str = "jecp";
/// How long a caller waits for a connection before the database counts as unavailable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a writer waits for another on SQLite.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that was not used for so long is asked first whether it is alive.
const MAX_IDLE: Duration = Duration::from_secs(1);
/// Connections per process.
const MAX_CONNECTIONS: u32 = 16;

static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");
static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");

/// What was applied to a database.
const APPLIED: &str = "SELECT version, checksum, success FROM _sqlx_migrations";

#[derive(sqlx::FromRow)]
struct Applied {
    version: i64,
    checksum: Vec<u8>,
    success: bool,
}

/// Whether a schema is exactly this release's.
///
/// # Errors
/// When it is that of a newer one.
fn is_up_to_date(migrator: &Migrator, applied: &[Applied]) -> Result<bool> {
    let ours = migrator.iter().map(|migration| migration.version).max().unwrap_or(0);
    let found = applied.iter().map(|applied| applied.version).max().unwrap_or(0);
    if found > ours {
        return Err(LedgerError::NewerSchema { found, ours });
    }
    Ok(migrator.iter().all(|migration| {
        applied.iter().any(|applied| {
            applied.success
                && applied.version == migration.version
                && applied.checksum == *migration.checksum
        })
    }))
}

/// Brings the schema up to date; only the owner of the tables can.
async fn migrate_postgres(pool: &PgPool) -> Result<()> {
    // Two daemons may start at once; the migrator locks, CREATE SCHEMA does not.
    let created = sqlx::query("CREATE SCHEMA IF NOT EXISTS jecp").execute(pool).await;
    if let Err(error) = created
        && !error.as_database_error().is_some_and(|error| error.is_unique_violation())
    {
        return Err(error.into());
    }
    Ok(POSTGRES.run(pool).await?)
}

/// insufficient_privilege
fn is_forbidden(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).as_deref() == Some("42501")
}

/// The open ledger. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    pool: Pool,
    signals: Signals,
}

#[derive(Debug, Clone)]
enum Pool {
    Postgres(PgPool),
    Sqlite {
        /// One connection: SQLite has one writer at a time anyway.
        writer: SqlitePool,
        readers: SqlitePool,
        /// Held as long as the ledger is open: one daemon per file.
        lock: Option<Arc<LockFile>>,
    },
}

impl Ledger {
    /// Opens the ledger at `postgres://…` or `sqlite:path` for a daemon and brings its schema up to
    /// date.
    ///
    /// # Errors
    /// When the database cannot be reached, belongs to another daemon (SQLite), is not durable, or
    /// carries a schema of a newer release.
    pub async fn open(url: &str) -> Result<Self> {
        Self::connect(url, true).await
    }

    /// Opens the ledger beside a running daemon, to read it.
    ///
    /// # Errors
    /// As [`Ledger::open`]; nothing is migrated.
    pub async fn open_beside(url: &str) -> Result<Self> {
        Self::connect(url, false).await
    }

    async fn connect(url: &str, as_daemon: bool) -> Result<Self> {
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => Self::connect_postgres(url, as_daemon).await,
            Some("sqlite") => Self::connect_sqlite(url, as_daemon).await,
            _ => Err(LedgerError::Url("must begin with \"postgres://\" or \"sqlite:\"".to_owned())),
        }
    }

    async fn connect_postgres(url: &str, as_daemon: bool) -> Result<Self> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|error| LedgerError::Url(error.to_string()))?
            .options([
                ("search_path", SCHEMA),
                // A paused process must not hold a lock for long.
                ("idle_in_transaction_session_timeout", "3s"),
                // A plan that is made while a table is small stays while it grows. At four times the
                // price of a page in order, the default, a table of a few pages is read from end to
                // end, and goes on being so.
                ("random_page_cost", "1.1"),
            ]);
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // What was used a moment ago is not asked whether it is alive.
            .test_before_acquire(false)
            .before_acquire(|connection, seen| {
                Box::pin(async move {
                    if seen.idle_for > MAX_IDLE {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_with(options)
            .await?;
        let durable: String =
            sqlx::query("SHOW synchronous_commit").fetch_one(&pool).await?.try_get(0)?;
        if durable == "off" {
            return Err(LedgerError::NotDurable("synchronous_commit is off".to_owned()));
        }
        if as_daemon {
            const FOUND: &str = "SELECT to_regclass('jecp._sqlx_migrations') IS NOT NULL";
            let exists: bool = sqlx::query(FOUND).fetch_one(&pool).await?.try_get(0)?;
            let applied = match exists {
                true => sqlx::query_as(APPLIED).fetch_all(&pool).await?,
                false => Vec::new(),
            };
            // The daemon's role need not own the tables.
            if !is_up_to_date(&POSTGRES, &applied)? {
                migrate_postgres(&pool).await.map_err(|error| match error {
                    LedgerError::Database(error) if is_forbidden(&error) => {
                        LedgerError::MayNotMigrate(error)
                    }
                    LedgerError::Migration(
                        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _),
                    ) if is_forbidden(&error) => LedgerError::MayNotMigrate(error),
                    error => error,
                })?;
            }
        }
        let ledger = Self { pool: Pool::Postgres(pool), signals: Signals::new() };
        if as_daemon {
            ledger.begin().await?.history().await?;
        }
        Ok(ledger)
    }

    async fn connect_sqlite(url: &str, as_daemon: bool) -> Result<Self> {
        let options = SqliteConnectOptions::from_str(url)
            .map_err(|error| LedgerError::Url(error.to_string()))?
            .create_if_missing(as_daemon)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            // Else REPLACE walks past the triggers that forbid DELETE.
            .pragma("recursive_triggers", "ON");
        let lock = match as_daemon {
            true => Some(Arc::new(LockFile::take(options.get_filename())?)),
            false => None,
        };
        let pool = SqlitePoolOptions::new().acquire_timeout(ACQUIRE_TIMEOUT);
        let writer = pool.clone().max_connections(1).connect_with(options.clone()).await?;
        if as_daemon {
            const FOUND: &str =
                "SELECT count(*) FROM sqlite_master WHERE name = '_sqlx_migrations'";
            let exists: i64 = sqlx::query(FOUND).fetch_one(&writer).await?.try_get(0)?;
            let applied = match exists {
                0 => Vec::new(),
                _ => sqlx::query_as(APPLIED).fetch_all(&writer).await?,
            };
            if !is_up_to_date(&SQLITE, &applied)? {
                SQLITE.run(&writer).await?;
            }
        }
        let readers =
            pool.max_connections(MAX_CONNECTIONS).connect_with(options.read_only(true)).await?;
        let durable: i64 =
            sqlx::query("PRAGMA synchronous").fetch_one(&writer).await?.try_get(0)?;
        if durable < 2 {
            return Err(LedgerError::NotDurable("SQLite's synchronous is below FULL".to_owned()));
        }
        let pool = Pool::Sqlite { writer, readers, lock };
        Ok(Self { pool, signals: Signals::new() })
    }

    /// The lock beside a SQLite file; PostgreSQL has none.
    pub(super) fn lock_file(&self) -> Option<&LockFile> {
        match &self.pool {
            Pool::Postgres(_) => None,
            Pool::Sqlite { lock, .. } => lock.as_deref(),
        }
    }

    /// Tells whoever listens that something changed. Call it after the commit.
    pub fn signal(&self, topic: Topic) {
        self.signals.send(topic);
    }

    /// Listens for changes from now on.
    pub fn listen(&self, topic: Topic) -> Listener {
        self.signals.listen(topic)
    }

    /// Begins to write: each statement sees the latest commit. On SQLite writers queue here.
    pub async fn begin(&self) -> Result<Tx> {
        self.begin_as("BEGIN ISOLATION LEVEL READ COMMITTED").await
    }

    /// Begins to write on one snapshot: every statement sees the same moment, so that what is
    /// concluded from several of them holds. Whoever was faster at a row that is written here makes
    /// this fail with a conflict.
    pub async fn begin_on_snapshot(&self) -> Result<Tx> {
        self.begin_as("BEGIN ISOLATION LEVEL REPEATABLE READ").await
    }

    async fn begin_as(&self, postgres: &'static str) -> Result<Tx> {
        Ok(match &self.pool {
            Pool::Postgres(pool) => Tx::Postgres(pool.begin_with(postgres).await?),
            // The only writer; nobody can commit in between.
            Pool::Sqlite { writer, .. } => Tx::Sqlite(writer.begin_with("BEGIN IMMEDIATE").await?),
        })
    }

    /// Begins to read, on one snapshot.
    pub async fn read(&self) -> Result<Tx> {
        Ok(match &self.pool {
            Pool::Postgres(pool) => {
                let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";
                Tx::Postgres(pool.begin_with(begin).await?)
            }
            Pool::Sqlite { readers, .. } => Tx::Sqlite(readers.begin().await?),
        })
    }
}
