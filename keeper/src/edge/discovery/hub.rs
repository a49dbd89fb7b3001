//! How the hub presents itself: the `[hub]` of the configuration.

use serde::Deserialize;
use url::Url;

/// Longest name (S05 4.5).
const MAX_NAME: usize = 100;
/// Longest operator (S05 4.5).
const MAX_OPERATOR: usize = 200;

/// Who runs this hub, for its documents.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hub {
    /// For people, 2 to 100 characters.
    pub name: String,
    /// Legal entity.
    pub operator: Option<String>,
    /// Before the ids of its agents and providers, 2 to 8 lower-case letters.
    pub vendor_prefix: String,
    /// Where agents get credentials; without accounts the page that says so.
    pub register_url: Option<Url>,
    /// Where people turn to: an address or a URL.
    pub support: Option<String>,
    /// Address for reports of vulnerabilities.
    pub security: Option<String>,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            name: "x402-keeper hub".to_owned(),
            operator: None,
            vendor_prefix: "hub".to_owned(),
            register_url: None,
            support: None,
            security: None,
        }
    }
}

impl Hub {
    /// Whether the documents will be good ones.
    ///
    /// # Errors
    /// The field to change.
    pub fn check(&self) -> Result<(), String> {
        if !(2..=MAX_NAME).contains(&self.name.chars().count()) {
            return Err(format!("hub.name has 2 to {MAX_NAME} characters"));
        }
        if self.operator.as_ref().is_some_and(|name| name.chars().count() > MAX_OPERATOR) {
            return Err(format!("hub.operator has at most {MAX_OPERATOR} characters"));
        }
        let prefix = self.vendor_prefix.as_bytes();
        if !(2..=8).contains(&prefix.len()) || !prefix.iter().all(u8::is_ascii_lowercase) {
            return Err("hub.vendor_prefix is 2 to 8 lower-case letters".to_owned());
        }
        if self.register_url.as_ref().is_some_and(|url| url.scheme() != "https") {
            return Err("hub.register_url must be https".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_make_a_bad_document_is_refused() {
        let change = |change: fn(&mut Hub)| {
            let mut hub = Hub::default();
            change(&mut hub);
            hub.check()
        };
        change(|_| {}).unwrap();
        change(|hub| hub.name = "x".to_owned()).unwrap_err();
        change(|hub| hub.vendor_prefix = "Hub1".to_owned()).unwrap_err();
        change(|hub| hub.register_url = Some("http://hub.example".parse().unwrap())).unwrap_err();
        change(|hub| hub.operator = Some("x".repeat(201))).unwrap_err();
    }
}
