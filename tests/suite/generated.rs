//! Repositories of any size in seconds: manifests, notes and segments made from the description of the format,
//! with the keys of a real slot, so that every one of them is as authentic as what the program writes.

use pastfs::clock::{self, Time};
use pastfs::format::config::Config;
use pastfs::format::object::{Envelope, Kind, Signed, body, head};
use pastfs::format::pack::{Frame, Header, PackEntry, Recipient, SEALED_KEY_LEN, Space};
use pastfs::format::segment::{Segment, Signature, Vouched};
use pastfs::format::slot::{Secrets, Slot};
use pastfs::format::snapshot::{Action, Manifest, Note, Private, Totals};
use pastfs::id::{ChunkId, NoteId, PackId, RepositoryId, SegmentId, SessionId, SnapshotId};
use pastfs::seal::{IndexKey, Root, Signer, SigningSeed, key_file_wrapping_key, seal_box, seal_to};
use std::fs;
use std::path::{Path, PathBuf};

/// The first snapshot is of this time: 2020-01-01.
const FIRST: i64 = 1_577_836_800;
/// From one snapshot to the next: 10,000 are six years.
const STEP: i64 = 5 * 3600;
/// Chunks of a pack: 32 MiB of 32 KiB each.
pub const PACK_CHUNKS: u64 = 1000;
/// Chunks of a frame.
const FRAME_CHUNKS: usize = 16;
const HOSTS: [&str; 5] = ["ana", "ben", "cora", "web.example.org", "db.example.org"];

/// Who can write into a repository: what its first slot gives to the holder of the key file.
pub struct Author {
    dir: PathBuf,
    repository: RepositoryId,
    epoch: u32,
    index_key: IndexKey,
    reading: [u8; 32],
    authority: Signer,
    signer: Signer,
    certificate: Vec<u8>,
}

impl Author {
    /// Opens the one slot of a repository.
    pub fn of(repository: &Path, key_file: &Path) -> Self {
        let file = fs::read_dir(repository.join("keys")).unwrap().next().unwrap().unwrap().path();
        let slot = Slot::decode(body(Kind::Slot, &fs::read(file).unwrap()).unwrap()).unwrap();
        let key = key_file_wrapping_key(&fs::read(key_file).unwrap(), &slot.salt).unwrap();
        let aad = [b"pastfs v1 slot secrets", &slot.associated()[..]].concat();
        let secrets = Secrets::decode(&key.open(&aad, &slot.secrets).unwrap()).unwrap();
        let root = Root::from_slice(&secrets.root.unwrap()).unwrap();
        Self {
            dir: repository.to_path_buf(),
            repository: slot.repository,
            epoch: slot.epoch,
            index_key: IndexKey::from_slice(&secrets.index_key).unwrap(),
            reading: root.reading().public(),
            authority: root.authority(),
            signer: SigningSeed::from_slice(&secrets.signing_seed).unwrap().signer(),
            certificate: secrets.certificate.clone(),
        }
    }

    fn seal(&self, kind: Kind, body: Vec<u8>) -> Vec<u8> {
        let signature = self.signer.sign(kind.context(), &self.repository, &body);
        let plain = Signed { body, certificate: self.certificate.clone(), signature }.encode();
        let head = Envelope::head(kind, self.epoch);
        let aad = [&head[..], &self.repository.0].concat();
        [&head[..], &seal_box(self.index_key.as_bytes(), &aad, &plain).unwrap()].concat()
    }

    fn store(&self, folder: &str, id: String, object: &[u8]) {
        let folder = self.dir.join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(id), object).unwrap();
    }

    /// Adds `count` snapshots of these trees, `from` being the number of the first.
    pub fn snapshots(&self, roots: &[ChunkId], from: usize, count: usize) -> Vec<SnapshotId> {
        let info = [b"pastfs v1 manifest private", &self.repository.0[..]].concat();
        let mut parent = None;
        let mut ids = Vec::new();
        for n in from..from + count {
            let session = SessionId(clock::random_array());
            let time = Time { seconds: FIRST + n as i64 * STEP, nanos: 0 };
            let private =
                Private { paths: vec![b"/home/ana".to_vec(), b"/etc".to_vec()], ..Private::default() };
            let private = private.encode();
            let sealed = seal_to(&self.reading, &self.index_key, self.epoch, &info, &session.0, &private);
            let manifest = Manifest {
                time,
                host: HOSTS[n % HOSTS.len()].into(),
                tags: if n % 3 == 0 { vec![b"nightly".to_vec()] } else { Vec::new() },
                root: roots[n % roots.len()],
                session,
                parent,
                totals: Totals { files: 84_000, folders: 5_000, bytes: 1 << 30, ..Totals::default() },
                private: sealed.unwrap(),
                program: b"pastfs 0.1.0".to_vec(),
                began: time,
                ended: Time { seconds: time.seconds + 60, nanos: 0 },
                unknown: Default::default(),
            };
            let object = self.seal(Kind::Manifest, manifest.encode());
            let id = SnapshotId::of_object(&object);
            self.store("snapshots", id.hex(), &object);
            parent = Some(id);
            ids.push(id);
        }
        ids
    }

    #[allow(dead_code)] // for the tests
    /// Adds a manifest as it is.
    pub fn manifest(&self, manifest: &Manifest) {
        let object = self.seal(Kind::Manifest, manifest.encode());
        self.store("snapshots", SnapshotId::of_object(&object).hex(), &object);
    }

    #[allow(dead_code)] // for the tests
    /// Adds a config that is changed.
    pub fn config(&self, number: u64, change: impl FnOnce(&mut Config)) {
        let before = fs::read(self.dir.join(format!("config/{}", number - 1))).unwrap();
        let signed = Signed::decode(body(Kind::Config, &before).unwrap()).unwrap();
        let mut config = Config::decode(&signed.body).unwrap();
        config.number = number;
        change(&mut config);
        let body = config.encode();
        let signature = self.authority.sign(Kind::Config.context(), &self.repository, &body);
        let signed = Signed { body, certificate: Vec::new(), signature };
        self.store("config", number.to_string(), &[&head(Kind::Config)[..], &signed.encode()].concat());
    }

    /// Adds a note on snapshots.
    pub fn note(&self, action: Action, snapshots: &[SnapshotId]) -> NoteId {
        let note = Note {
            action,
            time: clock::now(),
            snapshots: snapshots.to_vec(),
            tags: Vec::new(),
            session: None,
            lost: Vec::new(),
            unknown: Default::default(),
        };
        let object = self.seal(Kind::Note, note.encode());
        let id = NoteId::of_object(&object);
        self.store("notes", id.hex(), &object);
        id
    }

    /// Adds `chunks` chunks in made-up packs, in `segments` segments.
    pub fn chunks(&self, chunks: u64, segments: u64) {
        self.packs(chunks, segments, |_| ());
    }

    #[allow(dead_code)] // for the benchmarks
    /// The same; `each` hears of every pack.
    pub fn chunks_heard(&self, chunks: u64, segments: u64, mut each: impl FnMut(&[ChunkId])) {
        self.packs(chunks, segments, |entry| each(&entry.ids));
    }

    #[allow(dead_code)] // for the benchmarks
    /// The same, with files as long as the packs, which take no space; `each` hears of every pack.
    pub fn sparse_packs(&self, chunks: u64, segments: u64, mut each: impl FnMut(&[ChunkId])) {
        self.packs(chunks, segments, |entry| {
            let hex = entry.pack.hex();
            let folder = self.dir.join("packs").join(&hex[..2]);
            fs::create_dir_all(&folder).unwrap();
            fs::File::create(folder.join(hex)).unwrap().set_len(entry.size).unwrap();
            each(&entry.ids);
        });
    }

    fn packs(&self, chunks: u64, segments: u64, mut each: impl FnMut(&PackEntry)) {
        let packs = chunks.div_ceil(PACK_CHUNKS);
        let mut left = chunks;
        for n in 0..segments {
            let mut entries = Vec::new();
            for _ in n * packs / segments..(n + 1) * packs / segments {
                let count = left.min(PACK_CHUNKS);
                left -= count;
                let entry = entry(count as usize);
                each(&entry);
                let body = entry.encode();
                let signature = self.signer.sign(Kind::Pack.context(), &self.repository, &body);
                entries.push(Vouched { body, signatures: vec![Signature { author: 0, signature }] });
            }
            let segment = Segment {
                created: FIRST,
                session: Some(SessionId(clock::random_array())),
                certificates: vec![self.certificate.clone()],
                entries,
                ..Segment::default()
            };
            let object = self.seal(Kind::Segment, segment.encode());
            self.store("index", SegmentId::of_object(&object).hex(), &object);
        }
    }
}

/// An entry of a pack that is nowhere.
fn entry(chunks: usize) -> PackEntry {
    let mut random = vec![0; chunks * 32];
    clock::random(&mut random);
    let ids: Vec<ChunkId> = random.chunks(32).filter_map(ChunkId::from_slice).collect();
    let recipient = Recipient { hint: [1; 8], sealed: [2; SEALED_KEY_LEN] };
    PackEntry {
        pack: PackId(clock::random_array()),
        size: 64 << 20,
        header: Header { cipher: 1, space: Space::Data, epoch: 1, recipients: vec![recipient] }.encode(),
        frames: ids
            .chunks(FRAME_CHUNKS)
            .map(|c| Frame { sealed_len: 400_000, chunks: vec![32 << 10; c.len()] })
            .collect(),
        ids,
        unknown: Default::default(),
    }
}
