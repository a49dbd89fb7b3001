-- What an operator switches, what closes intake, what was noticed, what is refunded.

-- ------------------------------------------------------------------------------ switches

-- x402_enabled: payments are taken. x402_keeper_enabled: transactions are signed (S06 6.3).
CREATE TABLE feature_flags (
    flag       TEXT        PRIMARY KEY CHECK (flag IN ('x402_enabled', 'x402_keeper_enabled')),
    value      BOOLEAN     NOT NULL,
    reason     TEXT        NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL
);
INSERT INTO feature_flags (flag, value, reason, updated_at) VALUES
    ('x402_enabled', TRUE, 'as delivered', now()),
    ('x402_keeper_enabled', TRUE, 'as delivered', now());

-- Why a Splitter takes no payments. A row is lifted, never deleted.
CREATE TABLE closures (
    id         BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chain_id   BIGINT      NOT NULL,
    splitter   TEXT        NOT NULL,
    reason     TEXT        NOT NULL CHECK (reason IN (
        'token_paused', 'blacklisted', 'token_changed', 'clock_skew', 'drift', 'sources_differ')),
    detail     TEXT        NOT NULL,
    closed_at  TIMESTAMPTZ NOT NULL,
    lifted_at  TIMESTAMPTZ,
    lifted_why TEXT,
    FOREIGN KEY (chain_id, splitter) REFERENCES splitters (chain_id, address),
    CHECK ((lifted_at IS NULL) = (lifted_why IS NULL))
);
CREATE UNIQUE INDEX closures_open ON closures (chain_id, splitter, reason) WHERE lifted_at IS NULL;

-- What the token was each time it was another one than before; the newest row is what is known.
CREATE TABLE token_sightings (
    id             BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chain_id       BIGINT      NOT NULL,
    splitter       TEXT        NOT NULL,
    asset          TEXT        NOT NULL CHECK (length(asset) = 42),
    implementation TEXT        NOT NULL CHECK (length(implementation) = 66),
    code_hash      TEXT        NOT NULL CHECK (length(code_hash) = 66),
    seen_at        TIMESTAMPTZ NOT NULL,
    FOREIGN KEY (chain_id, splitter) REFERENCES splitters (chain_id, address)
);

-- A capability that is not sold for a while, because too many of its calls fail (R-227).
CREATE TABLE capability_holds (
    id                     BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chain_id               BIGINT      NOT NULL,
    splitter               TEXT        NOT NULL,
    splitter_capability_id TEXT        NOT NULL CHECK (length(splitter_capability_id) = 66),
    detail                 TEXT        NOT NULL,
    held_at                TIMESTAMPTZ NOT NULL,
    lifted_at              TIMESTAMPTZ,
    lifted_why             TEXT,
    FOREIGN KEY (chain_id, splitter) REFERENCES splitters (chain_id, address),
    CHECK ((lifted_at IS NULL) = (lifted_why IS NULL))
);
CREATE UNIQUE INDEX capability_holds_open
    ON capability_holds (chain_id, splitter, splitter_capability_id) WHERE lifted_at IS NULL;

-- ------------------------------------------------------------------------------ what was noticed

-- Append-only. An action is logged once per settlement.
CREATE TABLE audit_log (
    seq           BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    action        TEXT        NOT NULL,
    chain_id      BIGINT,
    splitter      TEXT,
    settlement_id TEXT        REFERENCES x402_settlements (id),
    detail        TEXT        NOT NULL,
    at            TIMESTAMPTZ NOT NULL,
    UNIQUE (action, settlement_id)
);
CREATE INDEX audit_log_action ON audit_log (action, at);

-- Blocks that an operator wants read again. The watcher does it and says what came of it.
CREATE TABLE rereads (
    id         BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chain_id   BIGINT      NOT NULL,
    splitter   TEXT        NOT NULL,
    from_block BIGINT      NOT NULL CHECK (from_block >= 0),
    to_block   BIGINT      NOT NULL CHECK (to_block >= from_block),
    reason     TEXT        NOT NULL,
    ordered_at TIMESTAMPTZ NOT NULL,
    done_at    TIMESTAMPTZ,
    succeeded  BOOLEAN,
    outcome    TEXT,
    FOREIGN KEY (chain_id, splitter) REFERENCES splitters (chain_id, address),
    CHECK ((done_at IS NULL) = (outcome IS NULL)),
    CHECK ((done_at IS NULL) = (succeeded IS NULL))
);
CREATE INDEX rereads_open ON rereads (chain_id, splitter) WHERE done_at IS NULL;

-- Streams: finalized blocks compared with another endpoint, and Transfers that pay refunds.
ALTER TABLE cursors DROP CONSTRAINT cursors_stream_check;
ALTER TABLE cursors ADD CONSTRAINT cursors_stream_check
    CHECK (stream IN ('mirror', 'journal', 'evidence', 'verified', 'refunds'));

-- The pull of a payment is looked for by its authorization.
CREATE INDEX x402_pull_events_payment ON x402_pull_events (eip3009_nonce, payer);

-- ------------------------------------------------------------------------------ refunds

-- The hub gives back what an agent paid for nothing (S06 4.5). Paid by the treasury's Safe, never by
-- a key of ours; closed by the Transfer that did it.
CREATE TABLE x402_refund_log (
    id            TEXT        PRIMARY KEY CHECK (length(id) = 36),
    settlement_id TEXT        NOT NULL UNIQUE REFERENCES x402_settlements (id),
    chain_id      BIGINT      NOT NULL,
    splitter      TEXT        NOT NULL,
    agent_id      TEXT        NOT NULL,
    payer         TEXT        NOT NULL CHECK (length(payer) = 42),
    provider      TEXT        NOT NULL CHECK (length(provider) = 42),
    amount_micro  BIGINT      NOT NULL CHECK (amount_micro > 0),
    reason        TEXT        NOT NULL,
    state         TEXT        NOT NULL CHECK (state IN (
        'held', 'approved', 'proposed', 'paid', 'denied')),
    hold_reason   TEXT        CHECK (hold_reason IN (
        'forgone', 'agent_day_limit', 'review_amount', 'week_limit')),
    note          TEXT,
    requested_at  TIMESTAMPTZ NOT NULL,
    decided_at    TIMESTAMPTZ,
    proposed_at   TIMESTAMPTZ,
    paid_at       TIMESTAMPTZ,
    tx_hash       TEXT        CHECK (length(tx_hash) = 66),
    log_index     BIGINT,
    block_number  BIGINT,
    block_hash    TEXT        CHECK (length(block_hash) = 66),
    UNIQUE (chain_id, tx_hash, log_index),
    FOREIGN KEY (chain_id, splitter) REFERENCES splitters (chain_id, address),
    CHECK (state <> 'held' OR hold_reason IS NOT NULL),
    CHECK ((state = 'paid') = (tx_hash IS NOT NULL))
);
CREATE INDEX x402_refund_log_state ON x402_refund_log (chain_id, splitter, state);
CREATE INDEX x402_refund_log_agent ON x402_refund_log (agent_id, requested_at);
CREATE INDEX deliveries_refund_due ON deliveries (settlement_id) WHERE refund_due;
CREATE INDEX deliveries_finished ON deliveries (finished_at);
-- What a reservation looks up. It finds a payment by its nonce alone: while a table is young every index
-- that begins with the chain looks as good as the right one, and the plan stays.
ALTER TABLE x402_settlements
    ADD CONSTRAINT x402_settlements_payment UNIQUE (eip3009_nonce, payer, asset, chain_id),
    DROP CONSTRAINT x402_settlements_chain_id_asset_payer_eip3009_nonce_key;
CREATE INDEX x402_settlements_on_the_way ON x402_settlements (payer)
    WHERE status IN ('reserved', 'settle_pending', 'orphaned');
-- And what it need not write: it is in no block yet.
DROP INDEX x402_settlements_tx;
DROP INDEX x402_settlements_pulled;
CREATE INDEX x402_settlements_tx ON x402_settlements (tx_hash) WHERE tx_hash IS NOT NULL;
CREATE INDEX x402_settlements_pulled ON x402_settlements (chain_id, splitter, block_number)
    WHERE block_number IS NOT NULL;
-- What statements look up.
CREATE INDEX x402_settlements_split ON x402_settlements (split_tx_hash) WHERE split_tx_hash IS NOT NULL;
CREATE INDEX transactions_mined ON transactions (mined_hash);

-- ------------------------------------------------------------------------------ names of the specification

-- What each agent paid.
CREATE VIEW agent_ledger AS
    SELECT id AS settlement_id, agent_id, payer, amount_usdc_micro AS debit_amount_micro,
           tx_hash, log_index, settled_at
    FROM x402_settlements WHERE status IN ('facilitator_attested', 'chain_confirmed');

-- Who got what of each payment.
CREATE VIEW revenue_splits AS
    SELECT id AS settlement_id, split_tx_hash AS tx_hash, 'provider' AS party,
           provider_bps AS bps, provider_share_micro AS amount_micro
    FROM x402_settlements WHERE keeper_state = 'split'
    UNION ALL
    SELECT id, split_tx_hash, 'hub', hub_bps, hub_share_micro
    FROM x402_settlements WHERE keeper_state = 'split'
    UNION ALL
    SELECT id, split_tx_hash, 'reserve', reserve_bps, network_share_micro
    FROM x402_settlements WHERE keeper_state = 'split';

-- ------------------------------------------------------------------------------ what may not happen

DO $$
DECLARE
    name TEXT;
BEGIN
    FOREACH name IN ARRAY ARRAY['feature_flags', 'closures', 'token_sightings', 'capability_holds', 'audit_log',
        'rereads', 'x402_refund_log']
    LOOP
        EXECUTE format('CREATE TRIGGER %I BEFORE DELETE ON %I FOR EACH ROW EXECUTE FUNCTION forbid()',
            name || '_no_delete', name);
        EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION forbid()',
            name || '_no_truncate', name);
    END LOOP;
    CREATE TRIGGER token_sightings_no_update BEFORE UPDATE ON token_sightings
        FOR EACH ROW EXECUTE FUNCTION forbid();
    CREATE TRIGGER audit_log_no_update BEFORE UPDATE ON audit_log
        FOR EACH ROW EXECUTE FUNCTION forbid();
END $$;
