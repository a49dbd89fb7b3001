//! The words of a comparison between ledger and chain.

use crate::lifecycle::words;

/// What came of comparing one payment, log or journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Pulled, recorded, split and booked, and everybody says the same.
    Matched,
    /// Pulled past the Splitter to another payee, and booked; there is nothing to record.
    Passed,
    /// On its way, and nothing contradicts it so far.
    Pending,
    /// Recorded more than two blocks after its pull.
    RecordLate,
    /// Split more than four blocks after its pull.
    SplitLate,
    /// Money that no payment of this ledger asked for.
    Inflow,
    /// A pull that was ours, of a payment that the ledger does not have.
    PullUnknown,
    /// The ledger has not noticed the pull of a payment.
    PullNotNoted,
    /// A record of a payment that the ledger does not have.
    RecordUnknown,
    /// The ledger has not noticed the record of a payment.
    RecordNotNoted,
    /// The ledger has not noticed that a payment was split.
    SplitNotNoted,
    /// A log that no journal books.
    NotBooked,
    /// A log that the mirror lacks.
    NotMirrored,
    /// The pull that the ledger cites is not there.
    PullGone,
    /// The pull that the ledger cites is of another payment.
    PullOther,
    /// The record that the ledger cites is not there.
    RecordGone,
    /// The record that the ledger cites is of another payment.
    RecordOther,
    /// The split that the ledger cites is not there, or does not cover the record.
    SplitGone,
    /// Whoever pulled says that it did, and the payment has no such pull.
    ToldOnly,
    /// A journal of a log that is not there.
    BookedUnseen,
    /// A log of the mirror that the chain does not have.
    NotOnChain,
    /// Pulled with another amount than agreed.
    PullAmount,
    /// Somebody has used the authorization of a payment for another amount. The payment is held, and
    /// the money is booked in suspense.
    HeldAmount,
    /// Recorded with another amount than agreed.
    RecordAmount,
    /// A split of another sum than that of its payments.
    SplitAmount,
    /// Whoever pulled says another amount.
    ToldAmount,
    /// The receipt disagreed with the ledger; the payment is held.
    Receipt,
    /// The mirror has a log with another amount than the chain.
    MirrorAmount,
    /// The payee is not the Splitter.
    Payee,
    /// Recorded for another capability than paid for.
    RecordCapability,
    /// Split on other terms than sold, or the contract contradicts the ledger otherwise.
    SplitTerms,
    /// A second pull of one payment.
    PulledTwice,
    /// More than one record of one payment.
    RecordedTwice,
    /// One record that several payments cite.
    RecordShared,
}

words!(Verdict {
    Matched => "matched",
    Passed => "passed",
    Pending => "pending",
    RecordLate => "record_late",
    SplitLate => "split_late",
    Inflow => "inflow",
    PullUnknown => "pull_unknown",
    PullNotNoted => "pull_not_noted",
    RecordUnknown => "record_unknown",
    RecordNotNoted => "record_not_noted",
    SplitNotNoted => "split_not_noted",
    NotBooked => "not_booked",
    NotMirrored => "not_mirrored",
    PullGone => "pull_gone",
    PullOther => "pull_other",
    RecordGone => "record_gone",
    RecordOther => "record_other",
    SplitGone => "split_gone",
    ToldOnly => "told_only",
    BookedUnseen => "booked_unseen",
    NotOnChain => "not_on_chain",
    PullAmount => "pull_amount",
    HeldAmount => "held_amount",
    RecordAmount => "record_amount",
    SplitAmount => "split_amount",
    ToldAmount => "told_amount",
    Receipt => "receipt",
    MirrorAmount => "mirror_amount",
    Payee => "payee",
    RecordCapability => "record_capability",
    SplitTerms => "split_terms",
    PulledTwice => "pulled_twice",
    RecordedTwice => "recorded_twice",
    RecordShared => "record_shared",
});
