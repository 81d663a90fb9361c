//! Which packs are emptied: what is worth its work.

use super::census::{Census, Pack, State};
use crate::id::PackId;

/// Packs below this are small. One that is finished because it is full has 32 MiB.
const SMALL: u64 = 4 << 20;
/// So many small packs of one run of backups are put together: each day's backup leaves two or three.
const SMALL_MANY: usize = 12;

/// How much of what nobody needs may stay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unused {
    /// This share of what is stored, 0 to 1.
    Share(f64),
    /// So many bytes.
    Bytes(u64),
    /// All of it: only packs that nobody needs at all go.
    Unlimited,
}

/// What is to be done with packs.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Positions of packs that nobody needs.
    pub idle: Vec<usize>,
    /// Positions of packs whose chunks are moved first.
    pub emptied: Vec<usize>,
    /// Strays that are old enough.
    pub strays: Vec<PackId>,
    /// Bytes of the packs that are idle, emptied and strays.
    pub bytes: u64,
    /// Bytes that are moved, as they are stored.
    pub moved: u64,
    /// Bytes that nobody needs and that stay: in packs that are too young, and in others.
    pub left: (u64, u64),
}

/// Bounds of a choice.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Packs and strays that were written after this are left alone, in seconds by the store's clock.
    pub packs_before: i64,
    /// The same for strays.
    pub strays_before: i64,
    /// See there.
    pub max_unused: Unused,
    /// Bytes of packs that are moved at most.
    pub max_repack: u64,
}

/// Chooses.
pub fn choose(census: &Census, bounds: &Bounds) -> Choice {
    let mut choice = Choice::default();
    let free = |p: &&Pack| p.state == State::Free;
    let stored: u64 = census.packs.iter().filter(free).map(|p| p.size).sum();
    let (mut partly, mut small) = (Vec::new(), Vec::new());
    let mut unused = 0;
    for (at, p) in census.packs.iter().enumerate().filter(|(_, p)| p.state == State::Free) {
        if p.written >= bounds.packs_before {
            choice.left.0 += p.unused();
        } else if p.frames.is_empty() {
            choice.bytes += p.size;
            choice.idle.push(at);
        } else {
            unused += p.unused();
            // Rounding makes a few bytes of each.
            if p.size < SMALL {
                small.push(at);
            } else if p.used < p.raw {
                partly.push(at);
            }
        }
    }
    let mut empty = |at: usize, unused: &mut u64| {
        let p = &census.packs[at];
        if choice.moved + p.used_stored() > bounds.max_repack {
            return;
        }
        choice.moved += p.used_stored();
        choice.bytes += p.size;
        choice.emptied.push(at);
        *unused = unused.saturating_sub(p.unused());
    };
    if small.len() >= SMALL_MANY {
        for at in small {
            empty(at, &mut unused);
        }
    } else {
        partly.extend(small.into_iter().filter(|at| census.packs[*at].used < census.packs[*at].raw));
    }
    let most = match bounds.max_unused {
        Unused::Share(share) => (stored as f64 * share) as u64,
        Unused::Bytes(bytes) => bytes,
        Unused::Unlimited => u64::MAX,
    };
    // Where the least has to be moved for each byte that is freed.
    partly.sort_by_key(|at| {
        let p = &census.packs[*at];
        (p.used_stored() * 1000 / p.size.max(1), *at)
    });
    for at in partly {
        if unused <= most {
            break;
        }
        empty(at, &mut unused);
    }
    choice.left.1 = unused;
    for (id, size, written) in &census.strays {
        if *written < bounds.strays_before {
            choice.strays.push(*id);
            choice.bytes += size;
        } else {
            choice.left.0 += size;
        }
    }
    choice
}
