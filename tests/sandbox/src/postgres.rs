//! A throwaway PostgreSQL.

use crate::{
    Tools,
    guard::{Guarded, Order},
};
use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{net::UnixStream, process::Command, time::Instant};

/// How long the server may take to start on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running server with one superuser, `keeper`; it ends with this value. It listens on a Unix
/// socket in a folder of its own and on no port.
#[derive(Debug)]
pub struct Postgres {
    folder: PathBuf,
    native: PathBuf,
    as_root: bool,
    _process: Guarded,
}

impl Postgres {
    /// Initializes and starts a server in a temporary folder. PostgreSQL refuses to run as root;
    /// then it runs as `nobody`.
    pub async fn start(tools: &Tools) -> eyre::Result<Self> {
        // Removed by the guard, after the server's end.
        let folder = TempDir::with_prefix("keeper-pg-")?.keep();
        let as_root = fs::metadata(&folder)?.uid() == 0;
        let native = native_folder(&tools.postgres()?, &folder, as_root)?;
        let data = folder.join("data");
        fs::create_dir(&data)?;
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
        if as_root {
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
            let status = Command::new("chown").args(["-R", "nobody"]).arg(&folder).status().await?;
            eyre::ensure!(status.success(), "cannot give {} to nobody", folder.display());
        }

        let mut initdb = as_user(&native.join("bin/initdb"), as_root);
        initdb
            .args(["--username=keeper", "--auth=trust", "--encoding=UTF8", "--no-locale"])
            .args(["--no-sync", "--pgdata"])
            .arg(&data)
            .current_dir(&folder)
            .env("LD_LIBRARY_PATH", native.join("lib"))
            .stdin(Stdio::null());
        let output = initdb.output().await?;
        eyre::ensure!(
            output.status.success(),
            "initdb failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );

        Self::launch(folder, native, as_root).await
    }

    /// Starts the server whose data lie in `folder`.
    async fn launch(folder: PathBuf, native: PathBuf, as_root: bool) -> eyre::Result<Self> {
        let (postgres, data) = (native.join("bin/postgres"), folder.join("data"));
        let mut command: Vec<&OsStr> = Vec::new();
        if as_root {
            command.extend(["runuser", "-u", "nobody", "--"].map(OsStr::new));
        }
        command.push(postgres.as_os_str());
        command.extend(["-D".as_ref(), data.as_os_str(), "-k".as_ref(), folder.as_os_str()]);
        command.extend(["-c", "listen_addresses=", "-c", "max_connections=200"].map(OsStr::new));
        let mut order = Order::new(Path::new(command[0]), &command[1..]);
        order.environment.push(("LD_LIBRARY_PATH", native.join("lib").into()));
        order.folder = Some(&folder);
        let process = Guarded::spawn(order)?;
        let server = Self { folder, native, as_root, _process: process };
        server.wait().await?;
        Ok(server)
    }

    /// A replica of the server as it is now, not started: what an asynchronous standby holds that
    /// has received nothing since. Call it between `pg_backup_start` and `pg_backup_stop`, and give
    /// [`Replica::finish`] the label that the latter returns.
    pub async fn copy(&self) -> eyre::Result<Replica> {
        let folder = TempDir::with_prefix("keeper-pg-")?.keep();
        if self.as_root {
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        }
        let (from, to) = (self.folder.join("data"), folder.join("data"));
        let status = Command::new("cp").arg("-a").args([&from, &to]).status().await?;
        // The server goes on working meanwhile: a file may be gone before it is copied.
        eyre::ensure!(to.join("PG_VERSION").exists(), "cannot copy {}: {status}", from.display());
        fs::remove_file(to.join("postmaster.pid"))?;
        if self.as_root {
            let status = Command::new("chown").arg("nobody").arg(&folder).status().await?;
            eyre::ensure!(status.success(), "cannot give {} to nobody", folder.display());
        }
        Ok(Replica {
            from: self.folder.clone(),
            folder,
            native: self.native.clone(),
            as_root: self.as_root,
        })
    }

    /// The folder of its socket.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// URL of a database on it; `postgres` exists from the start.
    pub fn url(&self, database: &str) -> String {
        Self::url_in(&self.folder, database)
    }

    /// URL of a database of the server whose socket lies in `folder`.
    pub fn url_in(folder: &Path, database: &str) -> String {
        let folder = folder.to_string_lossy().replace('/', "%2F");
        format!("postgres://keeper@{folder}/{database}")
    }

    async fn wait(&self) -> eyre::Result<()> {
        let socket = self.folder.join(".s.PGSQL.5432");
        let deadline = Instant::now() + START_LIMIT;
        while UnixStream::connect(&socket).await.is_err() {
            eyre::ensure!(Instant::now() < deadline, "PostgreSQL did not start in time");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

/// A replica that was not promoted yet.
#[derive(Debug)]
pub struct Replica {
    from: PathBuf,
    folder: PathBuf,
    native: PathBuf,
    as_root: bool,
}

impl Replica {
    /// Gives it the label of the backup, and the log that was written up to its end.
    pub async fn finish(&self, label: &str) -> eyre::Result<()> {
        let data = self.folder.join("data");
        for (name, text) in [("backup_label", label), ("standby.signal", "")] {
            fs::write(data.join(name), text)?;
            if self.as_root {
                Command::new("chown").arg("nobody").arg(data.join(name)).status().await?;
            }
        }
        let (from, to) = (self.from.join("data/pg_wal/."), data.join("pg_wal"));
        let status = Command::new("cp").arg("-a").args([&from, &to]).status().await?;
        eyre::ensure!(status.success(), "cannot copy {}", from.display());
        Ok(())
    }

    /// Starts it as a standby; `SELECT pg_promote()` makes it the primary.
    pub async fn start(self) -> eyre::Result<Postgres> {
        Postgres::launch(self.folder, self.native, self.as_root).await
    }
}

/// The packaged server, or a copy of it in `folder` where `nobody` can read it: a checkout below
/// /root is closed to everybody else.
fn native_folder(packaged: &Path, folder: &Path, as_root: bool) -> eyre::Result<PathBuf> {
    let open = packaged
        .ancestors()
        .all(|part| fs::metadata(part).is_ok_and(|data| data.permissions().mode() & 0o001 != 0));
    if !as_root || open {
        return Ok(packaged.to_owned());
    }
    let copy = folder.join("native");
    let status = std::process::Command::new("cp").arg("-r").arg(packaged).arg(&copy).status()?;
    eyre::ensure!(status.success(), "cannot copy {}", packaged.display());
    Ok(copy)
}

fn as_user(program: &Path, as_root: bool) -> Command {
    if as_root {
        let mut command = Command::new("runuser");
        command.args(["-u", "nobody", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}
