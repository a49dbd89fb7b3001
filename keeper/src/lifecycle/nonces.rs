//! How many account nonces may be used that are not mined, and that a ledger knows nothing of.

/// Transactions of one signer that are not mined yet. Nodes take 16 per sender.
const MAX_PENDING: u64 = 12;
/// So many account nonces beyond what any node has seen may be used by lost envelopes: as many as
/// are ever under way at once.
const MARGIN: u64 = MAX_PENDING;

/// How many more transactions may get an account nonce when so many are not mined.
pub const fn room(pending: u64) -> u64 {
    MAX_PENDING.saturating_sub(pending)
}

/// Whether the chain has seen more of a signer than the ledger has allocated: then the ledger is an
/// old copy, or somebody else has the key.
pub const fn knows_less(allocated: u64, seen: u64) -> bool {
    seen > allocated
}

/// The first account nonce that is certainly free, when a ledger that may have lost some has
/// allocated and nodes have seen so many.
pub fn certainly_free(allocated: u64, seen: u64) -> u64 {
    allocated.max(seen).saturating_add(MARGIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_under_way_than_a_quarantine_occupies() {
        assert_eq!((room(0), room(11), room(12), room(13)), (MARGIN, 1, 0, 0));
        assert_eq!(certainly_free(5, 3) - 5, room(0));
        assert_eq!(certainly_free(3, 5) - 5, room(0));
    }

    #[test]
    fn a_ledger_that_knows_all_is_no_old_copy() {
        assert!(!knows_less(5, 5));
        assert!(knows_less(5, 6));
    }
}
