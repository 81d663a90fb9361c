//! Sets of snapshots.

/// A set of snapshots by their index, oldest first: sorted ranges that neither overlap nor touch. What most paths
/// need is one range, so a set over thousands of snapshots is a few bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Runs(Vec<(u32, u32)>);

impl Runs {
    /// The set of one snapshot.
    pub fn one(index: u32) -> Self {
        Self(vec![(index, index)])
    }
    /// Whether it has no snapshot.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// The oldest.
    pub fn first(&self) -> Option<u32> {
        self.0.first().map(|r| r.0)
    }
    /// The newest.
    pub fn last(&self) -> Option<u32> {
        self.0.last().map(|r| r.1)
    }
    /// How many.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(first, last)| u64::from(last - first) + 1).sum()
    }
    /// Whether `index` is in it.
    pub fn contains(&self, index: u32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }
    /// Whether one snapshot is in both.
    pub fn meets(&self, other: &Runs) -> bool {
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some(l), Some(r)) = (left.peek(), right.peek()) {
            match () {
                () if l.1 < r.0 => drop(left.next()),
                () if r.1 < l.0 => drop(right.next()),
                () => return true,
            }
        }
        false
    }
    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }
    /// As ranges, each with its first and its last snapshot.
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.0
    }
    /// Those from `first` on.
    #[must_use]
    pub fn since(&self, first: u32) -> Runs {
        let at = self.0.partition_point(|(_, last)| *last < first);
        Runs(self.0[at..].iter().map(|(from, last)| (*from.max(&first), *last)).collect())
    }
    /// Adds all of `other`.
    pub fn unite(&mut self, other: &Runs) {
        match (self.0.last_mut(), other.0.first()) {
            (_, None) => return,
            // What comes later is the usual case.
            (Some(last), Some(first)) if last.1 < first.0 => {
                let touches = last.1 + 1 == first.0;
                if touches {
                    last.1 = first.1;
                }
                self.0.extend_from_slice(&other.0[usize::from(touches)..]);
                return;
            }
            _ => {}
        }
        let mut all = std::mem::take(&mut self.0);
        all.extend_from_slice(&other.0);
        all.sort_unstable();
        for (first, last) in all {
            match self.0.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => self.0.push((first, last)),
            }
        }
    }
}

impl FromIterator<u32> for Runs {
    fn from_iter<I: IntoIterator<Item = u32>>(indices: I) -> Self {
        let mut runs = Runs::default();
        for index in indices {
            runs.unite(&Runs::one(index));
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_set_of_snapshots_is_what_a_plain_set_would_be() {
        let mut x = 7u64;
        let mut draw = |n: u64| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 33) % n
        };
        for _ in 0..2000 {
            let mut sets = Vec::new();
            for _ in 0..2 {
                let n = draw(12);
                sets.push((0..n).map(|_| draw(24) as u32).collect::<Vec<_>>());
            }
            let mut runs: Runs = sets[0].iter().copied().collect();
            let other: Runs = sets[1].iter().copied().collect();
            assert_eq!(runs.meets(&other), sets[0].iter().any(|i| sets[1].contains(i)));
            runs.unite(&other);
            let plain: BTreeSet<u32> = sets.iter().flatten().copied().collect();
            assert_eq!(runs.iter().collect::<Vec<_>>(), plain.iter().copied().collect::<Vec<_>>());
            assert_eq!(runs.count(), plain.len() as u64);
            assert_eq!((runs.first(), runs.last()), (plain.first().copied(), plain.last().copied()));
            assert!((0..26).all(|i| runs.contains(i) == plain.contains(&i)));
            let from = draw(26) as u32;
            assert!(runs.since(from).iter().eq(plain.range(from..).copied()));
            assert!(runs.ranges().windows(2).all(|w| w[0].1 + 1 < w[1].0), "{runs:?}");
        }
    }

    #[test]
    fn the_last_index_of_all_does_not_overflow() {
        let mut runs = Runs::one(u32::MAX);
        runs.unite(&Runs::one(0));
        runs.unite(&Runs::one(u32::MAX));
        assert_eq!(runs.ranges(), [(0, 0), (u32::MAX, u32::MAX)]);
    }
}
