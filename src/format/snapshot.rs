//! `snapshots/<id>`: a manifest; `notes/<id>`; `leases/<session>-<n>`.

use super::cbor::{MapWriter, Reader, Unknown, Writer, invalid, required};
use super::object::map_of;
use crate::clock::Time;
use crate::fault::Result;
use crate::id::{ChunkId, ID_LEN, NoteId, SessionId, SnapshotId};

/// Longest tag, host or program name in bytes.
pub const TEXT_MAX: usize = 1024;
/// Most tags of a snapshot.
pub const TAGS_MAX: usize = 256;
/// Longest path in bytes.
pub const PATH_MAX: usize = 64 << 10;
/// Most files that a manifest names as not read; the rest is counted.
pub const UNREAD_MAX: usize = 10_000;
/// Most sweeps, and most notes, that a lease names. A longer list is refused, never cut: what a lease
/// does not name counts as not seen by its holder.
pub const LEASE_NAMES_MAX: usize = 10_000;

/// How much a snapshot holds and what it cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Regular files (names, so a file with two hard links counts twice).
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Everything else.
    pub others: u64,
    /// Bytes of all files as stat gave them.
    pub bytes: u64,
    /// Files that were read, because they were new or changed.
    pub read_files: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Bytes of new chunks before compression.
    pub new_bytes: u64,
    /// Bytes of the packs and segments that were added to the store.
    pub stored_bytes: u64,
}

/// The body of a manifest. Every key holder sees it, but for [`Manifest::private`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The time that names the snapshot.
    pub time: Time,
    /// Host name, its author's word.
    pub host: Vec<u8>,
    /// Tags given at birth; notes change them.
    pub tags: Vec<Vec<u8>>,
    /// Root page of the tree of `/`.
    pub root: ChunkId,
    /// The session that wrote it.
    pub session: SessionId,
    /// The snapshot that it was compared with.
    pub parent: Option<SnapshotId>,
    /// Sizes.
    pub totals: Totals,
    /// [`Private`], sealed to the reading key.
    pub private: Vec<u8>,
    /// Program and version that wrote it.
    pub program: Vec<u8>,
    /// When the backup began and ended by its host's clock.
    pub began: Time,
    /// See `began`.
    pub ended: Time,
    /// Fields of a newer version.
    pub unknown: Unknown,
}

fn write_time(w: &mut Writer, t: Time) {
    w.array(2).integer(t.seconds).unsigned(u64::from(t.nanos));
}

fn read_time(r: &mut Reader<'_>) -> Result<Time> {
    r.exactly(2)?;
    Time::new(r.integer()?, r.u32()?).ok_or_else(|| invalid("nanoseconds out of range"))
}

/// The head of an array of at most `limit` items.
fn names(r: &mut Reader<'_>, limit: usize) -> Result<usize> {
    let n = r.array()?;
    if n > limit { Err(invalid("a list is over its limit")) } else { Ok(n) }
}

fn read_texts(r: &mut Reader<'_>, count: usize, len: usize) -> Result<Vec<Vec<u8>>> {
    let mut texts = Vec::new();
    for _ in 0..names(r, count)? {
        texts.push(r.bytes(len)?.to_vec());
    }
    Ok(texts)
}

fn write_texts(w: &mut Writer, texts: &[Vec<u8>]) {
    w.array(texts.len());
    for t in texts {
        w.bytes(t);
    }
}

impl Manifest {
    /// The encoded body.
    pub fn encode(&self) -> Vec<u8> {
        let mut m = MapWriter::new();
        write_time(m.field(1), self.time);
        m.field(2).bytes(&self.host);
        write_texts(m.field(3), &self.tags);
        m.field(4).bytes(&self.root.0);
        m.field(5).bytes(&self.session.0);
        if let Some(parent) = &self.parent {
            m.field(6).bytes(&parent.0);
        }
        let t = &self.totals;
        let w = m.field(7).array(8);
        for n in
            [t.files, t.folders, t.others, t.bytes, t.read_files, t.read_bytes, t.new_bytes, t.stored_bytes]
        {
            w.unsigned(n);
        }
        m.field(8).bytes(&self.private);
        m.field(9).bytes(&self.program);
        write_time(m.field(10), self.began);
        write_time(m.field(11), self.ended);
        m.unknown(&self.unknown);
        m.finish()
    }

    /// Reads a body.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (mut time, mut host, mut root, mut session) = (None, None, None, None);
        let (mut parent, mut totals, mut private) = (None, None, None);
        let (mut tags, mut program) = (None, None);
        let (mut began, mut ended) = (None, None);
        let unknown = map_of(bytes, |key, r| {
            match key {
                1 => time = Some(read_time(r)?),
                2 => host = Some(r.bytes(TEXT_MAX)?.to_vec()),
                3 => tags = Some(read_texts(r, TAGS_MAX, TEXT_MAX)?),
                4 => root = Some(ChunkId(r.array_of()?)),
                5 => session = Some(SessionId(r.array_of()?)),
                6 => parent = Some(SnapshotId(r.array_of()?)),
                7 => {
                    r.exactly(8)?;
                    totals = Some(Totals {
                        files: r.unsigned()?,
                        folders: r.unsigned()?,
                        others: r.unsigned()?,
                        bytes: r.unsigned()?,
                        read_files: r.unsigned()?,
                        read_bytes: r.unsigned()?,
                        new_bytes: r.unsigned()?,
                        stored_bytes: r.unsigned()?,
                    });
                }
                8 => private = Some(r.bytes(bytes.len())?.to_vec()),
                9 => program = Some(r.bytes(TEXT_MAX)?.to_vec()),
                10 => began = Some(read_time(r)?),
                11 => ended = Some(read_time(r)?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self {
            time: required(time, "the time")?,
            host: required(host, "the host")?,
            tags: required(tags, "the tags")?,
            root: required(root, "the root")?,
            session: required(session, "the session")?,
            parent,
            totals: required(totals, "the totals")?,
            private: required(private, "the private part")?,
            program: required(program, "the program")?,
            began: required(began, "the begin")?,
            ended: required(ended, "the end")?,
            unknown,
        })
    }
}

/// A file that the backup could not read, or that changed while it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// Absolute path.
    pub path: Vec<u8>,
    /// What went wrong, for people.
    pub reason: Vec<u8>,
    /// It is in the snapshot, but changed under the reading; else it is missing or empty there.
    pub changed: bool,
}

/// The part of a manifest that names paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Private {
    /// What was asked for: absolute paths.
    pub paths: Vec<Vec<u8>>,
    /// The first [`UNREAD_MAX`] files that were not read.
    pub unread: Vec<Unread>,
    /// How many there were.
    pub unread_total: u64,
    /// Fields of a newer version.
    pub unknown: Unknown,
}

impl Private {
    /// The encoded map.
    pub fn encode(&self) -> Vec<u8> {
        let mut m = MapWriter::new();
        write_texts(m.field(1), &self.paths);
        let w = m.field(2).array(self.unread.len());
        for u in &self.unread {
            w.array(3).bytes(&u.path).bytes(&u.reason).boolean(u.changed);
        }
        m.field(3).unsigned(self.unread_total);
        m.unknown(&self.unknown);
        m.finish()
    }
    /// Reads the map.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (mut paths, mut unread, mut unread_total) = (None, None, None);
        let unknown = map_of(bytes, |key, r| {
            match key {
                1 => paths = Some(read_texts(r, usize::MAX, PATH_MAX)?),
                2 => {
                    let mut list = Vec::new();
                    for _ in 0..names(r, UNREAD_MAX)? {
                        r.exactly(3)?;
                        let path = r.bytes(PATH_MAX)?.to_vec();
                        let reason = r.bytes(TEXT_MAX)?.to_vec();
                        list.push(Unread { path, reason, changed: r.boolean()? });
                    }
                    unread = Some(list);
                }
                3 => unread_total = Some(r.unsigned()?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self {
            paths: required(paths, "the paths")?,
            unread: required(unread, "the list of unread files")?,
            unread_total: required(unread_total, "the number of unread files")?,
            unknown,
        })
    }
}

/// What a note does to the snapshots that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Adds tags.
    Tag,
    /// Removes tags.
    Untag,
    /// Protects from forgetting.
    Hold,
    /// Ends that.
    Release,
    /// Hides; prune deletes once it is ripe.
    Forget,
    /// Ends that, while the manifest is there.
    Unforget,
    /// Withdraws a manifest of the author's own session.
    Void,
    /// Names chunks that a repair could not save: backups look whether what they take over unread needs them.
    Lost,
    /// Manifests count although the key of their author has ended.
    Accept,
    /// Something of a newer version, by its number; does nothing here. A version whose notes must be heeded by all
    /// names a feature in the config.
    Newer(u64),
}

impl Action {
    /// The number that the format gives it.
    pub fn code(self) -> u64 {
        match self {
            Self::Tag => 1,
            Self::Untag => 2,
            Self::Hold => 3,
            Self::Release => 4,
            Self::Forget => 5,
            Self::Unforget => 6,
            Self::Void => 7,
            Self::Lost => 8,
            Self::Accept => 9,
            Self::Newer(code) => code,
        }
    }
    /// The action of a number.
    pub fn from_code(code: u64) -> Self {
        match code {
            1 => Self::Tag,
            2 => Self::Untag,
            3 => Self::Hold,
            4 => Self::Release,
            5 => Self::Forget,
            6 => Self::Unforget,
            7 => Self::Void,
            8 => Self::Lost,
            9 => Self::Accept,
            code => Self::Newer(code),
        }
    }
}

/// The body of a note. Later ones win; equal times are ordered by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What it does.
    pub action: Action,
    /// When, by its author's clock.
    pub time: Time,
    /// To which snapshots.
    pub snapshots: Vec<SnapshotId>,
    /// Tags to add or remove.
    pub tags: Vec<Vec<u8>>,
    /// The session that is voided.
    pub session: Option<SessionId>,
    /// The chunks that are lost.
    pub lost: Vec<ChunkId>,
    /// Fields of a newer version.
    pub unknown: Unknown,
}

impl Note {
    /// The encoded body.
    pub fn encode(&self) -> Vec<u8> {
        let mut m = MapWriter::new();
        m.field(1).unsigned(self.action.code());
        write_time(m.field(2), self.time);
        let w = m.field(3).array(self.snapshots.len());
        for id in &self.snapshots {
            w.bytes(&id.0);
        }
        write_texts(m.field(4), &self.tags);
        if let Some(session) = &self.session {
            m.field(5).bytes(&session.0);
        }
        if !self.lost.is_empty() {
            let ids: Vec<u8> = self.lost.iter().flat_map(|id| id.0).collect();
            m.field(6).bytes(&ids);
        }
        m.unknown(&self.unknown);
        m.finish()
    }
    /// Reads a body.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (mut action, mut time, mut session) = (None, None, None);
        let (mut snapshots, mut tags, mut lost) = (None, None, Vec::new());
        let unknown = map_of(bytes, |key, r| {
            match key {
                1 => action = Some(Action::from_code(r.unsigned()?)),
                2 => time = Some(read_time(r)?),
                3 => {
                    let mut list = Vec::new();
                    for _ in 0..r.array()? {
                        list.push(SnapshotId(r.array_of()?));
                    }
                    snapshots = Some(list);
                }
                4 => tags = Some(read_texts(r, TAGS_MAX, TEXT_MAX)?),
                5 => session = Some(SessionId(r.array_of()?)),
                6 => {
                    let (whole, rest) = r.bytes(bytes.len())?.as_chunks::<ID_LEN>();
                    if whole.is_empty() || !rest.is_empty() {
                        return Err(invalid("the ids of lost chunks are cut off"));
                    }
                    lost = whole.iter().map(|id| ChunkId(*id)).collect();
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self {
            action: required(action, "the action")?,
            time: required(time, "the time")?,
            snapshots: required(snapshots, "the snapshots")?,
            tags: required(tags, "the tags")?,
            session,
            lost,
            unknown,
        })
    }
}

/// A process, named so that others on its machine can tell whether it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Drawn by the kernel when it was started (random(4), `boot_id`).
    pub boot: [u8; 16],
    /// The namespace that its number is of (pid_namespaces(7)).
    pub namespace: u64,
    /// Its number there.
    pub number: u64,
    /// When it was started, as proc_pid_stat(5) has it: numbers are given anew.
    pub started: u64,
}

/// The body of a lease: somebody is about to write a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Whose.
    pub session: SessionId,
    /// The `n` of its name.
    pub number: u64,
    /// When the session began and when this was written, by the holder's clock; for people only.
    pub began: Time,
    /// See `began`.
    pub written: Time,
    /// The sweeps whose retirements the holder has seen.
    pub sweeps: Vec<SessionId>,
    /// The forget notes it has seen whose manifests are still there.
    pub forgets: Vec<NoteId>,
    /// Host name.
    pub host: Vec<u8>,
    /// What for, such as `backup`.
    pub purpose: Vec<u8>,
    /// The session is over: it does not count any more.
    pub done: bool,
    /// Of a mark: who is at work.
    pub process: Option<Process>,
    /// Fields of a newer version.
    pub unknown: Unknown,
}

impl Lease {
    /// The encoded body.
    pub fn encode(&self) -> Vec<u8> {
        let mut m = MapWriter::new();
        m.field(1).bytes(&self.session.0);
        m.field(2).unsigned(self.number);
        write_time(m.field(3), self.began);
        write_time(m.field(4), self.written);
        let w = m.field(5).array(self.sweeps.len());
        for s in &self.sweeps {
            w.bytes(&s.0);
        }
        let w = m.field(6).array(self.forgets.len());
        for n in &self.forgets {
            w.bytes(&n.0);
        }
        m.field(7).bytes(&self.host);
        m.field(8).bytes(&self.purpose);
        m.field(9).boolean(self.done);
        if let Some(p) = &self.process {
            let w = m.field(10).array(4);
            w.bytes(&p.boot).unsigned(p.namespace).unsigned(p.number).unsigned(p.started);
        }
        m.unknown(&self.unknown);
        m.finish()
    }
    /// Reads a body.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (mut session, mut number, mut began, mut written) = (None, None, None, None);
        let (mut sweeps, mut forgets) = (None, None);
        let (mut host, mut purpose, mut done, mut process) = (None, None, None, None);
        let unknown = map_of(bytes, |key, r| {
            match key {
                1 => session = Some(SessionId(r.array_of()?)),
                2 => number = Some(r.unsigned()?),
                3 => began = Some(read_time(r)?),
                4 => written = Some(read_time(r)?),
                5 => {
                    let mut list = Vec::new();
                    for _ in 0..names(r, LEASE_NAMES_MAX)? {
                        list.push(SessionId(r.array_of()?));
                    }
                    sweeps = Some(list);
                }
                6 => {
                    let mut list = Vec::new();
                    for _ in 0..names(r, LEASE_NAMES_MAX)? {
                        list.push(NoteId(r.array_of()?));
                    }
                    forgets = Some(list);
                }
                7 => host = Some(r.bytes(TEXT_MAX)?.to_vec()),
                8 => purpose = Some(r.bytes(TEXT_MAX)?.to_vec()),
                9 => done = Some(r.boolean()?),
                10 => {
                    r.exactly(4)?;
                    process = Some(Process {
                        boot: r.array_of()?,
                        namespace: r.unsigned()?,
                        number: r.unsigned()?,
                        started: r.unsigned()?,
                    });
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self {
            session: required(session, "the session")?,
            number: required(number, "the number")?,
            began: required(began, "the begin")?,
            written: required(written, "the time")?,
            sweeps: required(sweeps, "the sweeps")?,
            forgets: required(forgets, "the forget notes")?,
            host: required(host, "the host")?,
            purpose: required(purpose, "the purpose")?,
            done: required(done, "whether it is done")?,
            process,
            unknown,
        })
    }
}
