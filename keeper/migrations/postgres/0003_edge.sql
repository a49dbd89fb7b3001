-- The edge: who calls, what was refused, what is told to others.

-- ------------------------------------------------------------------------------ agents

-- An agent with credentials. Of its key only a keyed hash is kept. A row is revoked, never deleted.
CREATE TABLE agents (
    agent_id    TEXT        PRIMARY KEY CHECK (length(agent_id) BETWEEN 22 AND 80),
    name        TEXT        NOT NULL,
    key_hash    TEXT        NOT NULL CHECK (length(key_hash) = 66),
    created_at  TIMESTAMPTZ NOT NULL,
    revoked_at  TIMESTAMPTZ,
    revoked_why TEXT,
    CHECK ((revoked_at IS NULL) = (revoked_why IS NULL))
);

-- Nonces of provenances that were seen in the last minutes, in lower case. Pruned.
CREATE TABLE provenance_nonces (
    agent_id TEXT        NOT NULL REFERENCES agents (agent_id),
    nonce    TEXT        NOT NULL CHECK (length(nonce) BETWEEN 16 AND 128),
    seen_at  TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (agent_id, nonce)
);
CREATE INDEX provenance_nonces_seen ON provenance_nonces (agent_id, seen_at);

-- Calls of agents within the last minute. Pruned.
CREATE TABLE agent_calls (
    id       BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    agent_id TEXT        NOT NULL REFERENCES agents (agent_id),
    at       TIMESTAMPTZ NOT NULL
);
CREATE INDEX agent_calls_at ON agent_calls (agent_id, at);

CREATE INDEX x402_settlements_agent ON x402_settlements (agent_id, reserved_at);
-- What a facilitator has seen and not pulled.
CREATE INDEX x402_settlements_handed ON x402_settlements (agent_id, request_id)
    WHERE status = 'released' AND mode = 'external';

CREATE TRIGGER agents_no_delete BEFORE DELETE ON agents FOR EACH ROW EXECUTE FUNCTION forbid();
CREATE TRIGGER agents_no_truncate BEFORE TRUNCATE ON agents FOR EACH STATEMENT EXECUTE FUNCTION forbid();
-- ------------------------------------------------------------------------------ passed through

-- Mirror of pulls past the Splitter, of payments that a caller of the facilitator API had settled for
-- another payee. Only of payments in this ledger: whatever else payees get is none of ours. Booked at
-- the Splitter under which the payment was reserved.
CREATE TABLE passed_events (
    chain_id        BIGINT NOT NULL,
    tx_hash         TEXT    NOT NULL CHECK (length(tx_hash) = 66),
    log_index       BIGINT NOT NULL,
    block_number    BIGINT NOT NULL,
    block_hash      TEXT    NOT NULL CHECK (length(block_hash) = 66),
    block_timestamp BIGINT NOT NULL,
    splitter        TEXT    NOT NULL,
    asset           TEXT    NOT NULL,
    payer           TEXT    NOT NULL CHECK (length(payer) = 42),
    eip3009_nonce   TEXT    NOT NULL CHECK (length(eip3009_nonce) = 66),
    amount_micro    BIGINT NOT NULL,
    settlement_id   TEXT    NOT NULL REFERENCES x402_settlements (id),
    PRIMARY KEY (chain_id, tx_hash, log_index),
    FOREIGN KEY (chain_id, splitter) REFERENCES splitters (chain_id, address)
);
CREATE INDEX passed_events_block ON passed_events (chain_id, splitter, block_number);
CREATE INDEX passed_events_payment ON passed_events (settlement_id);
-- Outbound: URLs that were not called because of where they lead. Append-only.
CREATE TABLE ssrf_attempts (
    id          BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    agent_id    TEXT,
    provider_id TEXT,
    field_name  TEXT        NOT NULL CHECK (field_name IN (
        'endpoint_url', 'callback_url', 'webhook_destination_url')),
    blocked_url TEXT        NOT NULL,
    reason      TEXT        NOT NULL CHECK (reason IN (
        'parse_error', 'scheme', 'host_syntax', 'resolved_to_deny_cidr', 'dns_resolve_failed',
        'connect_pin_violation')),
    at          TIMESTAMPTZ NOT NULL
);
CREATE TRIGGER ssrf_attempts_no_delete BEFORE DELETE ON ssrf_attempts
    FOR EACH ROW EXECUTE FUNCTION forbid();
CREATE TRIGGER ssrf_attempts_no_truncate BEFORE TRUNCATE ON ssrf_attempts
    FOR EACH STATEMENT EXECUTE FUNCTION forbid();
CREATE TRIGGER ssrf_attempts_no_update BEFORE UPDATE ON ssrf_attempts
    FOR EACH ROW EXECUTE FUNCTION forbid();

-- ------------------------------------------------------------------------------ webhooks, spans

-- How far the events of a chain's payments are turned into webhooks: the next position in
-- event_positions.
CREATE TABLE webhook_cursors (
    chain_id      BIGINT      PRIMARY KEY,
    next_position BIGINT      NOT NULL CHECK (next_position >= 0),
    updated_at    TIMESTAMPTZ NOT NULL
);

-- What an endpoint is told of an event; its body and its id never change.
CREATE TABLE webhook_deliveries (
    id           TEXT        PRIMARY KEY CHECK (length(id) = 36),
    chain_id     BIGINT      NOT NULL,
    event_seq    BIGINT      NOT NULL REFERENCES settlement_events (seq),
    endpoint     TEXT        NOT NULL,
    type         TEXT        NOT NULL,
    body         TEXT        NOT NULL,
    state        TEXT        NOT NULL CHECK (state IN ('waiting', 'delivered', 'abandoned')),
    attempts     BIGINT      NOT NULL CHECK (attempts >= 0),
    due_at       TIMESTAMPTZ NOT NULL,
    http_status  BIGINT,
    reason       TEXT,
    created_at   TIMESTAMPTZ NOT NULL,
    finished_at  TIMESTAMPTZ,
    UNIQUE (event_seq, endpoint),
    CHECK ((state = 'waiting') = (finished_at IS NULL))
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (chain_id, endpoint, due_at)
    WHERE state = 'waiting';

-- The trace, in OpenTelemetry's sense, of the call that made the payment.
ALTER TABLE x402_settlements ADD COLUMN otel_trace_id TEXT CHECK (length(otel_trace_id) = 32);

CREATE TRIGGER webhook_cursors_no_delete BEFORE DELETE ON webhook_cursors
    FOR EACH ROW EXECUTE FUNCTION forbid();
CREATE TRIGGER webhook_cursors_no_truncate BEFORE TRUNCATE ON webhook_cursors
    FOR EACH STATEMENT EXECUTE FUNCTION forbid();
CREATE TRIGGER webhook_deliveries_no_delete BEFORE DELETE ON webhook_deliveries
    FOR EACH ROW EXECUTE FUNCTION forbid();
CREATE TRIGGER webhook_deliveries_no_truncate BEFORE TRUNCATE ON webhook_deliveries
    FOR EACH STATEMENT EXECUTE FUNCTION forbid();
