//! What must hold between tables, each in one query that names the rows that do not fit.
//!
//! "Booked" is what lies before the journal's cursor: behind it the daemon is still at work.

/// A property, and how to find what contradicts it.
pub(super) struct Rule {
    /// Its name.
    pub(super) name: &'static str,
    /// What must hold.
    pub(super) promise: &'static str,
    /// How many rows are looked at.
    pub(super) count: &'static str,
    /// The rows that do not fit: name, problem.
    pub(super) violations: &'static str,
}

/// Every log of the mirror that moves money: what it is and how much.
macro_rules! logs {
    () => {
        "(SELECT chain_id, splitter, tx_hash, log_index, block_number, block_hash,
                amount_micro AS amount, 'inflow' AS class
            FROM x402_pull_events WHERE amount_micro > 0
        UNION ALL SELECT chain_id, splitter, tx_hash, log_index, block_number, block_hash,
                amount_micro, 'inflow'
            FROM passed_events WHERE amount_micro > 0
        UNION ALL SELECT chain_id, splitter, tx_hash, log_index, block_number, block_hash,
                amount_micro, 'outflow'
            FROM payout_events WHERE amount_micro > 0
        UNION ALL SELECT chain_id, splitter, tx_hash, log_index, block_number, block_hash,
                amount, event_name
            FROM splitter_events WHERE amount > 0)"
    };
}

/// The amount that each journal books, by its first line: others divide or pass it on.
macro_rules! amounts {
    () => {
        "(SELECT journal_id, amount_micro AS booked FROM postings WHERE line = 0)"
    };
}

/// Journals that cite a log of the mirror and were not reversed. A paid refund cites the treasury's.
macro_rules! standing {
    () => {
        "(SELECT id, chain_id, splitter, kind, settlement_id, tx_hash, log_index, block_number,
                block_hash
            FROM journals j WHERE tx_hash IS NOT NULL AND reverses IS NULL
            AND kind <> 'refund_paid' AND NOT EXISTS (SELECT 1 FROM journals r WHERE r.reverses = j.id))"
    };
}

/// How far each Splitter is booked.
macro_rules! booked {
    () => {
        "(SELECT chain_id, splitter, next_block FROM cursors WHERE stream = 'journal')"
    };
}

/// Journals of refunds that are due and were not taken back: how much, and to which account.
macro_rules! due {
    () => {
        "(SELECT j.id, j.settlement_id, p.amount_micro AS amount, a.code
            FROM journals j JOIN postings p ON p.journal_id = j.id AND p.side = 'credit'
            JOIN accounts a ON a.id = p.account_id
            WHERE j.kind = 'refund_due' AND NOT EXISTS (
                SELECT 1 FROM journals r WHERE r.reverses = j.id))"
    };
}

/// The books.
pub(super) const BOOKS: &[Rule] = &[
    Rule {
        name: "accounts.totals",
        promise: "each account's totals are the sums of its postings, and none is below its floor",
        count: "SELECT count(*) FROM accounts",
        violations: "SELECT 'accounts ' || coalesce(CAST(a.id AS TEXT), CAST(s.account_id AS TEXT))
                || coalesce(' ' || a.code, ''),
                CASE WHEN a.id IS NULL THEN 'its postings are there, but not the account'
                    ELSE 'it says debits ' || CAST(a.debits_micro AS TEXT) || ', credits '
                    || CAST(a.credits_micro AS TEXT) || '; its postings sum up to '
                    || CAST(coalesce(s.debits, 0) AS TEXT) || ', '
                    || CAST(coalesce(s.credits, 0) AS TEXT) END
            FROM accounts a FULL JOIN (SELECT account_id,
                CAST(sum(CASE WHEN side = 'debit' THEN amount_micro ELSE 0 END) AS BIGINT) AS debits,
                CAST(sum(CASE WHEN side = 'credit' THEN amount_micro ELSE 0 END) AS BIGINT) AS credits
                FROM postings GROUP BY account_id) s ON s.account_id = a.id
            WHERE a.id IS NULL OR a.debits_micro <> coalesce(s.debits, 0)
            OR a.credits_micro <> coalesce(s.credits, 0)
            OR a.floor_zero AND CASE WHEN a.side = 'debit' THEN a.debits_micro < a.credits_micro
                ELSE a.credits_micro < a.debits_micro END",
    },
    Rule {
        name: "accounts.sum",
        promise: "over all accounts, debits and credits are equal",
        count: "SELECT count(*) FROM splitters",
        violations: "SELECT 'accounts of ' || splitter, 'debits ' || CAST(sum(debits_micro) AS TEXT)
                || ', credits ' || CAST(sum(credits_micro) AS TEXT)
            FROM accounts GROUP BY chain_id, splitter HAVING sum(debits_micro) <> sum(credits_micro)",
    },
    Rule {
        name: "journals.reversals",
        promise: "a reversal mirrors the journal that it takes back, line by line",
        count: "SELECT count(*) FROM journals WHERE reverses IS NOT NULL",
        violations: "SELECT 'journals ' || r.id, 'it does not mirror journal ' || r.reverses
            FROM journals r WHERE r.reverses IS NOT NULL AND (
                NOT EXISTS (SELECT 1 FROM journals o WHERE o.id = r.reverses)
                OR (SELECT count(*) FROM postings WHERE journal_id = r.id)
                    <> (SELECT count(*) FROM postings WHERE journal_id = r.reverses)
                OR EXISTS (SELECT 1 FROM postings p WHERE p.journal_id = r.id AND NOT EXISTS (
                    SELECT 1 FROM postings o WHERE o.journal_id = r.reverses
                    AND o.account_id = p.account_id AND o.amount_micro = p.amount_micro
                    AND o.side <> p.side)))",
    },
];

/// The books against the mirror and the payments. Millions of rows have to be joined for that, so it
/// is done only where [`super::books`] has found that something does not fit, to name it.
pub(super) const BOOKED: &[Rule] = &[
    Rule {
        name: "journals.accounts",
        promise: "a journal books to the capability or the recipient of its payment or log",
        count: "SELECT count(*) FROM journals WHERE tx_hash IS NOT NULL AND reverses IS NULL",
        violations: concat!(
            "SELECT 'journals ' || j.id, 'kind ' || j.kind || ', line ' || CAST(p.line AS TEXT)
                || ': ' || a.code || ' is not the account of its payment or log'
            FROM ",
            standing!(),
            " j JOIN postings p ON p.journal_id = j.id AND p.line < 2
            JOIN accounts a ON a.id = p.account_id
            LEFT JOIN x402_settlements s ON s.id = j.settlement_id
            LEFT JOIN splitter_events e ON e.chain_id = j.chain_id AND e.splitter = j.splitter
                AND e.tx_hash = j.tx_hash AND e.log_index = j.log_index
            LEFT JOIN payout_events o ON o.chain_id = j.chain_id AND o.splitter = j.splitter
                AND o.tx_hash = j.tx_hash AND o.log_index = j.log_index
            WHERE j.kind = 'pull' AND p.line = 1 AND a.code <> CASE s.kind
                WHEN 'pass_through' THEN 'passed:' || s.pay_to
                ELSE 'clearing:' || coalesce(s.splitter_capability_id, '') END
            OR j.kind = 'pull' AND p.line = 0 AND a.code <> CASE s.kind
                WHEN 'pass_through' THEN 'passed_through' ELSE 'asset:splitter' END
            OR j.kind IN ('record', 'unattributed_record') AND (
                p.line = 1 AND a.code <> 'accounted:' || coalesce(e.splitter_capability_id, '')
                OR p.line = 0 AND a.code NOT IN ('suspense:unattributed',
                    'clearing:' || coalesce(s.splitter_capability_id, '')))
            OR j.kind = 'split' AND p.line = 0
                AND a.code <> 'accounted:' || coalesce(e.splitter_capability_id, '')
            OR j.kind = 'payout' AND p.line = 0
                AND a.code <> 'payable:' || coalesce(o.recipient, '')
            OR j.kind = 'escrow' AND a.code <> CASE p.line WHEN 0 THEN 'payable:' ELSE 'escrow:' END
                || coalesce(e.account, '')
            OR j.kind = 'withdrawal' AND a.code <> CASE p.line WHEN 0 THEN 'escrow:'
                ELSE 'payable:' END || coalesce(e.account, '')"
        ),
    },
    Rule {
        name: "journals.lines",
        promise: "a journal debits one account and credits another, those of its kind; a split \
                  credits several",
        count: "SELECT count(*) FROM journals WHERE tx_hash IS NOT NULL AND reverses IS NULL",
        violations: concat!(
            "SELECT 'journals ' || j.id, 'kind ' || j.kind || ', line ' || CAST(p.line AS TEXT)
                || ': a ' || p.side || ' of ' || a.code || ' is not what it has'
            FROM ",
            standing!(),
            " j JOIN postings p ON p.journal_id = j.id JOIN accounts a ON a.id = p.account_id
            WHERE p.side <> CASE WHEN p.line = 0 OR p.line = 2 AND j.kind <> 'split'
                THEN 'debit' ELSE 'credit' END
            OR p.line > CASE WHEN j.kind IN ('pull', 'split') THEN 3 ELSE 1 END
            OR a.code NOT LIKE CASE j.kind
                WHEN 'pull' THEN CASE p.line WHEN 2 THEN 'clearing:%'
                    WHEN 3 THEN 'suspense:unattributed' ELSE '%' END
                WHEN 'unattributed_inflow' THEN CASE p.line WHEN 0 THEN 'asset:splitter'
                    ELSE 'suspense:unattributed' END
                WHEN 'payout' THEN CASE p.line WHEN 1 THEN 'asset:splitter' ELSE '%' END
                WHEN 'split' THEN CASE p.line WHEN 0 THEN '%' ELSE 'payable:%' END
                WHEN 'escrow' THEN CASE p.line WHEN 0 THEN 'payable:%' ELSE 'escrow:%' END
                WHEN 'withdrawal' THEN CASE p.line WHEN 0 THEN 'escrow:%' ELSE 'payable:%' END
                ELSE '%' END"
        ),
    },
    Rule {
        name: "journals.records",
        promise: "a record is booked for the payment that it was made for",
        count: "SELECT count(*) FROM journals WHERE kind = 'record' AND reverses IS NULL",
        violations: concat!(
            "SELECT 'journals ' || j.id, 'it is not the record of payment ' || s.id
            FROM ",
            standing!(),
            " j JOIN x402_settlements s ON s.id = j.settlement_id
            WHERE j.kind = 'record' AND (s.record_tx_hash IS NULL
                OR s.record_tx_hash <> j.tx_hash OR s.record_log_index <> j.log_index)"
        ),
    },
    Rule {
        name: "journals.booked",
        promise: "nothing is booked behind the place up to which is booked",
        count: "SELECT count(*) FROM journals WHERE tx_hash IS NOT NULL AND reverses IS NULL",
        violations: concat!(
            "SELECT 'journals ' || j.id, 'it is of block ' || CAST(j.block_number AS TEXT)
                || ', and is booked up to ' || CAST(coalesce(c.next_block, 0) AS TEXT)
            FROM ",
            standing!(),
            " j LEFT JOIN ",
            booked!(),
            " c ON c.chain_id = j.chain_id AND c.splitter = j.splitter
            WHERE j.block_number >= coalesce(c.next_block, 0)"
        ),
    },
    Rule {
        name: "journals.cite",
        promise: "every journal that stands cites a log of the mirror of its kind and amount",
        count: "SELECT count(*) FROM journals WHERE tx_hash IS NOT NULL AND reverses IS NULL",
        violations: concat!(
            "SELECT 'journals ' || j.id, 'kind ' || j.kind || ', ' || CAST(s.booked AS TEXT)
                || ': the mirror has no such log ' || CAST(j.log_index AS TEXT) || ' of ' || j.tx_hash
            FROM ",
            standing!(),
            " j JOIN ",
            amounts!(),
            " s ON s.journal_id = j.id
            LEFT JOIN ",
            logs!(),
            " l ON l.chain_id = j.chain_id AND l.splitter = j.splitter AND l.tx_hash = j.tx_hash
                AND l.log_index = j.log_index AND l.block_hash = j.block_hash
                AND l.block_number = j.block_number
                AND l.amount = s.booked
                AND l.class = CASE j.kind WHEN 'pull' THEN 'inflow'
                    WHEN 'unattributed_inflow' THEN 'inflow' WHEN 'payout' THEN 'outflow'
                    WHEN 'record' THEN 'SettlementRecorded'
                    WHEN 'unattributed_record' THEN 'SettlementRecorded'
                    WHEN 'split' THEN 'PaymentSplit' WHEN 'escrow' THEN 'ProviderEscrowed'
                    WHEN 'withdrawal' THEN 'ProviderWithdrew' ELSE l.class END
            JOIN ",
            booked!(),
            " c ON c.chain_id = j.chain_id AND c.splitter = j.splitter
            WHERE l.tx_hash IS NULL AND j.block_number < c.next_block"
        ),
    },
    Rule {
        name: "journals.complete",
        promise: "every log of the mirror that moves money is booked",
        count: concat!("SELECT count(*) FROM ", logs!(), " l"),
        violations: concat!(
            "SELECT l.class || ' ' || CAST(l.log_index AS TEXT) || ' of ' || l.tx_hash,
                CAST(l.amount AS TEXT) || ' micro-USDC are in no journal'
            FROM ",
            logs!(),
            " l JOIN ",
            booked!(),
            " c ON c.chain_id = l.chain_id AND c.splitter = l.splitter
            LEFT JOIN ",
            standing!(),
            " j ON j.chain_id = l.chain_id AND j.splitter = l.splitter AND j.tx_hash = l.tx_hash
                AND j.log_index = l.log_index AND j.block_hash = l.block_hash
            WHERE j.id IS NULL AND l.block_number < c.next_block"
        ),
    },
    Rule {
        name: "journals.once",
        promise: "no log is booked twice",
        count: "SELECT count(*) FROM journals WHERE tx_hash IS NOT NULL AND reverses IS NULL",
        violations: concat!(
            "SELECT 'log ' || CAST(log_index AS TEXT) || ' of ' || tx_hash,
                CAST(count(*) AS TEXT) || ' journals that stand cite it'
            FROM ",
            standing!(),
            " j GROUP BY chain_id, splitter, tx_hash, log_index HAVING count(*) > 1"
        ),
    },
    Rule {
        name: "journals.pulls",
        promise: "a confirmed payment has one journal of its pull, of its amount",
        count: "SELECT count(*) FROM x402_settlements WHERE status = 'chain_confirmed'",
        violations: concat!(
            "SELECT 'x402_settlements ' || p.id, CAST(p.journals AS TEXT)
                || ' journals of its pull, together ' || CAST(p.booked AS TEXT)
            FROM (SELECT s.id, s.amount_usdc_micro, count(j.id) AS journals,
                    CAST(coalesce(sum(d.booked), 0) AS BIGINT) AS booked
                FROM x402_settlements s
                JOIN ",
            booked!(),
            " c ON c.chain_id = s.chain_id AND c.splitter = s.splitter
                LEFT JOIN ",
            standing!(),
            " j ON j.kind IN ('pull', 'unexplained') AND j.tx_hash = s.tx_hash
                    AND (j.settlement_id = s.id OR j.log_index = s.log_index
                        AND j.settlement_id IS NULL)
                LEFT JOIN ",
            amounts!(),
            " d ON d.journal_id = j.id
                WHERE s.status = 'chain_confirmed' AND s.block_number < c.next_block
                GROUP BY s.id, s.amount_usdc_micro) p
            WHERE p.journals <> 1 OR p.booked <> p.amount_usdc_micro"
        ),
    },
    Rule {
        name: "journals.payments",
        promise: "a journal of a pull names the payment whose amount it books",
        count: "SELECT count(*) FROM journals WHERE kind = 'pull'",
        violations: concat!(
            "SELECT 'journals ' || j.id, 'payment ' || coalesce(j.settlement_id, 'none')
                || ' is not of this amount, or is not there'
            FROM ",
            standing!(),
            " j JOIN ",
            amounts!(),
            " d ON d.journal_id = j.id
            LEFT JOIN x402_settlements s ON s.id = j.settlement_id
                AND s.amount_usdc_micro = d.booked
            WHERE j.kind = 'pull' AND s.id IS NULL"
        ),
    },
];

/// The payments against the mirror; as those above, only where something does not fit.
pub(super) const MIRRORED: &[Rule] = &[
    Rule {
        name: "mirror.pulls",
        promise: "a paid payment's pull is in the mirror: payer, nonce, amount, place",
        count: "SELECT count(*) FROM x402_settlements WHERE tx_hash IS NOT NULL",
        violations: concat!(
            "SELECT 'x402_settlements ' || s.id, 'x402_pull_events has not this pull: log '
                || CAST(s.log_index AS TEXT) || ' of ' || s.tx_hash
            FROM x402_settlements s JOIN ",
            booked!(),
            " c ON c.chain_id = s.chain_id AND c.splitter = s.splitter
            LEFT JOIN x402_pull_events p ON p.chain_id = s.chain_id AND p.tx_hash = s.tx_hash
                AND p.log_index = s.log_index AND p.block_number = s.block_number
                AND p.block_hash = s.block_hash AND p.splitter = s.splitter AND p.asset = s.asset
                AND p.payer = s.payer AND p.eip3009_nonce = s.eip3009_nonce
                AND p.amount_micro = s.amount_usdc_micro AND p.settlement_id = s.id
            WHERE s.kind = 'capability' AND s.status IN ('facilitator_attested', 'chain_confirmed')
            AND s.block_number < c.next_block AND p.tx_hash IS NULL"
        ),
    },
    Rule {
        name: "mirror.passed",
        promise: "a payment that passed through is in the mirror: payer, nonce, amount, place",
        count: "SELECT count(*) FROM x402_settlements
            WHERE kind = 'pass_through' AND tx_hash IS NOT NULL",
        violations: concat!(
            "SELECT 'x402_settlements ' || s.id, 'passed_events has not this pull: log '
                || CAST(s.log_index AS TEXT) || ' of ' || s.tx_hash
            FROM x402_settlements s JOIN ",
            booked!(),
            " c ON c.chain_id = s.chain_id AND c.splitter = s.splitter
            LEFT JOIN passed_events p ON p.chain_id = s.chain_id AND p.tx_hash = s.tx_hash
                AND p.log_index = s.log_index AND p.block_number = s.block_number
                AND p.block_hash = s.block_hash AND p.splitter = s.splitter AND p.asset = s.asset
                AND p.payer = s.payer AND p.eip3009_nonce = s.eip3009_nonce
                AND p.amount_micro = s.amount_usdc_micro AND p.settlement_id = s.id
            WHERE s.kind = 'pass_through' AND s.status IN ('facilitator_attested', 'chain_confirmed')
            AND s.block_number < c.next_block AND p.tx_hash IS NULL"
        ),
    },
    Rule {
        name: "mirror.passed_payments",
        promise: "what the mirror says to have passed through is a payment that passes through",
        count: "SELECT count(*) FROM passed_events",
        violations: "SELECT 'passed_events ' || CAST(p.log_index AS TEXT) || ' of ' || p.tx_hash,
                'it is not the pull of payment ' || p.settlement_id
            FROM passed_events p LEFT JOIN x402_settlements s ON s.id = p.settlement_id
                AND s.kind = 'pass_through' AND s.payer = p.payer
                AND s.eip3009_nonce = p.eip3009_nonce AND s.chain_id = p.chain_id
                AND s.asset = p.asset
            WHERE s.id IS NULL",
    },
    Rule {
        name: "mirror.payments",
        promise: "a pull that the mirror gives to a payment is that payment's",
        count: "SELECT count(*) FROM x402_pull_events WHERE settlement_id IS NOT NULL",
        violations:
            "SELECT 'x402_pull_events ' || CAST(p.log_index AS TEXT) || ' of ' || p.tx_hash,
                'it is not the pull of payment ' || p.settlement_id
            FROM x402_pull_events p LEFT JOIN x402_settlements s ON s.id = p.settlement_id
                AND s.payer = p.payer AND s.eip3009_nonce = p.eip3009_nonce
                AND s.chain_id = p.chain_id AND s.asset = p.asset
            WHERE p.settlement_id IS NOT NULL AND s.id IS NULL",
    },
    Rule {
        name: "mirror.records",
        promise: "a recorded payment's record is in the mirror, of its amount",
        count: "SELECT count(*) FROM x402_settlements WHERE record_tx_hash IS NOT NULL",
        violations: concat!(
            "SELECT 'x402_settlements ' || s.id, 'splitter_events has not this record: log '
                || CAST(s.record_log_index AS TEXT) || ' of ' || s.record_tx_hash
            FROM x402_settlements s JOIN ",
            booked!(),
            " c ON c.chain_id = s.chain_id AND c.splitter = s.splitter
            LEFT JOIN splitter_events e ON e.chain_id = s.chain_id
                AND e.tx_hash = s.record_tx_hash AND e.log_index = s.record_log_index
                AND e.block_number = s.record_block_number AND e.splitter = s.splitter
                AND e.event_name = 'SettlementRecorded' AND e.amount = s.amount_usdc_micro
            WHERE s.record_tx_hash IS NOT NULL AND s.record_block_number < c.next_block
            AND e.tx_hash IS NULL"
        ),
    },
];

/// No log is cited twice; as those above.
pub(super) const ONCE: &[Rule] = &[
    Rule {
        name: "evidence.pull_once",
        promise: "no log is the pull of two payments",
        count: "SELECT count(*) FROM x402_settlements WHERE tx_hash IS NOT NULL",
        violations: "SELECT 'log ' || CAST(log_index AS TEXT) || ' of ' || tx_hash,
                'it is the pull of ' || min(id) || ' and of ' || max(id)
            FROM x402_settlements WHERE tx_hash IS NOT NULL
            GROUP BY chain_id, tx_hash, log_index HAVING count(*) > 1",
    },
    Rule {
        name: "evidence.record_once",
        promise: "no log is the record of two payments",
        count: "SELECT count(*) FROM x402_settlements WHERE record_tx_hash IS NOT NULL",
        violations: "SELECT 'log ' || CAST(record_log_index AS TEXT) || ' of ' || record_tx_hash,
                'it is the record of ' || min(id) || ' and of ' || max(id)
            FROM x402_settlements WHERE record_tx_hash IS NOT NULL
            GROUP BY chain_id, record_tx_hash, record_log_index HAVING count(*) > 1",
    },
];

/// What was mined; as those above.
pub(super) const MINED: &[Rule] = &[
    Rule {
        name: "outbox.mined",
        promise: "what was mined is one of the transaction's own envelopes",
        count: "SELECT count(*) FROM transactions WHERE mined_hash IS NOT NULL",
        violations: "SELECT 'transactions ' || CAST(t.id AS TEXT), 'account nonce '
                || CAST(t.account_nonce AS TEXT) || ': ' || t.mined_hash || ' is none of its envelopes'
            FROM transactions t LEFT JOIN attempts a ON a.hash = t.mined_hash
                AND a.transaction_id = t.id
            WHERE t.mined_hash IS NOT NULL AND a.hash IS NULL
            AND coalesce(t.reason, '') NOT LIKE 'found on the chain, its bytes are not known: %'
            AND t.state IN ('included', 'safe', 'finalized', 'reverted')",
    },
];

/// Splits and refunds.
pub(super) const EVIDENCE: &[Rule] = &[
    Rule {
        name: "mirror.splits",
        promise: "payments that are split sum up to no more than their split in the mirror",
        count: "SELECT count(*) FROM x402_settlements WHERE split_tx_hash IS NOT NULL",
        violations: concat!(
            "SELECT 'split ' || CAST(s.split_log_index AS TEXT) || ' of ' || s.split_tx_hash,
                'payments say ' || CAST(s.amount AS TEXT) || ' of it (' || s.one
                || ' among them), splitter_events ' || coalesce(CAST(e.amount AS TEXT), 'nothing')
            FROM (SELECT chain_id, splitter, split_tx_hash, split_log_index, split_block_number,
                    min(id) AS one,
                    sum(amount_usdc_micro) AS amount, sum(provider_share_micro) AS provider,
                    sum(hub_share_micro) AS hub, sum(network_share_micro) AS reserve
                FROM x402_settlements WHERE split_tx_hash IS NOT NULL
                GROUP BY chain_id, splitter, split_tx_hash, split_log_index, split_block_number) s
            JOIN ",
            booked!(),
            " c ON c.chain_id = s.chain_id AND c.splitter = s.splitter
            LEFT JOIN splitter_events e ON e.chain_id = s.chain_id
                AND e.tx_hash = s.split_tx_hash AND e.log_index = s.split_log_index
                AND e.block_number = s.split_block_number AND e.splitter = s.splitter
                AND e.event_name = 'PaymentSplit'
            WHERE s.split_block_number < c.next_block
            AND (e.tx_hash IS NULL OR s.amount > e.amount OR s.provider > e.provider_amount
                OR s.hub > e.hub_amount OR s.reserve > e.reserve_amount)"
        ),
    },
    Rule {
        name: "journals.splits",
        promise: "a split credits hub and reserve with their shares, and the rest to one provider",
        count: "SELECT count(*) FROM journals WHERE kind = 'split' AND reverses IS NULL",
        violations: concat!(
            "SELECT 'journals ' || j.id, 'it divides otherwise than log '
                || CAST(j.log_index AS TEXT) || ' of ' || j.tx_hash
            FROM ",
            standing!(),
            " j JOIN splitters t ON t.chain_id = j.chain_id AND t.address = j.splitter
            JOIN splitter_events e ON e.chain_id = j.chain_id AND e.splitter = j.splitter
                AND e.tx_hash = j.tx_hash AND e.log_index = j.log_index
                AND e.event_name = 'PaymentSplit'
            LEFT JOIN postings p ON p.journal_id = j.id AND p.line > 0
            LEFT JOIN accounts a ON a.id = p.account_id
            WHERE j.kind = 'split'
            GROUP BY j.id, j.log_index, j.tx_hash, e.provider_amount, e.hub_amount,
                e.reserve_amount, t.hub_treasury, t.network_reserve
            HAVING count(p.line) <> CASE WHEN e.provider_amount > 0 THEN 1 ELSE 0 END
                + CASE WHEN e.hub_amount > 0 THEN 1 ELSE 0 END
                + CASE WHEN e.reserve_amount > 0 THEN 1 ELSE 0 END
            OR e.hub_amount > 0 AND coalesce(max(CASE WHEN a.code = 'payable:' || t.hub_treasury
                AND p.line = 1 + CASE WHEN e.provider_amount > 0 THEN 1 ELSE 0 END
                THEN p.amount_micro END), 0) <> e.hub_amount
            OR e.reserve_amount > 0 AND coalesce(max(CASE WHEN a.code = 'payable:' || t.network_reserve
                AND p.line = 1 + CASE WHEN e.provider_amount > 0 THEN 1 ELSE 0 END
                    + CASE WHEN e.hub_amount > 0 THEN 1 ELSE 0 END
                THEN p.amount_micro END), 0) <> e.reserve_amount"
        ),
    },
    Rule {
        name: "refunds.payments",
        promise: "a refund is of all of its payment, to its payer, by its provider",
        count: "SELECT count(*) FROM x402_refund_log",
        violations: "SELECT 'x402_refund_log ' || r.id, CAST(r.amount_micro AS TEXT) || ' to '
                || r.payer || ': that is not payment ' || r.settlement_id
            FROM x402_refund_log r LEFT JOIN x402_settlements s ON s.id = r.settlement_id
            WHERE s.id IS NULL OR s.payer <> r.payer OR s.amount_usdc_micro <> r.amount_micro
            OR s.chain_id <> r.chain_id OR s.splitter <> r.splitter
            OR coalesce(s.provider, '0x0000000000000000000000000000000000000000') <> r.provider",
    },
    Rule {
        name: "refunds.state",
        promise: "a refund is what the last event of its payment's refund says",
        count: "SELECT count(*) FROM x402_refund_log",
        violations: "SELECT 'x402_refund_log ' || r.id, 'it is ' || r.state || ', by its events '
                || coalesce(e.state, 'none')
            FROM x402_refund_log r
            LEFT JOIN (SELECT settlement_id, max(n) AS n FROM settlement_events
                WHERE settlement_id IN (SELECT settlement_id FROM x402_refund_log)
                AND kind LIKE 'refund.%' GROUP BY settlement_id) l
                ON l.settlement_id = r.settlement_id
            LEFT JOIN settlement_events e ON e.settlement_id = l.settlement_id AND e.n = l.n
            WHERE e.state IS NULL OR e.state <> r.state",
    },
    Rule {
        name: "refunds.journals",
        promise: "what is owed, proposed or paid is booked once as due, to its payer; nothing else is",
        count: "SELECT count(*) FROM x402_refund_log",
        violations: concat!(
            "SELECT 'x402_refund_log ' || r.id, 'it is ' || r.state || ' and ' || CAST(count(d.id)
                AS TEXT) || ' journals say that it is due, or another amount or payer'
            FROM x402_refund_log r LEFT JOIN ",
            due!(),
            " d ON d.settlement_id = r.settlement_id
            GROUP BY r.id, r.state, r.amount_micro, r.payer
            HAVING count(d.id) <> CASE WHEN r.state IN ('approved', 'proposed', 'paid')
                THEN 1 ELSE 0 END
            OR max(d.amount) <> r.amount_micro OR max(d.code) <> 'refund:' || r.payer
            UNION ALL
            SELECT 'journals ' || d.id, 'the refund that it says is due is not there'
            FROM ",
            due!(),
            " d LEFT JOIN x402_refund_log r ON r.settlement_id = d.settlement_id
            WHERE r.id IS NULL"
        ),
    },
    Rule {
        name: "refunds.paid",
        promise: "a refund that is paid is booked once, by its Transfer and of its amount; nothing else is",
        count: "SELECT count(*) FROM x402_refund_log WHERE state = 'paid'",
        violations: concat!(
            "SELECT 'x402_refund_log ' || r.id, 'it is ' || r.state || ' and '
                || CAST(count(j.id) AS TEXT) || ' journals say that it was paid, or another amount'
            FROM x402_refund_log r LEFT JOIN journals j ON j.settlement_id = r.settlement_id
                AND j.kind = 'refund_paid' AND j.reverses IS NULL
                AND NOT EXISTS (SELECT 1 FROM journals k WHERE k.reverses = j.id)
            LEFT JOIN ",
            amounts!(),
            " d ON d.journal_id = j.id
            GROUP BY r.id, r.state, r.amount_micro, r.tx_hash, r.log_index
            HAVING count(j.id) <> CASE r.state WHEN 'paid' THEN 1 ELSE 0 END
            OR max(d.booked) <> r.amount_micro OR max(j.tx_hash) <> r.tx_hash
            OR max(j.log_index) <> r.log_index
            UNION ALL
            SELECT 'journals ' || j.id, 'the refund that it says was paid is not there'
            FROM journals j LEFT JOIN x402_refund_log r ON r.settlement_id = j.settlement_id
            WHERE j.kind = 'refund_paid' AND r.id IS NULL"
        ),
    },
];
