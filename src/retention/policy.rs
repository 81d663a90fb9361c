//! Times and rules in, a verdict with its reasons out. Nothing is read, asked or written here.
//!
//! Snapshots are judged in groups, such as all of one host and set of paths. From the newest on, a rule like "7 daily"
//! keeps the newest snapshot of each of the 7 newest days *that have one*: a laptop that was off for two weeks loses nothing
//! by it. Each rule looks at all snapshots of the group, also those that another one keeps. The newest of a group always
//! stays. More of any rule never keeps less, since no rule takes away what another one gives.

use crate::clock::Time;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp, Zoned};
use std::collections::BTreeMap;

/// A snapshot may be so many seconds ahead of our clock, as clocks of several machines are; one that is further has no
/// true time, and does not count.
const AHEAD_MAX: i64 = 3600;

/// The storage may have taken a snapshot so many seconds after the time that names it: the longest backup that is expected.
/// What is named by an earlier time, by a key that is not trusted with it, is taken for backdated. So whoever has stolen a
/// writer key can take the places of the snapshots of the last day, and of no older ones.
const BEHIND_MAX: i64 = 24 * 3600;

/// What the rules look at.
#[derive(Clone, Debug, Default)]
pub struct Candidate {
    /// The time that names the snapshot.
    pub time: Time,
    /// Host name.
    pub host: Vec<u8>,
    /// What was saved.
    pub paths: Vec<Vec<u8>>,
    /// Tags after all notes.
    pub tags: Vec<Vec<u8>>,
    /// Protected from forgetting.
    pub held: bool,
    /// When the storage took it, in seconds, where its author is not to be believed without that: of a writer key.
    pub stored: Option<i64>,
    /// It names another host than its key is for.
    pub is_foreign: bool,
}

/// How many of what are kept. Nothing is kept by a rule of 0.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The newest so many.
    pub last: u32,
    /// The newest of each of so many hours that have one, by the clock on the wall.
    pub hourly: u32,
    /// Of days.
    pub daily: u32,
    /// Of weeks from Monday on (ISO 8601).
    pub weekly: u32,
    /// Of months.
    pub monthly: u32,
    /// Of years.
    pub yearly: u32,
    /// All that are not older than this, seen from the newest of the group.
    pub within: Option<Span>,
    /// All that have all tags of one of these lists.
    pub tags: Vec<Vec<Vec<u8>>>,
}

impl Policy {
    /// Whether there is no rule at all.
    pub fn is_empty(&self) -> bool {
        let counts = [self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly];
        counts == [0; 6] && self.within.is_none() && self.tags.is_empty()
    }
}

/// What snapshots of one group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupBy {
    /// The host.
    pub host: bool,
    /// The set of paths.
    pub paths: bool,
    /// The set of tags.
    pub tags: bool,
}

impl Default for GroupBy {
    fn default() -> Self {
        Self { host: true, paths: true, tags: false }
    }
}

/// Why a snapshot stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is protected.
    Held,
    /// Its time lies ahead of our clock, or outside the calendar: no rule can say anything of it.
    NoTrueTime,
    /// The storage took it long after, or before, the time that names it, and its author is not trusted with that.
    Backdated,
    /// It names a host that its key is not for.
    Foreign,
    /// One of the newest.
    Last,
    /// The newest of its hour.
    Hourly,
    /// Of its day.
    Daily,
    /// Of its week.
    Weekly,
    /// Of its month.
    Monthly,
    /// Of its year.
    Yearly,
    /// Not older than the span.
    Within,
    /// By its tags.
    Tag,
    /// The newest of its group, which no other rule keeps.
    Newest,
}

impl Reason {
    /// For people and machines.
    pub fn word(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::NoTrueTime => "no true time",
            Self::Backdated => "backdated",
            Self::Foreign => "not of its key's host",
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
            Self::Within => "within",
            Self::Tag => "tag",
            Self::Newest => "newest",
        }
    }
}

/// What becomes of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its place among the candidates.
    pub index: usize,
    /// Why it stays, in the order of [`Reason`]; none: it is to be forgotten.
    pub reasons: Vec<Reason>,
}

/// The snapshots of one group, in the order of the candidates. There is at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// One for each.
    pub verdicts: Vec<Verdict>,
}

/// What the rules say of each candidate. These are sorted by time, oldest first, as listings are. Groups come in the order of
/// their hosts, paths, tags. Borders of hours and days are those of `zone`.
pub fn judge(
    candidates: &[Candidate],
    policy: &Policy,
    by: GroupBy,
    zone: &TimeZone,
    now: Time,
) -> Vec<Group> {
    let set = |texts: &[Vec<u8>], counts: bool| {
        let mut set = if counts { texts.to_vec() } else { Vec::new() };
        set.sort();
        set.dedup();
        set
    };
    let mut groups: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (index, c) in candidates.iter().enumerate() {
        let host = if by.host { c.host.clone() } else { Vec::new() };
        groups.entry((host, set(&c.paths, by.paths), set(&c.tags, by.tags))).or_default().push(index);
    }
    groups.into_values().map(|members| judge_group(candidates, &members, policy, zone, now)).collect()
}

fn judge_group(
    candidates: &[Candidate],
    members: &[usize],
    policy: &Policy,
    zone: &TimeZone,
    now: Time,
) -> Group {
    let mut verdicts: Vec<Verdict> =
        members.iter().map(|index| Verdict { index: *index, reasons: Vec::new() }).collect();
    // Newest first, with the place in `verdicts`.
    let mut counted: Vec<(usize, Zoned)> = Vec::new();
    for (at, index) in members.iter().enumerate().rev() {
        let c = &candidates[*index];
        if c.held {
            verdicts[at].reasons.push(Reason::Held);
        }
        match (true_time(c.time, now), doubt(c)) {
            (None, _) => verdicts[at].reasons.push(Reason::NoTrueTime),
            (_, Some(doubt)) => verdicts[at].reasons.push(doubt),
            (Some(time), None) => counted.push((at, time.to_zoned(zone.clone()))),
        }
    }
    for (at, _) in counted.iter().take(policy.last as usize) {
        verdicts[*at].reasons.push(Reason::Last);
    }
    let mut keep = |reason, count, period: &dyn Fn(&Zoned) -> Period| {
        let (mut left, mut before) = (count, None);
        for (at, time) in &counted {
            let this = Some(period(time));
            if this != before && left > 0 {
                left -= 1;
                verdicts[*at].reasons.push(reason);
            }
            before = this;
        }
    };
    keep(Reason::Hourly, policy.hourly, &hour);
    keep(Reason::Daily, policy.daily, &|t| (t.year(), t.month().into(), t.day().into(), 0, 0));
    keep(Reason::Weekly, policy.weekly, &week);
    keep(Reason::Monthly, policy.monthly, &|t| (t.year(), t.month().into(), 0, 0, 0));
    keep(Reason::Yearly, policy.yearly, &|t| (t.year(), 0, 0, 0, 0));
    let newest = counted.first();
    if let (Some(span), Some((_, newest))) = (&policy.within, newest) {
        // A span that reaches beyond the calendar keeps all.
        let since = newest.checked_sub(*span).ok().map(|t| t.timestamp());
        for (at, time) in &counted {
            if since.is_none_or(|since| time.timestamp() >= since) {
                verdicts[*at].reasons.push(Reason::Within);
            }
        }
    }
    for (v, index) in verdicts.iter_mut().zip(members) {
        let has = |tag: &Vec<u8>| candidates[*index].tags.contains(tag);
        if policy.tags.iter().any(|all| all.iter().all(has)) {
            v.reasons.push(Reason::Tag);
        }
    }
    if let Some(v) = newest.map(|(at, _)| &mut verdicts[*at]).filter(|v| v.reasons.is_empty()) {
        v.reasons.push(Reason::Newest);
    }
    Group { verdicts }
}

/// Why what the author says of time and host does not count.
fn doubt(c: &Candidate) -> Option<Reason> {
    let is_off = |stored: i64| !(-AHEAD_MAX..=BEHIND_MAX).contains(&stored.saturating_sub(c.time.seconds));
    match c.stored.is_some_and(is_off) {
        true => Some(Reason::Backdated),
        false => c.is_foreign.then_some(Reason::Foreign),
    }
}

fn true_time(time: Time, now: Time) -> Option<Timestamp> {
    if time.seconds > now.seconds.saturating_add(AHEAD_MAX) {
        return None;
    }
    let whole = Timestamp::from_second(time.seconds).ok()?;
    whole.checked_add(SignedDuration::from_nanos(time.nanos.into())).ok()
}

/// Year, and what else makes a period one of its kind.
type Period = (i16, i16, i16, i16, i32);

/// An hour that comes twice, as the clocks go back, is two.
fn hour(t: &Zoned) -> Period {
    (t.year(), t.month().into(), t.day().into(), t.hour().into(), t.offset().seconds())
}

/// The days around New Year belong to a week of one of both years.
fn week(t: &Zoned) -> Period {
    let week = t.date().iso_week_date();
    (week.year(), week.week().into(), 0, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::super::parse_within;
    use super::*;
    use jiff::tz::Offset;

    const NOW: &str = "2026-11-20T13:30:00Z";

    fn at(text: &str) -> Time {
        let t: Timestamp = text.parse().unwrap();
        Time { seconds: t.as_second(), nanos: t.subsec_nanosecond().unsigned_abs() }
    }
    fn of(times: &[&str]) -> Vec<Candidate> {
        times.iter().map(|t| Candidate { time: at(t), ..Candidate::default() }).collect()
    }
    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }
    fn judged(candidates: &[Candidate], policy: &Policy, zone: &TimeZone) -> Vec<Vec<Reason>> {
        let mut all = vec![Vec::new(); candidates.len()];
        for group in judge(candidates, policy, GroupBy::default(), zone, at(NOW)) {
            for v in group.verdicts {
                all[v.index] = v.reasons;
            }
        }
        all
    }
    /// Places of those that stay.
    fn kept(candidates: &[Candidate], policy: &Policy, zone: &TimeZone) -> Vec<usize> {
        let all = judged(candidates, policy, zone);
        (0..all.len()).filter(|i| !all[*i].is_empty()).collect()
    }
    fn kept_utc(times: &[&str], policy: &Policy) -> Vec<usize> {
        kept(&of(times), policy, &TimeZone::UTC)
    }

    #[test]
    fn what_is_backdated_stays_and_takes_nobodys_place() {
        let times =
            ["2026-11-17T10:00:00Z", "2026-11-18T10:00:00Z", "2026-11-19T10:00:00Z", "2026-11-19T11:00:00Z"];
        let policy = Policy { daily: 2, ..Policy::default() };
        let stored = |after: i64, is_foreign| {
            let mut all = of(&times);
            all[3].stored = Some(all[3].time.seconds + after);
            all[3].is_foreign = is_foreign;
            judged(&all, &policy, &TimeZone::UTC)
        };
        for honest in [0, -AHEAD_MAX, BEHIND_MAX] {
            assert_eq!(stored(honest, false), [vec![], vec![Reason::Daily], vec![], vec![Reason::Daily]]);
        }
        for (after, is_foreign, reason) in [
            (BEHIND_MAX + 1, false, Reason::Backdated),
            (-AHEAD_MAX - 1, false, Reason::Backdated),
            (i64::MAX / 2, true, Reason::Backdated),
            (0, true, Reason::Foreign),
        ] {
            let expected = [vec![], vec![Reason::Daily], vec![Reason::Daily], vec![reason]];
            assert_eq!(stored(after, is_foreign), expected);
        }
    }

    #[test]
    fn the_newest_of_each_period_stays_and_tells_all_its_reasons() {
        let times = [
            "2025-12-31T23:00:00Z",
            "2026-09-30T10:00:00Z",
            "2026-10-31T10:00:00Z",
            "2026-11-18T09:00:00Z",
            "2026-11-18T21:00:00Z",
            "2026-11-19T08:00:00Z",
            "2026-11-20T07:10:00Z",
            "2026-11-20T07:50:00Z",
        ];
        use Reason::*;
        let policy =
            Policy { last: 1, hourly: 2, daily: 2, weekly: 2, monthly: 3, yearly: 9, ..Policy::default() };
        assert_eq!(
            judged(&of(&times), &policy, &TimeZone::UTC),
            [
                vec![Yearly],
                vec![Monthly],
                vec![Weekly, Monthly],
                vec![],
                vec![],
                vec![Hourly, Daily],
                vec![],
                vec![Last, Hourly, Daily, Weekly, Monthly, Yearly],
            ]
        );
    }

    /// As restic has it: 10 times, of which each rule alone keeps these.
    #[test]
    fn each_rule_alone_keeps_what_restic_keeps() {
        let times = [
            "2014-09-01T10:20:30Z",
            "2014-09-02T10:20:30Z",
            "2014-09-05T10:20:30Z",
            "2014-09-06T10:20:30Z",
            "2014-09-08T10:20:30Z",
            "2014-09-09T10:20:30Z",
            "2014-09-10T10:20:30Z",
            "2014-09-11T10:20:30Z",
            "2014-09-20T10:20:30Z",
            "2014-09-22T10:20:30Z",
        ];
        let keeps = |policy| kept_utc(&times, &policy);
        assert_eq!(keeps(Policy { last: 3, ..Policy::default() }), [7, 8, 9]);
        assert_eq!(keeps(Policy { last: 99, ..Policy::default() }), (0..10).collect::<Vec<_>>());
        assert_eq!(keeps(Policy { daily: 4, ..Policy::default() }), [6, 7, 8, 9]);
        assert_eq!(keeps(Policy { weekly: 2, ..Policy::default() }), [8, 9]);
        assert_eq!(keeps(Policy { weekly: 3, ..Policy::default() }), [7, 8, 9]);
        assert_eq!(keeps(Policy { monthly: 5, ..Policy::default() }), [9]);
        let within = |text| Policy { within: Some(parse_within(text).unwrap()), ..Policy::default() };
        // From the newest on, not from now on.
        assert_eq!(keeps(within("1d")), [9]);
        assert_eq!(keeps(within("2d")), [8, 9]);
        assert_eq!(keeps(within("2w")), [4, 5, 6, 7, 8, 9]);
        assert_eq!(keeps(within("1y6m")), (0..10).collect::<Vec<_>>());
        assert_eq!(keeps(within("9000y")), (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_laptop_that_was_off_for_two_weeks_loses_nothing_by_it() {
        let times = [
            "2026-11-01T10:00:00Z",
            "2026-11-02T10:00:00Z",
            "2026-11-03T10:00:00Z",
            "2026-11-04T10:00:00Z",
            "2026-11-19T10:00:00Z",
            "2026-11-20T10:00:00Z",
        ];
        assert_eq!(kept_utc(&times, &Policy { daily: 5, ..Policy::default() }), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn days_are_those_of_the_zone_also_when_the_clocks_change() {
        // In Berlin 2026-10-25 has 25 hours, from 22:00 to 23:00 UTC.
        let times =
            ["2026-10-24T21:59:59Z", "2026-10-24T22:00:00Z", "2026-10-25T22:59:59Z", "2026-10-25T23:00:00Z"];
        let policy = Policy { daily: 9, ..Policy::default() };
        assert_eq!(kept(&of(&times), &policy, &berlin()), [0, 2, 3]);
        assert_eq!(kept_utc(&times, &policy), [1, 3]);
        // 2026-03-29 has 23.
        let times = ["2026-03-28T23:00:00Z", "2026-03-29T21:59:59Z", "2026-03-29T22:00:00Z"];
        assert_eq!(kept(&of(&times), &policy, &berlin()), [1, 2]);
    }

    #[test]
    fn the_hour_that_comes_twice_is_two_hours() {
        let times = ["2026-10-25T00:10:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"];
        let policy = Policy { hourly: 9, ..Policy::default() };
        assert_eq!(kept(&of(&times), &policy, &berlin()), [1, 2]);
    }

    #[test]
    fn the_week_around_new_year_is_one() {
        // Week 53 of 2020 goes until Sunday, 2021-01-03.
        let times =
            ["2020-12-27T12:00:00Z", "2020-12-31T12:00:00Z", "2021-01-03T12:00:00Z", "2021-01-04T12:00:00Z"];
        assert_eq!(kept_utc(&times, &Policy { weekly: 9, ..Policy::default() }), [0, 2, 3]);
        // And 2024-12-30 is in the first week of 2025.
        let times = ["2024-12-29T12:00:00Z", "2024-12-30T12:00:00Z", "2025-01-01T12:00:00Z"];
        assert_eq!(kept_utc(&times, &Policy { weekly: 9, ..Policy::default() }), [0, 2]);
    }

    #[test]
    fn of_several_in_one_second_the_last_stays() {
        let times = ["2026-11-20T10:00:00Z", "2026-11-20T10:00:00Z", "2026-11-20T10:00:00Z"];
        assert_eq!(kept_utc(&times, &Policy { last: 1, ..Policy::default() }), [2]);
        assert_eq!(kept_utc(&times, &Policy { hourly: 9, ..Policy::default() }), [2]);
    }

    #[test]
    fn the_newest_of_a_group_always_stays() {
        let only_tags = Policy { tags: vec![vec![b"none".to_vec()]], ..Policy::default() };
        for policy in [Policy::default(), only_tags] {
            let times = ["2026-11-19T10:00:00Z", "2026-11-20T10:00:00Z"];
            assert_eq!(judged(&of(&times), &policy, &TimeZone::UTC), [vec![], vec![Reason::Newest]]);
            assert_eq!(kept_utc(&times[..1], &policy), [0]);
        }
        assert!(judge(&[], &Policy::default(), GroupBy::default(), &TimeZone::UTC, at(NOW)).is_empty());
        assert!(Policy::default().is_empty());
    }

    #[test]
    fn held_and_tagged_ones_stay() {
        let mut all = of(&["2026-11-17T10:00:00Z", "2026-11-18T10:00:00Z", "2026-11-19T10:00:00Z", NOW]);
        all[0].held = true;
        all[1].tags = vec![b"a".to_vec()];
        all[2].tags = vec![b"a".to_vec(), b"b".to_vec()];
        let tags = vec![vec![b"a".to_vec(), b"b".to_vec()]];
        use Reason::*;
        assert_eq!(
            judged(&all, &Policy { last: 1, tags, ..Policy::default() }, &TimeZone::UTC),
            [vec![Held], vec![], vec![Tag], vec![Last]]
        );
    }

    #[test]
    fn groups_are_judged_by_themselves() {
        let mut all = of(&["2026-11-18T10:00:00Z", "2026-11-18T11:00:00Z", "2026-11-19T10:00:00Z", NOW]);
        all[0].host = b"other".to_vec();
        all[1].paths = vec![b"/b".to_vec(), b"/a".to_vec()];
        all[2].paths = vec![b"/a".to_vec(), b"/b".to_vec()];
        all[3].tags = vec![b"t".to_vec()];
        let policy = Policy { last: 1, ..Policy::default() };
        let kept = |host, paths, tags| {
            let groups = judge(&all, &policy, GroupBy { host, paths, tags }, &TimeZone::UTC, at(NOW));
            let all = groups.into_iter().flat_map(|g| g.verdicts).filter(|v| !v.reasons.is_empty());
            let mut kept: Vec<usize> = all.map(|v| v.index).collect();
            kept.sort_unstable();
            kept
        };
        assert_eq!(kept(true, true, false), [0, 2, 3]);
        assert_eq!(kept(true, false, false), [0, 3]);
        assert_eq!(kept(false, false, false), [3]);
        assert_eq!(kept(false, false, true), [2, 3]);
    }

    #[test]
    fn what_has_no_true_time_stays_and_pushes_nothing_out() {
        let mut all = of(&[
            "2026-11-19T10:00:00Z",
            "2026-11-20T10:00:00Z",
            "2026-11-20T14:29:00Z",
            "2031-01-01T00:00:00Z",
        ]);
        all.insert(0, Candidate { time: Time { seconds: i64::MIN, nanos: 0 }, ..Candidate::default() });
        all.push(Candidate { time: Time { seconds: i64::MAX, nanos: 0 }, ..Candidate::default() });
        let policy = Policy { last: 2, within: Some(parse_within("1h").unwrap()), ..Policy::default() };
        use Reason::*;
        assert_eq!(
            judged(&all, &policy, &TimeZone::UTC),
            [
                vec![NoTrueTime],
                vec![],
                vec![Last],
                // An hour ahead is what clocks may be.
                vec![Last, Within],
                vec![NoTrueTime],
                vec![NoTrueTime],
            ]
        );
    }

    #[test]
    fn the_ends_of_the_calendar_have_periods_as_well() {
        let ends = [Timestamp::MIN, Timestamp::MAX];
        for end in ends {
            let all =
                [Candidate { time: Time { seconds: end.as_second(), nanos: 0 }, ..Candidate::default() }];
            let policy =
                Policy { hourly: 1, weekly: 1, within: Some(Span::new().years(1)), ..Policy::default() };
            let now = Time { seconds: i64::MAX, nanos: 0 };
            for zone in [Offset::UTC, Offset::MIN, Offset::MAX].map(TimeZone::fixed) {
                let groups = judge(&all, &policy, GroupBy::default(), &zone, now);
                assert_eq!(groups[0].verdicts[0].reasons, [Reason::Hourly, Reason::Weekly, Reason::Within]);
            }
        }
    }

    /// Numbers that look random and are the same each time (SplitMix64).
    struct Draw(u64);
    impl Draw {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ z >> 31) % n
        }
    }

    #[test]
    fn more_of_any_rule_never_forgets_more() {
        let mut draw = Draw(1);
        let now = at(NOW);
        for _ in 0..400 {
            let spread = [3600, 86_400, 40 * 86_400, 900 * 86_400][draw.below(4) as usize];
            let mut all: Vec<Candidate> = (0..draw.below(40))
                .map(|_| Candidate {
                    time: Time { seconds: now.seconds + 7200 - draw.below(spread) as i64, nanos: 0 },
                    host: vec![b'a' + draw.below(2) as u8],
                    tags: (0..draw.below(3)).map(|_| vec![b'a' + draw.below(3) as u8]).collect(),
                    held: draw.below(9) == 0,
                    ..Candidate::default()
                })
                .collect();
            all.sort_by_key(|c| c.time);
            let mut count = || draw.below(4) as u32;
            let policy = Policy {
                last: count(),
                hourly: count(),
                daily: count(),
                weekly: count(),
                monthly: count(),
                yearly: count(),
                ..Policy::default()
            };
            let zone = berlin();
            let before = kept(&all, &policy, &zone);
            let mut more: Vec<Policy> = vec![policy.clone(); 8];
            more[0].last += 1;
            more[1].hourly += 1;
            more[2].daily += 1;
            more[3].weekly += 1;
            more[4].monthly += 1;
            more[5].yearly += 1;
            more[6].within = Some(Span::new().days(1 + draw.below(30) as i64));
            more[7].tags.push(vec![b"a".to_vec()]);
            for more in more {
                let after = kept(&all, &more, &zone);
                assert!(before.iter().all(|i| after.contains(i)), "{policy:?}, {more:?}: {all:?}");
            }
            // And what the rules do not ask for goes.
            let asked =
                policy.last + policy.hourly + policy.daily + policy.weekly + policy.monthly + policy.yearly;
            let free = |c: &Candidate| c.held || c.time.seconds > now.seconds + AHEAD_MAX;
            let counted = before.iter().filter(|i| !free(&all[**i])).count();
            assert!(counted <= 2 * asked.max(1) as usize, "{policy:?} keeps {counted} of {all:?}");
        }
    }
}
