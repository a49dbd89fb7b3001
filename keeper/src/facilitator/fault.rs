//! What can be wrong with an answer, or with having none.

use super::pin;
use crate::{
    outbound::{Reason, refusal},
    x402::Subcause,
};
use std::time::Duration;

/// The facilitator does not say what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It took too long (`X402_SETTLEMENT_TIMEOUT`).
    Timeout {
        /// `facilitator_slow` or, if it says so itself, `chain_congested`.
        subcause: Subcause,
        /// How long it was waited for.
        elapsed: Duration,
    },
    /// It could not be reached, or is not who it should be (`X402_FACILITATOR_UNREACHABLE`).
    Unreachable {
        /// In the closed registry.
        subcause: Subcause,
        /// More precisely.
        last_error: &'static str,
        /// It may have read what it was asked.
        was_sent: bool,
        /// What it showed instead of the pinned TLS key.
        observed: Option<pin::PinMismatch>,
    },
}

impl Fault {
    pub(super) const fn slow(elapsed: Duration) -> Self {
        Self::Timeout { subcause: Subcause::FacilitatorSlow, elapsed }
    }

    /// It answered that the chain is the reason.
    pub(super) const fn congested() -> Self {
        Self::Timeout { subcause: Subcause::ChainCongested, elapsed: Duration::ZERO }
    }

    /// Its answer is not in the words of x402.
    pub(super) const fn unreadable() -> Self {
        Self::Unreachable {
            subcause: Subcause::ConnectionRefused,
            last_error: "unreadable_answer",
            was_sent: true,
            observed: None,
        }
    }

    /// It answered that something went wrong with itself: as a 5xx.
    pub(super) const fn broken() -> Self {
        Self::Unreachable {
            subcause: Subcause::ConnectionRefused,
            last_error: "upstream_5xx",
            was_sent: true,
            observed: None,
        }
    }

    /// Whether the facilitator may have what it needs to pull.
    pub const fn was_sent(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::Unreachable { was_sent, .. } => *was_sent,
        }
    }
}

/// One attempt that came to nothing.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    subcause: Subcause,
    last_error: &'static str,
    was_sent: bool,
    observed: Option<pin::PinMismatch>,
}

impl Failed {
    const fn new(subcause: Subcause, last_error: &'static str, was_sent: bool) -> Self {
        Self { subcause, last_error, was_sent, observed: None }
    }

    /// It was never sent.
    pub(super) const fn before(last_error: &'static str) -> Self {
        Self::new(Subcause::ConnectionRefused, last_error, false)
    }

    /// It was sent, and nothing usable came back.
    pub(super) const fn after_it_was_sent(last_error: &'static str) -> Self {
        Self::new(Subcause::ConnectionRefused, last_error, true)
    }

    /// The answer is nobody's whom we know.
    pub(super) const fn unsigned() -> Self {
        Self::new(Subcause::SignaturePinMismatch, "response_signature", true)
    }

    /// What a failed request says.
    pub(super) fn of(error: &reqwest::Error) -> Self {
        if let Some(observed) = pin::mismatch(error) {
            let failed = Self::new(Subcause::CertPinMismatch, "tls_cert_spki_pin_mismatch", false);
            return Self { observed: Some(observed), ..failed };
        }
        match refusal(error) {
            Some(Reason::DnsResolveFailed) => {
                Self::new(Subcause::DnsFail, "dns_resolve_failed", false)
            }
            Some(reason) => Self::before(reason.as_str()),
            None if error.is_connect() => Self::before("connection_refused"),
            None => Self::after_it_was_sent("connection_broke"),
        }
    }

    /// Whether another attempt may do better. A wrong key will not be the right one at once.
    pub(super) const fn may_pass(&self) -> bool {
        matches!(self.subcause, Subcause::ConnectionRefused | Subcause::DnsFail)
    }

    /// As the outcome of two attempts.
    pub(super) fn after(self, first: &Self) -> Self {
        Self { was_sent: self.was_sent || first.was_sent, ..self }
    }
}

impl From<Failed> for Fault {
    fn from(failed: Failed) -> Self {
        let Failed { subcause, last_error, was_sent, observed } = failed;
        Self::Unreachable { subcause, last_error, was_sent, observed }
    }
}
