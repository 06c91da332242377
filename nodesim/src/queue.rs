//! What waits for an API call: first come, first served within a kind, kinds in turn.

use std::collections::VecDeque;

/// A pod's place: slot and generation, so that a place given anew is not mistaken for its former owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot {
    pub index: u32,
    pub generation: u32,
}

/// What waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    Lease(Slot),
    Node(Slot),
    Pod(Slot),
}

/// The waiting line. Its owner sees to it that each object waits at most once per kind: that bounds it.
#[derive(Default)]
pub(crate) struct Queue {
    leases: VecDeque<Slot>,
    nodes: VecDeque<Slot>,
    pods: VecDeque<Slot>,
    turn: u8,
}

impl Queue {
    pub fn push(&mut self, job: Job) {
        match job {
            Job::Lease(slot) => self.leases.push_back(slot),
            Job::Node(slot) => self.nodes.push_back(slot),
            Job::Pod(slot) => self.pods.push_back(slot),
        }
    }

    /// The next job: no kind waits for more than one job of each other kind.
    pub fn pop(&mut self) -> Option<Job> {
        for _ in 0..3 {
            self.turn = (self.turn + 1) % 3;
            let job = match self.turn {
                0 => self.leases.pop_front().map(Job::Lease),
                1 => self.nodes.pop_front().map(Job::Node),
                _ => self.pods.pop_front().map(Job::Pod),
            };
            if job.is_some() {
                return job;
            }
        }
        None
    }

    pub fn len(&self) -> usize {
        self.leases.len() + self.nodes.len() + self.pods.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_take_turns() {
        let slot = |index| Slot { index, generation: 0 };
        let mut queue = Queue::default();
        for index in 0..100 {
            queue.push(Job::Pod(slot(index)));
        }
        queue.push(Job::Lease(slot(0)));
        queue.push(Job::Node(slot(0)));
        let first: Vec<Job> = (0..3).filter_map(|_| queue.pop()).collect();
        assert!(first.contains(&Job::Lease(slot(0))) && first.contains(&Job::Node(slot(0))));
        assert_eq!(queue.len(), 99);
        assert_eq!(std::iter::from_fn(|| queue.pop()).count(), 99);
    }
}
