//! Which errno a failure becomes. One table, so that the doubtful choices are argued in one place.

use crate::fault::{Error, Fault};

/// An error number as the kernel wants it, positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// The name is not there, and nothing promised it.
    pub const ENOENT: Self = Self(libc::ENOENT);
    /// What is there cannot be read.
    pub const EIO: Self = Self(libc::EIO);
    /// Nothing is ever written here.
    pub const EROFS: Self = Self(libc::EROFS);
    /// There is no such attribute. Never ENOSYS: that switches xattrs off for the whole mount.
    pub const ENODATA: Self = Self(libc::ENODATA);
    /// A file where a folder is needed.
    pub const ENOTDIR: Self = Self(libc::ENOTDIR);
    /// A folder where a file is needed.
    pub const EISDIR: Self = Self(libc::EISDIR);
    /// Not what this call is for.
    pub const EINVAL: Self = Self(libc::EINVAL);
    /// Behind the end of the data.
    pub const ENXIO: Self = Self(libc::ENXIO);
    /// The kernel names a node that it gave back.
    pub const ESTALE: Self = Self(libc::ESTALE);
    /// The buffer is too small.
    pub const ERANGE: Self = Self(libc::ERANGE);
    /// Longer than Linux can pass on.
    pub const E2BIG: Self = Self(libc::E2BIG);
    /// Not offered: the kernel remembers it, and asks no more.
    pub const ENOSYS: Self = Self(libc::ENOSYS);
}

/// The errno of a failure to read what a snapshot promised.
///
/// Nearly all is EIO. A `Missing` object must not look like a missing file, and a store that denies,
/// is busy or full is no property of the file: programs would take EACCES for the file's mode, and do
/// not expect EAGAIN of a regular file. The observer has been told the true cause.
pub fn of(error: &Error) -> Errno {
    match error.fault() {
        Fault::Stopped => Errno(libc::EINTR),
        Fault::Missing
        | Fault::Damaged
        | Fault::Denied
        | Fault::Busy
        | Fault::Full
        | Fault::Misuse
        | Fault::NoRepository
        | Fault::WrongKey
        | Fault::Newer
        | Fault::Io
        | Fault::Bug => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_object_never_looks_like_a_missing_file() {
        assert_eq!(of(&Error::new(Fault::Missing, "pack is gone")), Errno::EIO);
        assert_eq!(of(&Error::damaged("hash differs")), Errno::EIO);
    }
}
