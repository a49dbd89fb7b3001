//! What a node's answer to `eth_sendRawTransaction` means.

/// What is known after handing a transaction to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SendClass {
    /// The node took it.
    Accepted,
    /// The node had it already.
    Known,
    /// The fee is too low for the pool, or to replace what is there.
    Underpriced,
    /// The account nonce is gone: this envelope or another of ours was mined, or somebody else has
    /// the key.
    NonceTooLow,
    /// The account cannot pay for it.
    InsufficientFunds,
    /// It can never be valid.
    Permanent,
    /// Anything else, a timeout above all. The node may have taken it.
    Unknown,
}

impl SendClass {
    /// Low-cardinality word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Known => "known",
            Self::Underpriced => "underpriced",
            Self::NonceTooLow => "nonce_too_low",
            Self::InsufficientFunds => "insufficient_funds",
            Self::Permanent => "permanent",
            Self::Unknown => "unknown",
        }
    }
}

/// Classes a node's error text. Whatever is not recognised is [`SendClass::Unknown`].
///
/// Reverts are looked for first, since a revert string can quote anything.
pub fn classify_send_error(message: &str) -> SendClass {
    const RULES: [(&str, SendClass); 16] = [
        ("execution reverted", SendClass::Unknown),
        ("unknown transaction", SendClass::Unknown),
        ("already known", SendClass::Known),
        ("known transaction", SendClass::Known),
        ("already imported", SendClass::Known),
        ("transaction already in pool", SendClass::Known),
        ("nonce too low", SendClass::NonceTooLow),
        ("nonce is too low", SendClass::NonceTooLow),
        ("replacement transaction underpriced", SendClass::Underpriced),
        ("transaction underpriced", SendClass::Underpriced),
        ("max fee per gas less than block base fee", SendClass::Underpriced),
        ("insufficient funds", SendClass::InsufficientFunds),
        ("intrinsic gas too low", SendClass::Permanent),
        ("exceeds block gas limit", SendClass::Permanent),
        ("invalid chain id", SendClass::Permanent),
        ("invalid sender", SendClass::Permanent),
    ];
    let message = message.to_lowercase();
    RULES
        .iter()
        .find(|(text, _)| message.contains(text))
        .map_or(SendClass::Unknown, |(_, class)| *class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_texts() {
        for (text, class) in [
            ("already known", SendClass::Known),
            ("AlreadyKnown: transaction already known", SendClass::Known),
            ("transaction already imported", SendClass::Known),
            ("nonce too low: next nonce 5, tx nonce 4", SendClass::NonceTooLow),
            ("replacement transaction underpriced", SendClass::Underpriced),
            (
                "max fee per gas less than block base fee: address 0x1, maxFeePerGas: 1",
                SendClass::Underpriced,
            ),
            ("Insufficient funds for gas * price + value", SendClass::InsufficientFunds),
            ("intrinsic gas too low", SendClass::Permanent),
        ] {
            assert_eq!(classify_send_error(text), class, "{text}");
        }
    }

    #[test]
    fn everything_else_is_unknown() {
        for text in [
            "",
            "internal error",
            "unknown transaction",
            "execution reverted: nonce too low",
            "the method eth_sendRawTransaction does not exist",
            "header not found",
        ] {
            assert_eq!(classify_send_error(text), SendClass::Unknown, "{text}");
        }
    }
}
