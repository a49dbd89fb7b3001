//! How a payer says yes: with a key, with code, or with code that is not there yet.
//!
//! Source: EIP-2, ERC-1271, ERC-6492, EIP-7702, Circle's FiatTokenV2_2.

use crate::x402::Subcause;
use alloy::{
    consensus::crypto::secp256k1::recover_signer_unchecked,
    primitives::{Address, B256, Bytes, Signature, b256},
    sol,
    sol_types::{SolCall, SolValue},
};

/// What ends a signature of an account that is not deployed (ERC-6492).
const ERC_6492_SUFFIX: B256 =
    b256!("0x6492649264926492649264926492649264926492649264926492649264926492");
/// Most bytes that a payer's code is asked about, and most that a factory is called with. A passkey's
/// signature has about 700.
pub const MAX_SIGNATURE_BYTES: usize = 2_048;

sol! {
    /// A contract that says what it signed (ERC-1271).
    interface Wallet {
        /// Answers with its own selector.
        function isValidSignature(bytes32 hash, bytes signature) external view returns (bytes4 magic);
    }
}

/// A signature, by who can say whether it is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PayerSignature {
    /// The payer's key made it: 65 bytes, low s.
    Key(Signature),
    /// The payer's code must say (ERC-1271).
    Code(Bytes),
    /// The same, and the code must be deployed before (ERC-6492).
    Undeployed(Deployment, Bytes),
}

/// How an account comes to its code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Whom to call.
    pub factory: Address,
    /// With what.
    pub call: Bytes,
}

impl PayerSignature {
    /// Reads the signature of `payer` over `hash`. Whatever is not its key's is left to its code.
    ///
    /// # Errors
    /// [`Subcause::SignatureMalleable`] when it is the key's with a high s, and
    /// [`Subcause::SignatureInvalid`] when nobody needs to be asked.
    pub(super) fn read(bytes: &Bytes, hash: &B256, payer: Address) -> Result<Self, Subcause> {
        if let Some(signature) = of_a_key(bytes)
            && recover_signer_unchecked(&signature, *hash).is_ok_and(|signer| signer == payer)
        {
            return match signature.normalize_s() {
                None => Ok(Self::Key(signature)),
                Some(_) => Err(Subcause::SignatureMalleable),
            };
        }
        let (deployment, inner) = match bytes.strip_suffix(ERC_6492_SUFFIX.as_slice()) {
            None => (None, bytes.clone()),
            Some(wrapped) => {
                let (factory, call, inner) = <(Address, Bytes, Bytes)>::abi_decode_params(wrapped)
                    .map_err(|_| Subcause::SignatureInvalid)?;
                (Some(Deployment { factory, call }), inner)
            }
        };
        let longest = deployment.as_ref().map_or(0, |it| it.call.len()).max(inner.len());
        if longest > MAX_SIGNATURE_BYTES {
            return Err(Subcause::SignatureInvalid);
        }
        Ok(match deployment {
            None => Self::Code(inner),
            Some(deployment) => Self::Undeployed(deployment, inner),
        })
    }

    /// What the token is given: a key's with v = 27 or 28.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Self::Key(signature) => signature.as_bytes().into(),
            Self::Code(bytes) | Self::Undeployed(_, bytes) => bytes.clone(),
        }
    }

    /// How the account is deployed, if it is not.
    pub const fn deployment(&self) -> Option<&Deployment> {
        match self {
            Self::Undeployed(deployment, _) => Some(deployment),
            Self::Key(_) | Self::Code(_) => None,
        }
    }
}

/// 65 bytes whose last is a recovery id: 27 or 28, or 0 or 1 as some wallets write it.
fn of_a_key(bytes: &[u8]) -> Option<Signature> {
    let bytes = <&[u8; 65]>::try_from(bytes).ok()?;
    let [.., 0 | 1 | 27 | 28] = bytes else { return None };
    Signature::from_raw_array(bytes).ok()
}

/// The call that asks a payer's code.
pub(super) fn question(hash: B256, signature: &Bytes) -> Bytes {
    Wallet::isValidSignatureCall { hash, signature: signature.clone() }.abi_encode().into()
}

/// Whether its answer is yes, as the token reads it: a whole word, the selector and nothing else.
pub(super) fn is_yes(answer: &[u8]) -> bool {
    let mut yes = [0; 32];
    yes[..4].copy_from_slice(&Wallet::isValidSignatureCall::SELECTOR);
    answer.starts_with(&yes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::signers::{SignerSync, local::PrivateKeySigner};

    const HASH: B256 = B256::repeat_byte(7);

    fn wrapped(factory: Address, call: &[u8], inner: &[u8]) -> Bytes {
        let body = (factory, Bytes::copy_from_slice(call), Bytes::copy_from_slice(inner));
        [body.abi_encode_params().as_slice(), ERC_6492_SUFFIX.as_slice()].concat().into()
    }

    /// C-48: a key's signature has one form, and v nothing but a recovery id.
    #[test]
    fn a_keys_signature_is_read_strictly() {
        let payer = PrivateKeySigner::random();
        let good = payer.sign_hash_sync(&HASH).unwrap();
        let bytes = good.as_bytes();
        let read = |bytes: &[u8]| {
            PayerSignature::read(&Bytes::copy_from_slice(bytes), &HASH, payer.address()).unwrap()
        };
        assert_eq!(read(&bytes), PayerSignature::Key(good));
        let mut with_v = bytes;
        with_v[64] -= 27;
        assert_eq!(read(&with_v).to_bytes(), Bytes::from(bytes), "0 and 1 become 27 and 28");
        for v in [2, 26, 29, 35, 36, 37, 38, 255] {
            with_v[64] = v;
            assert!(matches!(read(&with_v), PayerSignature::Code(_)), "v = {v}");
        }
        for length in [0, 1, 64, 66, 130] {
            let mut other = bytes.to_vec();
            other.resize(length, 0);
            assert!(matches!(read(&other), PayerSignature::Code(_)), "{length} bytes");
        }
    }

    #[test]
    fn an_account_that_is_not_deployed_names_its_factory() {
        let factory = Address::repeat_byte(3);
        let payer = Address::repeat_byte(4);
        let read = |bytes: &Bytes| PayerSignature::read(bytes, &HASH, payer);
        let good = wrapped(factory, &[1, 2], &[5; 65]);
        let deployment = Deployment { factory, call: Bytes::from_static(&[1, 2]) };
        let inner = Bytes::from_static(&[5; 65]);
        assert_eq!(read(&good), Ok(PayerSignature::Undeployed(deployment, inner)));
        for bad in [
            ERC_6492_SUFFIX.as_slice().to_vec().into(),
            good.slice(64..),
            wrapped(factory, &[], &[0; MAX_SIGNATURE_BYTES + 1]),
            wrapped(factory, &[0; MAX_SIGNATURE_BYTES + 1], &[]),
        ] {
            assert_eq!(read(&bad), Err(Subcause::SignatureInvalid));
        }
        let long = Bytes::from(vec![0; MAX_SIGNATURE_BYTES + 1]);
        assert_eq!(read(&long), Err(Subcause::SignatureInvalid));
    }

    #[test]
    fn only_the_whole_word_is_a_yes() {
        let mut yes = [0; 32];
        yes[..4].copy_from_slice(&[0x16, 0x26, 0xba, 0x7e]);
        assert!(is_yes(&yes));
        assert!(is_yes(&[yes, [9; 32]].concat()), "the token reads the first word");
        let mut dirty = yes;
        dirty[31] = 1;
        for no in [&yes[..4], &yes[..31], &dirty[..], &[0; 32], &[]] {
            assert!(!is_yes(no), "{no:?}");
        }
    }
}
