//! The allocator: what a mount that stays up for months holds is what it uses.

/// Frames of more than half a megabyte come and go on several threads. glibc either keeps holes between them (60 MB after
/// reading 3 GB) or, told to give them back, faults each page in anew: 405,000 faults for a `cat` of 1.6 GB and twice
/// the system time, against 49,000 here. It does not take the place of malloc(3) for what is written in C (RocksDB, zstd): while
/// it sets itself up it asks for the time, and under faketime(1), which allocates to answer that, it would wait for itself for ever.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// jemalloc's settings: few arenas, as fragmentation grows with each, and what is free for a second goes back to the
/// system: a `cat` of 1.6 GB faults 78,000 pages in then, 57,000 with 3 s, in the same time, and peaks 6 to 12 MB lower.
/// Large blocks begin on a page (`cache_oblivious` would shift them to spread them over the processor's cache), so that
/// packs can be written past the page cache from where they lie.
#[unsafe(export_name = "_rjem_malloc_conf")]
static SETTINGS: Settings =
    Settings(c"narenas:4,dirty_decay_ms:1000,muzzy_decay_ms:0,cache_oblivious:false".as_ptr());

/// A pointer to text that lives as long as the program: what C calls `const char *malloc_conf`.
#[repr(transparent)]
struct Settings(*const std::ffi::c_char);
// SAFETY: the text is constant.
unsafe impl Sync for Settings {}

/// Starts the thread that gives memory back also while nothing is allocated. Not before the process has gone into
/// the background: a fork leaves threads behind.
pub fn give_back_when_idle() {
    let on = true;
    // SAFETY: jemalloc(3): the name ends with a zero, and the new value is a bool that lives through the call. Where
    // it is refused, memory is given back at the next allocations.
    unsafe {
        tikv_jemalloc_sys::mallctl(
            c"background_thread".as_ptr(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            (&raw const on).cast_mut().cast(),
            size_of::<bool>(),
        );
    }
}
