//! URLs of others, from outside: where they lead decides whether they are called.

use crate::support::{Draft, call, eventually, invoke, keeper, settlements, stack};
use keeper::{
    ledger::Ledger,
    outbound::{Field, Reason},
};
use sandbox::{PRICE_MICRO, Stack, StackOptions};
use serde_json::json;
use std::fs;

/// A configuration whose catalogue has the provider elsewhere, with these nets denied.
fn elsewhere(stack: &Stack, host: &str, deny: &str) -> impl Fn(String) -> String {
    let catalogue = stack.catalogue().replace("127.0.0.1", host);
    fs::write(stack.folder.join("elsewhere.toml"), catalogue).unwrap();
    let outbound = format!("[outbound]\ndeny = [{deny}]\n\n[http]");
    move |config| {
        config
            .replace("catalogue = \"catalogue.toml\"", "catalogue = \"elsewhere.toml\"")
            .replace("[http]", &outbound)
    }
}

/// a name that leads where an operator lets nobody go, or nowhere. It is
/// found out before anybody pays, and kept.
#[tokio::test]
async fn an_endpoint_that_leads_elsewhere_is_not_called_and_not_paid() {
    let stack = stack("outbound", StackOptions::default()).await;
    for (n, (host, reason)) in
        [("localhost", Reason::ResolvedToDenyCidr), ("nowhere.invalid", Reason::DnsResolveFailed)]
            .into_iter()
            .enumerate()
    {
        let database = format!("sqlite:{}", stack.folder.join(format!("{host}.db")).display());
        let change = elsewhere(&stack, host, "\"127.0.0.0/8\", \"::1/128\"");
        let mut daemon = stack.spawn(&keeper(), &database, &[], change).await.unwrap();
        daemon.ready().await.unwrap();
        let agent = stack.agent(PRICE_MICRO).await.unwrap();
        let draft = Draft::new(&agent, stack.contracts.splitter);
        let answer = invoke(&daemon.url, &call(&format!("call-{n}")), Some(&draft.header())).await;
        assert_eq!((answer.status, answer.code()), (422, "URL_BLOCKED_SSRF"), "{:?}", answer.body);
        let details = &answer.body["error"]["details"];
        assert_eq!(details["field"], "endpoint_url");
        assert_eq!(details["reason"], reason.as_str());
        let url = stack.provider.url().replace("127.0.0.1", host);
        assert_eq!(details["blocked_url"], json!(url));
        assert!(details["documentation_url"].is_string());
        assert!(settlements(&stack, &database).await.is_empty(), "nothing was reserved");
        assert_eq!(stack.provider.calls(), 0);
        let ledger = Ledger::open_beside(&database).await.unwrap();
        let kept = ledger.read().await.unwrap().ssrf_attempts().await.unwrap();
        assert_eq!(kept.len(), 1);
        assert_eq!((kept[0].field, kept[0].refused.reason), (Field::EndpointUrl, reason));
        assert_eq!(kept[0].refused.blocked_url, url);
        assert_eq!(kept[0].agent_id, Some(agent.address().to_string().to_lowercase()));
        assert_eq!(kept[0].provider_id.as_deref(), Some("demo"));
        eventually("it is in the log", || async {
            daemon.logged().contains("a provider's endpoint")
        })
        .await;
    }
}

/// what is wrong with an endpoint as it is written ends the start.
#[tokio::test]
async fn an_endpoint_that_nobody_may_call_stops_the_start() {
    let stack = stack("unsold", StackOptions::default()).await;
    for (host, deny) in
        [("10.0.0.1", ""), ("[::ffff:127.0.0.1]", ""), ("127.0.0.1", "\"127.0.0.1/32\"")]
    {
        let change = elsewhere(&stack, host, deny);
        let mut daemon = stack.spawn(&keeper(), &stack.sqlite(), &[], change).await.unwrap();
        assert_eq!(daemon.wait().await.unwrap(), 2, "{}", daemon.tail());
        assert!(daemon.logged().contains("resolved_to_deny_cidr"), "{}", daemon.tail());
    }
}
