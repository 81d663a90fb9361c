//! `pastfs leases`.

use super::access::Global;
use super::ending::Exit;
use super::output::Output;
use super::words::{self, Table};
use crate::clock::{self, Time};
use crate::fault::Result;
use crate::repository::Session;
use serde_json::json;

/// List who is about to write a snapshot, and so holds prune back
///
/// A backup that is under way has a lease in the repository and renews it every ten minutes. What was retired or forgotten
/// after it began is not deleted before it ends. A lease that is silent for an hour is of a backup that died, or of a machine
/// that sleeps: the next prune ends it, and the one after that does not wait for it; a backup that wakes starts over.
#[derive(clap::Args)]
pub struct Leases {}

impl Leases {
    pub fn run(self, global: &Global) -> Result<Exit> {
        let repository = global.open_plainly()?;
        let sessions = repository.sessions()?;
        let sweeps = repository.open_sweeps()?;
        let forgets = repository.open_forgets()?;
        let now = clock::now().seconds;
        let mut out = Output::open()?;
        let mut table = Table::new(&["Session", "Host", "What", "Since", "Renewed", "Holds back"]);
        for s in &sessions {
            let is_over = s.done && !s.is_sweep(now);
            let waits = |seen: usize, all: usize| if s.done { 0 } else { all - seen };
            let unseen_sweeps = waits(sweeps.iter().filter(|id| s.has_seen(id)).count(), sweeps.len());
            let unseen_notes = waits(forgets.iter().filter(|id| s.has_seen_note(id)).count(), forgets.len());
            let state = match (&s.error, s.done) {
                (Some(_), _) => "unreadable",
                (None, true) if s.is_sweep(now) => "sweeping",
                (None, true) => "over",
                (None, false) if s.is_silent(now) => "silent",
                (None, false) => "active",
            };
            if global.json {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let time = |seconds| words::machine_time(Time { seconds, nanos: 0 });
                let object = json!({
                    "message_type": "lease",
                    "session": s.id.hex(),
                    "host": text(&s.host),
                    "purpose": text(&s.purpose),
                    "since": time(s.since),
                    "renewed": time(s.written),
                    "state": state,
                    "error": s.error.as_ref().map(|e| e.chain()),
                    "unseen_sweeps": unseen_sweeps,
                    "unseen_forget_notes": unseen_notes,
                });
                out.line(object.to_string())?;
            } else {
                table.row(vec![
                    s.id.hex()[..8].to_string(),
                    words::visible(&s.host),
                    what(s, state),
                    words::local_time(Time { seconds: s.since, nanos: 0 }),
                    words::local_time(Time { seconds: s.written, nanos: 0 }),
                    match (is_over, unseen_sweeps, unseen_notes) {
                        (true, ..) | (_, 0, 0) => "nothing".into(),
                        (_, sweeps, notes) => held(sweeps as u64, notes as u64),
                    },
                ]);
            }
        }
        if !global.json {
            match sessions.is_empty() {
                true if global.quiet => {}
                true => out.line("nobody is about to write a snapshot")?,
                false => table.print(&mut out)?,
            }
        }
        out.finish()?;
        Ok(Exit::Done)
    }
}

fn what(s: &Session, state: &str) -> String {
    match state {
        "unreadable" => "cannot be read".into(),
        "silent" => format!("{} (silent)", words::visible(&s.purpose)),
        "over" => format!("{} (over)", words::visible(&s.purpose)),
        _ => words::visible(&s.purpose),
    }
}

fn held(sweeps: u64, notes: u64) -> String {
    let mut parts = Vec::new();
    if sweeps > 0 {
        parts.push(format!("what {} retired", words::counted(sweeps, "sweep", "sweeps")));
    }
    if notes > 0 {
        parts.push(format!("what {} forgot", words::counted(notes, "note", "notes")));
    }
    parts.join(", ")
}
