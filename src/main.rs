//! The `pastfs` program: parse, run, exit.

/// Frames of half a megabyte come and go on several threads. glibc either keeps holes between them (60 MB after
/// reading 3 GB) or, told to give them back, faults each page in anew: 405,000 faults for a `cat` of 1.6 GB and twice
/// the system time, against 49,000 here.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// jemalloc's settings: few arenas, as fragmentation grows with each, and what is free for 3 s goes back to the system,
/// by a thread of its own also where the program sleeps.
#[unsafe(export_name = "malloc_conf")]
static SETTINGS: Settings =
    Settings(c"narenas:4,background_thread:true,dirty_decay_ms:3000,muzzy_decay_ms:0".as_ptr());

/// A pointer to text that lives as long as the program: what C calls `const char *malloc_conf`.
#[repr(transparent)]
struct Settings(*const std::ffi::c_char);
// SAFETY: the text is constant.
unsafe impl Sync for Settings {}

fn main() -> std::process::ExitCode {
    pastfs::cli::main()
}
