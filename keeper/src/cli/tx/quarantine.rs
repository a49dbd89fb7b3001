//! `keeper tx quarantine`: with a daemon that leads it is an order like the others; without one the
//! command takes the lease itself, since a daemon that has stopped for a broken finality cannot.

use super::{How, give, signers};
use crate::{
    chain::{BlockTag, Chain},
    cli::{Exit, config::Config, leader::lease_name},
    failpoint::Point,
    ledger::{Ledger, LedgerError, Order, OrderAction},
};
use std::time::Duration;

/// How long the command may hold a lease.
const LEASE_TIME: Duration = Duration::from_secs(15);

/// Puts every signer into quarantine.
#[derive(Debug, clap::Args)]
pub(super) struct Quarantine {
    #[command(flatten)]
    how: How,
    /// A block that was final is gone, and you have compared ledger and chain: go on from the
    /// chain as it is now.
    #[arg(long)]
    accept_reorg: bool,
}

impl Quarantine {
    pub(super) async fn execute(self, config: &Config) -> Result<(), Exit> {
        let ledger = match Ledger::open(&config.database).await {
            Ok(ledger) => ledger,
            // A daemon has the SQLite file.
            Err(LedgerError::InUse(_)) => Ledger::open_beside(&config.database).await?,
            Err(error) => return Err(error.into()),
        };
        for chain in &config.chain {
            let mut tx = ledger.read().await?;
            let is_led = tx.lease_is_held(&lease_name(chain.id)).await?;
            drop(tx);
            match (is_led, self.accept_reorg) {
                (true, true) => {
                    return Err(eyre::eyre!(
                        "a daemon leads chain {}: it has not stopped for a broken finality; stop it \
                         first if you mean it",
                        chain.id
                    )
                    .into());
                }
                (true, false) => self.order(config, &ledger, chain.id).await?,
                (false, accept) => {
                    let rpc = accept.then(|| Chain::new(&chain.rpc)).transpose()?;
                    self.at_once(&ledger, chain.id, rpc.as_ref()).await?;
                }
            }
        }
        Ok(())
    }

    async fn order(&self, config: &Config, ledger: &Ledger, chain_id: u64) -> Result<(), Exit> {
        let mut tx = ledger.read().await?;
        let mut known = signers(config, &mut tx).await?;
        drop(tx);
        let served = |address| {
            let mut of_chain = config.splitter.iter().filter(|one| one.chain == chain_id);
            of_chain.any(|one| one.keys().any(|key| key.address == address))
        };
        known.retain(|signer| signer.chain_id == chain_id && served(signer.record.address));
        for signer in known {
            let order = Order {
                action: OrderAction::Quarantine,
                account_nonce: None,
                settlement: None,
                tx_hash: None,
                reason: self.how.reason.clone(),
            };
            give(ledger, &signer, &order, self.how.wait).await?;
        }
        Ok(())
    }

    async fn at_once(
        &self,
        ledger: &Ledger,
        chain_id: u64,
        accept: Option<&Chain>,
    ) -> Result<(), Exit> {
        let final_now = match accept {
            Some(rpc) => {
                let head = rpc.head(BlockTag::Finalized).await?;
                Some((head.number(), head.hash))
            }
            None => None,
        };
        let name = lease_name(chain_id);
        let Some(lease) = ledger.acquire_lease(&name, "keeper tx", LEASE_TIME).await? else {
            return Err(eyre::eyre!("a daemon has just begun to lead chain {chain_id}").into());
        };
        let mut tx = ledger.begin().await?;
        let signers = tx.signers(chain_id).await?;
        if signers.is_empty() {
            tx.release_lease(&lease).await?;
            tx.commit(Point::Quarantine).await?;
            return Err(eyre::eyre!(
                "the ledger knows no signer of chain {chain_id}: is this the right database?"
            )
            .into());
        }
        for signer in signers {
            tx.quarantine(&lease, chain_id, signer.address, &self.how.reason).await?;
            println!("{} {}: in quarantine", signer.role, signer.address);
        }
        if let Some(block) = final_now {
            tx.replace_finalized(&lease, chain_id, block).await?;
            println!("chain {chain_id}: block {} {} counts as final now", block.0, block.1);
        }
        tx.release_lease(&lease).await?;
        tx.commit(Point::Quarantine).await?;
        Ok(())
    }
}
