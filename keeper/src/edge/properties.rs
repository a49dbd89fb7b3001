//! Bodies of calls, whatever they are: a call or a refusal, never a panic.

use super::envelope::Invocation;
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

fn parse(body: &[u8]) -> Option<Invocation> {
    Invocation::parse(body).ok()
}

proptest! {
    #[test]
    fn any_bytes_are_a_call_or_refused(body in vec(any::<u8>(), 0..4_000)) {
        prop_assert!(parse(&body).is_none());
    }

    #[test]
    fn any_text_in_a_field_is_taken_or_refused(
        field in 0..5_usize, text in "\\PC{0,100}|[A-Za-z0-9_-]{4,64}|[a-z][a-z0-9-]*/[a-z]+",
    ) {
        let mut call = json!({"jecp": "1.0", "id": "call-1", "capability": "demo/echo",
                              "action": "echo", "input": {}});
        let names = ["jecp", "id", "capability", "action", "input"];
        call[names[field]] = Value::from(text.clone());
        if let Some(invocation) = parse(call.to_string().as_bytes()) {
            let good = invocation.id.bytes().all(|it| it.is_ascii_alphanumeric() || b"_-".contains(&it));
            prop_assert!(good && (4..=64).contains(&invocation.id.len()));
            invocation.content_hash().unwrap();
        }
    }

    /// The content's hash is of what it says, not of how it is written.
    #[test]
    fn the_order_of_fields_is_nothing(keys in vec("[a-z]{1,8}", 1..8), number in any::<i32>()) {
        let forth: Value = keys.iter().map(|key| (key.clone(), json!(number))).collect();
        let write = |pairs: Vec<&String>| {
            let fields: Vec<_> = pairs.iter().map(|key| format!("\"{key}\": {number}")).collect();
            format!(
                "{{\"input\": {{{}}}, \"jecp\": \"1.0\", \"id\": \"call-1\", \
                 \"capability\": \"demo/echo\", \"action\": \"echo\"}}",
                fields.join(", ")
            )
        };
        let unique: std::collections::BTreeSet<_> = keys.iter().collect();
        let hash = |body: &[u8]| parse(body).unwrap().content_hash().unwrap();
        let first = hash(write(unique.iter().copied().collect()).as_bytes());
        let last = hash(write(unique.iter().rev().copied().collect()).as_bytes());
        prop_assert_eq!(first, last);
        let call = json!({"jecp": "1.0", "id": "call-1", "capability": "demo/echo",
                          "action": "echo", "input": forth});
        prop_assert_eq!(first, hash(call.to_string().as_bytes()));
    }
}

/// A document of brackets would recurse; it is refused.
#[test]
fn depth_is_refused() {
    let deep = format!(
        "{{\"jecp\":\"1.0\",\"id\":\"call-1\",\"capability\":\"demo/echo\",\"action\":\"echo\",\"input\":{}",
        "[".repeat(1 << 20)
    );
    assert!(parse(deep.as_bytes()).is_none());
}
