//! Leases: who will write a manifest says so, and looks whether prune still believes it (B1, B4, B7).

use super::Repository;
use crate::clock::{self, Time};
use crate::fault::{Error, Fault, Result};
use crate::format::object::Kind;
use crate::format::snapshot::{LEASE_NAMES_MAX, Lease};
use crate::id::{NoteId, SessionId};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// A new lease is written this often; prune takes one that is silent for an hour for dead.
const RENEW: Duration = Duration::from_secs(600);

/// Why a lease does not hold any more.
fn lost() -> Error {
    Error::new(Fault::Busy, "the lease of this session is gone: a prune took it for dead")
        .hint("run it again: what was uploaded is found and used")
}

/// Whether `e` says that the lease is lost, and the work must start over.
pub fn is_lost(e: &Error) -> bool {
    e.fault() == Fault::Busy && e.chain().contains("the lease of this session is gone")
}

struct State {
    /// Number of the newest lease that was written and whose predecessor was found.
    number: u64,
    /// A renewal failed for good.
    failed: bool,
    over: bool,
}

struct Shared {
    repository: Arc<Repository>,
    session: SessionId,
    began: Time,
    host: Vec<u8>,
    purpose: &'static str,
    sweeps: Vec<SessionId>,
    forgets: Vec<NoteId>,
    state: Mutex<State>,
    wake: Condvar,
}

/// A held lease. Renews itself until it is ended.
pub struct Held {
    shared: Arc<Shared>,
    renewer: Option<JoinHandle<()>>,
}

pub(super) fn lease_name(session: &SessionId, number: u64) -> String {
    format!("leases/{}-{number}", session.hex())
}

/// A lease that was written before anything was listed: number 0, which has seen nothing.
pub struct Begun {
    repository: Arc<Repository>,
    session: SessionId,
    began: Time,
    host: Vec<u8>,
    purpose: &'static str,
}

impl Begun {
    /// Writes number 0. The caller now lists notes, snapshots, segments, in this order.
    pub fn begin(repository: &Arc<Repository>, host: &[u8], purpose: &'static str) -> Result<Self> {
        let begun = Self {
            repository: repository.clone(),
            session: SessionId(crate::seal::random()?),
            began: clock::now(),
            host: host.to_vec(),
            purpose,
        };
        put(&begun.shared(Vec::new(), Vec::new()), 0, false)?;
        Ok(begun)
    }

    fn shared(&self, sweeps: Vec<SessionId>, forgets: Vec<NoteId>) -> Shared {
        Shared {
            repository: self.repository.clone(),
            session: self.session,
            began: self.began,
            host: self.host.clone(),
            purpose: self.purpose,
            sweeps,
            forgets,
            state: Mutex::new(State { number: 0, failed: false, over: false }),
            wake: Condvar::new(),
        }
    }

    /// Writes number 1, which names what was seen, and renews from now on.
    pub fn seen(self, sweeps: Vec<SessionId>, forgets: Vec<NoteId>) -> Result<Held> {
        // A lease that left some out would hold prune back needlessly, never harm: fewer names are safe.
        let cut = |n: usize| n.min(LEASE_NAMES_MAX);
        let (s, f) = (cut(sweeps.len()), cut(forgets.len()));
        let shared = Arc::new(self.shared(sweeps[..s].to_vec(), forgets[..f].to_vec()));
        renew(&shared)?;
        let of_thread = shared.clone();
        let renewer = std::thread::Builder::new()
            .name("lease".into())
            .spawn(move || keep(&of_thread))
            .map_err(|e| Error::io("starting the thread that renews the lease", e))?;
        Ok(Held { shared, renewer: Some(renewer) })
    }
}

fn put(s: &Shared, number: u64, done: bool) -> Result<()> {
    let lease = Lease {
        session: s.session,
        number,
        began: s.began,
        written: clock::now(),
        sweeps: s.sweeps.clone(),
        forgets: s.forgets.clone(),
        host: s.host.clone(),
        purpose: s.purpose.into(),
        done,
        process: None,
        unknown: Default::default(),
    };
    let object = s.repository.keys.seal_object(Kind::Lease, lease.encode())?;
    s.repository.store.put(&lease_name(&s.session, number), &object)
}

/// B4: writes the next one, then reads the one before back; then deletes the one before that.
fn renew(s: &Shared) -> Result<()> {
    let number = s.state.lock().number;
    put(s, number + 1, false)?;
    if !s.repository.is_there(&lease_name(&s.session, number), None)? {
        s.state.lock().failed = true;
        return Err(lost());
    }
    s.state.lock().number = number + 1;
    if let Some(old) = number.checked_sub(1) {
        // An append-only store keeps it; prune deletes it.
        let _ = s.repository.store.delete(&lease_name(&s.session, old));
    }
    Ok(())
}

fn keep(s: &Shared) {
    loop {
        let mut state = s.state.lock();
        if !state.over {
            s.wake.wait_for(&mut state, RENEW);
        }
        if state.over || state.failed {
            return;
        }
        drop(state);
        // A failure of the store is found by the next renewal, or by the look before the manifest.
        let _ = renew(s);
    }
}

impl Held {
    /// Whose.
    pub fn session(&self) -> SessionId {
        self.shared.session
    }

    /// B6, B7: the newest lease is there.
    ///
    /// # Errors
    /// One that [`is_lost`] knows when it is not; else what the store says.
    pub fn check(&self) -> Result<()> {
        let (number, failed) = {
            let state = self.shared.state.lock();
            (state.number, state.failed)
        };
        let s = &self.shared;
        if failed || !s.repository.is_there(&lease_name(&s.session, number), None)? {
            // It may just have been renewed, and the older one deleted.
            let newer = s.state.lock().number;
            if failed || newer == number || !s.repository.is_there(&lease_name(&s.session, newer), None)? {
                return Err(lost());
            }
        }
        Ok(())
    }

    /// The session is over: its leases are deleted, or marked as done where the store keeps everything.
    pub fn end(mut self) {
        self.stop();
        let s = &self.shared;
        let number = s.state.lock().number;
        // Where they go one by one the newest goes last: until then the session counts.
        let names = [number.saturating_sub(1), number].map(|n| lease_name(&s.session, n));
        let kept = s.repository.store.delete_all(&names).is_err();
        if kept {
            let _ = put(s, number + 1, true);
        }
    }

    fn stop(&mut self) {
        self.shared.state.lock().over = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.renewer.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stop();
    }
}
