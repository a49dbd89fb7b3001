//! Clients that are slow, endless or many, and nodes that answer nonsense: each ends in a clear answer
//! or a closed connection, and leaves no row and no money behind. Over raw sockets.

use crate::{
    facilitator::{Api, FUNDS, SHOP, body},
    rig::Rig,
    support::{Draft, call, eventually, invoke, on_chain, settlement_of},
};
use sandbox::{Fault, Rule, StackOptions};
use serde_json::json;
use std::{future::Future, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Connections that the daemon of these tests takes.
const MAX: usize = 32;
/// Longer than any of its own bounds.
const LONG: Duration = Duration::from_secs(30);

/// A daemon that bears little.
async fn strict(name: &str) -> Api {
    let bounds = format!(
        "\n[http.connections]\nmax = {MAX}\nhead_timeout = \"2s\"\npause_timeout = \"1s\"\n\
         body_timeout = \"3s\"\n\n[[chain]]"
    );
    let change = |config: String| config.replacen("\n[[chain]]", &bounds, 1);
    Api::start_with(name, None, StackOptions::default(), change).await
}

impl Api {
    fn address(&self) -> SocketAddr {
        self.daemon.url.trim_start_matches("http://").parse().unwrap()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address()).await.unwrap()
    }

    /// Nothing has become of a payment.
    async fn is_untouched(&self, draft: &Draft) {
        let row = settlement_of(&self.database, &draft.authorization).await;
        assert!(row.is_none(), "a row");
        assert_eq!(on_chain(&self.stack, &draft.authorization).await, (FUNDS, false), "money");
    }
}

/// Everything that the server says until it closes the connection.
async fn heard(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut part = [0; 4_096];
    let listen = async {
        // A reset ends it as well.
        while let Ok(read @ 1..) = stream.read(&mut part).await {
            answer.extend_from_slice(&part[..read]);
        }
    };
    timeout(LONG, listen).await.expect("the connection is never closed");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The first line of an answer on a connection that may stay open.
async fn status(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut part = [0; 4_096];
    while !answer.windows(2).any(|pair| pair == b"\r\n") {
        match timeout(LONG, stream.read(&mut part)).await.expect("no answer") {
            Ok(read @ 1..) => answer.extend_from_slice(&part[..read]),
            _ => break,
        }
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    text.lines().next().unwrap_or_default().to_owned()
}

/// The head of a request with a body of that length.
fn head(path: &str, length: usize, more: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: hub\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n{more}\r\n"
    )
}

/// Sends byte after byte until the server has had enough.
async fn drip(stream: TcpStream, bytes: &[u8], pause: Duration) -> String {
    let (mut read, mut write) = stream.into_split();
    let listening = tokio::spawn(async move {
        let mut answer = Vec::new();
        let mut part = [0; 4_096];
        while let Ok(got @ 1..) = read.read(&mut part).await {
            answer.extend_from_slice(&part[..got]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    });
    for byte in bytes.iter().cycle() {
        if write.write_all(&[*byte]).await.is_err() || listening.is_finished() {
            break;
        }
        tokio::time::sleep(pause).await;
    }
    timeout(LONG, listening).await.expect("the connection is never closed").unwrap()
}

/// One that never says what it wants is let go, and so is one that says it too slowly.
#[tokio::test]
async fn a_head_that_does_not_come_is_let_go() {
    let api = strict("heads").await;
    let mut silent = api.connect().await;
    let mut half = api.connect().await;
    half.write_all(b"POST /v1/invoke HTTP/1.1\r\nHost: hub\r\nX-Paym").await.unwrap();
    let mut idle = api.connect().await;
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: hub\r\n\r\n").await.unwrap();
    let slow = drip(api.connect().await, b"GET /livez HTTP/1.1\r\n", Duration::from_millis(300));
    let (silent, half, idle, slow) =
        tokio::join!(heard(&mut silent), heard(&mut half), heard(&mut idle), slow);
    assert_eq!((silent.as_str(), half.as_str(), slow.as_str()), ("", "", ""));
    assert!(idle.starts_with("HTTP/1.1 200"), "{idle}");
}

/// A paid call whose body stops, or comes too slowly, is 408; its payment is as good as before.
#[tokio::test]
async fn a_body_that_does_not_come_is_answered_408() {
    let api = strict("bodies").await;
    let draft = api.draft().await;
    let whole = call("slow-body-1").to_string();
    let paid = head("/v1/invoke", whole.len(), &format!("X-PAYMENT: {}\r\n", draft.header()));
    let order = body(1, &draft).to_string();
    let bearer = format!("Authorization: Bearer {SHOP}\r\n");
    let settle = head("/settle", order.len(), &bearer);
    for (head, body) in [(&paid, &whole), (&settle, &order)] {
        let mut stream = api.connect().await;
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body.as_bytes()[..body.len() / 2]).await.unwrap();
        let answer = heard(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("REQUEST_TIMEOUT"), "{answer}");
        api.is_untouched(&draft).await;
        // Never a pause, and never an end.
        let mut stream = api.connect().await;
        stream.write_all(head.replace(&body.len().to_string(), "9000").as_bytes()).await.unwrap();
        let answer = drip(stream, b" ", Duration::from_millis(100)).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        api.is_untouched(&draft).await;
        // Gone in the middle.
        let mut stream = api.connect().await;
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body.as_bytes()[..body.len() / 2]).await.unwrap();
        drop(stream);
    }
    api.is_untouched(&draft).await;
    let good = invoke(&api.daemon.url, &call("slow-body-1"), Some(&draft.header())).await;
    assert_eq!(good.status, 200, "{good:?}");
}

/// More than a body may be, with its length told or not: refused, and not kept.
#[tokio::test]
async fn a_body_that_is_too_long_is_refused() {
    let api = strict("long").await;
    let draft = api.draft().await;
    let payment = format!("X-PAYMENT: {}\r\n", draft.header());
    let bearer = format!("Authorization: Bearer {SHOP}\r\n");
    for (path, more, expected) in [("/v1/invoke", &payment, "413"), ("/settle", &bearer, "400")] {
        let chunked =
            head(path, 0, more).replace("Content-Length: 0", "Transfer-Encoding: chunked");
        for head in [head(path, 11 << 20, more), chunked.clone()] {
            let stream = api.connect().await;
            let (mut read, mut write) = stream.into_split();
            let chunked = head == chunked;
            let sending = tokio::spawn(async move {
                let mut part = vec![b' '; 64 << 10];
                if chunked {
                    part.splice(0..0, format!("{:x}\r\n", 64 << 10).into_bytes());
                    part.extend_from_slice(b"\r\n");
                }
                write.write_all(head.as_bytes()).await?;
                for _ in 0..11 << 4 {
                    write.write_all(&part).await?;
                }
                Ok::<_, std::io::Error>(write)
            });
            let mut first = [0; 12];
            timeout(LONG, read.read_exact(&mut first)).await.unwrap().unwrap();
            assert_eq!(String::from_utf8_lossy(&first), format!("HTTP/1.1 {expected}"), "{path}");
            sending.abort();
        }
    }
    api.is_untouched(&draft).await;
}

/// C-68: a payment header that is too long is refused in words up to 32 KB; what is longer, or has
/// headers without number, is 431.
#[tokio::test]
async fn a_flood_of_headers_is_refused() {
    let api = strict("headers").await;
    let whole = call("headers-1").to_string();
    let send = async |more: String| {
        let mut stream = api.connect().await;
        let request = format!("{}{whole}", head("/v1/invoke", whole.len(), &more));
        // The server may have heard enough before the end.
        let _ = stream.write_all(request.as_bytes()).await;
        status(&mut stream).await
    };
    for (length, expected) in [(8_193, "422"), (32 << 10, "422"), (100 << 10, "431")] {
        let line = send(format!("X-PAYMENT: {}\r\n", "A".repeat(length))).await;
        assert!(line.contains(expected), "{length}: {line}");
    }
    let many: String = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect();
    assert!(send(many).await.contains("431"));
    let line = send("X-PAYMENT : AAAA\r\n".to_owned()).await;
    assert!(line.contains("400"), "{line}");
    assert_eq!(send(String::new()).await, "HTTP/1.1 402 Payment Required");
}

/// Thousands of connections that want nothing: those above the limit are told so, and everybody else
/// is served as soon as they are let go.
#[tokio::test]
async fn thousands_of_idle_connections_shut_nobody_out_for_long() {
    let api = strict("crowd").await;
    let mut crowd = Vec::new();
    let mut told = 0;
    for _ in 0..3_000 {
        // A full backlog refuses by itself.
        let Ok(stream) = TcpStream::connect(api.address()).await else { continue };
        crowd.push(stream);
    }
    for stream in &mut crowd {
        let answer = heard(stream).await;
        if answer.starts_with("HTTP/1.1 503") {
            assert!(answer.contains("Retry-After: 2"), "{answer}");
            told += 1;
        } else {
            assert_eq!(answer, "");
        }
    }
    assert!(told > 0, "nobody was told");
    drop(crowd);
    let draft = api.draft().await;
    let client = reqwest::Client::new();
    eventually("the hub serves again", || async {
        let asked = client.get(format!("{}/livez", api.daemon.url)).send().await;
        asked.is_ok_and(|answer| answer.status().is_success())
    })
    .await;
    let good = invoke(&api.daemon.url, &call("crowd-1"), Some(&draft.header())).await;
    assert_eq!(good.status, 200, "{good:?}");
}

/// A daemon that is told to stop answers what it has begun and lets idle connections go.
#[tokio::test]
async fn a_daemon_that_stops_answers_what_has_begun() {
    let mut api = Api::start("stops", None).await;
    let draft = api.draft().await;
    let mut idle = api.connect().await;
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: hub\r\n\r\n").await.unwrap();
    assert_eq!(status(&mut idle).await, "HTTP/1.1 200 OK");
    let url = api.daemon.url.clone();
    let header = draft.header();
    let paid = tokio::spawn(async move { invoke(&url, &call("stops-1"), Some(&header)).await });
    eventually("the payment is reserved", || async {
        settlement_of(&api.database, &draft.authorization).await.is_some()
    })
    .await;
    api.daemon.signal("TERM").await.unwrap();
    assert_eq!(heard(&mut idle).await, "");
    let answer = paid.await.unwrap();
    assert!([200, 503].contains(&answer.status), "{answer:?}");
    assert!(answer.body["status"].is_string(), "a whole answer: {answer:?}");
    assert_eq!(api.daemon.wait().await.unwrap(), 0, "{}", api.daemon.tail());
}

/// Whatever nonsense the node answers while a payment is checked: 503, nothing reserved, nothing moved,
/// and the same payment is good when the node is.
#[tokio::test]
async fn a_node_that_answers_nonsense_moves_nothing() {
    let rig = Rig::start("nonsense", StackOptions::default()).await;
    let payer = rig.stack.agent(FUNDS).await.unwrap();
    let mut draft = Draft::new(&payer, rig.stack.contracts.splitter);
    draft.authorization.valid_before += 500;
    let faults: [(&str, Fault); 8] = [
        ("no bytes", Fault::Changed(|_, result| *result = json!("0x"))),
        ("half a word", Fault::Changed(|_, result| *result = json!("0x01"))),
        ("a number", Fault::Changed(|_, result| *result = json!(7))),
        ("nothing", Fault::NULL),
        ("an object", Fault::Changed(|_, result| *result = json!({"a": [1, 2, {"b": "c"}]}))),
        ("no hex", Fault::Changed(|_, result| *result = json!("0xzz"))),
        ("an error", Fault::Refused(-32_603, "internal error")),
        ("a gateway", Fault::Status(502)),
    ];
    for (name, fault) in faults {
        rig.proxy.add(Rule::new("eth_call", fault));
        let answer = invoke(&rig.daemon.url, &call("nonsense-1"), Some(&draft.header())).await;
        assert_eq!((answer.status, answer.code()), (503, "SERVICE_DEGRADED"), "{name}: {answer:?}");
        assert!(!answer.body.to_string().contains("127.0.0.1"), "{name}: {answer:?}");
        let row = settlement_of(&rig.database, &draft.authorization).await;
        assert!(row.is_none(), "{name}: a row");
        let chain = on_chain(&rig.stack, &draft.authorization).await;
        assert_eq!(chain, (FUNDS, false), "{name}: money");
        rig.proxy.heal();
    }
    within(LONG, async {
        while invoke(&rig.daemon.url, &call("nonsense-1"), Some(&draft.header())).await.status
            != 200
        {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
}

async fn within(limit: Duration, what: impl Future<Output = ()>) {
    timeout(limit, what).await.expect("the payment is never taken again");
}
