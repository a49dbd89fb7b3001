//! An authorization, unverified and verified.

use super::{
    FiatToken, FiatTokenBytes, MULTICALL3, Multicall3, PayerSignature,
    signature::{is_yes, question},
};
use crate::x402::{Asset, MicroUsdc, SignedAuthorization, Subcause};
use alloy::{
    primitives::{Address, B256, Bytes, Signature, U256},
    signers::SignerSync,
    sol,
    sol_types::{Eip712Domain, SolCall, SolStruct},
};

sol! {
    /// The typed data of EIP-3009.
    struct TransferWithAuthorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }
}

/// Seconds that must be left of an authorization's window for the keeper to take it on: three
/// blocks of Base for the pull to be mined.
pub const MIN_REMAINING_SECONDS: u64 = 6;
/// Length of the calldata that pulls from a payer with a key: a selector, nine words and the tag.
pub const PULL_CALL_BYTES: usize = 4 + 9 * 32 + 32;

/// Gas limit of a pull: 102,888 measured to a payee without balance.
const KEY_GAS: u64 = 250_000;
/// The same from a payer with code, which is asked by the token. A passkey takes 30,000 where the chain
/// knows its curve, a threshold of three keys as much; whoever needs more cannot pay.
const CODE_GAS: u64 = 400_000;
/// The same with the payer's deployment before it: 300,000 for the wallets in use.
const DEPLOYMENT_GAS: u64 = 1_000_000;
/// Gas for asking a payer's code what it signed.
pub const QUESTION_GAS: u64 = CODE_GAS;
/// The same with its deployment before it.
pub const UNDEPLOYED_QUESTION_GAS: u64 = DEPLOYMENT_GAS;

/// Nothing is known but the form.
#[derive(Debug, Clone)]
pub struct Unverified {
    signature: Bytes,
}

/// For these terms, within its window; whether the payer signed it, only its code can say.
#[derive(Debug, Clone)]
pub struct Unconfirmed {
    signature: PayerSignature,
    hash: B256,
}

/// Signed by the payer, for these terms, within its window.
#[derive(Debug, Clone)]
pub struct Verified {
    signature: PayerSignature,
}

/// What an authorization must say to pay for something.
#[derive(Debug, Clone)]
pub struct Terms {
    /// EIP-712 domain of the token.
    pub domain: Eip712Domain,
    /// The payee.
    pub pay_to: Address,
    /// The price; neither less nor more will do (C-47).
    pub amount: MicroUsdc,
    /// Seconds from now after which its window may not end: what cannot be settled at once would
    /// occupy the keeper for as long.
    pub longest: u64,
}

/// A payer's authorization. Only a `Verified` one can be reserved or pulled.
#[derive(Debug, Clone)]
pub struct Authorization<State> {
    signed: SignedAuthorization,
    state: State,
}

/// What can be said of an authorization without the chain.
#[derive(Debug, Clone)]
pub enum Checked {
    /// The payer's key signed it.
    Verified(Authorization<Verified>),
    /// The payer's code must be asked.
    Unconfirmed(Authorization<Unconfirmed>),
}

/// A call that makes a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pull {
    /// Whom it calls.
    pub to: Address,
    /// With what.
    pub calldata: Bytes,
    /// Gas that it may use.
    pub gas_limit: u64,
}

/// The EIP-712 domain of a token on a chain.
pub fn domain(asset: &Asset, chain_id: u64) -> Eip712Domain {
    Eip712Domain::new(
        Some(asset.name.into()),
        Some(asset.version.into()),
        Some(U256::from(chain_id)),
        Some(asset.address),
        None,
    )
}

fn signing_hash(signed: &SignedAuthorization, domain: &Eip712Domain) -> B256 {
    TransferWithAuthorization {
        from: signed.from,
        to: signed.to,
        value: signed.value,
        validAfter: U256::from(signed.valid_after),
        validBefore: U256::from(signed.valid_before),
        nonce: signed.nonce,
    }
    .eip712_signing_hash(domain)
}

/// Signs an authorization, as a payer does.
///
/// # Errors
/// When the key cannot sign.
pub fn sign<S: SignerSync>(
    signer: &S,
    signed: &SignedAuthorization,
    domain: &Eip712Domain,
) -> alloy::signers::Result<Bytes> {
    Ok(signer.sign_hash_sync(&signing_hash(signed, domain))?.as_bytes().into())
}

impl Authorization<Unverified> {
    /// Takes what came over the wire.
    pub const fn new(signed: SignedAuthorization, signature: Bytes) -> Self {
        Self { signed, state: Unverified { signature } }
    }

    /// Checks everything that can be checked without the chain. `now` is the time of the head, in
    /// seconds.
    ///
    /// # Errors
    /// The subcause of S03 3.8.6, in the order payee, amount, window, signature.
    pub fn check(self, terms: &Terms, now: u64) -> Result<Checked, Subcause> {
        let signed = &self.signed;
        if signed.to != terms.pay_to {
            return Err(Subcause::PaytoMismatch);
        }
        if signed.value != U256::from(terms.amount.micro()) {
            return Err(Subcause::AmountMismatch);
        }
        // The token compares strictly, and the ledger holds seconds in 63 bits.
        let representable = i64::try_from(signed.valid_before).is_ok();
        if signed.valid_after >= now
            || signed.valid_before < now.saturating_add(MIN_REMAINING_SECONDS)
            || signed.valid_before > now.saturating_add(terms.longest)
            || !representable
        {
            return Err(Subcause::Expired);
        }
        let hash = signing_hash(signed, &terms.domain);
        let signature = PayerSignature::read(&self.state.signature, &hash, signed.from)?;
        let signed = self.signed;
        Ok(match signature {
            PayerSignature::Key(_) => {
                Checked::Verified(Authorization { signed, state: Verified { signature } })
            }
            PayerSignature::Code(_) | PayerSignature::Undeployed(..) => {
                let state = Unconfirmed { signature, hash };
                Checked::Unconfirmed(Authorization { signed, state })
            }
        })
    }

    /// The same for payers with a key, for whom nobody else needs to be asked (C-48).
    ///
    /// # Errors
    /// As [`Self::check`]; whatever is not the key's signature is invalid.
    pub fn verify(self, terms: &Terms, now: u64) -> Result<Authorization<Verified>, Subcause> {
        match self.check(terms, now)? {
            Checked::Verified(authorization) => Ok(authorization),
            Checked::Unconfirmed(_) => Err(Subcause::SignatureInvalid),
        }
    }

    /// Checks only that the payer's key signed it, whatever for and however long ago.
    ///
    /// # Errors
    /// [`Subcause::SignatureMalleable`] or [`Subcause::SignatureInvalid`].
    pub fn signed_by_payer(&self, domain: &Eip712Domain) -> Result<Signature, Subcause> {
        let hash = signing_hash(&self.signed, domain);
        match PayerSignature::read(&self.state.signature, &hash, self.signed.from)? {
            PayerSignature::Key(signature) => Ok(signature),
            PayerSignature::Code(_) | PayerSignature::Undeployed(..) => {
                Err(Subcause::SignatureInvalid)
            }
        }
    }
}

impl Authorization<Unconfirmed> {
    /// Payer.
    pub const fn payer(&self) -> Address {
        self.signed.from
    }

    /// What it came with.
    pub const fn signature(&self) -> &PayerSignature {
        &self.state.signature
    }

    /// The same of an account that turns out to be deployed: there is nothing to deploy.
    pub fn deployed(mut self) -> Self {
        if let PayerSignature::Undeployed(_, inner) = self.state.signature {
            self.state.signature = PayerSignature::Code(inner);
        }
        self
    }

    /// The question to the payer's code.
    pub fn question(&self) -> Bytes {
        question(self.state.hash, &self.state.signature.to_bytes())
    }

    /// The payer's deployment and the question after it, as one call of [`MULTICALL3`], if it is not
    /// deployed.
    pub fn deploy_and_question(&self) -> Option<Bytes> {
        let ask = Multicall3::Call3 {
            target: self.signed.from,
            allowFailure: true,
            callData: self.question(),
        };
        after_deployment(&self.state.signature, ask)
    }

    /// Takes the code's answer to [`Self::question`].
    ///
    /// # Errors
    /// [`Subcause::SignatureInvalid`] when it is not yes.
    pub fn confirm(self, answer: &[u8]) -> Result<Authorization<Verified>, Subcause> {
        if !is_yes(answer) {
            return Err(Subcause::SignatureInvalid);
        }
        let state = Verified { signature: self.state.signature };
        Ok(Authorization { signed: self.signed, state })
    }

    /// Takes the answer to [`Self::deploy_and_question`].
    ///
    /// # Errors
    /// [`Subcause::SignatureInvalid`] when it is not yes.
    pub fn confirm_deployed(self, answer: &[u8]) -> Result<Authorization<Verified>, Subcause> {
        let results = Multicall3::aggregate3Call::abi_decode_returns(answer);
        let results = results.map_err(|_| Subcause::SignatureInvalid)?;
        match results.last() {
            Some(result) if result.success => self.confirm(&result.returnData),
            _ => Err(Subcause::SignatureInvalid),
        }
    }
}

impl Authorization<Verified> {
    /// What makes this payment. `tag` stands at the end of the token's calldata, which ABI decoding
    /// ignores; the keeper puts the capability there, so that the ledger can be rebuilt from the
    /// chain.
    pub fn pull(&self, token: Address, tag: B256) -> Pull {
        let signature = &self.state.signature;
        let calldata = self.pull_call(tag);
        let call =
            Multicall3::Call3 { target: token, allowFailure: false, callData: calldata.clone() };
        match (signature, after_deployment(signature, call)) {
            (_, Some(calldata)) => Pull { to: MULTICALL3, calldata, gas_limit: DEPLOYMENT_GAS },
            (PayerSignature::Key(_), None) => Pull { to: token, calldata, gas_limit: KEY_GAS },
            (_, None) => Pull { to: token, calldata, gas_limit: CODE_GAS },
        }
    }

    /// The token's part of it: `transferWithAuthorization` with v, r and s, or with bytes when they are
    /// for the payer's code.
    pub fn pull_call(&self, tag: B256) -> Bytes {
        let signed = &self.signed;
        let (valid_after, valid_before) =
            (U256::from(signed.valid_after), U256::from(signed.valid_before));
        let mut call = match &self.state.signature {
            PayerSignature::Key(signature) => FiatToken::transferWithAuthorizationCall {
                from: signed.from,
                to: signed.to,
                value: signed.value,
                validAfter: valid_after,
                validBefore: valid_before,
                nonce: signed.nonce,
                v: signature.v_byte(),
                r: signature.r().into(),
                s: signature.s().into(),
            }
            .abi_encode(),
            PayerSignature::Code(bytes) | PayerSignature::Undeployed(_, bytes) => {
                FiatTokenBytes::transferWithAuthorizationCall {
                    from: signed.from,
                    to: signed.to,
                    value: signed.value,
                    validAfter: valid_after,
                    validBefore: valid_before,
                    nonce: signed.nonce,
                    signature: bytes.clone(),
                }
                .abi_encode()
            }
        };
        call.extend_from_slice(tag.as_slice());
        call.into()
    }

    /// Payer.
    pub const fn payer(&self) -> Address {
        self.signed.from
    }

    /// Payee.
    pub const fn pay_to(&self) -> Address {
        self.signed.to
    }

    /// Authorization nonce.
    pub const fn nonce(&self) -> B256 {
        self.signed.nonce
    }

    /// Valid after this second.
    pub const fn valid_after(&self) -> u64 {
        self.signed.valid_after
    }

    /// Valid before this second.
    pub const fn valid_before(&self) -> u64 {
        self.signed.valid_before
    }

    /// What was signed.
    pub const fn signed(&self) -> &SignedAuthorization {
        &self.signed
    }

    /// As the token takes it: a key's has 65 bytes, v = 27 or 28, low s.
    pub fn signature(&self) -> Bytes {
        self.state.signature.to_bytes()
    }

    /// Whether a key signed it, rather than code.
    pub const fn is_by_key(&self) -> bool {
        matches!(self.state.signature, PayerSignature::Key(_))
    }
}

/// A call after the deployment that it needs. That the deployment fails is no matter: somebody may have
/// been faster, and if not, the call fails.
fn after_deployment(signature: &PayerSignature, call: Multicall3::Call3) -> Option<Bytes> {
    let deployment = signature.deployment()?;
    let deploy = Multicall3::Call3 {
        target: deployment.factory,
        allowFailure: true,
        callData: deployment.call.clone(),
    };
    Some(Multicall3::aggregate3Call { calls: vec![deploy, call] }.abi_encode().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x402::Network;
    use alloy::{
        primitives::{address, b256},
        signers::local::PrivateKeySigner,
    };

    const NOW: u64 = 1_780_000_000;
    const SPLITTER: Address = address!("0x2222222222222222222222222222222222222222");

    fn terms() -> Terms {
        Terms {
            domain: domain(&Network::BaseSepolia.usdc(), 84_532),
            pay_to: SPLITTER,
            amount: MicroUsdc::new(200_000).unwrap(),
            longest: 660,
        }
    }

    fn signed(payer: &PrivateKeySigner) -> SignedAuthorization {
        SignedAuthorization {
            from: payer.address(),
            to: SPLITTER,
            value: U256::from(200_000),
            valid_after: NOW - 600,
            valid_before: NOW + 60,
            nonce: b256!("0xabababababababababababababababababababababababababababababababab"),
        }
    }

    fn verify(
        signed: SignedAuthorization,
        signature: Bytes,
    ) -> Result<Authorization<Verified>, Subcause> {
        Authorization::new(signed, signature).verify(&terms(), NOW)
    }

    fn with(
        change: impl FnOnce(&mut SignedAuthorization),
    ) -> Result<Authorization<Verified>, Subcause> {
        let payer = PrivateKeySigner::random();
        let mut signed = signed(&payer);
        change(&mut signed);
        let signature = sign(&payer, &signed, &terms().domain).unwrap();
        verify(signed, signature)
    }

    #[test]
    fn separators_are_the_live_ones() {
        assert_eq!(
            domain(&Network::BaseSepolia.usdc(), 84_532).separator(),
            b256!("0x71f17a3b2ff373b803d70a5a07c046c1a2bc8e89c09ef722fcb047abe94c9818")
        );
        assert_eq!(
            domain(&Network::Base.usdc(), 8_453).separator(),
            b256!("0x02fa7265e7c5d81118673727957699e4d68f74cd74b7db77da710fe8a2c7834f")
        );
    }

    #[test]
    fn typehash_is_eip_3009s() {
        let empty = TransferWithAuthorization {
            from: Address::ZERO,
            to: Address::ZERO,
            value: U256::ZERO,
            validAfter: U256::ZERO,
            validBefore: U256::ZERO,
            nonce: B256::ZERO,
        };
        assert_eq!(
            empty.eip712_type_hash(),
            b256!("0x7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267")
        );
    }

    #[test]
    fn a_good_one_verifies() {
        with(|_| {}).unwrap();
    }

    #[test]
    fn refused_by_name() {
        assert_eq!(with(|a| a.to = Address::ZERO).err(), Some(Subcause::PaytoMismatch));
        assert_eq!(with(|a| a.value -= U256::ONE).err(), Some(Subcause::AmountMismatch));
        assert_eq!(with(|a| a.value += U256::ONE).err(), Some(Subcause::AmountMismatch));
        assert_eq!(with(|a| a.value = U256::MAX).err(), Some(Subcause::AmountMismatch));
    }

    /// Strict at both ends, with room for the pull at the far one, and not too long.
    #[test]
    fn window() {
        assert_eq!(with(|a| a.valid_after = NOW).err(), Some(Subcause::Expired));
        assert!(with(|a| a.valid_after = NOW - 1).is_ok());
        assert_eq!(with(|a| a.valid_before = NOW + 5).err(), Some(Subcause::Expired));
        assert!(with(|a| a.valid_before = NOW + 6).is_ok());
        assert!(with(|a| a.valid_before = NOW + 660).is_ok());
        assert_eq!(with(|a| a.valid_before = NOW + 661).err(), Some(Subcause::Expired));
        assert_eq!(with(|a| a.valid_before = u64::MAX).err(), Some(Subcause::Expired));
    }

    #[test]
    fn only_the_payer_can_sign() {
        let payer = PrivateKeySigner::random();
        let stranger = PrivateKeySigner::random();
        let signed = signed(&payer);
        let signature = sign(&stranger, &signed, &terms().domain).unwrap();
        assert_eq!(verify(signed.clone(), signature).err(), Some(Subcause::SignatureInvalid));

        let mainnet = domain(&Network::Base.usdc(), 8_453);
        let signature = sign(&payer, &signed, &mainnet).unwrap();
        assert_eq!(verify(signed, signature).err(), Some(Subcause::SignatureInvalid));
    }

    #[test]
    fn lengths_other_than_65_are_invalid() {
        let payer = PrivateKeySigner::random();
        let signed = signed(&payer);
        let good = sign(&payer, &signed, &terms().domain).unwrap();
        for length in [0, 1, 64, 66, 130] {
            let mut bytes = good.to_vec();
            bytes.resize(length, 0);
            assert_eq!(
                verify(signed.clone(), bytes.into()).err(),
                Some(Subcause::SignatureInvalid),
                "{length}"
            );
        }
    }

    #[test]
    fn high_s_is_malleable() {
        let payer = PrivateKeySigner::random();
        let signed = signed(&payer);
        let good = Signature::from_raw(&sign(&payer, &signed, &terms().domain).unwrap()).unwrap();
        let order = U256::from_be_bytes(
            b256!("0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141").0,
        );
        let flipped = Signature::new(good.r(), order - good.s(), !good.v());
        assert_eq!(
            verify(signed, flipped.as_bytes().into()).err(),
            Some(Subcause::SignatureMalleable)
        );
    }

    /// Some wallets write the recovery id as 0 or 1; the token would refuse that.
    #[test]
    fn recovery_id_is_normalized_for_the_token() {
        let payer = PrivateKeySigner::random();
        let signed = signed(&payer);
        let mut bytes = sign(&payer, &signed, &terms().domain).unwrap().to_vec();
        bytes[64] -= 27;
        let verified = verify(signed, bytes.into()).unwrap();
        assert!(matches!(verified.signature()[64], 27 | 28));
    }

    #[test]
    fn the_tag_does_not_change_the_call() {
        let payer = PrivateKeySigner::random();
        let verified =
            verify(signed(&payer), sign(&payer, &signed(&payer), &terms().domain).unwrap())
                .unwrap();
        let call = verified.pull_call(B256::repeat_byte(7));
        assert_eq!(call.len(), PULL_CALL_BYTES);
        let decoded =
            FiatToken::transferWithAuthorizationCall::abi_decode(&call[..4 + 9 * 32]).unwrap();
        assert_eq!(decoded.from, payer.address());
    }
}
