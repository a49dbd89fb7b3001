//! `keeper refund safe`: what is owed, as a batch that the Safe's owners look at and sign.

use super::{Exit, agrees, beside, refused};
use crate::{
    failpoint::Point,
    ledger::{Ledger, Refund, RefundQuery},
    lifecycle::{RefundEvent, RefundState},
    x402::MicroUsdc,
};
use alloy::primitives::Address;
use chrono::Utc;
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, path::PathBuf};

/// Write what is owed as a file for the Safe's Transaction Builder. Nothing is signed.
#[derive(Debug, clap::Args)]
pub(super) struct Safe {
    /// Where to; it must not exist.
    #[arg(long)]
    out: PathBuf,
    /// Those that were proposed before, too. Reject the former transaction in the Safe first, or they
    /// are paid twice.
    #[arg(long)]
    again: bool,
    /// Only refunds of this treasury, where Splitters have several.
    #[arg(long)]
    treasury: Option<Address>,
}

impl Safe {
    /// The file is written under another name, the refunds are marked, and the file gets its name:
    /// what nobody can import yet is not marked, and what is not marked nobody can import.
    pub(super) async fn execute(self, ledger: &Ledger) -> Result<(), Exit> {
        if self.out.exists() {
            return Err(Exit::misconfigured(eyre::eyre!(
                "{} exists; name another file",
                self.out.display()
            )));
        }
        let mut tx = ledger.begin().await?;
        let mut owed = tx.refunds(RefundQuery::In(RefundState::Approved)).await?;
        if self.again {
            owed.extend(tx.refunds(RefundQuery::In(RefundState::Proposed)).await?);
        }
        if let Some(treasury) = self.treasury {
            owed.retain(|refund| refund.treasury == treasury);
        }
        for refund in &owed {
            agrees(refund)?;
        }
        // What a reorg took back since was never paid: there is nothing to give back.
        let (owed, uncovered): (Vec<_>, Vec<_>) =
            owed.into_iter().partition(|refund| refund.is_covered);
        for refund in uncovered {
            eprintln!("refund {}: left out, its payment is not confirmed any more", refund.id);
        }
        let places: BTreeSet<_> =
            owed.iter().map(|refund| (refund.chain_id, refund.treasury, refund.asset)).collect();
        let Some((chain_id, treasury, asset)) = places.first().copied() else {
            return Err(eyre::eyre!(
                "no refund is owed{}",
                if self.again {
                    ""
                } else {
                    " that was not proposed before (--again takes those too)"
                }
            )
            .into());
        };
        if places.len() > 1 {
            return Err(Exit::misconfigured(eyre::eyre!(
                "refunds are owed by several treasuries: name one with --treasury, such as {treasury}"
            )));
        }
        let sum =
            owed.iter().try_fold(MicroUsdc::ZERO, |sum, refund| sum.checked_add(refund.amount));
        let sum = sum.ok_or_else(|| eyre::eyre!("the sum of the refunds overflows"))?;
        let part = beside(&self.out);
        let text = serde_json::to_string_pretty(&batch(chain_id, treasury, asset, &owed))?;
        fs::write(&part, text)
            .map_err(|error| Exit::misconfigured(eyre::eyre!("{}: {error}", part.display())))?;
        for refund in &owed {
            tx.step_refund(refund, RefundEvent::Propose, None)
                .await
                .map_err(|error| refused(refund.id, error))?;
        }
        tx.commit(Point::Refund).await?;
        fs::rename(&part, &self.out)?;
        println!(
            "{}: {} refunds, {sum} USDC, from Safe {treasury} on chain {chain_id}. Import it into \
             the Transaction Builder; each is closed when its Transfer is final",
            self.out.display(),
            owed.len()
        );
        Ok(())
    }
}

/// Version 1.0 of the Transaction Builder's format: one `transfer` of USDC per refund, so that each
/// has a log of its own.
fn batch(chain_id: u64, treasury: Address, asset: Address, refunds: &[Refund]) -> Value {
    let transactions: Vec<_> = refunds
        .iter()
        .map(|refund| {
            json!({
                "to": asset,
                "value": "0",
                "data": null,
                "contractMethod": {
                    "name": "transfer",
                    "payable": false,
                    "inputs": [
                        {"name": "to", "type": "address", "internalType": "address"},
                        {"name": "value", "type": "uint256", "internalType": "uint256"},
                    ],
                },
                "contractInputsValues": {
                    "to": refund.payer,
                    "value": refund.amount.micro().to_string(),
                },
            })
        })
        .collect();
    let ids: Vec<_> = refunds.iter().map(|refund| refund.id.to_string()).collect();
    json!({
        "version": "1.0",
        "chainId": chain_id.to_string(),
        "createdAt": Utc::now().timestamp_millis(),
        "meta": {
            "name": "x402 refunds",
            "description": format!("Refunds {}", ids.join(", ")),
            "createdFromSafeAddress": treasury.to_checksum(None),
        },
        "transactions": transactions,
    })
}
