//! What kind of difference a verdict is, and what it means in words.

use crate::{ledger::Verdict, lifecycle::words};

/// Kinds of findings, as docs/ledger.md explains them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    /// Everybody says the same, to the end.
    Matched,
    /// On its way.
    Pending,
    /// The chain has it, the ledger does not.
    MissingInLedger,
    /// The ledger has it, the chain does not.
    MissingOnChain,
    /// Another amount.
    AmountMismatch,
    /// Somebody else's money, or somebody else gets it.
    RecipientMismatch,
    /// Twice.
    Duplicate,
    /// Money that nobody asked for; it is booked in suspense.
    UnattributedInflow,
    /// Beyond the bounds of time (C-27).
    Late,
}

words!(Category {
    Matched => "matched",
    Pending => "pending",
    MissingInLedger => "missing_in_ledger",
    MissingOnChain => "missing_on_chain",
    AmountMismatch => "amount_mismatch",
    RecipientMismatch => "recipient_mismatch",
    Duplicate => "duplicate",
    UnattributedInflow => "unattributed_inflow",
    Late => "late",
});

impl Category {
    /// Whether ledger and chain differ by it. Anybody can send the Splitter something; it is booked,
    /// and nothing differs.
    pub const fn is_drift(self) -> bool {
        match self {
            Self::Matched | Self::Pending | Self::UnattributedInflow | Self::Late => false,
            Self::MissingInLedger
            | Self::MissingOnChain
            | Self::AmountMismatch
            | Self::RecipientMismatch
            | Self::Duplicate => true,
        }
    }

    /// The kind of a verdict.
    pub const fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Matched | Verdict::Passed => Self::Matched,
            Verdict::Pending => Self::Pending,
            Verdict::RecordLate | Verdict::SplitLate => Self::Late,
            Verdict::Inflow => Self::UnattributedInflow,
            Verdict::PullUnknown
            | Verdict::PullNotNoted
            | Verdict::RecordUnknown
            | Verdict::RecordNotNoted
            | Verdict::SplitNotNoted
            | Verdict::NotBooked
            | Verdict::NotMirrored => Self::MissingInLedger,
            Verdict::PullGone
            | Verdict::PullOther
            | Verdict::RecordGone
            | Verdict::RecordOther
            | Verdict::SplitGone
            | Verdict::ToldOnly
            | Verdict::BookedUnseen
            | Verdict::NotOnChain => Self::MissingOnChain,
            Verdict::PullAmount
            | Verdict::HeldAmount
            | Verdict::RecordAmount
            | Verdict::SplitAmount
            | Verdict::ToldAmount
            | Verdict::Receipt
            | Verdict::MirrorAmount => Self::AmountMismatch,
            Verdict::Payee | Verdict::RecordCapability | Verdict::SplitTerms => {
                Self::RecipientMismatch
            }
            Verdict::PulledTwice | Verdict::RecordedTwice | Verdict::RecordShared => {
                Self::Duplicate
            }
        }
    }
}

/// Whether ledger and chain differ by a verdict. Whoever signed an authorization can sign another one
/// with its nonce, over a micro-USDC, and use that first: nothing was paid, and nothing differs.
pub(super) fn is_drift(verdict: Verdict) -> bool {
    verdict != Verdict::HeldAmount && Category::of(verdict).is_drift()
}

/// A verdict in words.
pub(super) const fn words_of(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Matched => "pulled, recorded, split and booked",
        Verdict::Passed => "pulled past the Splitter to its payee, and booked",
        Verdict::Pending => "on its way",
        Verdict::RecordLate => "recorded more than two blocks after its pull",
        Verdict::SplitLate => "split more than four blocks after its pull",
        Verdict::Inflow => "no payment asked for it; it is in suspense",
        Verdict::PullUnknown => "pulled by us, and the ledger lacks the payment",
        Verdict::PullNotNoted => "pulled, and the ledger has not noticed",
        Verdict::RecordUnknown => "recorded, and the ledger lacks the payment",
        Verdict::RecordNotNoted => "recorded, and the ledger has not noticed",
        Verdict::SplitNotNoted => "split, and the ledger has not noticed",
        Verdict::NotBooked => "no journal books this log",
        Verdict::NotMirrored => "the mirror lacks this log",
        Verdict::PullGone => "the pull that the ledger cites is not there",
        Verdict::PullOther => "the pull that the ledger cites is another payment's",
        Verdict::RecordGone => "the record that the ledger cites is not there",
        Verdict::RecordOther => "the record that the ledger cites is another payment's",
        Verdict::SplitGone => "the split that the ledger cites is not there, or before the record",
        Verdict::ToldOnly => "whoever pulled says so, and the payment has no such pull",
        Verdict::BookedUnseen => "a journal books a log that is not there",
        Verdict::NotOnChain => "the mirror has a log that the chain lacks",
        Verdict::PullAmount => "pulled with another amount than agreed",
        Verdict::HeldAmount => {
            "its authorization was used for another amount; the payment is held, the money in suspense"
        }
        Verdict::RecordAmount => "recorded with another amount than agreed",
        Verdict::SplitAmount => "a split of another sum than that of its payments",
        Verdict::ToldAmount => "whoever pulled says another amount",
        Verdict::Receipt => "the receipt disagrees with the ledger; the payment is held",
        Verdict::MirrorAmount => "the mirror has another amount than the chain",
        Verdict::Payee => "the payee is not the Splitter",
        Verdict::RecordCapability => "recorded for another capability than paid for",
        Verdict::SplitTerms => "split on other terms than sold, or contradicted otherwise",
        Verdict::PulledTwice => "a second pull of one payment",
        Verdict::RecordedTwice => "more than one record of one payment",
        Verdict::RecordShared => "several payments cite one record",
    }
}
