//! Who can pay: keys, contracts (ERC-1271), keys that delegate to contracts (EIP-7702), and contracts
//! that are not deployed (ERC-6492). Each pays once or not at all, whatever its code says when.

use crate::support::{
    Answer, Draft, call, chain, encode, eventually, invoke, keeper, on_chain, settlement_of,
    settlements, sound, stack, tally, through, tools,
};
use alloy::{
    primitives::{Address, B256, Bytes, Signature, U256, b256},
    signers::local::PrivateKeySigner,
    sol,
    sol_types::{SolCall, SolValue},
};
use keeper::{
    chain::{BlockTag, Chain, ChainError, Read, Reader},
    eip3009::{FiatToken, MULTICALL3, Multicall3},
};
use sandbox::{PRICE_MICRO, ScriptedRpc, Stack, StackOptions, create};
use serde_json::{Value, json};
use std::time::Duration;

/// Micro-USDC of every test's payer.
const FUNDS: u64 = 1_000_000;
/// What ends an ERC-6492 signature.
const SUFFIX: B256 = b256!("0x6492649264926492649264926492649264926492649264926492649264926492");

sol! {
    function setMood(uint8 mood);
    function deploy(address owner, bytes32 salt) returns (address);
    function predict(address owner, bytes32 salt) view returns (address);
}

/// How a ContractPayer behaves.
#[derive(Debug, Clone, Copy)]
enum Mood {
    Slow = 1,
    Rejecting,
    BurningGas,
    RevertingWithMuchData,
    RevertingWithYes = 6,
    AnsweringInFourBytes,
}

async fn set_mood(stack: &Stack, wallet: Address, mood: u8) {
    let from = stack.anvil.first_account().await.unwrap();
    let call = setMoodCall { mood }.abi_encode().into();
    stack.anvil.send(from, wallet, &call).await.unwrap();
}

/// A wallet with money, and a payment that its owner signs.
async fn wallet(stack: &Stack) -> Draft {
    let owner = PrivateKeySigner::random();
    let arguments = owner.address().abi_encode();
    let wallet = create(&tools(), &stack.anvil, "ContractPayer", &arguments).await.unwrap();
    stack.contracts.mint(&stack.anvil, wallet, FUNDS).await.unwrap();
    paid_by(stack, &owner, wallet)
}

fn paid_by(stack: &Stack, owner: &PrivateKeySigner, payer: Address) -> Draft {
    let mut draft = Draft::new(owner, stack.contracts.splitter);
    draft.authorization.from = payer;
    draft
}

async fn send(url: &str, id: &str, draft: &Draft, signature: &[u8]) -> Answer {
    invoke(url, &call(id), Some(&encode(&draft.json_signed(signature)))).await
}

/// Asserts that a payment is refused for its signature and leaves no row and no money behind.
async fn refused(stack: &Stack, url: &str, what: &str, draft: &Draft, signature: &[u8]) {
    let answer = send(url, "refused-1", draft, signature).await;
    assert_eq!(
        (answer.status, answer.subcause()),
        (422, "signature_invalid"),
        "{what}: {answer:?}"
    );
    assert!(settlement_of(&stack.sqlite(), &draft.authorization).await.is_none(), "{what}: a row");
    assert_eq!(on_chain(stack, &draft.authorization).await, (FUNDS, false), "{what}: money");
}

/// Asserts that a payment is served and taken from the payer once.
async fn served(stack: &Stack, url: &str, id: &str, draft: &Draft, signature: &[u8]) {
    let answer = send(url, id, draft, signature).await;
    assert_eq!(answer.status, 200, "{id}: {answer:?}");
    let payer: Address = serde_json::from_value(answer.receipt()["payer"].clone()).unwrap();
    assert_eq!(payer, draft.authorization.from, "{id}");
    let left = on_chain(stack, &draft.authorization).await;
    assert_eq!(left, (FUNDS - PRICE_MICRO, true), "{id}");
}

// ------------------------------------------------------------------------------ ERC-1271

/// A contract pays with whatever its code takes: 65 bytes of its owner, or more. The same again is the
/// same answer, also when the wallet has changed its mind; a stranger who forges gets nothing.
#[tokio::test]
async fn a_contract_wallet_pays_once() {
    let stack = stack("wallet", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let first = wallet(&stack).await;
    served(&stack, &daemon.url, "wallet-1", &first, &first.signature()).await;
    let second = wallet(&stack).await;
    let wrapped = (U256::ZERO, Bytes::from(second.signature())).abi_encode_params();
    served(&stack, &daemon.url, "wallet-2", &second, &wrapped).await;

    let again = send(&daemon.url, "wallet-1", &first, &first.signature()).await;
    assert_eq!((again.status, &again.body["replayed"]), (200, &json!(true)), "{again:?}");
    let other = send(&daemon.url, "wallet-3", &first, &first.signature()).await;
    assert_eq!((other.status, other.code()), (409, "X402_SETTLEMENT_REUSED"), "{other:?}");
    let forged = send(&daemon.url, "wallet-1", &first, &[7; 65]).await;
    assert_eq!((forged.status, forged.subcause()), (422, "signature_invalid"), "{forged:?}");
    set_mood(&stack, first.authorization.from, Mood::Rejecting as u8).await;
    let late = send(&daemon.url, "wallet-1", &first, &first.signature()).await;
    assert_eq!((late.status, &late.body["replayed"]), (200, &json!(true)), "{late:?}");
    assert_eq!(stack.provider.calls(), 2);
    through(&stack, &database, 2).await;
}

/// Code that says no, or says yes in a way that the token does not take, or takes more gas than a pull
/// has. C-48: a key's signature of any other form is for the payer's code, and a key has none.
#[tokio::test]
async fn consent_that_the_token_would_not_take_is_none() {
    let stack = stack("no-consent", StackOptions::default()).await;
    let daemon = stack.daemon(&keeper(), &stack.sqlite()).await.unwrap();
    let draft = wallet(&stack).await;
    for mood in [
        Mood::Slow,
        Mood::Rejecting,
        Mood::BurningGas,
        Mood::RevertingWithMuchData,
        Mood::RevertingWithYes,
        Mood::AnsweringInFourBytes,
    ] {
        set_mood(&stack, draft.authorization.from, mood as u8).await;
        let what = format!("{mood:?}");
        refused(&stack, &daemon.url, &what, &draft, &draft.signature()).await;
    }
    set_mood(&stack, draft.authorization.from, 0).await;
    let good = Signature::from_raw(&draft.signature()).unwrap();
    let order = U256::from_be_bytes(
        b256!("0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141").0,
    );
    let high = Signature::new(good.r(), order - good.s(), !good.v());
    refused(&stack, &daemon.url, "its owner's high s", &draft, &high.as_bytes()).await;
    refused(&stack, &daemon.url, "nothing", &draft, &[]).await;
    refused(&stack, &daemon.url, "too long", &draft, &[0; 2_049]).await;

    let payer = stack.agent(FUNDS).await.unwrap();
    let key = Draft::new(&payer, stack.contracts.splitter);
    let wrapped = (U256::ZERO, Bytes::from(key.signature())).abi_encode_params();
    refused(&stack, &daemon.url, "a key's, wrapped", &key, &wrapped).await;
    served(&stack, &daemon.url, "consent-1", &draft, &draft.signature()).await;
}

/// A wallet that consents when it is asked and not when it is pulled: the payment ends with its window,
/// nothing moved, and the hub goes on.
#[tokio::test]
async fn a_wallet_that_changes_its_mind_pays_nothing() {
    let stack = stack("changes-mind", StackOptions::default()).await;
    let database = stack.sqlite();
    let patience =
        |config: String| config.replace("settle_timeout = \"20s\"", "settle_timeout = \"2s\"");
    let mut daemon = stack.spawn(&keeper(), &database, &[], patience).await.unwrap();
    daemon.ready().await.unwrap();
    let mut draft = wallet(&stack).await;
    draft.authorization.valid_before = crate::support::now() + 20;
    let signature = draft.signature();
    // The pull is executed, found good, and waits for KMS meanwhile.
    stack.kms.take(Duration::from_secs(4));
    let answer = send(&daemon.url, "mind-1", &draft, &signature).await;
    assert!([202, 503].contains(&answer.status), "{answer:?}");
    set_mood(&stack, draft.authorization.from, Mood::Rejecting as u8).await;
    stack.kms.take(Duration::ZERO);
    eventually("the payment is over", || async {
        let settlement = settlement_of(&database, &draft.authorization).await.unwrap();
        settlement.status.is_void()
    })
    .await;
    assert_eq!(on_chain(&stack, &draft.authorization).await, (FUNDS, false));
    assert_eq!(stack.provider.calls(), 0);
    let next = wallet(&stack).await;
    served(&stack, &daemon.url, "mind-2", &next, &next.signature()).await;
}

// ------------------------------------------------------------------------------ EIP-7702

/// A key that delegates is asked by its code, as the token asks it: a good signature is worth nothing
/// when the code does not know it.
#[tokio::test]
async fn a_delegated_key_pays_if_its_code_consents() {
    let stack = stack("delegated", StackOptions::default()).await;
    let database = stack.sqlite();
    let daemon = stack.daemon(&keeper(), &database).await.unwrap();
    let delegate = async |payer: &PrivateKeySigner, to: Address| {
        let code = Bytes::from([&[0xef, 0x01, 0x00], to.as_slice()].concat());
        stack.anvil.set_code(payer.address(), &code).await.unwrap();
    };
    let payer = stack.agent(FUNDS).await.unwrap();
    let draft = Draft::new(&payer, stack.contracts.splitter);
    delegate(&payer, stack.contracts.splitter).await;
    refused(&stack, &daemon.url, "code without ERC-1271", &draft, &draft.signature()).await;
    // Its owner is the key itself.
    let arguments = payer.address().abi_encode();
    let code = create(&tools(), &stack.anvil, "ContractPayer", &arguments).await.unwrap();
    delegate(&payer, code).await;
    served(&stack, &daemon.url, "delegated-1", &draft, &draft.signature()).await;
    through(&stack, &database, 1).await;
}

// ------------------------------------------------------------------------------ ERC-6492

/// A payment of a wallet that its factory has not deployed, and its signature.
async fn undeployed(stack: &Stack, factory: Address) -> (Draft, Vec<u8>) {
    let (owner, salt) = (PrivateKeySigner::random(), B256::random());
    let predict = predictCall { owner: owner.address(), salt };
    let payer = chain(stack).call(factory, &predict, BlockTag::Latest).await.unwrap();
    stack.contracts.mint(&stack.anvil, payer, FUNDS).await.unwrap();
    let draft = paid_by(stack, &owner, payer);
    let deploy = Bytes::from(deployCall { owner: owner.address(), salt }.abi_encode());
    let body = (factory, deploy, Bytes::from(draft.signature())).abi_encode_params();
    (draft, [body.as_slice(), SUFFIX.as_slice()].concat())
}

/// Deployed by its first payment, in the same transaction, by a factory that the operator named; and
/// the ledger reads that transaction back from the chain.
#[tokio::test]
async fn an_undeployed_wallet_is_deployed_by_its_payment() {
    let stack = stack("undeployed", StackOptions::default()).await;
    let database = stack.sqlite();
    let factory = create(&tools(), &stack.anvil, "WalletFactory", &[]).await.unwrap();
    let foreign = create(&tools(), &stack.anvil, "WalletFactory", &[]).await.unwrap();
    let named = |config: String| {
        config.replace("id = 84532", &format!("id = 84532\nsignature_factories = [\"{factory}\"]"))
    };
    let mut daemon = stack.spawn(&keeper(), &database, &[], named).await.unwrap();
    daemon.ready().await.unwrap();

    let (draft, signature) = undeployed(&stack, foreign).await;
    refused(&stack, &daemon.url, "a foreign factory", &draft, &signature).await;
    let (draft, signature) = undeployed(&stack, factory).await;
    refused(&stack, &daemon.url, "without its deployment", &draft, &draft.signature()).await;
    let (other, _) = undeployed(&stack, factory).await;
    refused(&stack, &daemon.url, "another wallet's deployment", &other, &signature).await;

    served(&stack, &daemon.url, "undeployed-1", &draft, &signature).await;
    let code = chain(&stack).code(draft.authorization.from).await.unwrap();
    assert!(!code.is_empty(), "the wallet is there");
    let again = send(&daemon.url, "undeployed-1", &draft, &signature).await;
    assert_eq!((again.status, &again.body["replayed"]), (200, &json!(true)), "{again:?}");

    // Somebody else was faster with the deployment: what is wrapped is taken out.
    let (faster, signature) = undeployed(&stack, factory).await;
    let outer = &signature[..signature.len() - SUFFIX.len()];
    let (_, deploy, _) = <(Address, Bytes, Bytes)>::abi_decode_params(outer).unwrap();
    let stranger = stack.anvil.first_account().await.unwrap();
    stack.anvil.send(stranger, factory, &deploy).await.unwrap();
    served(&stack, &daemon.url, "undeployed-2", &faster, &signature).await;
    through(&stack, &database, 2).await;

    let config = daemon.config.clone();
    drop(daemon);
    let rebuilt = format!("sqlite:{}", stack.folder.join("rebuilt.db").display());
    let output = std::process::Command::new(keeper())
        .args(["rebuild", "--into", &rebuilt, "--config"])
        .arg(&config)
        .env("KEEPER_DATABASE", &database)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    sound(&stack, &rebuilt, 2).await;
    for settlement in settlements(&stack, &rebuilt).await {
        assert_eq!(settlement.capability_id.as_deref(), Some("demo/echo"));
    }
    let own = tally(&rebuilt, "x402_settlements", "mode").await;
    assert_eq!(own.get("self"), Some(&2), "both are read as our own pulls: {own:?}");
}

// ------------------------------------------------------------------------------ shared reads

/// What a node of a chain with Multicall3 answers; every balance is 7, and a view of nobody reverts.
fn together(method: &str, params: &Value) -> Value {
    match method {
        "eth_getCode" => json!({"result": "0x01"}),
        "eth_call" => {
            let input: Bytes = serde_json::from_value(params[0]["input"].clone()).unwrap();
            let batch = Multicall3::aggregate3Call::abi_decode(&input).unwrap();
            let answer = |call: &Multicall3::Call3| Multicall3::Result {
                success: call.target != Address::ZERO,
                returnData: U256::from(7).abi_encode().into(),
            };
            let answers: Vec<_> = batch.calls.iter().map(answer).collect();
            json!({"result": Bytes::from(Multicall3::aggregate3Call::abi_encode_returns(&answers))})
        }
        _ => json!({"error": {"code": -32601, "message": "method not found"}}),
    }
}

fn balance_of(account: u8) -> Read {
    let call = FiatToken::balanceOfCall { account: Address::repeat_byte(account) };
    Read::view(Address::repeat_byte(1), &call)
}

/// A hundred requests at once are one call, each has its own answers, and one that fails is one.
#[tokio::test]
async fn reads_of_many_requests_share_a_call() {
    let node = ScriptedRpc::start(together).await.unwrap();
    let reader = Reader::start(Chain::new(&[node.url().parse().unwrap()]).unwrap());
    let nobody = Read::view(Address::ZERO, &FiatToken::pausedCall {});
    let requests =
        (0..100).map(|n| reader.read(vec![balance_of(n), nobody.clone(), balance_of(0)]));
    for answers in futures::future::join_all(requests).await {
        let answers = answers.unwrap();
        assert_eq!(answers.len(), 3);
        assert_eq!(answers[0].as_ref().unwrap(), &U256::from(7).abi_encode());
        assert!(matches!(answers[1], Err(ChainError::Reverted { .. })));
    }
    assert_eq!(node.asked(), ["eth_getCode", "eth_call"], "{MULTICALL3} once, and one call");
}

/// Where there is no Multicall3, and where the node wants no batch, each is read by itself.
#[tokio::test]
async fn without_multicall_each_is_read_by_itself() {
    let lone = |with_code: bool| {
        move |method: &str, params: &Value| match method {
            "eth_getCode" if with_code => json!({"result": "0x01"}),
            "eth_getCode" => json!({"result": "0x"}),
            _ if params[0]["to"] == json!(MULTICALL3) => {
                json!({"error": {"code": -32000, "message": "too large"}})
            }
            _ => json!({"result": Bytes::from(U256::from(7).abi_encode())}),
        }
    };
    for with_code in [false, true] {
        let node = ScriptedRpc::start(lone(with_code)).await.unwrap();
        let reader = Reader::start(Chain::new(&[node.url().parse().unwrap()]).unwrap());
        let answers = reader.read(vec![balance_of(1), balance_of(2)]).await.unwrap();
        assert!(answers.iter().all(|answer| answer.as_ref().unwrap().len() == 32));
        assert!(reader.read(vec![balance_of(3)]).await.is_ok());
        let codes = node.asked().iter().filter(|method| *method == "eth_getCode").count();
        assert_eq!(codes, 1, "asked once");
        // With an account's code they are several requests in one, which this node does not know.
        let account = Read::Code(Address::repeat_byte(9));
        let answers = reader.read(vec![account, balance_of(4)]).await.unwrap();
        let code: &[u8] = if with_code { &[1] } else { &[] };
        assert_eq!(answers[0].as_ref().unwrap(), code);
        assert_eq!(answers[1].as_ref().unwrap().len(), 32);
    }
}

/// A node that is out of reach is an error for everybody who asked, and the next node is tried before.
#[tokio::test]
async fn shared_reads_fail_over() {
    let node = ScriptedRpc::start(together).await.unwrap();
    let nowhere = "http://127.0.0.1:9".parse().unwrap();
    let both = Chain::new(&[nowhere, node.url().parse().unwrap()]).unwrap();
    assert!(Reader::start(both).read(vec![balance_of(1)]).await.is_ok());
    let none = Chain::new(&["http://127.0.0.1:9".parse().unwrap()]).unwrap();
    let reader = Reader::start(none);
    let requests = (0..3).map(|n| reader.read(vec![balance_of(n)]));
    for answer in futures::future::join_all(requests).await {
        assert!(matches!(answer, Err(ChainError::Unavailable { .. })), "{answer:?}");
    }
}

/// A payment on a chain without Multicall3.
#[tokio::test]
async fn a_chain_without_multicall_is_served() {
    let stack = stack("no-multicall", StackOptions::default()).await;
    stack.anvil.set_code(MULTICALL3, &Bytes::new()).await.unwrap();
    let daemon = stack.daemon(&keeper(), &stack.sqlite()).await.unwrap();
    let payer = stack.agent(FUNDS).await.unwrap();
    let draft = Draft::new(&payer, stack.contracts.splitter);
    served(&stack, &daemon.url, "no-multicall-1", &draft, &draft.signature()).await;
}
