//! The rules, each of which can be left out.

/// Which rules hold; their names are those of the tests that leave them out.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// B1: the lease is written before anything is listed.
    pub lease_first: bool,
    /// B1: notes are listed before snapshots.
    pub notes_before_snapshots: bool,
    /// B2: no parent that is forgotten.
    pub parent_not_forgotten: bool,
    /// B3: nothing is known by a retired pack.
    pub known_not_retired: bool,
    /// B4: a new lease counts only once the one before it was read back.
    pub read_back: bool,
    /// B4: of two leases the older stays until there is a third.
    pub two_leases: bool,
    /// B6: packs of others are looked at.
    pub look_at_packs: bool,
    /// B6: the lease is looked at before the manifest is written.
    pub look_before: bool,
    /// B7: the lease is looked at after the manifest was written.
    pub look_after: bool,
    /// B8: a manifest is withdrawn when the lease is gone.
    pub withdraw: bool,
    /// B7: a put whose outcome is unknown is sent again until it is known.
    pub outcome_known: bool,
    /// P1 before P2.
    pub candidates_first: bool,
    /// P2 before P3.
    pub leases_before_census: bool,
    /// P2: a lease that is ended in this run still counts in it.
    pub ended_counts: bool,
    /// P2: leases that are live count at all.
    pub live_counts: bool,
    /// P2: a list of leases during which one was renewed (five minutes) is made again.
    pub leases_listed_quickly: bool,
    /// P2: done leases count until every list shows what they wrote.
    pub done_counts: bool,
    /// P3: packs are listed before segments.
    pub packs_before_segments: bool,
    /// P3: no deletion where the census is not whole.
    pub whole_census: bool,
    /// P3: a forget note counts once every lease that counts names it.
    pub note_ripe: bool,
    /// P3: a forget note counts once it is as old as the grace time.
    pub note_grace: bool,
    /// Who takes a forget note back waits for prunes that are at work, and looks for the manifest after that.
    pub undo_waits: bool,
    /// P4: a retirement counts once every lease that counts names its sweep.
    pub sweep_ripe: bool,
    /// P4: what turned out live is moved before a pack is deleted.
    pub move_live: bool,
    /// P4: only an unretired pack is another place.
    pub place_unretired: bool,
    /// P4: only a pack that is listed is another place.
    pub place_listed: bool,
    /// P4: retirements have to be as old as the grace time.
    pub grace: bool,
    /// P4: how old something is, is told by the store's time before the first list of the run.
    pub age_at_start: bool,
    /// P5 before P4: the manifest goes before what only it needs.
    pub manifests_first: bool,
    /// P6: packs younger than the oldest lease are left alone.
    pub spare_young: bool,
    /// P6: what a run publishes, it does before it deletes.
    pub publish_first: bool,
    /// P6: all retirements of a sweep are published as one object.
    pub one_segment: bool,
    /// P6: strays are left alone until they are as old as the grace time.
    pub spare_young_strays: bool,
    /// P7: merged segments stay for an hour, longer than any list takes.
    pub merged_stay: bool,
    /// P7: an entry and its retirement go together.
    pub go_together: bool,
    /// P7: they go by the mark that the pack was deleted, not because a list does not show the pack.
    pub go_by_mark: bool,
    /// P7: and the pack is looked for once more before.
    pub look_before_going: bool,
    /// P7: a run older than a day deletes nothing more.
    pub short_runs: bool,
    /// R4: a retired pack is not taken for known by who copies packs.
    pub copy_anew: bool,
    /// L15: a manifest is never rewritten.
    pub never_rewritten: bool,
}

impl Rules {
    pub const ALL: Self = Self {
        lease_first: true,
        notes_before_snapshots: true,
        parent_not_forgotten: true,
        known_not_retired: true,
        read_back: true,
        two_leases: true,
        look_at_packs: true,
        look_before: true,
        look_after: true,
        withdraw: true,
        outcome_known: true,
        candidates_first: true,
        leases_before_census: true,
        ended_counts: true,
        live_counts: true,
        leases_listed_quickly: true,
        done_counts: true,
        packs_before_segments: true,
        whole_census: true,
        note_ripe: true,
        note_grace: true,
        undo_waits: true,
        sweep_ripe: true,
        move_live: true,
        place_unretired: true,
        place_listed: true,
        grace: true,
        age_at_start: true,
        manifests_first: true,
        spare_young: true,
        publish_first: true,
        one_segment: true,
        spare_young_strays: true,
        merged_stay: true,
        go_together: true,
        go_by_mark: true,
        look_before_going: true,
        short_runs: true,
        copy_anew: true,
        never_rewritten: true,
    };
}
