//! Whether a payment is good: its signature, off the threads that serve requests, and what only the
//! chain knows, read for many payments in one.
//!
//! What the token itself checks of a payer with a key can be read beforehand. Of a payer with code
//! (ERC-1271, an EIP-7702 delegation included) only the token can say: there the pull is executed without
//! being sent, within its gas. See docs/decisions/0011-contract-payers.md.

use super::{
    Site,
    capability::{Capability, Registration},
    error::ApiError,
    payment::invalid,
};
use crate::{
    chain::{Answers, ChainError, Read},
    eip3009::{
        Authorization, Checked, FiatToken, MULTICALL3, QUESTION_GAS, Terms,
        UNDEPLOYED_QUESTION_GAS, Unconfirmed, Unverified, Verified,
    },
    splitter::JecpSplitter,
    x402::{MicroUsdc, Subcause},
};
use alloy::{
    primitives::{Address, B256, Bytes, U256},
    sol_types::SolCall,
};
use std::{sync::LazyLock, thread::available_parallelism};
use tokio::sync::Semaphore;

/// Signatures that are recovered at once: as many as there are processors, so that the others wait here
/// and not in a hundred threads.
static RECOVERIES: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(available_parallelism().map_or(1, usize::from)));

pub(super) fn chain_down(error: &ChainError) -> ApiError {
    tracing::error!(%error, "edge: the chain failed");
    ApiError::Degraded("the chain does not answer; no money moved".to_owned())
}

/// Is this authorization, by its signature, for these terms? `now` is the time of the head. Of the chain
/// it needs only what a payer's code says.
pub(super) async fn verify(
    site: &Site,
    authorization: Authorization<Unverified>,
    terms: Terms,
    now: u64,
) -> Result<Authorization<Verified>, ApiError> {
    let checked = recovering(move || authorization.check(&terms, now)).await?;
    match checked.map_err(refusal)? {
        Checked::Verified(authorization) => Ok(authorization),
        Checked::Unconfirmed(authorization) => confirm(site, authorization).await,
    }
}

/// Runs what recovers a signature where it holds up nobody.
pub(super) async fn recovering<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let permit = RECOVERIES.acquire().await.map_err(|_| ApiError::Internal)?;
    let done = tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::Internal);
    drop(permit);
    done
}

fn refusal(subcause: Subcause) -> ApiError {
    let message = match subcause {
        Subcause::PaytoMismatch => "to is not the payee",
        Subcause::AmountMismatch => "value is not the price",
        Subcause::Expired => "outside its time window, too close to its end, or ending too late",
        Subcause::SignatureMalleable => "the signature's s is high",
        _ => "the signature is not the payer's",
    };
    invalid(subcause, message)
}

/// Asks the payer's code, as the token would.
async fn confirm(
    site: &Site,
    authorization: Authorization<Unconfirmed>,
) -> Result<Authorization<Verified>, ApiError> {
    let payer = authorization.payer();
    // One read that is shared, so that nonsense costs little.
    let answers = site.reader.read(vec![Read::Code(payer)]).await;
    let code = take_bytes(&mut answers.map_err(|error| chain_down(&error))?)?;
    let factory = authorization.signature().deployment().map(|deployment| deployment.factory);
    match (code.is_empty(), factory) {
        (false, _) => {
            let authorization = authorization.deployed();
            let (token, question) = (site.splitter.asset, authorization.question());
            let answer = execute(site, token, payer, &question, QUESTION_GAS).await?;
            authorization.confirm(&answer.unwrap_or_default()).map_err(refusal)
        }
        (true, None) => Err(refusal(Subcause::SignatureInvalid)),
        (true, Some(factory)) if site.signature_factories.contains(&factory) => {
            let question = authorization.deploy_and_question().unwrap_or_default();
            let gas = UNDEPLOYED_QUESTION_GAS;
            let answer = execute(site, site.sender(), MULTICALL3, &question, gas).await?;
            authorization.confirm_deployed(&answer.unwrap_or_default()).map_err(refusal)
        }
        (true, Some(_)) => {
            let why = "the payer is not deployed, and this hub does not deploy with its factory";
            Err(invalid(Subcause::SignatureInvalid, why))
        }
    }
}

/// Executes a call without sending it; `None` when it fails or needs more gas.
async fn execute(
    site: &Site,
    from: Address,
    to: Address,
    input: &Bytes,
    gas: u64,
) -> Result<Option<Bytes>, ApiError> {
    match site.chain.simulate(from, to, input, gas).await {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_of_the_call() => {
            tracing::debug!(%to, %error, "a payer's code failed");
            Ok(None)
        }
        Err(error) => Err(chain_down(&error)),
    }
}

/// What only the chain knows: would this pull go through, and may this capability be sold? Returns
/// the payer's balance.
pub(super) async fn check_chain(
    site: &Site,
    capability: &Capability,
    authorization: &Authorization<Verified>,
) -> Result<U256, ApiError> {
    let question = Read::view(site.splitter.address, &Registration::question(capability));
    let mut answers = read(site, authorization, Some(question)).await?;
    let found = take::<JecpSplitter::capabilitiesCall>(&mut answers)?;
    if Registration::of(&found, capability) != Registration::Active {
        return Err(ApiError::NotAccepted(Subcause::CapabilityWalletOnly));
    }
    judge(site, authorization, capability.price, capability.id, answers).await
}

/// The same of a payment that passes the Splitter by: would this pull go through?
pub(super) async fn check_passing(
    site: &Site,
    authorization: &Authorization<Verified>,
    amount: MicroUsdc,
) -> Result<U256, ApiError> {
    let answers = read(site, authorization, None).await?;
    judge(site, authorization, amount, B256::ZERO, answers).await
}

/// Asks everything at once; the last question is `more`, and its answer the first to be taken.
async fn read(
    site: &Site,
    authorization: &Authorization<Verified>,
    more: Option<Read>,
) -> Result<Answers, ApiError> {
    let token = site.splitter.asset;
    let (payer, nonce) = (authorization.payer(), authorization.nonce());
    let state = FiatToken::authorizationStateCall { authorizer: payer, nonce };
    let payee = authorization.pay_to();
    let mut reads = vec![
        Read::view(token, &FiatToken::balanceOfCall { account: payer }),
        Read::view(token, &FiatToken::isBlacklistedCall { account: payer }),
        Read::view(token, &state),
        Read::Code(payer),
        Read::view(token, &FiatToken::isBlacklistedCall { account: payee }),
        Read::view(token, &FiatToken::pausedCall {}),
    ];
    reads.extend(more);
    site.reader.read(reads).await.map_err(|error| chain_down(&error))
}

/// Takes the last answer.
fn take<C: SolCall>(answers: &mut Answers) -> Result<C::Return, ApiError> {
    let answer = take_bytes(answers)?;
    C::abi_decode_returns(&answer).map_err(|error| {
        chain_down(&ChainError::Malformed { method: C::SIGNATURE, reason: error.to_string() })
    })
}

fn take_bytes(answers: &mut Answers) -> Result<Bytes, ApiError> {
    let answer = answers.pop().ok_or(ApiError::Internal)?;
    answer.map_err(|error| chain_down(&error))
}

/// Judges what [`read`] was answered.
async fn judge(
    site: &Site,
    authorization: &Authorization<Verified>,
    amount: MicroUsdc,
    tag: B256,
    mut answers: Answers,
) -> Result<U256, ApiError> {
    let answers = &mut answers;
    let paused = take::<FiatToken::pausedCall>(answers)?;
    let payee_barred = take::<FiatToken::isBlacklistedCall>(answers)?;
    let code = take_bytes(answers)?;
    let used = take::<FiatToken::authorizationStateCall>(answers)?;
    let payer_barred = take::<FiatToken::isBlacklistedCall>(answers)?;
    let balance = take::<FiatToken::balanceOfCall>(answers)?;
    let (payer, nonce) = (authorization.payer(), authorization.nonce());
    if paused || payee_barred {
        return Err(ApiError::Degraded("the token does not move now; no money moved".to_owned()));
    }
    if used {
        return Err(ApiError::PaymentInvalid {
            subcause: Subcause::NonceReused,
            message: "the authorization is already used or cancelled".to_owned(),
            tx_hash: used_in(site, payer, nonce).await,
        });
    }
    if payer_barred {
        return Err(invalid(Subcause::InsufficientFunds, "the token has blacklisted the payer"));
    }
    if balance < U256::from(amount.micro()) {
        return Err(invalid(Subcause::InsufficientFunds, "the payer's balance is below the price"));
    }
    // The token asks the payer's code, and that may say anything: also to a key's signature (EIP-7702).
    if !code.is_empty() || !authorization.is_by_key() {
        let pull = authorization.pull(site.splitter.asset, tag);
        let done = execute(site, site.sender(), pull.to, &pull.calldata, pull.gas_limit).await?;
        if done.is_none() {
            let why = "the payer is a contract, or delegates to one (EIP-7702), and the token does \
                       not get its consent within the gas of a pull";
            return Err(invalid(Subcause::SignatureInvalid, why));
        }
    }
    Ok(balance)
}

/// The transaction that used an authorization, if it brought money to the Splitter.
async fn used_in(site: &Site, payer: Address, nonce: B256) -> Option<B256> {
    let found = async {
        let mut tx = site.ledger.read().await?;
        tx.pull_of(site.network.chain_id(), site.splitter.address, payer, nonce).await
    };
    match found.await {
        Ok(pull) => pull.map(|pull| pull.at.tx_hash),
        Err(error) => {
            tracing::warn!(%error, "edge: cannot look up who used an authorization");
            None
        }
    }
}
