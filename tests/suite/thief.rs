//! Stolen keys: what somebody can do who has a key of less than full rights, this program's source, and a storage that lets
//! him add objects. Each attack is played twice, with the stolen key and with a full one: where that makes no difference the
//! play proves nothing.

use super::pruning::age;
use super::scene::{Draw, Scene, let_files_settle};
use pastfs::format::object::{Envelope, Kind as Object, RETIREMENT_CONTEXT, Signed, body};
use pastfs::format::pack::{PackEntry, Space};
use pastfs::format::segment::{Retirement, Segment, Signature, Vouched};
use pastfs::format::slot::{Secrets, Slot};
use pastfs::format::snapshot::{Action, Note};
use pastfs::id::{ChunkId, NoteId, PackId, RepositoryId, SegmentId, SessionId, SnapshotId};
use pastfs::pack::{Finished, PackKeys, PackWriter};
use pastfs::seal::{
    Cipher, Compression, Compressor, IdSecret, IndexKey, Kind, Root, Signer, key_file_wrapping_key, seal_box,
};
use std::fs;
use std::path::{Path, PathBuf};

const DAY: u64 = 24 * 3600;

/// Somebody who makes objects by hand, with the secrets of a slot.
pub struct Thief {
    repository: PathBuf,
    pub id: RepositoryId,
    pub epoch: u32,
    pub secrets: Secrets,
    signer: Signer,
}

impl Thief {
    /// With the slot that a key file opens.
    pub fn with(repository: &Path, key_file: &Path) -> Self {
        let key = fs::read(key_file).unwrap();
        for entry in fs::read_dir(repository.join("keys")).unwrap() {
            let object = fs::read(entry.unwrap().path()).unwrap();
            let slot = Slot::decode(body(Object::Slot, &object).unwrap()).unwrap();
            let wrapping = key_file_wrapping_key(&key, &slot.salt).unwrap();
            if wrapping.opens(&slot.commitment) {
                let aad = [&b"pastfs v1 slot secrets"[..], &slot.associated()].concat();
                let secrets = Secrets::decode(&wrapping.open(&aad, &slot.secrets).unwrap()).unwrap();
                let signer = Signer::from_seed(&secrets.signing_seed);
                let (repository, id, epoch) = (repository.to_owned(), slot.repository, slot.epoch);
                return Self { repository, id, epoch, secrets, signer };
            }
        }
        panic!("no slot of that key");
    }

    /// An object, signed and sealed as it must be.
    pub fn seal(&self, kind: Object, body: Vec<u8>) -> Vec<u8> {
        let signature = self.signer.sign(kind.context(), &self.id, &body);
        let signed = Signed { body, certificate: self.secrets.certificate.clone(), signature };
        let head = Envelope::head(kind, self.epoch);
        let aad = [&head[..], &self.id.0].concat();
        [&head[..], &seal_box(&self.secrets.index_key, &aad, &signed.encode()).unwrap()].concat()
    }

    fn put(&self, name: &str, object: &[u8]) {
        let path = self.repository.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, object).unwrap();
    }

    /// The name of a chunk of content.
    fn id_of(&self, bytes: &[u8]) -> ChunkId {
        IdSecret::from_slice(&self.secrets.id_secret).unwrap().id_keys().id(Kind::Data, bytes)
    }

    /// Puts a segment of these.
    pub fn segment(&self, entries: Vec<Vouched>, retirements: Vec<Vouched>) {
        let certificates = vec![self.secrets.certificate.clone()];
        let segment = Segment { created: 1, certificates, entries, retirements, ..Segment::default() };
        let object = self.seal(Object::Segment, segment.encode());
        self.put(&format!("index/{}", SegmentId::of_object(&object)), &object);
    }

    /// Signs a body for a segment.
    pub fn vouched(&self, context: &str, body: Vec<u8>) -> Vouched {
        let signature = self.signer.sign(context, &self.id, &body);
        Vouched { body, signatures: vec![Signature { author: 0, signature }] }
    }

    /// Stores rubbish in a pack, and says that it is these contents.
    pub fn lies(&self, contents: &[&[u8]]) -> PackId {
        let recipient = match &self.secrets.root {
            Some(root) => Root::from_slice(root).unwrap().reading().public(),
            None => self.secrets.reading_public.unwrap(),
        };
        let keys = PackKeys {
            repository: self.id,
            cipher: Cipher::default(),
            index_key: IndexKey::from_slice(&self.secrets.index_key).unwrap(),
            epoch: self.epoch,
            recipient,
        };
        let mut pack = PackWriter::new(&keys, Space::Data, Vec::new()).unwrap();
        let mut compressor = Compressor::new(Compression::None).unwrap();
        for content in contents {
            let rubbish = Draw(77).bytes(content.len());
            let chunks = [(self.id_of(content), content.len() as u32)];
            pack.push(&compressor.payload(&rubbish).unwrap(), &chunks);
        }
        let Finished { entry, bytes } = pack.finish();
        let hex = entry.pack.hex();
        self.put(&format!("packs/{}/{hex}", &hex[..2]), &bytes);
        self.segment(vec![self.vouched(Object::Pack.context(), entry.encode())], Vec::new());
        entry.pack
    }

    /// What segments say of packs.
    pub fn entries(&self) -> Vec<PackEntry> {
        let mut found = Vec::new();
        for segment in fs::read_dir(self.repository.join("index")).unwrap() {
            let object = fs::read(segment.unwrap().path()).unwrap();
            let aad = [&object[..12], &self.id.0].concat();
            let plain = pastfs::seal::open_box(&self.secrets.index_key, &aad, &object[12..]).unwrap();
            let segment = Segment::decode(&Signed::decode(&plain).unwrap().body).unwrap();
            found.extend(segment.entries.iter().map(|v| PackEntry::decode(&v.body).unwrap()));
        }
        found
    }

    /// Says it by a segment.
    pub fn says(&self, entries: &[PackEntry]) {
        let vouched = |e: &PackEntry| self.vouched(Object::Pack.context(), e.encode());
        self.segment(entries.iter().map(vouched).collect(), Vec::new());
    }

    /// Says that packs have ended.
    fn retires(&self, packs: &[PackId]) {
        let retire = |pack: &PackId| {
            let retirement = Retirement {
                pack: *pack,
                sweep: SessionId([9; 16]),
                retired: 1,
                deleted: None,
                unknown: Default::default(),
            };
            self.vouched(RETIREMENT_CONTEXT, retirement.encode())
        };
        self.segment(Vec::new(), packs.iter().map(retire).collect());
    }

    /// Says something of snapshots.
    pub fn notes(&self, action: Action, snapshots: &[SnapshotId]) {
        let note = Note {
            action,
            time: pastfs::clock::now(),
            snapshots: snapshots.to_vec(),
            tags: Vec::new(),
            session: None,
            lost: Vec::new(),
            unknown: Default::default(),
        };
        let object = self.seal(Object::Note, note.encode());
        self.put(&format!("notes/{}", NoteId::of_object(&object)), &object);
    }
}

/// A repository, with a writer key and a reader key besides the full one.
struct Play {
    scene: Scene,
}

impl Play {
    fn new(name: &str) -> Self {
        let scene = Scene::new(name);
        for role in ["writer", "reader"] {
            scene.run(["key", "add", "-q", "--role", role, "--new-key-file", role]).ok();
        }
        Self { scene }
    }

    /// With the stolen key, or with a full one.
    fn thief(&self, is_stolen: bool, role: &str) -> Thief {
        let key = if is_stolen { self.scene.path(role) } else { self.scene.key() };
        Thief::with(&self.scene.repository(), &key)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.scene.source().join(name), bytes).unwrap();
    }

    /// Whether all that is listed can be read.
    fn is_whole(&self) -> bool {
        match self.scene.run(["check", "-q", "--read-data"]).orderly().code {
            Some(0) => true,
            Some(4) => false,
            other => panic!("check ended with {other:?}"),
        }
    }

    fn packs(&self) -> Vec<PackId> {
        let objects = self.scene.objects();
        let names = objects.iter().filter(|p| p.starts_with("packs"));
        names.map(|p| PackId::from_hex(p.file_name().unwrap().to_str().unwrap()).unwrap()).collect()
    }
}

/// L18. A thief says "this chunk lies here" of rubbish, before anybody has stored the chunk. B3: nobody but him skips it.
#[test]
fn a_chunk_that_only_a_writer_key_says_is_there_is_stored_by_everybody_else() {
    for is_stolen in [true, false] {
        let play = Play::new("thief-skip");
        let wanted = Draw(1).bytes(3000);
        play.thief(is_stolen, "writer").lies(&[&wanted]);
        play.write("wanted", &wanted);
        let saved = play.scene.backup(&[]);
        let is_skipped = saved["totals"]["new_bytes"].as_u64().unwrap() < 3000;
        assert_eq!(is_skipped, !is_stolen, "{saved}");
        if is_stolen {
            play.scene.latest_equals_source();
            // What is told of the pack is that it is not what its author says; the snapshot is whole.
            let found = play.scene.run(["check", "--vouch", "--json"]).code(4);
            let told = found.text();
            assert!(told.contains("a writer key says of it") && !told.contains("\"files_hit\":1"), "{told}");
            // And nobody vouches for it.
            let unvouched = &play.scene.run(["check", "--json"]).ok().json()["unvouched_packs"];
            assert_eq!(unvouched, 1);
        } else {
            assert!(!play.is_whole());
        }
    }
}

/// The same of a chunk that is there: prune gives its true place up for no other than one that a full key vouches for (P4).
#[test]
fn a_prune_gives_no_place_up_for_one_that_only_a_writer_key_tells_of() {
    for is_stolen in [true, false] {
        let play = Play::new("thief-prune");
        let wanted = Draw(1).bytes(3000);
        play.write("wanted", &wanted);
        play.write("other", &Draw(2).bytes(400_000));
        let first = play.scene.backup(&[])["snapshot_id"].as_str().unwrap().to_owned();
        fs::remove_file(play.scene.source().join("other")).unwrap();
        play.scene.backup(&[]);
        play.scene.run(["forget", "-q", &first]).ok();
        let before = play.packs();
        age(&play.scene, 2 * DAY);
        // Larger than the pack that is worth emptying, and too young to be emptied itself, which would find it out.
        play.thief(is_stolen, "writer").lies(&[&wanted, &Draw(3).bytes(2_000_000)]);
        play.scene.run(["prune", "-q", "--now", "--max-unused", "0"]).ok();
        let gone = before.iter().filter(|p| !play.packs().contains(p)).count();
        assert!(gone > 0, "nothing was pruned");
        let target = play.scene.path("restored");
        let restored = play.scene.run(["restore", "-q", "latest", "--target", target.to_str().unwrap()]);
        assert_eq!(restored.code == Some(0), is_stolen, "{}", restored.err);
        if is_stolen {
            play.scene.latest_equals_source();
        }
    }
}

#[test]
fn what_a_writer_key_says_of_snapshots_and_packs_ends_none() {
    for is_stolen in [true, false] {
        let play = Play::new("thief-ends");
        play.write("file", &Draw(1).bytes(50_000));
        let_files_settle();
        let saved = play.scene.backup(&[]);
        let id = SnapshotId::from_hex(saved["snapshot_id"].as_str().unwrap()).unwrap();
        let thief = play.thief(is_stolen, "writer");
        thief.retires(&play.packs());
        let again = play.scene.backup(&["--force"]);
        let is_stored_again = again["totals"]["new_bytes"].as_u64().unwrap() >= 50_000;
        assert_eq!(is_stored_again, !is_stolen, "{again}");
        thief.notes(Action::Forget, &[id]);
        assert_eq!(play.scene.snapshots().len(), if is_stolen { 2 } else { 1 });
        play.scene.latest_equals_source();
    }
}

#[test]
fn what_a_reader_key_writes_counts_for_nobody() {
    let play = Play::new("thief-reader");
    play.write("file", b"content");
    let id = play.scene.backup(&[])["snapshot_id"].as_str().unwrap().to_owned();
    let manifest = fs::read(play.scene.repository().join("snapshots").join(&id)).unwrap();
    let full = play.thief(false, "reader");
    // The same snapshot, as its author would write it again, and as a reader would.
    let aad = [&manifest[..12], &full.id.0].concat();
    let plain = pastfs::seal::open_box(&full.secrets.index_key, &aad, &manifest[12..]).unwrap();
    let body = Signed::decode(&plain).unwrap().body;
    for (is_stolen, listed) in [(true, 1), (false, 2)] {
        let thief = play.thief(is_stolen, "reader");
        let object = thief.seal(Object::Manifest, body.clone());
        thief.put(&format!("snapshots/{}", SnapshotId::of_object(&object)), &object);
        let ran = play.scene.run(["snapshots", "--json"]).ok();
        assert_eq!(ran.json().as_array().unwrap().len(), listed);
        assert!(ran.err.contains("the signature of the snapshot is wrong"), "{}", ran.err);
    }
}

/// Backdated snapshots, one for each day behind the true one, would be the newest of each day.
#[test]
fn backdated_snapshots_of_a_writer_key_push_no_true_ones_out() {
    let days = ["2024-03-04", "2024-03-05", "2024-03-06"];
    for is_stolen in [true, false] {
        let play = Play::new("thief-time");
        let source = play.scene.source();
        let mut true_ones = Vec::new();
        for day in days {
            play.write("file", day.as_bytes());
            let time = format!("{day} 10:00");
            let saved = play.scene.backup(&["--host", "web", "--time", &time]);
            true_ones.push(saved["snapshot_id"].as_str().unwrap().to_owned());
        }
        play.write("file", b"rubbish");
        for day in days {
            let time = format!("{day} 23:00");
            let args = ["backup", "-q", "--host", "web", "--time", &time, source.to_str().unwrap()];
            let mut command = play.scene.command(args);
            if is_stolen {
                command.env("PASTFS_KEY_FILE", play.scene.path("writer"));
            }
            play.scene.run_command(command).ok();
        }
        assert_eq!(play.scene.snapshots().len(), 6);
        let ran = play.scene.run(["forget", "--keep-daily", "3"]).ok();
        assert_eq!(
            ran.err.contains("bears another time than the storage took it at"),
            is_stolen,
            "{}",
            ran.err
        );
        let listed = play.scene.snapshots();
        let kept = |id: &String| listed.iter().any(|s| s["id"] == id.as_str());
        assert_eq!(true_ones.iter().filter(|id| kept(id)).count(), if is_stolen { 3 } else { 0 });
        assert_eq!(listed.len(), if is_stolen { 6 } else { 3 });
        if is_stolen {
            // Who knows better says so; who sees through it forgets them by name.
            play.scene.run(["forget", "-q", "--keep-daily", "3", "--dry-run", "--trust-writers"]).ok();
            let false_ones = listed.iter().map(|s| s["id"].as_str().unwrap());
            let false_ones: Vec<&str> = false_ones.filter(|id| !true_ones.iter().any(|t| t == id)).collect();
            play.scene.run(["forget", "-q"].into_iter().chain(false_ones)).ok();
            assert_eq!(play.scene.snapshots().len(), 3);
        }
    }
}

/// A key that is for one host cannot speak for another by this program; by his own the thief can, and is not counted.
#[test]
fn snapshots_that_bear_another_host_than_their_key_push_none_out() {
    let play = Play::new("thief-host");
    play.scene
        .run(["key", "add", "-q", "--role", "writer", "--host", "mail", "--new-key-file", "of-mail"])
        .ok();
    play.write("file", b"true");
    let saved = play.scene.backup(&["--host", "web"]);
    let thief = Thief::with(&play.scene.repository(), &play.scene.path("of-mail"));
    let id = saved["snapshot_id"].as_str().unwrap();
    let object = fs::read(play.scene.repository().join("snapshots").join(id)).unwrap();
    let aad = [&object[..12], &thief.id.0].concat();
    let plain = pastfs::seal::open_box(&thief.secrets.index_key, &aad, &object[12..]).unwrap();
    let forged = thief.seal(Object::Manifest, Signed::decode(&plain).unwrap().body);
    thief.put(&format!("snapshots/{}", SnapshotId::of_object(&forged)), &forged);
    let ran = play.scene.run(["forget", "--keep-last", "1", "--json"]).ok();
    assert!(ran.err.contains("a writer key that is for another host"), "{}", ran.err);
    let reasons = |s: &serde_json::Value| (s["id"] == id, s["reasons"].clone());
    let told = ran.json();
    let mut told: Vec<_> = told["snapshots"].as_array().unwrap().iter().map(reasons).collect();
    told.sort_by_key(|(is_true, _)| *is_true);
    assert_eq!(told[0], (false, vec!["not of its key's host"].into()));
    assert_eq!(told[1], (true, vec!["last"].into()));
}
