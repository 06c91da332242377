//! A run repeats exactly, a few seeds pass, and each planted bug is found.

use kelson_engine::plant::{self, Bug};

use crate::world::{self, Outcome};

/// Seeds that every run of the tests tries.
const SEEDS: std::ops::Range<u64> = 0..30;

/// Planted bugs, each with a seed that finds it and the invariant that it breaks first. Any change to the simulation or to
/// what happens between members may move them: `make sim FINDS=500` prints the table anew.
const FINDS: &[(Bug, u64, &str)] = &[
    (Bug::AnswerBeforeSync, 0, "quorum"),
    (Bug::UnsyncedAtStart, 1, "quorum"),
    (Bug::VoteForgotten, 0, "ballot"),
    (Bug::ForgottenEarly, 2, "running"),
    (Bug::VoteForAnybody, 9, "agreement"),
    (Bug::SentIsStored, 0, "quorum"),
    (Bug::LeaderReadsAlone, 1, "order"),
    (Bug::FollowerReadsEarly, 4, "register"),
    (Bug::LostIsRetried, 5, "durability"),
    (Bug::LeaderRenewsAlone, 43, "lease"),
    (Bug::LeaseCarriedOver, 2, "lease"),
    (Bug::LeaseCountedEarly, 257, "lease"),
    (Bug::RenewalNotNoted, 7, "lease"),
    (Bug::RevokedInAnyTerm, 23, "lease"),
    (Bug::PurgeBeforeFlush, 4, "running"),
    (Bug::OldStateKept, 217, "running"),
    (Bug::StateWithoutLeases, 1, "agreement"),
    (Bug::CompactedIsAnswered, 0, "answers"),
    (Bug::GapIsSkipped, 0, "watch"),
];

#[track_caller]
fn passes(seed: u64, outcome: &Outcome) {
    let Outcome { violations, trace, .. } = outcome;
    assert!(violations.is_empty(), "{}\n{violations:#?}\nreplay: make sim SEED={seed}", trace.join("\n"));
}

#[test]
fn a_seed_decides_everything() {
    let [one, again, other] = [7, 7, 8].map(|seed| world::run(seed, true));
    let differ = one.trace.iter().zip(&again.trace).find(|(one, again)| one != again);
    assert_eq!(differ, None);
    assert_eq!(one.hash, again.hash);
    assert_ne!(one.hash, other.hash);
    assert!(one.answers > 50, "only {} answers", one.answers);
}

#[test]
fn some_seeds_find_nothing() {
    for seed in SEEDS {
        passes(seed, &world::run(seed, false));
    }
}

#[test]
fn each_planted_bug_is_found_and_nothing_without_it() {
    for &(bug, seed, by) in FINDS {
        plant::plant(Some(bug));
        let found = world::run(seed, false);
        plant::plant(None);
        let first = found.violations.first().map(|violation| violation.invariant);
        assert_eq!(first, Some(by), "seed {seed} with {bug:?}: {:#?}", found.violations);
        passes(seed, &world::run(seed, false));
    }
}

#[test]
fn no_planted_bug_is_left_out() {
    for bug in Bug::ALL {
        assert!(FINDS.iter().any(|(one, ..)| *one == bug), "{bug:?}");
    }
}
