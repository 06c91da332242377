//! Telling those who hold on to a permission that it may be gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Waker;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

/// Who is to be woken when the auth state changes.
#[derive(Default)]
pub(crate) struct Listeners {
    wakers: Mutex<FxHashMap<u64, Waker>>,
    next: AtomicU64,
}

impl Listeners {
    pub fn join(self: &Arc<Self>) -> AuthListener {
        AuthListener { id: self.next.fetch_add(1, Relaxed), listeners: self.clone() }
    }

    pub fn wake(&self) {
        // Outside of the lock: who is woken may register anew.
        let wakers: Vec<Waker> = self.wakers.lock().values().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// One who wants to know of changes of the auth state; no more when dropped.
pub struct AuthListener {
    id: u64,
    listeners: Arc<Listeners>,
}

impl AuthListener {
    /// Has `waker` woken at every change from now on, in place of the one before. To be called before the state is
    /// looked at.
    pub fn register(&self, waker: &Waker) {
        let mut wakers = self.listeners.wakers.lock();
        match wakers.get_mut(&self.id) {
            Some(known) => known.clone_from(waker),
            None => _ = wakers.insert(self.id, waker.clone()),
        }
    }
}

impl Drop for AuthListener {
    fn drop(&mut self) {
        self.listeners.wakers.lock().remove(&self.id);
    }
}
