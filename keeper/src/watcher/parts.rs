//! A reading is stored in parts: whoever holds the SQL transaction holds up the lease's renewal.

use super::places;
use crate::ledger::MirrorWindow;
use alloy::primitives::B256;

/// Most logs stored in one SQL transaction, unless one block has more.
pub(super) const MAX_LOGS: usize = 2_000;

/// Cuts a reading between blocks, into parts of at most so many logs. The first ends at `floor` or
/// behind it: a mirror must not end before where it ended.
pub(super) fn parts(mut rest: MirrorWindow, most: usize, floor: u64) -> Vec<MirrorWindow> {
    let mut parts = Vec::new();
    while let Some(end) = first_end(&rest, most, floor) {
        let (block, hash) = end;
        let behind = MirrorWindow {
            from: block.saturating_add(1),
            to: rest.to,
            head_hash: rest.head_hash,
            pulls: cut(&mut rest.pulls, |pull| pull.at.block_number <= block),
            passed: cut(&mut rest.passed, |pull| pull.at.block_number <= block),
            payouts: cut(&mut rest.payouts, |payout| payout.at.block_number <= block),
            logs: cut(&mut rest.logs, |log| log.at.block_number <= block),
        };
        parts.push(MirrorWindow { to: block, head_hash: hash, ..rest });
        rest = behind;
    }
    parts.push(rest);
    parts
}

/// Where the first part ends, if it is not the whole: number and hash of a block that has logs.
fn first_end(window: &MirrorWindow, most: usize, floor: u64) -> Option<(u64, B256)> {
    let mut blocks: Vec<_> =
        places(window).into_iter().map(|at| (at.block_number, at.block_hash)).collect();
    blocks.sort_unstable();
    let last = blocks.last()?.0;
    if blocks.len() <= most {
        return None;
    }
    let mut end = None;
    let mut count = 0_usize;
    for of_block in blocks.chunk_by(|one, other| one == other) {
        count = count.saturating_add(of_block.len());
        let block = *of_block.first()?;
        if block.0 < floor {
            continue;
        }
        if end.is_some() && count > most {
            break;
        }
        end = Some(block);
    }
    end.filter(|end| end.0 < last)
}

/// Takes the tail of a list in chain order that is behind a block.
fn cut<T>(list: &mut Vec<T>, is_before: impl Fn(&T) -> bool) -> Vec<T> {
    list.split_off(list.partition_point(is_before))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ledger::{LogRef, Payout},
        x402::MicroUsdc,
    };
    use alloy::primitives::{Address, B256};

    /// Payouts in these blocks.
    fn window(blocks: &[u64]) -> MirrorWindow {
        let payout = |(index, block): (usize, &u64)| Payout {
            at: LogRef {
                tx_hash: B256::ZERO,
                log_index: index as u64,
                block_number: *block,
                block_hash: B256::with_last_byte(u8::try_from(*block).unwrap()),
            },
            block_timestamp: 0,
            recipient: Address::ZERO,
            amount: MicroUsdc::ZERO,
        };
        let payouts = blocks.iter().enumerate().map(payout).collect();
        let head_hash = B256::with_last_byte(99);
        MirrorWindow { from: 1, to: 99, head_hash, payouts, ..MirrorWindow::default() }
    }

    fn cuts(blocks: &[u64], floor: u64) -> Vec<(u64, u64, usize)> {
        let parts = parts(window(blocks), 3, floor);
        for part in &parts {
            assert_eq!(part.head_hash, B256::with_last_byte(u8::try_from(part.to).unwrap()));
        }
        parts.iter().map(|part| (part.from, part.to, part.payouts.len())).collect()
    }

    #[test]
    fn a_reading_is_cut_between_blocks() {
        assert_eq!(cuts(&[], 0), [(1, 99, 0)]);
        assert_eq!(cuts(&[5, 6, 7], 0), [(1, 99, 3)]);
        assert_eq!(cuts(&[5, 6, 6, 7, 8], 0), [(1, 6, 3), (7, 99, 2)]);
        assert_eq!(cuts(&[5, 6, 6, 6, 6, 8], 0), [(1, 5, 1), (6, 6, 4), (7, 99, 1)]);
        // No part ends before where the mirror ended.
        assert_eq!(cuts(&[5, 6, 6, 7, 8], 7), [(1, 7, 4), (8, 99, 1)]);
        assert_eq!(cuts(&[5, 6, 6, 7, 8], 50), [(1, 99, 5)]);
    }
}
