//! What the edge needs to sell, once everything behind it is there.

use super::{Capability, Intake, Registrations};
use crate::{
    chain::{Chain, Heads, Reader},
    eip3009::{Terms, domain},
    facilitator::Facilitator,
    ledger::{Ledger, LedgerError, SignerRecord, SplitterRecord, Stream, Tx},
    lifecycle::{Closed, RefundPolicy},
    x402::{Network, Offer},
};
use alloy::primitives::Address;
use chrono::TimeDelta;
use std::{sync::Arc, time::Duration};
use url::Url;

/// Seconds by which a payer's clock may be wrong; stock clients allow as much at the other end of
/// the window.
const MAX_CLOCK_SKEW: u64 = 600;

/// How long a transaction may wait for its signature while payments are taken.
const MAX_UNSIGNED: TimeDelta = TimeDelta::seconds(10);
/// Blocks that the mirror may be behind the head while payments are taken.
const MAX_LAG: u64 = 10;
/// Blocks that the journal may be behind the head while the daemon counts as ready: confirmations, of
/// which there are 500 at the most, and ten minutes of Base.
const MAX_BOOKS_LAG: u64 = 800;

/// One Splitter that payments go to.
#[derive(Debug)]
pub struct Site {
    /// Network.
    pub network: Network,
    /// Endpoints.
    pub chain: Chain,
    /// Reads for many payments in one.
    pub reader: Reader,
    /// Head of the chain.
    pub heads: Heads,
    /// The ledger.
    pub ledger: Ledger,
    /// Name of the lease under which the background services run.
    pub lease: String,
    /// The Splitter.
    pub splitter: SplitterRecord,
    /// Key that pulls, in mode `self`.
    pub puller: Option<Address>,
    /// Who pulls instead, in mode `external`.
    pub facilitator: Option<Arc<Facilitator>>,
    /// What the Splitter says of the catalogue.
    pub registrations: Registrations,
    /// Whether payments are taken.
    pub intake: Intake,
    /// What is refunded without asking anybody.
    pub refunds: RefundPolicy,
    /// How long a request waits for its pull.
    pub settle_timeout: Duration,
    /// Seconds that a payer has between challenge and payment.
    pub max_timeout_seconds: u64,
    /// Without a new block for so long the chain counts as silent.
    pub max_silence: Duration,
    /// Contracts that may deploy a payer (ERC-6492).
    pub signature_factories: Vec<Address>,
}

impl Site {
    /// What a capability costs, as a challenge says it.
    pub fn offer(&self, capability: &Capability, public_url: &Url) -> Offer {
        let base = public_url.as_str().trim_end_matches('/');
        Offer {
            network: self.network,
            asset: self.network.usdc(),
            pay_to: self.splitter.address,
            amount: capability.price,
            resource: format!("{base}/v1/invoke"),
            description: capability.description.clone(),
            max_timeout_seconds: self.max_timeout_seconds,
            splitter_capability_id: capability.id,
            facilitator_url: self.facilitator_url(public_url).to_owned(),
        }
    }

    /// Who settles payments here, as agents are told.
    pub fn facilitator_url<'a>(&'a self, public_url: &'a Url) -> &'a str {
        match &self.facilitator {
            Some(facilitator) => facilitator.url(),
            None => public_url.as_str().trim_end_matches('/'),
        }
    }

    /// The keys without which no payment comes to its end: settler, and puller where there is one.
    fn signers(&self) -> [Address; 2] {
        let settler = self.splitter.authorized_settler;
        [self.puller.unwrap_or(settler), settler]
    }

    /// Whether the mirror has seen nearly everything that the chain has: else a pull could be
    /// overlooked.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub async fn has_caught_up(&self, tx: &mut Tx) -> Result<bool, LedgerError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let Some(seen) = self.heads.latest() else { return Ok(false) };
        let mirrored = tx.cursor(chain_id, address, Stream::Mirror).await?.unwrap_or(0);
        Ok(mirrored.saturating_add(MAX_LAG) > seen.head.number())
    }

    /// Whether the books follow the chain: a stream that stands still looks like one that has nothing to
    /// do.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub async fn has_booked(&self, tx: &mut Tx) -> Result<bool, LedgerError> {
        let SplitterRecord { chain_id, address, first_block, .. } = self.splitter;
        let Some(seen) = self.heads.latest() else { return Ok(false) };
        let booked = tx.cursor(chain_id, address, Stream::Journal).await?.unwrap_or(first_block);
        Ok(booked.saturating_add(MAX_BOOKS_LAG) > seen.head.number())
    }

    /// Whether transactions wait for a signature: KMS does not answer, or nobody asks it.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub async fn is_unsigned(&self, tx: &mut Tx) -> Result<bool, LedgerError> {
        let SplitterRecord { chain_id, .. } = self.splitter;
        tx.is_unsigned_for(chain_id, self.signers(), MAX_UNSIGNED).await
    }

    /// As whom calls are simulated. Whoever pulls, the token asks only what was signed.
    pub(super) fn sender(&self) -> Address {
        self.puller.unwrap_or(self.splitter.authorized_settler)
    }

    /// Whether a daemon leads and has taken the keys over.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub async fn is_led(&self, tx: &mut Tx) -> Result<bool, LedgerError> {
        let SplitterRecord { chain_id, .. } = self.splitter;
        tx.is_led(&self.lease, chain_id, self.signers()).await
    }

    /// Why one of the two keys begins nothing new, if it is so.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub async fn closed(&self, tx: &mut Tx) -> Result<Option<Closed>, LedgerError> {
        let SplitterRecord { chain_id, .. } = self.splitter;
        for signer in self.signers() {
            if let Some(SignerRecord { closed: Some(closed), .. }) =
                tx.signer(chain_id, signer).await?
            {
                return Ok(Some(closed));
            }
        }
        Ok(None)
    }

    /// What an authorization must say to pay for a capability.
    pub fn terms(&self, capability: &Capability) -> Terms {
        Terms {
            domain: domain(&self.network.usdc(), self.network.chain_id()),
            pay_to: self.splitter.address,
            amount: capability.price,
            longest: self.max_timeout_seconds.saturating_add(MAX_CLOCK_SKEW),
        }
    }
}
