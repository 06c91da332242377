//! The tasks of one start of a member, which can all be ended between two steps, as `kill -9` or a power cut does.

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinHandle},
};

use super::Observe;

/// Finished tasks are looked for when this many have been added.
const SWEEP: usize = 256;

/// One start of a member; clones share it.
#[derive(Clone)]
pub struct Life(Arc<Inner>);

struct Inner {
    observer: Arc<dyn Observe>,
    dead: AtomicBool,
    died: Notify,
    tasks: Mutex<Vec<AbortHandle>>,
}

thread_local! {
    /// Whose task is being polled.
    static CURRENT: RefCell<Option<Life>> = const { RefCell::new(None) };
}

impl Life {
    /// A new life, all of whose doings `observer` sees.
    pub fn new(observer: Arc<dyn Observe>) -> Life {
        Life(Arc::new(Inner { observer, dead: AtomicBool::new(false), died: Notify::new(), tasks: Mutex::default() }))
    }

    /// The life of the task at hand.
    pub(crate) fn current() -> Life {
        CURRENT.with_borrow(|life| life.clone()).expect("a node is opened within a life")
    }

    /// Runs a task until it or this life ends.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let handle = tokio::spawn(Living { life: self.clone(), task: Box::pin(task) });
        let mut tasks = self.0.tasks.lock();
        if tasks.len() % SWEEP == SWEEP - 1 {
            tasks.retain(|task| !task.is_finished());
        }
        tasks.push(handle.abort_handle());
        handle
    }

    /// Ends it: none of its tasks takes another step.
    pub fn kill(&self) {
        self.0.dead.store(true, Ordering::SeqCst);
        self.0.tasks.lock().drain(..).for_each(|task| task.abort());
        self.0.died.notify_waiters();
    }

    /// Whether it has been killed.
    pub fn is_over(&self) -> bool {
        self.0.dead.load(Ordering::SeqCst)
    }

    /// Returns when it has been killed.
    pub async fn over(&self) {
        let died = self.0.died.notified();
        if !self.is_over() {
            died.await;
        }
    }
}

/// A task of a life.
struct Living<F> {
    life: Life,
    task: Pin<Box<F>>,
}

impl<F: Future> Future for Living<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if self.life.is_over() {
            return Poll::Pending;
        }
        let before = CURRENT.replace(Some(self.life.clone()));
        let polled = self.task.as_mut().poll(cx);
        CURRENT.set(before);
        polled
    }
}

/// Runs a task in the life of the one at hand.
pub(crate) fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    match CURRENT.with_borrow(|life| life.clone()) {
        Some(life) => life.spawn(task),
        None => tokio::spawn(task),
    }
}

/// There are no threads here; what takes time is the medium's matter.
pub(crate) async fn blocking<T>(work: impl FnOnce() -> T) -> io::Result<T> {
    Ok(work())
}

pub(super) fn with_observer(tell: impl FnOnce(&dyn Observe)) {
    if let Some(life) = CURRENT.with_borrow(|life| life.clone()) {
        tell(&*life.0.observer);
    }
}
