//! The allocator, and the pages that it takes from the system.

use libmimalloc_sys::{
    mi_option_large_os_pages, mi_option_set, mi_option_set_enabled_default, mi_option_t, mi_option_use_numa_nodes,
};

// The C library's allocator is measurably slower here and keeps more memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Before anything is allocated, since what the allocator has reserved by then stays as it is.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = use_huge_pages;

/// Asks the system for huge pages: an index of millions of keys is read all over, and with small pages most of a write is
/// waiting for their addresses. `MIMALLOC_ALLOW_LARGE_OS_PAGES=0` in the environment turns it off.
extern "C" fn use_huge_pages() {
    // SAFETY: the function writes one of the allocator's own options, which are initialized statically; no thread but this
    // one exists before `main`.
    unsafe { mi_option_set_enabled_default(mi_option_large_os_pages, true) }
}

/// The bindings leave it out: it stands before the number of NUMA nodes.
const PURGE_DELAY: mi_option_t = mi_option_use_numa_nodes - 1;

/// Keeps from now on what is freed, in place of giving it back to the system soon. For measurements: of what a run on
/// fresh memory takes, the system's share may be half, and differs from one run to the next.
pub fn keep_what_is_freed() {
    // SAFETY: the function writes one of the allocator's own options, which any thread reads at any time.
    unsafe { mi_option_set(PURGE_DELAY, -1) }
}
