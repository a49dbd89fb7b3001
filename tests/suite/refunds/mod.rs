//! What an agent paid for nothing is given back once, by the treasury, and by nobody else.

mod asked;
mod limits;
mod once;

use crate::support::{
    Answer, Draft, call, eventually, invoke, keeper, postgres, settlement_of, stack, tally, unique,
};
use alloy::{
    primitives::{Address, Bytes, U256},
    signers::local::PrivateKeySigner,
    sol,
    sol_types::SolCall,
};
use keeper::{
    ledger::{Ledger, Refund, RefundQuery, Settlement},
    lifecycle::Status,
};
use sandbox::{Daemon, PRICE_MICRO, Stack, StackOptions};
use serde_json::{Value, json};
use std::{path::Path, process::Output};

sol! {
    function transfer(address to, uint256 value);
}

/// Ether for the treasury.
const GAS_MONEY: U256 = U256::from_limbs([1_000_000_000_000_000_000, 0, 0, 0]);

/// A hub whose provider fails every call.
pub(crate) struct Broken {
    pub(crate) stack: Stack,
    pub(crate) daemon: Daemon,
    pub(crate) database: String,
}

impl Broken {
    /// With a configuration of refunds.
    pub(crate) async fn start(name: &str, on_postgres: bool, refunds: &str) -> Self {
        let stack = stack(name, StackOptions::default()).await;
        let database = if on_postgres { postgres().await } else { stack.sqlite() };
        let change = |config: String| format!("{config}\n[refunds]\n{refunds}\n");
        let mut daemon = stack.spawn(&keeper(), &database, &[], change).await.unwrap();
        daemon.ready().await.unwrap();
        stack.provider.set_failing(true);
        let treasury = stack.roles.hub_treasury;
        stack.anvil.rpc("anvil_impersonateAccount", json!([treasury])).await.unwrap();
        stack.anvil.set_balance(treasury, GAS_MONEY).await.unwrap();
        stack.contracts.mint(&stack.anvil, treasury, 100 * PRICE_MICRO).await.unwrap();
        Self { stack, daemon, database }
    }

    /// Pays for a call.
    pub(crate) async fn call(&self, payer: &PrivateKeySigner) -> (Draft, Value, Answer) {
        let mut draft = Draft::new(payer, self.stack.contracts.splitter);
        draft.authorization.valid_before += 540;
        let body = call(&unique("refund"));
        let mut answer = invoke(&self.daemon.url, &body, Some(&draft.header())).await;
        // Until the pull is seen, it is told to ask again.
        while answer.code() == "SERVICE_DEGRADED" {
            answer = invoke(&self.daemon.url, &body, Some(&draft.header())).await;
        }
        (draft, body, answer)
    }

    /// Pays for a call that fails.
    pub(crate) async fn fail(&self, payer: &PrivateKeySigner) -> (Draft, Value) {
        let (draft, body, answer) = self.call(payer).await;
        assert_eq!((answer.status, answer.code()), (502, "PROVIDER_ERROR"), "{answer:?}");
        (draft, body)
    }

    /// Every refund, oldest first.
    pub(crate) async fn refunds(&self) -> Vec<Refund> {
        let ledger = Ledger::open_beside(&self.database).await.unwrap();
        let mut tx = ledger.read().await.unwrap();
        tx.refunds(RefundQuery::All).await.unwrap()
    }

    /// How many refunds are in which state.
    pub(crate) async fn states(&self) -> String {
        let states = tally(&self.database, "x402_refund_log", "state").await;
        let states: Vec<_> =
            states.iter().map(|(state, count)| format!("{state} {count}")).collect();
        states.join(", ")
    }

    /// Waits until the refunds are in these states.
    pub(crate) async fn until(&self, states: &str) {
        eventually(&format!("refunds: {states}"), || async { self.states().await == states }).await;
    }

    /// A payment that is confirmed.
    pub(crate) async fn confirmed(&self, draft: &Draft) -> Settlement {
        eventually("it is confirmed", || async {
            let known = settlement_of(&self.database, &draft.authorization).await;
            known.is_some_and(|known| known.status == Status::ChainConfirmed)
        })
        .await;
        settlement_of(&self.database, &draft.authorization).await.unwrap()
    }

    /// The treasury sends USDC.
    pub(crate) async fn treasury_pays(&self, to: Address, micro: u64) {
        let input = transferCall { to, value: U256::from(micro) }.abi_encode();
        self.send(self.stack.roles.hub_treasury, self.stack.contracts.usdc, input.into()).await;
    }

    pub(crate) async fn send(&self, from: Address, to: Address, input: Bytes) {
        self.stack.anvil.send(from, to, &input).await.unwrap();
    }

    /// Waits until so many more blocks are final, so that everything in them would have been seen.
    pub(crate) async fn settle_down(&self) {
        let head = || async {
            let chain = crate::support::chain(&self.stack);
            chain.head(keeper::chain::BlockTag::Finalized).await.unwrap().number()
        };
        let target = head().await + 6;
        eventually("blocks are final", || async { head().await >= target }).await;
    }

    /// Runs `keeper refund`.
    pub(crate) async fn cli(&self, arguments: &[&str]) -> Output {
        cli("refund", &self.daemon.config, &self.stack, arguments).await
    }

    /// The same, which must succeed and print JSON.
    pub(crate) async fn json(&self, arguments: &[&str]) -> Value {
        let output = self.cli(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The same, which must end with this code; returns what it says.
    pub(crate) async fn ends(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.cli(arguments).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        said
    }

    /// Balances of the accounts that begin with a prefix.
    pub(crate) async fn balance(&self, prefix: &str) -> i64 {
        let ledger = Ledger::open_beside(&self.database).await.unwrap();
        let mut tx = ledger.read().await.unwrap();
        let accounts = tx.accounts(84_532, self.stack.contracts.splitter).await.unwrap();
        let of_it = accounts.iter().filter(|account| account.code.starts_with(prefix));
        of_it.map(|account| account.balance).sum()
    }
}

/// Runs a command of the keeper with the configuration of a daemon.
pub(crate) async fn cli(command: &str, config: &Path, stack: &Stack, arguments: &[&str]) -> Output {
    let mut process = tokio::process::Command::new(keeper());
    process.args([command, "--config"]).arg(config).args(arguments).current_dir(&stack.folder);
    process.output().await.unwrap()
}
