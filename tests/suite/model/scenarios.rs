//! The configurations that are searched: stores, actors and what they are about to do.

use super::state::*;

/// When the actors start, where a clock counts; what is in the store by then is older than any span.
pub const START: u8 = 8;

/// A store with snapshot 0, which needs chunks 0 and 1: 0 in pack 0, 1 in pack 1.
fn past(world: &World) -> State {
    let mut s = State::new(world);
    s.put_pack(0b01);
    s.put_pack(0b10);
    s.put_segment(0b11, 0);
    s.put_manifest(0b11, 255);
    later(world, s)
}

/// The same, with pack 1 retired long ago though chunk 1 lives.
fn past_retired(world: &World) -> State {
    let mut s = past(world);
    s.now = 0;
    let f = s.new_fact(1, 0);
    s.sweeps = 1;
    s.put_segment(0, 1 << f);
    later(world, s)
}

/// Chunk 0 lies in two packs; each holds something dead as well.
fn past_twice(world: &World) -> State {
    let mut s = State::new(world);
    s.put_pack(0b101);
    s.put_pack(0b101);
    s.put_segment(0b11, 0);
    s.put_manifest(0b001, 255);
    later(world, s)
}

/// Pack 1 was copied by a replicate that died: it is in no segment, and snapshot 0 does not need it.
fn past_stray(world: &World) -> State {
    let mut s = State::new(world);
    s.put_pack(0b01);
    s.put_pack(0b10);
    s.put_segment(0b01, 0);
    s.put_manifest(0b01, 255);
    later(world, s)
}

/// Pack 1 was retired and deleted, and merged away; a segment of before may be replayed.
fn past_deleted(world: &World) -> State {
    let mut s = past(world);
    s.delete(PACKS, 1);
    s.delete(SEGS, 0);
    s.delete(MANS, 0);
    s.put_segment(0b01, 0);
    s.put_manifest(0b01, 255);
    later(world, s)
}

/// Chunk 1 lies in pack 1, and no snapshot needs it.
fn past_dead(world: &World) -> State {
    let mut s = State::new(world);
    s.put_pack(0b01);
    s.put_pack(0b10);
    s.put_segment(0b11, 0);
    s.put_manifest(0b01, 255);
    later(world, s)
}

/// And pack 1 was retired long ago.
fn past_dead_retired(world: &World) -> State {
    let mut s = past_dead(world);
    s.now = 0;
    let f = s.new_fact(1, 0);
    s.sweeps = 1;
    s.put_segment(0, 1 << f);
    later(world, s)
}

fn later(world: &World, mut s: State) -> State {
    s.now = if world.ticks > 0 { START } else { 0 };
    s
}

const NOBODY: Plan = World::NEW.plans[0];

fn backup(needs: u8, unread: u8) -> Plan {
    Plan { needs, unread, attempts: 1, ..NOBODY }
}

/// A configuration: its name, the world, and the store that the actors find.
#[derive(Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub world: World,
    start: fn(&World) -> State,
}

impl Scenario {
    pub fn start(&self) -> State {
        (self.start)(&self.world)
    }
    /// With other rules.
    pub fn with(mut self, change: impl Fn(&mut Rules)) -> Self {
        change(&mut self.world.rules);
        self
    }
}

macro_rules! scenario {
    ($f:ident, $name:literal, $start:ident, $($field:ident: $value:expr),*) => {
        #[doc = $name]
        pub fn $f() -> Scenario {
            Scenario { name: $name, world: World { $($field: $value,)* ..World::NEW }, start: $start }
        }
    };
}

const FORGET: Wish = Wish::Forget;

scenario!(parent, "a backup with a parent that is forgotten, three runs of prune", past,
    plans: [backup(0b11, 0b10), NOBODY, NOBODY], runs: [2, 1], wish: FORGET);
scenario!(two_backups, "two backups, one prune, twice", past,
    plans: [backup(0b10, 0b10), backup(0b10, 0), NOBODY], runs: [2, 0], wish: FORGET, crash: false);
scenario!(two_and_two, "two backups and two prunes; a pack that lives was retired", past_retired,
    plans: [backup(0b10, 0b10), backup(0b10, 0), NOBODY], runs: [1, 1]);
scenario!(two_attempts, "a backup that starts over", past,
    plans: [Plan { attempts: 2, ..backup(0b10, 0) }, NOBODY, NOBODY], runs: [2, 0], wish: FORGET);
scenario!(renewal, "a lease that is renewed, lists that take time", past,
    plans: [Plan { renews: true, ..backup(0b10, 0) }, NOBODY, NOBODY], runs: [2, 0], wish: FORGET, torn: 1 << LEASES | 1 << MANS);
scenario!(expiry, "a lease that is renewed, two prunes", past,
    plans: [Plan { renews: true, ..backup(0b10, 0) }, NOBODY, NOBODY], runs: [1, 1], wish: FORGET, crash: false);
scenario!(torn, "every list takes time", past,
    plans: [backup(0b10, 0b10), NOBODY, NOBODY], runs: [2, 0], wish: FORGET, torn: 0xff);
scenario!(replicate, "a replicate and a backup; a pack in no segment", past_stray,
    plans: [backup(0b10, 0), NOBODY, Plan { copies: 2, ..backup(0b11, 0) }], runs: [2, 0], strays: true);
scenario!(copies, "a replicate whose pack was retired, two prunes", past_retired,
    plans: [NOBODY, NOBODY, Plan { copies: 2, ..backup(0b10, 0) }], runs: [1, 1], wish: FORGET);
scenario!(two_prunes, "two prunes, twice each; a chunk in two packs", past_twice,
    runs: [2, 2], any_pack: true, sweep_max: 2);
scenario!(sweeps, "sweeps of two packs", past,
    plans: [backup(0b11, 0), NOBODY, NOBODY], runs: [2, 0], sweep_max: 2, wish: FORGET, any_pack: true);
scenario!(merging, "segments are merged beside a backup", past_retired,
    plans: [backup(0b10, 0), NOBODY, NOBODY], runs: [2, 0], wish: FORGET, torn: 1 << SEGS, merges: true);
scenario!(merging_twice, "two prunes merge", past_retired,
    runs: [2, 1], wish: FORGET, torn: 1 << SEGS, merges: true, crash: false);
scenario!(replay, "a segment is replayed that was merged away", past_deleted,
    plans: [backup(0b10, 0), NOBODY, NOBODY], runs: [1, 0], replay: true);
scenario!(append_only, "a store that lets backups delete nothing", past,
    plans: [backup(0b10, 0), NOBODY, NOBODY], runs: [2, 1], wish: FORGET, append_only: true);
scenario!(flying, "a manifest that arrives at any time", past,
    plans: [Plan { flies: true, ..backup(0b10, 0) }, NOBODY, NOBODY], runs: [2, 1], wish: FORGET);
scenario!(blame, "who ended the lease, who deleted the pack", past,
    plans: [backup(0b10, 0), NOBODY, NOBODY], runs: [2, 1], wish: FORGET, blame: true);
scenario!(young, "prune beside a running backup", past,
    plans: [backup(0b100, 0), NOBODY, NOBODY], runs: [1, 1], any_pack: true);
scenario!(stale, "lists may be old by half the grace time", past_dead,
    plans: [backup(0b10, 0), NOBODY, NOBODY], runs: [2, 0], ticks: START + 4, grace: 2, stale: 1, crash: false);
scenario!(staler, "lists may be old by the grace time", past_dead,
    plans: [backup(0b10, 0), NOBODY, NOBODY], runs: [2, 0], ticks: START + 4, grace: 2, stale: 2, crash: false);
scenario!(undo, "a forgotten snapshot is taken back", past_retired,
    runs: [1, 1], wish: Wish::Undo, ticks: START + 3, grace: 2);
scenario!(undo_beside_the_dead, "a forgotten snapshot is taken back beside a prune that died and runs again", past_retired,
    runs: [2, 0], wish: Wish::Undo, ticks: START + 3, grace: 2);
scenario!(strays, "packs in no segment, and prunes that sleep", past_retired,
    runs: [1, 2], ticks: START + 4, grace: 2, stray_grace: 2, run_max: 2, strays: true);
scenario!(strays_now, "packs in no segment, and prunes that do not wait", past_retired,
    plans: [Plan { dies: true, ..backup(0b01, 0) }, NOBODY, NOBODY], crash: false, runs: [1, 2], ticks: START + 2, stray_grace: 2, run_max: 2, strays: true);
scenario!(marks, "a pack is retired while segments are merged", past_dead_retired,
    plans: [backup(0b10, 0), NOBODY, NOBODY], runs: [2, 1], merges: true, crash: false);
scenario!(rewrite, "a tag", past_retired,
    runs: [1, 0], wish: Wish::Rewrite, torn: 1 << MANS);
