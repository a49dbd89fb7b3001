//! The token and the Splitter (version 1), and what each of them lets pass.

/// Payments of one history. Two are needed for a theft: one is recorded twice, with the other's
/// money.
pub(super) const PAYMENTS: usize = 3;

/// What a transaction does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Moves a payment's money to the Splitter.
    Pull(usize),
    /// Accounts it.
    Record(usize),
    /// Divides what is accounted; each intent to split has its number.
    Split(u32),
    /// Nothing.
    Nothing,
}

impl Content {
    /// Gas that it uses, and its limit.
    pub(super) const fn gas(self) -> u64 {
        if matches!(self, Self::Nothing) { 1 } else { 3 }
    }
}

/// The accounts and contracts after a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct State {
    /// Transaction counts of puller and settler.
    pub(super) counts: [u64; 2],
    /// Their balances.
    pub(super) wei: [u64; 2],
    /// Authorizations that are used.
    pub(super) pulled: [bool; PAYMENTS],
    /// How often each payment is recorded: the contract does not care.
    pub(super) records: [u8; PAYMENTS],
    /// Payments whose record a split covers.
    pub(super) split: [bool; PAYMENTS],
    /// Money that is accounted to the capability.
    pub(super) accounted: u8,
    /// Money at the Splitter that is not accounted.
    pub(super) unaccounted: u8,
    /// Intents to split that were done.
    pub(super) splits: u64,
    /// An intent to split that was done twice.
    pub(super) split_twice: Option<u32>,
}

impl State {
    /// Whether it would succeed in a block of this time.
    pub(super) fn would_succeed(&self, content: Content, time: u64, windows: &[u64]) -> bool {
        match content {
            Content::Pull(payment) => !self.pulled[payment] && time < windows[payment],
            Content::Record(_) => self.unaccounted > 0,
            Content::Split(_) => self.accounted > 0,
            Content::Nothing => true,
        }
    }

    pub(super) fn execute(&mut self, content: Content, time: u64, windows: &[u64]) -> bool {
        if !self.would_succeed(content, time, windows) {
            return false;
        }
        match content {
            Content::Pull(payment) => {
                self.pulled[payment] = true;
                self.unaccounted += 1;
            }
            Content::Record(payment) => {
                self.records[payment] += 1;
                self.unaccounted -= 1;
                self.accounted += 1;
            }
            Content::Split(number) => {
                self.accounted = 0;
                for payment in 0..PAYMENTS {
                    self.split[payment] |= self.records[payment] > 0;
                }
                let bit = 1u64.checked_shl(number).unwrap_or(0);
                if self.splits & bit != 0 {
                    self.split_twice = Some(number);
                }
                self.splits |= bit;
            }
            Content::Nothing => {}
        }
        true
    }
}
