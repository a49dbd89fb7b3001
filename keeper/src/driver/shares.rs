//! How one split on the chain divides over the settlements that it covers.

use crate::{ledger::Shares, splitter::SplitterEvent, x402::MicroUsdc};
use alloy::primitives::U256;

/// The shares of settlements with these amounts, in log order, in a `PaymentSplit` that covers them
/// all and nothing else; `None` when it does not.
///
/// The contract rounds once per split. Each settlement first gets the floor of its proportion; the
/// few units left over go to the settlements in order, provider first. So every settlement's shares
/// sum to its amount and every party's to what it was paid, to the micro-USDC.
pub(crate) fn allocate(split: &SplitterEvent, amounts: &[MicroUsdc]) -> Option<Vec<Shares>> {
    let SplitterEvent::PaymentSplit { amount, provider_amount, hub_amount, reserve_amount, .. } =
        *split
    else {
        return None;
    };
    let total = amounts.iter().try_fold(MicroUsdc::ZERO, |sum, part| sum.checked_add(*part))?;
    if U256::from(total.micro()) != amount || amount.is_zero() {
        return None;
    }
    let columns = [provider_amount, hub_amount, reserve_amount];
    let mut left = [0u64; 3];
    for (left, column) in left.iter_mut().zip(columns) {
        *left = u64::try_from(column).ok()?;
    }
    let mut rows = Vec::with_capacity(amounts.len());
    for part in amounts {
        let mut row = [0u64; 3];
        for ((cell, left), column) in row.iter_mut().zip(&mut left).zip(columns) {
            *cell = u64::try_from(column * U256::from(part.micro()) / amount).ok()?;
            *left = left.checked_sub(*cell)?;
        }
        rows.push(row);
    }
    let mut shares = Vec::with_capacity(amounts.len());
    for (part, mut row) in amounts.iter().zip(rows) {
        let mut missing = part.micro().checked_sub(row.iter().sum())?;
        for (cell, left) in row.iter_mut().zip(&mut left) {
            let more = missing.min(*left);
            *cell = cell.checked_add(more)?;
            *left -= more;
            missing -= more;
        }
        if missing != 0 {
            return None;
        }
        let [provider, hub, reserve] = row;
        shares.push(Shares {
            provider: MicroUsdc::new(provider).ok()?,
            hub: MicroUsdc::new(hub).ok()?,
            reserve: MicroUsdc::new(reserve).ok()?,
        });
    }
    (left == [0; 3]).then_some(shares)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::primitives::{Address, B256};

    fn split(amount: u64, bps: [u64; 2]) -> SplitterEvent {
        let provider = amount * bps[0] / 10_000;
        let hub = amount * bps[1] / 10_000;
        SplitterEvent::PaymentSplit {
            capability_id: B256::ZERO,
            payer: Address::ZERO,
            amount: U256::from(amount),
            provider_amount: U256::from(provider),
            hub_amount: U256::from(hub),
            reserve_amount: U256::from(amount - provider - hub),
        }
    }

    fn amounts(micro: &[u64]) -> Vec<MicroUsdc> {
        micro.iter().map(|micro| MicroUsdc::new(*micro).unwrap()).collect()
    }

    #[test]
    fn one_payment_gets_the_split_itself() {
        let shares = allocate(&split(200_000, [8_500, 1_000]), &amounts(&[200_000])).unwrap();
        assert_eq!(shares[0].provider.micro(), 170_000);
        assert_eq!(shares[0].hub.micro(), 20_000);
        assert_eq!(shares[0].reserve.micro(), 10_000);
    }

    /// Rows and columns both sum exactly, whatever the rounding: a walk over awkward amounts, each
    /// step another split.
    #[test]
    fn sums_are_exact() {
        let mut seed = 1u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..2_000 {
            let parts: Vec<u64> = (0..=next(40)).map(|_| 1 + next(300)).collect();
            let provider = next(10_001);
            let bps = [provider, next(10_001 - provider)];
            let event = split(parts.iter().sum(), bps);
            let shares = allocate(&event, &amounts(&parts)).unwrap();
            let SplitterEvent::PaymentSplit { provider_amount, hub_amount, .. } = event else {
                continue;
            };
            for (share, part) in shares.iter().zip(&parts) {
                assert_eq!(
                    share.provider.micro() + share.hub.micro() + share.reserve.micro(),
                    *part
                );
            }
            let sum = |pick: fn(&Shares) -> u64| U256::from(shares.iter().map(pick).sum::<u64>());
            assert_eq!(sum(|share| share.provider.micro()), provider_amount);
            assert_eq!(sum(|share| share.hub.micro()), hub_amount);
        }
    }

    #[test]
    fn a_split_of_another_sum_is_refused() {
        assert_eq!(allocate(&split(200_001, [8_500, 1_000]), &amounts(&[200_000])), None);
        assert_eq!(allocate(&split(200_000, [8_500, 1_000]), &[]), None);
    }
}
