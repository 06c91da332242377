//! The store is killed at random moments under a load of everything that it can do: nothing acknowledged is lost, every
//! key is linearizable, watches go on without a gap or a repetition, and leases live as long as was promised.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::load::TTL;
use super::run::{Run, setting};
use super::store::Place;
use crate::poll;

/// Kills in a run of all tests; `KELSON_TEST_KILLS` sets another number.
const KILLS: u64 = 12;
/// A life lasts at most so long; every eighth so long that leases run out in it.
const LIFE: Duration = Duration::from_millis(500);

#[test]
fn killed_at_random_moments_under_a_mixed_load() {
    let kills = setting("KELSON_TEST_KILLS").unwrap_or(KILLS);
    let seed = setting("KELSON_TEST_SEED").unwrap_or_else(rand::random);
    eprintln!("replay: KELSON_TEST_SEED={seed} KELSON_TEST_KILLS={kills} cargo test --test all killed_at_random");
    let mut random = StdRng::seed_from_u64(seed);
    let place = Place::new();
    let run = Run::new(vec![place.url()], &mut random);
    let mut program = place.start();
    for kill in 1..=kills {
        run.begin(kill);
        let longer = if kill % 8 == 5 { Duration::from_secs(TTL as u64 + 1) } else { Duration::ZERO };
        poll::strike_after(longer + LIFE.mul_f64(random.random_range(0.05..1.0)));
        run.check();
        program.kill();
        program = place.start();
    }
    run.begin(kills + 1);
    poll::strike_after(LIFE);
    run.judge(&format!("{kills} kills"), &place.url());
    program.kill();
}
