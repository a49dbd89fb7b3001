//! Whatever is changed by somebody who may do anything with the database is found, and the row named.

use super::ground::{Ground, KINDS, audit, copy, force, texts};
use alloy::primitives::B256;
use keeper::lifecycle::event_hash;

/// What is done, by which name, and which check names which row of it.
struct Tampering {
    name: &'static str,
    sql: String,
    found: (&'static str, String),
}

fn tampering(
    name: &'static str,
    sql: impl Into<String>,
    check: &'static str,
    row: &str,
) -> Tampering {
    Tampering { name, sql: sql.into(), found: (check, row.to_owned()) }
}

/// One text of a database.
async fn one(url: &str, sql: &str) -> String {
    texts(url, sql).await.into_iter().next().unwrap()
}

/// SQL that changes an event's body, and the hashes of everything behind it so that they fit.
async fn rewritten(url: &str, payment: &str) -> String {
    let select = format!(
        "SELECT CAST(seq AS TEXT) || '|' || n || '|' || state || '|' || kind || '|' || body
         || '|' || prev_hash FROM settlement_events WHERE settlement_id = '{payment}' ORDER BY n"
    );
    let mut sql = String::new();
    let mut previous: Option<B256> = None;
    for row in texts(url, &select).await {
        let [seq, n, state, kind, body, prev] = row.split('|').collect::<Vec<_>>()[..] else {
            panic!("{row}")
        };
        let is_changed = kind == "delivery.call";
        if !is_changed && previous.is_none() {
            continue;
        }
        let body = if is_changed { r#"{"attempt":7}"# } else { body };
        let before = previous.unwrap_or_else(|| prev.parse().unwrap());
        let hash = event_hash(before, n.parse().unwrap(), state, kind, body.as_bytes());
        sql += &format!(
            "UPDATE settlement_events SET body = '{body}', prev_hash = '{before:#x}',
             hash = '{hash:#x}' WHERE seq = {seq};"
        );
        previous = Some(hash);
    }
    assert!(!sql.is_empty());
    sql
}

async fn tamperings(url: &str) -> Vec<Tampering> {
    let payments = texts(url, "SELECT id FROM x402_settlements ORDER BY reserved_at").await;
    let [a, b, _] = &payments[..] else { panic!("{payments:?}") };
    let of = |payment: &str| format!("x402_settlements {payment}");
    let event = one(url, "SELECT CAST(min(seq) AS TEXT) FROM settlement_events").await;
    let last_of_a =
        format!("SELECT CAST(max(seq) AS TEXT) FROM settlement_events WHERE settlement_id = '{a}'");
    let last_of_a = one(url, &last_of_a).await;
    let position =
        format!("SELECT CAST(position AS TEXT) FROM event_positions WHERE seq = {last_of_a}");
    let position = one(url, &position).await;
    let first_of_a = format!(
        "SELECT CAST(min(position) AS TEXT) FROM event_positions p JOIN settlement_events e
         ON e.seq = p.seq WHERE settlement_id = '{a}'"
    );
    let first_of_a = one(url, &first_of_a).await;
    let journal = format!("SELECT id FROM journals WHERE settlement_id = '{a}' AND kind = 'pull'");
    let journal = one(url, &journal).await;
    let record = format!("SELECT id FROM journals WHERE settlement_id = '{a}' AND kind = 'record'");
    let record = one(url, &record).await;
    let split = one(url, "SELECT min(id) FROM journals WHERE kind = 'split'").await;
    let account = "SELECT CAST(id AS TEXT) FROM accounts WHERE code = 'suspense:unattributed'
        OR code LIKE 'clearing:%' ORDER BY code LIMIT 1";
    let account = one(url, account).await;
    let attempt = one(url, "SELECT min(hash) FROM attempts").await;
    let pull = format!("SELECT tx_hash FROM x402_settlements WHERE id = '{a}'");
    let pull = one(url, &pull).await;
    let seal = "SELECT CAST(from_position AS TEXT) || '..' || CAST(to_position AS TEXT)
        FROM event_seals WHERE";
    let first_seal = format!("{seal} from_position = 0");
    let first_seal = one(url, &first_seal).await;
    let seal_over_a = format!(
        "{seal} from_position <= (SELECT max(p.position) FROM event_positions p
         JOIN settlement_events e ON e.seq = p.seq WHERE e.kind = 'delivery.call'
         AND e.settlement_id = '{a}') ORDER BY from_position DESC LIMIT 1"
    );
    let seal_over_a = one(url, &seal_over_a).await;
    let other = "0x1111111111111111111111111111111111111111111111111111111111111111";
    vec![
        tampering(
            "amount",
            format!(
                "UPDATE x402_settlements SET amount_usdc_micro = amount_usdc_micro - 1,
                 provider_share_micro = provider_share_micro - 1 WHERE id = '{a}'"
            ),
            "payments.trace",
            &of(a),
        ),
        tampering(
            "payer",
            format!("UPDATE x402_settlements SET payer = pay_to WHERE id = '{a}'"),
            "payments.trace",
            &of(a),
        ),
        tampering(
            "status",
            format!("UPDATE x402_settlements SET status = 'failed' WHERE id = '{b}'"),
            "payments.state",
            &of(b),
        ),
        tampering(
            "keeper state",
            format!("UPDATE x402_settlements SET keeper_state = 'recorded' WHERE id = '{a}'"),
            "payments.state",
            &of(a),
        ),
        tampering(
            "delivery",
            format!(
                "UPDATE deliveries SET state = 'failed', failure = 'error', refund_due = TRUE
                 WHERE settlement_id = '{a}'"
            ),
            "payments.state",
            &of(a),
        ),
        tampering(
            "shares",
            format!(
                "UPDATE x402_settlements SET provider_share_micro = provider_share_micro - 1,
                 hub_share_micro = hub_share_micro + 1 WHERE id = '{a}'"
            ),
            "payments.evidence",
            &of(a),
        ),
        tampering(
            "who is paid",
            format!("UPDATE x402_settlements SET provider = payer WHERE id = '{b}'"),
            "payments.terms",
            &of(b),
        ),
        tampering(
            "event body",
            format!("UPDATE settlement_events SET body = '{{}}' WHERE seq = {event}"),
            "events.chain",
            &format!("settlement_events {event}"),
        ),
        tampering(
            "event body, and every hash behind it",
            rewritten(url, a).await,
            "seals.roots",
            &format!("event_seals {seal_over_a}"),
        ),
        tampering(
            "last event",
            format!(
                "DELETE FROM event_positions WHERE seq = {last_of_a};
                 DELETE FROM settlement_events WHERE seq = {last_of_a}"
            ),
            "seals.positions",
            &format!("event_positions {position}"),
        ),
        tampering(
            "position of an event",
            format!("DELETE FROM event_positions WHERE seq = {last_of_a}"),
            "seals.positions",
            &format!("event_positions {position}"),
        ),
        tampering(
            "payment with all its rows",
            format!(
                "DELETE FROM event_positions WHERE seq IN
                     (SELECT seq FROM settlement_events WHERE settlement_id = '{a}');
                 DELETE FROM settlement_events WHERE settlement_id = '{a}';
                 DELETE FROM deliveries WHERE settlement_id = '{a}';
                 DELETE FROM postings WHERE journal_id IN
                     (SELECT id FROM journals WHERE settlement_id = '{a}');
                 DELETE FROM journals WHERE settlement_id = '{a}';
                 DELETE FROM x402_pull_events WHERE settlement_id = '{a}';
                 DELETE FROM transaction_intents WHERE intent_id IN
                     (SELECT id FROM intents WHERE settlement_id = '{a}');
                 DELETE FROM intents WHERE settlement_id = '{a}';
                 DELETE FROM x402_settlements WHERE id = '{a}'"
            ),
            "seals.positions",
            &format!("event_positions {first_of_a}"),
        ),
        tampering(
            "payment alone",
            format!("DELETE FROM x402_settlements WHERE id = '{a}'"),
            "events.payment",
            &of(a),
        ),
        tampering(
            "hashes of two pulls",
            format!(
                "UPDATE x402_settlements SET tx_hash = '{other}', log_index = -1 WHERE id = '{b}';
                 UPDATE x402_settlements SET tx_hash = s.tx_hash, log_index = 99
                     FROM (SELECT '{pull}' AS tx_hash) s WHERE id = '{b}'"
            ),
            "payments.evidence",
            &of(b),
        ),
        tampering(
            "posting line",
            format!("DELETE FROM postings WHERE journal_id = '{journal}' AND line = 1"),
            "journals.balance",
            &format!("journals {journal}"),
        ),
        tampering(
            "journal",
            format!("DELETE FROM journals WHERE id = '{journal}'"),
            "journals.balance",
            &format!("journals {journal}"),
        ),
        tampering(
            "journal with its postings",
            format!(
                "DELETE FROM postings WHERE journal_id = '{journal}';
                 DELETE FROM journals WHERE id = '{journal}'"
            ),
            "journals.complete",
            &pull,
        ),
        tampering(
            "journal's amount",
            format!(
                "UPDATE postings SET amount_micro = amount_micro + 1
                 WHERE journal_id = '{journal}'"
            ),
            "journals.cite",
            &format!("journals {journal}"),
        ),
        tampering(
            "journal's block",
            format!("UPDATE journals SET block_number = block_number - 1 WHERE id = '{journal}'"),
            "journals.cite",
            &format!("journals {journal}"),
        ),
        tampering(
            "journal of a block that is to come",
            format!("UPDATE journals SET block_number = 99999999 WHERE id = '{journal}'"),
            "journals.booked",
            &format!("journals {journal}"),
        ),
        tampering(
            "payment of a record",
            format!("UPDATE journals SET settlement_id = '{b}' WHERE id = '{record}'"),
            "journals.records",
            &format!("journals {record}"),
        ),
        tampering(
            "sides of a journal",
            format!(
                "UPDATE postings SET side = CASE side WHEN 'debit' THEN 'credit' ELSE 'debit' END
                 WHERE journal_id = '{record}'"
            ),
            "journals.lines",
            &format!("journals {record}"),
        ),
        tampering(
            "further lines that balance",
            format!(
                "INSERT INTO postings (journal_id, line, account_id, side, amount_micro)
                 SELECT journal_id, line + 2, account_id, side, amount_micro FROM postings
                 WHERE journal_id = '{record}'"
            ),
            "journals.lines",
            &format!("journals {record}"),
        ),
        tampering(
            "shares of a split",
            format!(
                "UPDATE postings SET amount_micro = amount_micro + CASE line WHEN 2 THEN 1 ELSE -1 END
                 WHERE journal_id = '{split}' AND line IN (2, 3)"
            ),
            "journals.splits",
            &format!("journals {split}"),
        ),
        tampering(
            "account's total",
            format!("UPDATE accounts SET credits_micro = credits_micro + 1 WHERE id = {account}"),
            "accounts.totals",
            &format!("accounts {account}"),
        ),
        tampering(
            "mirror's amount",
            format!(
                "UPDATE x402_pull_events SET amount_micro = amount_micro + 1
                 WHERE settlement_id = '{a}'"
            ),
            "mirror.pulls",
            &of(a),
        ),
        tampering(
            "mirror's payer",
            format!("UPDATE x402_pull_events SET payer = splitter WHERE settlement_id = '{a}'"),
            "mirror.payments",
            &pull,
        ),
        tampering(
            "record in the mirror",
            "UPDATE splitter_events SET amount = amount - 1 WHERE event_name = 'SettlementRecorded'",
            "mirror.records",
            &of(a),
        ),
        tampering(
            "bytes of an envelope",
            format!(
                "UPDATE attempts SET raw = (SELECT raw FROM attempts WHERE hash <> '{attempt}'
                 LIMIT 1) WHERE hash = '{attempt}'"
            ),
            "outbox.hashes",
            &format!("attempts {attempt}"),
        ),
        tampering(
            "what was mined",
            format!("UPDATE transactions SET mined_hash = '{other}' WHERE mined_hash = '{pull}'"),
            "outbox.mined",
            "transactions ",
        ),
        tampering("first seal", "DELETE FROM event_seals WHERE from_position = 0", "seals.", ""),
        tampering(
            "root of a seal",
            format!("UPDATE event_seals SET root = '{other}' WHERE from_position = 0"),
            "seals.roots",
            &format!("event_seals {first_seal}"),
        ),
        tampering(
            "last seal",
            "DELETE FROM event_seals WHERE from_position =
                (SELECT max(from_position) FROM event_seals)",
            "seals.positions",
            "event_positions ",
        ),
    ]
}

#[tokio::test]
async fn whatever_is_tampered_with_is_found_and_named() {
    for kind in KINDS {
        let ground = Ground::start(kind).await;
        for (number, tampering) in tamperings(&ground.database).await.into_iter().enumerate() {
            let Tampering { name, sql, found: (check, row) } = tampering;
            let database = copy(&ground, &format!("tampered-{number}")).await;
            force(&database, &sql).await;
            let audited = audit(&ground, &database, &[]).await;
            assert_eq!(audited.code, 1, "{kind:?}, {name}: {audited:?}");
            let findings = audited.findings();
            assert!(
                findings.iter().any(|text| text.starts_with(check) && text.contains(&row)),
                "{kind:?}, {name}: {check} does not name {row:?}: {findings:#?}"
            );
        }
    }
}
