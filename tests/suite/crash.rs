//! Killed before and after every commit and every send, on both databases: every payment is
//! settled once all the same.

mod case;
mod ground;
mod paused;
mod play;
mod source;

use case::{Case, Scene};
use ground::{Ground, Kind};
use keeper::failpoint::Point;
use std::time::Instant;

/// From which side of a point.
const SIDES: [&str; 2] = ["before", "after"];
/// On which database.
const KINDS: [Kind; 2] = [Kind::Sqlite, Kind::Postgres];

/// In which scenes a point is reached, and how often it is passed there.
///
/// The compiler asks for every point.
const fn scenes(point: Point) -> (&'static [Scene], u32) {
    use Scene::{
        Broke, Deferred, Drifted, Expired, Forgone, Late, Lost, Ordered, Outrun, Overdue, Parked,
        Plain, Quarantined, Refunded, Reorged, Replaced, Reverted, Stopped, Takeover,
    };
    match point {
        Point::Enter | Point::Acquire | Point::Adopt => (&[Takeover], 1),
        Point::Renew
        | Point::Reserve
        | Point::BeginDelivery
        | Point::EndDelivery
        | Point::Confirm
        | Point::Finality
        // What the token is, when it is seen first.
        | Point::Watch
        | Point::Seal
        // From where on others are told.
        | Point::Webhook => (&[Plain, Replaced], 1),
        // Pull, record and split each pass these.
        Point::Book
        | Point::Plan
        | Point::First
        | Point::Send
        | Point::Broadcast
        | Point::Included
        | Point::Safe
        | Point::Finalized => (&[Plain, Replaced], 3),
        // And once when the daemon starts.
        Point::Mirror | Point::Drive => (&[Plain, Replaced], 4),
        Point::Release => (&[Stopped], 1),
        Point::LoseDelivery => (&[Lost], 1),
        Point::ForgoDelivery => (&[Forgone], 1),
        Point::Expire => (&[Expired], 1),
        Point::Defer => (&[Deferred], 1),
        Point::Flag => (&[Late], 1),
        Point::Orphan => (&[Overdue], 1),
        // The intake closes, and opens again.
        Point::Purse => (&[Broke], 2),
        Point::Bump => (&[Replaced], 1),
        Point::Noop | Point::Superseded | Point::Close => (&[Outrun], 1),
        Point::Reverted => (&[Reverted], 1),
        Point::Parked => (&[Parked], 1),
        Point::Order => (&[Ordered], 1),
        Point::Reverse => (&[Reorged], 1),
        Point::Drift => (&[Drifted], 1),
        // It begins, and is over.
        Point::Quarantine => (&[Quarantined], 2),
        // It is asked for, and paid.
        Point::Refund => (&[Refunded], 2),
        Point::Hold => (&[Refunded], 1),
        // No daemon: rebuild.rs crashes there. No money: agents.rs.
        Point::Rebuild | Point::Admit => (&[], 0),
        // `external` crashes there.
        Point::HandOver | Point::Attest | Point::Withdraw => (&[], 0),
        // No money: a note that a URL is not called.
        Point::Refuse => (&[], 0),
    }
}

/// Every case.
fn matrix() -> Vec<Case> {
    let mut cases = Vec::new();
    for &point in Point::ALL {
        let (scenes, most) = scenes(point);
        for &scene in scenes {
            for n in 1..=most {
                for when in SIDES {
                    for kind in KINDS {
                        cases.push(Case { when, point, n, scene, kind });
                    }
                }
            }
        }
    }
    cases
}

/// Every point from both sides at its first pass, and from one at every other; scenes and databases
/// take turns.
fn sample() -> Vec<Case> {
    let mut cases = Vec::new();
    // Points of one scene and of two take turns apart from each other.
    let mut turns = [[0; SIDES.len()]; 2];
    for (index, &point) in Point::ALL.iter().enumerate() {
        let (scenes, most) = scenes(point);
        for (pass, n) in (1..=most).enumerate() {
            for (side, when) in SIDES.into_iter().enumerate() {
                if pass > 0 && (index + pass) % SIDES.len() == side {
                    continue;
                }
                let next = &mut turns[scenes.len() - 1][side];
                let turn = *next + side;
                *next += 1;
                let scene = scenes[turn % scenes.len()];
                let kind = KINDS[turn / scenes.len() % KINDS.len()];
                cases.push(Case { when, point, n, scene, kind });
            }
        }
    }
    cases
}

/// The sample leaves out no point, no side, and neither database.
#[test]
fn every_day_every_point_is_crashed_at() {
    let cases = sample();
    for &point in Point::ALL {
        let (scenes, most) = scenes(point);
        if scenes.is_empty() {
            continue;
        }
        for when in SIDES {
            assert!(cases.iter().any(|case| case.point == point && case.when == when), "{point}");
        }
        assert!(cases.iter().any(|case| case.point == point && case.n == most), "{point}");
    }
    let mut tally = std::collections::BTreeMap::new();
    for case in &cases {
        let of = (format!("{:?}", case.scene), case.when, format!("{:?}", case.kind));
        *tally.entry(of).or_insert(0) += 1;
    }
    for scene in ["Plain", "Replaced"] {
        for when in SIDES {
            for kind in KINDS {
                let of = (scene.to_owned(), when, format!("{kind:?}"));
                assert!(tally.get(&of).is_some_and(|count| *count > 2), "{of:?}: {tally:?}");
            }
        }
    }
}

/// Plays one lane's share, or of that only the cases whose name holds `CRASH`, such as
/// "before:plan:2:kill in Replaced on Sqlite".
async fn play(cases: Vec<Case>, number: usize) {
    let wanted = std::env::var("CRASH").unwrap_or_default();
    let cases = cases.into_iter().filter(|case| case.to_string().contains(&wanted));
    let cases: Vec<_> = cases.skip(number).step_by(LANES).collect();
    if cases.is_empty() {
        return;
    }
    let ground = Ground::new("crash").await;
    let all = async {
        for case in cases {
            let begun = Instant::now();
            case.play(&ground).await;
            println!("{case}: {:?}", begun.elapsed());
        }
    };
    ground.during(all).await;
}

/// Lanes run side by side; each has a chain of its own.
macro_rules! lanes {
    ($($lane:ident: $number:literal),+) => {
        const LANES: usize = [$($number),+].len();

        mod killed_anywhere_it_settles_once {
            use super::{play, sample};
            $(#[tokio::test]
            async fn $lane() {
                play(sample(), $number).await;
            })+
        }

        /// The whole product, for `make test-deep`.
        mod deep {
            use super::{play, matrix};
            $(#[tokio::test]
            #[ignore = "a quarter of an hour: make test-deep"]
            async fn $lane() {
                play(matrix(), $number).await;
            })+
        }
    };
}

lanes!(lane_0: 0, lane_1: 1, lane_2: 2, lane_3: 3, lane_4: 4, lane_5: 5);
