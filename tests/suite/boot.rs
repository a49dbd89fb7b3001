//! What is wrong stops the daemon with one sentence; what does not answer is waited for; a key that
//! the contract does not obey settles nothing.

use crate::support::{
    Draft, call, chain, eventually, hub, invoke, keeper, now, on_chain, stack, tools,
};
use keeper::chain::BlockTag;
use sandbox::{Anvil, AnvilOptions, Stack, StackOptions};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixStream},
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
    let other = AnvilOptions { chain_id: 31_337, ..AnvilOptions::default() };
    let other = Anvil::start(&tools(), &other).await.unwrap();
    let nobody = "0x00000000000000000000000000000000000000dd".to_owned();
    let usdc = stack.contracts.usdc.to_string();
    let treasury = stack.roles.hub_treasury.to_string();
    for (change, sentence) in [
        (
            replace("poll_interval".to_owned(), "pol_interval".to_owned()),
            "unknown field: found `pol_interval`",
        ),
        (
            replace(stack.anvil.url().to_owned(), other.url().to_owned()),
            "chain 84532: its rpc endpoint serves chain 31337; correct id or rpc",
        ),
        (
            replace("84532".to_owned(), "8453".to_owned()),
            "test_mode = true is not for chain 8453, where money is real",
        ),
        (replace(splitter.clone(), nobody), "there is no contract on chain 84532"),
        (replace(splitter, usdc), "the contract is no JecpSplitter 1.1.1"),
        (
            replace(puller, treasury),
            "is also the contract's HUB_TREASURY; give the puller a key of its own",
        ),
        (replace("catalogue.toml".to_owned(), "no-such-file.toml".to_owned()), "no-such-file.toml"),
        (replace("[http]".to_owned(), "[http".to_owned()), "TOML parse error"),
        (replace(stack.settler.0.clone(), "no-such-key".to_owned()), "correct key_id and region"),
        (replace("sqlite:/".to_owned(), "sqlite:/no-such-folder/".to_owned()), "does not exist"),
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

/// A contract that says the right name and has another code is not trusted with a record.
#[tokio::test]
async fn a_splitter_with_other_code_stops_it() {
    let stack = stack("code", StackOptions::default()).await;
    let splitter = stack.contracts.splitter;
    let mut code = chain(&stack).code(splitter).await.unwrap().to_vec();
    // Behind everything that is executed, so that it answers as before.
    code.push(0);
    stack.anvil.set_code(splitter, &code.into()).await.unwrap();
    let (code, last) = ends(&stack, |config| config).await;
    assert_eq!(code, MISCONFIGURED, "{last}");
    assert!(last.contains("its code is not the one in abi/"), "{last}");
}

/// a price that could be paid and never recorded.
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

/// C-32: the edge lives with x402 off, no service starts, a keeper-only process ends.
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

/// at each start it is tried whether an account of a facilitator could record, and written
/// down that it could not, and that the settler's key is the contract's.
#[tokio::test]
async fn accounts_of_facilitators_may_not_record() {
    let stack = stack("fleet", StackOptions::default()).await;
    let database = stack.sqlite();
    let fleet = format!("facilitator_fleet = [\"{}\"]\n", stack.roles.relayer);
    let change = |config: String| format!("{fleet}{config}");
    let mut daemon = stack.spawn(&keeper(), &database, &[], change).await.unwrap();
    daemon.ready().await.unwrap();
    let series = "x402_unauthorized_settler_simulation_total{result=\"refused\"}";
    assert_eq!(crate::support::metric(&daemon, series).await, 1);
    let logged = crate::support::tally(&database, "audit_log", "action").await;
    assert_eq!(logged["x402.unauthorized_settler_simulation"], 1);
    assert_eq!(logged["x402.trust_root_verified"], 1);
}

// ------------------------------------------------------------------------------ waiting

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A port on which nobody listens until `open` is called; then it leads to `target`, until `close`.
struct Gate {
    port: u16,
    target: String,
    closing: tokio::sync::watch::Sender<()>,
}

impl Gate {
    async fn closed(target: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let target = target.split_once("://").unwrap().1.to_owned();
        Self { port, target, closing: tokio::sync::watch::Sender::new(()) }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    async fn open(&self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let target = self.target.clone();
        let mut closed = self.closing.subscribe();
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    _ = closed.changed() => return,
                    accepted = listener.accept() => accepted,
                };
                let (mut inward, _) = accepted.unwrap();
                let (target, mut closed) = (target.clone(), closed.clone());
                tokio::spawn(async move {
                    let mut outward: Box<dyn Stream> = if target.starts_with('/') {
                        // PostgreSQL's socket lies in that folder.
                        let socket = format!("{target}/.s.PGSQL.5432");
                        Box::new(UnixStream::connect(socket).await.unwrap())
                    } else {
                        Box::new(TcpStream::connect(target).await.unwrap())
                    };
                    tokio::select! {
                        _ = closed.changed() => {}
                        _ = copy_bidirectional(&mut inward, &mut outward) => {}
                    }
                });
            }
        });
    }

    /// Cuts every connection; nobody listens any more.
    fn close(&self) {
        self.closing.send_replace(());
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
    let stack = stack("database", StackOptions::default()).await;
    let url = crate::support::postgres().await;
    let (login, place) = url.rsplit_once('@').unwrap();
    let (server, name) = place.rsplit_once('/').unwrap();
    let gate = Gate::closed(&format!("tcp://{}", server.replace("%2F", "/"))).await;
    let database = format!("{login}@127.0.0.1:{}/{name}", gate.port);
    let mut daemon = stack.spawn(&keeper(), &database, &[], |config| config).await.unwrap();
    eventually("it says what it waits for", || async {
        let (status, waiting) = waiting_for(&daemon.url).await;
        status == 503 && waiting["database"].is_string()
    })
    .await;
    // It stays up: this is no reason to end.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(reqwest::get(format!("{}/livez", daemon.url)).await.unwrap().status(), 200);
    gate.open().await;
    daemon.ready().await.unwrap();
    // And when it goes away later.
    gate.close();
    eventually("it says so again", || async {
        let (status, waiting) = waiting_for(&daemon.url).await;
        status == 503 && waiting["database"].is_string()
    })
    .await;
    gate.open().await;
    daemon.ready().await.unwrap();
    let draft = Draft::new(&stack.agent(1_000_000).await.unwrap(), stack.contracts.splitter);
    eventually("it sells again", || async {
        invoke(&daemon.url, &call("database-1"), Some(&draft.header())).await.status == 200
    })
    .await;
}

/// What was there and goes away: not ready, and nothing is reserved that could not be settled.
#[tokio::test]
async fn a_chain_or_kms_that_goes_away_closes_the_intake() {
    let stack = stack("away", StackOptions::default()).await;
    let payer = stack.agent(1_000_000).await.unwrap();
    for (component, address) in
        [("chain", stack.anvil.url().to_owned()), ("kms", stack.kms.url().to_owned())]
    {
        let gate = Gate::closed(&address).await;
        gate.open().await;
        let database = format!("sqlite:{}", stack.folder.join(format!("{component}.db")).display());
        let change = |config: String| config.replace(&address, &gate.url());
        let mut daemon = stack.spawn(&keeper(), &database, &[], change).await.unwrap();
        daemon.ready().await.unwrap();
        gate.close();
        // The first payment may be taken before anybody knows; it is pending, not lost.
        let first = Draft::new(&payer, stack.contracts.splitter);
        let calls = {
            let (url, header) = (daemon.url.clone(), first.header());
            tokio::spawn(async move { invoke(&url, &call("away-1"), Some(&header)).await })
        };
        eventually("it says what is missing", || async {
            let (status, waiting) = waiting_for(&daemon.url).await;
            status == 503 && waiting[component].is_string()
        })
        .await;
        assert_eq!(calls.await.unwrap().status, 503, "{component}");
        let second = Draft::new(&payer, stack.contracts.splitter);
        let refused = invoke(&daemon.url, &call("away-2"), Some(&second.header())).await;
        assert_eq!((refused.status, refused.code()), (503, "SERVICE_DEGRADED"), "{refused:?}");
        let row = crate::support::settlement_of(&database, &second.authorization).await;
        assert!(row.is_none(), "{component}: reserved");
        gate.open().await;
        daemon.ready().await.unwrap();
        eventually("it sells again", || async {
            invoke(&daemon.url, &call("away-1"), Some(&first.header())).await.status == 200
        })
        .await;
    }
}

// ------------------------------------------------------------------------------ stopping

#[tokio::test]
async fn it_stops_when_asked() {
    let stack = stack("stopping", StackOptions::default()).await;
    let mut daemon = stack.daemon(&keeper(), &stack.sqlite()).await.unwrap();
    daemon.signal("TERM").await.unwrap();
    assert_eq!(daemon.wait().await.unwrap(), 0, "{}", daemon.tail());
}
