//! What is wrong stops the daemon with one sentence; what does not answer is waited for; a key that
//! the contract does not obey settles nothing.

use crate::support::{Draft, call, chain, eventually, hub, invoke, keeper, now, on_chain, stack};
use keeper::chain::BlockTag;
use sandbox::{Stack, StackOptions};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

/// Exit code of a wrong configuration.
const MISCONFIGURED: i32 = 2;
/// Exit code of a trust root that does not match.
const TRUST_ROOT_MISMATCH: i32 = 3;

/// Starts a daemon with a changed configuration and returns its exit code and last line.
async fn ends(stack: &Stack, change: impl Fn(String) -> String) -> (i32, String) {
    let database = format!("sqlite:{}", stack.folder.join(format!("{}.db", now())).display());
    let mut daemon = stack.spawn(&keeper(), &database, &[], change).await.unwrap();
    let code = daemon.wait().await.unwrap();
    let last = daemon.logged().lines().last().unwrap_or_default().to_owned();
    (code, last)
}

#[tokio::test]
async fn a_wrong_configuration_stops_it_with_one_sentence() {
    let stack = &hub().await.stack;
    let splitter = stack.contracts.splitter.to_string();
    let puller = stack.puller.1.to_string();
    let replace = |from: String, to: String| {
        move |config: String| {
            assert!(config.contains(&from), "{from}");
            config.replace(&from, &to)
        }
    };
    let nobody = "0x00000000000000000000000000000000000000dd".to_owned();
    let usdc = stack.contracts.usdc.to_string();
    let treasury = stack.roles.hub_treasury.to_string();
    for (change, sentence) in [
        (
            replace("poll_interval".to_owned(), "pol_interval".to_owned()),
            "unknown field: found `pol_interval`",
        ),
        (
            replace("84532".to_owned(), "8453".to_owned()),
            "chain 8453: its rpc endpoint serves chain 84532; correct id or rpc",
        ),
        (replace(splitter.clone(), nobody), "there is no contract on chain 84532"),
        (replace(splitter, usdc), "the contract is no JecpSplitter 1.1.1"),
        (
            replace(puller, treasury),
            "is also the contract's HUB_TREASURY; give the puller a key of its own",
        ),
        (replace("catalogue.toml".to_owned(), "no-such-file.toml".to_owned()), "no-such-file.toml"),
    ] {
        let (code, last) = ends(stack, change).await;
        assert_eq!(code, MISCONFIGURED, "{sentence}: {last}");
        assert!(last.starts_with("keeper: ") && last.contains(sentence), "{sentence}: {last}");
    }
}

#[tokio::test]
async fn a_token_with_another_domain_stops_it() {
    let stack = stack("domain", StackOptions::default()).await;
    // The name is the double's first slot: a short string, its length in the last byte.
    let name = format!("0x{}{:02x}", alloy::hex::encode("Other Coin") + &"00".repeat(21), 20);
    let token = stack.contracts.usdc;
    stack.anvil.rpc("anvil_setStorageAt", json!([token, "0x0", name])).await.unwrap();
    let (code, last) = ends(&stack, |config| config).await;
    assert_eq!(code, MISCONFIGURED, "{last}");
    assert!(last.contains("its DOMAIN_SEPARATOR is not that of \"USDC\" version \"2\""), "{last}");
}

#[tokio::test]
async fn a_price_above_the_cap_stops_it() {
    let stack = stack("cap", StackOptions::default()).await;
    let expensive = |config: String| {
        // Written before the configuration is asked for.
        let path = stack.folder.join("catalogue.toml");
        let catalogue = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, catalogue.replace("$0.20", "$1000.000001")).unwrap();
        config
    };
    let (code, last) = ends(&stack, expensive).await;
    assert_eq!(code, MISCONFIGURED, "{last}");
    assert!(last.contains("is above the Splitter's PER_TX_CAP"), "{last}");
}

// ------------------------------------------------------------------------------ trust root

/// R-150, C-32: the edge lives with x402 off, no service starts, a keeper-only process ends.
#[tokio::test]
async fn a_key_that_the_contract_does_not_obey_settles_nothing() {
    let stack = stack("trust", StackOptions::default()).await;
    let (other_key, other) = stack.kms.create_key().unwrap();
    let change = |config: String| {
        config
            .replace(&stack.settler.0, &other_key)
            .replace(&stack.settler.1.to_string(), &other.to_string())
    };
    let daemon = stack.spawn(&keeper(), &stack.sqlite(), &[], change).await.unwrap();
    eventually("the mismatch is seen", || async {
        let health: Value =
            reqwest::get(format!("{}/health", daemon.url)).await.unwrap().json().await.unwrap();
        health["x402"]["trust_root"] == "mismatch" && health["status"] == "degraded"
    })
    .await;
    let ready = reqwest::get(format!("{}/readyz", daemon.url)).await.unwrap();
    assert_eq!(ready.status(), 503);

    let draft = Draft::new(&stack.agent(1_000_000).await.unwrap(), stack.contracts.splitter);
    let unpaid = invoke(&daemon.url, &call("trust-1"), None).await;
    assert_eq!(unpaid.status, 503, "no price is quoted");
    let paid = invoke(&daemon.url, &call("trust-1"), Some(&draft.header())).await;
    assert_eq!((paid.status, paid.code()), (422, "X402_NOT_ACCEPTED"));
    assert_eq!(paid.subcause(), "x402_disabled");
    assert_eq!(on_chain(&stack, &draft.authorization).await, (1_000_000, false));
    for signer in [stack.settler.1, stack.puller.1, other] {
        let count = chain(&stack).transaction_count(signer, BlockTag::Latest).await.unwrap();
        assert_eq!(count, 0, "{signer} has sent something");
    }
    drop(daemon);

    let database = format!("sqlite:{}", stack.folder.join("keeper-only.db").display());
    let arguments = ["--role", "keeper"];
    let mut daemon = stack.spawn(&keeper(), &database, &arguments, change).await.unwrap();
    assert_eq!(daemon.wait().await.unwrap(), TRUST_ROOT_MISMATCH, "{}", daemon.tail());
    assert!(daemon.tail().contains("AUTHORIZED_SETTLER"), "{}", daemon.tail());
}

// ------------------------------------------------------------------------------ waiting

/// A port on which nobody listens until `open` is called; then it leads to `target`.
struct Gate {
    port: u16,
    target: String,
}

impl Gate {
    async fn closed(target: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        Self { port, target: target.strip_prefix("http://").unwrap().to_owned() }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    async fn open(&self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let target = self.target.clone();
        tokio::spawn(async move {
            while let Ok((mut inward, _)) = listener.accept().await {
                let target = target.clone();
                tokio::spawn(async move {
                    if let Ok(mut outward) = TcpStream::connect(target).await {
                        let _ = copy_bidirectional(&mut inward, &mut outward).await;
                    }
                });
            }
        });
    }
}

/// What `/readyz` says is missing.
async fn waiting_for(url: &str) -> (u16, Value) {
    let answer = reqwest::get(format!("{url}/readyz")).await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json::<Value>().await.unwrap()["waiting_for"].clone())
}

#[tokio::test]
async fn an_unreachable_chain_or_kms_is_waited_for() {
    let stack = stack("waiting", StackOptions::default()).await;
    for (component, address) in
        [("chain 84532", stack.anvil.url().to_owned()), ("kms", stack.kms.url().to_owned())]
    {
        let gate = Gate::closed(&address).await;
        let database = format!("sqlite:{}", stack.folder.join(format!("{component}.db")).display());
        let change = |config: String| config.replace(&address, &gate.url());
        let mut daemon = stack.spawn(&keeper(), &database, &[], change).await.unwrap();
        eventually("it says what it waits for", || async {
            let (status, waiting) = waiting_for(&daemon.url).await;
            status == 503 && waiting[component].is_string()
        })
        .await;
        let unpaid = invoke(&daemon.url, &call("waiting-1"), None).await;
        assert_eq!((unpaid.status, unpaid.code()), (503, "SERVICE_DEGRADED"), "{component}");
        gate.open().await;
        daemon.ready().await.unwrap();
        assert_eq!(invoke(&daemon.url, &call("waiting-1"), None).await.status, 402);
    }
}

#[tokio::test]
async fn an_unreachable_database_is_waited_for() {
    let stack = &hub().await.stack;
    let closed = Gate::closed("http://nowhere").await;
    let database = format!("postgres://keeper@127.0.0.1:{}/hub", closed.port);
    let daemon = stack.spawn(&keeper(), &database, &[], |config| config).await.unwrap();
    eventually("it says what it waits for", || async {
        let (status, waiting) = waiting_for(&daemon.url).await;
        status == 503 && waiting["database"].is_string()
    })
    .await;
    // It stays up: this is no reason to end.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(reqwest::get(format!("{}/livez", daemon.url)).await.unwrap().status(), 200);
}

// ------------------------------------------------------------------------------ stopping

#[tokio::test]
async fn it_stops_when_asked() {
    let stack = stack("stopping", StackOptions::default()).await;
    let mut daemon = stack.daemon(&keeper(), &stack.sqlite()).await.unwrap();
    daemon.signal("TERM").await.unwrap();
    assert_eq!(daemon.wait().await.unwrap(), 0, "{}", daemon.tail());
}
