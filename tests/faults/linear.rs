//! Whether what clients saw of one key can be explained by one order of their operations, each taking effect at one
//! moment between its call and its answer (linearizability, per key).
//!
//! The search is Wing and Gong's with Lowe's just-in-time rule: an operation is put in order only when somebody's answer
//! demands it, so what must be remembered at a time is the operations under way, not the history.

use std::collections::HashSet;
use std::fmt;

/// Operations that may be under way at a time.
const SLOTS: usize = 64;

/// What a key holds: values are told apart by numbers that are written once each.
pub type Value = Option<u64>;

/// What was asked and what came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Read {
        seen: Value,
    },
    Put {
        to: u64,
    },
    Delete {
        /// Whether there was something to delete.
        found: bool,
    },
    /// Writes `to` where the key holds `from`.
    Swap {
        from: Value,
        to: Value,
        result: Swapped,
    },
    /// A put or deletion whose answer never came: it took effect or it did not.
    MaybeWrite {
        to: Value,
    },
    /// The same of a swap.
    MaybeSwap {
        from: Value,
        to: Value,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swapped {
    Done,
    /// The key held this instead.
    Refused(Value),
}

impl Action {
    /// The states that the key may be in after this, where it was in `state`; none if this cannot have happened there.
    fn outcomes(self, state: Value) -> impl Iterator<Item = Value> {
        let (first, second) = match self {
            Action::Read { seen } => (Some(state).filter(|state| *state == seen), None),
            Action::Put { to } => (Some(Some(to)), None),
            Action::Delete { found } => (Some(None).filter(|_| state.is_some() == found), None),
            Action::Swap { from, to, result: Swapped::Done } => (Some(to).filter(|_| state == from), None),
            Action::Swap { from, result: Swapped::Refused(seen), .. } => {
                (Some(state).filter(|state| *state != from && *state == seen), None)
            }
            Action::MaybeWrite { to } => (Some(state), Some(to)),
            Action::MaybeSwap { from, to } => (Some(state), Some(to).filter(|_| state == from)),
        };
        first.into_iter().chain(second)
    }
}

/// One operation of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Before the request was sent, on a clock that all clients share.
    pub start: u64,
    /// After the answer came; of an operation without an answer, when it can no longer take effect.
    pub end: u64,
    pub action: Action,
}

/// Why no order explains a history.
#[derive(Debug)]
pub struct Violation {
    /// The operation whose answer fits none of the orders that explain all answers before it.
    pub call: Call,
    /// The operations under way then.
    pub beside: Vec<Call>,
    /// What the key could have held, and which of `beside` (by bit) had taken effect.
    pub possible: Vec<(u64, Value)>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?} cannot be explained; under way beside it:", self.call)?;
        for call in &self.beside {
            writeln!(f, "  {call:?}")?;
        }
        write!(f, "before it the key could hold {:?}", self.possible)
    }
}

/// Checks the calls of one key that begins empty.
///
/// # Errors
/// The first answer that cannot be explained.
pub fn check(calls: &[Call]) -> Result<(), Violation> {
    // An answer comes before a call of the same moment: the stricter reading.
    let mut moments: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * calls.len());
    for (index, call) in calls.iter().enumerate() {
        assert!(call.start <= call.end, "{call:?} ends before it begins");
        moments.push((call.start, true, index));
        moments.push((call.end.max(call.start + 1), false, index));
    }
    moments.sort_unstable();
    let mut slots: [Option<usize>; SLOTS] = [None; SLOTS];
    let mut configurations: HashSet<(u64, Value)> = HashSet::from([(0, None)]);
    for (_, begins, index) in moments {
        if begins {
            let free = slots.iter_mut().find(|slot| slot.is_none()).expect("more operations under way than slots");
            *free = Some(index);
            continue;
        }
        let slot = slots.iter().position(|held| *held == Some(index)).expect("it has begun");
        let next = answered(calls, &slots, &configurations, slot);
        if next.is_empty() {
            let beside = slots.iter().flatten().filter(|other| **other != index).map(|other| calls[*other]).collect();
            let possible = configurations.into_iter().collect();
            return Err(Violation { call: calls[index], beside, possible });
        }
        configurations = next;
        slots[slot] = None;
    }
    Ok(())
}

/// The configurations in which the operation of `slot` has taken effect, reached by letting operations under way take
/// effect one after the other.
fn answered(
    calls: &[Call],
    slots: &[Option<usize>; SLOTS],
    configurations: &HashSet<(u64, Value)>,
    slot: usize,
) -> HashSet<(u64, Value)> {
    let mut reached = configurations.clone();
    let mut open: Vec<(u64, Value)> = configurations.iter().copied().collect();
    let mut done = HashSet::new();
    while let Some((taken, state)) = open.pop() {
        if taken & 1 << slot != 0 {
            done.insert((taken & !(1 << slot), state));
            continue;
        }
        for (other, held) in slots.iter().enumerate() {
            let Some(index) = held.filter(|_| taken & 1 << other == 0) else { continue };
            for after in calls[index].action.outcomes(state) {
                let next = (taken | 1 << other, after);
                if reached.insert(next) {
                    open.push(next);
                }
            }
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn call(start: u64, end: u64, action: Action) -> Call {
        Call { start, end, action }
    }

    fn read(seen: u64) -> Action {
        Action::Read { seen: Some(seen).filter(|seen| *seen != 0) }
    }

    fn put(to: u64) -> Action {
        Action::Put { to }
    }

    fn swap(from: u64, to: u64, result: Swapped) -> Action {
        Action::Swap { from: Some(from), to: Some(to), result }
    }

    #[track_caller]
    fn fine(calls: &[Call]) {
        if let Err(violation) = check(calls) {
            panic!("{violation}");
        }
    }

    #[track_caller]
    fn wrong(calls: &[Call], blamed: usize) {
        let violation = check(calls).expect_err("accepted");
        assert_eq!(violation.call, calls[blamed], "{violation}");
    }

    #[test]
    fn one_client_after_the_other() {
        fine(&[]);
        fine(&[call(0, 1, read(0)), call(2, 3, put(1)), call(4, 5, read(1)), call(6, 7, put(2)), call(8, 9, read(2))]);
        wrong(&[call(0, 1, put(1)), call(2, 3, read(0))], 1);
        wrong(&[call(0, 1, put(1)), call(2, 3, put(2)), call(4, 5, read(1))], 2);
        wrong(&[call(0, 1, read(1)), call(2, 3, put(1))], 0);
    }

    #[test]
    fn an_acknowledged_write_that_is_lost_is_found() {
        let gone = [call(0, 9, put(1)), call(10, 19, put(2)), call(20, 29, read(1))];
        wrong(&gone, 2);
        wrong(&[call(0, 9, put(1)), call(20, 29, Action::Delete { found: false })], 1);
    }

    #[test]
    fn operations_at_the_same_time_may_be_in_any_order_but_in_one() {
        let both = [call(0, 10, put(1)), call(0, 10, put(2))];
        for last in [1, 2] {
            fine(&[both[0], both[1], call(11, 12, read(last)), call(13, 14, read(last))]);
        }
        wrong(&[both[0], both[1], call(11, 12, read(1)), call(13, 14, read(2))], 3);
        // Two readers during the writes who disagree about the order.
        wrong(&[both[0], both[1], call(1, 2, read(1)), call(3, 4, read(2)), call(5, 6, read(1))], 4);
    }

    #[test]
    fn a_read_that_goes_back_is_found() {
        let write = call(0, 100, put(1));
        fine(&[write, call(10, 20, read(0)), call(30, 40, read(1))]);
        wrong(&[write, call(10, 20, read(1)), call(30, 40, read(0))], 2);
    }

    #[test]
    fn of_two_swaps_from_one_value_one_is_refused() {
        let first = call(0, 1, put(1));
        let done = |to| call(2, 9, swap(1, to, Swapped::Done));
        fine(&[first, done(2), call(2, 9, swap(1, 3, Swapped::Refused(Some(2))))]);
        assert!(check(&[first, done(2), done(3)]).is_err());
        assert!(check(&[first, done(2), call(2, 9, swap(1, 3, Swapped::Refused(Some(1))))]).is_err());
        assert!(check(&[first, call(2, 9, swap(1, 3, Swapped::Refused(None)))]).is_err());
    }

    #[test]
    fn a_deletion_knows_whether_there_was_something() {
        let delete = |start, found| call(start, start + 1, Action::Delete { found });
        fine(&[delete(0, false), call(2, 3, put(1)), delete(4, true), delete(6, false), call(8, 9, read(0))]);
        wrong(&[delete(0, true)], 0);
    }

    #[test]
    fn without_an_answer_it_happened_or_not_and_not_later() {
        let cut = call(0, 10, Action::MaybeWrite { to: Some(1) });
        fine(&[cut, call(11, 12, read(0)), call(13, 14, read(0))]);
        fine(&[cut, call(11, 12, read(1)), call(13, 14, read(1))]);
        wrong(&[cut, call(11, 12, read(0)), call(13, 14, read(1))], 2);
        wrong(&[cut, call(11, 12, read(1)), call(13, 14, read(0))], 2);
        let swap = call(0, 10, Action::MaybeSwap { from: Some(5), to: Some(1) });
        fine(&[swap, call(11, 12, read(0))]);
        wrong(&[swap, call(11, 12, read(1))], 1);
    }

    /// Tries every order of the calls.
    fn by_permutation(calls: &[Call], state: Value, left: u32) -> bool {
        if left == 0 {
            return true;
        }
        let open = |index: &usize| left & 1 << *index != 0;
        (0..calls.len()).filter(open).any(|index| {
            let is_first = (0..calls.len())
                .filter(open)
                .all(|other| other == index || calls[other].end.max(calls[other].start + 1) > calls[index].start);
            is_first
                && calls[index].action.outcomes(state).any(|after| by_permutation(calls, after, left & !(1 << index)))
        })
    }

    #[test]
    fn agrees_with_trying_every_order() {
        let mut random = StdRng::seed_from_u64(7);
        let mut verdicts = [0, 0];
        for _ in 0..20_000 {
            let calls: Vec<Call> = (0..random.random_range(1..7))
                .map(|number: u64| {
                    let value = |random: &mut StdRng| Some(random.random_range(0..4)).filter(|value| *value != 0);
                    let to = number + 1;
                    let action = match random.random_range(0..7) {
                        0 | 1 => Action::Read { seen: value(&mut random) },
                        2 => put(to),
                        3 => Action::Delete { found: random.random() },
                        4 => Action::Swap { from: value(&mut random), to: Some(to), result: Swapped::Done },
                        5 => Action::Swap {
                            from: value(&mut random),
                            to: Some(to),
                            result: Swapped::Refused(value(&mut random)),
                        },
                        _ => Action::MaybeWrite { to: Some(to) },
                    };
                    let start = random.random_range(0..12);
                    call(start, start + random.random_range(1..8), action)
                })
                .collect();
            let expected = by_permutation(&calls, None, (1 << calls.len()) - 1);
            assert_eq!(check(&calls).is_ok(), expected, "{calls:?}");
            verdicts[usize::from(expected)] += 1;
        }
        assert!(verdicts.iter().all(|count| *count > 1_000), "{verdicts:?}");
    }
}
