-- The edge: who calls, what was refused, what is told to others.

-- ------------------------------------------------------------------------------ passed through

-- Mirror of pulls past the Splitter, of payments that a caller of the facilitator API had settled for
-- another payee. Only of payments in this ledger: whatever else payees get is none of ours. Booked at
-- the Splitter under which the payment was reserved.
CREATE TABLE passed_events (
    chain_id        INTEGER NOT NULL,
    tx_hash         TEXT    NOT NULL CHECK (length(tx_hash) = 66),
    log_index       INTEGER NOT NULL,
    block_number    INTEGER NOT NULL,
    block_hash      TEXT    NOT NULL CHECK (length(block_hash) = 66),
    block_timestamp INTEGER NOT NULL,
    splitter        TEXT    NOT NULL,
    asset           TEXT    NOT NULL,
    payer           TEXT    NOT NULL CHECK (length(payer) = 42),
    eip3009_nonce   TEXT    NOT NULL CHECK (length(eip3009_nonce) = 66),
    amount_micro    INTEGER NOT NULL,
    settlement_id   TEXT    NOT NULL REFERENCES x402_settlements (id),
    PRIMARY KEY (chain_id, tx_hash, log_index),
    FOREIGN KEY (chain_id, splitter) REFERENCES splitters (chain_id, address)
) STRICT;
CREATE INDEX passed_events_block ON passed_events (chain_id, splitter, block_number);
CREATE INDEX passed_events_payment ON passed_events (settlement_id);
