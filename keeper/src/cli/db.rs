//! `keeper db`: the database.

use super::{ConfigArgs, Exit, config::Config};
use crate::ledger::Ledger;

/// Work on the database.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Db {
    /// Bring the schema up to date. `keeper run` does so too when it starts.
    Migrate(ConfigArgs),
}

impl Db {
    pub(super) async fn execute(self) -> Result<(), Exit> {
        let Self::Migrate(args) = self;
        let (config, _) = Config::load(&args.config).map_err(Exit::misconfigured)?;
        Ledger::open(&config.database).await?;
        println!("the schema is up to date");
        Ok(())
    }
}
