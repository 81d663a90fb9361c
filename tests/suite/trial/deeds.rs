//! What people do that writes, in an order in which each finds what it needs.

use super::*;
use pastfs::fault::{Error, Fault};
use pastfs::format::slot::Label;
use pastfs::format::snapshot::Action;
use pastfs::prune::{self, Unused};
use pastfs::repair::{self, FromOptions, PacksOptions};
use pastfs::repository::InitOptions;
use pastfs::seal::{Cipher, Role};
use std::collections::HashSet;

fn oldest(repository: &Arc<Repository>, forgotten: bool) -> Result<Vec<SnapshotId>> {
    let all = if forgotten { repository.forgotten()? } else { repository.snapshots()? };
    Ok(all.iter().take(1).map(|s| s.id).collect())
}

fn noted(world: &World, store: &Arc<dyn Store>, cache: &Path, action: Action, tags: &[&str]) -> Result<()> {
    let repository = world.open(store, cache)?;
    let ids = oldest(&repository, action == Action::Unforget)?;
    let tags: Vec<Vec<u8>> = tags.iter().map(|t| t.as_bytes().to_vec()).collect();
    repository.add_note(action, &ids, &tags).map(drop)
}

fn pruned(world: &World, store: &Arc<dyn Store>, cache: &Path, now: bool) -> Result<()> {
    let options = prune::Options {
        grace: 0,
        max_unused: Unused::Share(0.0),
        max_repack: u64::MAX,
        now,
        dry_run: false,
        compression: Compression::default(),
        host: b"h".to_vec(),
        drop: HashSet::new(),
    };
    prune::run(&world.open(store, cache)?, &options, &silent(), &Stop::new(), &mut |_| {}).map(drop)
}

/// Puts rubbish in the place of an object.
fn garble(store: &Arc<dyn Store>, name: &str) {
    store.delete(name).unwrap();
    store.put(name, &Draw(6).bytes(700)).unwrap();
}

/// In this order each finds what it needs.
pub const DEEDS: &[Deed] = &[
    Deed {
        name: "init",
        state: 1,
        act: |_, store, _| {
            let options = InitOptions { cipher: Cipher::default(), parity: 0, label: Label::default() };
            Repository::init(store, &credential(KEY), &options).map(drop)
        },
        done: |_, after| after.keys == 1,
        damage: None,
        repeats: false,
        args: &["init", "-q"],
    },
    Deed {
        name: "first backup",
        state: 1,
        act: |world, store, cache| world.save(&world.open(store, cache)?, 1),
        done: |before, after| after.snapshots.len() == before.snapshots.len() + 1 && after.tagged("1") == 1,
        damage: None,
        repeats: false,
        args: &["backup", "-q", "--host", "h", "--tag", "1", "source"],
    },
    Deed {
        name: "second backup",
        state: 2,
        act: |world, store, cache| world.save(&world.open(store, cache)?, 2),
        done: |before, after| after.snapshots.len() == before.snapshots.len() + 1 && after.tagged("2") == 1,
        damage: None,
        repeats: false,
        args: &["backup", "-q", "--host", "h", "--tag", "2", "source"],
    },
    Deed {
        name: "key add",
        state: 2,
        act: |world, store, cache| {
            world
                .open(store, cache)?
                .add_slot(&credential(ANOTHER), Role::Full, &[], &Label::default())
                .map(drop)
        },
        done: |before, after| after.keys == before.keys + 1,
        damage: None,
        repeats: false,
        args: &["key", "add", "-q", "--new-key-file", "another-key"],
    },
    Deed {
        name: "key remove",
        state: 2,
        act: |world, store, cache| {
            let repository = world.open(store, cache)?;
            match repository.slots()?.iter().find(|s| !s.current) {
                Some(slot) => repository.remove_slot(&slot.id, false),
                None => Err(Error::new(Fault::Missing, "there is no other key")),
            }
        },
        done: |before, after| after.keys + 1 == before.keys,
        damage: None,
        repeats: false,
        args: &["key", "remove", "-q", "OTHER KEY"],
    },
    Deed {
        name: "tag",
        state: 2,
        act: |world, store, cache| noted(world, store, cache, Action::Tag, &["extra"]),
        done: |before, after| after.tagged("extra") == before.tagged("extra") + 1,
        damage: None,
        repeats: false,
        args: &["tag", "-q", "--add", "extra", "OLDEST"],
    },
    Deed {
        name: "forget",
        state: 2,
        act: |world, store, cache| noted(world, store, cache, Action::Forget, &[]),
        done: |before, after| after.snapshots.len() + 1 == before.snapshots.len(),
        damage: None,
        repeats: false,
        args: &["forget", "-q", "OLDEST"],
    },
    Deed {
        name: "forget --undo",
        state: 2,
        act: |world, store, cache| noted(world, store, cache, Action::Unforget, &[]),
        done: |before, after| after.snapshots.len() == before.snapshots.len() + 1,
        damage: None,
        repeats: false,
        args: &["forget", "-q", "--undo", "OLDEST"],
    },
    Deed {
        name: "hold",
        state: 2,
        act: |world, store, cache| noted(world, store, cache, Action::Hold, &[]),
        done: |before, after| after.held() == before.held() + 1,
        damage: None,
        repeats: false,
        args: &["tag", "-q", "--hold", "OLDEST"],
    },
    Deed {
        name: "third backup",
        state: 3,
        act: |world, store, cache| world.save(&world.open(store, cache)?, 3),
        done: |before, after| after.snapshots.len() == before.snapshots.len() + 1 && after.tagged("3") == 1,
        damage: None,
        repeats: false,
        args: &["backup", "-q", "--host", "h", "--tag", "3", "source"],
    },
    Deed {
        name: "forget the middle",
        state: 3,
        act: |world, store, cache| {
            let repository = world.open(store, cache)?;
            let middle: Vec<SnapshotId> =
                repository.snapshots()?.iter().filter(|s| !s.held).take(1).map(|s| s.id).collect();
            repository.add_note(Action::Forget, &middle, &[]).map(drop)
        },
        done: |before, after| after.snapshots.len() + 1 == before.snapshots.len() && after.tagged("2") == 0,
        damage: None,
        repeats: false,
        args: &["forget", "-q", "MIDDLE"],
    },
    // It retires, and moves what is needed.
    Deed {
        name: "prune",
        state: 3,
        act: |world, store, cache| pruned(world, store, cache, false),
        done: |before, after| before == after,
        damage: None,
        repeats: true,
        args: &["prune", "-q", "--grace", "0", "--max-unused", "0%"],
    },
    // It deletes.
    Deed {
        name: "prune again",
        state: 3,
        act: |world, store, cache| pruned(world, store, cache, false),
        done: |before, after| before == after,
        damage: None,
        repeats: true,
        args: &["prune", "-q", "--grace", "0", "--max-unused", "0%"],
    },
    Deed {
        name: "forget what is held not",
        state: 3,
        act: |world, store, cache| {
            let repository = world.open(store, cache)?;
            let last: Vec<SnapshotId> =
                repository.snapshots()?.iter().filter(|s| !s.held).take(1).map(|s| s.id).collect();
            repository.add_note(Action::Forget, &last, &[]).map(drop)
        },
        done: |before, after| after.snapshots.len() + 1 == before.snapshots.len(),
        damage: None,
        repeats: false,
        args: &["forget", "-q", "MIDDLE"],
    },
    Deed {
        name: "prune --now",
        state: 3,
        act: |world, store, cache| pruned(world, store, cache, true),
        done: |before, after| before == after,
        damage: None,
        repeats: false,
        args: &["prune", "-q", "--now", "--max-unused", "0%"],
    },
    Deed {
        name: "key rotate",
        state: 3,
        act: |world, store, cache| {
            world.open(store, cache)?.begin_epoch(&credential(KEY), &Label::default())?;
            world.open(store, cache)?.end_epochs(&Stop::new()).map(drop)
        },
        // The old key stays at first, and the new one is there before it counts.
        done: |before, after| before.snapshots == after.snapshots,
        damage: None,
        repeats: false,
        args: &["key", "rotate", "-q"],
    },
    Deed {
        name: "repair index",
        state: 1,
        act: |world, store, cache| {
            let repository = world.open(store, cache)?;
            repair::index(&repository, b"h", false, &silent(), &Stop::new()).map(drop)
        },
        done: |before, after| before == after,
        damage: Some(|store| {
            for name in store.names("index/").unwrap() {
                store.delete(&name).unwrap();
            }
        }),
        repeats: true,
        args: &["repair", "index", "-q"],
    },
    Deed {
        name: "repair packs",
        state: 1,
        act: |world, store, cache| {
            let options = PacksOptions { read_data: true, host: b"h".to_vec(), ..PacksOptions::default() };
            repair::packs(&world.open(store, cache)?, &options, &silent(), &Stop::new()).map(drop)
        },
        done: |before, after| before == after,
        damage: Some(|store| {
            // The pack of the large file, which the source has in every state.
            let largest = store.list("packs/").unwrap().into_iter().max_by_key(|l| l.size).unwrap();
            let mut bytes = store.get(&largest.name, largest.size).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
            store.delete(&largest.name).unwrap();
            store.put(&largest.name, &bytes).unwrap();
        }),
        repeats: true,
        // What is lost is told by the exit code, until the next backup has stored it again.
        args: &["repair", "packs", "-q", "--read-data"],
    },
    Deed {
        name: "repair snapshots",
        state: 1,
        act: |world, store, cache| {
            let options = repair::SnapshotsOptions {
                drop_damaged: true,
                host: b"h".to_vec(),
                ..repair::SnapshotsOptions::default()
            };
            repair::snapshots(&world.open(store, cache)?, &options, &silent(), &Stop::new()).map(drop)
        },
        done: |before, after| before == after,
        damage: Some(|store| {
            // Nobody can say what they were.
            for name in [format!("snapshots/{}", "5a".repeat(32)), format!("notes/{}", "6b".repeat(32))] {
                store.put(&name, &Draw(5).bytes(400)).unwrap();
            }
        }),
        repeats: true,
        args: &["repair", "snapshots", "-q", "--drop-damaged"],
    },
    Deed {
        name: REPLICATE,
        state: 2,
        act: |world, store, cache| {
            let origin: Arc<dyn Store> = Arc::new(Local::open(&world.dir.join(ORIGIN))?);
            replicated(&world.open(&origin, cache)?, store).map(drop)
        },
        done: |before, after| after.snapshots.len() == before.snapshots.len() + 1,
        damage: None,
        repeats: true,
        args: &["-r", ORIGIN, "replicate", "-q", "repository"],
    },
    Deed {
        name: "writer key",
        state: 1,
        act: |world, store, cache| {
            let repository = world.open(store, cache)?;
            repository.add_slot(&credential(ANOTHER), Role::Writer, b"h", &Label::default()).map(drop)
        },
        done: |before, after| after.keys == before.keys + 1,
        damage: None,
        repeats: false,
        args: &["key", "add", "-q", "--role", "writer", "--host", "h", "--new-key-file", "another-key"],
    },
    Deed {
        name: "a writer's backup",
        state: 1,
        act: |world, store, cache| world.save(&world.open_as(ANOTHER, store, cache)?, 1),
        done: |before, after| {
            after.snapshots.len() == before.snapshots.len() + 1 && after.tagged("1") == before.tagged("1") + 1
        },
        damage: None,
        repeats: false,
        args: &["--key-file", "another-key", "backup", "-q", "--host", "h", "--tag", "1", "source"],
    },
    Deed {
        name: "check --vouch",
        state: 1,
        act: |world, store, cache| {
            let repository = world.open(store, cache)?;
            let vouched = check::vouch(&repository, &silent(), &Stop::new())?;
            match vouched.findings.is_empty() && repository.claimed(&Stop::new())?.total().0 == 0 {
                true => Ok(()),
                false => Err(Error::damaged(format!("not vouched for: {:?}", vouched.findings))),
            }
        },
        done: |before, after| before == after,
        damage: None,
        repeats: true,
        args: &["check", "-q", "--vouch"],
    },
    // In between both keys open it.
    Deed {
        name: "key passwd",
        state: 1,
        act: |world, store, cache| {
            let opened = world.open_as(ANOTHER, store, cache)?;
            opened.add_same_slot(&credential(THIRD), &Label::default())?;
            world.open_as(THIRD, store, cache)?;
            opened.remove_slot(&opened.current_slot(), true)
        },
        done: |before, after| after.third_opens && !before.third_opens,
        damage: None,
        repeats: false,
        args: &["--key-file", "another-key", "key", "passwd", "-q", "--new-key-file", "third-key"],
    },
    // Its snapshot stays, and its slot goes last.
    Deed {
        name: "key end",
        state: 1,
        act: |world, store, cache| {
            let repository = world.open(store, cache)?;
            let slots = repository.slots()?;
            let Some(slot) = slots.iter().find(|s| s.role == Role::Writer) else {
                return Err(Error::new(Fault::Missing, "there is no writer key"));
            };
            if !slot.ended {
                repository.end_key(&slot.label.signer.unwrap(), &Stop::new())?;
            }
            repository.remove_slot(&slot.id, false)
        },
        done: |before, after| {
            before.snapshots == after.snapshots && after.keys + 1 == before.keys && !after.third_opens
        },
        damage: None,
        repeats: false,
        args: &["key", "end", "-q", "OTHER KEY"],
    },
    Deed {
        name: REPAIR_FROM,
        state: 1,
        act: |world, store, cache| {
            let replica: Arc<dyn Store> = Arc::new(Local::open(&world.dir.join(REPLICA))?);
            let (repository, from) = (world.open(store, cache)?, world.open(&replica, cache)?);
            let options = FromOptions { host: b"h".to_vec(), ..FromOptions::default() };
            let report = repair::from(&repository, &from, &options, &silent(), &Stop::new())?;
            match report.is_hurt(false) {
                true => Err(Error::damaged(format!("hurt still: {report:?}"))),
                false => Ok(()),
            }
        },
        done: |before, after| before == after,
        damage: Some(|store| {
            let largest = store.list("packs/").unwrap().into_iter().max_by_key(|l| l.size).unwrap();
            store.delete(&largest.name).unwrap();
            // Notes of what was lost are no replica's.
            garble(store, &store.names("snapshots/").unwrap()[0]);
        }),
        repeats: true,
        args: &["repair", "from", "-q", REPLICA],
    },
];
