//! Files of objects that were read a moment ago, still open: a pack is read frame by frame, and to open it each time
//! takes seven calls, as long as reading a small frame.

use parking_lot::Mutex;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// Files that stay open at most. One that is deleted meanwhile takes its space until it is closed: 32 packs are 1 GiB.
const FILES_MAX: usize = 32;

/// Open files by name of object, the one that was used last at the end.
#[derive(Debug, Default)]
pub(super) struct Opened {
    files: Mutex<Vec<(String, Arc<File>)>>,
}

impl Opened {
    /// The file of an object, and what it is like now; `None` if it is not open, or has lost its name.
    pub fn get(&self, name: &str) -> Option<(Arc<File>, Metadata)> {
        let file = {
            let files = &mut *self.files.lock();
            let at = files.iter().rposition(|(known, _)| known == name)?;
            let used = files.remove(at);
            let file = used.1.clone();
            files.push(used);
            file
        };
        match file.metadata() {
            Ok(now) if now.nlink() > 0 => Some((file, now)),
            _ => {
                self.close(name);
                None
            }
        }
    }

    /// Keeps a file open for the next one who asks.
    pub fn keep(&self, name: &str, file: &Arc<File>) {
        let files = &mut *self.files.lock();
        if files.len() == FILES_MAX {
            files.remove(0);
        }
        files.push((name.to_owned(), file.clone()));
    }

    /// Closes one.
    pub fn close(&self, name: &str) {
        self.files.lock().retain(|(known, _)| known != name);
    }

    /// Closes all: what was deleted is not to take space any longer.
    pub fn close_all(&self) {
        self.files.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::folder::tests::Scratch;

    #[test]
    fn a_file_that_lost_its_name_is_not_given_and_the_number_is_bounded() {
        let folder = Scratch::new();
        let opened = Opened::default();
        for n in 0..FILES_MAX + 2 {
            let name = format!("packs/{n}");
            assert!(opened.get(&name).is_none());
            let file = Arc::new(File::create(folder.0.join(n.to_string())).unwrap());
            opened.keep(&name, &file);
            assert!(opened.get("packs/0").is_some(), "used each time");
        }
        assert_eq!(opened.files.lock().len(), FILES_MAX);
        assert!(opened.get("packs/1").is_none(), "the one that was not used for longest");
        std::fs::rename(folder.0.join("3"), folder.0.join("4")).unwrap();
        assert!(opened.get("packs/4").is_none());
        assert!(opened.get("packs/3").is_some());
        opened.close_all();
        assert!(opened.get("packs/3").is_none());
    }
}
