//! Where the program may die: before and after every commit and every send.
//!
//! Each of them names its point, and the compiler asks for it. With the feature `failpoints`, which
//! no production build has, `KEEPER_FAILPOINT=<when>:<point>:<n>:<action>` ends the process there
//! as a crash does (`kill`), pauses it (`stop`), or panics (`panic`): `after:plan:2:kill` is "right after the second
//! commit that planned a transaction".

use crate::lifecycle::words;

/// A commit or a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    /// Commit: a Splitter is entered.
    Enter,
    /// Commit: the lease is taken.
    Acquire,
    /// Commit: the lease is extended.
    Renew,
    /// Commit: the lease is given back.
    Release,
    /// Commit: an identity is reserved and its pull handed over.
    Reserve,
    /// Commit: a call of an agent is counted, or its provenance used up.
    Admit,
    /// Commit: the provider is about to be called.
    BeginDelivery,
    /// Commit: what came of it.
    EndDelivery,
    /// Commit: nobody knows what came of it.
    LoseDelivery,
    /// Commit: a paid call that nobody serves is given up.
    ForgoDelivery,
    /// Commit: the mirror takes over a range of blocks.
    Mirror,
    /// Commit: records and splits are found and asked for.
    Drive,
    /// Commit: a payment is confirmed.
    Confirm,
    /// Commit: a payment's window is closed.
    Close,
    /// Commit: a payment is orphaned.
    Orphan,
    /// Commit: blocks are booked.
    Book,
    /// Commit: what was booked from blocks that a reorg took is reversed.
    Reverse,
    /// Commit: a Splitter is closed, because chain, journal and settlements disagree.
    Drift,
    /// Commit: a signer is taken over.
    Adopt,
    /// Commit: intake is closed or opened.
    Purse,
    /// Commit: a pull whose window is over is cancelled.
    Expire,
    /// C0, commit: work is claimed, its account nonce allocated, its transaction written.
    Plan,
    /// Commit: work is put off.
    Defer,
    /// Commit: work is flagged as late.
    Flag,
    /// C2, commit: the first envelope of a transaction. C1 is right before it.
    First,
    /// C4, commit: a replacement for higher fees.
    Bump,
    /// C4, commit: a replacement that does nothing.
    Noop,
    /// Send: an envelope is handed to the nodes. C3 is right after it.
    Send,
    /// Commit: a transaction counts as sent, or lost its block.
    Broadcast,
    /// Commit: a transaction is mined.
    Included,
    /// Commit: its block is posted to L1.
    Safe,
    /// Commit: its block is final.
    Finalized,
    /// Commit: it reverted.
    Reverted,
    /// Commit: a no-op took its account nonce.
    Superseded,
    /// Commit: nobody knows who took its account nonce.
    Parked,
    /// Commit: an operator's order is carried out.
    Order,
    /// Commit: account nonces are occupied in quarantine, or it ends.
    Quarantine,
    /// Commit: the newest final block is remembered.
    Finality,
    /// Commit: a refund is asked for, decided or paid.
    Refund,
    /// Commit: a capability is not sold any more because too many of its calls fail, or is again.
    Hold,
    /// Commit: what was found about token, clock, endpoints and blocks that were read again.
    Watch,
    /// Commit: payments are rebuilt from the chain.
    Rebuild,
    /// Commit: events get their positions, and a seal.
    Seal,
    /// Commit: a payment is handed to the facilitator.
    HandOver,
    /// Commit: what the facilitator says it did.
    Attest,
    /// Commit: the facilitator will not settle a payment.
    Withdraw,
    /// Commit: what others are told is written down, or what came of telling them.
    Webhook,
    /// Commit: a URL that is not called is kept.
    Refuse,
}

words!(Point {
    Enter => "enter",
    Acquire => "acquire",
    Renew => "renew",
    Release => "release",
    Reserve => "reserve",
    Admit => "admit",
    BeginDelivery => "begin_delivery",
    EndDelivery => "end_delivery",
    LoseDelivery => "lose_delivery",
    ForgoDelivery => "forgo_delivery",
    Mirror => "mirror",
    Drive => "drive",
    Confirm => "confirm",
    Close => "close",
    Orphan => "orphan",
    Book => "book",
    Reverse => "reverse",
    Drift => "drift",
    Adopt => "adopt",
    Purse => "purse",
    Expire => "expire",
    Plan => "plan",
    Defer => "defer",
    Flag => "flag",
    First => "first",
    Bump => "bump",
    Noop => "noop",
    Send => "send",
    Broadcast => "broadcast",
    Included => "included",
    Safe => "safe",
    Finalized => "finalized",
    Reverted => "reverted",
    Superseded => "superseded",
    Parked => "parked",
    Order => "order",
    Quarantine => "quarantine",
    Finality => "finality",
    Refund => "refund",
    Hold => "hold",
    Watch => "watch",
    Rebuild => "rebuild",
    Seal => "seal",
    HandOver => "hand_over",
    Attest => "attest",
    Withdraw => "withdraw",
    Webhook => "webhook",
    Refuse => "refuse",
});

impl Point {
    /// The last moment before.
    pub(crate) fn before(self) {
        reach("before", self);
    }

    /// The first moment after.
    pub(crate) fn after(self) {
        reach("after", self);
    }
}

#[cfg(not(feature = "failpoints"))]
const fn reach(_: &str, _: Point) {}

#[cfg(feature = "failpoints")]
fn reach(when: &str, point: Point) {
    use rustix::process::{Signal, getpid, kill_process};
    use std::sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    };
    static ARMED: LazyLock<Option<String>> =
        LazyLock::new(|| std::env::var("KEEPER_FAILPOINT").ok());
    static REACHED: AtomicU32 = AtomicU32::new(0);
    let Some(armed) = ARMED.as_deref() else { return };
    let mut parts = armed.split(':');
    if parts.next() != Some(when) || parts.next() != Some(point.as_str()) {
        return;
    }
    let n = REACHED.fetch_add(1, Ordering::SeqCst).saturating_add(1);
    if parts.next().and_then(|n| n.parse().ok()) != Some(n) {
        return;
    }
    let action = parts.next();
    eprintln!("failpoint {armed}");
    if action == Some("panic") {
        #[expect(clippy::panic, reason = "that is what was asked for")]
        {
            panic!("failpoint {armed}");
        }
    }
    let signal = if action == Some("stop") { Signal::STOP } else { Signal::KILL };
    if let Err(error) = kill_process(getpid(), signal) {
        eprintln!("failpoint {armed}: {error}");
    }
    // A stop reaches this thread a moment later than the process.
    std::thread::sleep(std::time::Duration::from_millis(200));
}
