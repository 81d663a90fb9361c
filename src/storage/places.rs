//! The one door to all stores: a place and some options in, a [`Store`] out.

use super::place::Place;
use super::{Following, Local, Store, remote};
use crate::event::{Observer, Silent};
use crate::fault::{Error, Fault, Result};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long one request is tried where a server does not answer: longer than it takes to start again, and a backup at
/// night waits out what passes.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// How to reach stores. For a local folder nothing of it counts.
#[derive(Clone)]
pub struct Options {
    /// Told what is tried again.
    pub observer: Arc<dyn Observer>,
    /// How long one request is tried.
    pub patience: Duration,
    /// At most so many KiB are sent a second.
    pub limit_upload: Option<u64>,
    /// At most so many KiB are fetched a second.
    pub limit_download: Option<u64>,
    /// Whether other machines may be spoken to without TLS.
    pub insecure_http: bool,
    /// A file of certificates (PEM) that are trusted beside those of the system.
    pub cacert: Option<PathBuf>,
    /// How ssh is called, for the shell.
    pub ssh_command: Option<OsString>,
    /// Access key and secret key for S3, instead of those that the environment and `~/.aws` tell of.
    pub s3_keys: Option<(String, Zeroizing<String>)>,
    /// Who logs in to WebDAV, where the URL does not say.
    pub webdav_user: Option<String>,
    /// Their password.
    pub webdav_password: Option<Zeroizing<Vec<u8>>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            observer: Arc::new(Silent),
            patience: PATIENCE,
            limit_upload: None,
            limit_download: None,
            insecure_http: false,
            cacert: None,
            ssh_command: None,
            s3_keys: None,
            webdav_user: None,
            webdav_password: None,
        }
    }
}

/// Opens a store. Of a folder of this machine it is seen that it is there; other machines are asked nothing yet.
///
/// # Errors
/// `NoRepository` where there is no such folder; `Misuse` where an option makes no sense; `Denied` for plain HTTP to
/// another machine.
pub fn open(place: &Place, options: &Options) -> Result<Arc<dyn Store>> {
    match place {
        Place::Local(path) => Ok(Arc::new(Local::open(path)?)),
        _ => remote::open(place, options),
    }
}

/// The same, for a program that runs for months: it is found again after it was away.
///
/// # Errors
/// As [`open`].
pub fn follow(place: &Place, options: &Options) -> Result<Arc<dyn Store>> {
    match place {
        Place::Local(path) => Ok(Arc::new(Following::open(path)?)),
        // Each request goes to what is there then.
        _ => remote::open(place, options),
    }
}

/// A store for a new repository, where nothing is yet but folders of the names `leftovers`.
///
/// # Errors
/// `Misuse` where something else is; what the store says.
pub fn create(place: &Place, leftovers: &[&str], options: &Options) -> Result<Arc<dyn Store>> {
    if let Place::Local(path) = place {
        return Ok(Arc::new(Local::create_over(path, leftovers)?));
    }
    let store = remote::open(place, options)?;
    let other = store.names("")?.into_iter().find(|name| {
        let first = name.split('/').next().unwrap_or_default();
        !leftovers.contains(&first) || first == name
    });
    match other {
        None => Ok(store),
        Some(name) => Err(Error::new(
            Fault::Misuse,
            format!("{place} is not empty: it holds {name:?}, and a repository needs a place of its own"),
        )),
    }
}
