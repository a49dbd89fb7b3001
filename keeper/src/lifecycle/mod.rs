//! The state machines: a settlement, the keeper's progress with it, its delivery, an outgoing
//! transaction, and the trace that chains a settlement's events. Pure: no I/O, no clock, no
//! randomness. A state moves only through here.

mod backoff;
mod delivery;
#[cfg(test)]
mod histories;
mod intent;
mod mode;
mod nonces;
mod refund;
mod replacement;
mod settlement;
mod spending;
mod trace;
mod transaction;
mod window;

pub use backoff::{JITTER_PERCENT, backoff};
pub use delivery::{Delivery, DeliveryEvent, Failure};
pub use intent::{IntentKind, IntentState};
pub use mode::Mode;
pub use nonces::{DEFAULT_PENDING, MAX_PENDING, certainly_free, knows_less, room};
pub use refund::{HoldReason, RefundEvent, RefundHistory, RefundPolicy, RefundState};
pub use replacement::{Cause, Fees, Market, Replacement, Unmined};
pub use settlement::{KeeperEvent, KeeperState, Status, StatusEvent};
pub use spending::{Closed, Limits, Purse};
pub use trace::{SealHasher, TraceTerms, event_hash};
pub use transaction::{AttemptKind, Chain, Effect, Mined, Sighting, Standing, TransactionState};
pub use window::{is_closed, is_closing};

/// A state machine was asked for a step that it does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{machine} cannot take {event} in state {state}")]
pub struct IllegalStep {
    /// Which machine.
    pub machine: &'static str,
    /// Where it stands.
    pub state: String,
    /// What was asked of it.
    pub event: String,
}

/// Names of an enum's variants, as the ledger and every document spell them.
macro_rules! words {
    ($type:ident { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl $type {
            /// Every variant.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word for it in the ledger.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The variant of a word.
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|variant| variant.as_str() == word)
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use words;
