//! What the tests share: where things are, both databases, a payer, a way to call.

use alloy::{
    primitives::{Address, B256, U256},
    rpc::types::Filter,
    signers::local::PrivateKeySigner,
    sol_types::SolCall,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use keeper::{
    chain::{BlockTag, Chain},
    eip3009::{Authorization, FiatToken, Terms, domain, sign},
    failpoint::Point,
    ledger::{
        Ledger, NewIntent, NewSettlement, Reservation, Sale, Settlement, SettlementQuery,
        SplitterRecord,
    },
    lifecycle::{IntentKind, KeeperState, Mode, Status, StatusEvent},
    reconciler::{Reconciliation, reconcile},
    splitter::{SplitTerms, SplitterEvent, capability_id, recorded_identity},
    x402::{MicroUsdc, Network, SignedAuthorization, Version},
};
use sandbox::{Daemon, PRICE_MICRO, Postgres, Stack, StackOptions, Tools};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    future::Future,
    path::{Path, PathBuf},
    process::Output,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::OnceCell, time::Instant};

/// Where a test's own commits are, as failpoints go: nowhere.
pub(crate) const HERE: Point = Point::Enter;
/// How long anything may take on a busy machine before a test gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(150);

/// The journals that book a log and are not reversed.
pub(crate) const BOOKED: &str = "journals WHERE reverses IS NULL
    AND id NOT IN (SELECT reverses FROM journals WHERE reverses IS NOT NULL)";

/// The checkout.
pub(crate) fn tools() -> Tools {
    Tools::find(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The keeper that was built with these tests.
pub(crate) fn keeper() -> PathBuf {
    let suite = env::current_exe().unwrap();
    let binary = suite.parent().and_then(Path::parent).unwrap().join("keeper");
    assert!(binary.exists(), "{} is missing: run `make test`", binary.display());
    binary
}

/// A name that no other test of any run has.
pub(crate) fn unique(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}_{}_{count}", std::process::id())
}

/// A folder of this test's own in `target/`, emptied by `cargo clean`.
pub(crate) fn folder(name: &str) -> PathBuf {
    tools().root().join("target/suite").join(unique(name))
}

/// A stack of this test's own, with demo/echo registered.
pub(crate) async fn stack(name: &str, options: StackOptions) -> Stack {
    let stack = Stack::start(&tools(), &folder(name), options).await.unwrap();
    stack.register().await.unwrap();
    stack
}

/// A fresh database on the throwaway PostgreSQL that all tests share, or on the server that
/// TEST_DATABASE_URL names.
pub(crate) async fn postgres() -> String {
    static SERVER: OnceCell<Option<Postgres>> = OnceCell::const_new();
    let external = env::var("TEST_DATABASE_URL").ok();
    let server = SERVER
        .get_or_init(|| async {
            match external {
                Some(_) => None,
                None => Some(on_a_runtime_of_its_own(async { Postgres::start(&tools()).await })),
            }
        })
        .await;
    let name = unique("keeper");
    let (admin, url) = match server {
        Some(server) => (server.url("postgres"), server.url(&name)),
        None => {
            let admin = env::var("TEST_DATABASE_URL").unwrap();
            let (base, _) = admin.rsplit_once('/').unwrap();
            (admin.clone(), format!("{base}/{name}"))
        }
    };
    let pool = sqlx::PgPool::connect(&admin).await.unwrap();
    let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx::query(create).execute(&pool).await.unwrap();
    url
}

/// A copy of a database that nobody has open, on the same server or beside the same file.
pub(crate) async fn copy_of(database: &str) -> String {
    if let Some(path) = database.strip_prefix("sqlite:") {
        let copy = format!("{path}.{}", unique("copy"));
        for part in ["", "-wal", "-shm"] {
            if Path::new(&format!("{path}{part}")).exists() {
                std::fs::copy(format!("{path}{part}"), format!("{copy}{part}")).unwrap();
            }
        }
        return format!("sqlite:{copy}");
    }
    let (base, name) = database.rsplit_once('/').unwrap();
    let copy = unique("copy");
    let pool = sqlx::PgPool::connect(&format!("{base}/postgres")).await.unwrap();
    // A connection that was just closed counts for a moment longer.
    eventually("the database is copied", || async {
        let create = format!("CREATE DATABASE {copy} TEMPLATE {name}");
        sqlx::query(sqlx::AssertSqlSafe(create)).execute(&pool).await.is_ok()
    })
    .await;
    format!("{base}/{copy}")
}

/// A PostgreSQL database that was used before, without anything in it.
pub(crate) async fn on_a_fresh_schema(url: &str) -> String {
    tamper(url, "DROP SCHEMA IF EXISTS jecp CASCADE").await.unwrap();
    url.to_owned()
}

/// A hub that the tests share which only look at it from outside: a daemon on SQLite.
pub(crate) struct Hub {
    pub(crate) stack: Stack,
    pub(crate) daemon: Daemon,
    pub(crate) database: String,
}

/// The shared hub.
pub(crate) async fn hub() -> &'static Hub {
    static HUB: OnceCell<Hub> = OnceCell::const_new();
    HUB.get_or_init(|| async {
        on_a_runtime_of_its_own(async {
            let stack = stack("hub", StackOptions::default()).await;
            let database = stack.sqlite();
            let daemon = stack.daemon(&keeper(), &database).await?;
            Ok(Hub { stack, daemon, database })
        })
    })
    .await
}

/// Whatever watches the server's output must outlive the test that happened to start it.
pub(crate) fn on_a_runtime_of_its_own<T: Send + 'static>(
    future: impl Future<Output = eyre::Result<T>> + Send + 'static,
) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        sender.send(runtime.block_on(future)).unwrap();
        runtime.block_on(std::future::pending::<()>());
    });
    receiver.recv().unwrap().unwrap()
}

/// Waits until `check` says yes; says what it waited for when it does not.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !check().await {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A good payment of demo/echo, to be spoilt.
pub(crate) struct Draft {
    pub(crate) payer: PrivateKeySigner,
    pub(crate) authorization: SignedAuthorization,
    pub(crate) network: &'static str,
    pub(crate) scheme: &'static str,
    pub(crate) version: u64,
}

impl Draft {
    pub(crate) fn new(payer: &PrivateKeySigner, splitter: Address) -> Self {
        Self {
            payer: payer.clone(),
            authorization: SignedAuthorization {
                from: payer.address(),
                to: splitter,
                value: U256::from(sandbox::PRICE_MICRO),
                valid_after: now() - 600,
                valid_before: now() + 60,
                nonce: B256::random(),
            },
            network: "base-sepolia",
            scheme: "exact",
            version: 1,
        }
    }

    /// 65 bytes over what the authorization says now.
    pub(crate) fn signature(&self) -> Vec<u8> {
        let domain = domain(&Network::BaseSepolia.usdc(), 84_532);
        sign(&self.payer, &self.authorization, &domain).unwrap().to_vec()
    }

    /// The header's JSON with a signature of its own.
    pub(crate) fn json(&self) -> Value {
        self.json_signed(&self.signature())
    }

    pub(crate) fn json_signed(&self, signature: &[u8]) -> Value {
        json!({
            "x402Version": self.version,
            "scheme": self.scheme,
            "network": self.network,
            "payload": {
                "signature": alloy::hex::encode_prefixed(signature),
                "authorization": self.authorization,
            },
        })
    }

    /// The X-PAYMENT header.
    pub(crate) fn header(&self) -> String {
        encode(&self.json())
    }
}

/// JSON as a payment header carries it.
pub(crate) fn encode(json: &Value) -> String {
    BASE64_STANDARD.encode(json.to_string())
}

/// A call of demo/echo.
pub(crate) fn call(id: &str) -> Value {
    json!({"jecp": "1.0", "id": id, "capability": "demo/echo", "action": "echo",
           "input": {"id": id}})
}

/// What a call was answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// Code of the error.
    pub(crate) fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    /// Subcause of the error.
    pub(crate) fn subcause(&self) -> &str {
        self.body["error"]["details"]["subcause"].as_str().unwrap_or_default()
    }

    /// A header as text.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The receipt of x402 v1.
    pub(crate) fn receipt(&self) -> Value {
        let text = BASE64_STANDARD.decode(self.header("x-payment-response")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }
}

/// The settlement of a payment, if the ledger has one.
pub(crate) async fn settlement_of(
    database: &str,
    authorization: &SignedAuthorization,
) -> Option<Settlement> {
    let ledger = Ledger::open_beside(database).await.unwrap();
    let asset = Network::BaseSepolia.usdc().address;
    let mut tx = ledger.read().await.unwrap();
    tx.settlement_by_identity(84_532, asset, authorization.from, authorization.nonce).await.unwrap()
}

/// What the chain has: an account's micro-USDC, and whether an authorization nonce is used.
pub(crate) async fn on_chain(stack: &Stack, authorization: &SignedAuthorization) -> (u64, bool) {
    let chain = chain(stack);
    let usdc = stack.contracts.usdc;
    let balance = FiatToken::balanceOfCall { account: authorization.from };
    let state = FiatToken::authorizationStateCall {
        authorizer: authorization.from,
        nonce: authorization.nonce,
    };
    let balance = chain.call(usdc, &balance, BlockTag::Latest).await.unwrap();
    let used = chain.call(usdc, &state, BlockTag::Latest).await.unwrap();
    (u64::try_from(balance).unwrap(), used)
}

/// A stack's chain.
pub(crate) fn chain(stack: &Stack) -> Chain {
    Chain::new(&[stack.anvil.url().parse().unwrap()]).unwrap()
}

/// Sends a call from an account of which anvil does not have the key.
pub(crate) async fn send_as(stack: &Stack, from: Address, to: Address, call: impl SolCall) {
    stack.anvil.set_balance(from, U256::from(10u64.pow(18))).await.unwrap();
    stack.anvil.rpc("anvil_impersonateAccount", json!([from])).await.unwrap();
    stack.anvil.send(from, to, &call.abi_encode().into()).await.unwrap();
}

/// Calls a hub, with or without payment.
pub(crate) async fn invoke(url: &str, body: &Value, payment: Option<&str>) -> Answer {
    let payment = payment.map(|payment| ("x-payment", payment));
    invoke_with(url, body, payment.as_slice()).await
}

/// Calls a hub with headers of the test's own.
pub(crate) async fn invoke_with(url: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
    let client = reqwest::Client::new();
    let mut request = client.post(format!("{url}/v1/invoke")).json(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.json().await.unwrap_or(Value::Null),
    }
}

/// Runs SQL as somebody who has the database's password.
pub(crate) async fn tamper(url: &str, sql: &str) -> Result<(), sqlx::Error> {
    use sqlx::ConnectOptions;
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    if url.starts_with("postgres") {
        let options: sqlx::postgres::PgConnectOptions = url.parse()?;
        let mut connection = options.options([("search_path", "jecp")]).connect().await?;
        sqlx::query(sql).execute(&mut connection).await.map(drop)
    } else {
        let options: sqlx::sqlite::SqliteConnectOptions = url.parse()?;
        let mut connection =
            options.pragma("recursive_triggers", "ON").foreign_keys(true).connect().await?;
        sqlx::query(sql).execute(&mut connection).await.map(drop)
    }
}

/// How often each word stands in a column of a table.
pub(crate) async fn tally(url: &str, table: &str, column: &str) -> BTreeMap<String, i64> {
    let sql = format!("SELECT {column}, count(*) FROM {table} GROUP BY {column}");
    let sql = sqlx::AssertSqlSafe(sql);
    let rows: Vec<(String, i64)> = if url.starts_with("postgres") {
        let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
        let options = options.options([("search_path", "jecp")]);
        let pool = sqlx::PgPool::connect_with(options).await.unwrap();
        sqlx::query_as(sql).fetch_all(&pool).await.unwrap()
    } else {
        let pool = sqlx::SqlitePool::connect(url).await.unwrap();
        sqlx::query_as(sql).fetch_all(&pool).await.unwrap()
    };
    rows.into_iter().collect()
}

/// A stack's Splitter as the ledger enters it.
pub(crate) fn splitter_record(stack: &Stack) -> SplitterRecord {
    SplitterRecord {
        chain_id: 84_532,
        address: stack.contracts.splitter,
        asset: stack.contracts.usdc,
        hub_treasury: stack.roles.hub_treasury,
        network_reserve: stack.roles.network_reserve,
        authorized_settler: stack.settler.1,
        per_tx_cap: MicroUsdc::ZERO,
        first_block: 0,
    }
}

/// The ledger's and the chain's word, side by side.
pub(crate) async fn reconciled(stack: &Stack, database: &str) -> Reconciliation {
    let ledger = Ledger::open_beside(database).await.unwrap();
    reconcile(&ledger, &chain(stack), &splitter_record(stack)).await.unwrap()
}

/// Every settlement of a stack's Splitter.
pub(crate) async fn settlements(stack: &Stack, database: &str) -> Vec<Settlement> {
    let ledger = Ledger::open_beside(database).await.unwrap();
    let mut tx = ledger.read().await.unwrap();
    let splitter = stack.contracts.splitter;
    tx.settlements(84_532, splitter, SettlementQuery::All).await.unwrap()
}

/// Waits until so many payments are split and ledger and chain agree, whatever became of others.
pub(crate) async fn sound(stack: &Stack, database: &str, split: u64) {
    eventually("everything is split and agrees", || async {
        let report = reconciled(stack, database).await;
        report.totals.split == split && report.totals.confirmed >= split && report.is_sound()
    })
    .await;
}

/// Waits until all payments are through and everything agrees: each pulled, recorded and booked
/// once, and nothing more happens.
pub(crate) async fn through(stack: &Stack, database: &str, payments: u64) {
    sound(stack, database, payments).await;
    let all = settlements(stack, database).await;
    assert_eq!(all.len() as u64, payments);
    assert!(all.iter().all(|settlement| settlement.status == Status::ChainConfirmed
        && settlement.keeper_state == KeeperState::Split));
    let report = reconciled(stack, database).await;
    assert_eq!(report.totals.paid_micro, payments * PRICE_MICRO);
    let splits: BTreeSet<_> =
        all.iter().map(|settlement| settlement.split).map(|split| split.unwrap().tx_hash).collect();
    let sent = || async {
        let chain = chain(stack);
        let puller = chain.transaction_count(stack.puller.1, BlockTag::Latest).await.unwrap();
        (puller, chain.transaction_count(stack.settler.1, BlockTag::Latest).await.unwrap())
    };
    let once = (payments, payments + splits.len() as u64);
    assert_eq!(sent().await, once, "one pull and one record each, and the splits");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(sent().await, once, "nothing more");
    let journals = tally(database, BOOKED, "kind").await;
    let booked = |kind: &str| u64::try_from(journals.get(kind).copied().unwrap_or(0)).unwrap();
    assert_eq!(
        [booked("pull"), booked("record"), booked("split"), booked("unexplained")],
        [payments, payments, splits.len() as u64, 0]
    );
}

/// `keeper audit` finds nothing wrong with a ledger, whatever it went through.
pub(crate) async fn audited(config: &Path, database: &str) {
    let mut command = tokio::process::Command::new(keeper());
    command.args(["audit", "--config"]).arg(config).env("KEEPER_DATABASE", database);
    let output = command.output().await.unwrap();
    let told = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{}{}", told.0, told.1);
}

/// Runs `keeper tx` with the configuration of a daemon.
pub(crate) async fn command(config: &Path, stack: &Stack, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(keeper());
    command.args(["tx", "--config"]).arg(config).args(arguments).current_dir(&stack.folder);
    command.output().await.unwrap()
}

/// Runs `keeper flags` with the configuration of a daemon.
pub(crate) async fn flags(config: &Path, stack: &Stack, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(keeper());
    command.args(["flags", "--config"]).arg(config).args(arguments).current_dir(&stack.folder);
    command.output().await.unwrap()
}

/// One number of `/metrics`; 0 when nothing was counted.
pub(crate) async fn metric(daemon: &Daemon, series: &str) -> u64 {
    let answer = reqwest::get(format!("{}/metrics", daemon.url)).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = answer.text().await.unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap())
}

/// Runs `keeper db` on a database, with the shared hub's configuration otherwise.
pub(crate) async fn db(database: &str, arguments: &[&str]) -> Output {
    tokio::process::Command::new(keeper())
        .arg("db")
        .args(arguments)
        .arg("--config")
        .arg(&hub().await.daemon.config)
        .env("KEEPER_DATABASE", database)
        .output()
        .await
        .unwrap()
}

/// Everything that a stack's Splitter has said, with the identities of its records.
pub(crate) async fn splitter_logs(stack: &Stack) -> Vec<(SplitterEvent, Option<B256>)> {
    let chain = chain(stack);
    let head = chain.head(BlockTag::Latest).await.unwrap().number();
    let filter = Filter::new().address(stack.contracts.splitter);
    let mut found = Vec::new();
    for log in chain.logs(&filter, 0, head).await.unwrap() {
        let Some(event) = SplitterEvent::decode(&log.inner) else { continue };
        let transaction = chain.transaction(log.transaction_hash.unwrap()).await.unwrap().unwrap();
        let identity = recorded_identity(&transaction.input);
        found.push((event, identity.map(|identity| identity.nonce)));
    }
    found
}

/// A verified payment for a request, as the edge hands it to the ledger.
pub(crate) fn new_settlement(
    draft: &Draft,
    terms: SplitTerms,
    request: &str,
    content: u8,
) -> NewSettlement {
    let asset = Network::BaseSepolia.usdc();
    let amount = MicroUsdc::new(PRICE_MICRO).unwrap();
    let authorization = Authorization::new(draft.authorization.clone(), draft.signature().into())
        .verify(
            &Terms {
                domain: domain(&asset, 84_532),
                pay_to: draft.authorization.to,
                amount,
                longest: 660,
            },
            now(),
        )
        .unwrap();
    NewSettlement {
        chain_id: 84_532,
        splitter: draft.authorization.to,
        asset: asset.address,
        amount,
        mode: Mode::SelfPull,
        version: Version::V1,
        sale: Some(Sale {
            capability_id: "demo/echo".to_owned(),
            splitter_capability_id: capability_id("demo", "echo"),
            terms,
        }),
        agent_id: authorization.payer().to_string().to_lowercase(),
        request_id: request.to_owned(),
        content_hash: B256::repeat_byte(content),
        payment_hash: draft.authorization.nonce,
        authorization,
    }
}

/// Reserves a payment past the edge, which would look at the chain first; with or without its pull.
pub(crate) async fn smuggle(stack: &Stack, database: &str, draft: &Draft, with_pull: bool) {
    let bps = [8_500, 1_000, 500];
    let terms = SplitTerms { provider: stack.provider_account, bps };
    let new = new_settlement(draft, terms, &unique("smuggled"), 1);
    let ledger = Ledger::open_beside(database).await.unwrap();
    let mut tx = ledger.begin().await.unwrap();
    let Reservation::Reserved(settlement) = tx.reserve(&new).await.unwrap() else {
        panic!("not reserved");
    };
    tx.step_status(&settlement, StatusEvent::Settle, &json!({})).await.unwrap();
    if with_pull {
        tx.add_intent(&NewIntent {
            chain_id: 84_532,
            splitter: new.splitter,
            signer: stack.puller.1,
            kind: IntentKind::Pull,
            settlement: Some(settlement.id),
            splitter_capability_id: capability_id("demo", "echo"),
            to: new.asset,
            calldata: new.authorization.pull_call(capability_id("demo", "echo")),
            gas_limit: 250_000,
            valid_before: Some(new.authorization.valid_before()),
        })
        .await
        .unwrap();
    }
    tx.commit(HERE).await.unwrap();
}
