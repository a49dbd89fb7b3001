//! A chain that takes back what was final: everything stops, stays stopped, and goes on only when a
//! human has said so.

use crate::support::{
    Draft, call, chain, command, eventually, invoke, keeper, postgres, stack, tally,
};
use keeper::chain::BlockTag;
use sandbox::StackOptions;
use serde_json::json;

/// Micro-USDC of every test's payer.
const FUNDS: u64 = 1_000_000;

/// anvil's finalized block is two behind the head here, and a reorg goes ten deep.
#[tokio::test]
async fn a_reorg_through_a_final_block_halts_until_a_human_has_looked() {
    for database in [None, Some(postgres().await)] {
        let stack = stack("final", StackOptions::default()).await;
        let database = database.unwrap_or_else(|| stack.sqlite());
        let mut daemon = stack.daemon(&keeper(), &database).await.unwrap();
        let draft = Draft::new(&stack.agent(FUNDS).await.unwrap(), stack.contracts.splitter);
        let paid = invoke(&daemon.url, &call("final-1"), Some(&draft.header())).await;
        assert_eq!(paid.status, 200, "{paid:?}");
        let mined = stack.anvil.rpc("anvil_mine", json!(["0x10", "0x1"])).await;
        mined.unwrap();
        let head = chain(&stack).head(BlockTag::Latest).await.unwrap().number();
        eventually("what is final now is remembered", || async {
            let remembered = tally(&database, "chains", "CAST(finalized_number AS TEXT)").await;
            remembered.keys().all(|number| number.parse::<u64>().unwrap() + 2 >= head)
        })
        .await;
        stack.anvil.rpc("anvil_reorg", json!([10, []])).await.unwrap();
        assert_eq!(daemon.wait().await.unwrap(), 1, "{}", daemon.tail());
        assert!(daemon.logged().contains("ALARM: service stopped"), "{}", daemon.tail());
        assert!(daemon.logged().contains("was final as"), "{}", daemon.tail());

        let mut again = stack.spawn(&keeper(), &database, &[], |config| config).await.unwrap();
        assert_eq!(again.wait().await.unwrap(), 1, "it is remembered: {}", again.tail());

        let accept = ["quarantine", "--accept-reorg", "--reason", "compared by hand"];
        let accepted = command(&daemon.config, &stack, &accept).await;
        assert!(accepted.status.success(), "{accepted:?}");
        let mut daemon = stack.daemon(&keeper(), &database).await.unwrap();
        eventually("it goes on", || async {
            daemon.logged().matches("quarantine is over").count() == 2
        })
        .await;
        let mut next = Draft::new(&draft.payer, stack.contracts.splitter);
        // The chain's time runs ahead by now.
        next.authorization.valid_before += 300;
        eventually("and serves", || async {
            invoke(&daemon.url, &call("final-2"), Some(&next.header())).await.status == 200
        })
        .await;
        daemon.signal("TERM").await.unwrap();
        assert_eq!(daemon.wait().await.unwrap(), 0);
    }
}
