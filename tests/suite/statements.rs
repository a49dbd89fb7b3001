//! A provider's statement says what the chain says.

use crate::{
    ledger::{CAPABILITY, SPLITTER, log, on_both, splitter},
    refunds::{Broken, cli},
    support::{HERE, eventually, reconciled, sound, splitter_logs},
};
use alloy::{
    primitives::{Address, U256},
    sol,
    sol_types::SolCall,
};
use keeper::{
    ledger::{Ledger, MirrorWindow, ProviderSums, SplitterLog, StatementScope},
    splitter::{JecpSplitter, SplitTerms, SplitterEvent},
};
use sandbox::PRICE_MICRO;
use serde_json::{Value, json};
use std::collections::BTreeMap;

sol! {
    function blacklist(address account);
    function unBlacklist(address account);
}

/// The month that it is in the ledger, and then a test must be able to run over its end.
async fn this_month(hub: &Broken) -> String {
    let ledger = Ledger::open_beside(&hub.database).await.unwrap();
    let mut tx = ledger.read().await.unwrap();
    tx.clock().await.unwrap().format("%Y-%m").to_string()
}

async fn statement(hub: &Broken, provider: Address, month: &str, form: &str) -> String {
    let provider = provider.to_string();
    let arguments = ["--provider", &provider, "--month", month, form];
    let output = cli("statement", &hub.daemon.config, &hub.stack, &arguments).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Sums of the numbers at a path of every statement.
fn sum(statements: &[Value], section: &str, name: &str) -> u64 {
    let one = |all: &Value| all["splitters"][0][section][name].as_u64().unwrap();
    statements.iter().map(one).sum()
}

/// Three calls are served, one fails and is refunded, one is served while the provider cannot be
/// paid, so that its share goes to escrow and comes out again: the sums of the statement are those of
/// the chain's `PaymentSplit` logs, in JSON and in CSV.
async fn a_statement_is_the_chains(name: &str, on_postgres: bool) {
    let hub = Broken::start(name, on_postgres, "").await;
    let (stack, provider) = (&hub.stack, hub.stack.provider_account);
    let mut months = vec![this_month(&hub).await];
    let payer = stack.agent(10 * PRICE_MICRO).await.unwrap();
    hub.fail(&payer).await;
    stack.provider.set_failing(false);
    for _ in 0..3 {
        assert_eq!(hub.call(&payer).await.2.status, 200);
    }
    sound(stack, &hub.database, 4).await;
    let admin = stack.anvil.first_account().await.unwrap();
    let barred = blacklistCall { account: provider }.abi_encode();
    hub.send(admin, stack.contracts.usdc, barred.into()).await;
    assert_eq!(hub.call(&payer).await.2.status, 200);
    sound(stack, &hub.database, 5).await;
    assert_eq!(hub.balance("escrow:").await, 170_000);
    let allowed = unBlacklistCall { account: provider }.abi_encode();
    hub.send(admin, stack.contracts.usdc, allowed.into()).await;
    stack.anvil.rpc("anvil_impersonateAccount", json!([provider])).await.unwrap();
    stack.anvil.set_balance(provider, U256::from(u64::MAX)).await.unwrap();
    let withdrawal = JecpSplitter::withdrawCall {}.abi_encode();
    hub.send(provider, stack.contracts.splitter, withdrawal.into()).await;
    hub.treasury_pays(payer.address(), PRICE_MICRO).await;
    hub.until("paid 1").await;
    eventually("everything is booked", || async {
        hub.balance("escrow:").await == 0 && reconciled(stack, &hub.database).await.is_sound()
    })
    .await;
    months.push(this_month(&hub).await);
    months.dedup();

    let mut statements = Vec::new();
    let mut csv = Vec::new();
    for month in &months {
        let text = statement(&hub, provider, month, "--json").await;
        statements.push(serde_json::from_str::<Value>(&text).unwrap());
        csv.push(statement(&hub, provider, month, "--csv").await);
    }
    let mut chain = BTreeMap::<&str, u64>::new();
    for (event, _) in splitter_logs(stack).await {
        let SplitterEvent::PaymentSplit {
            amount, provider_amount, hub_amount, reserve_amount, ..
        } = event
        else {
            continue;
        };
        for (name, value) in [
            ("gross_micro", amount),
            ("provider_micro", provider_amount),
            ("hub_micro", hub_amount),
            ("reserve_micro", reserve_amount),
        ] {
            *chain.entry(name).or_default() += u64::try_from(value).unwrap();
        }
    }
    assert_eq!(chain["gross_micro"], 5 * PRICE_MICRO);
    for (name, value) in &chain {
        assert_eq!(sum(&statements, "totals", name), *value, "{name}");
        for line in ["split", "payment"] {
            let lines: u64 = csv.iter().map(|csv| column(csv, line, name)).sum();
            assert_eq!(lines, *value, "{line} {name}");
        }
    }
    let total = |name| sum(&statements, "totals", name);
    assert_eq!((total("payments"), total("unattributed_micro")), (5, 0));
    assert_eq!(total("refunded_by_hub_micro"), PRICE_MICRO);
    assert!(total("record_fees_wei") > 0 && total("split_fees_wei") > 0);
    let balance = |name| sum(&statements, "balances", name);
    assert_eq!((balance("escrowed_micro"), balance("withdrawn_micro")), (170_000, 170_000));
    assert_eq!((balance("recorded_micro"), balance("split_micro")), (1_000_000, 1_000_000));
    let last = &statements.last().unwrap()["splitters"][0];
    assert_eq!(last["balances"]["escrow_closing_micro"], 0);
    assert_eq!(last["balances"]["unsplit_closing_micro"], 0);
    assert_eq!(statements[0]["splitters"][0]["balances"]["escrow_opening_micro"], 0);
    let capability = &last["totals"]["capabilities"][0];
    assert_eq!(capability["capability"], "demo/echo");
    let (whose, month) = (provider.to_string(), months.last().unwrap());
    let plain = ["--provider", &whose, "--month", month];
    let shown = cli("statement", &hub.daemon.config, stack, &plain).await;
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("demo/echo") && shown.contains("out of escrow"), "{shown}");
    let payments: Vec<_> = statements
        .iter()
        .flat_map(|one| one["splitters"][0]["splits"].as_array().unwrap())
        .flat_map(|split| split["payments"].as_array().unwrap())
        .collect();
    assert_eq!(payments.len(), 5);
    for payment in payments {
        assert!(payment["pull_tx_hash"].is_string() && payment["record_tx_hash"].is_string());
    }
}

/// What a column of one kind of line comes to.
fn column(csv: &str, line: &str, name: &str) -> u64 {
    let mut lines = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let at = header.iter().position(|column| *column == name).unwrap();
    let of_it = lines.filter(|cells| cells[0] == line);
    of_it.map(|cells| cells[at].parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn a_statement_sums_up_to_the_chains_logs_on_sqlite() {
    a_statement_is_the_chains("statement-sqlite", false).await;
}

#[tokio::test]
async fn a_statement_sums_up_to_the_chains_logs_on_postgres() {
    a_statement_is_the_chains("statement-postgres", true).await;
}

/// A month that is none, a provider that nobody knows: exit code 2, and what to write instead. A month
/// without anything is empty.
#[tokio::test]
async fn a_statement_of_nobody_is_refused() {
    let hub = crate::support::hub().await;
    let known = hub.stack.provider_account.to_string();
    let stranger = Address::repeat_byte(0x12).to_string();
    for (provider, month, expected) in [
        (known.as_str(), "2026-13", "not a month such as 2026-11"),
        (&known, "November", "not a month such as 2026-11"),
        ("0x12", "2026-11", "invalid value '0x12'"),
        (&stranger, "2026-11", known.as_str()),
    ] {
        let arguments = ["--provider", provider, "--month", month];
        let output = cli("statement", &hub.daemon.config, &hub.stack, &arguments).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{provider} {month}: {said}");
        assert!(said.contains(expected), "{provider} {month}: {said}");
    }
    let arguments = ["--provider", &known, "--month", "2020-01", "--json"];
    let output = cli("statement", &hub.daemon.config, &hub.stack, &arguments).await;
    assert!(output.status.success(), "{output:?}");
    let empty: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(empty["splitters"][0]["totals"]["gross_micro"], 0);
    assert_eq!(empty["splitters"][0]["splits"], json!([]));
}

/// A month begins with its first second and ends before the next one's; what is split belongs to whom
/// the capability was registered for then; blocks that are not booked yet are left out.
#[tokio::test]
async fn a_month_ends_where_the_next_one_begins() {
    const FROM: u64 = 1_793_491_200;
    const TO: u64 = 1_796_083_200;
    on_both(|db| async move {
        let [mine, other] = [Address::repeat_byte(0x99), Address::repeat_byte(0x98)];
        let registered = |provider| SplitterEvent::CapabilityRegistered {
            capability_id: CAPABILITY,
            terms: SplitTerms { provider, bps: [8_500, 1_000, 500] },
        };
        let recorded = |amount: u64| SplitterEvent::SettlementRecorded {
            capability_id: CAPABILITY,
            amount: U256::from(amount),
            payer: Address::repeat_byte(1),
        };
        let split = |amount: u64| SplitterEvent::PaymentSplit {
            capability_id: CAPABILITY,
            payer: Address::ZERO,
            amount: U256::from(amount),
            provider_amount: U256::from(amount - 15),
            hub_amount: U256::from(10),
            reserve_amount: U256::from(5),
        };
        let escrowed = |amount: u64| SplitterEvent::ProviderEscrowed {
            provider: mine,
            amount: U256::from(amount),
        };
        let withdrew = |amount: u64| SplitterEvent::ProviderWithdrew {
            provider: mine,
            amount: U256::from(amount),
        };
        let said = [
            (FROM - 10, registered(mine)),
            (FROM - 9, recorded(1_000)),
            (FROM - 1, split(100)),
            (FROM - 1, escrowed(85)),
            (FROM, split(200)),
            (TO - 1, split(300)),
            (TO - 1, withdrew(80)),
            (TO, split(350)),
            (TO + 1, registered(other)),
            (TO + 2, split(50)),
        ];
        let logs = (1..).zip(said).map(|(block, (block_timestamp, event))| SplitterLog {
            at: log(block, 0),
            block_timestamp,
            event,
            nonce: None,
        });
        let window = MirrorWindow { to: 20, logs: logs.collect(), ..MirrorWindow::default() };
        let mut tx = db.ledger.begin().await.unwrap();
        tx.replace_window(84_532, SPLITTER, splitter().asset, &window).await.unwrap();
        tx.commit(HERE).await.unwrap();

        let mut tx = db.ledger.read().await.unwrap();
        assert_eq!(tx.providers(84_532, SPLITTER).await.unwrap(), [other, mine]);
        let scope = StatementScope {
            chain_id: 84_532,
            splitter: SPLITTER,
            provider: mine,
            from: FROM,
            to: TO,
            end: 21,
        };
        let amounts = |splits: Vec<keeper::ledger::SplitLine>| -> Vec<_> {
            splits.iter().map(|split| split.amount.micro()).collect()
        };
        let all = tx.provider_splits(&scope, None, 10).await.unwrap();
        assert_eq!(amounts(all.clone()), [200, 300]);
        let first = tx.provider_splits(&scope, None, 1).await.unwrap();
        let rest = tx.provider_splits(&scope, Some(first[0].at.position()), 10).await.unwrap();
        assert_eq!((amounts(first), amounts(rest)), (vec![200], vec![300]), "page by page");
        let escrow = tx.provider_escrow(&scope).await.unwrap();
        assert_eq!((escrow.len(), escrow[0].is_withdrawal), (1, true));
        let sums = |recorded, split, escrowed, withdrawn| ProviderSums {
            recorded,
            split,
            escrowed,
            withdrawn,
        };
        assert_eq!(tx.provider_sums(&scope, FROM).await.unwrap(), sums(1_000, 100, 85, 0));
        assert_eq!(tx.provider_sums(&scope, TO).await.unwrap(), sums(1_000, 600, 85, 80));
        assert_eq!(tx.provider_sums(&scope, u64::MAX >> 1).await.unwrap().split, 950, "not 50");
        let unbooked = StatementScope { end: 6, ..scope };
        assert_eq!(amounts(tx.provider_splits(&unbooked, None, 10).await.unwrap()), [200]);
        let theirs = StatementScope { provider: other, to: TO + 9, ..scope };
        assert_eq!(amounts(tx.provider_splits(&theirs, None, 10).await.unwrap()), [50]);
    })
    .await;
}
