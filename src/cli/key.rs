//! `pastfs key`: add, list, remove, passwd, end, rotate.

use super::access::{Ask, Global, NewKey, label, same_key, stop_on_signals};
use super::ending::Exit;
use super::output::{self, Output};
use super::paper;
use super::progress::Progress;
use super::words;
use crate::clock::Time;
use crate::event::Event;
use crate::fault::{Error, Fault, Result};
use crate::id::{SlotId, hex};
use crate::repository::{Carried, Repository, Right, SlotInfo};
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
    End(End),
    Rotate(Rotate),
    Export(paper::Export),
    Import(paper::Import),
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

/// End a key: what it writes from now on does not count
///
/// For a key that is lost or stolen. Its slot is removed, and what whoever has copied it still writes counts for nobody:
/// neither snapshots nor what they rely on, neither notes nor leases. What the key had written until now stays: this command
/// says again, by the key in use, what the ended one had said of snapshots and packs. It does not keep anybody from reading
/// who has the key and the storage: `pastfs key rotate` does, for what is written after it.
#[derive(clap::Args)]
pub struct End {
    /// Beginning of the key's id (at least 4 digits), see `pastfs key list`; of a key whose slot is gone, of the `author` that
    /// `pastfs snapshots --json` shows
    id: String,
}

/// Make new keys for all that is written from now on
///
/// For when a key may have been stolen that reads. The password or key file in use opens the new keys; all others open
/// nothing any more: add new ones for their holders (`pastfs key add`) and remove the old (`pastfs key remove`). Old
/// snapshots stay readable with the new keys, and data need not be stored again. Whoever copied an old key can read what was
/// written before, if he gets at the storage, and nothing of what comes; what is written with old keys does not count.
/// Backups that are under way with old keys fail at their end or do not count; run them again with new keys.
#[derive(clap::Args)]
pub struct Rotate {}

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
            Key::End(verb) => verb.run(global),
            Key::Rotate(verb) => verb.run(global),
            Key::Export(verb) => verb.run(global),
            Key::Import(verb) => verb.run(global),
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
            return Err(Error::misuse(format!(
                "the host name has {} bytes, and may have {limit}",
                host.len()
            )));
        }
        let role = match self.role {
            RoleName::Full => Role::Full,
            RoleName::Reader => Role::Reader,
            RoleName::Writer => Role::Writer,
        };
        if role != Role::Writer && !host.is_empty() {
            return Err(
                Error::misuse("only a writer key has a host").hint("leave --host out, or add --role writer")
            );
        }
        let repository = global.open_plainly()?;
        repository.allow(Right::Manage, "making a key")?;
        let id = repository.add_slot(&self.new.credential()?, role, &host, &label(text))?;
        tell(global, "added", &id)
    }
}

impl Remove {
    fn run(self, global: &Global) -> Result<Exit> {
        let digits = digits(&self.id)?;
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

impl End {
    fn run(self, global: &Global) -> Result<Exit> {
        let digits = digits(&self.id)?;
        let stop = stop_on_signals()?;
        let repository = global.open_plainly()?;
        repository.allow(Right::Manage, "ending a key")?;
        let slots = repository.slots()?;
        let mut found: Vec<(Option<SlotId>, [u8; 32])> = Vec::new();
        for s in slots.iter().filter(|s| s.id.hex().starts_with(&digits)) {
            if s.role == Role::Reader {
                return Err(Error::misuse("what a reader key writes counts for nobody as it is").hint(
                    "`pastfs key remove` removes it, and `pastfs key rotate` keeps what comes from it",
                ));
            }
            let signer = s.label.signer.ok_or_else(|| {
                Error::damaged(format!("the label of key {} does not tell what it signs with", s.id.short()))
                    .hint("name it by the `author` that `pastfs snapshots --json` shows")
            })?;
            found.push((Some(s.id), signer));
        }
        let all = [repository.snapshots()?, repository.forgotten()?].concat();
        for author in all.iter().map(|s| s.author.public).filter(|p| hex(p).starts_with(&digits)) {
            if found.iter().all(|(_, known)| *known != author) {
                found.push((None, author));
            }
        }
        let [(slot, public)] = found[..] else {
            return Err(match found.len() {
                0 => Error::new(Fault::Missing, format!("no key has an id that begins with {digits}"))
                    .hint("`pastfs key list` lists them"),
                _ => Error::misuse(format!("several keys have an id that begins with {digits}"))
                    .hint("write more digits"),
            });
        };
        let is_over = |s: &SlotInfo| slot == Some(s.id) && s.ended;
        let carried = match slots.iter().any(is_over) {
            // Who ended it died before its slot was gone, or it is of an earlier epoch: that is what is left to do.
            true => Carried::default(),
            false => repository.end_key(&public, &stop)?,
        };
        if let Some(id) = slot
            && let Err(e) = repository.remove_slot(&id, false)
        {
            let text = format!("the key has ended, and its slot is still there: {}", e.chain());
            Progress::warnings(global).event(Event::Warning(&text));
        }
        tell_carried(global, "ended", &slot.map_or_else(|| hex(&public), |id| id.hex()), carried)
    }
}

impl Rotate {
    fn run(self, global: &Global) -> Result<Exit> {
        let credential = global.credential(Ask::Once)?;
        let stop = stop_on_signals()?;
        let warnings = Progress::warnings(global);
        let opened = global.open_with(global.store()?, &credential, warnings.clone())?;
        let old = opened.slots()?.into_iter().find(|s| s.current);
        let old = old.ok_or_else(|| Error::new(Fault::Busy, "the key in use was removed meanwhile"))?;
        let new = opened.begin_epoch(&credential, &label(old.label.text))?;
        let reopened = global.open_with(global.store()?, &credential, warnings.clone())?;
        let carried = reopened.end_epochs(&stop)?;
        // One that died left its old key.
        let is_old = |s: &&SlotInfo| s.id == old.id && s.ended;
        let slots = reopened.slots()?;
        let others = slots.iter().filter(|s| s.ended && s.id != old.id).count() as u64;
        if slots.iter().any(|s| is_old(&s)) {
            reopened.remove_slot(&old.id, false)?;
        }
        if others > 0 {
            let counted = words::counted(others, "other key opens", "other keys open");
            let text = format!(
                "{counted} nothing any more: add new ones (`pastfs key add`) and remove these (`pastfs key list`, \
                 `pastfs key remove`)"
            );
            warnings.event(Event::Warning(&text));
        }
        tell_carried(global, "rotated", &new.hex(), carried)
    }
}

fn tell_carried(global: &Global, what: &str, id: &str, carried: Carried) -> Result<Exit> {
    if global.json {
        let told = json!({
            "message_type": format!("key_{what}"),
            "id": id,
            "snapshots": carried.snapshots,
            "packs": carried.packs,
        });
        output::line(told.to_string())?;
    } else if !global.quiet {
        let snapshots = words::counted(carried.snapshots, "snapshot", "snapshots");
        output::line(format!("key {} {what}; {snapshots} of before stay", &id[..8]))?;
    }
    Ok(Exit::Done)
}

fn digits(id: &str) -> Result<String> {
    let digits = id.to_ascii_lowercase();
    match digits.len() >= 4 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => Ok(digits),
        false => {
            Err(Error::misuse(format!("{id:?} is no id of a key")).hint("write at least 4 digits of it"))
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

pub(super) fn tell(global: &Global, what: &str, id: &SlotId) -> Result<Exit> {
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
                if s.ended { format!("{} (ended)", role(s.role)) } else { role(s.role).into() },
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
    object.insert("ended".into(), slot.ended.into());
    object.insert("author".into(), slot.label.signer.map(|key| hex(&key)).into());
    object
        .insert("created".into(), words::machine_time(Time { seconds: slot.label.created, nanos: 0 }).into());
    words::put_text(&mut object, "user", &slot.label.user);
    words::put_text(&mut object, "host", &slot.label.host);
    words::put_text(&mut object, "label", &slot.label.text);
    object.into()
}
