//! As whose things are shown: the numbers that a snapshot holds, or others (`--map-owner`).
//!
//! Numbers of another machine mean other people here. A rule maps one user or group, `names` goes by the
//! names that the snapshot recorded, `me` gives everything to who mounted.
//!
//! Numbers inside of ACLs follow the rules. They have no recorded names, so with `names` and `me` ACLs are not shown,
//! and the mode is narrowed until it lets in nobody whom the ACL kept out.

use crate::fault::{Error, Result};
use crate::format::tree::Stat;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Both kinds of POSIX ACLs as Linux shows them (acl(5)).
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
/// Whom things belong to whose owner is not known here, where others may look in: nobody, as NFS has it.
const NOBODY: u32 = 65_534;
/// Recorded names whose numbers are remembered.
const NAMES_MAX: usize = 1 << 16;
const HINT: &str =
    "write `names`, `me`, FROM=TO for a user or :FROM=:TO for a group, each a name or a number";

/// As whose things are shown. The default changes nothing.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    rules: Vec<Rule>,
    others: Others,
    known: Arc<Known>,
}

#[derive(Clone, Debug)]
struct Rule {
    class: Class,
    from: From,
    to: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Class {
    User,
    Group,
}

#[derive(Clone, Debug)]
enum From {
    Number(u32),
    Name(Vec<u8>),
}

/// What becomes of whom no rule names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Others {
    #[default]
    Stay,
    ByName,
    Mine,
}

/// Numbers by name on this machine, asked once for each.
#[derive(Debug, Default)]
struct Known(Mutex<Numbers>);
/// What there is no number for is remembered as well.
type Numbers = HashMap<(Class, Vec<u8>), Option<u32>>;

impl Known {
    fn number(&self, class: Class, name: &[u8]) -> Option<u32> {
        if let Some(known) = self.0.lock().get(&(class, name.to_vec())) {
            return *known;
        }
        // Without the lock: this may ask a server.
        let number = number_of(class, name);
        let known = &mut *self.0.lock();
        if known.len() >= NAMES_MAX {
            known.clear();
        }
        known.insert((class, name.to_vec()), number);
        number
    }
}

fn number_of(class: Class, name: &[u8]) -> Option<u32> {
    let name = OsStr::from_bytes(name);
    match class {
        _ if name.is_empty() => None,
        Class::User => uzers::get_user_by_name(name).map(|u| u.uid()),
        Class::Group => uzers::get_group_by_name(name).map(|g| g.gid()),
    }
}

impl Owners {
    /// Reads `--map-owner` options: `names`, `me`, or `FROM=TO` (groups: `:FROM=:TO`), names or numbers. FROM is a
    /// name that a snapshot recorded, TO one of this machine. The first rule that fits counts; `names` and `me`
    /// are for whom none does.
    ///
    /// # Errors
    /// `Misuse` for what is none of these, for a TO that is unknown here, and for both `names` and `me`.
    pub fn new<S: AsRef<str>>(options: &[S]) -> Result<Self> {
        let mut owners = Self::default();
        for option in options {
            let option = option.as_ref();
            let others = match option {
                "names" => Others::ByName,
                "me" => Others::Mine,
                _ => {
                    owners.rules.push(rule(option)?);
                    continue;
                }
            };
            if owners.others != Others::Stay && owners.others != others {
                return Err(Error::misuse("owners are mapped both by `names` and to `me`")
                    .hint("choose one of them; rules FROM=TO go with either"));
            }
            owners.others = others;
        }
        Ok(owners)
    }

    /// Whether anything is mapped.
    pub(super) fn any(&self) -> bool {
        !self.rules.is_empty() || self.others != Others::Stay
    }

    /// Owner and group as which an entry is shown. `me`: who mounted. `foreign`: others may look in, and the
    /// snapshot is another host's, whose numbers must not let in whom they do not mean.
    pub(super) fn of(&self, stat: &Stat, me: (u32, u32), foreign: bool) -> (u32, u32) {
        let one = |class, number, name: &[u8], mine| {
            let rule = self.rules.iter().find(|r| r.class == class && r.fits(number, Some(name)));
            match (rule, self.others) {
                (Some(rule), _) => rule.to,
                (None, Others::Stay) => number,
                (None, Others::Mine) => mine,
                (None, Others::ByName) => match self.known.number(class, name) {
                    Some(here) => here,
                    None if foreign => NOBODY,
                    None => number,
                },
            }
        };
        (one(Class::User, stat.uid, &stat.user, me.0), one(Class::Group, stat.gid, &stat.group, me.1))
    }

    /// Whether an extended attribute is not shown.
    pub(super) fn hides(&self, xattr: &[u8]) -> bool {
        self.others != Others::Stay && (xattr == ACCESS || xattr == DEFAULT)
    }

    /// The value of an extended attribute as it is shown: ACLs with their numbers mapped.
    pub(super) fn xattr(&self, name: &[u8], value: Vec<u8>) -> Vec<u8> {
        if self.rules.is_empty() || (name != ACCESS && name != DEFAULT) {
            return value;
        }
        let Some(mut acl) = Acl::decode(&value) else { return value };
        let map = |class, number| {
            let rule = self.rules.iter().find(|r| r.class == class && r.fits(number, None));
            rule.map_or(number, |r| r.to)
        };
        for e in &mut acl.0 {
            match e.tag {
                Acl::USER => e.id = map(Class::User, e.id),
                Acl::GROUP => e.id = map(Class::Group, e.id),
                _ => {}
            }
        }
        acl.merge();
        acl.encode()
    }
}

impl Rule {
    fn fits(&self, number: u32, name: Option<&[u8]>) -> bool {
        match &self.from {
            From::Number(n) => *n == number,
            From::Name(n) => Some(n.as_slice()) == name,
        }
    }
}

fn rule(text: &str) -> Result<Rule> {
    let unclear = || Error::misuse(format!("{text:?} maps no owner")).hint(HINT);
    let (from, to) = text.split_once('=').ok_or_else(unclear)?;
    let (class, from, to) = match (from.strip_prefix(':'), to.strip_prefix(':')) {
        (None, None) => (Class::User, from, to),
        (Some(from), Some(to)) => (Class::Group, from, to),
        _ => return Err(unclear()),
    };
    if from.is_empty() || to.is_empty() {
        return Err(unclear());
    }
    let to = to.parse().ok().or_else(|| number_of(class, to.as_bytes())).ok_or_else(|| {
        let what = if class == Class::User { "user" } else { "group" };
        Error::misuse(format!("there is no {what} {to} on this machine")).hint(HINT)
    })?;
    let from = match from.parse() {
        Ok(number) => From::Number(number),
        Err(_) => From::Name(from.as_bytes().to_vec()),
    };
    Ok(Rule { class, from, to })
}

/// A POSIX ACL in the form of its xattr (linux/posix_acl_xattr.h): little-endian, a version and entries.
struct Acl(Vec<Permit>);

struct Permit {
    tag: u16,
    bits: u16,
    id: u32,
}

impl Acl {
    const VERSION: u32 = 2;
    const USER: u16 = 0x02;
    const GROUP_OBJ: u16 = 0x04;
    const GROUP: u16 = 0x08;
    const MASK: u16 = 0x10;

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_at_checked(4)?;
        if version != Self::VERSION.to_le_bytes() || rest.len() % 8 != 0 {
            return None;
        }
        let permit = |e: &[u8]| Permit {
            tag: u16::from_le_bytes([e[0], e[1]]),
            bits: u16::from_le_bytes([e[2], e[3]]),
            id: u32::from_le_bytes([e[4], e[5], e[6], e[7]]),
        };
        Some(Self(rest.chunks_exact(8).map(permit).collect()))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Self::VERSION.to_le_bytes().to_vec();
        for e in &self.0 {
            out.extend_from_slice(&e.tag.to_le_bytes());
            out.extend_from_slice(&e.bits.to_le_bytes());
            out.extend_from_slice(&e.id.to_le_bytes());
        }
        out
    }

    /// Two people who are one now may do what both might.
    fn merge(&mut self) {
        self.0.sort_by_key(|e| (e.tag, e.id));
        self.0.dedup_by(|later, e| {
            let same = (later.tag, later.id) == (e.tag, e.id);
            if same {
                e.bits &= later.bits;
            }
            same
        });
    }
}

/// A mode that stands for an ACL which is not shown: its group bits were the ACL's mask. Nobody named in the ACL
/// may get by group or as others what the ACL did not give them. Without a readable ACL it is the owner's alone.
pub(super) fn narrowed(mode: u32, acl: Option<&[u8]>) -> u32 {
    let Some(acl) = acl.and_then(Acl::decode) else { return mode & 0o7700 };
    let mask = acl.0.iter().find(|e| e.tag == Acl::MASK).map_or(7, |e| u32::from(e.bits));
    let (mut group, mut others) = ((mode >> 3) & mask & 7, mode & 7);
    for e in &acl.0 {
        let bits = u32::from(e.bits) & 7;
        match e.tag {
            Acl::GROUP_OBJ => group &= bits,
            Acl::USER => (group, others) = (group & bits, others & bits & mask),
            Acl::GROUP => others &= bits & mask,
            _ => {}
        }
    }
    mode & 0o7700 | group << 3 | others
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;

    fn stat(uid: u32, user: &str, gid: u32, group: &str) -> Stat {
        Stat { uid, gid, user: user.into(), group: group.into(), ..Stat::default() }
    }

    #[test]
    fn rules_come_before_names_and_names_before_numbers() {
        let ana = stat(1001, "ana", 1001, "staff");
        let of = |options: &[&str], s: &Stat| Owners::new(options).unwrap().of(s, (5, 6), false);
        assert_eq!(of(&[], &ana), (1001, 1001));
        assert_eq!(of(&["me"], &ana), (5, 6));
        assert_eq!(of(&["me", "ana=7"], &ana), (7, 6));
        assert_eq!(of(&["1001=7", ":staff=:8"], &ana), (7, 8));
        assert_eq!(of(&["1001=root"], &ana), (0, 1001));
        assert_eq!(of(&["ana=7", "ana=8"], &ana), (7, 1001));
        assert_eq!(of(&["names"], &stat(999, "root", 999, "root")), (0, 0));
        assert_eq!(of(&["names"], &stat(999, "no such name", 998, "")), (999, 998));
    }

    #[test]
    fn an_unknown_name_of_another_host_is_nobody_where_others_look_in() {
        let names = Owners::new(&["names", "1=2"]).unwrap();
        assert_eq!(names.of(&stat(999, "no such name", 0, "root"), (5, 6), true), (NOBODY, 0));
        assert_eq!(names.of(&stat(1, "no such name", 998, ""), (5, 6), true), (2, NOBODY));
    }

    #[test]
    fn what_maps_nobody_is_refused() {
        for bad in ["", "ana", "=7", "ana=", ":g=7", "u=:7", "ana=no such name", "ana=-1", "ana=4294967296"] {
            assert_eq!(Owners::new(&[bad]).unwrap_err().fault(), Fault::Misuse, "{bad}");
        }
        assert!(Owners::new(&["names", "me"]).is_err());
        assert!(!Owners::default().any() && Owners::new(&["1=2"]).unwrap().any());
    }

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        Acl(entries.iter().map(|(tag, bits, id)| Permit { tag: *tag, bits: *bits, id: *id }).collect())
            .encode()
    }

    #[test]
    fn numbers_in_acls_follow_the_rules_and_people_who_became_one_may_do_what_both_might() {
        let none = u32::MAX;
        let value =
            acl(&[(1, 7, none), (2, 6, 10), (2, 5, 20), (2, 7, 30), (4, 4, none), (8, 4, 10), (16, 7, none)]);
        let owners = Owners::new(&["10=30", ":10=:11"]).unwrap();
        let expected = acl(&[(1, 7, none), (2, 5, 20), (2, 6, 30), (4, 4, none), (8, 4, 11), (16, 7, none)]);
        assert_eq!(owners.xattr(ACCESS, value.clone()), expected);
        assert_eq!(owners.xattr(DEFAULT, value.clone()), expected);
        assert_eq!(owners.xattr(b"user.acl", value.clone()), value);
        assert_eq!(owners.xattr(ACCESS, b"odd".to_vec()), b"odd");
        assert_eq!(Owners::default().xattr(ACCESS, value.clone()), value);
        assert!(!owners.hides(ACCESS));
        let mine = Owners::new(&["me"]).unwrap();
        assert!(mine.hides(ACCESS) && mine.hides(DEFAULT) && !mine.hides(b"user.acl"));
    }

    #[test]
    fn a_mode_without_its_acl_lets_in_nobody_whom_the_acl_kept_out() {
        let none = u32::MAX;
        // group::---, mask::rw-: the mode says 0660, and the group may nothing.
        assert_eq!(
            narrowed(0o660, Some(&acl(&[(1, 6, none), (2, 6, 9), (4, 0, none), (16, 6, none)]))),
            0o600
        );
        // Somebody is shut out by name: then the others are, too.
        let named = acl(&[(1, 7, none), (2, 0, 9), (4, 5, none), (16, 7, none), (32, 5, none)]);
        assert_eq!(narrowed(0o4775, Some(&named)), 0o4700);
        let group = acl(&[(1, 7, none), (4, 5, none), (8, 4, 9), (16, 5, none), (32, 7, none)]);
        assert_eq!(narrowed(0o757, Some(&group)), 0o754);
        assert_eq!(narrowed(0o2777, None), 0o2700);
        assert_eq!(narrowed(0o777, Some(b"odd")), 0o700);
    }
}
