//! What a check found: for each cause the chunks and the files that it hits, some of them by name.

use crate::fault::Error;
use crate::id::{ChunkId, PackId, SnapshotId};
use std::collections::BTreeMap;

/// Most chunks, and most files, that a finding names; all are counted.
pub const NAMED_MAX: usize = 10;

/// Something that is wrong with a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// The object's name in the store; of what lies in none, the folder where it should.
    pub object: String,
    /// What is wrong.
    pub what: String,
    /// Chunks that are lost by it, the first of them.
    pub chunks: Vec<ChunkId>,
    /// How many there are, where that is known; at least so many.
    pub lost: u64,
    /// Files (or folders, with all in them) that need them, the first of them.
    pub files: Vec<Hit>,
    /// How many there are, those of each snapshot counted by themselves.
    pub hits: u64,
    /// What to do.
    pub advice: String,
}

/// A file that needs what is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Absolute, as it was saved.
    pub path: Vec<u8>,
    /// Snapshots in which it is hit, the first of them.
    pub snapshots: Vec<SnapshotId>,
}

/// Why a chunk is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The pack that it lies in.
    Pack(PackId),
    /// It is named with another length than its file says.
    Length,
    /// No segment that can be read names it.
    Unnamed,
    /// The packs that it lay in are retired, and it is not there any more.
    Lost,
}

const REPLICA: &str =
    "`pastfs repair from REPLICA` brings it back, if there is a replica; all else can still be used";
const MISSING: &str = "`pastfs repair from REPLICA` brings it back, if there is a replica; else `pastfs repair index` takes \
                       it out of the index, and the next backup stores again what the source still has";
const OBJECT: &str = "`pastfs repair snapshots` puts it back on a machine that has listed it before; else `pastfs repair from \
                      REPLICA` does. While it is there no prune deletes anything; `pastfs repair snapshots \
                      --drop-damaged` removes it";
const LIST: &str = "run `pastfs repair index`: it names again all packs that are there; what is not, the next backup after it \
                    stores again if the source still has it";
const LOST: &str = "back up again the folders that are hit: what the source still has is stored again; `pastfs repair \
                    snapshots` leaves out what stays lost";

const SETTLE: &str = "run `pastfs repair index`: it reads the packs that segments do not agree about, and makes the segments say what \
                      is so";

const READ: &str = "run `pastfs repair packs --read-data`: it finds out which packs are whole and what lies in them, and makes the \
                    segments say so";

fn name_of(pack: &PackId) -> String {
    let hex = pack.hex();
    format!("packs/{}/{hex}", &hex[..2])
}

/// What to do about an object, by the folder that it lies in.
fn advice_for(object: &str) -> &'static str {
    match object.split_once('/') {
        Some(("index", _)) => LIST,
        Some(("notes" | "snapshots", _)) => OBJECT,
        _ => REPLICA,
    }
}

/// What to do about a pack that is there and damaged.
fn save(pack: &PackId) -> String {
    format!(
        "`pastfs repair from REPLICA --read-data` brings it back, if there is a replica; else `pastfs repair packs {pack}` saves what \
         is whole of it, and the next backup stores again what the source still has"
    )
}

/// Findings by their causes.
#[derive(Debug, Default)]
pub struct Findings {
    found: BTreeMap<Cause, Finding>,
    others: Vec<Finding>,
    /// There are packs that no segment names, or segments that cannot be read: what is not named may be there.
    pub is_index_torn: bool,
    /// The last hit of each cause: a file with many lost chunks counts once.
    last: BTreeMap<Cause, (SnapshotId, Vec<u8>)>,
}

impl Findings {
    /// An object that names no chunk.
    pub fn object(&mut self, name: &str, e: &Error) {
        let advice = e.advice().unwrap_or(advice_for(name)).to_owned();
        self.others.push(Finding { object: name.into(), what: e.chain(), advice, ..Finding::default() });
    }

    /// What heals a pack is damaged or missing.
    pub fn parity(&mut self, pack: PackId, e: &Error) {
        let object = format!("parity/{pack}");
        if !self.others.iter().any(|f| f.object == object) {
            self.object(&object, e);
        }
    }

    /// Segments do not agree about a pack. No file is hit by that alone.
    pub fn disputed(&mut self, pack: PackId) {
        self.others.push(Finding {
            object: name_of(&pack),
            what: "index segments do not agree about what lies in it".into(),
            advice: SETTLE.into(),
            ..Finding::default()
        });
    }

    /// A pack of so many chunks that is not there.
    pub fn missing(&mut self, pack: PackId, chunks: u64) {
        self.pack(pack, || "it is missing".into(), MISSING).lost = chunks;
    }

    /// A pack of so many chunks that is not there with its size.
    pub fn cut(&mut self, pack: PackId, what: String, chunks: u64) {
        self.pack(pack, || what, &save(&pack)).lost = chunks;
    }

    /// A pack that does not hold what it must; the first reason counts.
    pub fn damaged(&mut self, pack: PackId, e: Error) {
        self.pack(pack, || e.chain(), &save(&pack));
    }

    fn pack(&mut self, pack: PackId, what: impl FnOnce() -> String, advice: &str) -> &mut Finding {
        self.found.entry(Cause::Pack(pack)).or_insert_with(|| Finding {
            object: name_of(&pack),
            what: what(),
            advice: advice.into(),
            ..Finding::default()
        })
    }

    /// Chunks of a pack that were read and are lost, whoever needs them.
    pub fn lost(&mut self, pack: PackId, chunks: &[ChunkId]) {
        if let Some(f) = self.found.get_mut(&Cause::Pack(pack)) {
            f.lost += chunks.len() as u64;
            f.chunks.extend(chunks.iter().take(NAMED_MAX.saturating_sub(f.chunks.len())));
        }
    }

    /// A file that needs a chunk which is lost.
    pub fn hit(&mut self, cause: Cause, chunk: &ChunkId, snapshot: SnapshotId, path: &[u8]) {
        let is_index_torn = self.is_index_torn;
        let f = self.found.entry(cause).or_insert_with(|| Finding {
            object: if matches!(cause, Cause::Pack(_) | Cause::Lost) { "packs/" } else { "index/" }.into(),
            what: match cause {
                Cause::Pack(_) => "a pack cannot be used",
                Cause::Lost => "chunks that snapshots need are lost: the packs that held them are damaged or missing, and retired",
                Cause::Length => "chunks are named with another length than their files say",
                Cause::Unnamed => "chunks that snapshots need are named by no index segment that can be read",
            }
            .into(),
            advice: match cause {
                Cause::Unnamed if is_index_torn => LIST,
                Cause::Unnamed | Cause::Lost => LOST,
                Cause::Length => READ,
                Cause::Pack(_) => REPLICA,
            }
            .into(),
            ..Finding::default()
        });
        // Counted exactly while there are few; of a pack that was read all are known.
        if f.chunks.len() < NAMED_MAX && !f.chunks.contains(chunk) {
            f.chunks.push(*chunk);
            f.lost = f.lost.max(f.chunks.len() as u64);
        }
        if self.last.get(&cause).is_some_and(|(s, p)| *s == snapshot && p == path) {
            return;
        }
        self.last.insert(cause, (snapshot, path.to_vec()));
        f.hits += 1;
        let has_room = f.files.len() < NAMED_MAX;
        match f.files.iter_mut().find(|file| file.path == path) {
            Some(file) if file.snapshots.len() < NAMED_MAX => file.snapshots.push(snapshot),
            Some(_) => {}
            None if has_room => {
                f.files.push(Hit { path: path.to_vec(), snapshots: vec![snapshot] });
            }
            None => {}
        }
    }

    /// Whether anything was found that would be explained by what others deleted meanwhile.
    pub fn lacks_something(&self) -> bool {
        !self.found.is_empty()
    }

    /// All of them: objects first, then packs by name, then chunks.
    pub fn into_list(self) -> Vec<Finding> {
        self.others.into_iter().chain(self.found.into_values()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_once_each_and_named_up_to_a_bound() {
        let mut findings = Findings::default();
        let pack = PackId([1; 32]);
        findings.missing(pack, 24);
        let snapshots = [SnapshotId([2; 32]), SnapshotId([3; 32])];
        for snapshot in snapshots {
            for file in 0..8u8 {
                for chunk in 0..3u8 {
                    let id = ChunkId([file * 3 + chunk; 32]);
                    findings.hit(Cause::Pack(pack), &id, snapshot, &[b'/', b'a' + file]);
                }
            }
        }
        let list = findings.into_list();
        assert_eq!(list.len(), 1);
        assert_eq!((list[0].hits, list[0].files.len(), list[0].chunks.len()), (16, 8, NAMED_MAX));
        assert_eq!(list[0].lost, 24);
        assert!(list[0].files.iter().all(|f| f.snapshots == snapshots));
        assert_eq!(list[0].what, "it is missing");
        assert!(list[0].object.starts_with("packs/01/0101"));
    }
}
