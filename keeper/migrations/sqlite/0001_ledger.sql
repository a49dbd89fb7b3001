-- The ledger. One logical schema with migrations/postgres/0001_ledger.sql; docs/ledger.md explains it.
--
-- Conventions: money is INTEGER micro-USDC, gas is INTEGER wei, times are RFC 3339 in UTC, booleans
-- are 0 or 1; addresses and hashes are lower-case 0x hex; a row says on which chain and at which
-- Splitter it happened. Nothing but the mirror of chain logs is ever deleted.

-- ------------------------------------------------------------------------------ who and where

CREATE TABLE splitters (
    chain_id           INTEGER NOT NULL,
    address            TEXT    NOT NULL CHECK (length(address) = 42),
    version            TEXT    NOT NULL CHECK (version IN ('1.1.1', '2')),
    asset              TEXT    NOT NULL CHECK (length(asset) = 42),
    hub_treasury       TEXT    NOT NULL CHECK (length(hub_treasury) = 42),
    network_reserve    TEXT    NOT NULL CHECK (length(network_reserve) = 42),
    authorized_settler TEXT    NOT NULL CHECK (length(authorized_settler) = 42),
    per_tx_cap_micro   INTEGER NOT NULL CHECK (per_tx_cap_micro > 0),
    first_block        INTEGER NOT NULL CHECK (first_block >= 0),
    created_at         TEXT    NOT NULL,
    PRIMARY KEY (chain_id, address)
) STRICT;

-- ------------------------------------------------------------------------------ settlements

CREATE TABLE x402_settlements (
    id                         TEXT    PRIMARY KEY CHECK (length(id) = 36),
    trace_id                   TEXT    NOT NULL UNIQUE CHECK (length(trace_id) = 66),
    chain_id                   INTEGER NOT NULL,
    splitter                   TEXT,
    -- the identity of a payment
    asset                      TEXT    NOT NULL CHECK (length(asset) = 42),
    payer                      TEXT    NOT NULL CHECK (length(payer) = 42),
    eip3009_nonce              TEXT    NOT NULL CHECK (length(eip3009_nonce) = 66),
    -- what was signed
    pay_to                     TEXT    NOT NULL CHECK (length(pay_to) = 42),
    amount_usdc_micro          INTEGER NOT NULL CHECK (amount_usdc_micro > 0),
    valid_after                INTEGER NOT NULL CHECK (valid_after >= 0),
    valid_before               INTEGER NOT NULL CHECK (valid_before > valid_after),
    signature                  BLOB,
    -- what it was signed for
    kind                       TEXT    NOT NULL CHECK (kind IN ('capability', 'pass_through')),
    mode                       TEXT    NOT NULL CHECK (mode IN ('self', 'external', 'atomic')),
    capability_id              TEXT,
    splitter_capability_id     TEXT    CHECK (length(splitter_capability_id) = 66),
    -- the terms of the sale: who is paid, and the shares in basis points
    provider                   TEXT    CHECK (length(provider) = 42),
    provider_bps               INTEGER CHECK (provider_bps >= 0),
    hub_bps                    INTEGER CHECK (hub_bps >= 0),
    reserve_bps                INTEGER CHECK (reserve_bps >= 0),
    -- of the request; unknown for what is rebuilt from the chain
    x402_version               INTEGER CHECK (x402_version IN (1, 2)),
    agent_id                   TEXT,
    request_id                 TEXT,
    content_hash               TEXT    CHECK (length(content_hash) = 66),
    payment_hash               TEXT    CHECK (length(payment_hash) = 66),
    -- at JecpSplitterV2: the payment's bit in the contract
    settlement_number          INTEGER CHECK (settlement_number >= 0),
    -- where it stands
    status                     TEXT    NOT NULL CHECK (status IN (
        'reserved', 'settle_pending', 'facilitator_attested', 'chain_confirmed',
        'released', 'failed', 'orphaned', 'mismatched')),
    keeper_state               TEXT    NOT NULL CHECK (keeper_state IN (
        'none', 'recording', 'recorded', 'splitting', 'split', 'held', 'violation')),
    status_reason              TEXT,
    -- evidence: the pull, the record, the split
    tx_hash                    TEXT    CHECK (length(tx_hash) = 66),
    log_index                  INTEGER,
    block_number               INTEGER,
    block_hash                 TEXT    CHECK (length(block_hash) = 66),
    record_tx_hash             TEXT    CHECK (length(record_tx_hash) = 66),
    record_log_index           INTEGER,
    record_block_number        INTEGER,
    split_tx_hash              TEXT    CHECK (length(split_tx_hash) = 66),
    split_log_index            INTEGER,
    split_block_number         INTEGER,
    provider_share_micro       INTEGER CHECK (provider_share_micro >= 0),
    hub_share_micro            INTEGER CHECK (hub_share_micro >= 0),
    network_share_micro        INTEGER CHECK (network_share_micro >= 0),
    facilitator_response_jsonb TEXT    NOT NULL DEFAULT '{}',
    reserved_at                TEXT    NOT NULL,
    settled_at                 TEXT,
    chain_confirmed_at         TEXT,
    UNIQUE (chain_id, asset, payer, eip3009_nonce),
    UNIQUE (chain_id, tx_hash, log_index),
    UNIQUE (chain_id, splitter, settlement_number),
    FOREIGN KEY (chain_id, splitter) REFERENCES splitters (chain_id, address),
    -- evidence before status
    CHECK (status NOT IN ('facilitator_attested', 'chain_confirmed') OR tx_hash IS NOT NULL),
    CHECK (keeper_state NOT IN ('recorded', 'splitting', 'split') OR record_tx_hash IS NOT NULL),
    CHECK (keeper_state <> 'split' OR (
        split_tx_hash IS NOT NULL
        AND provider_share_micro + hub_share_micro + network_share_micro = amount_usdc_micro)),
    -- a payment that passes through to another payee touches no Splitter
    CHECK (kind <> 'capability' OR (splitter IS NOT NULL AND splitter = pay_to
        AND splitter_capability_id IS NOT NULL AND capability_id IS NOT NULL))
) STRICT;

-- One request is paid by one authorization at a time; a second one is not pulled while the first
-- is pending or paid.
CREATE UNIQUE INDEX x402_settlements_request ON x402_settlements (agent_id, request_id)
    WHERE status NOT IN ('released', 'failed');
CREATE INDEX x402_settlements_open ON x402_settlements (chain_id, splitter, status, keeper_state);
CREATE INDEX x402_settlements_tx ON x402_settlements (tx_hash);
CREATE INDEX x402_settlements_pulled ON x402_settlements (chain_id, splitter, block_number);

CREATE TABLE deliveries (
    settlement_id TEXT    PRIMARY KEY REFERENCES x402_settlements (id),
    state         TEXT    NOT NULL CHECK (state IN ('none', 'calling', 'delivered', 'failed', 'unknown')),
    attempts      INTEGER NOT NULL,
    refund_due    INTEGER NOT NULL,
    http_status   INTEGER,
    response_body TEXT,
    failure       TEXT    CHECK (failure IN ('error', 'timeout', 'unavailable', 'lost', 'forgone')),
    failure_text  TEXT,
    started_at    TEXT    NOT NULL,
    finished_at   TEXT,
    CHECK (state <> 'delivered' OR response_body IS NOT NULL),
    CHECK (state NOT IN ('failed', 'unknown') OR failure IS NOT NULL)
) STRICT;

-- Hash-chained per settlement (prev_hash of event 0 is the trace id), ordered over all by seq.
CREATE TABLE settlement_events (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    settlement_id TEXT    NOT NULL REFERENCES x402_settlements (id),
    n             INTEGER NOT NULL CHECK (n >= 0),
    kind          TEXT    NOT NULL,
    state         TEXT    NOT NULL,
    body          TEXT    NOT NULL,
    prev_hash     TEXT    NOT NULL CHECK (length(prev_hash) = 66),
    hash          TEXT    NOT NULL UNIQUE CHECK (length(hash) = 66),
    at            TEXT    NOT NULL,
    UNIQUE (settlement_id, n)
) STRICT;

-- An order without gaps, given by the leader: seq has gaps, and is not the order of commits.
CREATE TABLE event_positions (
    position INTEGER PRIMARY KEY CHECK (position >= 0),
    seq      INTEGER NOT NULL UNIQUE REFERENCES settlement_events (seq)
) STRICT;

-- Ranges of positions under one root, so that a missing row is found, not only a changed one.
CREATE TABLE event_seals (
    from_position INTEGER PRIMARY KEY,
    to_position   INTEGER NOT NULL UNIQUE CHECK (to_position >= from_position),
    root          TEXT    NOT NULL CHECK (length(root) = 66),
    epoch         INTEGER NOT NULL,
    sealed_at     TEXT    NOT NULL
) STRICT;

-- ------------------------------------------------------------------------------ outbox

-- Who may allocate, sign and persist. Time is the database's clock, milliseconds since 1970.
CREATE TABLE leases (
    name          TEXT    PRIMARY KEY,
    holder        TEXT    NOT NULL,
    epoch         INTEGER NOT NULL CHECK (epoch > 0),
    expires_at_ms INTEGER NOT NULL,
    -- which history of the database its holder wrote in
    origin        TEXT    NOT NULL
) STRICT;

-- The newest final block that was seen; nothing up to it may change any more.
CREATE TABLE chains (
    chain_id         INTEGER PRIMARY KEY,
    finalized_number INTEGER NOT NULL CHECK (finalized_number >= 0),
    finalized_hash   TEXT    NOT NULL CHECK (length(finalized_hash) = 66),
    updated_at       TEXT    NOT NULL
) STRICT;

CREATE TABLE signers (
    chain_id           INTEGER NOT NULL,
    address            TEXT    NOT NULL CHECK (length(address) = 42),
    role               TEXT    NOT NULL CHECK (role IN ('settler', 'puller')),
    next_account_nonce INTEGER NOT NULL CHECK (next_account_nonce >= 0),
    epoch              INTEGER NOT NULL,
    -- account nonces below quarantine_end may be used by envelopes that the ledger has lost
    quarantined_at     TEXT,
    quarantine_end     INTEGER,
    quarantine_reason  TEXT,
    -- why nothing new is begun
    closed             TEXT CHECK (closed IN (
        'transaction_cap', 'day_cap', 'low_balance', 'quarantine')),
    PRIMARY KEY (chain_id, address)
) STRICT;

-- What an operator sets at run time goes before the configuration. Wei.
CREATE TABLE spending_limits (
    chain_id             INTEGER NOT NULL,
    signer               TEXT    NOT NULL,
    transaction_wei      INTEGER NOT NULL CHECK (transaction_wei >= 0),
    hard_transaction_wei INTEGER NOT NULL CHECK (hard_transaction_wei >= transaction_wei),
    day_wei              INTEGER NOT NULL CHECK (day_wei >= 0),
    low_balance_wei      INTEGER NOT NULL CHECK (low_balance_wei >= 0),
    PRIMARY KEY (chain_id, signer),
    FOREIGN KEY (chain_id, signer) REFERENCES signers (chain_id, address)
) STRICT;

-- What an operator wants of the outbox. The leader carries it out and says what came of it.
CREATE TABLE outbox_orders (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    chain_id      INTEGER NOT NULL,
    signer        TEXT    NOT NULL,
    action        TEXT    NOT NULL CHECK (action IN (
        'rebroadcast', 'bump', 'cancel', 'resolve', 'quarantine', 'release')),
    account_nonce INTEGER,
    settlement_id TEXT REFERENCES x402_settlements (id),
    tx_hash       TEXT CHECK (length(tx_hash) = 66),
    reason        TEXT NOT NULL,
    ordered_at    TEXT NOT NULL,
    done_at       TEXT,
    succeeded     INTEGER,
    outcome       TEXT,
    FOREIGN KEY (chain_id, signer) REFERENCES signers (chain_id, address),
    CHECK ((done_at IS NULL) = (outcome IS NULL) AND (done_at IS NULL) = (succeeded IS NULL))
) STRICT;
CREATE INDEX outbox_orders_open ON outbox_orders (chain_id, signer) WHERE done_at IS NULL;

-- Work that a transaction must do. A settlement is pulled once and recorded once. What would revert
-- now is looked at again when it is due, so that it does not hold up what stands behind it.
CREATE TABLE intents (
    id                     INTEGER PRIMARY KEY AUTOINCREMENT,
    chain_id               INTEGER NOT NULL,
    splitter               TEXT,
    signer                 TEXT    NOT NULL CHECK (length(signer) = 42),
    kind                   TEXT    NOT NULL CHECK (kind IN (
        'pull', 'record', 'split', 'settle', 'refund')),
    settlement_id          TEXT    REFERENCES x402_settlements (id),
    splitter_capability_id TEXT    CHECK (length(splitter_capability_id) = 66),
    to_address             TEXT    NOT NULL CHECK (length(to_address) = 42),
    calldata               BLOB    NOT NULL,
    gas_limit              INTEGER NOT NULL CHECK (gas_limit > 0),
    -- a pull that is not mined before this second cannot succeed
    valid_before           INTEGER,
    state                  TEXT    NOT NULL CHECK (state IN (
        'open', 'claimed', 'included', 'done', 'reverted', 'cancelled', 'held')),
    reason                 TEXT,
    deferrals              INTEGER NOT NULL DEFAULT 0 CHECK (deferrals >= 0),
    due_at_ms              INTEGER NOT NULL,
    -- since when somebody was told that it is late
    flagged_at             TEXT,
    created_at             TEXT    NOT NULL,
    UNIQUE (kind, settlement_id),
    FOREIGN KEY (chain_id, splitter) REFERENCES splitters (chain_id, address),
    CHECK (kind = 'split' OR settlement_id IS NOT NULL),
    CHECK (kind = 'pull' OR (splitter IS NOT NULL AND splitter_capability_id IS NOT NULL))
) STRICT;
CREATE INDEX intents_open ON intents (chain_id, signer, state, due_at_ms);

CREATE TABLE transactions (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    chain_id      INTEGER NOT NULL,
    splitter      TEXT,
    signer        TEXT    NOT NULL,
    account_nonce INTEGER NOT NULL CHECK (account_nonce >= 0),
    epoch         INTEGER NOT NULL,
    to_address    TEXT    NOT NULL CHECK (length(to_address) = 42),
    calldata      BLOB    NOT NULL,
    gas_limit     INTEGER NOT NULL CHECK (gas_limit > 0),
    state         TEXT    NOT NULL CHECK (state IN (
        'planned', 'signed', 'broadcast', 'included', 'safe', 'finalized',
        'reverted', 'superseded', 'parked')),
    final         INTEGER NOT NULL,
    mined_hash    TEXT    CHECK (length(mined_hash) = 66),
    block_number  INTEGER,
    block_hash    TEXT    CHECK (length(block_hash) = 66),
    gas_used      INTEGER,
    l2_fee_wei    INTEGER,
    l1_fee_wei    INTEGER,
    -- most that it can cost: its dearest envelope, and its data
    max_cost_wei  INTEGER NOT NULL CHECK (max_cost_wei >= 0),
    data_fee_wei  INTEGER NOT NULL CHECK (data_fee_wei >= 0),
    reason        TEXT,
    created_at    TEXT    NOT NULL,
    UNIQUE (chain_id, signer, account_nonce),
    FOREIGN KEY (chain_id, signer) REFERENCES signers (chain_id, address),
    CHECK (state NOT IN ('included', 'safe', 'finalized', 'reverted') OR mined_hash IS NOT NULL)
) STRICT;
CREATE INDEX transactions_undecided ON transactions (chain_id, signer, account_nonce) WHERE NOT final;

CREATE TABLE transaction_intents (
    transaction_id INTEGER NOT NULL REFERENCES transactions (id),
    intent_id      INTEGER NOT NULL REFERENCES intents (id),
    PRIMARY KEY (transaction_id, intent_id)
) STRICT;
CREATE INDEX transaction_intents_intent ON transaction_intents (intent_id);

-- Every signed envelope, committed before it is broadcast. The bytes are the truth: KMS signatures
-- cannot be made again.
CREATE TABLE attempts (
    hash                     TEXT    PRIMARY KEY CHECK (length(hash) = 66),
    transaction_id           INTEGER NOT NULL REFERENCES transactions (id),
    n                        INTEGER NOT NULL CHECK (n >= 0),
    kind                     TEXT    NOT NULL CHECK (kind IN ('first', 'bump', 'noop')),
    raw                      BLOB    NOT NULL,
    max_fee_per_gas          INTEGER NOT NULL CHECK (max_fee_per_gas > 0),
    max_priority_fee_per_gas INTEGER NOT NULL CHECK (max_priority_fee_per_gas >= 0),
    created_at               TEXT    NOT NULL,
    UNIQUE (transaction_id, n)
) STRICT;

-- ------------------------------------------------------------------------------ mirror of chain logs

-- How far the mirror holds the chain's logs, how far the journal books the mirror, and from where on
-- evidence must be looked at again after a deep reorg.
CREATE TABLE cursors (
    chain_id   INTEGER NOT NULL,
    splitter   TEXT    NOT NULL,
    stream     TEXT    NOT NULL CHECK (stream IN ('mirror', 'journal', 'evidence')),
    next_block INTEGER NOT NULL,
    head_hash  TEXT    CHECK (length(head_hash) = 66),
    updated_at TEXT    NOT NULL,
    PRIMARY KEY (chain_id, splitter, stream),
    FOREIGN KEY (chain_id, splitter) REFERENCES splitters (chain_id, address)
) STRICT;

-- USDC that came in. Without eip3009_nonce it was no authorization; without settlement_id it is
-- nobody's we know.
CREATE TABLE x402_pull_events (
    chain_id        INTEGER NOT NULL,
    tx_hash         TEXT    NOT NULL CHECK (length(tx_hash) = 66),
    log_index       INTEGER NOT NULL,
    block_number    INTEGER NOT NULL,
    block_hash      TEXT    NOT NULL CHECK (length(block_hash) = 66),
    block_timestamp INTEGER NOT NULL,
    splitter        TEXT    NOT NULL,
    asset           TEXT    NOT NULL,
    payer           TEXT    NOT NULL CHECK (length(payer) = 42),
    eip3009_nonce   TEXT    CHECK (length(eip3009_nonce) = 66),
    amount_micro    INTEGER NOT NULL,
    settlement_id   TEXT    REFERENCES x402_settlements (id),
    PRIMARY KEY (chain_id, tx_hash, log_index)
) STRICT;
CREATE INDEX x402_pull_events_block ON x402_pull_events (chain_id, splitter, block_number);

-- USDC that went out.
CREATE TABLE payout_events (
    chain_id        INTEGER NOT NULL,
    tx_hash         TEXT    NOT NULL CHECK (length(tx_hash) = 66),
    log_index       INTEGER NOT NULL,
    block_number    INTEGER NOT NULL,
    block_hash      TEXT    NOT NULL CHECK (length(block_hash) = 66),
    block_timestamp INTEGER NOT NULL,
    splitter        TEXT    NOT NULL,
    asset           TEXT    NOT NULL,
    recipient       TEXT    NOT NULL CHECK (length(recipient) = 42),
    amount_micro    INTEGER NOT NULL,
    PRIMARY KEY (chain_id, tx_hash, log_index)
) STRICT;
CREATE INDEX payout_events_block ON payout_events (chain_id, splitter, block_number);

CREATE TABLE splitter_events (
    chain_id               INTEGER NOT NULL,
    tx_hash                TEXT    NOT NULL CHECK (length(tx_hash) = 66),
    log_index              INTEGER NOT NULL,
    block_number           INTEGER NOT NULL,
    block_hash             TEXT    NOT NULL CHECK (length(block_hash) = 66),
    block_timestamp        INTEGER NOT NULL,
    splitter               TEXT    NOT NULL,
    event_name             TEXT    NOT NULL,
    splitter_capability_id TEXT    CHECK (length(splitter_capability_id) = 66),
    -- payer of a record or split, provider of anything else
    account                TEXT    CHECK (length(account) = 42),
    -- of the identity that our settler appends to a record
    eip3009_nonce          TEXT    CHECK (length(eip3009_nonce) = 66),
    amount                 INTEGER,
    provider_amount        INTEGER,
    hub_amount             INTEGER,
    reserve_amount         INTEGER,
    -- of a registration
    provider_bps           INTEGER,
    hub_bps                INTEGER,
    reserve_bps            INTEGER,
    PRIMARY KEY (chain_id, tx_hash, log_index)
) STRICT;
CREATE INDEX splitter_events_block ON splitter_events (chain_id, splitter, block_number);
CREATE INDEX splitter_events_payment ON splitter_events (eip3009_nonce, account);
CREATE INDEX splitter_events_capability ON splitter_events (splitter_capability_id, block_number);

-- ------------------------------------------------------------------------------ double entry

-- Totals are kept by trigger; the postings are the truth.
CREATE TABLE accounts (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    chain_id      INTEGER NOT NULL,
    splitter      TEXT    NOT NULL,
    code          TEXT    NOT NULL,
    side          TEXT    NOT NULL CHECK (side IN ('debit', 'credit')),
    floor_zero    INTEGER NOT NULL,
    debits_micro  INTEGER NOT NULL DEFAULT 0,
    credits_micro INTEGER NOT NULL DEFAULT 0,
    UNIQUE (chain_id, splitter, code),
    FOREIGN KEY (chain_id, splitter) REFERENCES splitters (chain_id, address),
    CONSTRAINT account_below_zero CHECK (NOT floor_zero
        OR (side = 'debit' AND debits_micro >= credits_micro)
        OR (side = 'credit' AND credits_micro >= debits_micro))
) STRICT;

-- A journal cites one chain log, reverses another journal, or accrues a refund that is due for a
-- settlement. `generation` counts how often what cited this log was reversed: a Splitter cites a log
-- once unreversed.
CREATE TABLE journals (
    id            TEXT    PRIMARY KEY CHECK (length(id) = 36),
    chain_id      INTEGER NOT NULL,
    splitter      TEXT    NOT NULL,
    kind          TEXT    NOT NULL,
    settlement_id TEXT    REFERENCES x402_settlements (id),
    tx_hash       TEXT    CHECK (length(tx_hash) = 66),
    log_index     INTEGER,
    block_number  INTEGER,
    block_hash    TEXT    CHECK (length(block_hash) = 66),
    generation    INTEGER NOT NULL DEFAULT 0 CHECK (generation >= 0),
    reverses      TEXT    UNIQUE REFERENCES journals (id),
    at            TEXT    NOT NULL,
    UNIQUE (chain_id, splitter, tx_hash, log_index, generation),
    FOREIGN KEY (chain_id, splitter) REFERENCES splitters (chain_id, address),
    CHECK (reverses IS NOT NULL
        OR (kind = 'refund_due' AND settlement_id IS NOT NULL)
        OR (tx_hash IS NOT NULL AND log_index IS NOT NULL
            AND block_number IS NOT NULL AND block_hash IS NOT NULL))
) STRICT;
CREATE INDEX journals_settlement ON journals (settlement_id);
CREATE INDEX journals_block ON journals (chain_id, splitter, block_number);

-- Postings come first, the journal that closes over them last; see the triggers.
CREATE TABLE postings (
    journal_id   TEXT    NOT NULL REFERENCES journals (id) DEFERRABLE INITIALLY DEFERRED,
    line         INTEGER NOT NULL CHECK (line >= 0),
    account_id   INTEGER NOT NULL REFERENCES accounts (id),
    side         TEXT    NOT NULL CHECK (side IN ('debit', 'credit')),
    amount_micro INTEGER NOT NULL CHECK (amount_micro > 0),
    PRIMARY KEY (journal_id, line)
) STRICT;
CREATE INDEX postings_account ON postings (account_id);

-- ------------------------------------------------------------------------------ what may not happen

-- REPLACE fires the delete triggers because the keeper opens the file with recursive_triggers = ON.
CREATE TRIGGER splitters_no_delete BEFORE DELETE ON splitters
BEGIN SELECT RAISE(ABORT, 'DELETE of splitters is forbidden'); END;
CREATE TRIGGER x402_settlements_no_delete BEFORE DELETE ON x402_settlements
BEGIN SELECT RAISE(ABORT, 'DELETE of x402_settlements is forbidden'); END;
CREATE TRIGGER deliveries_no_delete BEFORE DELETE ON deliveries
BEGIN SELECT RAISE(ABORT, 'DELETE of deliveries is forbidden'); END;
CREATE TRIGGER settlement_events_no_delete BEFORE DELETE ON settlement_events
BEGIN SELECT RAISE(ABORT, 'DELETE of settlement_events is forbidden'); END;
CREATE TRIGGER event_positions_no_delete BEFORE DELETE ON event_positions
BEGIN SELECT RAISE(ABORT, 'DELETE of event_positions is forbidden'); END;
CREATE TRIGGER event_seals_no_delete BEFORE DELETE ON event_seals
BEGIN SELECT RAISE(ABORT, 'DELETE of event_seals is forbidden'); END;
CREATE TRIGGER leases_no_delete BEFORE DELETE ON leases
BEGIN SELECT RAISE(ABORT, 'DELETE of leases is forbidden'); END;
CREATE TRIGGER signers_no_delete BEFORE DELETE ON signers
BEGIN SELECT RAISE(ABORT, 'DELETE of signers is forbidden'); END;
CREATE TRIGGER chains_no_delete BEFORE DELETE ON chains
BEGIN SELECT RAISE(ABORT, 'DELETE of chains is forbidden'); END;
CREATE TRIGGER outbox_orders_no_delete BEFORE DELETE ON outbox_orders
BEGIN SELECT RAISE(ABORT, 'DELETE of outbox_orders is forbidden'); END;
CREATE TRIGGER intents_no_delete BEFORE DELETE ON intents
BEGIN SELECT RAISE(ABORT, 'DELETE of intents is forbidden'); END;
CREATE TRIGGER transactions_no_delete BEFORE DELETE ON transactions
BEGIN SELECT RAISE(ABORT, 'DELETE of transactions is forbidden'); END;
CREATE TRIGGER transaction_intents_no_delete BEFORE DELETE ON transaction_intents
BEGIN SELECT RAISE(ABORT, 'DELETE of transaction_intents is forbidden'); END;
CREATE TRIGGER attempts_no_delete BEFORE DELETE ON attempts
BEGIN SELECT RAISE(ABORT, 'DELETE of attempts is forbidden'); END;
CREATE TRIGGER accounts_no_delete BEFORE DELETE ON accounts
BEGIN SELECT RAISE(ABORT, 'DELETE of accounts is forbidden'); END;
CREATE TRIGGER journals_no_delete BEFORE DELETE ON journals
BEGIN SELECT RAISE(ABORT, 'DELETE of journals is forbidden'); END;
CREATE TRIGGER postings_no_delete BEFORE DELETE ON postings
BEGIN SELECT RAISE(ABORT, 'DELETE of postings is forbidden'); END;
CREATE TRIGGER settlement_events_no_update BEFORE UPDATE ON settlement_events
BEGIN SELECT RAISE(ABORT, 'UPDATE of settlement_events is forbidden'); END;
CREATE TRIGGER event_positions_no_update BEFORE UPDATE ON event_positions
BEGIN SELECT RAISE(ABORT, 'UPDATE of event_positions is forbidden'); END;
CREATE TRIGGER event_seals_no_update BEFORE UPDATE ON event_seals
BEGIN SELECT RAISE(ABORT, 'UPDATE of event_seals is forbidden'); END;
CREATE TRIGGER transaction_intents_no_update BEFORE UPDATE ON transaction_intents
BEGIN SELECT RAISE(ABORT, 'UPDATE of transaction_intents is forbidden'); END;
CREATE TRIGGER attempts_no_update BEFORE UPDATE ON attempts
BEGIN SELECT RAISE(ABORT, 'UPDATE of attempts is forbidden'); END;
CREATE TRIGGER journals_no_update BEFORE UPDATE ON journals
BEGIN SELECT RAISE(ABORT, 'UPDATE of journals is forbidden'); END;
CREATE TRIGGER postings_no_update BEFORE UPDATE ON postings
BEGIN SELECT RAISE(ABORT, 'UPDATE of postings is forbidden'); END;

CREATE TRIGGER postings_apply BEFORE INSERT ON postings
BEGIN
    SELECT RAISE(ABORT, 'the journal is closed')
        WHERE EXISTS (SELECT 1 FROM journals WHERE id = NEW.journal_id);
    UPDATE accounts SET debits_micro = debits_micro + NEW.amount_micro
        WHERE id = NEW.account_id AND NEW.side = 'debit';
    UPDATE accounts SET credits_micro = credits_micro + NEW.amount_micro
        WHERE id = NEW.account_id AND NEW.side = 'credit';
END;

CREATE TRIGGER journals_close BEFORE INSERT ON journals
BEGIN
    SELECT RAISE(ABORT, 'the journal does not balance')
        WHERE (SELECT coalesce(sum(amount_micro) FILTER (WHERE side = 'debit'), 0) FROM postings
                WHERE journal_id = NEW.id) = 0
           OR (SELECT coalesce(sum(amount_micro) FILTER (WHERE side = 'debit'), 0)
                    <> coalesce(sum(amount_micro) FILTER (WHERE side = 'credit'), 0) FROM postings
                WHERE journal_id = NEW.id);
END;
