//! The configuration file: profiles, each of which says once what would else stand in every command line.
//!
//! The file is TOML 1.0 with one table for each profile, `[profile.NAME]`. It is checked whole before anything of it is
//! used, and only the owner of the process or root may be able to write it: what it names is run, and decides where
//! backups go.

use crate::fault::{Doing, Error, Fault, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Longest configuration file in bytes: thousands of profiles.
const FILE_MAX: u64 = 1 << 20;
/// The profile that counts where none is named.
const DEFAULT: &str = "default";
/// Bits of a mode by which others than the owner may write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// What a profile says; all of it may be missing. Relative paths are relative to the folder of the file, and `~/` is the
/// home folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Profile {
    /// Where the repository is: a path or a URL.
    pub repository: Option<String>,
    /// Where replicas of it are, in the order in which they are asked for what the repository cannot give.
    #[serde(default)]
    pub replicas: Vec<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// Command that prints the password.
    pub password_command: Option<String>,
    /// File with 32 random bytes.
    pub key_file: Option<PathBuf>,
    /// Folder of all caches.
    pub cache: Option<PathBuf>,
    /// Most bytes that the cache keeps of a repository elsewhere, as people write sizes.
    pub cache_size: Option<String>,
    /// At most so many KiB are sent a second.
    pub limit_upload: Option<u64>,
    /// At most so many KiB are fetched a second.
    pub limit_download: Option<u64>,
    /// File of certificates (PEM) that are trusted beside those of the system.
    pub cacert: Option<PathBuf>,
    /// Whether other machines may be spoken to without TLS.
    #[serde(default)]
    pub insecure_http: bool,
    /// How ssh is called, for the shell.
    pub ssh_command: Option<String>,
    /// Who logs in to WebDAV, where the URL does not say.
    pub webdav_user: Option<String>,
    /// File with the password for WebDAV.
    pub webdav_password_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    #[serde(default)]
    profile: BTreeMap<String, Profile>,
}

/// A configuration file that was read.
#[derive(Debug)]
pub struct Configuration {
    file: PathBuf,
    profiles: BTreeMap<String, Profile>,
}

impl Configuration {
    /// Reads a file. `home` is what `~/` means.
    ///
    /// # Errors
    /// `Missing` if there is none; `Denied` where somebody else could have written it; `Misuse` with its line
    /// for what is not understood.
    pub fn read(file: &Path, home: Option<&Path>) -> Result<Self> {
        let doing = || format!("reading the configuration {}", file.display());
        let opened = File::open(file).doing(doing)?;
        let status = opened.metadata().doing(doing)?;
        let me = rustix::process::geteuid().as_raw();
        if (status.uid() != me && status.uid() != 0) || status.mode() & WRITABLE_BY_OTHERS != 0 {
            let text = format!("the configuration {} can be changed by others", file.display());
            return Err(Error::new(Fault::Denied, text).hint(
                "it names programs to run and where backups go: let only its owner, who is you or root, write it \
                 (chmod go-w)",
            ));
        }
        let mut text = String::new();
        opened.take(FILE_MAX + 1).read_to_string(&mut text).doing(doing)?;
        if text.len() as u64 > FILE_MAX {
            return Err(Error::misuse(format!("{} is longer than {FILE_MAX} bytes", file.display())));
        }
        Self::parse(&text, file, home)
    }

    fn parse(text: &str, file: &Path, home: Option<&Path>) -> Result<Self> {
        let contents: Contents = toml::from_str(text).map_err(|e| {
            let what = format!("the configuration {} is not understood", file.display());
            let line = e.span().map(|span| text.bytes().take(span.start).filter(|b| *b == b'\n').count() + 1);
            let line = line.map_or_else(String::new, |n| format!("line {n}: "));
            Error::with_source(Fault::Misuse, what, format!("{line}{}", e.message().replace('\n', ", ")))
                .hint("pastfs-config(5) tells what may stand there")
        })?;
        let folder = file.parent().unwrap_or(Path::new("/"));
        let mut profiles = contents.profile;
        for (name, profile) in &mut profiles {
            profile.check(name, file)?;
            profile.settle(folder, home);
        }
        Ok(Self { file: file.into(), profiles })
    }

    /// A profile by its name.
    ///
    /// # Errors
    /// `Misuse` if there is none, with those that there are.
    pub fn profile(&self, name: &str) -> Result<&Profile> {
        self.profiles.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.profiles.keys().map(String::as_str).collect();
            let text = format!("there is no profile {name:?} in {}", self.file.display());
            Error::misuse(text).hint(match names.is_empty() {
                true => format!("write one: [profile.{name}]"),
                false => format!("there are: {}", names.join(", ")),
            })
        })
    }

    /// The profile that counts where none is named, if there is one.
    pub fn default_profile(&self) -> Option<&Profile> {
        self.profiles.get(DEFAULT)
    }
}

impl Profile {
    fn check(&self, name: &str, file: &Path) -> Result<()> {
        let bad =
            |what: &str| Err(Error::misuse(format!("the profile {name:?} in {} {what}", file.display())));
        let keys = [self.password_file.is_some(), self.password_command.is_some(), self.key_file.is_some()];
        if keys.into_iter().filter(|k| *k).count() > 1 {
            return bad("names more than one of password-file, password-command and key-file");
        }
        let is_empty_path = self.clone().paths().any(|p| p.as_os_str().is_empty());
        let commands = [&self.password_command, &self.ssh_command, &self.webdav_user, &self.cache_size];
        let texts = self.repository.iter().chain(&self.replicas).chain(commands.into_iter().flatten());
        if is_empty_path || texts.into_iter().any(String::is_empty) {
            return bad("has a value that is empty");
        }
        Ok(())
    }

    fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let keys = [&mut self.password_file, &mut self.key_file, &mut self.webdav_password_file];
        keys.into_iter().chain([&mut self.cache, &mut self.cacert]).flatten()
    }

    fn settle(&mut self, folder: &Path, home: Option<&Path>) {
        let settled = |path: &Path| match (path.strip_prefix("~"), home) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => folder.join(path),
        };
        for path in self.paths() {
            *path = settled(path);
        }
        // What has a scheme is no path.
        for place in self.repository.iter_mut().chain(&mut self.replicas).filter(|p| !p.contains("://")) {
            // What was text stays text: both parts of it are, or the home folder's name is none and stays out.
            if let Some(text) = settled(Path::new(place)).to_str() {
                *place = text.into();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn parse(text: &str) -> Result<Configuration> {
        Configuration::parse(text, Path::new("/etc/pastfs/config.toml"), Some(Path::new("/home/ana")))
    }

    #[test]
    fn a_profile_says_where_and_with_which_key() {
        let read = parse(
            r#"
            [profile.default]
            repository = "s3://bucket/ana"
            replicas = ["/mnt/usb/past", "webdavs://host/past", "~/past"]
            password-file = "password"
            [profile.work]
            repository = "../past"
            key-file = "~/work.key"
            cache = "/var/cache/work"
            "#,
        )
        .unwrap();
        let ana = read.default_profile().unwrap();
        assert_eq!(ana.repository.as_deref(), Some("s3://bucket/ana"));
        assert_eq!(ana.replicas, ["/mnt/usb/past", "webdavs://host/past", "/home/ana/past"]);
        assert_eq!(ana.password_file.as_deref(), Some(Path::new("/etc/pastfs/password")));
        let work = read.profile("work").unwrap();
        assert_eq!(work.repository.as_deref(), Some("/etc/pastfs/../past"));
        assert_eq!(work.key_file.as_deref(), Some(Path::new("/home/ana/work.key")));
        assert_eq!(work.cache.as_deref(), Some(Path::new("/var/cache/work")));
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        let text = parse("[profile.a]\nrepository = \"/a\"\npasword-file = \"x\"\n").unwrap_err().chain();
        assert!(text.contains("line 3") && text.contains("pasword-file"), "{text}");
        for bad in ["x", "[profiles.a]", "[profile.a]\nrepository = 1", "[profile.a]\nreplicas = [\"\"]"] {
            assert_eq!(parse(bad).unwrap_err().fault(), Fault::Misuse, "{bad}");
        }
        let both = parse("[profile.a]\nkey-file = \"a\"\npassword-file = \"b\"").unwrap_err().chain();
        assert!(both.contains("more than one"), "{both}");
    }

    #[test]
    fn a_profile_that_is_not_there_is_answered_with_those_that_are() {
        let error = parse("[profile.a]\n[profile.b]\n").unwrap().profile("c").unwrap_err();
        assert!(error.advice().is_some_and(|h| h.contains("a, b")), "{error:?}");
        assert!(parse("").unwrap().default_profile().is_none());
    }

    #[test]
    fn a_file_that_others_can_write_is_refused() {
        let file = std::env::temp_dir()
            .join(format!("pastfs-{}", crate::id::hex(&crate::clock::random_array::<8>())));
        std::fs::write(&file, "[profile.a]").unwrap();
        for (mode, is_good) in [(0o600, true), (0o644, true), (0o664, false), (0o602, false)] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Configuration::read(&file, None).is_ok(), is_good, "{mode:o}");
        }
        std::fs::remove_file(&file).unwrap();
        assert_eq!(Configuration::read(&file, None).unwrap_err().fault(), Fault::Missing);
    }
}
