//! A hub that reaches the chain through a proxy that fails on demand.

use crate::support::{Draft, call, chain, eventually, invoke, keeper, stack, through};
use alloy::signers::local::PrivateKeySigner;
use keeper::chain::BlockTag;
use sandbox::{Daemon, PRICE_MICRO, RpcProxy, Stack, StackOptions};
use tokio::task::JoinHandle;

/// Micro-USDC of the payer.
const FUNDS: u64 = 100 * PRICE_MICRO;
/// Seconds for which a payment can be pulled: longer than any test takes.
const WINDOW: u64 = 600;

/// The hub, its proxy and one payer.
pub(crate) struct Rig {
    pub(crate) stack: Stack,
    pub(crate) proxy: RpcProxy,
    pub(crate) daemon: Daemon,
    pub(crate) database: String,
    pub(crate) payer: PrivateKeySigner,
    name: &'static str,
    paid: u64,
    /// Header of the last payment.
    last: String,
}

impl Rig {
    /// The proxy is the only endpoint.
    pub(crate) async fn start(name: &'static str, options: StackOptions) -> Self {
        Self::start_with(name, options, |proxy, _| format!("\"{proxy}\"")).await
    }

    /// The endpoints, made of the proxy's URL and the node's.
    pub(crate) async fn start_with(
        name: &'static str,
        options: StackOptions,
        endpoints: impl Fn(&str, &str) -> String,
    ) -> Self {
        let stack = stack(name, options).await;
        let proxy = RpcProxy::start(stack.anvil.url()).await.unwrap();
        let database = stack.sqlite();
        let endpoints = endpoints(proxy.url(), stack.anvil.url());
        let daemon = spawn(&stack, &database, &endpoints).await;
        let payer = stack.agent(FUNDS).await.unwrap();
        Self { stack, proxy, daemon, database, payer, name, paid: 0, last: String::new() }
    }

    /// Kills the daemon.
    pub(crate) async fn kill(&mut self) {
        self.daemon.signal("KILL").await.unwrap();
        self.daemon.wait().await.unwrap();
    }

    /// Starts it again; the proxy is its only endpoint.
    pub(crate) async fn restart(&mut self) {
        let endpoints = format!("\"{}\"", self.proxy.url());
        self.daemon = spawn(&self.stack, &self.database, &endpoints).await;
    }

    /// A payment that has not been used yet.
    fn draft(&self) -> Draft {
        let mut draft = Draft::new(&self.payer, self.stack.contracts.splitter);
        draft.authorization.valid_before += WINDOW - 60;
        draft
    }

    /// An agent that asks again, as it is told to, until it is served.
    pub(crate) fn buy(&mut self) -> JoinHandle<()> {
        self.paid += 1;
        self.last = self.draft().header();
        self.again()
    }

    /// The last agent comes back with the same call and payment.
    pub(crate) fn again(&self) -> JoinHandle<()> {
        let (url, body) = (self.daemon.url.clone(), call(&format!("{}-{}", self.name, self.paid)));
        let header = self.last.clone();
        tokio::spawn(async move {
            eventually("the call is served", || async {
                let answer = invoke(&url, &body, Some(&header)).await;
                assert_ne!(answer.status, 402, "it must not pay again");
                answer.status == 200
            })
            .await;
        })
    }

    /// So many agents at once, each served.
    pub(crate) async fn pay(&mut self, agents: u64) {
        let calls: Vec<_> = (0..agents).map(|_| self.buy()).collect();
        for call in calls {
            call.await.unwrap();
        }
    }

    /// Waits until the chain has grown by so many blocks.
    pub(crate) async fn blocks(&self, blocks: u64) {
        let head = || async { chain(&self.stack).head(BlockTag::Latest).await.unwrap().number() };
        let target = head().await + blocks;
        eventually("the chain grows", || async { head().await >= target }).await;
    }

    /// Everything goes well from here, and every payment is through: each pulled, recorded and
    /// booked once.
    pub(crate) async fn through(&self) {
        assert!(self.proxy.is_spent(), "a fault that was ordered never struck");
        self.proxy.heal();
        through(&self.stack, &self.database, self.paid).await;
        assert_eq!(self.stack.provider.calls(), self.paid, "each was served once");
        // To be late is all that may come of it.
        let log = self.daemon.logged();
        let called = log.lines().any(|line| {
            line.contains("ALARM") && !line.contains("X402_RECONCILER_MISMATCH_FLAGGED")
        });
        assert!(!called, "nobody needed to be called: {}", self.daemon.tail());
        assert_eq!(self.proxy.overflowed(), 0, "a pool would have refused a transaction");
    }
}

async fn spawn(stack: &Stack, database: &str, endpoints: &str) -> Daemon {
    let node = format!("\"{}\"", stack.anvil.url());
    let change = |config: String| config.replace(&node, endpoints);
    let mut daemon = stack.spawn(&keeper(), database, &[], change).await.unwrap();
    daemon.ready().await.unwrap();
    daemon
}
