//! The file beside a SQLite database: who has it locked serves the database, and in it stands who
//! led last, so that an older copy of the database is noticed.

use super::{LedgerError, Result};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
};

/// The locked file. The operating system frees it when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct LockFile(File);

impl LockFile {
    /// Takes the lock beside a database.
    pub(super) fn take(database: &Path) -> Result<Self> {
        let mut path = database.as_os_str().to_owned();
        path.push(".lock");
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.map_err(sqlx::Error::Io)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(std::fs::TryLockError::WouldBlock) => {
                Err(LedgerError::InUse(database.display().to_string()))
            }
            Err(std::fs::TryLockError::Error(error)) => Err(sqlx::Error::Io(error).into()),
        }
    }

    /// What the last holder of a lease has noted here.
    pub(super) fn note(&self, lease: &str) -> Result<Option<String>> {
        Ok(self.notes()?.remove(lease))
    }

    /// Notes something for a lease.
    pub(super) fn set_note(&self, lease: &str, note: &str) -> Result<()> {
        let mut notes = self.notes()?;
        notes.insert(lease.to_owned(), note.to_owned());
        let text = serde_json::to_vec(&notes)?;
        let write = || {
            let mut file = &self.0;
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&text)?;
            file.sync_all()
        };
        write().map_err(|error| sqlx::Error::Io(error).into())
    }

    fn notes(&self) -> Result<BTreeMap<String, String>> {
        let mut text = Vec::new();
        let mut read = || {
            let mut file = &self.0;
            file.seek(SeekFrom::Start(0))?;
            file.read_to_end(&mut text)
        };
        read().map_err(sqlx::Error::Io)?;
        // A note that was not written to its end is none.
        Ok(serde_json::from_slice(&text).unwrap_or_default())
    }
}
