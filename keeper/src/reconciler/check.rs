//! Holding journal, settlements, mirror and contracts against one another, as of the last booked
//! block, all the time (agentwallet's J2 to J9, and R-155). J1, that each journal balances, the
//! database itself demands.
//!
//! A difference that is there at two different blocks in a row is none of the moment: the Splitter
//! is closed until somebody has found out.

use super::{Reconciler, ReconcilerError};
use crate::{
    chain::{BlockTag, Chain},
    eip3009::FiatToken,
    failpoint::Point,
    ledger::{
        Account, AccountCode, Action, Attribution, ClosureReason, SplitterRecord, Standing, Stream,
    },
    metrics::{ATTRIBUTION_DRIFT_TOTAL, BOOKS_CHECKS_TOTAL},
    splitter::JecpSplitter,
};
use alloy::primitives::{B256, U256};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};
use tokio::time::Instant;

/// Most questions put to a node at once.
const AT_ONCE: usize = 8;

/// What the contracts hold, at the last booked block.
#[derive(Debug, Default)]
struct Contracts {
    /// The Splitter's USDC.
    held: i128,
    /// What is accounted to each capability.
    accounted: BTreeMap<B256, i128>,
}

/// Two sources that differ.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Difference {
    /// Which promise is broken.
    invariant: &'static str,
    /// Of which account or capability, if of one.
    of: Option<B256>,
    /// What one source has.
    expected: i128,
    /// What the other has.
    found: i128,
}

impl Difference {
    const fn key(&self) -> (&'static str, Option<B256>) {
        (self.invariant, self.of)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { invariant, of, expected, found } = self;
        write!(f, "{invariant}: {expected} expected, {found} found")?;
        match of {
            Some(capability) => write!(f, " ({capability})"),
            None => Ok(()),
        }
    }
}

/// What the last check found.
#[derive(Debug, Default)]
pub(super) struct Checked {
    at: Option<Instant>,
    block: Option<u64>,
    differences: BTreeSet<(&'static str, Option<B256>)>,
}

impl Reconciler {
    /// Checks once, if it is time and something was booked since.
    pub(super) async fn check(&self, last: &mut Checked) -> Result<(), ReconcilerError> {
        let SplitterRecord { chain_id, address, first_block, .. } = self.splitter;
        if last.at.is_some_and(|at| at.elapsed() < self.interval) {
            return Ok(());
        }
        let mut tx = self.ledger.read().await?;
        // Sums over everything that ever happened: not for a block that has been looked at.
        let next = tx.cursor(chain_id, address, Stream::Journal).await?;
        if last.block.is_some() && last.block == next.and_then(|next| next.checked_sub(1)) {
            last.at = Some(Instant::now());
            return Ok(());
        }
        let standing = tx.standing(chain_id, address, first_block).await?;
        drop(tx);
        let Some(standing) = standing else { return Ok(()) };
        last.at = Some(Instant::now());
        let Some(contracts) = self.contracts(&standing).await? else { return Ok(()) };
        let found = compare(&standing, &contracts);
        BOOKS_CHECKS_TOTAL.add(1, [if found.is_empty() { "hold" } else { "drift" }]);
        let again: Vec<_> =
            found.iter().filter(|one| last.differences.contains(&one.key())).collect();
        last.block = Some(standing.block);
        last.differences = found.iter().map(Difference::key).collect();
        for difference in &found {
            tracing::warn!(
                splitter = %address, block = standing.block, %difference,
                "chain, journal and settlements differ"
            );
        }
        if again.is_empty() { Ok(()) } else { self.close_for_drift(standing.block, &again).await }
    }

    /// What the contracts held when the last booked block was the newest. `None` when the node is
    /// on another chain than the mirror.
    async fn contracts(&self, standing: &Standing) -> Result<Option<Contracts>, ReconcilerError> {
        let SplitterRecord { address, asset, .. } = self.splitter;
        let (end, hash) = standing.mirror_end;
        let node = self.chain.pinned_at(end).await?;
        if node.head(BlockTag::Number(end)).await?.hash != hash {
            return Ok(None);
        }
        let block = BlockTag::Number(standing.block);
        let held = node.call(asset, &FiatToken::balanceOfCall { account: address }, block).await?;
        let capabilities = accounted(standing).into_keys();
        let accounted = stream::iter(capabilities)
            .map(|capability| self.accounted_to(&node, capability, block))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        Ok(Some(Contracts { held: signed(held)?, accounted }))
    }

    async fn accounted_to(
        &self,
        node: &Chain,
        capability: B256,
        block: BlockTag,
    ) -> Result<(B256, i128), ReconcilerError> {
        let call = JecpSplitter::accountedBalanceCall { capabilityId: capability };
        Ok((capability, signed(node.call(self.splitter.address, &call, block).await?)?))
    }

    async fn close_for_drift(
        &self,
        block: u64,
        differences: &[&Difference],
    ) -> Result<(), ReconcilerError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        ATTRIBUTION_DRIFT_TOTAL.add(1, []);
        let words: Vec<_> = differences.iter().map(ToString::to_string).collect();
        let detail = json!({"block": block, "differences": words});
        let words = format!("at block {block}: {}", words.join("; "));
        let mut tx = self.ledger.begin().await?;
        tx.hold_lease(&self.lease).await?;
        if !tx.close(chain_id, address, ClosureReason::Drift, &words).await? {
            return Ok(());
        }
        tx.log_action(Action::DriftDetected, Some((chain_id, address)), None, &detail).await?;
        tx.commit(Point::Drift).await?;
        tracing::error!(
            splitter = %address, detail = words,
            "ALARM: chain, journal and settlements disagree: the Splitter is closed"
        );
        Ok(())
    }
}

fn signed(value: U256) -> Result<i128, ReconcilerError> {
    i128::try_from(value).map_err(|_| ReconcilerError::Overflow("what a contract holds"))
}

/// Balances of the journal's accounts that begin with `prefix`, by capability.
fn by_capability(accounts: &[Account], prefix: &str) -> BTreeMap<B256, i128> {
    let accounts = accounts.iter().filter_map(|account| {
        let capability = account.code.strip_prefix(prefix)?.parse().ok()?;
        Some((capability, i128::from(account.balance)))
    });
    accounts.collect()
}

/// What the journal accounts to each capability that anybody knows of.
fn accounted(standing: &Standing) -> BTreeMap<B256, i128> {
    let mut all: BTreeMap<_, _> = standing.capabilities.keys().map(|known| (*known, 0)).collect();
    all.extend(by_capability(&standing.accounts, "accounted:"));
    all
}

/// Every promise that does not hold.
fn compare(standing: &Standing, contracts: &Contracts) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut expect = |invariant, of, expected: i128, actual: i128| {
        if expected != actual {
            found.push(Difference { invariant, of, expected, found: actual });
        }
    };
    let accounts = &standing.accounts;
    let debits: i128 = accounts.iter().map(|account| i128::from(account.debits)).sum();
    let credits: i128 = accounts.iter().map(|account| i128::from(account.credits)).sum();
    expect("J2 all debits and credits", None, debits, credits);
    expect("J3 overdrawn accounts", None, 0, i128::from(standing.overdrawn));
    let splitter = AccountCode::Splitter.to_string();
    let splitter = accounts.iter().find(|account| account.code == splitter);
    let booked = splitter.map_or(0, |account| i128::from(account.balance));
    expect("J4 USDC of the Splitter", None, contracts.held, booked);
    let logs = i128::from(standing.logs);
    expect("J7 logs that are booked once", None, logs, i128::from(standing.journals));
    let pulled = i128::from(standing.pulled_by_settlements);
    expect("J8 pulled for payments", None, pulled, i128::from(standing.pulled_by_journal));

    let clearing = by_capability(accounts, "clearing:");
    for (capability, booked) in accounted(standing) {
        let of = Some(capability);
        let said = standing.capabilities.get(&capability).copied().unwrap_or_default();
        let Attribution { settled, unrecorded, recorded, split } = said;
        let held = contracts.accounted.get(&capability).copied().unwrap_or_default();
        expect("J5 accounted to a capability", of, held, booked);
        let (recorded, split) = (i128::from(recorded), i128::from(split));
        expect("J6 recorded, split or not", of, held.saturating_add(split), recorded);
        expect("R-155 recorded for payments", of, i128::from(settled), recorded);
        let waiting = clearing.get(&capability).copied().unwrap_or_default();
        expect("J9 paid and not recorded", of, i128::from(unrecorded), waiting);
    }
    for (capability, waiting) in clearing {
        if !standing.capabilities.contains_key(&capability) {
            expect("J9 paid and not recorded", Some(capability), 0, waiting);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPABILITY: B256 = B256::repeat_byte(7);

    fn account(code: String, debits: u64, credits: u64, balance: i64) -> Account {
        Account { code, debits, credits, balance }
    }

    /// 300 pulled, of which 200 recorded, of which 150 split and paid out; and 5 of nobody's.
    fn sound() -> (Standing, Contracts) {
        let provider = alloy::primitives::Address::ZERO;
        let standing = Standing {
            accounts: vec![
                account(AccountCode::Splitter.to_string(), 305, 150, 155),
                account(AccountCode::Clearing(CAPABILITY).to_string(), 200, 300, 100),
                account(AccountCode::Accounted(CAPABILITY).to_string(), 150, 200, 50),
                account(AccountCode::Payable(provider).to_string(), 150, 150, 0),
                account(AccountCode::Suspense.to_string(), 0, 5, 5),
            ],
            journals: 9,
            logs: 9,
            pulled_by_journal: 300,
            pulled_by_settlements: 300,
            capabilities: [(
                CAPABILITY,
                Attribution { settled: 200, unrecorded: 100, recorded: 200, split: 150 },
            )]
            .into(),
            ..Standing::default()
        };
        (standing, Contracts { held: 155, accounted: [(CAPABILITY, 50)].into() })
    }

    fn broken(spoil: impl FnOnce(&mut Standing, &mut Contracts)) -> Vec<&'static str> {
        let (mut standing, mut contracts) = sound();
        spoil(&mut standing, &mut contracts);
        let found = compare(&standing, &contracts);
        found.iter().map(|one| one.invariant.split(' ').next().unwrap()).collect()
    }

    #[test]
    fn what_agrees_is_no_drift() {
        assert_eq!(broken(|_, _| {}), [""; 0]);
        assert_eq!(compare(&Standing::default(), &Contracts::default()), []);
    }

    /// Each promise, broken by itself.
    #[test]
    fn every_promise_is_checked() {
        let of = |standing: &mut Standing, change: fn(&mut Attribution)| {
            change(standing.capabilities.get_mut(&CAPABILITY).unwrap());
        };
        assert_eq!(broken(|books, _| books.accounts[3].debits += 1), ["J2"]);
        assert_eq!(broken(|books, _| books.overdrawn = 1), ["J3"]);
        assert_eq!(broken(|_, chain| chain.held -= 1), ["J4"]);
        assert_eq!(broken(|books, _| books.accounts[2].balance += 1), ["J5"]);
        assert_eq!(broken(|books, _| of(books, |one| one.split -= 1)), ["J6"]);
        assert_eq!(broken(|books, _| books.logs += 1), ["J7"]);
        assert_eq!(broken(|books, _| books.journals += 1), ["J7"]);
        assert_eq!(broken(|books, _| books.pulled_by_settlements += 1), ["J8"]);
        assert_eq!(broken(|books, _| of(books, |one| one.unrecorded -= 1)), ["J9"]);
        assert_eq!(broken(|books, _| of(books, |one| one.settled -= 1)), ["R-155"]);
    }

    /// A record that the settler's key made past the ledger: the contract and the journal have it,
    /// no settlement has.
    #[test]
    fn a_foreign_record_is_drift() {
        let stranger = B256::repeat_byte(8);
        let found = broken(|books, chain| {
            let record = Attribution { recorded: 5, ..Attribution::default() };
            books.capabilities.insert(stranger, record);
            books.accounts[4].debits += 5;
            let code = AccountCode::Accounted(stranger).to_string();
            books.accounts.push(account(code, 0, 5, 5));
            chain.accounted.insert(stranger, 5);
        });
        assert_eq!(found, ["R-155"]);
    }

    /// Money in clearing for a capability that no payment was ever made for.
    #[test]
    fn clearing_of_nobody_is_drift() {
        let stranger = AccountCode::Clearing(B256::repeat_byte(8)).to_string();
        let found = broken(|books, _| {
            books.accounts[4].credits -= 5;
            books.accounts[4].balance -= 5;
            books.accounts.push(account(stranger, 0, 5, 5));
        });
        assert_eq!(found, ["J9"]);
    }
}
