//! A case of the matrix: where a daemon dies, and what goes on around it.

use super::{
    ground::{Ground, Kind},
    play::Play,
};
use crate::support::PATIENCE;
use keeper::failpoint::Point;
use sandbox::Daemon;
use std::fmt;

/// What goes on around the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scene {
    /// One payment, blocks as they come.
    Plain,
    /// The pull's first envelope is too cheap; a replacement is mined.
    Replaced,
    /// The daemon takes over from one that was killed with a pull in the pool.
    Takeover,
    /// The daemon is asked to stop when the payment is served.
    Stopped,
    /// The provider was about to be called when the daemon was killed; the agent comes back.
    Lost,
    /// The same, but the agent does not come back in time.
    Forgone,
    /// The window closes before the pull has an account nonce.
    Expired,
    /// The pull would revert for a while.
    Deferred,
    /// The record has waited for long.
    Late,
    /// The pull has had no outcome for ten minutes.
    Overdue,
    /// The puller has no ether for a while.
    Broke,
    /// The window closes while the pull is in the pool.
    Outrun,
    /// The pull reverts on chain.
    Reverted,
    /// Somebody else's transaction takes the pull's account nonce.
    Parked,
    /// An operator orders more fees for the pull.
    Ordered,
    /// The puller's key has signed elsewhere while the daemon was down.
    Quarantined,
    /// The provider fails; the treasury gives the money back.
    Refunded,
    /// A reorg takes the block of a split that is booked.
    Reorged,
    /// Somebody writes into the books, and takes it back later.
    Drifted,
}

impl Scene {
    /// Whether the first payment is released, and a second one made instead.
    pub(super) const fn releases(self) -> bool {
        matches!(self, Self::Expired | Self::Outrun | Self::Reverted | Self::Parked)
    }

    /// How many account nonces the puller has used in the end.
    pub(super) const fn pulls(self) -> u64 {
        match self {
            // Somebody else's, sixteen that are occupied behind it, and the pull.
            Self::Quarantined => 18,
            Self::Outrun | Self::Reverted | Self::Parked => 2,
            _ => 1,
        }
    }
}

/// Where the daemon dies, and in which scene.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    /// "before" or "after".
    pub(super) when: &'static str,
    pub(super) point: Point,
    /// At which pass.
    pub(super) n: u32,
    pub(super) scene: Scene,
    pub(super) kind: Kind,
}

impl Case {
    fn failpoint(&self) -> String {
        format!("{}:{}:{}:kill", self.when, self.point, self.n)
    }

    /// In the scene of a refund one failed call is too many.
    async fn daemon(&self, ground: &Ground, database: &str, failpoint: Option<&str>) -> Daemon {
        let change = |config: String| match self.scene {
            Scene::Refunded => {
                format!("{config}\n[refunds]\nfailure_sample = 1\nfailure_payers = 1\n")
            }
            _ => config,
        };
        ground.changed_daemon(database, failpoint, change).await
    }

    /// Plays it: a daemon dies at the failpoint, another one goes on, and everything is done once.
    pub(super) async fn play(&self, ground: &Ground) {
        let play = Play::new(self.to_string(), self.scene, ground, self.kind).await;
        play.before(self.scene).await;
        // A transaction is included, and then safe, for four blocks each.
        let is_short = matches!(self.point, Point::Included | Point::Safe);
        ground.set_slow(is_short || self.scene == Scene::Reorged);
        let failpoint = self.failpoint();
        let mut daemon = self.daemon(ground, &play.database, Some(&failpoint)).await;
        if self.scene == Scene::Stopped {
            let served = tokio::time::timeout(PATIENCE, play.agent(&daemon.url, &play.first));
            assert!(served.await.is_ok(), "{self}: not served: {}", daemon.tail());
            daemon.signal("TERM").await.unwrap();
        }
        play.end(&mut daemon, &failpoint).await;
        ground.set_slow(false);
        let mut daemon = self.daemon(ground, &play.database, None).await;
        let after = tokio::time::timeout(PATIENCE, play.after(self.scene, &daemon.url));
        assert!(after.await.is_ok(), "{self}: no end: {}", daemon.tail());
        play.check(self.scene, &daemon).await;
        daemon.signal("KILL").await.unwrap();
        daemon.wait().await.unwrap();
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {:?} on {:?}", self.failpoint(), self.scene, self.kind)
    }
}
