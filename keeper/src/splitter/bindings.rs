//! Bindings generated from the checked-in artifacts.

#![allow(missing_docs, reason = "generated from abi/, which carries no documentation")]

alloy::sol!(
    #[derive(Debug, PartialEq, Eq)]
    JecpSplitter,
    "../abi/JecpSplitter.json"
);
