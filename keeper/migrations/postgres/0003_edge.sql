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
