//! L9 to L13: what could lose data where a repository lies in two places. Each place has a clock and prunes of its own.

use super::{Actor, DAY, HOUR, Play, until_it_stops};
use crate::suite::races::{Place, Seat};
use crate::suite::trial::{KEY, World, credential};
use pastfs::backup;
use pastfs::event::{Observer, Silent, Stop};
use pastfs::fault::{Fault, Result};
use pastfs::format::snapshot::Action;
use pastfs::replicate::{self, Options, Report};
use pastfs::repository::{InitOptions, Repository};
use pastfs::seal::{Cipher, Compression};
use pastfs::source::{self, Exclude};
use pastfs::storage::Store;
use std::sync::Arc;
use std::thread;

/// As many small segments as a prune merges, and some more.
const SEGMENTS: usize = 20;

/// A repository with a replica. Both have snapshots of the states 1 and 2, of which the first was forgotten a day ago in
/// both: what only it needs is dead, and no prune has been at work. The source of backups is in state 1 again.
struct Pair {
    play: Play,
    replica: Arc<Place>,
}

impl Pair {
    /// `pause` comes between the first copy and the note.
    fn new(pause: impl FnOnce(&Self)) -> Self {
        let play = Play { world: World::with_copies(), place: Place::new(0) };
        let store: Arc<dyn Store> = play.place.seat();
        let options = InitOptions { cipher: Cipher::default(), parity: 0, label: Default::default() };
        Repository::init(&store, &credential(KEY), &options).unwrap();
        let pair = Self { play, replica: Place::named("the replica of the test") };
        for state in [1, 2] {
            pair.play.world.turn(state);
            pair.play.actor().backs_up(state).unwrap();
        }
        pair.copied();
        pause(&pair);
        pair.play.actor().notes(Action::Forget);
        pair.copied();
        pair.play.world.turn(1);
        pair.passes(DAY);
        pair
    }

    fn passes(&self, seconds: i64) {
        self.play.place.passes(seconds);
        self.replica.passes(seconds);
    }

    /// Somebody at the replica.
    fn there(&self) -> Actor<'_> {
        Actor { play: &self.play, seat: self.replica.seat(), cache: self.play.world.fresh("cache") }
    }

    fn copied(&self) -> Report {
        replicates(&self.play.actor(), &self.replica.seat()).unwrap()
    }

    /// What the replica lists comes back as it was saved: how many there are.
    fn whole_there(&self) -> std::result::Result<usize, String> {
        let store: Arc<dyn Store> = self.replica.seat();
        let view = self.play.world.whole(&store, &self.play.world.fresh("new"))?;
        self.play.world.clean(&store, &self.play.world.fresh("new"))?;
        Ok(view.snapshots.len())
    }

    fn judged(&self, with_rule: bool, snapshots: usize) {
        let whole = self.whole_there();
        match with_rule {
            true => assert_eq!(whole, Ok(snapshots)),
            false => assert!(whole.is_err(), "nothing is lost without the rule: {whole:?}"),
        }
    }

    /// What a replication without R1 would do: segments are copied as they are.
    fn copies_segments(&self) {
        copies(&self.play.place, &self.replica, "index/");
    }
}

fn copies(from: &Arc<Place>, to: &Arc<Place>, prefix: &str) {
    let (from_seat, to_seat) = (from.seat(), to.seat());
    for name in from.names(prefix) {
        to_seat.put(&name, &from_seat.get(&name, 1 << 30).unwrap()).unwrap();
    }
}

/// What is here comes there, forgets too.
fn replicates(here: &Actor<'_>, there: &Arc<Seat>) -> Result<Report> {
    let options = Options { forget: true, host: b"h".to_vec(), ..Options::default() };
    let observer: Arc<dyn Observer> = Arc::new(Silent);
    let store: Arc<dyn Store> = there.clone();
    replicate::run(&here.opened()?, &store, &options, &observer, &Stop::new()).map(|(_, report)| report)
}

#[test]
fn a_replica_holds_what_the_repository_holds() {
    let pair = Pair::new(|pair| assert_eq!(pair.whole_there(), Ok(2)));
    assert_eq!((pair.play.whole(), pair.whole_there()), (Ok(1), Ok(1)));
    let again = pair.copied();
    assert_eq!((again.copied.len(), again.packs.0, again.notes, again.there), (0, 0, 0, 1));
}

/// L9. A prune of the replica is about to delete a pack that a snapshot needs which comes from here. R4: its chunks are stored
/// anew. Nothing takes a retirement back.
#[test]
fn a_pack_that_the_replica_is_about_to_delete_is_not_relied_on() {
    for with_rule in [true, false] {
        let pair = Pair::new(|_| ());
        let x = pair.there();
        let before = pair.replica.names("index/");
        assert!(x.prunes().unwrap().retired > 0);
        pair.passes(DAY);
        pair.play.actor().backs_up(1).unwrap();
        let to = pair.replica.seat();
        if !with_rule {
            to.hide(move |name| name.starts_with("index/") && !before.iter().any(|b| b == name));
        }
        thread::scope(|scope| {
            let prune = until_it_stops(scope, &x.seat, ("delete", "packs/"), || x.prunes());
            let report = replicates(&pair.play.actor(), &to).unwrap();
            assert_eq!((report.copied.len(), report.anew > 0), (1, with_rule));
            x.seat.go_on();
            assert!(prune.join().unwrap().unwrap().deleted.0 > 0);
        });
        pair.judged(with_rule, 2);
    }
}

/// L10. Two disks of one repository are used in turn at one mount point, with one cache: what the cache knows of the one does not
/// lie on the other. R2: an entry counts only while the store lists its segment now.
#[test]
fn what_lies_on_the_other_disk_is_not_known_on_this_one() {
    for with_rule in [true, false] {
        let pair = Pair::new(|_| ());
        pair.play.world.turn(3);
        // Both seem to be the same place from here on.
        pair.replica.is_called(&pair.play.place.seat().location());
        let user = pair.play.actor();
        user.backs_up(3).unwrap();
        let there = Actor { play: &pair.play, seat: pair.replica.seat(), cache: user.cache.clone() };
        if !with_rule {
            // B6 would find that the packs are not there, and has to go too.
            let is_shown = |name: &str| name.starts_with("index/") || name.starts_with("packs/");
            there.seat.show_also(&pair.play.place, is_shown);
        }
        there.backs_up(3).unwrap();
        pair.judged(with_rule, 2);
    }
}

/// The same, and back: the first disk again, with what the cache has learnt of the second.
#[test]
fn two_disks_in_turn_at_one_mount_point_each_hold_what_was_saved_to_them() {
    let pair = Pair::new(|_| ());
    pair.replica.is_called(&pair.play.place.seat().location());
    let user = pair.play.actor();
    for state in [3, 1, 2, 3] {
        pair.play.world.turn(state);
        for seat in [pair.play.place.seat(), pair.replica.seat()] {
            Actor { play: &pair.play, seat, cache: user.cache.clone() }.backs_up(state).unwrap();
        }
    }
    assert_eq!((pair.play.whole(), pair.whole_there()), (Ok(5), Ok(5)));
}

/// L11. A pack was retired here three days ago, and a backup into the replica relies on it. R1: retirements belong to one
/// store. That a prune waits for who has not seen a retirement is the other guard, and taken out in both.
#[test]
fn a_pack_that_was_retired_here_is_none_that_was_retired_there() {
    for with_rule in [true, false] {
        let pair = Pair::new(|_| ());
        assert!(pair.play.actor().prunes().unwrap().retired > 0);
        pair.passes(3 * DAY);
        let (b, x) = (pair.there(), pair.there());
        x.seat.hide(|name| name.starts_with("leases/"));
        thread::scope(|scope| {
            let backup = until_it_stops(scope, &b.seat, ("put", "snapshots/"), || b.backs_up(1));
            pair.copied();
            if !with_rule {
                pair.copies_segments();
            }
            assert_eq!(x.prunes().unwrap().deleted.0 > 0, !with_rule);
            b.seat.go_on();
            backup.join().unwrap().unwrap();
        });
        pair.judged(with_rule, 2);
    }
}

/// L12. The disk is not mounted, or somebody has emptied the bucket, or the provider hides the snapshots. R3: absence deletes
/// nothing.
#[test]
fn a_repository_that_was_emptied_empties_no_replica() {
    for with_rule in [true, false] {
        let pair = Pair::new(|_| ());
        let here = pair.play.actor();
        here.seat.hide(|name| name.starts_with("snapshots/") || name.starts_with("notes/"));
        let report = replicates(&here, &pair.replica.seat()).unwrap();
        assert!(report.copied.is_empty() && report.notes == 0);
        if !with_rule {
            for name in pair.replica.names("snapshots/") {
                if here.seat.list("snapshots/").unwrap().iter().all(|l| l.name != name) {
                    pair.replica.seat().delete(&name).unwrap();
                }
            }
        }
        for _ in 0..2 {
            pair.there().prunes().unwrap();
            pair.passes(DAY);
        }
        assert_eq!(pair.whole_there(), Ok(usize::from(with_rule)));
    }
    let pair = Pair::new(|_| ());
    let nothing = Actor { seat: Place::new(0).seat(), ..pair.play.actor() };
    assert_eq!(replicates(&nothing, &pair.replica.seat()).unwrap_err().fault(), Fault::NoRepository);
}

/// L13. Here segments are merged into one that replaces them, after a pack that they named was deleted; the replica has a
/// snapshot that needs it. R1: the index of a store is written from what is in it.
#[test]
fn a_merged_segment_takes_no_pack_from_the_replica() {
    for with_rule in [true, false] {
        let pair = Pair::new(|pair| {
            // Many small segments, of snapshots that go with the first one.
            for n in 0..SEGMENTS {
                saves_a_filler(pair, n);
            }
            if !with_rule {
                let own = pair.replica.names("index/");
                pair.copies_segments();
                for name in own {
                    pair.replica.seat().delete(&name).unwrap();
                }
            }
        });
        let (x, y) = (pair.play.actor(), pair.there());
        // The replica has a snapshot of its own, which needs what is dead here.
        y.backs_up(1).unwrap();
        let fillers = pair.play.actor().opened().unwrap();
        let ids: Vec<_> = fillers
            .snapshots()
            .unwrap()
            .iter()
            .filter(|s| s.manifest.host == b"filler")
            .map(|s| s.id)
            .collect();
        assert_eq!(ids.len(), SEGMENTS);
        fillers.add_note(Action::Forget, &ids, &[]).unwrap();
        for _ in 0..4 {
            x.prunes().unwrap();
            pair.passes(DAY);
        }
        if !with_rule {
            pair.copies_segments();
            pair.passes(2 * HOUR);
        }
        pair.copied();
        for _ in 0..2 {
            // Without the rule the second one knows of no place for what is needed, and says so.
            assert!(y.prunes().is_ok() || !with_rule);
            pair.passes(DAY);
        }
        pair.judged(with_rule, 2);
    }
}

/// A snapshot of something else.
fn saves_a_filler(pair: &Pair, n: usize) {
    let dir = pair.play.world.fresh("filler");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("file"), format!("{n} is in no other one")).unwrap();
    let files = source::Options {
        paths: vec![dir],
        excludes: Exclude::new::<&str, &str>(&[], &[]).unwrap(),
        ..source::Options::default()
    };
    let options = backup::Options {
        from: backup::From::Files(files),
        tags: Vec::new(),
        host: b"filler".to_vec(),
        time: None,
        dry_run: false,
        force: false,
        ignore_ctime: false,
        skip_if_unchanged: false,
        compression: Compression::default(),
    };
    let observer: Arc<dyn Observer> = Arc::new(Silent);
    backup::run(&pair.play.actor().opened().unwrap(), options, &observer, &Stop::new()).unwrap();
}
