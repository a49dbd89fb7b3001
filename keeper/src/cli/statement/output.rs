//! A statement as tables, JSON or CSV.

use super::{Balances, Exit, Form, Line, Totals, time, totals::Sum};
use crate::{
    cli::reconcile::usdc,
    ledger::{ProviderSums, StatementScope},
};
use alloy::primitives::Address;
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde_json::{Value, json};
use std::io::{self, Stdout};

/// The columns of the CSV.
const COLUMNS: [&str; 18] = [
    "line",
    "chain_id",
    "splitter",
    "block_time",
    "block_number",
    "tx_hash",
    "log_index",
    "capability",
    "settlement",
    "payer",
    "gross_micro",
    "provider_micro",
    "hub_micro",
    "reserve_micro",
    "pull_tx_hash",
    "record_tx_hash",
    "record_fee_wei",
    "split_fee_wei",
];

/// Where a statement goes.
pub(super) enum Output {
    /// For people, per Splitter: splits, and whatever else moved.
    Table(Box<[Table; 2]>),
    /// Everything at its end.
    Json {
        provider: Address,
        month: String,
        splitters: Vec<Value>,
        /// Splits, escrow and refunds of the Splitter that is being read.
        lines: [Vec<Value>; 3],
    },
    /// Line by line.
    Csv(Box<csv::Writer<Stdout>>),
}

fn table(header: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(header.to_vec());
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn tables() -> [Table; 2] {
    let splits = [
        "split at",
        "transaction",
        "payments of",
        "gross",
        "provider",
        "hub",
        "reserve",
        "fee wei",
    ];
    let others = ["at", "what", "transaction", "USDC"];
    [table(&splits, &[3, 4, 5, 6, 7]), table(&others, &[3])]
}

impl Output {
    pub(super) fn new(form: Form, provider: Address, month: &str) -> Result<Self, Exit> {
        Ok(match form {
            Form::Table => {
                println!("provider {provider}, {month}");
                Self::Table(Box::new(tables()))
            }
            Form::Json => Self::Json {
                provider,
                month: month.to_owned(),
                splitters: Vec::new(),
                lines: Default::default(),
            },
            Form::Csv => {
                let mut writer = csv::Writer::from_writer(io::stdout());
                writer.write_record(COLUMNS)?;
                Self::Csv(Box::new(writer))
            }
        })
    }

    /// A Splitter.
    pub(super) fn begin(&mut self, scope: &StatementScope) -> Result<(), Exit> {
        if matches!(self, Self::Table(_)) {
            println!(
                "Splitter {} on chain {}, as booked before block {}",
                scope.splitter, scope.chain_id, scope.end
            );
        }
        Ok(())
    }

    /// One line of it.
    pub(super) fn line(&mut self, scope: &StatementScope, line: Line<'_>) -> Result<(), Exit> {
        match self {
            Self::Table(tables) => row(tables, &line),
            Self::Json { lines, .. } => collect(lines, &line),
            Self::Csv(writer) => {
                writer.write_record(record(scope, &line))?;
            }
        }
        Ok(())
    }

    /// Its sums.
    pub(super) fn end(
        &mut self,
        scope: &StatementScope,
        totals: &Totals,
        balances: &Balances,
    ) -> Result<(), Exit> {
        match self {
            Self::Table(shown) => {
                let [splits, others] = std::mem::replace(shown.as_mut(), tables());
                println!("{splits}");
                if !others.is_empty() {
                    println!("{others}");
                }
                println!("{}", sums_table(totals));
                println!("{}", balances_table(totals, balances));
                println!(
                    "fees in wei, paid by the hub: records {}, split transactions {}",
                    totals.record_fees_wei, totals.split_fees_wei
                );
            }
            Self::Json { splitters, lines, .. } => {
                let [splits, escrow, refunds] = std::mem::take(lines);
                splitters.push(json!({
                    "chain_id": scope.chain_id,
                    "splitter": scope.splitter,
                    "booked_before_block": scope.end,
                    "splits": splits,
                    "escrow_movements": escrow,
                    "refunds": refunds,
                    "totals": sums_json(totals),
                    "balances": balances_json(balances),
                }));
            }
            Self::Csv(writer) => writer.flush()?,
        }
        Ok(())
    }

    /// Everything is there.
    pub(super) fn finish(self) -> Result<(), Exit> {
        if let Self::Json { provider, month, splitters, .. } = self {
            let all = json!({"provider": provider, "month": month, "splitters": splitters});
            println!("{}", serde_json::to_string_pretty(&all)?);
        }
        Ok(())
    }
}

fn text(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// A payment stands below its split.
fn row([splits, others]: &mut [Table; 2], line: &Line<'_>) {
    match line {
        Line::Split(split) => {
            splits.add_row([
                time(split.block_timestamp).to_rfc3339(),
                split.at.tx_hash.to_string(),
                format!("capability {}", split.capability),
                split.amount.to_string(),
                split.shares.provider.to_string(),
                split.shares.hub.to_string(),
                split.shares.reserve.to_string(),
                text(split.fee_wei),
            ]);
        }
        Line::Payment(_, payment) => {
            splits.add_row([
                String::new(),
                text(payment.pull),
                payment.payer.to_string(),
                payment.amount.to_string(),
                payment.shares.provider.to_string(),
                payment.shares.hub.to_string(),
                payment.shares.reserve.to_string(),
                String::new(),
            ]);
        }
        Line::Escrow(line) => {
            let what = if line.is_withdrawal { "out of escrow" } else { "into escrow" };
            others.add_row([
                time(line.block_timestamp).to_rfc3339(),
                what.to_owned(),
                line.at.tx_hash.to_string(),
                line.amount.to_string(),
            ]);
        }
        Line::Refund(line) => {
            others.add_row([
                line.paid_at.to_rfc3339(),
                format!("refunded by the hub to {}", line.payer),
                line.tx_hash.to_string(),
                line.amount.to_string(),
            ]);
        }
    }
}

fn collect(lines: &mut [Vec<Value>; 3], line: &Line<'_>) {
    let [splits, escrow, refunds] = lines;
    match line {
        Line::Split(split) => splits.push(json!({
            "block_time": time(split.block_timestamp),
            "at": split.at,
            "splitter_capability_id": split.capability,
            "gross_micro": split.amount,
            "provider_micro": split.shares.provider,
            "hub_micro": split.shares.hub,
            "reserve_micro": split.shares.reserve,
            "fee_wei": split.fee_wei,
            "payments": [],
        })),
        Line::Payment(_, payment) => {
            let payment = json!({
                "settlement": payment.settlement,
                "capability": payment.capability,
                "payer": payment.payer,
                "gross_micro": payment.amount,
                "provider_micro": payment.shares.provider,
                "hub_micro": payment.shares.hub,
                "reserve_micro": payment.shares.reserve,
                "pull_tx_hash": payment.pull,
                "record_tx_hash": payment.record,
                "record_fee_wei": payment.record_fee_wei,
            });
            let of_it = splits.last_mut().and_then(|split| split["payments"].as_array_mut());
            if let Some(payments) = of_it {
                payments.push(payment);
            }
        }
        Line::Escrow(line) => escrow.push(json!({
            "block_time": time(line.block_timestamp),
            "at": line.at,
            "direction": if line.is_withdrawal { "out" } else { "in" },
            "amount_micro": line.amount,
        })),
        Line::Refund(line) => refunds.push(json!({
            "refund": line.refund,
            "settlement": line.settlement,
            "capability": line.capability,
            "payer": line.payer,
            "amount_micro": line.amount,
            "paid_at": line.paid_at,
            "tx_hash": line.tx_hash,
        })),
    }
}

/// A line of the CSV. Sum up one kind of line at a time: a split's amounts are those of its payments.
fn record(scope: &StatementScope, line: &Line<'_>) -> [String; COLUMNS.len()] {
    let mut cells: [String; COLUMNS.len()] = Default::default();
    let mut set = |column: &str, value: String| {
        let known = COLUMNS.iter().zip(&mut cells).find(|(name, _)| **name == column);
        if let Some((_, cell)) = known {
            *cell = value;
        }
    };
    set("chain_id", scope.chain_id.to_string());
    set("splitter", scope.splitter.to_string());
    let (name, place, when) = match line {
        Line::Split(split) => ("split", Some(split.at), time(split.block_timestamp)),
        Line::Payment(split, _) => ("payment", Some(split.at), time(split.block_timestamp)),
        Line::Escrow(line) if line.is_withdrawal => {
            ("escrow_out", Some(line.at), time(line.block_timestamp))
        }
        Line::Escrow(line) => ("escrow_in", Some(line.at), time(line.block_timestamp)),
        Line::Refund(line) => ("refund", None, line.paid_at),
    };
    set("line", name.to_owned());
    set("block_time", when.to_rfc3339());
    if let Some(at) = place {
        set("block_number", at.block_number.to_string());
        set("tx_hash", at.tx_hash.to_string());
        set("log_index", at.log_index.to_string());
    }
    let mut shares = |gross: u64, shares: &crate::ledger::Shares| {
        set("gross_micro", gross.to_string());
        set("provider_micro", shares.provider.micro().to_string());
        set("hub_micro", shares.hub.micro().to_string());
        set("reserve_micro", shares.reserve.micro().to_string());
    };
    match line {
        Line::Split(split) => {
            shares(split.amount.micro(), &split.shares);
            set("capability", split.capability.to_string());
            set("split_fee_wei", text(split.fee_wei));
        }
        Line::Payment(_, payment) => {
            shares(payment.amount.micro(), &payment.shares);
            set("capability", payment.capability.clone().unwrap_or_default());
            set("settlement", payment.settlement.to_string());
            set("payer", payment.payer.to_string());
            set("pull_tx_hash", text(payment.pull));
            set("record_tx_hash", text(payment.record));
            set("record_fee_wei", text(payment.record_fee_wei));
        }
        Line::Escrow(line) => set("provider_micro", line.amount.micro().to_string()),
        Line::Refund(line) => {
            set("tx_hash", line.tx_hash.to_string());
            set("capability", line.capability.clone().unwrap_or_default());
            set("settlement", line.settlement.to_string());
            set("payer", line.payer.to_string());
            set("gross_micro", line.amount.micro().to_string());
        }
    }
    cells
}

fn sums_table(totals: &Totals) -> Table {
    let header =
        ["capability", "payments", "gross", "provider", "hub", "reserve", "of no known payment"];
    let mut table = table(&header, &[1, 2, 3, 4, 5, 6]);
    let mut add = |name: String, sum: &Sum| {
        table.add_row([
            name,
            sum.payments.to_string(),
            usdc(sum.gross),
            usdc(sum.provider),
            usdc(sum.hub),
            usdc(sum.reserve),
            usdc(sum.unattributed()),
        ]);
    };
    for (id, (name, sum)) in &totals.capabilities {
        add(name.clone().unwrap_or_else(|| id.to_string()), sum);
    }
    add("all".to_owned(), &totals.all);
    table
}

/// What waited in the Splitter for a split, and what lay in escrow.
fn standing(sums: &ProviderSums) -> [i128; 2] {
    let minus = |more: u64, less: u64| i128::from(more).saturating_sub(i128::from(less));
    [minus(sums.recorded, sums.split), minus(sums.escrowed, sums.withdrawn)]
}

fn balances_table(totals: &Totals, balances: &Balances) -> Table {
    let [opening, closing] = [standing(&balances.opening), standing(&balances.closing)];
    let mut table = table(&["USDC", "at the beginning", "at the end"], &[1, 2]);
    for ((what, opening), closing) in
        ["recorded and not split", "in escrow"].iter().zip(opening).zip(closing)
    {
        table.add_row([(*what).to_owned(), usdc(opening), usdc(closing)]);
    }
    let refunded = usdc(totals.refunded);
    table.add_row(["refunded by the hub, for information", "", &refunded]);
    table
}

fn sum_json(sum: &Sum) -> Value {
    json!({
        "payments": sum.payments,
        "gross_micro": sum.gross,
        "provider_micro": sum.provider,
        "hub_micro": sum.hub,
        "reserve_micro": sum.reserve,
        "unattributed_micro": sum.unattributed(),
    })
}

fn sums_json(totals: &Totals) -> Value {
    let capabilities: Vec<_> = totals
        .capabilities
        .iter()
        .map(|(id, (name, sum))| {
            let mut capability = sum_json(sum);
            capability["splitter_capability_id"] = json!(id);
            capability["capability"] = json!(name);
            capability
        })
        .collect();
    let mut all = sum_json(&totals.all);
    all["capabilities"] = json!(capabilities);
    all["record_fees_wei"] = json!(totals.record_fees_wei);
    all["split_fees_wei"] = json!(totals.split_fees_wei);
    all["refunded_by_hub_micro"] = json!(totals.refunded);
    all
}

fn balances_json(balances: &Balances) -> Value {
    let Balances { opening, closing } = balances;
    let [before, after] = [standing(opening), standing(closing)];
    json!({
        "unsplit_opening_micro": before[0],
        "recorded_micro": closing.recorded.saturating_sub(opening.recorded),
        "split_micro": closing.split.saturating_sub(opening.split),
        "unsplit_closing_micro": after[0],
        "escrow_opening_micro": before[1],
        "escrowed_micro": closing.escrowed.saturating_sub(opening.escrowed),
        "withdrawn_micro": closing.withdrawn.saturating_sub(opening.withdrawn),
        "escrow_closing_micro": after[1],
    })
}
