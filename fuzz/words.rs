//! One function for each thing that people write, or whose bytes are a file's: times, names of folders, patterns, and
//! what the chunker cuts. Like targets.rs this is part of the fuzzing targets and of the ordinary tests.

use pastfs::chunk::{Chunker, Params, Splitter};
use pastfs::clock::Time;
use pastfs::format::paper::Paper;
use pastfs::id::SnapshotId;
use pastfs::moment::{self, Selector};
use pastfs::mount::{Named, Names};
use pastfs::source::Exclude;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A name (of the target and of its corpus) and the function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] =
    &[("moment", moment), ("names", names), ("exclude", exclude), ("chunker", chunker), ("paper", paper)];

/// Any text is a snapshot's name, or none: never a panic, and what is found is among what was given.
pub fn moment(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = moment::parse_time(text);
    let Some(selector) = moment::parse(text, &moment::now()) else { return };
    let times = [i64::MIN, -1, 0, 1_700_000_000, i64::MAX].map(|seconds| Time { seconds, nanos: 0 });
    if let Some(at) = moment::pick(&selector, &times, |t| *t) {
        assert!(at < times.len());
    }
    if selector == Selector::Latest {
        assert_eq!(text, "latest");
    }
}

/// Whatever the template, hosts and tags: every snapshot has a name of its own that a folder can have.
pub fn names(data: &[u8]) {
    let mut parts = data.splitn(3, |b| *b == 0);
    let (template, host, tag) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let Ok(template) = std::str::from_utf8(template) else { return };
    let Ok(names) = Names::new(Some(template), false) else { return };
    let tags = [tag.to_vec(), b"t".to_vec()];
    let ids = [[1; 32], [2; 32], [0xfe; 32]].map(SnapshotId);
    let named = |(n, id)| Named {
        time: Time { seconds: 1_700_000_000 + n as i64 / 2, nanos: 0 },
        id,
        host,
        tags: &tags,
    };
    let snapshots: Vec<Named<'_>> = ids.iter().enumerate().map(named).collect();
    let mut found = names.all(&snapshots);
    assert_eq!(found.len(), snapshots.len());
    for name in &found {
        assert!((1..=255).contains(&name.len()) && name != b"." && name != b"..", "{name:?}");
        assert!(!name.contains(&b'/') && !name.contains(&0), "{name:?}");
    }
    found.sort();
    found.dedup();
    assert_eq!(found.len(), snapshots.len(), "two snapshots have one name");
}

/// Any text is a key on paper or none; what is read is printed as what reads the same.
pub fn paper(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(paper) = Paper::from_text(text) {
        assert_eq!(Paper::from_text(&paper.lines().join("\n")).expect("its own lines"), paper);
        assert_eq!(Paper::from_text(&paper.code()).expect("its own code"), paper);
    }
}

/// Lines are patterns, the last one is a path.
pub fn exclude(data: &[u8]) {
    let lines: Vec<&OsStr> = data.split(|b| *b == b'\n').map(OsStr::from_bytes).collect();
    let Some((path, patterns)) = lines.split_last() else { return };
    if let Ok(exclude) = Exclude::new(patterns, &[] as &[&Path]) {
        let path = Path::new("/").join(path);
        let _ = (exclude.matches(&path, false), exclude.matches(&path, true), exclude.is_empty());
    }
}

/// What is cut is all there was, in pieces that are not too long, the same from memory and from a reader.
pub fn chunker(data: &[u8]) {
    let Some((seed, data)) = data.split_first_chunk::<8>() else { return };
    let Some((sizes, bytes)) = data.split_first_chunk::<13>() else { return };
    let kind = u64::from(sizes[0] % 3);
    let Ok(params) = Params::from_parts(kind, if kind == 2 { &sizes[1..5] } else { &sizes[1..] }) else {
        return;
    };
    // A little goes a long way: as often as it takes for some cuts.
    let bytes = bytes.repeat(1 + (4 << 10) / bytes.len().max(1));
    let chunker = Chunker::new(params, u64::from_le_bytes(*seed)).expect("what was read is in range");
    let pieces: Vec<&[u8]> = chunker.split(&bytes).collect();
    assert_eq!(pieces.concat(), bytes);
    assert!(pieces.iter().all(|p| (1..=params.max()).contains(&p.len())));
    let mut splitter = Splitter::new(&chunker, &bytes[..]);
    for piece in pieces {
        assert_eq!(splitter.next().expect("memory can be read"), Some(piece));
    }
    assert_eq!(splitter.next().expect("memory can be read"), None);
}
