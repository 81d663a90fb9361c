//! Writing past the page cache.

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};

/// Shorter objects go through the page cache: below a megabyte the disk's own latency is what counts.
const DIRECT_MIN: usize = 1 << 20;
/// What open(2) asks of O_DIRECT at most: address, length and offset are multiples of the file system's block.
const ALIGNMENT: usize = 4096;

/// Writes all of `bytes` to a new file. Large objects are written from where they lie (`O_DIRECT`, open(2)): nobody
/// reads a pack soon, so in the page cache it would only push out what the machine works with, and copying it there
/// is dear: 1 GiB with fsync took 3.6 s and 2.3 s of CPU through the cache, 0.8 s and 0.1 s past it (ext4, virtual disk).
/// Where the file system knows no such way, or the bytes do not lie on a border of pages, it is an ordinary write.
pub(super) fn write_new(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    let mut written = 0;
    if bytes.len() >= DIRECT_MIN && bytes.as_ptr().addr().is_multiple_of(ALIGNMENT) && set(file, true).is_ok()
    {
        let whole = bytes.len() / ALIGNMENT * ALIGNMENT;
        while written < whole {
            match rustix::io::write(&*file, &bytes[written..whole]) {
                // A short write may end anywhere; the rest goes the ordinary way.
                Ok(n) => {
                    written += n;
                    if n == 0 || !n.is_multiple_of(ALIGNMENT) {
                        break;
                    }
                }
                Err(Errno::INTR) => {}
                // The file system has other borders than we know of, or took the flag and cannot do it.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => break,
                Err(e) => return Err(e.into()),
            }
        }
        set(file, false)?;
    }
    file.write_all(&bytes[written..])
}

fn set(file: &File, direct: bool) -> rustix::io::Result<()> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, direct);
    fcntl_setfl(file, flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes at an address with this remainder.
    fn bytes_at(remainder: usize, len: usize, around: &mut Vec<u8>) -> &[u8] {
        *around = (0..len + 2 * ALIGNMENT).map(|i| (i / 7 % 251) as u8).collect();
        let start = around.as_ptr().align_offset(ALIGNMENT) + remainder;
        &around[start..start + len]
    }

    #[test]
    fn what_is_written_is_the_same_wherever_it_lies_and_however_long_it_is() {
        // On a disk, where O_DIRECT means something; the folder of temporary files may lie in memory.
        for folder in [std::env::temp_dir(), std::env::current_dir().unwrap()] {
            for len in
                [0, 1, DIRECT_MIN - 1, DIRECT_MIN, DIRECT_MIN + 1, DIRECT_MIN + ALIGNMENT, (3 << 20) + 17]
            {
                for remainder in [0, 1, 512] {
                    let path = folder.join(format!(".direct-{}-{len}-{remainder}", std::process::id()));
                    let mut file = File::create_new(&path).unwrap();
                    let mut around = Vec::new();
                    let bytes = bytes_at(remainder, len, &mut around);
                    let result = write_new(&mut file, bytes);
                    let read = std::fs::read(&path);
                    std::fs::remove_file(&path).unwrap();
                    result.unwrap();
                    assert!(read.unwrap() == bytes, "{len} bytes at {remainder}");
                }
            }
        }
    }

    #[test]
    fn a_full_disk_is_an_error_and_not_a_short_object() {
        let mut around = Vec::new();
        let bytes = bytes_at(0, DIRECT_MIN, &mut around);
        let mut full = File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(write_new(&mut full, bytes).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
