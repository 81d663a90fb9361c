//! What could lose data between backups and prunes, played step by step. Each is played twice: as it is, and with the rule
//! taken out that closes it, which is done by showing the actor what it would go by without the rule. Then the loss must
//! happen: else the play would prove nothing.
//!
//! | | what could lose data | where it is played |
//! |---|---|---|
//! | L1 | a backup sleeps over two prunes | `a_backup_that_slept_over_two_prunes_…` |
//! | L2 | it commits between two lists of prune | `a_backup_that_ends_between_the_lists_…` |
//! | L3 | a lease is renewed after its end | `a_lease_that_is_renewed_after_its_end_…` |
//! | L4 | a backup has listed and has no lease yet | `a_backup_counts_from_before_it_lists` |
//! | L5 | a parent is forgotten under the backup that goes by it | `a_parent_that_is_forgotten_under_…`, `a_parent_that_a_note_forgets_…` |
//! | L6 | prune takes what a running backup has stored for unneeded | `what_a_running_backup_has_stored_…`, `packs_that_no_segment_names_yet_…` |
//! | L7 | two prunes rely on each other's pack | `two_prunes_that_each_rely_on_the_other_pack_…` |
//! | L8 | retiring and deleting in one go | `prune_now_waits_for_a_backup_that_began_before` |
//! | L9 | a retired pack is taken back while prune deletes it | `a_pack_that_prune_is_about_to_delete_is_not_relied_on_again`, `an_index_that_is_rebuilt_…`, `replicas` |
//! | L10 | one cache for two stores | `replicas`: `what_lies_on_the_other_disk_…`, `two_disks_in_turn_…` |
//! | L11 | a retirement's age travels to a replica | `replicas`: `a_pack_that_was_retired_here_…` |
//! | L12 | an empty source empties its replica | `replicas`: `a_repository_that_was_emptied_…` |
//! | L13 | a merged segment travels to a replica | `replicas`: `a_merged_segment_takes_no_pack_…` |
//! | L14 | a store shows segments of before | `a_pack_that_an_old_segment_promises_is_looked_for` |
//! | L15 | a manifest that is rewritten escapes a list | none is: tags, holds and forgets are notes; `what_is_brought_back_while_prune_deletes_…`, and `model` |
//! | L16 | an old program prunes a newer repository | `newer` |
//! | L17 | a file changes twice within one tick of its file system | `same_tick` |
//! | L18 | a stolen writer key promises chunks that are not there | `thief` |
//! | L19 | the clock of who prunes is wrong | `a_wrong_clock_ends_no_lease_…`, `clocks` |
//! | L20 | one chunk lies in several packs | with L7 |

mod newer;
mod replicas;

use super::races::{Place, Seat};
use super::scene::let_files_settle;
use super::trial::World;
use pastfs::event::{Observer, Silent, Stop};
use pastfs::fault::Result;
use pastfs::format::snapshot::Action;
use pastfs::id::SnapshotId;
use pastfs::prune::{self, Options, Report, Unused};
use pastfs::repair;
use pastfs::repository::{InitOptions, Repository};
use pastfs::seal::Cipher;
use pastfs::storage::Store;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, ScopedJoinHandle};

const HOUR: i64 = 3600;
/// A bit more than the grace time.
const DAY: i64 = 25 * HOUR;
/// Packs of a backup of something new: trees in one, content in another. One that finds the content stores trees alone, if
/// anything.
const PACKS_OF_NEW: usize = 2;

/// A repository with snapshots of the states 1 and 2, of which the first was forgotten a day ago: what only it needs is dead,
/// and lies in packs that are there and that nobody has retired yet. The source is in state 1 again.
struct Play {
    world: World,
    place: Arc<Place>,
}

/// Somebody with a machine of his own: a seat at the store, and a cache.
struct Actor<'a> {
    play: &'a Play,
    seat: Arc<Seat>,
    cache: PathBuf,
}

impl Play {
    fn new() -> Self {
        Self::with_clock(0)
    }

    /// The store's clock is ahead of this machine's by so many seconds.
    fn with_clock(ahead: i64) -> Self {
        let play = Self { world: World::with_copies(), place: Place::new(ahead) };
        let store: Arc<dyn Store> = play.place.seat();
        let options = InitOptions { cipher: Cipher::default(), parity: 0, label: Default::default() };
        Repository::init(&store, &super::trial::credential(super::trial::KEY), &options).unwrap();
        let first = play.actor();
        for state in [1, 2] {
            play.world.turn(state);
            first.backs_up(state).unwrap();
        }
        first.notes(Action::Forget);
        play.world.turn(1);
        play.place.passes(DAY);
        play
    }

    fn actor(&self) -> Actor<'_> {
        Actor { play: self, seat: self.place.seat(), cache: self.world.fresh("cache") }
    }

    fn packs(&self) -> usize {
        self.place.names("packs/").len()
    }

    /// Every listed snapshot comes back as it was saved: how many there are.
    fn whole(&self) -> std::result::Result<usize, String> {
        let store: Arc<dyn Store> = self.place.seat();
        let view = self.world.whole(&store, &self.world.fresh("new"))?;
        self.world.clean(&store, &self.world.fresh("new"))?;
        Ok(view.snapshots.len())
    }

    /// With all rules nothing is lost; without one, something is.
    fn judged(&self, with_rule: bool, snapshots: usize) {
        let whole = self.whole();
        match with_rule {
            true => assert_eq!(whole, Ok(snapshots)),
            false => assert!(whole.is_err(), "nothing is lost without the rule: {whole:?}"),
        }
    }
}

impl Actor<'_> {
    fn store(&self) -> Arc<dyn Store> {
        self.seat.clone()
    }
    fn opened(&self) -> Result<Arc<Repository>> {
        self.play.world.open(&self.store(), &self.cache)
    }
    fn backs_up(&self, state: usize) -> Result<()> {
        self.play.world.save(&self.opened()?, state)
    }
    /// On the oldest snapshot.
    fn notes(&self, action: Action) -> Vec<SnapshotId> {
        let repository = self.opened().unwrap();
        let of = if action == Action::Unforget { repository.forgotten() } else { repository.snapshots() };
        let ids = vec![of.unwrap()[0].id];
        repository.add_note(action, &ids, &[]).unwrap();
        ids
    }
    fn forgets_the_newest(&self) {
        let repository = self.opened().unwrap();
        let newest = repository.snapshots().unwrap().last().unwrap().id;
        repository.add_note(Action::Forget, &[newest], &[]).unwrap();
    }
    fn repairs_the_index(&self) {
        let observer: Arc<dyn Observer> = Arc::new(Silent);
        repair::index(&self.opened().unwrap(), b"h", false, &observer, &Stop::new()).unwrap();
    }
    fn prunes(&self) -> Result<Report> {
        self.prunes_with(prune::GRACE_SECONDS, false)
    }
    fn prunes_with(&self, grace: i64, now: bool) -> Result<Report> {
        let options = Options {
            grace,
            max_unused: Unused::Bytes(0),
            max_repack: u64::MAX,
            now,
            dry_run: false,
            compression: Default::default(),
            host: b"h".to_vec(),
            drop: HashSet::new(),
        };
        let observer: Arc<dyn Observer> = Arc::new(Silent);
        prune::run(&self.opened()?, &options, &observer, &Stop::new(), &mut |_| ())
    }
}

/// Starts something that comes to a stop, and waits until it is there.
fn until_it_stops<'scope, 'env, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, 'env>,
    seat: &Seat,
    at: (&'static str, &'static str),
    work: impl FnOnce() -> T + Send + 'scope,
) -> ScopedJoinHandle<'scope, T> {
    seat.stop_at(at.0, at.1);
    let running = scope.spawn(work);
    seat.stopped();
    running
}

/// L1. A backup relies on a pack and sleeps before it writes its manifest, until the pack was retired and deleted.
/// B7 and B8: it looks for its lease after the manifest, and withdraws it.
#[test]
fn a_backup_that_slept_over_two_prunes_withdraws_its_snapshot_and_starts_over() {
    for with_rule in [true, false] {
        let play = Play::new();
        let (b, x) = (play.actor(), play.actor());
        thread::scope(|scope| {
            let sleeper = until_it_stops(scope, &b.seat, ("put", "snapshots/"), || b.backs_up(1));
            play.place.passes(2 * HOUR);
            assert!(x.prunes().unwrap().retired > 0);
            play.place.passes(DAY);
            assert!(x.prunes().unwrap().deleted.0 > 0);
            if !with_rule {
                b.seat.pretend(|name| name.starts_with("leases/"));
            }
            b.seat.go_on();
            sleeper.join().unwrap().unwrap();
        });
        play.judged(with_rule, 2);
    }
}

/// L2. A backup commits and ends its lease between two lists of prune.
/// P2 before P3: who has no lease any more has its manifest in a list that is made later.
#[test]
fn a_backup_that_ends_between_the_lists_of_prune_is_seen() {
    for with_rule in [true, false] {
        let play = Play::new();
        let (b, x) = (play.actor(), play.actor());
        thread::scope(|scope| {
            let backup = until_it_stops(scope, &b.seat, ("put", "snapshots/"), || b.backs_up(1));
            assert!(x.prunes().unwrap().retired > 0);
            play.place.passes(DAY);
            // This one has listed snapshots before leases, where the rule is taken out.
            let before = play.place.names("snapshots/");
            if with_rule {
                let prune = until_it_stops(scope, &x.seat, ("list", "leases/"), || x.prunes());
                b.seat.go_on();
                backup.join().unwrap().unwrap();
                x.seat.go_on();
                prune.join().unwrap().unwrap();
            } else {
                b.seat.go_on();
                backup.join().unwrap().unwrap();
                x.seat.hide(move |name| name.starts_with("snapshots/") && !before.iter().any(|b| b == name));
                x.prunes().unwrap();
            }
        });
        play.judged(with_rule, 2);
    }
}

/// L3. A backup sleeps between its first lease and the next one, which it writes after prune has ended it.
/// B4: a lease counts only if the one before it can be read after it.
#[test]
fn a_lease_that_is_renewed_after_its_end_does_not_count() {
    for with_rule in [true, false] {
        let play = Play::new();
        let (b, x) = (play.actor(), play.actor());
        thread::scope(|scope| {
            // It has listed everything: this is number 1.
            let backup = until_it_stops(scope, &b.seat, ("list", "index/"), || b.backs_up(1));
            b.seat.go_on_to("put", "leases/");
            play.place.passes(2 * HOUR);
            assert!(x.prunes().unwrap().retired > 0);
            assert_eq!(play.place.names("leases/").len(), 0, "prune has ended the lease");
            play.place.passes(DAY);
            let prune = until_it_stops(scope, &x.seat, ("list", "packs/"), || x.prunes());
            if !with_rule {
                b.seat.pretend(|name| name.starts_with("leases/") && name.ends_with("-0"));
            }
            b.seat.go_on();
            // With the rule it starts over by itself.
            backup.join().unwrap().unwrap();
            x.seat.go_on();
            prune.join().unwrap().unwrap();
        });
        play.judged(with_rule, 2);
    }
}

/// L4, L8. A backup has listed, and prune does not know of it. B1: the first lease is written before any list.
#[test]
fn a_backup_counts_from_before_it_lists() {
    for with_rule in [true, false] {
        let play = Play::new();
        let (b, x) = (play.actor(), play.actor());
        thread::scope(|scope| {
            let backup = until_it_stops(scope, &b.seat, ("put", "snapshots/"), || b.backs_up(1));
            if !with_rule {
                x.seat.hide(|name| name.starts_with("leases/"));
            }
            assert!(x.prunes().unwrap().retired > 0);
            play.place.passes(DAY);
            let prune = until_it_stops(scope, &x.seat, ("list", "packs/"), || x.prunes());
            b.seat.go_on();
            backup.join().unwrap().unwrap();
            x.seat.go_on();
            prune.join().unwrap().unwrap();
        });
        play.judged(with_rule, 2);
    }
}

/// L5. A backup takes over unread what lies in a retired pack, as its parent has it; the parent is forgotten meanwhile.
/// P3: a forgotten snapshot counts until everybody at work has seen that it is forgotten.
#[test]
fn a_parent_that_is_forgotten_under_a_backup_counts_until_that_has_ended() {
    for with_rule in [true, false] {
        let play = Play::new();
        let (s, b, u, x) = (play.actor(), play.actor(), play.actor(), play.actor());
        // What is unchanged is to be taken over unread.
        let_files_settle();
        thread::scope(|scope| {
            let parent = until_it_stops(scope, &s.seat, ("put", "snapshots/"), || s.backs_up(1));
            assert!(x.prunes().unwrap().retired > 0);
            s.seat.go_on();
            parent.join().unwrap().unwrap();
            let backup = until_it_stops(scope, &b.seat, ("put", "snapshots/"), || b.backs_up(1));
            u.forgets_the_newest();
            if !with_rule {
                x.seat.hide(|name| name.starts_with("leases/"));
            }
            assert!(x.prunes_with(0, false).unwrap().deleted.0 > 0);
            b.seat.go_on();
            backup.join().unwrap().unwrap();
        });
        play.judged(with_rule, 2);
    }
}

/// L5 as well. The parent was forgotten before the backup began, whose lease names the note.
/// B2: what a note forgets is no parent.
#[test]
fn a_parent_that_a_note_forgets_is_none() {
    for with_rule in [true, false] {
        let play = Play::new();
        let (s, b, u, x) = (play.actor(), play.actor(), play.actor(), play.actor());
        let_files_settle();
        thread::scope(|scope| {
            let parent = until_it_stops(scope, &s.seat, ("put", "snapshots/"), || s.backs_up(1));
            assert!(x.prunes().unwrap().retired > 0);
            s.seat.go_on();
            parent.join().unwrap().unwrap();
            u.forgets_the_newest();
            if !with_rule {
                // Its lease would name the note all the same: to prune it is as if there were none.
                b.seat.hide(|name| name.starts_with("notes/"));
                x.seat.hide(|name| name.starts_with("leases/"));
            }
            let backup = until_it_stops(scope, &b.seat, ("put", "snapshots/"), || b.backs_up(1));
            assert!(x.prunes_with(0, false).unwrap().deleted.0 > 0);
            b.seat.go_on();
            backup.join().unwrap().unwrap();
        });
        play.judged(with_rule, 2);
    }
}

/// L6. A backup has stored packs and segments, and dies before its manifest; the next one is to find what it stored.
/// P6: what is younger than the oldest session that counts is left alone.
#[test]
fn what_a_running_backup_has_stored_is_not_retired_under_it() {
    for with_rule in [true, false] {
        let play = Play::new();
        let (b, c, x) = (play.actor(), play.actor(), play.actor());
        play.world.turn(3);
        let before = play.packs();
        thread::scope(|scope| {
            let backup = until_it_stops(scope, &b.seat, ("put", "snapshots/"), || b.backs_up(3));
            play.place.passes(60);
            assert_eq!(play.packs() - before, PACKS_OF_NEW);
            if !with_rule {
                x.seat.hide(|name| name.starts_with("leases/"));
            }
            x.prunes_with(0, false).unwrap();
            b.seat.die();
            backup.join().unwrap().unwrap_err();
        });
        let before = play.packs();
        c.backs_up(3).unwrap();
        let stored = play.packs() - before;
        assert_eq!(stored < PACKS_OF_NEW, with_rule, "the next backup has stored {stored} packs");
        assert_eq!(play.whole(), Ok(2));
    }
}

/// L6 as well. The packs lie in no segment yet. P6: what no segment names has the whole grace time, whatever was asked for.
#[test]
fn packs_that_no_segment_names_yet_are_left_to_who_stored_them() {
    for with_rule in [true, false] {
        let play = Play::new();
        let (b, x) = (play.actor(), play.actor());
        play.world.turn(3);
        let before = play.place.names("packs/");
        thread::scope(|scope| {
            let backup = until_it_stops(scope, &b.seat, ("put", "index/"), || b.backs_up(3));
            let strays: Vec<String> =
                play.place.names("packs/").into_iter().filter(|name| !before.contains(name)).collect();
            assert!(!strays.is_empty());
            play.place.passes(60);
            // Who began is not known to prune, or was never waited for.
            let young = strays.clone();
            x.seat.hide(|name| name.starts_with("leases/"));
            if !with_rule {
                x.seat.age(move |name| young.iter().any(|y| y == name), 2 * DAY);
            }
            x.prunes_with(0, false).unwrap();
            x.prunes_with(0, false).unwrap();
            let left = play.place.names("packs/");
            assert_eq!(strays.iter().all(|name| left.contains(name)), with_rule);
            b.seat.go_on();
            backup.join().unwrap().unwrap();
        });
        play.judged(with_rule, 2);
    }
}

/// L9. Prune has decided to delete a pack, and somebody needs it and sees it there. B3: retired is retired; what lies there is
/// stored anew.
#[test]
fn a_pack_that_prune_is_about_to_delete_is_not_relied_on_again() {
    for with_rule in [true, false] {
        let play = Play::new();
        let (b, x) = (play.actor(), play.actor());
        let before = play.place.names("index/");
        assert!(x.prunes().unwrap().retired > 0);
        play.place.passes(DAY);
        thread::scope(|scope| {
            let prune = until_it_stops(scope, &x.seat, ("delete", "packs/"), || x.prunes());
            if !with_rule {
                // To this one all is as before: a retirement that was taken back.
                b.seat.hide(move |name| name.starts_with("index/") && !before.iter().any(|b| b == name));
            }
            b.backs_up(1).unwrap();
            x.seat.go_on();
            assert!(prune.join().unwrap().unwrap().deleted.0 > 0);
        });
        play.judged(with_rule, 2);
    }
}

/// L9 as well. The segments that name a retired pack are lost, and made again from the pack. Where that it is retired is lost
/// too, it is a pack like others again.
#[test]
fn an_index_that_is_rebuilt_revives_no_pack_that_is_known_to_be_retired() {
    for with_rule in [true, false] {
        let play = Play::new();
        let (b, r, x) = (play.actor(), play.actor(), play.actor());
        let before = play.place.names("index/");
        assert!(x.prunes().unwrap().retired > 0);
        for name in play.place.names("index/") {
            if !with_rule || before.contains(&name) {
                x.seat.delete(&name).unwrap();
            }
        }
        r.repairs_the_index();
        let before = play.packs();
        b.backs_up(1).unwrap();
        let stored = play.packs() - before;
        assert_eq!(stored == PACKS_OF_NEW, with_rule, "the backup has stored {stored} packs");
        play.place.passes(DAY);
        assert_eq!(x.prunes().unwrap().deleted.0 > 0, with_rule);
        assert_eq!(play.whole(), Ok(2));
    }
}

/// L14. A backup is shown an index of before: a pack that was deleted seems to be there. B6: it looks.
#[test]
fn a_pack_that_an_old_segment_promises_is_looked_for() {
    for with_rule in [true, false] {
        let play = Play::new();
        let (b, x) = (play.actor(), play.actor());
        let before = play.place.names("index/");
        x.prunes().unwrap();
        play.place.passes(DAY);
        assert!(x.prunes().unwrap().deleted.0 > 0);
        b.seat.hide(move |name| name.starts_with("index/") && !before.iter().any(|b| b == name));
        if !with_rule {
            b.seat.pretend(|name| name.starts_with("packs/"));
        }
        b.backs_up(1).unwrap();
        play.judged(with_rule, 2);
    }
}

/// L19. The clock of the machine that prunes is wrong by two days: only the store's counts.
#[test]
fn a_wrong_clock_ends_no_lease_and_deletes_nothing_early() {
    for ahead in [-2 * DAY, 2 * DAY] {
        let play = Play::with_clock(ahead);
        let (b, x) = (play.actor(), play.actor());
        thread::scope(|scope| {
            let backup = until_it_stops(scope, &b.seat, ("put", "snapshots/"), || b.backs_up(1));
            let leases = play.place.names("leases/");
            assert!(x.prunes().unwrap().retired > 0);
            assert_eq!(x.prunes().unwrap().deleted.0, 0);
            assert_eq!(play.place.names("leases/"), leases);
            b.seat.go_on();
            backup.join().unwrap().unwrap();
        });
        assert_eq!(play.whole(), Ok(2));
    }
}

/// L8. `--now` retires and deletes in one go. It waits for who has not seen what it retired.
#[test]
fn prune_now_waits_for_a_backup_that_began_before() {
    for with_rule in [true, false] {
        let play = Play::new();
        let (b, x) = (play.actor(), play.actor());
        thread::scope(|scope| {
            let backup = until_it_stops(scope, &b.seat, ("put", "snapshots/"), || b.backs_up(1));
            let before = play.place.names("snapshots/");
            if !with_rule {
                // It neither waits nor sees what is committed later.
                x.seat.hide(move |name| {
                    name.starts_with("leases/")
                        || name.starts_with("snapshots/") && !before.iter().any(|b| b == name)
                });
                x.prunes_with(0, true).unwrap();
                b.seat.go_on();
                backup.join().unwrap().unwrap();
            } else {
                let packs = play.place.names("packs/");
                let prune = scope.spawn(|| x.prunes_with(0, true));
                while play.place.names("index/").len() < 3 {
                    thread::yield_now();
                }
                assert!(packs.iter().all(|p| play.place.names("packs/").contains(p)));
                b.seat.go_on();
                backup.join().unwrap().unwrap();
                assert!(prune.join().unwrap().unwrap().deleted.0 > 0);
            }
        });
        play.judged(with_rule, 2);
    }
}

/// L15, and an undo. A prune has decided, and deletes, when the snapshot is brought back: at no moment is one listed that is
/// not whole, and who brings it back is told that it came too late.
#[test]
fn what_is_brought_back_while_prune_deletes_is_whole_or_said_to_be_gone() {
    let play = Play::new();
    let (u, x) = (play.actor(), play.actor());
    // Forgotten anew: what it needs is retired before the grace time is over.
    let forgotten = u.notes(Action::Unforget)[0];
    u.notes(Action::Forget);
    assert!(x.prunes().unwrap().retired > 0);
    play.place.passes(DAY);
    thread::scope(|scope| {
        let prune = until_it_stops(scope, &x.seat, ("delete", "snapshots/"), || x.prunes());
        let undo = until_it_stops(scope, &u.seat, ("list", "leases/"), || {
            u.opened().unwrap().add_note(Action::Unforget, &[forgotten], &[])
        });
        assert_eq!(play.whole(), Ok(2), "it is back, for now");
        u.seat.go_on();
        x.seat.go_on_to("delete", "packs/");
        assert_eq!(play.whole(), Ok(1), "it is gone before anything that it needs");
        x.seat.go_on();
        prune.join().unwrap().unwrap();
        assert!(undo.join().unwrap().is_err(), "it was said to be back, and is not");
    });
    assert_eq!(play.whole(), Ok(1));
}

/// L7, L20. A chunk lies in two packs, as two backups stored it at once; two prunes each retire one of them because of the other.
/// P4: what turned out to be needed is moved before a pack goes.
#[test]
fn two_prunes_that_each_rely_on_the_other_pack_delete_neither_chunk() {
    let play = Play::new();
    play.world.turn(3);
    let (b, c) = (play.actor(), play.actor());
    thread::scope(|scope| {
        let one = until_it_stops(scope, &b.seat, ("put", "packs/"), || b.backs_up(3));
        c.backs_up(3).unwrap();
        b.seat.go_on();
        one.join().unwrap().unwrap();
    });
    let (x, y) = (play.actor(), play.actor());
    play.place.passes(DAY);
    thread::scope(|scope| {
        let first = until_it_stops(scope, &x.seat, ("put", "index/"), || x.prunes());
        y.prunes().unwrap();
        x.seat.go_on();
        first.join().unwrap().unwrap();
    });
    play.place.passes(DAY);
    thread::scope(|scope| {
        let first = until_it_stops(scope, &x.seat, ("delete", "packs/"), || x.prunes());
        y.prunes().unwrap();
        x.seat.go_on();
        first.join().unwrap().unwrap();
    });
    play.place.passes(DAY);
    y.prunes().unwrap();
    assert_eq!(play.whole(), Ok(3));
}
