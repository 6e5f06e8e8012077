//! The allocator, and how soon what it holds is the system's again.

use libmimalloc_sys::{mi_option_set, mi_option_t};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc.h, which the bindings have no name for.
const PURGE_DELAY: mi_option_t = 15;
/// For so long a freed page is kept for what comes next, milliseconds; mimalloc's own is a second, and it purges only while
/// it allocates, so that what a burst took stayed.
const KEPT_MS: i64 = 10;

/// A server with many small connections lives with little memory between its bursts: huge pages, of which a few bytes are in
/// use here and there, and freed pages that wait for long made three times as much of it.
pub fn give_back_early() {
    // It works with huge pages as well.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // SAFETY: sets a number in a table of atomics; the option is one of the table.
    unsafe { mi_option_set(PURGE_DELAY, KEPT_MS) }
}
