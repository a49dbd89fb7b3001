//! A key in a file, for tests.

use super::SignerError;
use alloy::signers::local::PrivateKeySigner;
use std::{fs, path::Path};

/// Reads a key of 64 hexadecimal digits. No error has anything of them.
pub(super) fn read(path: &Path) -> Result<PrivateKeySigner, SignerError> {
    let problem =
        |problem: String| SignerError::KeyFile { path: path.display().to_string(), problem };
    let text = fs::read_to_string(path).map_err(|error| problem(error.kind().to_string()))?;
    text.trim().parse().map_err(|_| problem("it has no key of 64 hexadecimal digits".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settler.key");
        let secret = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318";
        let address = "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23";
        for text in [secret.to_owned(), format!("0x{secret}\n")] {
            fs::write(&path, text).unwrap();
            let key = read(&path).unwrap();
            assert_eq!(key.address().to_string(), address);
            assert!(!format!("{key:?}").contains(&secret[..8]));
        }
        for wrong in [&secret[1..], "", "00", &"0".repeat(64), &format!("{secret}00")] {
            fs::write(&path, wrong).unwrap();
            let error = read(&path).unwrap_err();
            assert!(error.is_permanent());
            assert_eq!(
                error.to_string(),
                format!("key file {}: it has no key of 64 hexadecimal digits", path.display())
            );
        }
        let missing = read(&folder.path().join("no.key")).unwrap_err();
        assert!(missing.to_string().ends_with("no.key: entity not found"), "{missing}");
    }
}
