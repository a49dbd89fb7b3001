//! Everything around the keeper that a demo or a test needs, on this machine alone: a local Base
//! ([`Anvil`]), the contracts on it ([`Contracts`]), a double of AWS KMS ([`KmsDouble`]), a
//! throwaway PostgreSQL ([`Postgres`]) and a provider to sell something ([`SampleProvider`]); a
//! [`Stack`] is all of them at once, with a daemon's configuration. [`RpcProxy`] makes a node fail.
//!
//! The real thing runs wherever it can be had. Two doubles exist because theirs cannot: KMS and
//! Circle's USDC; both are as strict as what they stand for.
//!
//! Whatever is started here ends with the process that started it, even if that is killed.

mod anvil;
mod contracts;
mod facilitator;
mod guard;
mod inbox;
mod kms;
mod postgres;
mod provider;
mod proxy;
mod scripted;
mod stack;
mod stale;
mod tools;

pub use anvil::{Anvil, AnvilOptions};
pub use contracts::{Contracts, Registration, Roles, USDC_BASE_SEPOLIA, compiled, create};
pub use facilitator::{FacilitatorStub, Reply, Transport, Turn};
pub use inbox::{Inbox, Letter};
pub use kms::{KmsCredentials, KmsDouble, KmsFault};
pub use postgres::{Postgres, Replica};
pub use provider::SampleProvider;
pub use proxy::{Fault, POOL_LIMIT, RpcProxy, Rule};
pub use scripted::ScriptedRpc;
pub use stack::{Daemon, KeyPlace, PRICE_MICRO, Stack, StackOptions};
pub use tools::Tools;
