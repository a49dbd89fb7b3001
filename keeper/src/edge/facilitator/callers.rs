//! Who may call the facilitator API: a token each, how often, for which capabilities and payees.

use crate::{
    edge::{
        Edge,
        token::{TokenHash, bearer, refusal, unauthorized},
    },
    shared_secret::from_environment,
};
use alloy::primitives::Address;
use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use serde::Deserialize;
use std::{
    collections::BTreeSet,
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Longest name; it becomes part of the ledger's `agent_id`.
const MAX_NAME: usize = 40;
/// The span over which requests are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// Calls that wait longer would be cut off by what stands in between.
const MAX_PATIENCE: Duration = Duration::from_secs(300);

/// What is wrong with the callers of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallerError {
    /// Two have the same name.
    #[error("caller {0}: there are two of that name")]
    Name(String),
    /// Two have the same token: they could not be told apart.
    #[error("caller {0}: another caller has the same token")]
    Token(String),
    /// A capability that is not in the catalogue.
    #[error("caller {0}: nobody sells {1}; see the catalogue")]
    Capability(String, String),
    /// A Splitter as a payee: its money would belong to nobody.
    #[error(
        "caller {0}: pay_to has the Splitter {1}; it is paid for capabilities: name them in \
         capabilities"
    )]
    Splitter(String, Address),
}

/// A resource server that may call the facilitator API.
#[derive(Deserialize)]
#[serde(try_from = "Written")]
pub struct Caller {
    name: String,
    token: TokenHash,
    interval: Duration,
    capabilities: Vec<String>,
    pay_to: BTreeSet<Address>,
    patience: Duration,
    /// When its next request is due at its steady pace.
    due: Mutex<Option<Instant>>,
}

/// A caller as the file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    token: String,
    #[serde(default = "default_requests_per_minute")]
    requests_per_minute: u32,
    #[serde(default)]
    capabilities: Vec<String>,
    #[serde(default)]
    pay_to: BTreeSet<Address>,
    #[serde(default = "default_patience", with = "humantime_serde")]
    settle_timeout: Duration,
}

const fn default_requests_per_minute() -> u32 {
    600
}

/// Below the 30 seconds after which the Go client gives up.
const fn default_patience() -> Duration {
    Duration::from_secs(25)
}

impl TryFrom<Written> for Caller {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { name, token, requests_per_minute, capabilities, pay_to, settle_timeout } =
            written;
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_word) {
            return Err(format!("a caller's name is 1 to {MAX_NAME} characters of [A-Za-z0-9_-]"));
        }
        let token = from_environment(&format!("caller {name}: token"), &token)?;
        let token = TokenHash::of(&format!("caller {name}: token"), &token)?;
        let interval = WINDOW
            .checked_div(requests_per_minute)
            .ok_or_else(|| format!("caller {name}: requests_per_minute must be above 0"))?;
        if settle_timeout.is_zero() || settle_timeout > MAX_PATIENCE {
            return Err(format!("caller {name}: settle_timeout must be above 0 and at most 5min"));
        }
        if capabilities.is_empty() && pay_to.is_empty() {
            return Err(format!(
                "caller {name}: without capabilities and pay_to nothing can be settled for it"
            ));
        }
        if pay_to.contains(&Address::ZERO) {
            return Err(format!("caller {name}: pay_to has the zero address"));
        }
        let due = Mutex::default();
        Ok(Self { name, token, interval, capabilities, pay_to, patience: settle_timeout, due })
    }
}

impl fmt::Debug for Caller {
    /// Without the token's hash.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Caller {
    /// Who it is in the ledger. No agent's id and no address begins so.
    pub(super) fn agent_id(&self) -> String {
        format!("caller:{}", self.name)
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What it may sell, "namespace/action".
    pub(super) fn capabilities(&self) -> &[String] {
        &self.capabilities
    }

    /// Whether it may have somebody paid who is no Splitter.
    pub(super) fn may_pay(&self, payee: Address) -> bool {
        self.pay_to.contains(&payee)
    }

    /// How long it waits for a settlement.
    pub(super) const fn patience(&self) -> Duration {
        self.patience
    }

    /// Counts a request, or says after how many seconds there is room for it. In any minute, and at
    /// once, there is room for as many as it may make in one.
    fn count(&self, now: Instant) -> Result<(), u64> {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let at = due.map_or(now, |due| due.max(now));
        let next = at.checked_add(self.interval).unwrap_or(at);
        let ahead = next.saturating_duration_since(now);
        if ahead > WINDOW {
            let wait = ahead.saturating_sub(WINDOW);
            return Err(wait.as_secs().saturating_add(1));
        }
        *due = Some(next);
        Ok(())
    }
}

/// Everybody who may call.
#[derive(Debug, Default)]
pub struct Callers(Vec<Caller>);

impl Callers {
    /// Checks them against what is sold and against one another.
    ///
    /// # Errors
    /// [`CallerError`].
    pub fn new(
        callers: Vec<Caller>,
        sold: impl Fn(&str) -> bool,
        splitters: &[Address],
    ) -> Result<Self, CallerError> {
        let (mut names, mut tokens) = (BTreeSet::new(), BTreeSet::new());
        for caller in &callers {
            let name = || caller.name.clone();
            if !names.insert(&caller.name) {
                return Err(CallerError::Name(name()));
            }
            if !tokens.insert(caller.token) {
                return Err(CallerError::Token(name()));
            }
            if let Some(unsold) = caller.capabilities.iter().find(|capability| !sold(capability)) {
                return Err(CallerError::Capability(name(), unsold.clone()));
            }
            if let Some(splitter) = splitters.iter().find(|it| caller.pay_to.contains(*it)) {
                return Err(CallerError::Splitter(name(), *splitter));
            }
        }
        Ok(Self(callers))
    }

    /// Whose token a request carries. Takes as long whoever it is.
    fn find(&self, token: &str) -> Option<&Caller> {
        let mut found = None;
        for caller in &self.0 {
            if caller.token.is_of(token) {
                found = Some(caller);
            }
        }
        found
    }
}

impl Edge {
    /// The caller of a request, counted. Where none is configured there is nothing to find.
    ///
    /// # Errors
    /// The answer for everybody else, and for who calls too often.
    pub(super) fn caller(&self, headers: &HeaderMap) -> Result<&Caller, Box<Response>> {
        if self.callers.0.is_empty() {
            let message = "this daemon has no facilitator API";
            return Err(refusal(StatusCode::NOT_FOUND, "NOT_FOUND", message));
        }
        let caller =
            bearer(headers).and_then(|token| self.callers.find(token)).ok_or_else(|| {
                unauthorized("the facilitator API wants Authorization: Bearer <a caller's token>")
            })?;
        caller.count(Instant::now()).map_err(|seconds| {
            let message = "too many requests of this caller in a minute";
            let mut response = refusal(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", message);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            response
        })?;
        Ok(caller)
    }

    /// The same for who may also come without a token: then it is nobody in particular.
    ///
    /// # Errors
    /// The answer for a token that is nobody's, and for who calls too often.
    pub(super) fn caller_if_any(
        &self,
        headers: &HeaderMap,
    ) -> Result<Option<&Caller>, Box<Response>> {
        if headers.contains_key(header::AUTHORIZATION) {
            self.caller(headers).map(Some)
        } else {
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdefghij";

    fn written(name: &str, token: &str) -> Written {
        Written {
            name: name.to_owned(),
            token: token.to_owned(),
            requests_per_minute: 3,
            capabilities: vec!["demo/echo".to_owned()],
            pay_to: BTreeSet::from([Address::repeat_byte(7)]),
            settle_timeout: default_patience(),
        }
    }

    fn caller(name: &str, token: &str) -> Caller {
        Caller::try_from(written(name, token)).unwrap()
    }

    #[test]
    fn a_caller_that_could_do_nothing_or_anything_is_refused() {
        let refused = |change: fn(&mut Written)| {
            let mut one = written("shop", TOKEN);
            change(&mut one);
            Caller::try_from(one).unwrap_err()
        };
        for (problem, error) in [
            ("name", refused(|one| one.name = "a b".to_owned())),
            ("at least 20", refused(|one| one.token = "short".to_owned())),
            ("not set", refused(|one| one.token = "$KEEPER_NO_SUCH_TOKEN".to_owned())),
            ("requests_per_minute", refused(|one| one.requests_per_minute = 0)),
            ("settle_timeout", refused(|one| one.settle_timeout = Duration::ZERO)),
            ("zero address", refused(|one| one.pay_to = BTreeSet::from([Address::ZERO]))),
            (
                "nothing can be settled",
                refused(|one| {
                    one.pay_to.clear();
                    one.capabilities.clear();
                }),
            ),
        ] {
            assert!(error.contains(problem), "{problem}: {error}");
        }
    }

    #[test]
    fn callers_are_told_apart_and_sell_what_is_sold() {
        let other = "another-token-of-20-characters";
        let splitter = Address::repeat_byte(7);
        let new = |callers, splitters: &[Address]| {
            Callers::new(callers, |capability| capability == "demo/echo", splitters)
        };
        let two = |name, token| vec![caller("a", TOKEN), caller(name, token)];
        assert!(matches!(new(two("a", other), &[]), Err(CallerError::Name(_))));
        assert!(matches!(new(two("b", TOKEN), &[]), Err(CallerError::Token(_))));
        assert!(matches!(new(two("b", other), &[splitter]), Err(CallerError::Splitter(..))));
        let unsold = Callers::new(two("b", other), |_| false, &[]);
        assert!(matches!(unsold, Err(CallerError::Capability(..))));
        let callers = new(two("b", other), &[]).unwrap();
        assert_eq!(callers.find(other).unwrap().agent_id(), "caller:b");
        assert!(callers.find("another-token-of-20-characterS").is_none());
    }

    #[test]
    fn a_minute_has_room_for_a_minutes_requests() {
        let caller = caller("a", TOKEN);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for _ in 0..3 {
            assert_eq!(caller.count(at(0)), Ok(()));
        }
        assert_eq!(caller.count(at(0)), Err(21), "a third of a minute, rounded up");
        assert_eq!(caller.count(at(19)), Err(2));
        assert_eq!(caller.count(at(20)), Ok(()));
        assert!(caller.count(at(20)).is_err());
        for _ in 0..3 {
            assert_eq!(caller.count(at(500)), Ok(()), "what was not used is not saved up");
        }
        assert!(caller.count(at(500)).is_err());
    }
}
