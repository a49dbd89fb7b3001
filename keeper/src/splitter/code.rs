//! Which contract lies at an address, by its runtime code.

use alloy::primitives::Bytes;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The Splitters of this release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitterVersion {
    /// JecpSplitter, the published surface; EIP-712 version "1.1.1".
    V1,
}

/// What of an artifact says how a deployed contract looks.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Artifact {
    deployed_bytecode: Bytes,
    immutable_references: BTreeMap<String, Vec<Immutable>>,
}

/// Where an immutable is filled in at construction.
#[derive(Deserialize)]
struct Immutable {
    start: usize,
    length: usize,
}

impl SplitterVersion {
    /// Every version.
    pub const ALL: [Self; 1] = [Self::V1];

    /// The version whose artifact in `abi/` this runtime code is, immutables aside.
    ///
    /// # Errors
    /// When a checked-in artifact cannot be read.
    pub fn of_code(code: &[u8]) -> Result<Option<Self>, serde_json::Error> {
        for version in Self::ALL {
            let artifact: Artifact = serde_json::from_str(version.artifact())?;
            if artifact.is_code(code) {
                return Ok(Some(version));
            }
        }
        Ok(None)
    }

    /// Version in its EIP-712 domain.
    pub const fn domain_version(self) -> &'static str {
        match self {
            Self::V1 => "1.1.1",
        }
    }

    const fn artifact(self) -> &'static str {
        match self {
            Self::V1 => include_str!("../../../abi/JecpSplitter.json"),
        }
    }
}

impl Artifact {
    fn is_code(&self, code: &[u8]) -> bool {
        let mut masked = code.to_vec();
        for immutable in self.immutable_references.values().flatten() {
            let end = immutable.start.saturating_add(immutable.length);
            let Some(word) = masked.get_mut(immutable.start..end) else { return false };
            word.fill(0);
        }
        masked == self.deployed_bytecode
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(version: SplitterVersion) -> Artifact {
        serde_json::from_str(version.artifact()).unwrap()
    }

    /// As it lies on a chain: the immutables filled in.
    fn deployed(artifact: &Artifact) -> Vec<u8> {
        let mut code = artifact.deployed_bytecode.to_vec();
        for immutable in artifact.immutable_references.values().flatten() {
            code[immutable.start..immutable.start + immutable.length].fill(0x5a);
        }
        code
    }

    #[test]
    fn immutables_do_not_matter_and_everything_else_does() {
        for version in SplitterVersion::ALL {
            let artifact = artifact(version);
            let code = deployed(&artifact);
            assert_eq!(SplitterVersion::of_code(&code).unwrap(), Some(version));
            assert_ne!(code, artifact.deployed_bytecode, "there are immutables");
            let is_masked = |at: usize| {
                artifact.immutable_references.values().flatten().any(|immutable| {
                    (immutable.start..immutable.start + immutable.length).contains(&at)
                })
            };
            for at in (0..code.len()).step_by(97) {
                let mut other = code.clone();
                other[at] ^= 1;
                let found = SplitterVersion::of_code(&other).unwrap();
                assert_eq!(found.is_some(), is_masked(at), "byte {at}");
            }
            assert_eq!(SplitterVersion::of_code(&code[..code.len() - 1]).unwrap(), None);
            assert_eq!(SplitterVersion::of_code(&[&code[..], &[0]].concat()).unwrap(), None);
        }
        assert_eq!(SplitterVersion::of_code(&[]).unwrap(), None);
    }
}
