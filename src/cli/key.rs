//! `pastfs key`: add, list, remove, passwd.

use super::access::{Ask, Global, NewKey, label, same_key};
use super::ending::Exit;
use super::output::{self, Output};
use super::progress::Progress;
use super::words;
use crate::clock::Time;
use crate::fault::{Error, Fault, Result};
use crate::id::SlotId;
use crate::repository::{Repository, Right, SlotInfo};
use crate::seal::Role;
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// Manage the passwords and key files that open a repository
#[derive(clap::Subcommand)]
pub enum Key {
    Add(Add),
    List(List),
    Remove(Remove),
    Passwd(Passwd),
}

/// Add a password or key file
///
/// The new password is asked for twice unless an option names a file.
#[derive(clap::Args)]
pub struct Add {
    #[command(flatten)]
    new: NewKey,
    /// What to call it in `pastfs key list`
    #[arg(long, value_name = "TEXT")]
    label: Option<OsString>,
    /// What the key may do: everything (full); list, mount, restore and check, and write nothing (reader); or back up, and
    /// read neither names nor contents (writer)
    #[arg(long, value_enum, default_value_t = RoleName::Full)]
    role: RoleName,
    /// Host whose snapshots a writer key adds; without it the key can add snapshots of any host
    #[arg(long, value_name = "HOST")]
    host: Option<OsString>,
}

/// A role on the command line.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum RoleName {
    Full,
    Reader,
    Writer,
}

/// List the keys
#[derive(clap::Args)]
pub struct List {}

/// Remove a key
///
/// Whoever copied the repository before, or saw its secrets, can still read what that copy holds. The last key
/// and the key in use are not removed.
#[derive(clap::Args)]
pub struct Remove {
    /// Beginning of the key's id (at least 4 digits), see `pastfs key list`
    id: String,
}

/// Change the password or key file in use for another
///
/// Adds the new key, opens the repository with it, and only then removes the old one.
#[derive(clap::Args)]
pub struct Passwd {
    #[command(flatten)]
    new: NewKey,
}

impl Key {
    pub fn run(self, global: &Global) -> Result<Exit> {
        match self {
            Key::Add(verb) => verb.run(global),
            Key::List(_) => list(global),
            Key::Remove(verb) => verb.run(global),
            Key::Passwd(verb) => verb.run(global),
        }
    }
}

impl Add {
    fn run(self, global: &Global) -> Result<Exit> {
        let text = self.label.map(OsString::into_vec).unwrap_or_default();
        let limit = crate::format::snapshot::TEXT_MAX;
        if text.len() > limit {
            return Err(Error::misuse(format!("the label has {} bytes, and may have {limit}", text.len())));
        }
        let host = self.host.map(OsString::into_vec).unwrap_or_default();
        if host.len() > limit {
            return Err(Error::misuse(format!("the host name has {} bytes, and may have {limit}", host.len())));
        }
        let role = match self.role {
            RoleName::Full => Role::Full,
            RoleName::Reader => Role::Reader,
            RoleName::Writer => Role::Writer,
        };
        if role != Role::Writer && !host.is_empty() {
            return Err(Error::misuse("only a writer key has a host").hint("leave --host out, or add --role writer"));
        }
        let repository = global.open_plainly()?;
        repository.allow(Right::Manage, "making a key")?;
        let id = repository.add_slot(&self.new.credential()?, role, &host, &label(text))?;
        tell(global, "added", &id)
    }
}

impl Remove {
    fn run(self, global: &Global) -> Result<Exit> {
        let digits = self.id.to_ascii_lowercase();
        if digits.len() < 4 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Error::misuse(format!("{:?} is no id of a key", self.id))
                .hint("write at least 4 digits of it"));
        }
        let repository = global.open_plainly()?;
        let id = find(&repository, &digits)?;
        repository.remove_slot(&id, false)?;
        tell(global, "removed", &id)
    }
}

fn find(repository: &Repository, digits: &str) -> Result<SlotId> {
    let slots = repository.slots()?;
    let hits: Vec<SlotId> = slots.iter().map(|s| s.id).filter(|id| id.hex().starts_with(digits)).collect();
    match hits[..] {
        [id] => Ok(id),
        [] => Err(Error::new(Fault::Missing, format!("no key has an id that begins with {digits}"))
            .hint("`pastfs key list` lists them")),
        _ => {
            let names: Vec<String> = hits.iter().map(|id| id.hex()[..16].to_string()).collect();
            Err(Error::misuse(format!(
                "several keys have an id that begins with {digits}: {}",
                names.join(", ")
            ))
            .hint("write more digits"))
        }
    }
}

impl Passwd {
    fn run(self, global: &Global) -> Result<Exit> {
        let old_key = global.credential(Ask::Once)?;
        let warnings = Progress::warnings(global);
        let opened = global.open_with(global.store()?, &old_key, warnings.clone())?;
        let old = opened.slots()?.into_iter().find(|s| s.current);
        let old = old.ok_or_else(|| Error::new(Fault::Busy, "the key in use was removed meanwhile"))?;
        let new_key = self.new.credential()?;
        if same_key(&old_key, &new_key) {
            return Err(Error::misuse("the new key is the old one"));
        }
        let new = opened.add_same_slot(&new_key, &label(old.label.text))?;
        // What was written is proven to open before the way back is cut off.
        global.open_with(global.store()?, &new_key, warnings)?;
        opened.remove_slot(&old.id, true)?;
        tell(global, "changed", &new)
    }
}

fn tell(global: &Global, what: &str, id: &SlotId) -> Result<Exit> {
    if global.json {
        output::line(json!({ "message_type": format!("key_{what}"), "id": id.hex() }).to_string())?;
    } else if !global.quiet {
        output::line(format!("key {} {what}", id.short()))?;
    }
    Ok(Exit::Done)
}

fn list(global: &Global) -> Result<Exit> {
    let slots = global.open_plainly()?.slots()?;
    let mut out = Output::open()?;
    if global.json {
        out.line(Value::from(slots.iter().map(machine).collect::<Vec<_>>()).to_string())?;
    } else {
        let mut table = words::Table::new(&["", "ID", "Kind", "Role", "Made", "By", "Label"]);
        for s in &slots {
            let by = format!("{}@{}", words::visible(&s.label.user), words::visible(&s.label.host));
            table.row(vec![
                if s.current { "*".into() } else { String::new() },
                s.id.short(),
                kind(s).into(),
                role(s.role).into(),
                words::local_time(Time { seconds: s.label.created, nanos: 0 }),
                if by == "@" { String::new() } else { by },
                words::visible(&s.label.text),
            ]);
        }
        table.print(&mut out)?;
    }
    out.finish()?;
    Ok(Exit::Done)
}

fn kind(slot: &SlotInfo) -> &'static str {
    if slot.key_file { "key file" } else { "password" }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Full => "full",
        Role::Reader => "reader",
        Role::Writer => "writer",
    }
}

fn machine(slot: &SlotInfo) -> Value {
    let mut object = Map::new();
    object.insert("id".into(), slot.id.hex().into());
    object.insert("kind".into(), kind(slot).into());
    object.insert("role".into(), role(slot.role).into());
    object.insert("current".into(), slot.current.into());
    object
        .insert("created".into(), words::machine_time(Time { seconds: slot.label.created, nanos: 0 }).into());
    words::put_text(&mut object, "user", &slot.label.user);
    words::put_text(&mut object, "host", &slot.label.host);
    words::put_text(&mut object, "label", &slot.label.text);
    object.into()
}
