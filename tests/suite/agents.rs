//! Agents: who may call, how often, for how much, and what is said to everybody else. Over real HTTP,
//! on both databases.

mod credentials;
mod ground;
mod limits;
mod mandate;
mod payer;
