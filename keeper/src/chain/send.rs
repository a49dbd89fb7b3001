//! What a node's answer to `eth_sendRawTransaction` means.

/// What is known after handing a transaction to a node. In the order in which answers of several
/// nodes outweigh each other: taken by one is taken, and what may still come of it outweighs what
/// is certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SendClass {
    /// The node took it.
    Accepted,
    /// The node had it already.
    Known,
    /// Anything that is not certain, a timeout above all. The node may have taken it, or may take
    /// it later.
    Unknown,
    /// The account nonce is gone: this envelope or another of ours was mined, or somebody else has
    /// the key.
    NonceTooLow,
    /// The fee is too low for the pool, or to replace what is there.
    Underpriced,
    /// The account cannot pay for it.
    InsufficientFunds,
    /// It can never be valid.
    Permanent,
}

impl SendClass {
    /// Low-cardinality word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Known => "known",
            Self::Unknown => "unknown",
            Self::NonceTooLow => "nonce_too_low",
            Self::Underpriced => "underpriced",
            Self::InsufficientFunds => "insufficient_funds",
            Self::Permanent => "permanent",
        }
    }

    /// What several nodes' answers come to. Without any, nothing is known.
    pub(super) fn merge(answers: impl IntoIterator<Item = Self>) -> Self {
        answers.into_iter().min().unwrap_or(Self::Unknown)
    }
}

/// JSON-RPC codes whose text says nothing of the transaction: a revert, which can quote anything;
/// waiting for inclusion ended (EIP-7966), 4 and 5; no such method; limits of a provider.
const NOT_ABOUT_IT: [i64; 8] = [3, 4, 5, 429, -32_601, -32_004, -32_005, -32_016];

/// Node's words, lower case, and what they mean; the first that occurs counts. So the traps stand
/// first: words that contain a rule further down and mean something else.
///
/// A rule beyond [`SendClass::Unknown`] is there only if the words cannot come from a node that took
/// the transaction, and would come again from every other node of the chain. A full pool, a limit
/// per sender, a gap before the account nonce, a cap that a node's operator has set, and the block's
/// gas limit pass, or are different elsewhere.
const RULES: [(&str, SendClass); 33] = [
    ("execution reverted", SendClass::Unknown),
    ("too many requests", SendClass::Unknown),
    ("rate limit", SendClass::Unknown),
    ("unknown transaction", SendClass::Unknown),
    ("block already known", SendClass::Unknown),
    ("authority nonce too low", SendClass::Unknown),
    ("already known", SendClass::Known),
    ("known transaction", SendClass::Known),
    ("already imported", SendClass::Known),
    ("transaction already in pool", SendClass::Known),
    ("nonce too low", SendClass::NonceTooLow),
    ("nonce is too low", SendClass::NonceTooLow),
    ("replacement transaction underpriced", SendClass::Underpriced),
    ("transaction underpriced", SendClass::Underpriced),
    ("insufficient gas price to replace", SendClass::Underpriced),
    ("transaction gas price below minimum", SendClass::Underpriced),
    ("below minimum required priority fee", SendClass::Underpriced),
    ("below chain minimum", SendClass::Underpriced),
    ("max fee per gas less than block base fee", SendClass::Underpriced),
    ("insufficient funds", SendClass::InsufficientFunds),
    ("transaction overdraws from account", SendClass::InsufficientFunds),
    ("intrinsic gas too low", SendClass::Permanent),
    ("insufficient gas for floor data gas cost", SendClass::Permanent),
    ("gas limit too high", SendClass::Permanent),
    ("max priority fee per gas higher than max fee per gas", SendClass::Permanent),
    ("nonce has max value", SendClass::Permanent),
    ("nonce exceeds u64 limit", SendClass::Permanent),
    ("invalid chain id", SendClass::Permanent),
    ("invalid sender", SendClass::Permanent),
    ("invalid transaction signature", SendClass::Permanent),
    ("failed to decode", SendClass::Permanent),
    ("empty transaction data", SendClass::Permanent),
    ("typed transaction too short", SendClass::Permanent),
];

/// Classes a node's error. Whatever is not recognised is [`SendClass::Unknown`]. The text decides:
/// nodes do not agree on codes, and some call everything an internal error.
pub fn classify_send_error(code: i64, message: &str) -> SendClass {
    if NOT_ABOUT_IT.contains(&code) {
        return SendClass::Unknown;
    }
    let message = message.to_lowercase();
    RULES
        .iter()
        .find(|(text, _)| message.contains(text))
        .map_or(SendClass::Unknown, |(_, class)| *class)
}

#[cfg(test)]
mod tests {
    use super::SendClass::{
        self, Accepted, InsufficientFunds, Known, NonceTooLow, Permanent, Underpriced, Unknown,
    };
    use super::*;

    const ALL: [SendClass; 7] =
        [Accepted, Known, Unknown, NonceTooLow, Underpriced, InsufficientFunds, Permanent];

    /// What geth and op-geth say; op-geth adds the L1 fee to the cost, and passes on what the
    /// sequencer says.
    const GETH: &[(i64, &str, SendClass)] = &[
        (-32_000, "already known", Known),
        (-32_000, "nonce too low: next nonce 5, tx nonce 4", NonceTooLow),
        (-32_000, "nonce too high: tx nonce 9, gapped nonce 5", Unknown),
        (-32_000, "replacement transaction underpriced", Underpriced),
        (-32_000, "transaction underpriced", Underpriced),
        (-32_000, "transaction underpriced: tip needed 1000000, tip permitted 1", Underpriced),
        (
            -32_000,
            "transaction gas price below minimum: gas tip cap 0, minimum needed 1",
            Underpriced,
        ),
        (
            -32_000,
            "max fee per gas less than block base fee: address 0x1, maxFeePerGas: 1, baseFee: 2",
            Underpriced,
        ),
        (
            -32_000,
            "insufficient funds for gas * price + value: balance 1, tx cost 3, overshot 2",
            InsufficientFunds,
        ),
        (-32_000, "insufficient funds for transfer", InsufficientFunds),
        (-32_000, "intrinsic gas too low: gas 20000, minimum needed 21000", Permanent),
        (
            -32_000,
            "insufficient gas for floor data gas cost: gas 21000, minimum needed 21640",
            Permanent,
        ),
        (-32_000, "transaction gas limit too high (cap: 16777216, tx: 16777217)", Permanent),
        (-32_000, "exceeds maximum per-transaction gas limit", Unknown),
        (-32_000, "exceeds block gas limit", Unknown),
        (-32_000, "max priority fee per gas higher than max fee per gas", Permanent),
        (-32_000, "nonce has max value", Permanent),
        (-32_000, "invalid sender: invalid chain id for signer: have 1 want 8453", Permanent),
        (-32_000, "invalid sender: invalid transaction v, r, s values", Permanent),
        // 23 bytes are a delegation, which a node that syncs does not know of yet.
        (-32_000, "sender not an eoa: address 0x1, len(code): 23", Unknown),
        (-32_000, "typed transaction too short", Permanent),
        // A node that syncs does not know yet what the chain knows.
        (
            -32_000,
            "transaction type not supported: type 2 rejected, pool not yet in London",
            Unknown,
        ),
        (-32_000, "txpool is full", Unknown),
        (-32_000, "account limit exceeded: pooled 64 txs", Unknown),
        (-32_000, "future transaction tries to replace pending", Unknown),
        (-32_000, "address already reserved", Unknown),
        (-32_000, "authority already reserved", Unknown),
        (-32_000, "authority nonce too low", Unknown),
        (-32_000, "in-flight transaction limit reached for delegated accounts", Unknown),
        (-32_000, "gapped-nonce tx from delegated accounts", Unknown),
        (-32_000, "tx fee (2.00 ether) exceeds the configured cap (1.00 ether)", Unknown),
        (-32_000, "oversized data: transaction size 200000, limit 131072", Unknown),
        (-32_000, "unknown transaction", Unknown),
        (-32_000, "header not found", Unknown),
        (3, "execution reverted: nonce too low", Unknown),
        (-32_000, "execution reverted: already known", Unknown),
        (-32_601, "the method eth_sendRawTransaction does not exist/is not available", Unknown),
        // The limit of Base's sequencer, as its nodes pass it on.
        (
            -32_000,
            r#"429 Too Many Requests: {"jsonrpc":"2.0","error":{"code":-32016,"message":"over rate limit"},"id":1}"#,
            Unknown,
        ),
    ];

    /// What reth and base-reth say to RPC callers.
    const RETH: &[(i64, &str, SendClass)] = &[
        (-32_000, "already known", Known),
        (-32_000, "nonce too low: next nonce 141009, tx nonce 140980", NonceTooLow),
        (-32_603, "nonce too low: next nonce 5, tx nonce 4", NonceTooLow),
        (-32_000, "nonce too high", Unknown),
        (-32_000, "replacement transaction underpriced", Underpriced),
        (-32_000, "transaction underpriced", Underpriced),
        (-32_000, "max fee per gas less than block base fee", Underpriced),
        (
            -32_003,
            "transaction priority fee below minimum required priority fee 1000000",
            Underpriced,
        ),
        (-32_003, "insufficient funds for gas * price + value: have 1 want 3", InsufficientFunds),
        (-32_003, "insufficient funds for transfer", InsufficientFunds),
        (-32_000, "intrinsic gas too low", Permanent),
        // Above the block's limit, or above the cap per transaction: it does not say which.
        (-32_000, "intrinsic gas too high", Unknown),
        (-32_003, "gas limit too high", Permanent),
        (-32_000, "exceeds block gas limit", Unknown),
        (-32_000, "exceeds max transaction gas limit", Unknown),
        (-32_003, "max priority fee per gas higher than max fee per gas", Permanent),
        (-32_000, "invalid chain ID", Permanent),
        (-32_000, "invalid sender", Permanent),
        (-32_602, "invalid transaction signature", Permanent),
        (-32_003, "sender is not an EOA", Unknown),
        (-32_602, "failed to decode signed transaction", Permanent),
        (-32_602, "empty transaction data", Permanent),
        (-32_003, "transaction type not supported", Unknown),
        (-32_003, "txpool is full", Unknown),
        (-32_000, "address already reserved", Unknown),
        (-32_000, "authority already reserved", Unknown),
        (-32_000, "in-flight transaction limit reached for delegated accounts", Unknown),
        (-32_000, "gapped-nonce tx from delegated accounts", Unknown),
        (-32_000, "tx fee (2 wei) exceeds the configured cap (1 wei)", Unknown),
        (-32_000, "oversized data: transaction size 200000, limit 131072", Unknown),
        // The pool's own words, should they get through.
        (-32_603, "[0x01]: already imported", Known),
        (-32_603, "[0x01]: insufficient gas price to replace existing transaction", Underpriced),
        (-32_603, "[0x01]: transaction feeCap 1 below chain minimum", Underpriced),
        (-32_603, "transaction overdraws from account, balance: 1, cost: 2", InsufficientFunds),
        (-32_603, "nonce exceeds u64 limit", Permanent),
        (-32_603, "[0x01]: rejected due to 0x1 being identified as a spammer", Unknown),
        (-32_603, "transaction discarded outright due to pool size constraints", Unknown),
        // base-reth does not reach its sequencer, or waited for inclusion in vain.
        (-32_603, "error sending request for url (https://sequencer.example/)", Unknown),
        (4, "Transaction 0x01 was added to the mempool but wasn't confirmed within 2s.", Unknown),
        (3, "execution reverted: insufficient funds", Unknown),
        (-32_603, "internal error", Unknown),
    ];

    /// What anvil says.
    const ANVIL: &[(i64, &str, SendClass)] = &[
        (-32_003, "transaction already imported", Known),
        (-32_003, "nonce too low", NonceTooLow),
        (-32_003, "Nonce too high", Unknown),
        (-32_003, "replacement transaction underpriced", Underpriced),
        (-32_003, "max fee per gas less than block base fee", Underpriced),
        (-32_003, "Insufficient funds for gas * price + value", InsufficientFunds),
        (-32_000, "intrinsic gas too low", Permanent),
        // Of every gas limit that it does not like, too low ones as well.
        (-32_000, "intrinsic gas too high -- CallerGasLimitMoreThanBlock", Unknown),
        (
            -32_003,
            "Transaction gas limit is greater than the block gas limit, gas_limit: 2, cap: 1",
            Unknown,
        ),
        (-32_003, "max priority fee per gas higher than max fee per gas", Permanent),
        (-32_003, "invalid chain id for signer", Permanent),
        (-32_602, "Failed to decode transaction", Permanent),
        (-32_602, "Empty transaction data", Permanent),
        (-32_603, "Transaction confirmation timeout", Unknown),
    ];

    /// What providers in front of nodes say.
    const PROVIDERS: &[(i64, &str, SendClass)] = &[
        (-32_016, "over rate limit", Unknown),
        (-32_005, "nonce too low: limit exceeded", Unknown),
        (429, "Your app has exceeded its compute units per second capacity", Unknown),
        (-32_603, "rate limit exceeded: already known", Unknown),
        (-32_603, "", Unknown),
    ];

    #[test]
    fn what_each_node_says_is_understood() {
        let nodes = [("geth", GETH), ("reth", RETH), ("anvil", ANVIL), ("providers", PROVIDERS)];
        for (node, says) in nodes {
            for (code, text, class) in says {
                assert_eq!(classify_send_error(*code, text), *class, "{node}: {code} {text}");
            }
        }
    }

    /// No rule is there for nothing, and none is hidden by one before it.
    #[test]
    fn every_rule_decides_something() {
        for (text, class) in RULES {
            assert_eq!(classify_send_error(-32_000, text), class, "{text}");
        }
    }

    /// The order of the answers, and how many say the same, makes no difference.
    #[test]
    fn answers_merge_the_same_in_every_order() {
        for (answers, merged) in [
            (vec![Accepted, Permanent, Unknown], Accepted),
            (vec![Accepted, Known, NonceTooLow], Accepted),
            (vec![Known, Unknown, Underpriced], Known),
            (vec![Unknown, NonceTooLow, Permanent], Unknown),
            (vec![Unknown, Underpriced, InsufficientFunds], Unknown),
            (vec![NonceTooLow, Underpriced, InsufficientFunds], NonceTooLow),
            (vec![Underpriced, InsufficientFunds, Permanent], Underpriced),
            (vec![InsufficientFunds, Permanent, Permanent], InsufficientFunds),
            (vec![Permanent, Permanent, Permanent], Permanent),
        ] {
            for [a, b, c] in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
                let order = [answers[a], answers[b], answers[c]];
                assert_eq!(SendClass::merge(order), merged, "{order:?}");
            }
        }
        for class in ALL {
            assert_eq!(SendClass::merge([class]), class);
        }
        assert_eq!(SendClass::merge([]), Unknown, "nobody was asked");
    }

    /// Taken by one is taken, and no certainty outweighs a doubt, whoever else says what.
    #[test]
    fn a_doubt_is_never_outvoted() {
        for class in ALL {
            assert_eq!(SendClass::merge([class, Accepted]), Accepted);
            if class != Accepted {
                assert_eq!(SendClass::merge([class, Known]), Known);
            }
            if ![Accepted, Known].contains(&class) {
                assert_eq!(SendClass::merge([class, Unknown]), Unknown);
            }
        }
    }
}
