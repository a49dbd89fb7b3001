//! The guard by itself, with a resolver that says what a test wants.

use super::*;
use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
};

fn guard() -> Guard {
    Guard::new(false, &[])
}

/// A resolver that gives these answers, one after the other, and the last one for ever.
fn answering(answers: &[&[&str]]) -> Lookup {
    let answers: Vec<Vec<IpAddr>> = answers
        .iter()
        .map(|answer| answer.iter().map(|address| address.parse().unwrap()).collect())
        .collect();
    let asked = Arc::new(AtomicUsize::new(0));
    Lookup::new(move |_| {
        let turn = asked.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
        let answer = answers[turn].clone();
        Box::pin(async move { Ok(answer) })
    })
}

/// parse, scheme, host, literal addresses in every spelling.
#[test]
fn a_url_is_refused_for_what_is_written() {
    for (text, reason) in [
        ("provider", Reason::ParseError),
        ("https://pro vider.example/", Reason::ParseError),
        ("https://provider.example\\@evil.example/", Reason::ParseError),
        ("https://provider.example/\r\nHost: evil", Reason::ParseError),
        ("http://provider.example/", Reason::Scheme),
        ("ftp://provider.example/", Reason::Scheme),
        ("file:///etc/passwd", Reason::Scheme),
        ("https://", Reason::HostSyntax),
        ("https://under_score.example/", Reason::HostSyntax),
        ("https://-dash.example/", Reason::HostSyntax),
        ("https://two..dots.example/", Reason::HostSyntax),
        ("https://[::1/", Reason::HostSyntax),
        ("https://1.2.3.256/", Reason::HostSyntax),
        ("https://127.0.0.1/", Reason::ResolvedToDenyCidr),
        ("https://127.0.0.1./", Reason::ResolvedToDenyCidr),
        ("https://2130706433/", Reason::ResolvedToDenyCidr),
        ("https://0x7f.1/", Reason::ResolvedToDenyCidr),
        ("https://0177.0.0.1/", Reason::ResolvedToDenyCidr),
        ("https://%31%32%37.0.0.1/", Reason::ResolvedToDenyCidr),
        ("https://\u{ff11}27.0.0.1/", Reason::ResolvedToDenyCidr),
        ("https://[::ffff:127.0.0.1]/", Reason::ResolvedToDenyCidr),
        ("https://[::ffff:8.8.8.8]/", Reason::ResolvedToDenyCidr),
        ("https://[::1]/", Reason::ResolvedToDenyCidr),
        ("https://[::]/", Reason::ResolvedToDenyCidr),
        ("https://[fd00:ec2::254]/", Reason::ResolvedToDenyCidr),
        ("https://[64:ff9b::7f00:1]/", Reason::ResolvedToDenyCidr),
        ("https://169.254.169.254/latest/meta-data", Reason::ResolvedToDenyCidr),
        ("https://192.168.1.1/", Reason::ResolvedToDenyCidr),
        ("https://100.100.100.200/", Reason::ResolvedToDenyCidr),
        ("https://localhost/", Reason::ResolvedToDenyCidr),
        ("https://metadata.localhost./", Reason::ResolvedToDenyCidr),
    ] {
        let refused = guard().admit(text).unwrap_err();
        assert_eq!(refused.reason, reason, "{text}: {refused}");
    }
}

/// The edges of each net, and their neighbours.
#[test]
fn what_is_next_to_a_denied_net_is_called() {
    for (inside, outside) in [
        ("0.255.255.255", "1.0.0.0"),
        ("10.255.255.255", "11.0.0.0"),
        ("127.255.255.255", "128.0.0.0"),
        ("169.254.255.255", "169.255.0.0"),
        ("172.31.255.255", "172.32.0.0"),
        ("192.168.255.255", "192.169.0.0"),
        ("100.127.255.255", "100.128.0.0"),
        ("192.0.0.255", "192.0.1.0"),
        ("198.19.255.255", "198.20.0.0"),
        ("255.255.255.255", "223.255.255.255"),
        ("[fe80::1]", "[fe00::1]"),
        ("[fdff::1]", "[fbff::1]"),
        ("[2002::1]", "[2003::1]"),
        ("[2001:0:ffff::1]", "[2001:1::1]"),
        ("[::ffff:1.1.1.1]", "[2606:4700::1111]"),
    ] {
        assert!(guard().admit(&format!("https://{inside}/")).is_err(), "{inside}");
        assert!(guard().admit(&format!("https://{outside}/")).is_ok(), "{outside}");
    }
}

#[test]
fn a_good_url_gets_one_spelling() {
    for (text, expected) in [
        ("https://Provider.EXAMPLE./a?b=c", "https://provider.example/a?b=c"),
        ("https://b\u{fc}cher.example/", "https://xn--bcher-kva.example/"),
        ("https://%65xample.com:8443/", "https://example.com:8443/"),
    ] {
        assert_eq!(guard().admit(text).unwrap().as_str(), expected);
    }
}

/// what tests need, and nothing beyond. What an operator denies is denied there, too.
#[test]
fn test_mode_permits_http_and_this_machine_only() {
    let test = Guard::new(true, &[]);
    for text in ["http://127.0.0.1:8080/", "http://localhost/", "http://[::1]/"] {
        assert!(test.admit(text).is_ok(), "{text}");
    }
    for text in ["http://10.0.0.1/", "http://169.254.169.254/", "http://[::ffff:127.0.0.1]/"] {
        assert_eq!(test.admit(text).unwrap_err().reason, Reason::ResolvedToDenyCidr, "{text}");
    }
    let strict = Guard::new(true, &["127.0.0.0/8".parse().unwrap()]);
    assert!(strict.admit("http://127.0.0.1/").is_err());
    let own = Guard::new(false, &["203.0.113.0/24".parse().unwrap()]);
    assert!(own.admit("https://203.0.113.9/").is_err());
}

/// what was refused is told without credentials.
#[test]
fn a_refusal_keeps_no_secret() {
    for text in [
        "https://user:secret@10.0.0.1/path?token=secret#secret",
        "https://user:secret@ho st/path?token=secret",
        "user:secret@nothing",
    ] {
        let refused = guard().admit(text).unwrap_err();
        assert!(!refused.to_string().contains("secret"), "{refused}");
        assert!(!format!("{refused:?}").contains("secret"), "{refused:?}");
    }
    let refused = guard().admit("https://user:secret@10.0.0.1:8443/path?token=1").unwrap_err();
    assert_eq!(refused.blocked_url, "https://10.0.0.1:8443/path");
}

/// every answer counts; one bad one is enough.
#[tokio::test]
async fn every_address_of_a_name_is_looked_at() {
    for (answer, expected) in [
        (&["1.1.1.1", "2606:4700::1111"][..], None),
        (&["1.1.1.1", "10.0.0.1"], Some(Reason::ResolvedToDenyCidr)),
        (&["2606:4700::1111", "::ffff:127.0.0.1"], Some(Reason::ResolvedToDenyCidr)),
        (&["fd00:ec2::254"], Some(Reason::ResolvedToDenyCidr)),
        (&[], Some(Reason::DnsResolveFailed)),
    ] {
        let guard = guard().with_lookup(answering(&[answer]));
        let refused = guard.check("https://provider.example/").await.err();
        assert_eq!(refused.map(|refused| refused.reason), expected, "{answer:?}");
    }
    let failing = Lookup::new(|_| Box::pin(async { Err(io::Error::other("no resolver")) }));
    let refused = guard().with_lookup(failing).check("https://provider.example/").await.unwrap_err();
    assert_eq!(refused.reason, Reason::DnsResolveFailed);
}

/// a name that was good when it was looked at and leads elsewhere when it is called.
#[tokio::test]
async fn a_name_that_changes_its_mind_is_not_connected() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let flipping = guard().with_lookup(answering(&[&["1.1.1.1"], &["127.0.0.1"]]));
    let url = flipping.check(&format!("https://provider.example:{port}/")).await.unwrap();
    let outbound = Outbound::new(flipping).unwrap();
    let error = outbound.post(&url).unwrap().send().await.unwrap_err();
    assert_eq!(refusal(&error), Some(Reason::ResolvedToDenyCidr), "{error:?}");
    let nobody = std::time::Duration::from_millis(100);
    assert!(tokio::time::timeout(nobody, listener.accept()).await.is_err(), "nobody connected");
}

/// A redirect would lead to a URL that nobody has looked at.
#[tokio::test]
async fn no_redirect_is_followed() {
    use axum::{Router, response::Redirect, routing::post};
    let app = Router::new().route("/", post(|| async { Redirect::temporary("http://10.0.0.1/") }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let outbound = Outbound::new(Guard::new(true, &[])).unwrap();
    let answer = outbound.post(&url).unwrap().send().await.unwrap();
    assert_eq!(answer.status(), 307);
}
