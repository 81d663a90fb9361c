//! The options of all commands: which repository, which key, which cache, how much is told.

use super::progress::Progress;
use crate::clock;
use crate::config::{Configuration, Profile};
use crate::event::{Observer, Stop};
use crate::fault::{Doing, Error, Fault, Result};
use crate::format::slot::Label;
use crate::repository::{Credential, OpenOptions, Opener, Repository, Spare};
use crate::storage::{self, Place, Store};
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions as FileOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use zeroize::Zeroizing;

/// Longest password in bytes: nobody types more, and a wrong file is noticed.
const PASSWORD_MAX: usize = 64 << 10;
/// Bytes in a key file.
const KEY_FILE_LEN: usize = 32;
/// Where the caches of root's own backups are (Filesystem Hierarchy Standard, 5.5).
const ROOT_CACHE: &str = "/var/cache/pastfs";
/// How long a mount tries one request before the reader gets an error.
const PATIENCE_OF_MOUNTS: Duration = Duration::from_secs(60);
/// Folder of the configuration of the whole machine (Filesystem Hierarchy Standard, 3.7).
const CONFIGURATION: &str = "/etc/pastfs";

/// Options that every command has.
#[derive(clap::Args)]
pub struct Global {
    /// The repository: a folder, or s3://BUCKET/PREFIX, webdavs://HOST/PATH or sftp://HOST/PATH
    ///
    /// s3://BUCKET/PREFIX takes the parameters ?endpoint=URL, &region=NAME, &path-style=true, &profile=NAME and
    /// &storage-class=NAME; what is not said there comes from the environment and files of the AWS tools, and so do the
    /// keys. webdav:// is for this machine, or with --insecure-http for others; PASTFS_WEBDAV_USER and
    /// PASTFS_WEBDAV_PASSWORD (or PASTFS_WEBDAV_PASSWORD_FILE) log in. sftp:// runs ssh with all its own settings; its path is
    /// absolute, and /~/PATH is below the home folder there. pastfs-stores(7) tells more.
    #[arg(
        short,
        long,
        global = true,
        env = "PASTFS_REPOSITORY",
        hide_env_values = true,
        value_name = "REPOSITORY"
    )]
    #[arg(help_heading = "Global options")]
    repo: Option<OsString>,
    /// Read the password from a file (or set PASTFS_PASSWORD_FILE; PASTFS_PASSWORD may hold the password itself)
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    #[arg(conflicts_with_all = ["password_command", "key_file"])]
    password_file: Option<PathBuf>,
    /// Run a command by the shell and take what it prints as the password (or set PASTFS_PASSWORD_COMMAND)
    #[arg(long, global = true, value_name = "COMMAND", help_heading = "Global options")]
    #[arg(conflicts_with = "key_file")]
    password_command: Option<OsString>,
    /// Use a key file of 32 random bytes instead of a password (or set PASTFS_KEY_FILE)
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    key_file: Option<PathBuf>,
    /// Folder of the caches [default: $XDG_CACHE_HOME/pastfs or ~/.cache/pastfs; for root /var/cache/pastfs]
    #[arg(long, global = true, env = "PASTFS_CACHE", hide_env_values = true, value_name = "DIR")]
    #[arg(help_heading = "Global options")]
    cache: Option<PathBuf>,
    /// Read here what the repository cannot give: a replica of it (may be repeated; or set PASTFS_REPLICAS, with commas between)
    ///
    /// Commands that only read, and mounts, take from a replica what is damaged, missing or not to be reached in the repository,
    /// verified as always, and warn of it. A replica that is not there is passed over. pastfs replicate makes them.
    #[arg(long, global = true, value_name = "REPLICA", help_heading = "Global options")]
    replica: Vec<OsString>,
    /// Most bytes of a repository elsewhere (not in a folder) that the cache keeps beside the index, such as 10GiB; 0: none
    /// [default: 4GiB]
    #[arg(long, global = true, env = "PASTFS_CACHE_SIZE", hide_env_values = true, value_name = "SIZE")]
    #[arg(value_parser = super::words::parse_size, help_heading = "Global options")]
    cache_size: Option<u64>,
    /// Print JSON for machines
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Print no progress and no summary, only errors and warnings
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// Tell more: each new or changed file, and details; twice: unchanged files as well
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
    /// Take what is not given here from a profile of the configuration file [default: the profile `default`, where no
    /// repository is named]
    #[arg(
        short = 'P',
        long,
        global = true,
        env = "PASTFS_PROFILE",
        hide_env_values = true,
        value_name = "NAME"
    )]
    #[arg(help_heading = "Global options")]
    profile: Option<String>,
    /// The configuration file [default: $XDG_CONFIG_HOME/pastfs/config.toml or ~/.config/pastfs/config.toml, else
    /// /etc/pastfs/config.toml; for root the last]
    #[arg(long, global = true, env = "PASTFS_CONFIG", hide_env_values = true, value_name = "FILE")]
    #[arg(help_heading = "Global options")]
    config: Option<PathBuf>,
    #[command(flatten)]
    far: Far,
    #[arg(skip)]
    passwords: Passwords,
    /// What the profile says, once it was read.
    #[arg(skip)]
    read: OnceLock<Profile>,
}

/// Options for stores on other machines.
#[derive(clap::Args)]
struct Far {
    /// Send at most so many KiB a second to the repository
    #[arg(long, global = true, value_name = "KIB", help_heading = "Global options")]
    limit_upload: Option<u64>,
    /// Fetch at most so many KiB a second from the repository
    #[arg(long, global = true, value_name = "KIB", help_heading = "Global options")]
    limit_download: Option<u64>,
    /// Trust the certificates in this file (PEM) beside those of the system
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    cacert: Option<PathBuf>,
    /// Speak to other machines without TLS
    ///
    /// What is stored is sealed all the same, but who listens sees passwords of WebDAV, and who is in between can hold
    /// things back.
    #[arg(long, global = true, help_heading = "Global options")]
    insecure_http: bool,
    /// Run this instead of ssh, by the shell and with ssh's arguments behind it
    #[arg(long, global = true, env = "PASTFS_SSH_COMMAND", hide_env_values = true, value_name = "COMMAND")]
    #[arg(help_heading = "Global options")]
    ssh_command: Option<OsString>,
}

/// A password.
pub type Secret = Zeroizing<Vec<u8>>;

/// A crash writes no memory to the disk, where keys and contents of files would stay.
pub fn without_core_dumps() {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    // Where it is not allowed to lower a limit nothing can be done about it.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
}

/// Passwords that were in the environment.
#[derive(Default)]
pub struct Passwords {
    /// PASTFS_PASSWORD.
    repository: Option<Secret>,
    /// PASTFS_WEBDAV_PASSWORD.
    webdav: Option<Secret>,
}

/// Takes passwords out of the environment, so that no program that we start inherits them. To be called while the process
/// has one thread.
pub fn take_passwords() -> Passwords {
    let take = |name| {
        let password = std::env::var_os(name)?;
        // SAFETY: the first thing that the program does; no other thread reads or writes the environment yet.
        unsafe { std::env::remove_var(name) };
        Some(Zeroizing::new(password.into_vec()))
    };
    Passwords { repository: take("PASTFS_PASSWORD"), webdav: take("PASTFS_WEBDAV_PASSWORD") }
}

/// How often a password is asked for at the prompt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// It is there already.
    Once,
    /// A new one: a slip of the finger would lock everybody out.
    Twice,
}

impl Global {
    /// Adds what [`take_passwords`] found.
    pub fn with_passwords(mut self, passwords: Passwords) -> Self {
        self.passwords = passwords;
        self
    }

    /// Where the repository is.
    ///
    /// # Errors
    /// `Misuse` if none is named, or by no URL of ours; as [`Configuration::read`].
    pub fn place(&self) -> Result<Place> {
        if let Some(text) = self.named() {
            return Place::parse(text);
        }
        let text = self.profile()?.repository.as_deref().ok_or_else(|| {
            Error::misuse("no repository is named")
                .hint("name one by -r, by PASTFS_REPOSITORY, or in a profile of the configuration file")
        })?;
        Place::parse(OsStr::new(text))
    }

    /// The repository that the command line or the environment names.
    fn named(&self) -> Option<&OsStr> {
        self.repo.as_deref().filter(|text| !text.is_empty())
    }

    /// How to reach stores on other machines.
    ///
    /// # Errors
    /// What reading the password for WebDAV brings.
    pub fn reach(&self) -> Result<storage::Options> {
        let (profile, far) = (self.profile()?, &self.far);
        let env = |name| std::env::var_os(name).filter(|v| !v.is_empty());
        let user = env("PASTFS_WEBDAV_USER").map(|user| user.to_string_lossy().into_owned());
        let file = env("PASTFS_WEBDAV_PASSWORD_FILE").map(PathBuf::from);
        let password = match (&self.passwords.webdav, file.as_ref().or(profile.webdav_password_file.as_ref()))
        {
            (Some(password), _) => Some(password.clone()),
            (None, Some(file)) => {
                let doing = || format!("reading the password for WebDAV from {}", file.display());
                Some(without_newline(File::open(file).and_then(read_secret).doing(doing)?))
            }
            (None, None) => None,
        };
        Ok(storage::Options {
            observer: Progress::warnings(self),
            limit_upload: far.limit_upload.or(profile.limit_upload),
            limit_download: far.limit_download.or(profile.limit_download),
            insecure_http: far.insecure_http || profile.insecure_http,
            cacert: far.cacert.as_ref().or(profile.cacert.as_ref()).cloned(),
            ssh_command: far.ssh_command.clone().or_else(|| profile.ssh_command.as_ref().map(OsString::from)),
            webdav_user: user.or_else(|| profile.webdav_user.clone()),
            webdav_password: password,
            ..storage::Options::default()
        })
    }

    /// Bounds what is kept of a far repository, where somebody says so.
    fn bounded(&self, repository: Arc<Repository>) -> Result<Arc<Repository>> {
        let size = match (self.cache_size, &self.profile()?.cache_size) {
            (None, Some(text)) => Some(super::words::parse_size(text).map_err(Error::misuse)?),
            (size, _) => size,
        };
        if let Some(bytes) = size {
            repository.bound_cache(bytes);
        }
        Ok(repository)
    }

    /// What the profile says. The one called `default` speaks of its own repository only.
    fn profile(&self) -> Result<&Profile> {
        if let Some(read) = self.read.get() {
            return Ok(read);
        }
        let name = self.profile.as_deref().filter(|n| !n.is_empty());
        let found = match (name, self.named()) {
            (None, Some(_)) => None,
            _ => self.configuration()?,
        };
        let profile = match (name, &found) {
            (Some(name), Some(found)) => Some(found.profile(name)?),
            (Some(name), None) => {
                let text = format!("there is no configuration file with the profile {name:?}");
                return Err(
                    Error::misuse(text).hint("write one, or name it by --config; pastfs-config(5) tells how")
                );
            }
            (None, found) => found.as_ref().and_then(Configuration::default_profile),
        };
        Ok(self.read.get_or_init(|| profile.cloned().unwrap_or_default()))
    }

    /// The configuration file: the one that is named, else the first that is there.
    fn configuration(&self) -> Result<Option<Configuration>> {
        let home = std::env::home_dir();
        if let Some(file) = self.config.as_deref().filter(|f| !f.as_os_str().is_empty()) {
            let file = std::path::absolute(file).doing(|| format!("looking for {}", file.display()))?;
            return Configuration::read(&file, home.as_deref()).map(Some);
        }
        let is_root = rustix::process::geteuid().is_root();
        let xdg = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
        // `sudo` may have kept what belongs to somebody else.
        let own = xdg.or_else(|| Some(home.as_deref()?.join(".config"))).filter(|_| !is_root);
        let places = own.into_iter().map(|p| p.join("pastfs")).chain([PathBuf::from(CONFIGURATION)]);
        for folder in places {
            match Configuration::read(&folder.join("config.toml"), home.as_deref()) {
                Err(e) if e.fault() == Fault::Missing => {}
                read => return read.map(Some),
            }
        }
        Ok(None)
    }

    /// The key by the options, else by the environment, else by the profile, else asked for at the terminal.
    pub fn credential(&self, ask: Ask) -> Result<Credential> {
        let key_file = |path: &Path| -> Result<Credential> {
            if ask == Ask::Twice {
                make_key_file(path)?;
            }
            read_key_file(path)
        };
        if let Some(path) = &self.key_file {
            return key_file(path);
        }
        if let Some(command) = &self.password_command {
            return password_of_command(command);
        }
        if let Some(path) = &self.password_file {
            return read_password_file(path);
        }
        if let Some(password) = &self.passwords.repository {
            return password_credential(password.clone(), || "PASTFS_PASSWORD".into());
        }
        let env = |name| std::env::var_os(name).filter(|v| !v.is_empty());
        if let Some(path) = env("PASTFS_PASSWORD_FILE") {
            return read_password_file(Path::new(&path));
        }
        if let Some(command) = env("PASTFS_PASSWORD_COMMAND") {
            return password_of_command(&command);
        }
        if let Some(path) = env("PASTFS_KEY_FILE") {
            return key_file(Path::new(&path));
        }
        let profile = self.profile()?;
        if let Some(path) = &profile.key_file {
            return key_file(path);
        }
        if let Some(command) = &profile.password_command {
            return password_of_command(OsStr::new(command));
        }
        if let Some(path) = &profile.password_file {
            return read_password_file(path);
        }
        prompt("password", ask)
    }

    /// Opens the repository; asks for the password if it must. Warnings go to `observer`.
    pub fn open(&self, observer: Arc<dyn Observer>) -> Result<Arc<Repository>> {
        let store = self.store()?;
        let credential = self.credential(Ask::Once)?;
        self.open_with(store, &credential, observer)
    }

    /// The storage of a repository that is there.
    pub fn store(&self) -> Result<Arc<dyn Store>> {
        storage::open(&self.place()?, &self.reach()?)
    }

    /// The same, for a program that runs for months: it is found again after it was away.
    pub fn followed_store(&self) -> Result<Arc<dyn Store>> {
        // Who reads a file waits as long: an error sooner, and the next try finds what is back.
        let reach = storage::Options { patience: PATIENCE_OF_MOUNTS, ..self.reach()? };
        storage::follow(&self.place()?, &reach)
    }

    /// The storage of another repository, such as a replica: a path or a URL.
    ///
    /// # Errors
    /// As [`storage::open`].
    pub fn store_at(&self, text: &OsStr) -> Result<Arc<dyn Store>> {
        storage::open(&Place::parse(text)?, &self.reach()?)
    }

    /// The replicas that are read where the repository fails: those of the command line, of the environment, or of the profile.
    fn spares(&self) -> Result<Vec<Spare>> {
        let env = std::env::var_os("PASTFS_REPLICAS").filter(|v| !v.is_empty());
        let places: Vec<OsString> = match (&self.replica[..], env) {
            ([], Some(places)) => {
                let named = places.as_bytes().split(|b| *b == b',').filter(|place| !place.is_empty());
                named.map(|place| OsStr::from_bytes(place).to_owned()).collect()
            }
            ([], None) => self.profile()?.replicas.iter().map(OsString::from).collect(),
            (places, _) => places.to_vec(),
        };
        let spare = |place: OsString| Ok(Spare::new(place.to_string_lossy(), self.opener(&place)?));
        places.into_iter().map(spare).collect()
    }

    /// Opens the repository for a command that only reads: with its replicas.
    pub fn open_to_read(&self, observer: Arc<dyn Observer>) -> Result<Arc<Repository>> {
        let store = self.store();
        let credential = self.credential(Ask::Once)?;
        self.open_to_read_with(store, &credential, observer)
    }

    /// The same, with a key that is at hand, and with or without a store.
    pub fn open_to_read_with(
        &self,
        store: Result<Arc<dyn Store>>,
        credential: &Credential,
        observer: Arc<dyn Observer>,
    ) -> Result<Arc<Repository>> {
        let options = OpenOptions { cache: self.cache()?, observer };
        let repository = Repository::open_or_replica(store, credential, options, self.spares()?)?;
        self.bounded(repository)
    }

    /// Opens the repository and a replica of it, by which it is opened where what opens it is damaged.
    pub fn open_with_replica(
        &self,
        place: &OsStr,
        observer: Arc<dyn Observer>,
    ) -> Result<(Arc<Repository>, Arc<Repository>)> {
        let options = OpenOptions { cache: self.cache()?, observer };
        let (store, credential) = (self.store()?, self.credential(Ask::Once)?);
        let spare = Spare::new(place.to_string_lossy(), self.opener(place)?);
        let repository = Repository::open_or_replica(Ok(store), &credential, options, vec![spare])?;
        let replica = repository.beside(self.store_at(place)?)?;
        Ok((repository, replica))
    }

    /// How to open a place, now or later.
    fn opener(&self, place: &OsStr) -> Result<Opener> {
        let place = match Place::parse(place)? {
            // A relative path means the folder in which the command was given, also in the background.
            Place::Local(path) => {
                Place::Local(std::path::absolute(&path).doing(|| format!("looking for {}", path.display()))?)
            }
            far => far,
        };
        let reach = storage::Options { patience: PATIENCE_OF_MOUNTS, ..self.reach()? };
        Ok(Box::new(move || storage::open(&place, &reach)))
    }

    /// Opens the repository for a command that only reads and shows no progress, but prints warnings.
    pub fn open_plainly_to_read(&self) -> Result<Arc<Repository>> {
        self.open_to_read(Progress::warnings(self))
    }

    /// The storage of a replica that may have to be made. A dry run makes no folder.
    ///
    /// # Errors
    /// `Misuse` where the folder holds anything else; what the storage says.
    pub fn replica_for_writing(&self, text: &OsStr, dry_run: bool) -> Result<Arc<dyn Store>> {
        let (place, reach) = (Place::parse(text)?, self.reach()?);
        let found = storage::open(&place, &reach);
        match found {
            Ok(store) if dry_run || !store.names("config/")?.is_empty() => Ok(store),
            Err(e) if dry_run && e.fault() == Fault::NoRepository => Err(e
                .as_fault(Fault::Misuse)
                .hint("without --dry-run it is made, and all snapshots are copied")),
            Err(e) if e.fault() != Fault::NoRepository => Err(e),
            _ => storage::create(&place, &Repository::FIRST_FOLDERS, &reach),
        }
    }

    /// Opens the repository with a key that is at hand.
    pub fn open_with(
        &self,
        store: Arc<dyn Store>,
        credential: &Credential,
        observer: Arc<dyn Observer>,
    ) -> Result<Arc<Repository>> {
        let repository = Repository::open(store, credential, OpenOptions { cache: self.cache()?, observer })?;
        self.bounded(repository)
    }

    /// Opens the repository for a command that shows no progress, but prints warnings.
    pub fn open_plainly(&self) -> Result<Arc<Repository>> {
        self.open(Progress::warnings(self))
    }

    /// The folder of all caches.
    pub fn cache(&self) -> Result<PathBuf> {
        let is_root = rustix::process::geteuid().is_root();
        let xdg = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let path = match self.cache.as_ref().or(self.profile()?.cache.as_ref()) {
            Some(path) => path.clone(),
            None => default_cache(is_root, xdg, std::env::home_dir(), |p| {
                std::fs::metadata(p).ok().map(|m| m.uid())
            })
            .ok_or_else(|| {
                Error::misuse("there is no home folder for the cache").hint("name a folder by --cache")
            })?,
        };
        std::path::absolute(&path).doing(|| format!("looking for the cache {}", path.display()))
    }
}

/// `None` where there is no place for it. A relative `xdg` does not count (XDG base directory specification),
/// and for root none that another user owns: `sudo` may have kept it, and the cache of root is root's.
fn default_cache(
    is_root: bool,
    xdg: Option<PathBuf>,
    home: Option<PathBuf>,
    owner: impl Fn(&Path) -> Option<u32>,
) -> Option<PathBuf> {
    let xdg = xdg.filter(|p| p.is_absolute());
    if is_root {
        let own = xdg.filter(|p| owner(p) == Some(0));
        return Some(own.map_or_else(|| ROOT_CACHE.into(), |p| p.join("pastfs")));
    }
    let base = xdg.or_else(|| home.filter(|p| p.is_absolute()).map(|h| h.join(".cache")))?;
    Some(base.join("pastfs"))
}

/// A key that is about to be added.
#[derive(clap::Args)]
pub struct NewKey {
    /// Read the new password from a file
    #[arg(long, value_name = "FILE", conflicts_with = "new_key_file")]
    new_password_file: Option<PathBuf>,
    /// Add a key file of 32 random bytes, which is made if it is not there
    #[arg(long, value_name = "FILE")]
    new_key_file: Option<PathBuf>,
}

impl NewKey {
    /// The new key by the options, else a password that is asked for twice.
    pub fn credential(&self) -> Result<Credential> {
        if let Some(path) = &self.new_key_file {
            make_key_file(path)?;
            return read_key_file(path);
        }
        match &self.new_password_file {
            Some(path) => read_password_file(path),
            None => prompt("new password", Ask::Twice),
        }
    }
}

/// Whether both open the same slots.
pub fn same_key(a: &Credential, b: &Credential) -> bool {
    match (a, b) {
        (Credential::Password(a), Credential::Password(b)) => a == b,
        (Credential::KeyFile(a), Credential::KeyFile(b)) => a == b,
        _ => false,
    }
}

/// What people are told about a key: who makes it, where and when.
pub fn label(text: Vec<u8>) -> Label {
    let user = ["LOGNAME", "USER"].iter().find_map(std::env::var_os).unwrap_or_default();
    Label {
        text,
        user: user.into_vec(),
        host: host_name(),
        created: clock::now().seconds,
        ..Label::default()
    }
}

/// The name of this machine.
pub fn host_name() -> Vec<u8> {
    rustix::system::uname().nodename().to_bytes().to_vec()
}

/// A flag that SIGINT and SIGTERM set; the second signal ends the process at once, with 130. To be called
/// behind the prompts: a signal ends those at once.
pub fn stop_on_signals() -> Result<Stop> {
    let stop = Stop::new();
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // In this order: the first signal finds the flag not set yet.
        signal_hook::flag::register_conditional_shutdown(signal, 130, stop.flag())
            .and_then(|_| signal_hook::flag::register(signal, stop.flag()))
            .doing(|| "listening to signals")?;
    }
    Ok(stop)
}

fn password_credential(mut password: Secret, from: impl Fn() -> String) -> Result<Credential> {
    if password.is_empty() {
        return Err(Error::misuse(format!("the password from {} is empty", from())));
    }
    if password.len() > PASSWORD_MAX {
        return Err(Error::misuse(format!(
            "the password from {} is longer than {PASSWORD_MAX} bytes",
            from()
        )));
    }
    Ok(Credential::Password(std::mem::take(&mut password)))
}

/// Takes one end of line off.
fn without_newline(mut text: Secret) -> Secret {
    if text.last() == Some(&b'\n') {
        text.pop();
        if text.last() == Some(&b'\r') {
            text.pop();
        }
    }
    text
}

/// All of `from`, but no more than is needed to see that it is too long; never moved while it grows, so that
/// no copy is left behind.
fn read_secret(from: impl Read) -> std::io::Result<Secret> {
    let mut text = Zeroizing::new(Vec::with_capacity(PASSWORD_MAX + 3));
    from.take(PASSWORD_MAX as u64 + 3).read_to_end(&mut text)?;
    Ok(text)
}

fn read_password_file(path: &Path) -> Result<Credential> {
    let doing = || format!("reading the password from {}", path.display());
    let text = File::open(path).and_then(read_secret).doing(doing)?;
    password_credential(without_newline(text), || path.display().to_string())
}

fn password_of_command(command: &OsStr) -> Result<Credential> {
    let doing = || format!("running the password command {}", command.to_string_lossy());
    let mut child =
        Command::new("/bin/sh").arg("-c").arg(command).stdout(Stdio::piped()).spawn().doing(doing)?;
    let text = match child.stdout.take() {
        Some(pipe) => read_secret(pipe).doing(doing)?,
        None => Secret::default(),
    };
    let status = child.wait().doing(doing)?;
    if !status.success() {
        return Err(Error::with_source(Fault::Io, doing(), status.to_string()));
    }
    password_credential(without_newline(text), || format!("the command {}", command.to_string_lossy()))
}

fn prompt(what: &str, ask: Ask) -> Result<Credential> {
    let read = |text: String| -> Result<Secret> {
        rpassword::prompt_password(text).map(|p| Zeroizing::new(p.into_bytes())).map_err(|e| {
            Error::with_source(Fault::Misuse, format!("there is no terminal to ask for the {what} at"), e).hint(
                "give it by PASTFS_PASSWORD, --password-file, --password-command or --key-file (`pastfs key`: \
                 --new-password-file, --new-key-file)",
            )
        })
    };
    let password = read(format!("{what}: "))?;
    if ask == Ask::Twice && !password.is_empty() && read(format!("{what} again: "))? != password {
        return Err(Error::misuse("the two passwords differ"));
    }
    password_credential(password, || "the terminal".into())
}

fn read_key_file(path: &Path) -> Result<Credential> {
    let doing = || format!("reading the key file {}", path.display());
    let bytes = File::open(path).and_then(read_secret).doing(doing)?;
    match <[u8; KEY_FILE_LEN]>::try_from(bytes.as_slice()) {
        Ok(key) => Ok(Credential::KeyFile(Zeroizing::new(key))),
        Err(_) => Err(Error::misuse(format!(
            "{} is no key file: it has {}{} bytes, and a key file {KEY_FILE_LEN}",
            path.display(),
            if bytes.len() > PASSWORD_MAX { "more than " } else { "" },
            bytes.len().min(PASSWORD_MAX)
        ))
        .hint("`pastfs init --key-file FILE` and `pastfs key add --new-key-file FILE` make one")),
    }
}

/// Makes a key file unless there is something of that name. It is durable before a repository depends on it.
fn make_key_file(path: &Path) -> Result<()> {
    let doing = || format!("making the key file {}", path.display());
    let mut file = match FileOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        file => file.doing(doing)?,
    };
    let key = Zeroizing::new(clock::random_array::<KEY_FILE_LEN>());
    let written = file.write_all(&*key).and_then(|()| file.sync_all()).and_then(|()| {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    });
    if written.is_err() {
        // A part of a key is worse than none: the next try would take it for the key.
        let _ = std::fs::remove_file(path);
    }
    written.doing(doing)
}

/// A tag as it goes into a manifest.
///
/// # Errors
/// `Misuse` where it is empty or too long.
pub fn tags(given: &[OsString]) -> Result<Vec<Vec<u8>>> {
    use crate::format::snapshot::{TAGS_MAX, TEXT_MAX};
    let mut tags: Vec<Vec<u8>> =
        given.iter().flat_map(|t| t.as_bytes().split(|b| *b == b',')).map(<[u8]>::to_vec).collect();
    if let Some(bad) = tags.iter().find(|t| t.is_empty() || t.len() > TEXT_MAX) {
        return Err(Error::misuse(match bad.len() {
            0 => "a tag is empty".to_string(),
            n => format!("a tag has {n} bytes, and may have {TEXT_MAX}"),
        }));
    }
    tags.sort();
    tags.dedup();
    if tags.len() > TAGS_MAX {
        return Err(Error::misuse(format!("a snapshot can have {TAGS_MAX} tags, not {}", tags.len())));
    }
    Ok(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_end_of_line_is_no_part_of_a_password() {
        let strip = |t: &str| without_newline(Zeroizing::new(t.as_bytes().to_vec())).to_vec();
        assert_eq!(strip("a b\n"), b"a b");
        assert_eq!(strip("a\r\n"), b"a");
        assert_eq!(strip("a\n\n"), b"a\n");
        assert_eq!(strip("a "), b"a ");
        assert_eq!(strip("\n"), b"");
    }

    #[test]
    fn empty_and_endless_passwords_are_refused() {
        for bytes in [vec![], vec![b'x'; PASSWORD_MAX + 1]] {
            let e = password_credential(Zeroizing::new(bytes), || "here".into()).err().unwrap();
            assert_eq!(e.fault(), Fault::Misuse);
        }
        assert!(read_password_file(Path::new("/dev/zero")).is_err());
        assert!(read_password_file(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn the_password_is_what_the_command_prints_and_its_failure_is_ours() {
        let run = |c: &str| password_of_command(OsStr::new(c));
        match run("echo 'a b'").unwrap() {
            Credential::Password(p) => assert_eq!(p.as_slice(), b"a b"),
            Credential::KeyFile(_) => panic!("not a key file"),
        }
        assert!(run("echo x; exit 3").is_err());
        assert!(run("true").is_err());
    }

    #[test]
    fn key_files_are_made_once_private_and_of_the_right_size() {
        let mut folder = std::env::temp_dir();
        folder.push(format!("pastfs-key-{}", crate::id::hex(&clock::random_array::<8>())));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("key");
        make_key_file(&path).unwrap();
        let first = std::fs::read(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        make_key_file(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first);
        assert!(matches!(read_key_file(&path), Ok(Credential::KeyFile(k)) if k[..] == first[..]));
        std::fs::write(&path, [0; 31]).unwrap();
        let e = read_key_file(&path).err().unwrap();
        assert!(e.to_string().contains("31 bytes"), "{e}");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_cache_of_root_is_in_nobody_elses_folder() {
        let cache = |root, xdg: Option<&str>, home: Option<&str>, owner| {
            default_cache(root, xdg.map(Into::into), home.map(Into::into), |_| owner)
        };
        let at = |p: &str| Some(PathBuf::from(p));
        assert_eq!(cache(false, Some("/x"), Some("/home/a"), Some(7)), at("/x/pastfs"));
        assert_eq!(cache(false, Some("x"), Some("/home/a"), None), at("/home/a/.cache/pastfs"));
        assert_eq!(cache(false, None, None, None), None);
        assert_eq!(cache(true, Some("/x"), Some("/root"), Some(0)), at("/x/pastfs"));
        assert_eq!(cache(true, Some("/home/a/.cache"), Some("/root"), Some(1000)), at(ROOT_CACHE));
        assert_eq!(cache(true, Some("/gone"), Some("/root"), None), at(ROOT_CACHE));
        assert_eq!(cache(true, None, Some("/root"), Some(0)), at(ROOT_CACHE));
    }

    #[test]
    fn tags_are_split_at_commas_and_sorted() {
        let given = ["b,a".into(), "a".into()];
        assert_eq!(tags(&given).unwrap(), [b"a".to_vec(), b"b".to_vec()]);
        assert!(tags(&["a,".into()]).is_err());
        assert!(tags(&["x".repeat(2000).into()]).is_err());
    }
}
