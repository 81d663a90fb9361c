//! A store in memory that several actors share, each at a seat of its own: at chosen calls an actor stops until the test
//! lets it go on, and what it is shown can be falsified, which is how a rule is taken out. The store has its own clock.

use parking_lot::{Condvar, Mutex};
use pastfs::clock::Time;
use pastfs::fault::{Error, Fault, Result};
use pastfs::storage::{Listed, Store, check_name, check_prefix};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// Nobody who is not stuck takes so long to come to the place where it is to stop.
const STUCK: Duration = Duration::from_secs(60);

type Objects = BTreeMap<String, (Vec<u8>, Time)>;

/// What all share.
pub struct Place {
    objects: Mutex<Objects>,
    /// Everything that was ever put.
    past: Mutex<Objects>,
    /// Its clock, in seconds.
    now: AtomicI64,
    name: Mutex<String>,
}

impl Place {
    /// With a clock that differs so much from this machine's.
    pub fn new(ahead: i64) -> Arc<Self> {
        let now = AtomicI64::new(pastfs::clock::now().seconds + ahead);
        let name = Mutex::new("the place of the test".into());
        Arc::new(Self { objects: Mutex::default(), past: Mutex::default(), now, name })
    }
    /// Another place.
    pub fn named(name: &str) -> Arc<Self> {
        let place = Self::new(0);
        place.is_called(name);
        place
    }
    /// What its seats say of where they are.
    pub fn is_called(&self, name: &str) {
        *self.name.lock() = name.into();
    }
    pub fn passes(&self, seconds: i64) {
        self.now.fetch_add(seconds, Ordering::SeqCst);
    }
    pub fn names(&self, prefix: &str) -> Vec<String> {
        self.objects.lock().keys().filter(|n| n.starts_with(prefix)).cloned().collect()
    }
    /// A seat at this place.
    pub fn seat(self: &Arc<Self>) -> Arc<Seat> {
        Arc::new(Seat {
            place: self.clone(),
            stop: Mutex::default(),
            moved: Condvar::new(),
            hides: Mutex::default(),
            pretends: Mutex::default(),
            older: Mutex::default(),
            shows: Mutex::default(),
        })
    }
}

/// Where a call stops: operation, beginning of the name.
type At = (&'static str, &'static str);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Halt {
    Awaited(At),
    Stopped,
    Gone,
    Dead,
}

type Judge = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// The store as one actor sees it.
pub struct Seat {
    place: Arc<Place>,
    stop: Mutex<Option<Halt>>,
    moved: Condvar,
    hides: Mutex<Option<Judge>>,
    pretends: Mutex<Option<Judge>>,
    older: Mutex<Option<(Judge, i64)>>,
    shows: Mutex<Option<(Arc<Place>, Judge)>>,
}

impl Seat {
    /// The next call of `op` on a name that begins like this stops before anything is done.
    pub fn stop_at(&self, op: &'static str, name: &'static str) {
        *self.stop.lock() = Some(Halt::Awaited((op, name)));
    }
    /// Until the actor has come there.
    pub fn stopped(&self) {
        let mut stop = self.stop.lock();
        while *stop != Some(Halt::Stopped) {
            assert!(
                !self.moved.wait_for(&mut stop, STUCK).timed_out(),
                "it never came to where it was to stop"
            );
        }
    }
    /// Lets it go on.
    pub fn go_on(&self) {
        self.halt(Halt::Gone);
    }
    /// Lets it go on to a stop that was set since.
    pub fn go_on_to(&self, op: &'static str, name: &'static str) {
        self.halt(Halt::Awaited((op, name)));
        self.stopped();
    }
    fn halt(&self, halt: Halt) {
        *self.stop.lock() = Some(halt);
        self.moved.notify_all();
    }
    /// Lists at this seat leave out such names from now on.
    pub fn hide(&self, judge: impl Fn(&str) -> bool + Send + Sync + 'static) {
        *self.hides.lock() = Some(Box::new(judge));
    }
    /// Objects of such names that were there once can still be read.
    pub fn pretend(&self, judge: impl Fn(&str) -> bool + Send + Sync + 'static) {
        *self.pretends.lock() = Some(Box::new(judge));
    }

    /// Objects of such names that are at another place seem to be here.
    pub fn show_also(&self, place: &Arc<Place>, judge: impl Fn(&str) -> bool + Send + Sync + 'static) {
        *self.shows.lock() = Some((place.clone(), Box::new(judge)));
    }

    /// Lists at this seat show objects of such names as so many seconds older.
    pub fn age(&self, judge: impl Fn(&str) -> bool + Send + Sync + 'static, seconds: i64) {
        *self.older.lock() = Some((Box::new(judge), seconds));
    }
    /// The machine that sits here dies where it has stopped: this call fails, and all others from now on.
    pub fn die(&self) {
        self.halt(Halt::Dead);
    }

    fn before(&self, op: &str, name: &str) -> Result<()> {
        let mut stop = self.stop.lock();
        if matches!(*stop, Some(Halt::Awaited(at)) if at.0 == op && name.starts_with(at.1)) {
            *stop = Some(Halt::Stopped);
            self.moved.notify_all();
            while *stop == Some(Halt::Stopped) {
                // A test that has failed meanwhile waits for all its threads.
                if self.moved.wait_for(&mut stop, STUCK).timed_out() {
                    *stop = Some(Halt::Dead);
                }
            }
        }
        match *stop {
            Some(Halt::Dead) => Err(Error::new(Fault::Io, format!("{op} {name}: this machine is dead"))),
            _ => Ok(()),
        }
    }

    fn with<T>(&self, op: &str, name: &str, read: impl FnOnce(&(Vec<u8>, Time)) -> Result<T>) -> Result<T> {
        self.before(op, name)?;
        check_name(name)?;
        if let Some(found) = self.place.objects.lock().get(name) {
            return read(found);
        }
        if let Some((place, judge)) = &*self.shows.lock()
            && judge(name)
            && let Some(found) = place.objects.lock().get(name)
        {
            return read(found);
        }
        let pretends = self.pretends.lock().as_ref().is_some_and(|judge| judge(name));
        match self.place.past.lock().get(name) {
            Some(found) if pretends => read(found),
            _ => Err(Error::new(Fault::Missing, format!("reading {name}"))),
        }
    }
}

impl Store for Seat {
    fn location(&self) -> String {
        self.place.name.lock().clone()
    }
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.before("put", name)?;
        check_name(name)?;
        let time = Time { seconds: self.place.now.load(Ordering::SeqCst), nanos: 0 };
        let mut objects = self.place.objects.lock();
        let found = objects.entry(name.into()).or_insert_with(|| (bytes.to_vec(), time));
        self.place.past.lock().insert(name.into(), found.clone());
        match found.0 == bytes {
            true => Ok(()),
            false => Err(Error::damaged(format!("writing {name}: another object is there"))),
        }
    }
    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        self.with("get", name, |(bytes, _)| match bytes.len() as u64 <= limit {
            true => Ok(bytes.clone()),
            false => Err(Error::damaged(format!("{name} is longer than {limit}"))),
        })
    }
    fn range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.with("range", name, |(bytes, _)| {
            let part = usize::try_from(offset).ok().and_then(|at| bytes.get(at..at.checked_add(length)?));
            part.map(<[u8]>::to_vec).ok_or_else(|| Error::damaged(format!("{name} ends early")))
        })
    }
    fn size(&self, name: &str) -> Result<u64> {
        self.with("size", name, |(bytes, _)| Ok(bytes.len() as u64))
    }
    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.before("list", prefix)?;
        if !prefix.is_empty() {
            check_prefix(prefix)?;
        }
        let (hides, older) = (self.hides.lock(), self.older.lock());
        let time_of = |name: &str, time: Time| match &*older {
            Some((judge, seconds)) if judge(name) => Time { seconds: time.seconds - seconds, ..time },
            _ => time,
        };
        let shows = |name: &str| name.starts_with(prefix) && !hides.as_ref().is_some_and(|judge| judge(name));
        let mut objects = self.place.objects.lock().clone();
        if let Some((place, judge)) = &*self.shows.lock() {
            let others = place.objects.lock();
            objects.extend(others.iter().filter(|(n, _)| judge(n)).map(|(n, o)| (n.clone(), o.clone())));
        }
        let listed = objects.iter().filter(|(name, _)| shows(name));
        Ok(listed
            .map(|(name, (bytes, modified))| Listed {
                name: name.clone(),
                size: bytes.len() as u64,
                modified: time_of(name, *modified),
            })
            .collect())
    }
    fn modified(&self, name: &str) -> Result<Time> {
        self.with("modified", name, |(_, time)| Ok(*time))
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.before("delete", name)?;
        check_name(name)?;
        self.place.objects.lock().remove(name);
        Ok(())
    }
    fn may_be_stale(&self) -> bool {
        false
    }
}
