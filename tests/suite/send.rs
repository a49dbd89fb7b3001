//! Sending to real nodes: what they say is understood, and one that is silent holds up nobody.

use crate::support::{eventually, tools};
use alloy::{
    consensus::{SignableTransaction, TxEip1559},
    eips::eip2718::Encodable2718,
    primitives::{Address, B256, Bytes, TxKind, U256},
    signers::{SignerSync, local::PrivateKeySigner},
};
use keeper::chain::{Chain, SendClass};
use sandbox::{Anvil, AnvilOptions, ScriptedRpc};
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{io::AsyncReadExt, net::TcpListener};

const GWEI: u128 = 1_000_000_000;

/// A node that keeps what it is sent until it is told to mine, and an account with ether.
async fn node() -> (Anvil, Chain, PrivateKeySigner) {
    let options = AnvilOptions { block_time: None, ..AnvilOptions::default() };
    let anvil = Anvil::start(&tools(), &options).await.unwrap();
    anvil.rpc("evm_setAutomine", json!([false])).await.unwrap();
    let signer = PrivateKeySigner::random();
    let ether = U256::from(1_000_000_000 * GWEI);
    anvil.set_balance(signer.address(), ether).await.unwrap();
    let chain = Chain::new(&[anvil.url().parse().unwrap()]).unwrap();
    (anvil, chain, signer)
}

/// A transfer that any node takes.
fn transfer() -> TxEip1559 {
    TxEip1559 {
        chain_id: 84_532,
        gas_limit: 21_000,
        max_fee_per_gas: 10 * GWEI,
        max_priority_fee_per_gas: GWEI,
        to: TxKind::Call(Address::repeat_byte(0x11)),
        ..TxEip1559::default()
    }
}

/// Its bytes and its hash.
fn signed(signer: &PrivateKeySigner, transaction: TxEip1559) -> (Bytes, B256) {
    let signature = signer.sign_hash_sync(&transaction.signature_hash()).unwrap();
    let transaction = transaction.into_signed(signature);
    (transaction.encoded_2718().into(), *transaction.hash())
}

async fn class(chain: &Chain, signer: &PrivateKeySigner, transaction: TxEip1559) -> SendClass {
    let sent = chain.send_raw(&signed(signer, transaction).0).await;
    assert_eq!(sent.by_endpoint.len(), 1);
    assert_eq!(sent.by_endpoint[0].1, sent.class);
    sent.class
}

/// Every class that anvil's words can come to, from anvil itself.
#[tokio::test]
async fn a_nodes_words_are_understood() {
    let (anvil, chain, signer) = node().await;
    assert_eq!(class(&chain, &signer, transfer()).await, SendClass::Accepted);
    assert_eq!(class(&chain, &signer, transfer()).await, SendClass::Known);
    let other = TxEip1559 { value: U256::ONE, ..transfer() };
    assert_eq!(class(&chain, &signer, other).await, SendClass::Underpriced, "to replace");
    let below =
        TxEip1559 { nonce: 1, max_fee_per_gas: 1, max_priority_fee_per_gas: 1, ..transfer() };
    assert_eq!(class(&chain, &signer, below).await, SendClass::Underpriced, "to be mined");
    let gap = TxEip1559 { nonce: 7, ..transfer() };
    assert_eq!(class(&chain, &signer, gap).await, SendClass::Accepted, "it waits in the pool");

    anvil.rpc("evm_mine", json!([])).await.unwrap();
    assert_eq!(class(&chain, &signer, transfer()).await, SendClass::NonceTooLow);

    let next = || TxEip1559 { nonce: 1, ..transfer() };
    let poor = PrivateKeySigner::random();
    assert_eq!(class(&chain, &poor, transfer()).await, SendClass::InsufficientFunds);
    let dear = TxEip1559 { value: U256::MAX >> 1, ..next() };
    assert_eq!(class(&chain, &signer, dear).await, SendClass::InsufficientFunds);

    let elsewhere = TxEip1559 { chain_id: 8_453, ..next() };
    assert_eq!(class(&chain, &signer, elsewhere).await, SendClass::Permanent);
    let sent = chain.send_raw(&Bytes::from_static(b"\x02nonsense")).await;
    assert_eq!(sent.class, SendClass::Permanent);
    let sent = chain.send_raw(&Bytes::new()).await;
    assert_eq!(sent.class, SendClass::Permanent);

    let little = TxEip1559 { gas_limit: 20_000, ..next() };
    assert_eq!(class(&chain, &signer, little).await, SendClass::Permanent);
    // More than a block holds: blocks may grow.
    let much = TxEip1559 { gas_limit: 40_000_000, ..next() };
    assert_eq!(class(&chain, &signer, much).await, SendClass::Unknown);
    assert_eq!(class(&chain, &signer, next()).await, SendClass::Accepted, "nothing was in its way");
}

/// Nobody listens: the bytes may be anywhere.
#[tokio::test]
async fn no_answer_is_no_refusal() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let chain = Chain::new(&[dead.parse().unwrap()]).unwrap();
    let signer = PrivateKeySigner::random();
    assert_eq!(class(&chain, &signer, transfer()).await, SendClass::Unknown);
    assert_eq!(Chain::new(&[]).unwrap().send_raw(&Bytes::new()).await.class, SendClass::Unknown);
}

/// An endpoint that takes a request and says nothing.
struct Silent {
    url: String,
    /// A request came.
    asked: Arc<AtomicBool>,
    /// Whoever asked has given up.
    given_up: Arc<AtomicBool>,
    server: tokio::task::JoinHandle<()>,
}

impl Silent {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (asked, given_up) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        let (heard, left) = (Arc::clone(&asked), Arc::clone(&given_up));
        let server = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4_096];
            while connection.read(&mut buffer).await.unwrap_or(0) > 0 {
                heard.store(true, Ordering::SeqCst);
            }
            left.store(true, Ordering::SeqCst);
        });
        Self { url, asked, given_up, server }
    }
}

/// Two endpoints are silent: all three are asked at the same time, and taken by one is taken.
#[tokio::test]
async fn a_silent_endpoint_holds_up_nobody() {
    let (anvil, _, signer) = node().await;
    let silent = [Silent::start().await, Silent::start().await];
    let [first, second] = &silent;
    let urls = [&first.url, &second.url, &anvil.url().to_owned()].map(|url| url.parse().unwrap());
    let chain = Chain::new(&urls).unwrap();
    let (raw, hash) = signed(&signer, transfer());
    let sending = tokio::spawn(async move { chain.send_raw(&raw).await });
    eventually("everybody was asked", || async {
        let taken = anvil.rpc("eth_getTransactionByHash", json!([hash])).await.unwrap();
        silent.iter().all(|node| node.asked.load(Ordering::SeqCst)) && !taken.is_null()
    })
    .await;
    assert!(silent.iter().all(|node| !node.given_up.load(Ordering::SeqCst)), "one after the other");
    silent.iter().for_each(|node| node.server.abort());
    let sent = sending.await.unwrap();
    assert_eq!(sent.class, SendClass::Accepted);
    let classes: Vec<_> = sent.by_endpoint.iter().map(|(_, class)| *class).collect();
    assert_eq!(classes, [SendClass::Unknown, SendClass::Unknown, SendClass::Accepted]);
    let names: Vec<_> = sent.by_endpoint.iter().map(|(name, _)| format!("http://{name}")).collect();
    assert_eq!(names, [&*first.url, &*second.url, anvil.url()]);
}

/// A silent endpoint is given up by itself, and then nothing is known.
#[tokio::test]
async fn silence_ends() {
    let silent = Silent::start().await;
    let chain = Chain::new(&[silent.url.parse().unwrap()]).unwrap();
    let (raw, _) = signed(&PrivateKeySigner::random(), transfer());
    assert_eq!(chain.send_raw(&raw).await.class, SendClass::Unknown);
    eventually("it is let go", || async { silent.given_up.load(Ordering::SeqCst) }).await;
}

/// A send that waits for inclusion returns with it, and says nothing when there was none in time.
#[tokio::test]
async fn waiting_for_inclusion_proves_nothing() {
    let (anvil, chain, signer) = node().await;
    let (raw, hash) = signed(&signer, transfer());
    let sent = chain.send_raw_sync(&raw, Duration::from_millis(300)).await;
    assert_eq!(sent.class, SendClass::Unknown, "it waited in vain");
    assert_eq!(chain.send_raw(&raw).await.class, SendClass::Known, "and was taken all the same");
    assert!(chain.receipt(hash).await.unwrap().is_none());

    anvil.rpc("evm_setIntervalMining", json!([1])).await.unwrap();
    let (raw, hash) = signed(&signer, TxEip1559 { nonce: 1, ..transfer() });
    let sent = chain.send_raw_sync(&raw, Duration::from_secs(20)).await;
    assert_eq!(sent.class, SendClass::Accepted);
    assert!(chain.receipt(hash).await.unwrap().is_some());
    let sent = chain.send_raw_sync(&raw, Duration::from_secs(20)).await;
    assert_eq!(sent.class, SendClass::NonceTooLow, "a refusal is one");
}

/// Whatever is not understood is sent the usual way: a hint must not keep a transaction from a node.
#[tokio::test]
async fn what_waits_badly_is_sent_all_the_same() {
    for answer in [
        json!({"result": null}),
        json!({"error": {"code": -32_602, "message": "invalid params"}}),
        json!({"error": {"code": 4, "message": "it was added to the mempool but not confirmed"}}),
    ] {
        let node = ScriptedRpc::start(move |method, _| match method {
            "eth_sendRawTransaction" => json!({"result": B256::repeat_byte(1)}),
            _ => answer.clone(),
        });
        let node = node.await.unwrap();
        let chain = Chain::new(&[node.url().parse().unwrap()]).unwrap();
        let sent = chain.send_raw_sync(&Bytes::new(), Duration::from_secs(20)).await;
        assert_eq!(sent.class, SendClass::Accepted);
        assert_eq!(node.asked(), ["eth_sendRawTransactionSync", "eth_sendRawTransaction"]);
    }
}

/// A node without the method gets the usual one, and is not asked again.
#[tokio::test]
async fn a_node_that_cannot_wait_is_not_asked_again() {
    let node = ScriptedRpc::start(|method, _| match method {
        "eth_sendRawTransaction" => json!({"result": B256::repeat_byte(1)}),
        method => json!({"error": {
            "code": -32_601, "message": format!("the method {method} does not exist/is not available")
        }}),
    });
    let node = node.await.unwrap();
    let chain = Chain::new(&[node.url().parse().unwrap()]).unwrap();
    let raw = Bytes::from_static(b"bytes");
    for _ in 0..2 {
        let sent = chain.clone().send_raw_sync(&raw, Duration::from_secs(20)).await;
        assert_eq!(sent.class, SendClass::Accepted);
    }
    let [sync, usual] = ["eth_sendRawTransactionSync", "eth_sendRawTransaction"];
    assert_eq!(node.asked(), [sync, usual, usual]);
}
