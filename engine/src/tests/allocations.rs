//! What a thread allocates, counted: so that memory for each of many things is held to a bound by a test.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// What this thread has allocated.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allocated {
    /// Allocations, growths included.
    pub times: u64,
    /// Bytes that were allocated and not freed; what other threads free of it still counts.
    pub bytes: i64,
}

thread_local! {
    static ALLOCATED: Cell<Allocated> = const { Cell::new(Allocated { times: 0, bytes: 0 }) };
}

/// What this thread allocates while it does `work`.
pub fn during<T>(work: impl FnOnce() -> T) -> (Allocated, T) {
    let before = ALLOCATED.get();
    let done = work();
    let now = ALLOCATED.get();
    (Allocated { times: now.times - before.times, bytes: now.bytes - before.bytes }, done)
}

fn count(times: u64, bytes: i64) {
    // A thread that ends frees what it has when its counters may be gone already.
    let _ = ALLOCATED.try_with(|allocated| {
        let now = allocated.get();
        allocated.set(Allocated { times: now.times + times, bytes: now.bytes + bytes });
    });
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on as it came to the system's allocator, which keeps the contract. The counters are a
// thread's own plain cells: counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as i64);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(0, -(layout.size() as i64));
        // SAFETY: `at` came from `alloc` or `realloc` above, so from the system's allocator, with this layout.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size as i64 - layout.size() as i64);
        // SAFETY: as for `dealloc`; the caller keeps the contract for the new size.
        unsafe { System.realloc(at, layout, size) }
    }
}
