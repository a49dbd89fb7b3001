//! The networks that the keeper settles on.

use super::challenge::Asset;
use alloy::primitives::address;
use std::fmt;

/// A chain with its names on the wire and its USDC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Network {
    /// Base mainnet, chain id 8453.
    Base,
    /// Base Sepolia, chain id 84532.
    BaseSepolia,
}

impl Network {
    /// Every network.
    pub const ALL: [Self; 2] = [Self::Base, Self::BaseSepolia];

    /// The network of a chain id.
    pub fn from_chain_id(chain_id: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|network| network.chain_id() == chain_id)
    }

    /// The network of a name of x402 v1 ("base-sepolia") or v2 (CAIP-2, "eip155:84532").
    pub fn from_wire(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|network| network.v1() == name || network.caip2() == name)
    }

    /// EIP-155 chain id.
    pub const fn chain_id(self) -> u64 {
        match self {
            Self::Base => 8_453,
            Self::BaseSepolia => 84_532,
        }
    }

    /// Name in x402 v1.
    pub const fn v1(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::BaseSepolia => "base-sepolia",
        }
    }

    /// Name in x402 v2, CAIP-2.
    pub const fn caip2(self) -> &'static str {
        match self {
            Self::Base => "eip155:8453",
            Self::BaseSepolia => "eip155:84532",
        }
    }

    /// Circle's USDC. The names of its EIP-712 domain differ: "USD Coin" on Base, "USDC" on
    /// Base Sepolia.
    pub const fn usdc(self) -> Asset {
        match self {
            Self::Base => Asset {
                address: address!("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"),
                name: "USD Coin",
                version: "2",
            },
            Self::BaseSepolia => Asset {
                address: address!("0x036CbD53842c5426634e7929541eC2318f3dCF7e"),
                name: "USDC",
                version: "2",
            },
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.v1())
    }
}
