//! Which snapshots stay: rules of keeping, and what they say of each snapshot.

mod policy;

pub use policy::{Candidate, Group, GroupBy, Policy, Reason, Verdict, judge, parse_within};
