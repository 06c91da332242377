//! The primitives that threads meet at, behind one name so that loom can swap them.
//!
//! `make loom` runs the interleavings of small cases (`loom_tests`). There a primitive is as weak as what it stands for
//! allows: a slot that another thread has set may be seen late, as on a real machine.

#[cfg(not(all(test, loom)))]
mod primitives {
    pub(crate) use std::sync::OnceLock;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};

    use std::sync::{Arc, Weak};

    pub(crate) use arc_swap::ArcSwap;
    pub(crate) use parking_lot::{Mutex, RwLock};

    /// What a weak pointer leads to, if it is still there.
    pub(crate) fn upgrade<T>(weak: &Weak<T>) -> Option<Arc<T>> {
        weak.upgrade()
    }
}

#[cfg(all(test, loom))]
mod primitives {
    use std::sync::{Arc, Weak};

    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
    use loom::sync::atomic::{Ordering::Acquire, Ordering::Release};
    use loom::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};

    loom::lazy_static! {
        /// Stands for all reference counts: loom switches threads only where they meet at something that it knows.
        static ref COUNTS: loom::sync::Mutex<()> = loom::sync::Mutex::new(());
    }

    pub(crate) fn upgrade<T>(weak: &Weak<T>) -> Option<Arc<T>> {
        let _counts = COUNTS.lock();
        weak.upgrade()
    }

    /// A pointer that is swapped whole; what the protocols around it rely on, not how it does that.
    pub(crate) struct ArcSwap<T>(Mutex<Arc<T>>);

    impl<T> ArcSwap<T> {
        pub(crate) fn new(value: Arc<T>) -> Self {
            ArcSwap(Mutex::new(value))
        }

        pub(crate) fn from_pointee(value: T) -> Self {
            ArcSwap::new(Arc::new(value))
        }

        pub(crate) fn load(&self) -> Arc<T> {
            self.load_full()
        }

        pub(crate) fn load_full(&self) -> Arc<T> {
            Arc::clone(&self.0.lock())
        }

        pub(crate) fn store(&self, value: Arc<T>) {
            let before = std::mem::replace(&mut *self.0.lock(), value);
            let _counts = COUNTS.lock();
            drop(before);
        }
    }

    /// Set once. Whether it is set is one atomic, so a reader may learn it late but never sees a part of the value.
    pub(crate) struct OnceLock<T> {
        value: std::sync::OnceLock<T>,
        set: AtomicBool,
    }

    impl<T> OnceLock<T> {
        pub(crate) fn new() -> Self {
            OnceLock { value: std::sync::OnceLock::new(), set: AtomicBool::new(false) }
        }

        pub(crate) fn get(&self) -> Option<&T> {
            if self.set.load(Acquire) { self.value.get() } else { None }
        }

        pub(crate) fn set(&self, value: T) -> Result<(), T> {
            self.value.set(value)?;
            self.set.store(true, Release);
            Ok(())
        }
    }

    /// A mutex that is not poisoned.
    #[derive(Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("loom's locks are not poisoned")
        }
    }

    /// A lock that is not poisoned.
    #[derive(Default)]
    pub(crate) struct RwLock<T>(loom::sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn new(value: T) -> Self {
            RwLock(loom::sync::RwLock::new(value))
        }

        pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
            self.0.read().expect("loom's locks are not poisoned")
        }

        pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
            self.0.write().expect("loom's locks are not poisoned")
        }
    }
}

pub(crate) use primitives::*;
