//! `keeper db`: the database.

use super::{ConfigArgs, Exit, config::Config};
use crate::ledger::Ledger;

/// Work on the database.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Db {
    /// Bring the schema up to date, as the owner of the tables. `keeper run` does so too when it
    /// starts, if its role may.
    Migrate(ConfigArgs),
    /// Print the SQL that lets a role run the daemon without owning the tables (PostgreSQL).
    Grants(Grants),
}

/// What to print.
#[derive(Debug, clap::Args)]
pub(super) struct Grants {
    #[command(flatten)]
    config: ConfigArgs,
    /// The daemon's role.
    #[arg(long)]
    role: String,
}

impl Db {
    pub(super) async fn execute(self) -> Result<(), Exit> {
        match self {
            Self::Migrate(args) => {
                let (config, _) = Config::load(&args.config).map_err(Exit::misconfigured)?;
                Ledger::open(&config.database).await?;
                println!("the schema is up to date");
            }
            Self::Grants(Grants { config, role }) => {
                let (config, _) = Config::load(&config.config).map_err(Exit::misconfigured)?;
                let ledger = Ledger::open_beside(&config.database).await?;
                let statements = ledger.read().await?.grants(&role).await?;
                if statements.is_empty() {
                    return Err(Exit::misconfigured(eyre::eyre!(
                        "SQLite knows no roles: whoever may write the file may do everything"
                    )));
                }
                statements.iter().for_each(|statement| println!("{statement}"));
            }
        }
        Ok(())
    }
}
