-- The edge: who calls, what was refused, what is told to others.

-- Outbound: URLs that were not called because of where they lead. Append-only.
CREATE TABLE ssrf_attempts (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    agent_id    TEXT,
    provider_id TEXT,
    field_name  TEXT    NOT NULL CHECK (field_name IN (
        'endpoint_url', 'callback_url', 'webhook_destination_url')),
    blocked_url TEXT    NOT NULL,
    reason      TEXT    NOT NULL CHECK (reason IN (
        'parse_error', 'scheme', 'host_syntax', 'resolved_to_deny_cidr', 'dns_resolve_failed',
        'connect_pin_violation')),
    at          TEXT    NOT NULL
) STRICT;
CREATE TRIGGER ssrf_attempts_no_delete BEFORE DELETE ON ssrf_attempts
BEGIN SELECT RAISE(ABORT, 'DELETE of ssrf_attempts is forbidden'); END;
CREATE TRIGGER ssrf_attempts_no_update BEFORE UPDATE ON ssrf_attempts
BEGIN SELECT RAISE(ABORT, 'UPDATE of ssrf_attempts is forbidden'); END;

-- ------------------------------------------------------------------------------ webhooks, spans

-- How far the events of a chain's payments are turned into webhooks: the next position in
-- event_positions.
CREATE TABLE webhook_cursors (
    chain_id      INTEGER PRIMARY KEY,
    next_position INTEGER NOT NULL CHECK (next_position >= 0),
    updated_at    TEXT    NOT NULL
) STRICT;

-- What an endpoint is told of an event; its body and its id never change.
CREATE TABLE webhook_deliveries (
    id           TEXT    PRIMARY KEY CHECK (length(id) = 36),
    chain_id     INTEGER NOT NULL,
    event_seq    INTEGER NOT NULL REFERENCES settlement_events (seq),
    endpoint     TEXT    NOT NULL,
    type         TEXT    NOT NULL,
    body         TEXT    NOT NULL,
    state        TEXT    NOT NULL CHECK (state IN ('waiting', 'delivered', 'abandoned')),
    attempts     INTEGER NOT NULL CHECK (attempts >= 0),
    due_at       TEXT    NOT NULL,
    http_status  INTEGER,
    reason       TEXT,
    created_at   TEXT    NOT NULL,
    finished_at  TEXT,
    UNIQUE (event_seq, endpoint),
    CHECK ((state = 'waiting') = (finished_at IS NULL))
) STRICT;
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (chain_id, endpoint, due_at)
    WHERE state = 'waiting';

-- The trace, in OpenTelemetry's sense, of the call that made the payment.
ALTER TABLE x402_settlements ADD COLUMN otel_trace_id TEXT CHECK (length(otel_trace_id) = 32);

CREATE TRIGGER webhook_cursors_no_delete BEFORE DELETE ON webhook_cursors
BEGIN SELECT RAISE(ABORT, 'DELETE of webhook_cursors is forbidden'); END;
CREATE TRIGGER webhook_deliveries_no_delete BEFORE DELETE ON webhook_deliveries
BEGIN SELECT RAISE(ABORT, 'DELETE of webhook_deliveries is forbidden'); END;
