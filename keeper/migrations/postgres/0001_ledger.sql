-- The ledger. One logical schema with migrations/sqlite/0001_ledger.sql; docs/ledger.md explains it.
--
-- Conventions: money is BIGINT micro-USDC, gas is BIGINT wei; addresses and hashes are lower-case
-- 0x hex; a row says on which chain and at which Splitter it happened. Nothing but the mirror of
-- chain logs is ever deleted.

-- ------------------------------------------------------------------------------ who and where

CREATE TABLE splitters (
    chain_id           BIGINT      NOT NULL,
    address            TEXT        NOT NULL CHECK (length(address) = 42),
    version            TEXT        NOT NULL CHECK (version IN ('1.1.1', '2')),
    asset              TEXT        NOT NULL CHECK (length(asset) = 42),
    hub_treasury       TEXT        NOT NULL CHECK (length(hub_treasury) = 42),
    network_reserve    TEXT        NOT NULL CHECK (length(network_reserve) = 42),
    authorized_settler TEXT        NOT NULL CHECK (length(authorized_settler) = 42),
    per_tx_cap_micro   BIGINT      NOT NULL CHECK (per_tx_cap_micro > 0),
    first_block        BIGINT      NOT NULL CHECK (first_block >= 0),
    created_at         TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (chain_id, address)
);

-- ------------------------------------------------------------------------------ settlements

CREATE TABLE x402_settlements (
    id                         TEXT        PRIMARY KEY CHECK (length(id) = 36),
    trace_id                   TEXT        NOT NULL UNIQUE CHECK (length(trace_id) = 66),
    chain_id                   BIGINT      NOT NULL,
    splitter                   TEXT,
    -- the identity of a payment
    asset                      TEXT        NOT NULL CHECK (length(asset) = 42),
    payer                      TEXT        NOT NULL CHECK (length(payer) = 42),
    eip3009_nonce              TEXT        NOT NULL CHECK (length(eip3009_nonce) = 66),
    -- what was signed
    pay_to                     TEXT        NOT NULL CHECK (length(pay_to) = 42),
    amount_usdc_micro          BIGINT      NOT NULL CHECK (amount_usdc_micro > 0),
    valid_after                BIGINT      NOT NULL CHECK (valid_after >= 0),
    valid_before               BIGINT      NOT NULL CHECK (valid_before > valid_after),
    signature                  BYTEA,
    -- what it was signed for
    kind                       TEXT        NOT NULL CHECK (kind IN ('capability', 'pass_through')),
    mode                       TEXT        NOT NULL CHECK (mode IN ('self', 'external', 'atomic')),
    capability_id              TEXT,
    splitter_capability_id     TEXT        CHECK (length(splitter_capability_id) = 66),
    -- the terms of the sale: who is paid, and the shares in basis points
    provider                   TEXT        CHECK (length(provider) = 42),
    provider_bps               BIGINT      CHECK (provider_bps >= 0),
    hub_bps                    BIGINT      CHECK (hub_bps >= 0),
    reserve_bps                BIGINT      CHECK (reserve_bps >= 0),
    -- of the request; unknown for what is rebuilt from the chain
    x402_version               BIGINT      CHECK (x402_version IN (1, 2)),
    agent_id                   TEXT,
    request_id                 TEXT,
    content_hash               TEXT        CHECK (length(content_hash) = 66),
    payment_hash               TEXT        CHECK (length(payment_hash) = 66),
    -- at JecpSplitterV2: the payment's bit in the contract
    settlement_number          BIGINT      CHECK (settlement_number >= 0),
    -- where it stands
    status                     TEXT        NOT NULL CHECK (status IN (
        'reserved', 'settle_pending', 'facilitator_attested', 'chain_confirmed',
        'released', 'failed', 'orphaned', 'mismatched')),
    keeper_state               TEXT        NOT NULL CHECK (keeper_state IN (
        'none', 'recording', 'recorded', 'splitting', 'split', 'held', 'violation')),
    status_reason              TEXT,
    -- evidence: the pull, the record, the split
    tx_hash                    TEXT        CHECK (length(tx_hash) = 66),
    log_index                  BIGINT,
    block_number               BIGINT,
    block_hash                 TEXT        CHECK (length(block_hash) = 66),
    record_tx_hash             TEXT        CHECK (length(record_tx_hash) = 66),
    record_log_index           BIGINT,
    record_block_number        BIGINT,
    split_tx_hash              TEXT        CHECK (length(split_tx_hash) = 66),
    split_log_index            BIGINT,
    split_block_number         BIGINT,
    provider_share_micro       BIGINT      CHECK (provider_share_micro >= 0),
    hub_share_micro            BIGINT      CHECK (hub_share_micro >= 0),
    network_share_micro        BIGINT      CHECK (network_share_micro >= 0),
    facilitator_response_jsonb JSONB       NOT NULL DEFAULT '{}',
    reserved_at                TIMESTAMPTZ NOT NULL,
    settled_at                 TIMESTAMPTZ,
    chain_confirmed_at         TIMESTAMPTZ,
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
);

-- One request is paid by one authorization at a time; a second one is not pulled while the first
-- is pending or paid.
CREATE UNIQUE INDEX x402_settlements_request ON x402_settlements (agent_id, request_id)
    WHERE status NOT IN ('released', 'failed');
CREATE INDEX x402_settlements_open ON x402_settlements (chain_id, splitter, status, keeper_state);
CREATE INDEX x402_settlements_tx ON x402_settlements (tx_hash);
CREATE INDEX x402_settlements_pulled ON x402_settlements (chain_id, splitter, block_number);

CREATE TABLE deliveries (
    settlement_id TEXT        PRIMARY KEY REFERENCES x402_settlements (id),
    state         TEXT        NOT NULL CHECK (state IN ('none', 'calling', 'delivered', 'failed', 'unknown')),
    attempts      BIGINT      NOT NULL,
    refund_due    BOOLEAN     NOT NULL,
    http_status   BIGINT,
    response_body TEXT,
    failure       TEXT        CHECK (failure IN ('error', 'timeout', 'unavailable', 'lost', 'forgone')),
    failure_text  TEXT,
    started_at    TIMESTAMPTZ NOT NULL,
    finished_at   TIMESTAMPTZ,
    CHECK (state <> 'delivered' OR response_body IS NOT NULL),
    CHECK (state NOT IN ('failed', 'unknown') OR failure IS NOT NULL)
);

-- Hash-chained per settlement (prev_hash of event 0 is the trace id), ordered over all by seq.
CREATE TABLE settlement_events (
    seq           BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    settlement_id TEXT        NOT NULL REFERENCES x402_settlements (id),
    n             BIGINT      NOT NULL CHECK (n >= 0),
    kind          TEXT        NOT NULL,
    state         TEXT        NOT NULL,
    body          TEXT        NOT NULL,
    prev_hash     TEXT        NOT NULL CHECK (length(prev_hash) = 66),
    hash          TEXT        NOT NULL UNIQUE CHECK (length(hash) = 66),
    at            TIMESTAMPTZ NOT NULL,
    UNIQUE (settlement_id, n)
);

-- An order without gaps, given by the leader: seq has gaps, and is not the order of commits.
CREATE TABLE event_positions (
    position BIGINT PRIMARY KEY CHECK (position >= 0),
    seq      BIGINT NOT NULL UNIQUE REFERENCES settlement_events (seq)
);

-- Ranges of positions under one root, so that a missing row is found, not only a changed one.
CREATE TABLE event_seals (
    from_position BIGINT      PRIMARY KEY,
    to_position   BIGINT      NOT NULL UNIQUE CHECK (to_position >= from_position),
    root          TEXT        NOT NULL CHECK (length(root) = 66),
    epoch         BIGINT      NOT NULL,
    sealed_at     TIMESTAMPTZ NOT NULL
);

-- ------------------------------------------------------------------------------ outbox

-- Who may allocate, sign and persist. Time is the database's clock, milliseconds since 1970.
CREATE TABLE leases (
    name          TEXT   PRIMARY KEY,
    holder        TEXT   NOT NULL,
    epoch         BIGINT NOT NULL CHECK (epoch > 0),
    expires_at_ms BIGINT NOT NULL,
    -- which history of the database its holder wrote in
    origin        TEXT   NOT NULL
);

-- The newest final block that was seen; nothing up to it may change any more.
CREATE TABLE chains (
    chain_id         BIGINT      PRIMARY KEY,
    finalized_number BIGINT      NOT NULL CHECK (finalized_number >= 0),
    finalized_hash   TEXT        NOT NULL CHECK (length(finalized_hash) = 66),
    updated_at       TIMESTAMPTZ NOT NULL
);

CREATE TABLE signers (
    chain_id           BIGINT NOT NULL,
    address            TEXT   NOT NULL CHECK (length(address) = 42),
    role               TEXT   NOT NULL CHECK (role IN ('settler', 'puller')),
    next_account_nonce BIGINT NOT NULL CHECK (next_account_nonce >= 0),
    epoch              BIGINT NOT NULL,
    -- account nonces below quarantine_end may be used by envelopes that the ledger has lost
    quarantined_at     TIMESTAMPTZ,
    quarantine_end     BIGINT,
    quarantine_reason  TEXT,
    -- why nothing new is begun
    closed             TEXT CHECK (closed IN (
        'transaction_cap', 'day_cap', 'low_balance', 'quarantine')),
    PRIMARY KEY (chain_id, address)
);

-- What an operator sets at run time goes before the configuration. Wei.
CREATE TABLE spending_limits (
    chain_id             BIGINT NOT NULL,
    signer               TEXT   NOT NULL,
    transaction_wei      BIGINT NOT NULL CHECK (transaction_wei >= 0),
    hard_transaction_wei BIGINT NOT NULL CHECK (hard_transaction_wei >= transaction_wei),
    day_wei              BIGINT NOT NULL CHECK (day_wei >= 0),
    low_balance_wei      BIGINT NOT NULL CHECK (low_balance_wei >= 0),
    PRIMARY KEY (chain_id, signer),
    FOREIGN KEY (chain_id, signer) REFERENCES signers (chain_id, address)
);

-- What an operator wants of the outbox. The leader carries it out and says what came of it.
CREATE TABLE outbox_orders (
    id            BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chain_id      BIGINT NOT NULL,
    signer        TEXT   NOT NULL,
    action        TEXT   NOT NULL CHECK (action IN (
        'rebroadcast', 'bump', 'cancel', 'resolve', 'quarantine', 'release')),
    account_nonce BIGINT,
    settlement_id TEXT REFERENCES x402_settlements (id),
    tx_hash       TEXT CHECK (length(tx_hash) = 66),
    reason        TEXT NOT NULL,
    ordered_at    TIMESTAMPTZ NOT NULL,
    done_at       TIMESTAMPTZ,
    succeeded     BOOLEAN,
    outcome       TEXT,
    FOREIGN KEY (chain_id, signer) REFERENCES signers (chain_id, address),
    CHECK ((done_at IS NULL) = (outcome IS NULL) AND (done_at IS NULL) = (succeeded IS NULL))
);
CREATE INDEX outbox_orders_open ON outbox_orders (chain_id, signer) WHERE done_at IS NULL;

-- Work that a transaction must do. A settlement is pulled once and recorded once. What would revert
-- now is looked at again when it is due, so that it does not hold up what stands behind it.
CREATE TABLE intents (
    id                     BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chain_id               BIGINT      NOT NULL,
    splitter               TEXT,
    signer                 TEXT        NOT NULL CHECK (length(signer) = 42),
    kind                   TEXT        NOT NULL CHECK (kind IN (
        'pull', 'record', 'split', 'settle', 'refund')),
    settlement_id          TEXT        REFERENCES x402_settlements (id),
    splitter_capability_id TEXT        CHECK (length(splitter_capability_id) = 66),
    to_address             TEXT        NOT NULL CHECK (length(to_address) = 42),
    calldata               BYTEA       NOT NULL,
    gas_limit              BIGINT      NOT NULL CHECK (gas_limit > 0),
    -- a pull that is not mined before this second cannot succeed
    valid_before           BIGINT,
    state                  TEXT        NOT NULL CHECK (state IN (
        'open', 'claimed', 'included', 'done', 'reverted', 'cancelled', 'held')),
    reason                 TEXT,
    deferrals              BIGINT      NOT NULL DEFAULT 0 CHECK (deferrals >= 0),
    due_at_ms              BIGINT      NOT NULL,
    -- since when somebody was told that it is late
    flagged_at             TIMESTAMPTZ,
    created_at             TIMESTAMPTZ NOT NULL,
    UNIQUE (kind, settlement_id),
    FOREIGN KEY (chain_id, splitter) REFERENCES splitters (chain_id, address),
    CHECK (kind = 'split' OR settlement_id IS NOT NULL),
    CHECK (kind = 'pull' OR (splitter IS NOT NULL AND splitter_capability_id IS NOT NULL))
);
CREATE INDEX intents_open ON intents (chain_id, signer, state, due_at_ms);

CREATE TABLE transactions (
    id                  BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chain_id            BIGINT      NOT NULL,
    splitter            TEXT,
    signer              TEXT        NOT NULL,
    account_nonce       BIGINT      NOT NULL CHECK (account_nonce >= 0),
    epoch               BIGINT      NOT NULL,
    to_address          TEXT        NOT NULL CHECK (length(to_address) = 42),
    calldata            BYTEA       NOT NULL,
    gas_limit           BIGINT      NOT NULL CHECK (gas_limit > 0),
    state               TEXT        NOT NULL CHECK (state IN (
        'planned', 'signed', 'broadcast', 'included', 'safe', 'finalized',
        'reverted', 'superseded', 'parked')),
    final               BOOLEAN     NOT NULL,
    mined_hash          TEXT        CHECK (length(mined_hash) = 66),
    block_number        BIGINT,
    block_hash          TEXT        CHECK (length(block_hash) = 66),
    gas_used            BIGINT,
    l2_fee_wei          BIGINT,
    l1_fee_wei          BIGINT,
    -- most that it can cost: its dearest envelope, and its data
    max_cost_wei        BIGINT       NOT NULL CHECK (max_cost_wei >= 0),
    data_fee_wei        BIGINT       NOT NULL CHECK (data_fee_wei >= 0),
    reason              TEXT,
    created_at          TIMESTAMPTZ NOT NULL,
    UNIQUE (chain_id, signer, account_nonce),
    FOREIGN KEY (chain_id, signer) REFERENCES signers (chain_id, address),
    CHECK (state NOT IN ('included', 'safe', 'finalized', 'reverted') OR mined_hash IS NOT NULL)
);
CREATE INDEX transactions_undecided ON transactions (chain_id, signer, account_nonce) WHERE NOT final;

CREATE TABLE transaction_intents (
    transaction_id BIGINT NOT NULL REFERENCES transactions (id),
    intent_id      BIGINT NOT NULL REFERENCES intents (id),
    PRIMARY KEY (transaction_id, intent_id)
);
CREATE INDEX transaction_intents_intent ON transaction_intents (intent_id);

-- Every signed envelope, committed before it is broadcast. The bytes are the truth: KMS signatures
-- cannot be made again.
CREATE TABLE attempts (
    hash                     TEXT        PRIMARY KEY CHECK (length(hash) = 66),
    transaction_id           BIGINT      NOT NULL REFERENCES transactions (id),
    n                        BIGINT      NOT NULL CHECK (n >= 0),
    kind                     TEXT        NOT NULL CHECK (kind IN ('first', 'bump', 'noop')),
    raw                      BYTEA       NOT NULL,
    max_fee_per_gas          BIGINT      NOT NULL CHECK (max_fee_per_gas > 0),
    max_priority_fee_per_gas BIGINT      NOT NULL CHECK (max_priority_fee_per_gas >= 0),
    created_at               TIMESTAMPTZ NOT NULL,
    UNIQUE (transaction_id, n)
);

-- ------------------------------------------------------------------------------ mirror of chain logs

-- How far the mirror holds the chain's logs, how far the journal books the mirror, and from where on
-- evidence must be looked at again after a deep reorg.
CREATE TABLE cursors (
    chain_id   BIGINT      NOT NULL,
    splitter   TEXT        NOT NULL,
    stream     TEXT        NOT NULL CHECK (stream IN ('mirror', 'journal', 'evidence')),
    next_block BIGINT      NOT NULL,
    head_hash  TEXT        CHECK (length(head_hash) = 66),
    updated_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (chain_id, splitter, stream),
    FOREIGN KEY (chain_id, splitter) REFERENCES splitters (chain_id, address)
);

-- USDC that came in. Without eip3009_nonce it was no authorization; without settlement_id it is
-- nobody's we know.
CREATE TABLE x402_pull_events (
    chain_id        BIGINT      NOT NULL,
    tx_hash         TEXT        NOT NULL CHECK (length(tx_hash) = 66),
    log_index       BIGINT      NOT NULL,
    block_number    BIGINT      NOT NULL,
    block_hash      TEXT        NOT NULL CHECK (length(block_hash) = 66),
    block_timestamp BIGINT      NOT NULL,
    splitter        TEXT        NOT NULL,
    asset           TEXT        NOT NULL,
    payer           TEXT        NOT NULL CHECK (length(payer) = 42),
    eip3009_nonce   TEXT        CHECK (length(eip3009_nonce) = 66),
    amount_micro    BIGINT      NOT NULL,
    settlement_id   TEXT        REFERENCES x402_settlements (id),
    PRIMARY KEY (chain_id, tx_hash, log_index)
);
CREATE INDEX x402_pull_events_block ON x402_pull_events (chain_id, splitter, block_number);

-- USDC that went out.
CREATE TABLE payout_events (
    chain_id        BIGINT      NOT NULL,
    tx_hash         TEXT        NOT NULL CHECK (length(tx_hash) = 66),
    log_index       BIGINT      NOT NULL,
    block_number    BIGINT      NOT NULL,
    block_hash      TEXT        NOT NULL CHECK (length(block_hash) = 66),
    block_timestamp BIGINT      NOT NULL,
    splitter        TEXT        NOT NULL,
    asset           TEXT        NOT NULL,
    recipient       TEXT        NOT NULL CHECK (length(recipient) = 42),
    amount_micro    BIGINT      NOT NULL,
    PRIMARY KEY (chain_id, tx_hash, log_index)
);
CREATE INDEX payout_events_block ON payout_events (chain_id, splitter, block_number);

CREATE TABLE splitter_events (
    chain_id               BIGINT NOT NULL,
    tx_hash                TEXT   NOT NULL CHECK (length(tx_hash) = 66),
    log_index              BIGINT NOT NULL,
    block_number           BIGINT NOT NULL,
    block_hash             TEXT   NOT NULL CHECK (length(block_hash) = 66),
    block_timestamp        BIGINT NOT NULL,
    splitter               TEXT   NOT NULL,
    event_name             TEXT   NOT NULL,
    splitter_capability_id TEXT   CHECK (length(splitter_capability_id) = 66),
    -- payer of a record or split, provider of anything else
    account                TEXT   CHECK (length(account) = 42),
    -- of the identity that our settler appends to a record
    eip3009_nonce          TEXT   CHECK (length(eip3009_nonce) = 66),
    amount                 BIGINT,
    provider_amount        BIGINT,
    hub_amount             BIGINT,
    reserve_amount         BIGINT,
    -- of a registration
    provider_bps           BIGINT,
    hub_bps                BIGINT,
    reserve_bps            BIGINT,
    PRIMARY KEY (chain_id, tx_hash, log_index)
);
CREATE INDEX splitter_events_block ON splitter_events (chain_id, splitter, block_number);
CREATE INDEX splitter_events_payment ON splitter_events (eip3009_nonce, account);
CREATE INDEX splitter_events_capability ON splitter_events (splitter_capability_id, block_number);

-- ------------------------------------------------------------------------------ double entry

-- Totals are kept by trigger; the postings are the truth.
CREATE TABLE accounts (
    id            BIGINT  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chain_id      BIGINT  NOT NULL,
    splitter      TEXT    NOT NULL,
    code          TEXT    NOT NULL,
    side          TEXT    NOT NULL CHECK (side IN ('debit', 'credit')),
    floor_zero    BOOLEAN NOT NULL,
    debits_micro  BIGINT  NOT NULL DEFAULT 0,
    credits_micro BIGINT  NOT NULL DEFAULT 0,
    UNIQUE (chain_id, splitter, code),
    FOREIGN KEY (chain_id, splitter) REFERENCES splitters (chain_id, address),
    CONSTRAINT account_below_zero CHECK (NOT floor_zero
        OR (side = 'debit' AND debits_micro >= credits_micro)
        OR (side = 'credit' AND credits_micro >= debits_micro))
);

-- A journal cites one chain log, reverses another journal, or accrues a refund that is due for a
-- settlement. `generation` counts how often what cited this log was reversed: a Splitter cites a log
-- once unreversed.
CREATE TABLE journals (
    id            TEXT        PRIMARY KEY CHECK (length(id) = 36),
    chain_id      BIGINT      NOT NULL,
    splitter      TEXT        NOT NULL,
    kind          TEXT        NOT NULL,
    settlement_id TEXT        REFERENCES x402_settlements (id),
    tx_hash       TEXT        CHECK (length(tx_hash) = 66),
    log_index     BIGINT,
    block_number  BIGINT,
    block_hash    TEXT        CHECK (length(block_hash) = 66),
    generation    BIGINT      NOT NULL DEFAULT 0 CHECK (generation >= 0),
    reverses      TEXT        UNIQUE REFERENCES journals (id),
    at            TIMESTAMPTZ NOT NULL,
    UNIQUE (chain_id, splitter, tx_hash, log_index, generation),
    FOREIGN KEY (chain_id, splitter) REFERENCES splitters (chain_id, address),
    CHECK (reverses IS NOT NULL
        OR (kind = 'refund_due' AND settlement_id IS NOT NULL)
        OR (tx_hash IS NOT NULL AND log_index IS NOT NULL
            AND block_number IS NOT NULL AND block_hash IS NOT NULL))
);
CREATE INDEX journals_settlement ON journals (settlement_id);
CREATE INDEX journals_block ON journals (chain_id, splitter, block_number);

-- Postings come first, the journal that closes over them last; see the triggers.
CREATE TABLE postings (
    journal_id   TEXT   NOT NULL REFERENCES journals (id) DEFERRABLE INITIALLY DEFERRED,
    line         BIGINT NOT NULL CHECK (line >= 0),
    account_id   BIGINT NOT NULL REFERENCES accounts (id),
    side         TEXT   NOT NULL CHECK (side IN ('debit', 'credit')),
    amount_micro BIGINT NOT NULL CHECK (amount_micro > 0),
    PRIMARY KEY (journal_id, line)
);
CREATE INDEX postings_account ON postings (account_id);

-- ------------------------------------------------------------------------------ what may not happen

CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % is forbidden', tg_op, tg_table_name;
END $$;

DO $$
DECLARE
    name TEXT;
BEGIN
    FOREACH name IN ARRAY ARRAY['splitters', 'x402_settlements', 'deliveries', 'settlement_events',
        'event_positions', 'event_seals', 'leases', 'chains', 'signers', 'outbox_orders', 'intents',
        'transactions', 'transaction_intents', 'attempts', 'accounts', 'journals', 'postings']
    LOOP
        EXECUTE format('CREATE TRIGGER %I BEFORE DELETE ON %I FOR EACH ROW EXECUTE FUNCTION forbid()',
            name || '_no_delete', name);
        EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION forbid()',
            name || '_no_truncate', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['settlement_events', 'event_positions', 'event_seals',
        'transaction_intents', 'attempts', 'journals', 'postings']
    LOOP
        EXECUTE format('CREATE TRIGGER %I BEFORE UPDATE ON %I FOR EACH ROW EXECUTE FUNCTION forbid()',
            name || '_no_update', name);
    END LOOP;
END $$;

CREATE FUNCTION posting_applies() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM journals WHERE id = NEW.journal_id) THEN
        RAISE EXCEPTION 'journal % is closed', NEW.journal_id;
    END IF;
    IF NEW.side = 'debit' THEN
        UPDATE accounts SET debits_micro = debits_micro + NEW.amount_micro WHERE id = NEW.account_id;
    ELSE
        UPDATE accounts SET credits_micro = credits_micro + NEW.amount_micro WHERE id = NEW.account_id;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER postings_apply BEFORE INSERT ON postings
    FOR EACH ROW EXECUTE FUNCTION posting_applies();

CREATE FUNCTION journal_closes() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    debits NUMERIC;
    credits NUMERIC;
BEGIN
    SELECT coalesce(sum(amount_micro) FILTER (WHERE side = 'debit'), 0),
           coalesce(sum(amount_micro) FILTER (WHERE side = 'credit'), 0)
        INTO debits, credits FROM postings WHERE journal_id = NEW.id;
    IF debits = 0 OR debits <> credits THEN
        RAISE EXCEPTION 'journal % does not balance: debits %, credits %', NEW.id, debits, credits;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER journals_close BEFORE INSERT ON journals
    FOR EACH ROW EXECUTE FUNCTION journal_closes();
