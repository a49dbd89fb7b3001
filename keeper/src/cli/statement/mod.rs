//! `keeper statement`: everything of a provider in a month, by the time of the blocks, to the last
//! micro-USDC as the chain has it.

mod output;
mod totals;

use super::{ConfigArgs, Exit, config::Config};
use crate::ledger::{
    EscrowLine, Ledger, PaymentLine, ProviderSums, RefundLine, SplitLine, StatementScope, Stream,
};
use alloy::primitives::Address;
use chrono::{DateTime, Months, NaiveDate, Utc};
use output::Output;
use totals::Totals;

/// Splits that are read at once.
const PAGE: u64 = 100;

/// Everything of a provider in a month: payments, splits, escrow, refunds.
#[derive(Debug, clap::Args)]
pub(super) struct Statement {
    #[command(flatten)]
    config: ConfigArgs,
    /// The provider's address.
    #[arg(long)]
    provider: Address,
    /// The month in UTC, such as 2026-11.
    #[arg(long, value_parser = month)]
    month: NaiveDate,
    /// Print JSON instead of tables.
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print CSV instead of tables: one line per payment, split, movement of escrow and refund.
    #[arg(long)]
    csv: bool,
}

/// How a statement is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Table,
    Json,
    Csv,
}

/// One line of a statement.
#[derive(Debug)]
enum Line<'a> {
    /// A split of one capability; its payments follow.
    Split(&'a SplitLine),
    /// A payment in it.
    Payment(&'a SplitLine, &'a PaymentLine),
    /// A movement of escrow.
    Escrow(&'a EscrowLine),
    /// A refund that the hub paid.
    Refund(&'a RefundLine),
}

/// What stood on the provider's accounts, and came and went.
#[derive(Debug, Clone, Copy)]
struct Balances {
    opening: ProviderSums,
    closing: ProviderSums,
}

/// The first day of a month.
fn month(text: &str) -> Result<NaiveDate, String> {
    let is_plain = text.split_once('-').is_some_and(|(year, month)| {
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        (year.len(), month.len()) == (4, 2) && digits(year) && digits(month)
    });
    NaiveDate::parse_from_str(&format!("{text}-01"), "%Y-%m-%d")
        .ok()
        .filter(|_| is_plain)
        .ok_or_else(|| "not a month such as 2026-11".to_owned())
}

/// The second in which a day begins.
fn second(day: NaiveDate) -> Result<u64, Exit> {
    let midnight = day.and_time(chrono::NaiveTime::MIN).and_utc().timestamp();
    u64::try_from(midnight)
        .map_err(|_| Exit::misconfigured(eyre::eyre!("{day} is before there was a chain")))
}

/// The time of a block.
fn time(seconds: u64) -> DateTime<Utc> {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    DateTime::from_timestamp(seconds, 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

impl Statement {
    pub(super) async fn execute(self) -> Result<(), Exit> {
        let (config, _) = Config::load(&self.config.config).map_err(Exit::misconfigured)?;
        let (from, to) = self.period()?;
        let ledger = Ledger::open_beside(&config.database).await?;
        let scopes = self.scopes(&config, &ledger, from, to).await?;
        let form = match (self.json, self.csv) {
            (true, _) => Form::Json,
            (false, true) => Form::Csv,
            (false, false) => Form::Table,
        };
        let month = self.month.format("%Y-%m").to_string();
        let mut output = Output::new(form, self.provider, &month)?;
        for scope in &scopes {
            output.begin(scope)?;
            let totals = walk(&ledger, scope, |line| output.line(scope, line)).await?;
            let balances = balances(&ledger, scope).await?;
            let split = balances.closing.split.checked_sub(balances.opening.split);
            // The pages were read one after the other.
            if split.map(i128::from) != Some(totals.all.gross) {
                return Err(eyre::eyre!("the ledger has changed while it was read; repeat").into());
            }
            output.end(scope, &totals, &balances)?;
        }
        output.finish()
    }

    /// First second of the month, and of the next.
    fn period(&self) -> Result<(u64, u64), Exit> {
        let next = self.month.checked_add_months(Months::new(1));
        let next = next.ok_or_else(|| Exit::misconfigured(eyre::eyre!("no month follows")))?;
        Ok((second(self.month)?, second(next)?))
    }

    /// The Splitters that know the provider, as far as they are booked.
    async fn scopes(
        &self,
        config: &Config,
        ledger: &Ledger,
        from: u64,
        to: u64,
    ) -> Result<Vec<StatementScope>, Exit> {
        let mut tx = ledger.read().await?;
        let mut scopes = Vec::new();
        let mut all = Vec::new();
        for splitter in &config.splitter {
            let (chain_id, address) = (splitter.chain, splitter.address);
            let known = tx.providers(chain_id, address).await?;
            if known.contains(&self.provider) {
                let end = tx.cursor(chain_id, address, Stream::Journal).await?.unwrap_or(0);
                let provider = self.provider;
                scopes.push(StatementScope {
                    chain_id,
                    splitter: address,
                    provider,
                    from,
                    to,
                    end,
                });
            }
            all.extend(known.iter().map(ToString::to_string));
        }
        if scopes.is_empty() {
            all.sort_unstable();
            all.dedup();
            let known = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
            return Err(Exit::misconfigured(eyre::eyre!(
                "no Splitter of the configuration has had a registration of provider {}; those \
                 that it has: {known}",
                self.provider
            )));
        }
        Ok(scopes)
    }
}

/// Reads a statement's lines in chain order and sums them up. Nothing is held open while a line is
/// printed: whoever reads may take long.
async fn walk(
    ledger: &Ledger,
    scope: &StatementScope,
    mut each: impl FnMut(Line<'_>) -> Result<(), Exit>,
) -> Result<Totals, Exit> {
    let mut totals = Totals::default();
    let mut after = None;
    loop {
        let mut tx = ledger.read().await?;
        let splits = tx.provider_splits(scope, after, PAGE).await?;
        let mut page = Vec::with_capacity(splits.len());
        for split in splits {
            let payments = tx.split_payments(scope.chain_id, scope.splitter, &split.at).await?;
            page.push((split, payments));
        }
        drop(tx);
        let Some((last, _)) = page.last() else { break };
        after = Some(last.at.position());
        for (split, payments) in &page {
            totals.split(split, payments);
            each(Line::Split(split))?;
            for payment in payments {
                each(Line::Payment(split, payment))?;
            }
        }
    }
    let mut tx = ledger.read().await?;
    let escrow = tx.provider_escrow(scope).await?;
    let refunds = tx.provider_refunds(scope).await?;
    drop(tx);
    for line in &escrow {
        each(Line::Escrow(line))?;
    }
    for line in &refunds {
        totals.refund(line);
        each(Line::Refund(line))?;
    }
    Ok(totals)
}

async fn balances(ledger: &Ledger, scope: &StatementScope) -> Result<Balances, Exit> {
    let mut tx = ledger.read().await?;
    Ok(Balances {
        opening: tx.provider_sums(scope, scope.from).await?,
        closing: tx.provider_sums(scope, scope.to).await?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_a_year_and_a_month() {
        assert_eq!(month("2026-11"), Ok(NaiveDate::from_ymd_opt(2026, 11, 1).unwrap()));
        for wrong in
            ["2026-13", "2026-1", "2026-11-01", "11-2026", "2026", "", "20261-1", "-202-11"]
        {
            assert_eq!(month(wrong), Err("not a month such as 2026-11".to_owned()), "{wrong}");
        }
    }
}
