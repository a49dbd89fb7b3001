//! The time in which a pull can be made. The chain's clock decides.

/// Seconds that must be left of a pull's window when it gets its account nonce.
const MIN_SECONDS: u64 = 4;

/// Whether a pull that is not mined before the second `valid_before` is begun no more.
pub const fn is_closing(valid_before: u64, now: u64) -> bool {
    valid_before < now.saturating_add(MIN_SECONDS)
}

/// Whether a pull cannot succeed any more.
pub const fn is_closed(valid_before: u64, now: u64) -> bool {
    now >= valid_before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_the_second() {
        assert!(!is_closing(10, 6) && is_closing(10, 7));
        assert!(!is_closed(10, 9) && is_closed(10, 10));
    }
}
