//! Giving back what an agent paid for nothing: what may happen to a refund, and when a human must look
//! at it first.

use super::{IllegalStep, words};
use crate::x402::MicroUsdc;

/// A refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefundState {
    /// A human must decide.
    Held,
    /// It is owed.
    Approved,
    /// It was handed to the treasury's Safe.
    Proposed,
    /// The treasury's Transfer was seen at a final block.
    Paid,
    /// A human decided against it.
    Denied,
}

words!(RefundState {
    Held => "held",
    Approved => "approved",
    Proposed => "proposed",
    Paid => "paid",
    Denied => "denied",
});

/// What happens to a refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefundEvent {
    /// A human agrees.
    Approve,
    /// A human does not, or takes back what was agreed.
    Deny,
    /// It is written into a file for the Safe, perhaps again.
    Propose,
    /// The treasury has paid it.
    Pay,
}

words!(RefundEvent {
    Approve => "approve",
    Deny => "deny",
    Propose => "propose",
    Pay => "pay",
});

impl RefundState {
    /// One step.
    ///
    /// # Errors
    /// When the machine has no such step.
    pub fn step(self, event: RefundEvent) -> Result<Self, IllegalStep> {
        match (self, event) {
            (Self::Held, RefundEvent::Approve) => Ok(Self::Approved),
            (Self::Held | Self::Approved | Self::Proposed, RefundEvent::Deny) => Ok(Self::Denied),
            (Self::Approved | Self::Proposed, RefundEvent::Propose) => Ok(Self::Proposed),
            (Self::Approved | Self::Proposed, RefundEvent::Pay) => Ok(Self::Paid),
            _ => Err(IllegalStep {
                machine: "refund",
                state: self.to_string(),
                event: event.to_string(),
            }),
        }
    }

    /// Whether it is owed and not paid yet: the journal has it as a liability.
    pub const fn is_owed(self) -> bool {
        matches!(self, Self::Approved | Self::Proposed)
    }
}

/// Why a human must decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HoldReason {
    /// The agent never came back for it: whoever pays late on purpose would be given back what the
    /// provider keeps.
    Forgone,
    /// The agent has asked for too many in 24 hours.
    AgentDayLimit,
    /// The amount is large.
    ReviewAmount,
    /// The hub has taken on too much in seven days.
    WeekLimit,
}

words!(HoldReason {
    Forgone => "forgone",
    AgentDayLimit => "agent_day_limit",
    ReviewAmount => "review_amount",
    WeekLimit => "week_limit",
});

/// What is refunded, and what is sold, without asking anybody (S06 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefundPolicy {
    /// Most refunds of an agent in 24 hours.
    pub agent_day: u64,
    /// A larger amount is looked at first.
    pub review_above: MicroUsdc,
    /// Most that is given back in seven days.
    pub week_limit: MicroUsdc,
    /// Most calls of a hundred of a capability that may fail within an hour.
    pub failure_percent: u64,
    /// So many calls must have ended before that is judged.
    pub failure_sample: u64,
    /// So many payers must have failed calls: one agent alone takes nothing off sale.
    pub failure_payers: u64,
}

impl Default for RefundPolicy {
    fn default() -> Self {
        Self {
            agent_day: 10,
            review_above: MicroUsdc::new(10_000_000).unwrap_or_default(),
            week_limit: MicroUsdc::new(500_000_000).unwrap_or_default(),
            failure_percent: 5,
            failure_sample: 20,
            failure_payers: 3,
        }
    }
}

/// What was asked for and given before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefundHistory {
    /// Refunds asked for by the same agent in the last 24 hours, whatever became of them.
    pub agent_day: u64,
    /// Micro-USDC agreed to in the last seven days, to anybody.
    pub week_micro: u64,
}

impl RefundPolicy {
    /// Why a refund needs a human; `None` when it is approved at once.
    pub fn hold(&self, amount: MicroUsdc, before: RefundHistory) -> Option<HoldReason> {
        let week = before.week_micro.saturating_add(amount.micro());
        if before.agent_day >= self.agent_day {
            Some(HoldReason::AgentDayLimit)
        } else if amount > self.review_above {
            Some(HoldReason::ReviewAmount)
        } else if week > self.week_limit.micro() {
            Some(HoldReason::WeekLimit)
        } else {
            None
        }
    }

    /// Whether so many failures of so many calls, paid by so many, are too many to go on selling
    ///
    pub fn is_failing(&self, finished: u64, failed: u64, failed_payers: u64) -> bool {
        let failed = u128::from(failed).saturating_mul(100);
        let allowed = u128::from(finished).saturating_mul(u128::from(self.failure_percent));
        finished >= self.failure_sample && failed_payers >= self.failure_payers && failed > allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_of_a_refund() {
        let allowed = [
            "held approve approved",
            "held deny denied",
            "approved deny denied",
            "proposed deny denied",
            "approved propose proposed",
            "proposed propose proposed",
            "approved pay paid",
            "proposed pay paid",
        ];
        for state in RefundState::ALL {
            for event in RefundEvent::ALL {
                let expected =
                    allowed.iter().find(|line| line.starts_with(&format!("{state} {event} ")));
                let step = state.step(*event).ok();
                let step = step.map(|to| format!("{state} {event} {to}"));
                assert_eq!(step.as_deref(), expected.copied(), "{state} {event}");
            }
        }
    }

    fn usdc(micro: u64) -> MicroUsdc {
        MicroUsdc::new(micro).unwrap()
    }

    /// each limit holds at its number and not before.
    #[test]
    fn a_refund_is_held_above_each_limit_and_not_at_it() {
        let policy = RefundPolicy::default();
        let hold = |amount, agent_day, week_micro| {
            policy.hold(usdc(amount), RefundHistory { agent_day, week_micro })
        };
        assert_eq!(hold(200_000, 9, 0), None, "the tenth of the agent");
        assert_eq!(hold(200_000, 10, 0), Some(HoldReason::AgentDayLimit), "the eleventh");
        assert_eq!(hold(10_000_000, 0, 0), None);
        assert_eq!(hold(10_000_001, 0, 0), Some(HoldReason::ReviewAmount));
        assert_eq!(hold(10_000_000, 0, 490_000_000), None);
        assert_eq!(hold(10_000_000, 0, 490_000_001), Some(HoldReason::WeekLimit));
        assert_eq!(hold(1, 0, u64::MAX), Some(HoldReason::WeekLimit));
    }

    /// more than five of a hundred, of twenty at least.
    #[test]
    fn a_capability_fails_too_often_above_five_percent_of_twenty_calls() {
        let policy = RefundPolicy::default();
        assert!(!policy.is_failing(19, 19, 19), "too few to judge");
        assert!(!policy.is_failing(20, 1, 3), "five percent");
        assert!(policy.is_failing(20, 3, 3));
        assert!(!policy.is_failing(20, 20, 2), "two payers only");
        assert!(!policy.is_failing(100, 5, 5));
        assert!(policy.is_failing(100, 6, 3));
        assert!(policy.is_failing(u64::MAX, u64::MAX, u64::MAX));
    }
}
