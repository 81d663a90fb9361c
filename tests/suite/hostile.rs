//! Snapshots that somebody with a key made by hand: names that lead out of a folder, names that come twice, sizes that lie.
//! Every seal is right; what is in them is refused by whoever reads it, and nothing outside of a target is touched.

use super::scene::Scene;
use super::trial::credential;
use pastfs::clock::Time;
use pastfs::event::{Silent, Stop};
use pastfs::fault::Result;
use pastfs::format::pack::Space;
use pastfs::format::snapshot::{Private, Totals};
use pastfs::format::tree::{Entry, Node, Stat};
use pastfs::id::ChunkId;
use pastfs::repository::{Commit, Draft, OpenOptions, Repository, Writer, WriterOptions};
use pastfs::seal::Compression;
use pastfs::storage::Local;
use pastfs::tree::{ContentWriter, FolderWriter, ROOT_NAME, Sink};
use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

/// Changes pages of trees on their way to the writer, before they are sealed.
struct Forger<'a> {
    writer: &'a mut Writer,
    from: &'a [u8],
    to: &'a [u8],
    forged: usize,
}

impl Sink for Forger<'_> {
    fn put(&mut self, space: Space, bytes: &[u8]) -> Result<ChunkId> {
        let mut bytes = bytes.to_vec();
        if space == Space::Trees {
            let places = 0..(bytes.len() + 1).saturating_sub(self.from.len());
            for at in places {
                if bytes[at..].starts_with(self.from) {
                    bytes[at..at + self.to.len()].copy_from_slice(self.to);
                    self.forged += 1;
                }
            }
        }
        self.writer.put(space, &bytes)
    }
}

fn entry(name: &[u8], mode: u32, size: u64, node: Node) -> Entry {
    let mtime = Time { seconds: 1_700_000_000, nanos: 0 };
    let stat = Stat { mode, size, nlink: 1, mtime, ctime: mtime, ..Stat::default() };
    Entry { name: name.to_vec(), stat, node, xattrs: Vec::new(), chunker: None, unknown: Default::default() }
}

/// A snapshot of `folder/…`, in whose pages `from` became `to`.
fn forged(scene: &Scene, from: &[u8], to: &[u8]) {
    let options = OpenOptions { cache: scene.cache(), observer: Arc::new(Silent) };
    let key: [u8; 32] = fs::read(scene.key()).unwrap().try_into().unwrap();
    let store = Arc::new(Local::open(&scene.repository()).unwrap());
    let repository = Repository::open(store, &credential(key), options).unwrap();
    let options = WriterOptions {
        compression: Compression::default(),
        host: b"h".to_vec(),
        purpose: "backup",
        dry_run: false,
        distrust: HashSet::new(),
        stop: Stop::new(),
    };
    let mut writer = Writer::begin(&repository, options).unwrap();
    let mut forger = Forger { writer: &mut writer, from, to, forged: 0 };
    let file = |sink: &mut Forger, name: &[u8]| {
        let text = b"planted";
        let id = sink.put(Space::Data, text).unwrap();
        let mut content = ContentWriter::new();
        content.chunk(text.len() as u64, id);
        entry(name, 0o644, text.len() as u64, Node::File(content.finish(sink).unwrap()))
    };
    let mut inner = FolderWriter::new();
    let planted = file(&mut forger, b"planted");
    inner.push(&planted, &mut forger).unwrap();
    let inner = inner.finish(&mut forger).unwrap();
    // What an attack would use: a link out, a folder, a file, each under a name that can be forged.
    let outside = scene.path("outside").into_os_string().into_encoded_bytes();
    let mut folder = FolderWriter::new();
    folder.push(&entry(b"LINK1", 0o777, outside.len() as u64, Node::Symlink(outside)), &mut forger).unwrap();
    folder.push(&entry(b"LINK2", 0o755, 0, Node::Folder(inner)), &mut forger).unwrap();
    let named = file(&mut forger, b"NAMED");
    folder.push(&named, &mut forger).unwrap();
    let folder = folder.finish(&mut forger).unwrap();
    let mut top = FolderWriter::new();
    top.push(&entry(b"folder", 0o755, 0, Node::Folder(folder)), &mut forger).unwrap();
    let top = top.finish(&mut forger).unwrap();
    let mut root = FolderWriter::new();
    root.push(&entry(ROOT_NAME, 0o755, 0, Node::Folder(top)), &mut forger).unwrap();
    let root = root.finish(&mut forger).unwrap();
    assert!(forger.forged > 0, "nothing was forged");
    let draft = Draft {
        time: None,
        host: b"h".to_vec(),
        tags: Vec::new(),
        root,
        parent: None,
        totals: Totals::default(),
        private: Private { paths: vec![b"/folder".to_vec()], ..Private::default() },
    };
    assert!(matches!(writer.commit(draft).unwrap(), Commit::Done(..)));
}

#[test]
fn names_that_lead_out_of_a_folder_are_refused_by_every_command() {
    let forgeries: &[(&str, &[u8], &[u8])] = &[
        ("nothing", b"NAMED", b"NAMED"),
        // The length stands before the name (RFC 8949, a byte string of 5): of 2, and rubbish behind it.
        ("up", b"\x45NAMED", b"\x42..AME"),
        ("here", b"\x45NAMED", b"\x41.NAME"),
        ("nobody", b"\x45NAMED", b"\x40NAMED"),
        ("a slash", b"NAMED", b"NA/ED"),
        ("an absolute path", b"NAMED", b"/AMED"),
        ("a zero", b"NAMED", b"NA\0ED"),
        ("one name twice, a link and a folder", b"LINK2", b"LINK1"),
        ("an order that is none", b"NAMED", b"AAAAA"),
    ];
    for (what, from, to) in forgeries {
        let scene = Scene::new("hostile");
        fs::create_dir(scene.path("outside")).unwrap();
        forged(&scene, from, to);
        let is_honest = *what == "nothing";
        let commands: [&[&str]; 9] = [
            &["restore", "-q", "latest", "--target", "out"],
            &["restore", "-q", "latest:/folder", "--target", "deep/out2"],
            &["export", "latest", "-o", "tar"],
            &["ls", "-R", "latest"],
            &["ls", "latest:/folder"],
            &["cat", "latest:/folder/NAMED"],
            &["find", "planted"],
            &["check", "--read-data"],
            &["restore", "-q", "latest:/folder/../outside", "--target", "out3"],
        ];
        for args in commands {
            let ran = scene.run(args).orderly();
            let fits = if is_honest && !args[1].starts_with("-q") { ran.code == Some(0) } else { true };
            assert!(fits, "{what}: {args:?}: {:?} {}", ran.code, ran.err);
            if !is_honest && matches!(args[0], "check" | "export" | "ls" | "cat") {
                assert!(ran.code != Some(0), "{what}: {args:?} took it");
                let said = format!("{}{}", ran.text(), ran.err);
                let is_named = ["page", "tree", "folder"].iter().any(|w| said.contains(w));
                assert!(is_named, "{what}: {args:?}: {said}");
            }
        }
        if is_honest {
            let restored = scene.path("deep/out2");
            assert_eq!(fs::read(restored.join("NAMED")).unwrap(), b"planted");
            assert_eq!(fs::read(restored.join("LINK2/planted")).unwrap(), b"planted");
        }
        let mount = scene.mount(&[]);
        let shown = mount.dir.join("latest/folder");
        let listed = fs::read_dir(&shown).and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>());
        match listed {
            Ok(entries) => assert!(is_honest && entries.len() == 3, "{what}: {entries:?}"),
            Err(e) => assert!(!is_honest && e.raw_os_error() == Some(libc::EIO), "{what}: {e}"),
        }
        mount.unmount();
        // Nothing came where it was not asked for.
        let below = |dir: &str| -> Vec<PathBuf> {
            fs::read_dir(scene.path(dir)).map(|d| d.map(|e| e.unwrap().path()).collect()).unwrap_or_default()
        };
        assert_eq!(below("outside"), Vec::<PathBuf>::new(), "{what}");
        assert!(!scene.path("planted").exists() && !scene.path("deep/planted").exists(), "{what}");
        if !is_honest {
            let took: Vec<PathBuf> = below("deep/out2");
            assert!(took.is_empty(), "{what}: {took:?}");
        }
    }
}
