//! Bulkheads: how much goes on at a time, each kind apart from the others, so that one that is full
//! takes nothing from the rest. `/livez`, `/readyz`, `/health` and `/metrics` stand in no pool.

use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Largest pool that may be asked for.
pub const MAX_POOL: usize = 100_000;

/// How large the pools are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Calls of agents.
    pub invoke: usize,
    /// Requests that only look.
    pub read: usize,
    /// Calls of providers.
    pub provider: usize,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self { invoke: 4_096, read: 256, provider: 4_096 }
    }
}

/// A place in a pool, as long as this value lives.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

/// One of them.
#[derive(Debug)]
pub struct Pool {
    limit: usize,
    places: Arc<Semaphore>,
}

impl Pool {
    fn new(limit: usize) -> Self {
        Self { limit, places: Arc::new(Semaphore::new(limit)) }
    }

    /// A place, if one is free.
    pub fn enter(&self) -> Option<Place> {
        Arc::clone(&self.places).try_acquire_owned().ok().map(|permit| Place { _permit: permit })
    }

    /// A place, once one is free; `None` only when the program ends.
    pub async fn wait(&self) -> Option<Place> {
        Arc::clone(&self.places).acquire_owned().await.ok().map(|permit| Place { _permit: permit })
    }

    fn shown(&self) -> Value {
        let in_use = self.limit.saturating_sub(self.places.available_permits());
        json!({"limit": self.limit, "in_use": in_use, "saturated": in_use >= self.limit})
    }
}

/// All of them.
#[derive(Debug)]
pub struct Pools {
    /// Calls of agents.
    pub invoke: Pool,
    /// Requests that only look.
    pub read: Pool,
    /// Calls of providers: a place is taken before money moves.
    pub provider: Pool,
}

impl Pools {
    /// Empty ones.
    pub fn new(limits: PoolLimits) -> Self {
        Self {
            invoke: Pool::new(limits.invoke),
            read: Pool::new(limits.read),
            provider: Pool::new(limits.provider),
        }
    }

    /// For `/health`.
    pub(super) fn shown(&self, background: usize) -> Value {
        json!({
            "invoke": self.invoke.shown(),
            "read": self.read.shown(),
            "provider": self.provider.shown(),
            // Each service is one task under the lease; there are no more than these.
            "background": {"limit": background, "in_use": background, "saturated": false},
        })
    }
}

/// What stands in which pool.
pub(super) fn assignments() -> Value {
    json!({
        "POST /v1/invoke": "invoke",
        "POST /v1/refunds/request": "read",
        "GET /v1/traces/{trace_id}": "read",
        "GET /v1/status/x402": "read",
        "/admin": "read",
        "provider_calls": "provider",
        "keeper": "background",
        "watcher": "background",
        "reconciler": "background",
        "outbox": "background",
        "webhooks": "background",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    ///
    #[test]
    fn a_full_pool_takes_nothing_from_another() {
        let pools = Pools::new(PoolLimits { invoke: 1, read: 1, provider: 1 });
        let place = pools.provider.enter().unwrap();
        assert!(pools.provider.enter().is_none());
        assert!(pools.invoke.enter().is_some());
        assert_eq!(pools.shown(0)["provider"]["saturated"], true);
        drop(place);
        assert!(pools.provider.enter().is_some());
    }
}
