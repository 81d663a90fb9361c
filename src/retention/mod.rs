//! Which snapshots stay: rules of keeping, and what they say of each snapshot.

mod policy;
mod span;

pub use policy::{Candidate, Group, GroupBy, Policy, Reason, Verdict, judge};
pub use span::parse_within;
