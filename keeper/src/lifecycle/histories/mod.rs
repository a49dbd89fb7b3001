//! The outbox against a hostile world, a hundred thousand times: the real decisions, and a model of
//! everything around them. `docs/outbox-model.md` says what is modelled, what must hold, and which
//! mistakes this has to find.

mod contracts;
mod keeper;
mod orders;
mod pools;
mod sabotage;
mod services;
mod simulation;
mod store;
mod world;

use contracts::PAYMENTS;
use orders::Order;
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use sabotage::Sabotage;
use simulation::{Setting, Step, run};
use std::io::Write as _;

/// Histories of one run, unless `KEEPER_HISTORIES` says otherwise.
const HISTORIES: u64 = 100_000;
/// Most histories until a sabotage must be noticed.
const UNNOTICED: u64 = 50_000;
/// Fewest and most steps of a history.
const STEPS: std::ops::Range<usize> = 40..110;

/// A generated history.
struct History {
    setting: Setting,
    steps: Vec<Step>,
}

/// The history of a seed.
fn history(seed: u64) -> History {
    let mut rng = StdRng::seed_from_u64(seed);
    let bits = rng.next_u64();
    let setting = Setting {
        donation: u8::from(bits & 1 == 1),
        wei: if bits & 6 == 0 { 4_000 } else { 1_000_000_000 },
        slow_watcher: if bits & 96 == 0 { 24 } else { 0 },
    };
    let length = rng.gen_range(STEPS);
    let windows = if bits & 24 == 0 { 12 } else { 60 };
    let mut steps = vec![Step::Pay { payment: 0, window: windows }];
    steps.extend((0..length).map(|_| step(rng.next_u64())));
    History { setting, steps }
}

/// A step out of random bits.
fn step(bits: u64) -> Step {
    let pick = |shift: u32, below: u64| (bits >> shift) % below;
    let place = |shift: u32, below: u64| usize::try_from(pick(shift, below)).unwrap();
    let process = usize::from(pick(8, 4) == 0);
    let (signer, node, is_set) = (place(12, 2), place(14, 2), |shift, of| pick(shift, of) == 0);
    match bits & 0xff {
        0..100 => Step::Outbox { process, signer, node, steps: place(16, 12) + 1 },
        100..125 => Step::Watch { process, node },
        125..143 => Step::Drive { process },
        143..149 => Step::Reconcile { process, node },
        149..195 => {
            let node = [None, Some(0), Some(1), None][place(16, 4)];
            Step::Block { node, chance: bits >> 20 }
        }
        195..201 => {
            Step::Reorg { depth: pick(16, 4) + 1, are_kept: is_set(20, 2), chance: bits >> 24 }
        }
        201..207 => Step::Fee { base: [100, 20, 150, 400, 1_000, 3_000, 100, 200][place(16, 8)] },
        207..213 => Step::Node {
            node,
            is_stalled: is_set(16, 3),
            is_blind: is_set(20, 4),
            is_deaf: is_set(24, 3),
        },
        213..216 => Step::Evict { node },
        216..221 => Step::Gossip { chance: place(16, 1 << 16) },
        221..233 => {
            let window = [8, 30, 60, 150][place(24, 4)];
            Step::Pay { payment: place(16, PAYMENTS as u64), window }
        }
        233..235 => Step::Stranger { payment: [None, Some(0), Some(1), Some(2)][place(16, 4)] },
        235 => match pick(16, 4) {
            0 => Step::Foreign { signer },
            1 => Step::Skew { process, seconds: pick(20, 40) },
            _ => Step::Copy,
        },
        236 => Step::Copy,
        237 | 238 => {
            let (blocks, watches) = (pick(16, 14) + 1, !is_set(24, 3));
            Step::Calm { process, node, blocks, watches }
        }
        239 => Step::Restore,
        240..244 => Step::Time { seconds: [3, 7, 15, 40][place(16, 4)] },
        244..248 => Step::Crash { process },
        248..251 => Step::Limit {
            transaction: [700, 2_000, 10_000_000, 0][place(16, 4)],
            hard: [700, 1_500, 5_000, 50_000_000][place(20, 4)],
            day: [1_000, 3_000, 1_000_000_000, 1_000_000_000][place(24, 4)],
        },
        251..=255 => {
            let order = match pick(16, 8) {
                0 => Order::Rebroadcast,
                1 | 2 => Order::Bump,
                3 | 4 => Order::Cancel,
                5 | 6 => Order::Resolve,
                _ => Order::Quarantine,
            };
            Step::Order { process, signer, node, order }
        }
        _ => Step::Copy,
    }
}

/// Leaves out steps as long as it still fails.
fn shrink(mut history: History, sabotage: Sabotage) -> History {
    let mut size = history.steps.len().div_ceil(2);
    while size > 0 {
        let (mut at, mut is_shorter) = (0, false);
        while at < history.steps.len() {
            let mut steps = history.steps.clone();
            steps.drain(at..(at + size).min(steps.len()));
            if run(history.setting, &steps, sabotage, None).is_err() {
                history.steps = steps;
                is_shorter = true;
            } else {
                at += size;
            }
        }
        if !is_shorter || size > 1 {
            size /= 2;
        }
    }
    history
}

/// What happened, for a human.
fn tell(history: &History, sabotage: Sabotage) -> String {
    let mut tale = Vec::new();
    let outcome = run(history.setting, &history.steps, sabotage, Some(&mut tale));
    format!("{:?}\n{}\n==> {outcome:?}", history.setting, tale.join("\n"))
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn whatever_happens_each_work_is_done_once_and_nothing_waits_for_ever() {
    let base =
        number("KEEPER_HISTORIES_SEED").unwrap_or_else(|| rand::thread_rng().next_u64() >> 24);
    let count = number("KEEPER_HISTORIES").unwrap_or(HISTORIES);
    // Past the test harness, which keeps what is printed to itself.
    writeln!(std::io::stderr(), "{count} histories, KEEPER_HISTORIES_SEED={base}").unwrap();
    for seed in base..base.saturating_add(count) {
        let history = history(seed);
        if run(history.setting, &history.steps, Sabotage::None, None).is_err() {
            let shrunk = shrink(history, Sabotage::None);
            panic!(
                "{}\nrepeat it with KEEPER_HISTORIES_SEED={seed} KEEPER_HISTORIES=1",
                tell(&shrunk, Sabotage::None)
            );
        }
    }
}

#[test]
fn a_node_far_behind_does_not_make_a_restored_ledger_record_again() {
    let calm = |node, blocks| Step::Calm { process: 0, node, blocks, watches: true };
    let steps = [
        Step::Pay { payment: 0, window: 60 },
        calm(0, 1),
        Step::Copy,
        calm(0, 1),
        Step::Node { node: 1, is_stalled: true, is_blind: false, is_deaf: false },
        calm(0, 2),
        Step::Restore,
        calm(0, 40),
        Step::Watch { process: 0, node: 1 },
        Step::Watch { process: 0, node: 1 },
        Step::Outbox { process: 0, signer: 1, node: 1, steps: 12 },
        Step::Block { node: None, chance: 0 },
        Step::Block { node: None, chance: 0 },
    ];
    let setting = Setting { donation: 1, wei: 1_000_000_000, slow_watcher: 0 };
    let history = History { setting, steps: steps.to_vec() };
    let run = |sabotage| run(setting, &history.steps, sabotage, None);
    assert_eq!(run(Sabotage::None), Ok(()), "{}", tell(&history, Sabotage::None));
    assert_eq!(run(Sabotage::MirrorGoesBack), Err("payment 0 is recorded twice".to_owned()));
}

/// A test that cannot fail says nothing: each of these must be noticed.
#[test]
fn every_sabotage_is_noticed() {
    for sabotage in Sabotage::ALL {
        let noticed = (0..UNNOTICED).find(|seed| {
            let history = history(*seed);
            run(history.setting, &history.steps, sabotage, None).is_err()
        });
        match noticed {
            Some(seed) => println!("{sabotage:?}: noticed in history {}", seed + 1),
            None => panic!("{sabotage:?} was not noticed in {UNNOTICED} histories"),
        }
    }
}
