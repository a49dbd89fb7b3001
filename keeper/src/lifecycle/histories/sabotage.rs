//! Ways to break the protocol around the pure functions. Each must be noticed.

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sabotage {
    /// Nothing.
    None,
    /// A process that was replaced may still write.
    NoFence,
    /// An envelope is sent before it is committed.
    SentBeforeCommit,
    /// A replacement is sent and never committed.
    ReplacedWithoutCommit,
    /// A send that nobody answered frees the work.
    UnknownSendForgotten,
    /// So does a minute without a receipt.
    NonceFreedOnTimeout,
    /// An account nonce is gone when the newest block says so.
    DecidedByLatest,
    /// A no-op in any block gives the work back.
    PlannedAnewBeforeFinality,
    /// A record is sent whatever became of its pull.
    RecordedWithoutPull,
    /// Open work is done without asking the mirror whether somebody did it.
    RecordsNotLookedFor,
    /// Nobody looks who took an account nonce that is gone.
    OwnerNotLookedFor,
    /// Quarantine occupies only what some node has seen.
    NoMargin,
    /// Quarantine does not keep work from account nonces.
    QuarantineIgnored,
    /// Quarantine does not wait for the mirror.
    QuarantineWithoutMirror,
    /// The mirror follows a node that is behind what was final.
    MirrorGoesBack,
    /// A restored ledger goes on.
    RestoreUnnoticed,
    /// A spending limit stops nothing.
    LimitIgnored,
}

impl Sabotage {
    /// Those that chance finds soon. [`Self::MirrorGoesBack`] has a history of its own.
    pub(super) const ALL: [Self; 15] = [
        Self::NoFence,
        Self::SentBeforeCommit,
        Self::ReplacedWithoutCommit,
        Self::UnknownSendForgotten,
        Self::NonceFreedOnTimeout,
        Self::DecidedByLatest,
        Self::PlannedAnewBeforeFinality,
        Self::RecordedWithoutPull,
        Self::RecordsNotLookedFor,
        Self::OwnerNotLookedFor,
        Self::NoMargin,
        Self::QuarantineIgnored,
        Self::QuarantineWithoutMirror,
        Self::RestoreUnnoticed,
        Self::LimitIgnored,
    ];
}
