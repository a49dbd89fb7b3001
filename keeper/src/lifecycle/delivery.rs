//! Whether the agent got what it paid for.

use super::{IllegalStep, words};

/// A delivery. `Calling` is committed before the provider is called, so that a crash in between
/// leaves `Unknown`, not silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// The provider has not been called.
    None,
    /// The provider is being called.
    Calling,
    /// The provider's answer is stored.
    Delivered,
    /// The provider refused or broke; a refund is due.
    Failed,
    /// Nobody knows whether the provider did it.
    Unknown,
}

words!(Delivery {
    None => "none",
    Calling => "calling",
    Delivered => "delivered",
    Failed => "failed",
    Unknown => "unknown",
});

/// What happens to a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryEvent {
    /// The provider is about to be called.
    Call,
    /// The provider answered.
    Answer,
    /// The provider refused or broke.
    Fail,
    /// Whoever called is gone, or waited too long.
    Lose,
    /// The agent paid and never came back for the answer.
    Forgo,
    /// A refund was asked for: the provider is not called again.
    Refund,
}

words!(DeliveryEvent {
    Call => "call",
    Answer => "answer",
    Fail => "fail",
    Lose => "lose",
    Forgo => "forgo",
    Refund => "refund",
});

/// Why an agent did not get what it paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The provider answered with an error, or with something that is no JSON.
    Error,
    /// It did not answer in time.
    Timeout,
    /// It could not be reached.
    Unavailable,
    /// Its answer was lost: nobody knows whether it did the work.
    Lost,
    /// The agent never came back for it.
    Forgone,
}

words!(Failure {
    Error => "error",
    Timeout => "timeout",
    Unavailable => "unavailable",
    Lost => "lost",
    Forgone => "forgone",
});

impl Failure {
    /// What it does to the delivery. A provider that was reached and did not say no may have done
    /// the work.
    pub const fn event(self) -> DeliveryEvent {
        match self {
            Self::Error | Self::Unavailable => DeliveryEvent::Fail,
            Self::Timeout | Self::Lost => DeliveryEvent::Lose,
            Self::Forgone => DeliveryEvent::Forgo,
        }
    }
}

impl Delivery {
    /// One step. An unknown delivery may be called again only when the capability is `idempotent`.
    ///
    /// # Errors
    /// When the machine has no such step.
    pub fn step(self, event: DeliveryEvent, idempotent: bool) -> Result<Self, IllegalStep> {
        match (self, event) {
            (Self::None, DeliveryEvent::Call) => Ok(Self::Calling),
            (Self::Unknown, DeliveryEvent::Call) if idempotent => Ok(Self::Calling),
            // An answer counts also when it was given up too early.
            (Self::Calling | Self::Unknown, DeliveryEvent::Answer) => Ok(Self::Delivered),
            (Self::Calling, DeliveryEvent::Fail)
            | (Self::None, DeliveryEvent::Forgo)
            // An agent that is refunded must not be served for it as well.
            | (Self::Unknown, DeliveryEvent::Refund) => Ok(Self::Failed),
            (Self::Calling, DeliveryEvent::Lose) => Ok(Self::Unknown),
            _ => Err(IllegalStep {
                machine: "delivery",
                state: self.to_string(),
                event: event.to_string(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_of_a_delivery() {
        for idempotent in [false, true] {
            let mut allowed = vec![
                "none call calling",
                "none forgo failed",
                "calling answer delivered",
                "unknown answer delivered",
                "calling fail failed",
                "calling lose unknown",
                "unknown refund failed",
            ];
            if idempotent {
                allowed.push("unknown call calling");
            }
            for state in Delivery::ALL {
                for event in DeliveryEvent::ALL {
                    let expected =
                        allowed.iter().find(|line| line.starts_with(&format!("{state} {event} ")));
                    let step = state.step(*event, idempotent).ok();
                    let step = step.map(|to| format!("{state} {event} {to}"));
                    assert_eq!(step.as_deref(), expected.copied(), "{state} {event}");
                }
            }
        }
    }
}
