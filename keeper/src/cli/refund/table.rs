//! Refunds for people, and as JSON.

use super::{Exit, RefundQuery};
use crate::{
    cli::{config::Config, reconcile::usdc},
    edge::Catalogue,
    ledger::{Ledger, Refund, TraceEvent},
    lifecycle::RefundState,
};
use alloy::primitives::Address;
use chrono::{DateTime, TimeDelta, Utc};
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// More refunds than this in one incident, or more micro-USDC, and more such incidents in 30 days:
/// then the terms should change.
const INCIDENT_REFUNDS: u64 = 10;
const INCIDENTS: usize = 3;
const INCIDENT_MICRO: i128 = 100_000_000;

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

fn as_json(refund: &Refund) -> Value {
    json!({
        "id": refund.id,
        "settlement": refund.settlement,
        "pull_tx_hash": refund.pull,
        "payment_is_confirmed": refund.is_covered,
        "capability": refund.capability,
        "chain_id": refund.chain_id,
        "splitter": refund.splitter,
        "treasury": refund.treasury,
        "agent_id": refund.agent_id,
        "payer": refund.payer,
        "provider": refund.provider,
        "amount_micro": refund.amount,
        "contradiction": refund.contradiction,
        "reason": refund.reason,
        "state": refund.state.as_str(),
        "hold_reason": refund.hold_reason.map(|reason| reason.as_str()),
        "note": refund.note,
        "requested_at": refund.requested_at,
        "decided_at": refund.decided_at,
        "proposed_at": refund.proposed_at,
        "paid_at": refund.paid_at,
        "paid_by": refund.paid_by,
    })
}

fn rows(refunds: &[Refund]) -> Table {
    let header = ["refund", "asked for", "USDC", "payer", "for", "state", "paid by"];
    let mut table = table(&header, &[2]);
    for refund in refunds {
        let why = refund.hold_reason.filter(|_| refund.state == RefundState::Held);
        table.add_row([
            refund.id.to_string(),
            refund.requested_at.format("%Y-%m-%d %H:%M:%S").to_string(),
            refund.amount.to_string(),
            refund.payer.to_string(),
            refund.capability.clone().unwrap_or_default(),
            match (why, &refund.contradiction) {
                (_, Some(how)) => format!("{}, BUT {how}", refund.state),
                (Some(why), None) => format!("held: {why}"),
                (None, None) => refund.state.to_string(),
            },
            refund.paid_by.map(|at| at.tx_hash.to_string()).unwrap_or_default(),
        ]);
    }
    table
}

/// Refunds, and capabilities that are not sold.
pub(super) async fn list(
    ledger: &Ledger,
    config: &Config,
    catalogue: &Catalogue,
    refunds: &[Refund],
    json: bool,
) -> Result<(), Exit> {
    let mut tx = ledger.read().await?;
    let mut holds = Vec::new();
    for splitter in &config.splitter {
        for hold in tx.capability_holds(splitter.chain, splitter.address).await? {
            let sold = catalogue.all().iter().find(|sold| sold.id == hold.capability);
            let name = sold.map_or_else(|| hold.capability.to_string(), |sold| sold.name());
            holds.push((name, hold));
        }
    }
    if json {
        let refunds: Vec<_> = refunds.iter().map(as_json).collect();
        let holds: Vec<_> = holds
            .iter()
            .map(|(name, hold)| {
                json!({
                    "capability": name,
                    "splitter_capability_id": hold.capability,
                    "detail": hold.detail,
                    "held_at": hold.held_at,
                })
            })
            .collect();
        let all = json!({"refunds": refunds, "capability_holds": holds});
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    println!("{}", rows(refunds));
    for (name, hold) in holds {
        println!("{name} is not sold since {}: {}", hold.held_at.to_rfc3339(), hold.detail);
    }
    Ok(())
}

/// One refund with its history.
pub(super) fn show(refund: &Refund, events: &[TraceEvent], json: bool) -> Result<(), Exit> {
    let of_it = |event: &&TraceEvent| {
        event.kind.starts_with("refund.") || event.kind.starts_with("delivery.")
    };
    let events: Vec<_> = events.iter().filter(of_it).collect();
    if json {
        let mut all = as_json(refund);
        all["events"] = json!(events);
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    println!("{}", rows(std::slice::from_ref(refund)));
    let (settlement, provider) = (refund.settlement, refund.provider);
    println!("payment {settlement}, provider {provider}, agent {}", refund.agent_id);
    println!("asked for: {}", refund.reason);
    if let Some(note) = &refund.note {
        println!("decided: {note}");
    }
    let mut table = table(&["event", "state", "body"], &[]);
    for event in events {
        table.add_row([&event.kind, &event.state, &event.body]);
    }
    println!("{table}");
    Ok(())
}

/// What refunds come to, micro-USDC.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    count: u64,
    held: i128,
    owed: i128,
    paid: i128,
    denied: i128,
}

impl Sums {
    fn add(&mut self, refund: &Refund) {
        let sum = match refund.state {
            RefundState::Held => &mut self.held,
            RefundState::Approved | RefundState::Proposed => &mut self.owed,
            RefundState::Paid => &mut self.paid,
            RefundState::Denied => &mut self.denied,
        };
        *sum = sum.saturating_add(i128::from(refund.amount.micro()));
        self.count = self.count.saturating_add(1);
    }

    fn as_json(&self) -> Value {
        json!({
            "count": self.count,
            "held_micro": self.held,
            "owed_micro": self.owed,
            "paid_micro": self.paid,
            "denied_micro": self.denied,
        })
    }

    fn cells(&self) -> [String; 5] {
        let [held, owed, paid, denied] = [self.held, self.owed, self.paid, self.denied].map(usdc);
        [self.count.to_string(), held, owed, paid, denied]
    }
}

/// Refunds per provider, and in all.
pub(super) fn by_provider(refunds: &[Refund], json: bool) -> Result<(), Exit> {
    let mut sums = BTreeMap::<Address, Sums>::new();
    let mut all = Sums::default();
    for refund in refunds {
        sums.entry(refund.provider).or_default().add(refund);
        all.add(refund);
    }
    if json {
        let providers: BTreeMap<_, _> =
            sums.iter().map(|(provider, sums)| (provider.to_string(), sums.as_json())).collect();
        let both = json!({"providers": providers, "all": all.as_json()});
        println!("{}", serde_json::to_string_pretty(&both)?);
        return Ok(());
    }
    let mut table =
        table(&["provider", "refunds", "held", "owed", "paid", "denied"], &[1, 2, 3, 4, 5]);
    for (provider, sums) in &sums {
        table.add_row([vec![provider.to_string()], sums.cells().to_vec()].concat());
    }
    table.add_row([vec!["all".to_owned()], all.cells().to_vec()].concat());
    println!("{table}");
    Ok(())
}

/// Sums, the week's limit, and R-230: refunds of one capability on one UTC day are an incident.
pub(super) async fn summary(ledger: &Ledger, config: &Config, json: bool) -> Result<(), Exit> {
    let mut tx = ledger.read().await?;
    let refunds = tx.refunds(RefundQuery::All).await?;
    let clock = tx.clock().await?;
    drop(tx);
    let mut all = Sums::default();
    refunds.iter().for_each(|refund| all.add(refund));
    let within = |at: Option<DateTime<Utc>>, days: i64| {
        at.is_some_and(|at| clock - at < TimeDelta::days(days))
    };
    let agreed = |refund: &&Refund| {
        within(refund.decided_at, 7)
            && (refund.state.is_owed() || refund.state == RefundState::Paid)
    };
    let week: i128 =
        refunds.iter().filter(agreed).map(|refund| i128::from(refund.amount.micro())).sum();
    let mut incidents = BTreeMap::<_, (u64, i128)>::new();
    for refund in refunds.iter().filter(|refund| within(Some(refund.requested_at), 30)) {
        let day = refund.requested_at.date_naive();
        let (count, micro) = incidents.entry((refund.capability.clone(), day)).or_default();
        *count = count.saturating_add(1);
        *micro = micro.saturating_add(i128::from(refund.amount.micro()));
    }
    let large = incidents.values().filter(|(count, _)| *count > INCIDENT_REFUNDS).count();
    let dear = incidents.values().filter(|(_, micro)| *micro > INCIDENT_MICRO).count();
    let escalate = large >= INCIDENTS || dear > 0;
    let limit = config.refunds.policy().week_limit;
    if json {
        let summary = json!({
            "refunds": all.as_json(),
            "week_micro": week,
            "week_limit_micro": limit,
            "incidents_above_10_refunds": large,
            "incidents_above_100_usdc": dear,
            "escalate": escalate,
        });
        println!("{}", serde_json::to_string_pretty(&summary)?);
        return Ok(());
    }
    let mut sums = table(&["refunds", "held", "owed", "paid", "denied"], &[0, 1, 2, 3, 4]);
    sums.add_row(all.cells());
    println!("{sums}");
    println!("agreed to in seven days: {} of {limit} USDC", usdc(week));
    println!(
        "30 days: {large} days on which a capability had more than {INCIDENT_REFUNDS} refunds, \
         {dear} on which they came to more than {} USDC{}",
        usdc(INCIDENT_MICRO),
        if escalate { ": the terms of refunds should be looked at (S06 4.5)" } else { "" }
    );
    Ok(())
}
