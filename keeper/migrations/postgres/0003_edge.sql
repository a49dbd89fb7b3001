-- The edge: who calls, what was refused, what is told to others.

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
