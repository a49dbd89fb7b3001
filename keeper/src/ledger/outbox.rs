//! The outbox's tables: transactions and their signed envelopes.
//!
//! A lease's epoch fences every write: whoever lost the lease can neither allocate an account nonce
//! nor persist an envelope.

use super::{
    Intent, Lease, LedgerError, Result, Tx,
    closures::unfrozen,
    columns::{address, bigint, hash, hex, unsigned, uuid, word},
    intents::backed,
    query::{execute, fetch_all, fetch_optional},
};
use crate::lifecycle::{
    AttemptKind, Fees, IntentKind, IntentState, Mined, Standing, TransactionState, words,
};
use alloy::primitives::{Address, B256, Bytes};
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

/// What a signer's key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignerRole {
    /// Records and splits: the Splitter's `AUTHORIZED_SETTLER`.
    Settler,
    /// Pulls authorizations; holds no role at any contract.
    Puller,
}

words!(SignerRole {
    Settler => "settler",
    Puller => "puller",
});

/// A transaction that waits for its first signature.
#[derive(Debug, Clone)]
pub struct Unsigned {
    /// Id of the row.
    pub id: i64,
    /// Account nonce.
    pub account_nonce: u64,
    /// Contract to call.
    pub to: Address,
    /// With what.
    pub calldata: Bytes,
    /// Gas limit.
    pub gas_limit: u64,
    /// Most that its data costs, wei.
    pub data_fee: u64,
    /// Whether it carries work; otherwise it only occupies its account nonce.
    pub has_work: bool,
}

/// A signed transaction: bytes and what they say.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Hash, computed here from the bytes.
    pub hash: B256,
    /// Why it was signed.
    pub kind: AttemptKind,
    /// The bytes.
    pub raw: Bytes,
    /// What it offers.
    pub fees: Fees,
    /// Seconds since it was signed, by the database's clock.
    pub age: u64,
}

/// A transaction with at least one committed envelope whose fate is open.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Id of the row.
    pub id: i64,
    /// Account nonce.
    pub account_nonce: u64,
    /// Where it stands.
    pub state: TransactionState,
    /// Contract to call.
    pub to: Address,
    /// With what.
    pub calldata: Bytes,
    /// Gas limit.
    pub gas_limit: u64,
    /// Most that its data costs, wei.
    pub data_fee: u64,
    /// What it is for. `None`: it only occupies its account nonce.
    pub work: Option<Work>,
    /// Its envelopes, oldest first.
    pub envelopes: Vec<Envelope>,
}

/// What a transaction is for.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// What.
    pub kind: IntentKind,
    /// A pull: not mined before this second, it cannot succeed.
    pub valid_before: Option<u64>,
    /// Whether what it follows from is on the chain: a record's pull, a split's records.
    pub has_cause: bool,
    /// For which payment; a split has none.
    pub settlement: Option<Uuid>,
    /// At which Splitter.
    pub splitter: Option<Address>,
    /// For which capability.
    pub capability: Option<B256>,
}

#[derive(sqlx::FromRow)]
struct TransactionRow {
    id: i64,
    account_nonce: i64,
    to_address: String,
    calldata: Vec<u8>,
    gas_limit: i64,
    data_fee_wei: i64,
    works: i64,
    frozen: i64,
}

#[derive(sqlx::FromRow)]
struct OutgoingRow {
    id: i64,
    account_nonce: i64,
    state: String,
    to_address: String,
    calldata: Vec<u8>,
    gas_limit: i64,
    data_fee_wei: i64,
    kind: Option<String>,
    valid_before: Option<i64>,
    settlement_id: Option<String>,
    splitter: Option<String>,
    splitter_capability_id: Option<String>,
    causes: i64,
}

#[derive(sqlx::FromRow)]
struct CauseRow {
    chain_id: i64,
    splitter: Option<String>,
    causes: i64,
}

#[derive(sqlx::FromRow)]
struct EnvelopeRow {
    transaction_id: i64,
    hash: String,
    kind: String,
    raw: Vec<u8>,
    max_fee_per_gas: i64,
    max_priority_fee_per_gas: i64,
    created_at: DateTime<Utc>,
}

#[derive(sqlx::FromRow)]
struct Number {
    number: i64,
}

#[derive(sqlx::FromRow)]
struct Hash {
    hash: String,
}

/// How much of what an intent `i` follows from is on the chain: a record's pull, while it is not
/// recorded; for a split, what is recorded and not split, if all of it is backed.
macro_rules! causes {
    () => {
        concat!(
            "CASE i.kind
                WHEN 'record' THEN (SELECT count(*) FROM x402_settlements s
                    WHERE s.id = i.settlement_id
                    AND s.status IN ('facilitator_attested', 'chain_confirmed')
                    AND NOT EXISTS (SELECT 1 FROM splitter_events e
                        WHERE e.chain_id = s.chain_id AND e.splitter = s.splitter
                        AND e.event_name = 'SettlementRecorded' AND e.account = s.payer
                        AND e.eip3009_nonce = s.eip3009_nonce))
                WHEN 'split' THEN (SELECT count(*) FROM x402_settlements s
                    WHERE s.chain_id = i.chain_id AND s.splitter = i.splitter
                    AND s.splitter_capability_id = i.splitter_capability_id
                    AND s.keeper_state IN ('recorded', 'splitting') AND ",
            backed!("i"),
            ") ELSE 1 END"
        )
    };
}

impl Tx {
    // ------------------------------------------------------------------------ transactions

    /// Gives an open intent the signer's next account nonce. One SQL transaction claims the work,
    /// allocates the nonce and writes the outgoing transaction.
    ///
    /// # Errors
    /// [`LedgerError::LeaseLost`], or [`LedgerError::Conflict`] when the intent is taken or the
    /// signer is quarantined.
    pub async fn plan(
        &mut self,
        lease: &Lease,
        chain_id: u64,
        signer: Address,
        intent: &Intent,
        cost: Cost,
    ) -> Result<u64> {
        const CLAIM: &str = "UPDATE intents SET state = 'claimed' WHERE id = $1 AND state = 'open'";
        const ALLOCATE: &str = "UPDATE signers SET next_account_nonce = next_account_nonce + 1
            WHERE chain_id = $1 AND address = $2 AND epoch = $3 AND quarantined_at IS NULL
            RETURNING next_account_nonce - 1 AS number";
        const INSERT: &str = "INSERT INTO transactions
            (chain_id, splitter, signer, account_nonce, epoch, to_address, calldata, gas_limit,
             state, final, max_cost_wei, data_fee_wei, created_at)
            SELECT chain_id, splitter, signer, $1, $2, to_address, calldata, gas_limit, 'planned',
                $3, $4, $5, $6 FROM intents WHERE id = $7
            RETURNING id AS number";
        const LINK: &str =
            "INSERT INTO transaction_intents (transaction_id, intent_id) VALUES ($1, $2)";
        self.hold_lease(lease).await?;
        if execute!(self, CLAIM, intent.id)? != 1 {
            return Err(LedgerError::Conflict(format!("intent {}", intent.id)));
        }
        let chain = bigint("chain id", chain_id)?;
        let epoch = bigint("epoch", lease.epoch)?;
        let nonce = fetch_optional!(self, Number, ALLOCATE, chain, hex(signer), epoch)?
            .ok_or_else(|| LedgerError::Conflict(format!("signer {signer}")))?
            .number;
        let (most, data) = (bigint("cost", cost.max)?, bigint("data fee", cost.data)?);
        let at = self.clock().await?;
        let row =
            fetch_optional!(self, Number, INSERT, nonce, epoch, false, most, data, at, intent.id)?;
        let transaction =
            row.ok_or_else(|| LedgerError::Conflict(format!("intent {}", intent.id)))?;
        execute!(self, LINK, transaction.number, intent.id)?;
        unsigned("transactions.account_nonce", nonce)
    }

    /// Transactions of a signer that wait for their first signature and may get it: none that works
    /// for a Splitter whose books are in doubt, and none behind such a one, which could not be mined.
    pub async fn unsigned(&mut self, chain_id: u64, signer: Address) -> Result<Vec<Unsigned>> {
        const SELECT: &str = concat!(
            "SELECT id, account_nonce, to_address, calldata, gas_limit,
            data_fee_wei, (SELECT count(*) FROM transaction_intents ti
                WHERE ti.transaction_id = transactions.id) AS works,
            CAST(CASE WHEN ",
            unfrozen!("transactions"),
            " THEN 0 ELSE 1 END AS BIGINT) AS frozen
            FROM transactions WHERE chain_id = $1 AND signer = $2 AND state = 'planned'
            ORDER BY account_nonce"
        );
        let chain = bigint("chain id", chain_id)?;
        let rows = fetch_all!(self, TransactionRow, SELECT, chain, hex(signer))?;
        rows.into_iter()
            .take_while(|row| row.works == 0 || row.frozen == 0)
            .map(|row| {
                Ok(Unsigned {
                    id: row.id,
                    account_nonce: unsigned("transactions.account_nonce", row.account_nonce)?,
                    to: address("transactions.to_address", &row.to_address)?,
                    calldata: row.calldata.into(),
                    gas_limit: unsigned("transactions.gas_limit", row.gas_limit)?,
                    data_fee: unsigned("transactions.data_fee_wei", row.data_fee_wei)?,
                    has_work: row.works > 0,
                })
            })
            .collect()
    }

    /// Whether a transaction of one of these signers has waited for its signature for longer than
    /// `patience`: then KMS does not sign, or nobody asks it to.
    pub async fn is_unsigned_for(
        &mut self,
        chain_id: u64,
        signers: [Address; 2],
        patience: TimeDelta,
    ) -> Result<bool> {
        const SELECT: &str = "SELECT count(*) AS number FROM transactions
            WHERE chain_id = $1 AND state = 'planned' AND created_at < $2
            AND signer IN ($3, $4)";
        let since = self.clock().await? - patience;
        let chain = bigint("chain id", chain_id)?;
        let [first, second] = signers.map(hex);
        let row = fetch_optional!(self, Number, SELECT, chain, since, first, second)?;
        Ok(row.is_some_and(|row| row.number > 0))
    }

    /// Stores a signed envelope. Nothing may be broadcast before this is committed.
    pub async fn add_envelope(
        &mut self,
        lease: &Lease,
        transaction: i64,
        envelope: &Envelope,
    ) -> Result<()> {
        const UPDATE: &str = "UPDATE transactions SET state = 'signed', max_cost_wei =
                CASE WHEN max_cost_wei < gas_limit * $2 + data_fee_wei
                THEN gas_limit * $2 + data_fee_wei ELSE max_cost_wei END
            WHERE id = $1 AND state IN ('planned', 'signed', 'broadcast')";
        self.hold_lease(lease).await?;
        self.insert_attempt(transaction, envelope).await?;
        // A replacement finds it signed or sent; what is decided gets no more envelopes.
        let fee = bigint("max fee per gas", envelope.fees.max_fee_per_gas)?;
        if execute!(self, UPDATE, transaction, fee)? == 1 {
            Ok(())
        } else {
            Err(LedgerError::Conflict(format!("transaction {transaction}")))
        }
    }

    /// Puts an envelope behind those that a transaction has.
    pub(super) async fn insert_attempt(
        &mut self,
        transaction: i64,
        envelope: &Envelope,
    ) -> Result<()> {
        const INSERT: &str = "INSERT INTO attempts
            (hash, transaction_id, n, kind, raw, max_fee_per_gas, max_priority_fee_per_gas,
             created_at)
            SELECT $1, $2, count(*), $3, $4, $5, $6, $7 FROM attempts WHERE transaction_id = $2";
        let at = self.clock().await?;
        execute!(
            self,
            INSERT,
            hex(envelope.hash),
            transaction,
            envelope.kind.as_str(),
            envelope.raw.to_vec(),
            bigint("max fee per gas", envelope.fees.max_fee_per_gas)?,
            bigint("max priority fee per gas", envelope.fees.max_priority_fee_per_gas)?,
            at,
        )?;
        Ok(())
    }

    /// Signed transactions of a signer whose fate is open, by account nonce.
    pub async fn outgoing(&mut self, chain_id: u64, signer: Address) -> Result<Vec<Outgoing>> {
        const TRANSACTIONS: &str = concat!(
            "SELECT t.id, t.account_nonce, t.state, t.to_address,
                t.calldata, t.gas_limit, t.data_fee_wei, i.kind, i.valid_before, i.settlement_id,
                i.splitter, i.splitter_capability_id,
                ",
            causes!(),
            " AS causes
            FROM transactions t
            LEFT JOIN transaction_intents ti ON ti.transaction_id = t.id
            LEFT JOIN intents i ON i.id = ti.intent_id
            WHERE t.chain_id = $1 AND t.signer = $2 AND NOT t.final AND t.state <> 'planned'
            ORDER BY t.account_nonce"
        );
        const ATTEMPTS: &str = "SELECT a.transaction_id, a.hash, a.kind, a.raw, a.max_fee_per_gas,
            a.max_priority_fee_per_gas, a.created_at FROM attempts a JOIN transactions t
            ON t.id = a.transaction_id WHERE t.chain_id = $1 AND t.signer = $2 AND NOT t.final
            ORDER BY a.transaction_id, a.n";
        let chain = bigint("chain id", chain_id)?;
        let transactions = fetch_all!(self, OutgoingRow, TRANSACTIONS, chain, hex(signer))?;
        let attempts = fetch_all!(self, EnvelopeRow, ATTEMPTS, chain, hex(signer))?;
        let clock = self.clock().await?;
        transactions
            .into_iter()
            .map(|row| {
                let envelopes = attempts
                    .iter()
                    .filter(|attempt| attempt.transaction_id == row.id)
                    .map(|attempt| {
                        let age = (clock - attempt.created_at).num_seconds();
                        let age = u64::try_from(age).unwrap_or(0);
                        Ok(Envelope { age, ..Envelope::try_from(attempt)? })
                    })
                    .collect::<Result<_>>()?;
                Ok(Outgoing {
                    id: row.id,
                    account_nonce: unsigned("transactions.account_nonce", row.account_nonce)?,
                    state: word("transactions.state", &row.state, TransactionState::from_word)?,
                    to: address("transactions.to_address", &row.to_address)?,
                    work: row.work()?,
                    calldata: row.calldata.into(),
                    gas_limit: unsigned("transactions.gas_limit", row.gas_limit)?,
                    data_fee: unsigned("transactions.data_fee_wei", row.data_fee_wei)?,
                    envelopes,
                })
            })
            .collect()
    }

    /// Whether what a transaction follows from is on the chain now, as the mirror has it, and where
    /// that mirror ends.
    pub async fn cause(&mut self, transaction: i64) -> Result<Option<(u64, B256)>> {
        const SELECT: &str = concat!(
            "SELECT i.chain_id, i.splitter, ",
            causes!(),
            " AS causes FROM transaction_intents ti JOIN intents i ON i.id = ti.intent_id
            WHERE ti.transaction_id = $1"
        );
        let row = fetch_optional!(self, CauseRow, SELECT, transaction)?;
        let Some(CauseRow { chain_id, splitter: Some(splitter), causes: 1.. }) = row else {
            return Ok(None);
        };
        let chain_id = unsigned("intents.chain_id", chain_id)?;
        self.mirror_end(chain_id, address("intents.splitter", &splitter)?).await
    }

    /// How many of a signer's transactions occupy the node's pool, or will.
    pub async fn pending_transactions(&mut self, chain_id: u64, signer: Address) -> Result<u64> {
        const SELECT: &str = "SELECT count(*) AS number FROM transactions
            WHERE chain_id = $1 AND signer = $2 AND state IN ('planned', 'signed', 'broadcast')";
        let chain = bigint("chain id", chain_id)?;
        let row = fetch_optional!(self, Number, SELECT, chain, hex(signer))?;
        unsigned("count", row.map_or(0, |row| row.number))
    }

    /// Stores what the chain made of a transaction, and what follows for its intents.
    pub async fn set_standing(
        &mut self,
        lease: &Lease,
        known: &Outgoing,
        standing: Standing,
        mined: Option<&MinedCost>,
    ) -> Result<()> {
        const UPDATE: &str = "UPDATE transactions SET state = $1, final = $2, mined_hash = $3,
            block_number = $4, block_hash = $5, gas_used = $6, l2_fee_wei = $7, l1_fee_wei = $8
            WHERE id = $9 AND state = $10 AND NOT final";
        const INTENTS: &str = "UPDATE intents SET state = $1, reason = $2 WHERE id IN
            (SELECT intent_id FROM transaction_intents WHERE transaction_id = $3)";
        self.hold_lease(lease).await?;
        let wei = |what, value: Option<u128>| value.map(|wei| bigint(what, wei)).transpose();
        let updated = execute!(
            self,
            UPDATE,
            standing.state.as_str(),
            standing.is_final,
            mined.map(|mined| hex(mined.mined.hash)),
            mined.map(|mined| bigint("block number", mined.mined.block)).transpose()?,
            mined.map(|mined| hex(mined.block_hash)),
            mined.map(|mined| bigint("gas used", mined.gas_used)).transpose()?,
            wei("L2 fee", mined.map(|mined| mined.l2_fee))?,
            wei("L1 fee", mined.and_then(|mined| mined.l1_fee))?,
            known.id,
            known.state.as_str(),
        )?;
        if updated != 1 {
            return Err(LedgerError::Conflict(format!("transaction {}", known.id)));
        }
        let Some(work) = known.work else { return Ok(()) };
        let intents = IntentState::after(work.kind, standing);
        let reason = (intents == IntentState::Held)
            .then(|| format!("its transaction is {}", standing.state));
        execute!(self, INTENTS, intents.as_str(), reason, known.id)?;
        Ok(())
    }

    /// The newest envelope that was signed for a settlement: what an agent is told to look for.
    pub async fn latest_envelope(
        &mut self,
        settlement: Uuid,
        kind: IntentKind,
    ) -> Result<Option<B256>> {
        const SELECT: &str = "SELECT a.hash FROM attempts a
            JOIN transaction_intents ti ON ti.transaction_id = a.transaction_id
            JOIN intents i ON i.id = ti.intent_id
            WHERE i.settlement_id = $1 AND i.kind = $2
            ORDER BY a.transaction_id DESC, a.n DESC LIMIT 1";
        fetch_optional!(self, Hash, SELECT, settlement.to_string(), kind.as_str())?
            .map(|row| hash("attempts.hash", &row.hash))
            .transpose()
    }
}

impl OutgoingRow {
    fn work(&self) -> Result<Option<Work>> {
        let Some(kind) = &self.kind else { return Ok(None) };
        let (id, at) = (self.settlement_id.as_deref(), self.splitter.as_deref());
        let capability = self.splitter_capability_id.as_deref();
        Ok(Some(Work {
            kind: word("intents.kind", kind, IntentKind::from_word)?,
            valid_before: self
                .valid_before
                .map(|second| unsigned("intents.valid_before", second))
                .transpose()?,
            has_cause: self.causes > 0,
            settlement: id.map(|id| uuid("intents.settlement_id", id)).transpose()?,
            splitter: at.map(|at| address("intents.splitter", at)).transpose()?,
            capability: capability
                .map(|id| hash("intents.splitter_capability_id", id))
                .transpose()?,
        }))
    }
}

/// Most that a transaction can cost, wei.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// In all.
    pub max: u64,
    /// For its data on L1, and to the operator of the rollup.
    pub data: u64,
}

/// A mined envelope with its place and price.
#[derive(Debug, Clone, Copy)]
pub struct MinedCost {
    /// Which envelope, in which block, with what outcome.
    pub mined: Mined,
    /// Hash of that block.
    pub block_hash: B256,
    /// Gas used.
    pub gas_used: u64,
    /// Fee for execution, wei.
    pub l2_fee: u128,
    /// Fee for the data on L1, wei, where the chain has one.
    pub l1_fee: Option<u128>,
}

impl TryFrom<&EnvelopeRow> for Envelope {
    type Error = LedgerError;

    fn try_from(row: &EnvelopeRow) -> Result<Self> {
        Ok(Self {
            hash: hash("attempts.hash", &row.hash)?,
            kind: word("attempts.kind", &row.kind, AttemptKind::from_word)?,
            raw: row.raw.clone().into(),
            fees: Fees {
                max_fee_per_gas: unsigned("attempts.max_fee_per_gas", row.max_fee_per_gas)?,
                max_priority_fee_per_gas: unsigned(
                    "attempts.max_priority_fee_per_gas",
                    row.max_priority_fee_per_gas,
                )?,
            },
            age: 0,
        })
    }
}
