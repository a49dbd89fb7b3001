//! The ledger's sums against the contracts' state, at the last block that is booked.

use super::report::{Check, Report};
use crate::{
    chain::{BlockTag, Chain, ChainError},
    eip3009::FiatToken,
    ledger::{Ledger, LedgerError, Scope, SplitterRecord, Stream},
    splitter::JecpSplitter,
};
use alloy::primitives::{Address, B256, U256};

/// Seconds that the mirror may be behind the newest block: a daemon that runs is a few blocks behind.
const MAX_BEHIND: u64 = 300;

/// A Splitter whose contract is asked.
#[derive(Debug)]
pub struct AuditedSplitter {
    /// Endpoints.
    pub chain: Chain,
    /// The Splitter.
    pub record: SplitterRecord,
}

/// What the contracts were asked, and said.
struct Sums {
    balance: Check,
    accounted: Check,
    recorded: Check,
    owed: Check,
    escrow: Check,
    passed: Check,
}

impl Sums {
    const fn new() -> Self {
        Self {
            balance: Check::new(
                "chain.balance",
                "the journal's asset is the Splitter's balance of USDC",
            ),
            accounted: Check::new(
                "chain.accounted",
                "each capability's account is the contract's accountedBalance",
            ),
            recorded: Check::new(
                "chain.recorded",
                "what the mirror says was recorded is accountedBalance and what was split",
            ),
            owed: Check::new("chain.owed", "totalOwed is what is accounted and in escrow"),
            escrow: Check::new("chain.escrow", "each provider's escrow is the contract's"),
            passed: Check::new("chain.payable", "what was split or withdrawn was paid out"),
        }
    }
}

/// Adds to an audit what the contracts say. What cannot be asked is noted as missing.
///
/// # Errors
/// When the ledger cannot be read.
pub async fn hold_against_chain(
    mut report: Report,
    ledger: &Ledger,
    splitters: &[AuditedSplitter],
    mut unreachable: Vec<String>,
) -> Result<Report, LedgerError> {
    report.missing.append(&mut unreachable);
    let mut sums = Sums::new();
    for (chain_id, address) in ledger.read().await?.splitters().await? {
        let is_asked = splitters
            .iter()
            .any(|it| (it.record.chain_id, it.record.address) == (chain_id, address));
        if !is_asked {
            report.missing.push(format!(
                "Splitter {address} on chain {chain_id}: it is in the ledger, and its contract was \
                 not asked"
            ));
        }
    }
    for splitter in splitters {
        match compare(ledger, splitter, &mut sums).await? {
            Ok(()) => {}
            Err(Obstacle::Chain(error)) => report.missing.push(format!(
                "Splitter {}: the chain could not be asked: {error}",
                splitter.record.address
            )),
            Err(Obstacle::Behind(why)) => {
                report.missing.push(format!("Splitter {}: {why}", splitter.record.address));
            }
        }
    }
    let Sums { balance, accounted, recorded, owed, escrow, passed } = sums;
    report.checks.extend([balance, accounted, recorded, owed, escrow, passed]);
    Ok(report.conclude())
}

enum Obstacle {
    Chain(ChainError),
    Behind(String),
}

impl From<ChainError> for Obstacle {
    fn from(error: ChainError) -> Self {
        Self::Chain(error)
    }
}

async fn compare(
    ledger: &Ledger,
    splitter: &AuditedSplitter,
    sums: &mut Sums,
) -> Result<Result<(), Obstacle>, LedgerError> {
    let SplitterRecord { chain_id, address, asset, .. } = splitter.record;
    let mut tx = ledger.read().await?;
    let Some(booked) =
        tx.cursor(chain_id, address, Stream::Journal).await?.and_then(|next| next.checked_sub(1))
    else {
        return Ok(Err(Obstacle::Behind("nothing is booked yet".to_owned())));
    };
    let mirrored = tx.mirror_end(chain_id, address).await?;
    let scope = Scope { chain_id, splitter: address, asset, up_to: booked };
    let accounts = tx.accounts_up_to(&scope).await?.into_iter();
    let accounts: Vec<_> = accounts.map(|(code, [.., balance])| (code, balance)).collect();
    let logs = tx.recorded_less_split(chain_id, address, booked).await?;
    drop(tx);
    let balance = |prefix: &str| {
        let accounts = accounts.iter().filter(|(code, _)| code.starts_with(prefix));
        accounts.fold(0_i128, |sum, (_, balance)| sum.saturating_add(*balance))
    };
    let asked = async {
        let end = mirrored.map_or(booked, |(end, _)| end.max(booked));
        let node = splitter.chain.pinned_at(end).await?;
        let head = node.head(BlockTag::Latest).await?;
        if let Some((number, hash)) = mirrored {
            let end = node.head(BlockTag::Number(number)).await?;
            if end.hash != hash {
                let why = format!("the mirror ends with block {number}, which a reorg has taken");
                return Err(Obstacle::Behind(why));
            }
            let behind = head.timestamp().saturating_sub(end.timestamp());
            if behind > MAX_BEHIND {
                let why = format!(
                    "the mirror ends with block {number}, {behind} seconds behind; let the daemon \
                     catch up"
                );
                return Err(Obstacle::Behind(why));
            }
        }
        let block = BlockTag::Number(booked);
        let held = node.call(asset, &FiatToken::balanceOfCall { account: address }, block).await?;
        let owed = node.call(address, &JecpSplitter::totalOwedCall {}, block).await?;
        let name = |what: &str| format!("{what} of {address} at block {booked}");
        equal(&mut sums.balance, name("USDC"), balance("asset:splitter"), held);
        let booked = balance("accounted:").saturating_add(balance("escrow:"));
        equal(&mut sums.owed, name("totalOwed"), booked, owed);
        for (code, balance) in &accounts {
            if code.starts_with("payable:") {
                equal(&mut sums.passed, name(code), *balance, U256::ZERO);
            }
            let Some(provider) = code.strip_prefix("escrow:") else { continue };
            let Ok(provider) = provider.parse::<Address>() else {
                sums.escrow.fail(format!("accounts {code}"), "no address");
                continue;
            };
            let call = JecpSplitter::providerEscrowCall { provider };
            let escrow = node.call(address, &call, block).await?;
            equal(&mut sums.escrow, name(code), *balance, escrow);
        }
        for (capability, recorded_less_split) in &logs {
            let Ok(id) = capability.parse::<B256>() else {
                sums.accounted.fail(format!("splitter_events, capability {capability}"), "no id");
                continue;
            };
            let call = JecpSplitter::accountedBalanceCall { capabilityId: id };
            let accounted = node.call(address, &call, block).await?;
            let code = format!("accounted:{capability}");
            equal(&mut sums.accounted, name(&code), balance(&code), accounted);
            equal(&mut sums.recorded, name(&code), *recorded_less_split, accounted);
        }
        Ok(())
    };
    Ok(asked.await)
}

fn equal(check: &mut Check, row: String, ledger: i128, contract: U256) {
    let same = u128::try_from(ledger).is_ok_and(|ledger| U256::from(ledger) == contract);
    check.expect(same, || (row, format!("the ledger says {ledger}, the contract {contract}")));
}
