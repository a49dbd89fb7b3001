//! A node that has stopped at a block: later ones do not exist for it, and whoever asks for the
//! newest gets that one. It still passes transactions on.

use crate::proxy::{Node, reply};
use alloy::primitives::U64;
use serde_json::{Value, json};

/// What a stale node knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stale {
    latest: u64,
    safe: u64,
    finalized: u64,
    /// Every how many requests it is asked.
    every: u64,
    asked: u64,
}

impl Stale {
    /// Stops at the node's head.
    pub(crate) async fn at_head(node: &Node, every: u64) -> eyre::Result<Self> {
        let mut numbers = [0; 3];
        for (number, tag) in numbers.iter_mut().zip(["finalized", "safe", "latest"]) {
            let request = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_getBlockByNumber",
                                 "params": [tag, false]});
            let answer = node.forward(&request).await?;
            let found: U64 = serde_json::from_value(answer["result"]["number"].clone())?;
            *number = found.to();
        }
        let [finalized, safe, latest] = numbers;
        Ok(Self { latest, safe, finalized, every, asked: 0 })
    }

    /// Whether it is its turn to answer.
    pub(crate) const fn turn(&mut self) -> Option<Self> {
        self.asked = self.asked.saturating_add(1);
        if self.every != 0 && self.asked.is_multiple_of(self.every) { Some(*self) } else { None }
    }

    /// Its answer.
    pub(crate) async fn answer(self, node: &Node, request: &Value) -> eyre::Result<Value> {
        let mut request = request.clone();
        let unknown = json!({"code": -32000, "message": "header not found"});
        match request["method"].as_str().unwrap_or_default() {
            "eth_blockNumber" => Ok(reply(&request, "result", json!(U64::from(self.latest)))),
            "eth_getBlockByNumber" => match self.number(&request["params"][0]) {
                Some(number) => {
                    request["params"][0] = json!(U64::from(number));
                    node.forward(&request).await
                }
                None => Ok(reply(&request, "result", Value::Null)),
            },
            "eth_getTransactionCount" | "eth_getBalance" | "eth_getCode" | "eth_call" => {
                match self.number(&request["params"][1]) {
                    Some(number) => {
                        request["params"][1] = json!(U64::from(number));
                        node.forward(&request).await
                    }
                    None => Ok(reply(&request, "error", unknown)),
                }
            }
            "eth_getTransactionReceipt" | "eth_getTransactionByHash" => {
                let mut answer = node.forward(&request).await?;
                let block = serde_json::from_value::<U64>(answer["result"]["blockNumber"].clone());
                if block.is_ok_and(|block| block.to::<u64>() > self.latest) {
                    answer["result"] = Value::Null;
                }
                Ok(answer)
            }
            "eth_getLogs" => {
                let filter = &mut request["params"][0];
                match self.number(&filter["fromBlock"]) {
                    Some(_) => {
                        let to = self.number(&filter["toBlock"]).unwrap_or(self.latest);
                        filter["toBlock"] = json!(U64::from(to));
                        node.forward(&request).await
                    }
                    None => Ok(reply(&request, "result", json!([]))),
                }
            }
            _ => node.forward(&request).await,
        }
    }

    /// The number behind a tag, unless that block does not exist here.
    fn number(&self, tag: &Value) -> Option<u64> {
        match tag.as_str() {
            Some("finalized") => Some(self.finalized),
            Some("safe") => Some(self.safe),
            Some("earliest") => Some(0),
            _ => match serde_json::from_value::<U64>(tag.clone()) {
                Ok(number) => Some(number.to::<u64>()).filter(|number| *number <= self.latest),
                Err(_) => Some(self.latest),
            },
        }
    }
}
