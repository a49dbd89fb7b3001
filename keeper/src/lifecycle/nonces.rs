//! How many account nonces may be used that are not mined, and that a ledger knows nothing of.

/// Most transactions of one signer that may be under way and not mined: nodes take so many per
/// sender.
pub const MAX_PENDING: u64 = 16;
/// So many are, unless an operator says something else: a no-op or two must always find room.
pub const DEFAULT_PENDING: u64 = 12;
/// So many account nonces beyond what any node has seen may be used by lost envelopes: as many as
/// are ever under way at once.
const MARGIN: u64 = MAX_PENDING;

/// How many more transactions may get an account nonce when so many are not mined, of so many.
pub fn room(pending: u64, most: u64) -> u64 {
    most.min(MAX_PENDING).saturating_sub(pending)
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
        let left = |pending| room(pending, DEFAULT_PENDING);
        assert_eq!((left(0), left(11), left(12), left(13)), (12, 1, 0, 0));
        let most = room(0, u64::MAX);
        assert_eq!(certainly_free(5, 3) - 5, most);
        assert_eq!(certainly_free(3, 5) - 5, most);
    }

    #[test]
    fn a_ledger_that_knows_all_is_no_old_copy() {
        assert!(!knows_less(5, 5));
        assert!(knows_less(5, 6));
    }
}
