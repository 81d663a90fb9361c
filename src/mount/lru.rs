//! A map that forgets what was not used for longest, once it costs too much.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Bounded by the sum of its entries' costs; the newest entry stays even if it alone is over.
pub(super) struct Lru<K, V> {
    map: HashMap<K, Held<V>>,
    order: BTreeMap<u64, K>,
    clock: u64,
    cost: usize,
    limit: usize,
}

struct Held<V> {
    value: V,
    used: u64,
    cost: usize,
}

impl<K: Hash + Eq + Clone, V: Clone> Lru<K, V> {
    /// Holds entries that cost up to `limit` together.
    pub fn new(limit: usize) -> Self {
        Self { map: HashMap::new(), order: BTreeMap::new(), clock: 0, cost: 0, limit }
    }

    /// What all entries cost together.
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// The value, which counts as used now.
    pub fn get(&mut self, key: &K) -> Option<V> {
        self.clock += 1;
        let held = self.map.get_mut(key)?;
        if let Some(key) = self.order.remove(&held.used) {
            self.order.insert(self.clock, key);
        }
        held.used = self.clock;
        Some(held.value.clone())
    }

    /// Adds or replaces, then drops the oldest until the rest fits.
    pub fn put(&mut self, key: K, value: V, cost: usize) {
        self.remove(&key);
        self.clock += 1;
        self.order.insert(self.clock, key.clone());
        self.map.insert(key, Held { value, used: self.clock, cost });
        self.cost += cost;
        while self.cost > self.limit && self.map.len() > 1 {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            if let Some(held) = self.map.remove(&oldest) {
                self.cost -= held.cost;
            }
        }
    }

    /// Forgets one.
    pub fn remove(&mut self, key: &K) {
        if let Some(held) = self.map.remove(key) {
            self.order.remove(&held.used);
            self.cost -= held.cost;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first_and_the_newest_always_stays() {
        let mut lru = Lru::new(10);
        lru.put(1, 'a', 4);
        lru.put(2, 'b', 4);
        assert_eq!(lru.get(&1), Some('a'));
        lru.put(3, 'c', 4);
        assert_eq!((lru.get(&1), lru.get(&2), lru.get(&3)), (Some('a'), None, Some('c')));
        lru.put(4, 'd', 100);
        assert_eq!((lru.get(&1), lru.get(&4)), (None, Some('d')));
        lru.put(5, 'e', 1);
        assert_eq!((lru.get(&4), lru.get(&5)), (None, Some('e')));
        lru.remove(&5);
        assert_eq!((lru.cost, lru.order.len()), (0, 0));
    }
}
