//! Patterns of names to leave out, as gitignore(5) writes them.

use crate::fault::{Doing, Error, Result};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;

/// Largest file of patterns in bytes: what is larger is no list that somebody wrote.
const FILE_MAX: u64 = 16 << 20;

/// A list of patterns; of all that match, the last one decides.
///
/// A pattern without a slash, or with one only at its end, matches that name at any depth: `*.o`. One
/// with a slash in front or within is anchored at the root of the file system: `/home/*/.cache`. `**`
/// matches any number of folders, a slash at the end means folders only, and `!` in front takes a
/// match back. What is in a folder that is left out cannot be taken back.
///
/// Matching is on raw bytes: names need not be UTF-8, and `?` and `[...]` stand for one byte of such.
#[derive(Clone, Debug)]
pub struct Exclude {
    patterns: Gitignore,
}

impl Default for Exclude {
    fn default() -> Self {
        Self { patterns: Gitignore::empty() }
    }
}

impl Exclude {
    /// Patterns of the command line first, then the lines of the files in their order (with comments
    /// and blank lines). `Misuse` for a pattern that cannot be understood, naming it and its place.
    pub fn new<P: AsRef<OsStr>, F: AsRef<Path>>(patterns: &[P], files: &[F]) -> Result<Self> {
        let mut builder = GitignoreBuilder::new("/");
        builder.allow_unclosed_class(false);
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let wrong = |why: &str| wrong(&pattern.to_string_lossy(), None, why);
            let text = pattern.to_str().ok_or_else(|| wrong(NOT_UTF8))?;
            if text.trim().is_empty() {
                return Err(wrong("it is empty"));
            }
            // In a file this is a comment; here somebody means the name.
            match text.strip_prefix('#') {
                Some(rest) => add(&mut builder, &format!("\\#{rest}")),
                None => add(&mut builder, text),
            }
            .map_err(|why| wrong(&why))?;
        }
        for file in files {
            let file = file.as_ref();
            let doing = || format!("reading the patterns in {}", file.display());
            let mut bytes = Vec::new();
            let opened = std::fs::File::open(file).doing(doing)?;
            opened.take(FILE_MAX + 1).read_to_end(&mut bytes).doing(doing)?;
            if bytes.len() as u64 > FILE_MAX {
                return Err(Error::misuse("the file is over 16 MiB")).doing(doing);
            }
            let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
            for (i, line) in bytes.split(|b| *b == b'\n').enumerate() {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                let wrong = |why: &str| wrong(&String::from_utf8_lossy(line), Some((file, i + 1)), why);
                let text = std::str::from_utf8(line).map_err(|_| wrong(NOT_UTF8))?;
                if !text.trim().is_empty() && !text.starts_with('#') {
                    add(&mut builder, text).map_err(|why| wrong(&why))?;
                }
            }
        }
        let patterns = builder.build();
        Ok(Self {
            patterns: patterns
                .map_err(|e| Error::with_source(crate::fault::Fault::Misuse, "reading the patterns", e))?,
        })
    }
    /// Whether there are no patterns at all.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }
    /// Whether this absolute path is left out. Folders above it are not asked: who is in a folder that
    /// is left out never comes here.
    pub fn matches(&self, path: &Path, folder: bool) -> bool {
        self.patterns.matched(path, folder).is_ignore()
    }
}

const NOT_UTF8: &str = "it is no UTF-8: write ? for the bytes that are not";

/// Adds one pattern, or says what is wrong with it.
fn add(builder: &mut GitignoreBuilder, pattern: &str) -> std::result::Result<(), String> {
    let bare = pattern.trim_end().trim_start_matches('!').trim_matches('/');
    if bare.is_empty() {
        return Err("it matches nothing".to_owned());
    }
    match builder.add_line(None, pattern) {
        Ok(_) => Ok(()),
        Err(ignore::Error::Glob { err, .. }) => Err(err),
        Err(e) => Err(e.to_string()),
    }
}

fn wrong(pattern: &str, place: Option<(&Path, usize)>, why: &str) -> Error {
    Error::misuse(match place {
        Some((file, line)) => {
            format!("the pattern `{pattern}` in line {line} of {} is wrong: {why}", file.display())
        }
        None => format!("the pattern `{pattern}` is wrong: {why}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;
    use std::os::unix::ffi::OsStrExt;

    fn patterns(list: &[&str]) -> Exclude {
        Exclude::new::<_, &str>(list, &[]).unwrap()
    }
    fn fails(list: &[&str]) -> String {
        let error = Exclude::new::<_, &str>(list, &[]).unwrap_err();
        assert_eq!(error.fault(), Fault::Misuse);
        error.to_string()
    }

    #[test]
    fn patterns_match_as_gitignore_says() {
        let e = patterns(&["*.o", "/home/*/cache", "build/", "a/b", "**/tmp/x", "!keep.o", "#lock#"]);
        let file = |p: &str| e.matches(Path::new(p), false);
        let folder = |p: &str| e.matches(Path::new(p), true);
        assert!(file("/x.o") && file("/deep/down/x.o") && folder("/x.o"));
        assert!(!file("/keep.o") && !file("/src/keep.o"));
        assert!(folder("/home/ana/cache") && !folder("/srv/home/ana/cache") && !folder("/home/a/b/cache"));
        assert!(folder("/src/build") && !file("/src/build"));
        assert!(file("/a/b") && !file("/c/a/b"));
        assert!(file("/tmp/x") && file("/c/tmp/x"));
        assert!(file("/src/#lock#"));
        assert!(!file("/home") && !folder("/"));
        assert!(patterns(&[]).is_empty() && !e.is_empty());
    }

    #[test]
    fn names_that_are_no_utf8_are_matched() {
        let e = patterns(&["*.bak", "caf?"]);
        let path = |b: &[u8]| e.matches(Path::new(OsStr::from_bytes(b)), false);
        assert!(path(b"/\xff\xfe.bak") && path(b"/x/caf\xe9") && !path(b"/x/cafe\xe9"));
    }

    #[test]
    fn wrong_patterns_are_named() {
        assert!(fails(&["ok", "[a"]).contains("`[a`"));
        assert!(fails(&["{a"]).contains("`{a`"));
        assert!(fails(&["/"]).contains("nothing"));
        assert!(fails(&["!"]).contains("nothing"));
        assert!(fails(&[" "]).contains("empty"));
        let bytes = Exclude::new::<_, &str>(&[OsStr::from_bytes(b"\xff")], &[]).unwrap_err();
        assert_eq!(bytes.fault(), Fault::Misuse);
    }

    #[test]
    fn files_of_patterns_have_comments_blank_lines_and_line_numbers() {
        let path = std::env::temp_dir().join(format!("pastfs-exclude-{}", std::process::id()));
        std::fs::write(&path, "\u{feff}# comment\n\n*.o\r\n!keep.o\n\\#x\n  \n").unwrap();
        let e = Exclude::new(&["keep.*"], &[&path]).unwrap();
        assert!(e.matches(Path::new("/a.o"), false) && !e.matches(Path::new("/keep.o"), false));
        assert!(e.matches(Path::new("/keep.c"), false) && e.matches(Path::new("/#x"), false));
        std::fs::write(&path, "a\n\nb[\n").unwrap();
        let error = Exclude::new::<&str, _>(&[], &[&path]).unwrap_err().to_string();
        assert!(error.contains("line 3 of") && error.contains("`b[`"), "{error}");
        std::fs::remove_file(&path).unwrap();
        let gone = Exclude::new::<&str, _>(&[], &[&path]).unwrap_err();
        assert_eq!(gone.fault(), Fault::Missing);
    }
}
