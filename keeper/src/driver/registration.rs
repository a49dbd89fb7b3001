//! On which terms a capability is, or was, registered, by the Splitter's logs.

use crate::{
    ledger::SplitterLog,
    splitter::{SplitTerms, SplitterEvent},
};

/// The terms on which a split at this position divides. A deactivation splits on the terms that it
/// ends.
pub(crate) fn terms_at(logs: &[SplitterLog], position: (u64, u64)) -> Option<SplitTerms> {
    logs.iter()
        .filter(|log| log.at.position() < position)
        .filter_map(|log| match log.event {
            SplitterEvent::CapabilityRegistered { terms, .. } => Some(terms),
            _ => None,
        })
        .next_back()
}

/// Whether the capability is registered now on exactly these terms.
pub(super) fn is_as_sold(logs: &[SplitterLog], sold: Option<SplitTerms>) -> bool {
    match logs.last().map(|log| log.event) {
        Some(SplitterEvent::CapabilityRegistered { terms, .. }) => sold == Some(terms),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::LogRef;
    use alloy::primitives::{Address, B256};

    fn terms(provider: u8, bps: [u16; 3]) -> SplitTerms {
        SplitTerms { provider: Address::repeat_byte(provider), bps }
    }

    fn log(block_number: u64, event: SplitterEvent) -> SplitterLog {
        let at = LogRef { tx_hash: B256::ZERO, log_index: 0, block_number, block_hash: B256::ZERO };
        SplitterLog { at, block_timestamp: 0, event, nonce: None }
    }

    fn history() -> Vec<SplitterLog> {
        let capability_id = B256::ZERO;
        let provider = Address::repeat_byte(1);
        let registered = |terms| SplitterEvent::CapabilityRegistered { capability_id, terms };
        vec![
            log(3, registered(terms(1, [8_500, 1_000, 500]))),
            log(5, SplitterEvent::CapabilityDeactivated { capability_id, provider }),
            log(7, registered(terms(2, [10_000, 0, 0]))),
        ]
    }

    #[test]
    fn a_split_divides_on_the_terms_of_its_moment() {
        let logs = history();
        assert_eq!(terms_at(&logs, (3, 0)), None);
        assert_eq!(terms_at(&logs, (4, 0)), Some(terms(1, [8_500, 1_000, 500])));
        // The split of the deactivation itself.
        assert_eq!(terms_at(&logs, (5, 1)), Some(terms(1, [8_500, 1_000, 500])));
        assert_eq!(terms_at(&logs, (9, 0)), Some(terms(2, [10_000, 0, 0])));
    }

    #[test]
    fn only_the_very_terms_are_as_sold() {
        let logs = history();
        let sold = Some(terms(1, [8_500, 1_000, 500]));
        assert!(is_as_sold(&logs[..1], sold));
        assert!(!is_as_sold(&logs[..2], sold), "deactivated");
        assert!(!is_as_sold(&logs, sold), "somebody else's");
        assert!(!is_as_sold(&logs[..1], Some(terms(1, [10_000, 0, 0]))), "other shares");
        assert!(!is_as_sold(&logs[..1], None));
        assert!(!is_as_sold(&[], sold));
    }
}
