//! Mounting as mount(8) and fstab(5) have it: `mount -t fuse.pastfs REPOSITORY DIR -o OPTIONS`.
//!
//! mount(8) starts a helper called /sbin/mount.fuse.pastfs, which is a link to this program; where that is missing,
//! mount.fuse3(8) of libfuse runs `pastfs REPOSITORY DIR -o OPTIONS`. Both become a `pastfs mount` here, and each
//! option of theirs the long option of that name, with `_` for `-`: so there is one definition, and one help.

use crate::fault::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// The type in fstab, and what mount.fuse3(8) takes for the name of the program.
const TYPE: &str = "pastfs";

/// Options that are for mount(8) or systemd.mount(5), or that change nothing here: the mount is always read-only,
/// `nosuid` and `nodev`, keeps no times of access, and with `allow_other` always has `default_permissions`. mount(8)
/// puts `rw`, and mount.fuse3(8) `dev` and `suid`, where nobody has written them: they cannot be refused.
#[rustfmt::skip]
const IGNORED: &[&str] = &[
    "ro", "rw", "defaults", "auto", "noauto", "nofail", "user", "nouser", "users", "nousers", "owner", "noowner",
    "group", "nogroup", "_netdev", "comment", "dev", "nodev", "suid", "nosuid", "sync", "async", "dirsync", "atime",
    "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime", "lazytime",
    "nolazytime", "iversion", "noiversion", "mand", "nomand", "silent", "loud", "symfollow", "default_permissions",
    "fsname", "subtype",
];
/// For programs that keep notes of their own in fstab (mount(8), systemd.mount(5)).
const NOTES: &[&str] = &["x-", "X-"];
/// Options of `pastfs mount` that make no sense in fstab: what they say stands elsewhere, or would hang the boot.
const NOT_HERE: &[&str] = &["repo", "options", "foreground", "help", "version", "json"];

/// A call as mount(8) makes it.
#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    repository: OsString,
    dir: OsString,
    options: Vec<OsString>,
    verbose: bool,
    /// Options that nobody knows are passed over (`-s`).
    sloppy: bool,
    /// All but the mounting itself is done (`-f`).
    pub fake: bool,
}

impl Call {
    /// Recognises a call of mount(8) by the name of the program, or of mount.fuse3(8) by its form: there is no
    /// command of that name, and options follow, or it is written as a path. `None` for all other calls.
    pub fn of(args: &[OsString], is_command: impl Fn(&str) -> bool) -> Option<Result<Self>> {
        let (program, rest) = args.split_first()?;
        let name = Path::new(program).file_name()?;
        if name.as_bytes().starts_with(b"mount.") {
            return Some(Self::parse(rest));
        }
        let first = rest.first()?.as_bytes();
        let plain = !first.starts_with(b"-") && !std::str::from_utf8(first).is_ok_and(is_command);
        let marked = first.contains(&b'/') || rest.iter().skip(2).any(|a| a.as_bytes().starts_with(b"-o"));
        (plain && marked && rest.len() > 1).then(|| Self::parse(rest))
    }

    fn parse(args: &[OsString]) -> Result<Self> {
        let usage = |what: String| {
            Error::misuse(what).hint("mount -t fuse.pastfs REPOSITORY DIR -o OPTIONS; see pastfs-mount(1)")
        };
        let mut places: Vec<&OsString> = Vec::new();
        let mut call = Self {
            repository: OsString::new(),
            dir: OsString::new(),
            options: Vec::new(),
            verbose: false,
            sloppy: false,
            fake: false,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let bytes = arg.as_bytes();
            if !bytes.starts_with(b"-") || bytes == b"-" {
                places.push(arg);
                continue;
            }
            for (at, letter) in bytes.iter().enumerate().skip(1) {
                // The rest of this argument is the value, or the next one.
                let mut value = || match &bytes[at + 1..] {
                    [] => args.next().cloned(),
                    rest => Some(OsString::from_vec(rest.to_vec())),
                };
                match letter {
                    b's' => call.sloppy = true,
                    b'f' => call.fake = true,
                    b'v' => call.verbose = true,
                    // No table of mounts is written; read-only and read-write are options as well.
                    b'n' | b'r' | b'w' => {}
                    b'o' | b't' => {
                        let value = value()
                            .ok_or_else(|| usage(format!("-{} needs a value", char::from(*letter))))?;
                        match letter {
                            b'o' => call.options.push(value),
                            _ if is_ours(&value) => {}
                            _ => return Err(usage(format!("{value:?} is not the type {TYPE}"))),
                        }
                        break;
                    }
                    _ => return Err(usage(format!("{arg:?} is no flag of a mount helper"))),
                }
            }
        }
        match places[..] {
            [repository, dir] => {
                let old_form = [TYPE.as_bytes(), b"#"].concat();
                let bytes = repository.as_bytes();
                let bytes = bytes.strip_prefix(old_form.as_slice()).unwrap_or(bytes);
                call.repository = OsStr::from_bytes(bytes).into();
                call.dir.clone_from(dir);
                Ok(call)
            }
            _ => Err(usage(format!("a repository and a folder are needed, and {} were given", places.len()))),
        }
    }

    /// The command line of the `pastfs mount` that does this.
    ///
    /// # Errors
    /// As [`long_options`].
    pub fn command_line(&self, command: &clap::Command) -> Result<Vec<OsString>> {
        let mut line: Vec<OsString> = vec![TYPE.into(), "mount".into()];
        let mut repository = OsString::from("--repo=");
        repository.push(&self.repository);
        line.push(repository);
        line.extend(self.verbose.then(|| "--verbose".into()));
        line.extend(long_options(command, &self.options, self.sloppy)?);
        line.extend(["--".into(), self.dir.clone()]);
        Ok(line)
    }
}

/// The exit code that mount(8) knows for one of ours: usage, interrupted, or the mount failed.
pub fn code_of(code: u8) -> u8 {
    match code {
        0 => 0,
        2 => 1,
        130 => 8,
        _ => 32,
    }
}

/// What stands behind `-o` as long options of `pastfs mount`. Of what is given twice the last counts, as in
/// mount(8).
///
/// # Errors
/// `Misuse` for what is not known (unless `sloppy`), lacks its value, or has one and takes none.
pub fn long_options(command: &clap::Command, given: &[OsString], sloppy: bool) -> Result<Vec<OsString>> {
    let mount = command.find_subcommand("mount").ok_or_else(|| Error::bug("there is no command mount"))?;
    let known: Vec<&clap::Arg> = mount
        .get_arguments()
        .chain(command.get_arguments())
        .filter(|a| a.get_long().is_some_and(|l| !NOT_HERE.contains(&l)))
        .collect();
    let mut found: Vec<(&clap::Arg, OsString)> = Vec::new();
    for text in given.iter().flat_map(|o| split(o.as_bytes())) {
        let shown = String::from_utf8_lossy(&text).into_owned();
        let (name, value) = match shown.find('=') {
            // Up to the first `=` there is no byte that is replaced, or it is no name of ours.
            Some(at) => (&shown[..at], text.get(at + 1..)),
            None => (shown.as_str(), None),
        };
        let long = name.replace('_', "-");
        match name {
            "remount" => {
                return Err(Error::misuse("a mounted repository cannot be remounted")
                    .hint("unmount it, then mount it with the other options"));
            }
            "password" => {
                return Err(Error::misuse(
                    "a password does not belong into the options, where all can read it",
                )
                .hint("write password_file=FILE or key_file=FILE, and let root alone read that file"));
            }
            "exec" => found.retain(|(a, _)| a.get_long() != Some("noexec")),
            _ if IGNORED.contains(&name) || NOTES.iter().any(|n| name.starts_with(n)) => {}
            _ => {
                let Some(arg) = known.iter().find(|a| a.get_long() == Some(&*long)) else {
                    if sloppy {
                        continue;
                    }
                    return Err(Error::misuse(format!("{name:?} is no mount option of {TYPE}")).hint(
                        "the long options of `pastfs mount` are, without their dashes; `pastfs mount --help` lists them",
                    ));
                };
                let mut option = OsString::from(format!("--{long}"));
                match (arg.get_action().takes_values(), value) {
                    (true, Some(value)) => {
                        option.push("=");
                        option.push(OsStr::from_bytes(value));
                    }
                    (false, None) => {}
                    (true, None) => {
                        return Err(Error::misuse(format!(
                            "the mount option {name} needs a value: {name}=…"
                        )));
                    }
                    (false, Some(_)) => {
                        return Err(Error::misuse(format!("the mount option {name} takes no value")));
                    }
                }
                if !matches!(arg.get_action(), clap::ArgAction::Append) {
                    found.retain(|(a, _)| a.get_id() != arg.get_id());
                }
                found.push((arg, option));
            }
        }
    }
    Ok(found.into_iter().map(|(_, option)| option).collect())
}

/// The command line with what stands behind `-o` put behind the word `mount` as long options.
///
/// # Errors
/// As [`long_options`].
pub fn expand(command: &clap::Command, args: &[OsString], given: &[OsString]) -> Result<Vec<OsString>> {
    // The word may also be the value of an option before it: it is the command where the line up to it makes sense.
    let is_mount = |i: &usize| {
        let line = args[..=*i].iter().cloned().chain(["--".into(), "/".into()]);
        args[*i] == "mount"
            && command.clone().try_get_matches_from(line).is_ok_and(|m| m.subcommand_name() == Some("mount"))
    };
    let at = (1..args.len()).find(is_mount).ok_or_else(|| Error::bug("the command mount is not found"))?;
    let options = long_options(command, given, false)?;
    Ok(args[..=at].iter().cloned().chain(options).chain(args[at + 1..].iter().cloned()).collect())
}

fn is_ours(kind: &OsStr) -> bool {
    [TYPE, "fuse", &format!("fuse.{TYPE}")].iter().any(|k| kind == *k)
}

/// Splits at commas, but for those behind a backslash, which also stands before itself.
fn split(text: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let escaped = (byte == b'\\').then(|| bytes.next_if(|b| matches!(b, b',' | b'\\'))).flatten();
        match (escaped, parts.last_mut()) {
            (None, _) if byte == b',' => parts.push(Vec::new()),
            (Some(byte), Some(part)) => part.push(byte),
            (None, Some(part)) => part.push(byte),
            (_, None) => {}
        }
    }
    parts.retain(|p| !p.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(words: &[&str]) -> Vec<OsString> {
        words.iter().map(Into::into).collect()
    }

    fn call(line: &str) -> Option<Result<Call>> {
        let args: Vec<&str> = line.split(' ').collect();
        Call::of(&os(&args), |word| ["mount", "backup", "help"].contains(&word))
    }

    fn line_of(line: &str) -> Vec<OsString> {
        call(line).unwrap().unwrap().command_line(&crate::cli::command()).unwrap()
    }

    fn options(text: &str) -> Result<Vec<OsString>> {
        long_options(&crate::cli::command(), &os(&[text]), false)
    }

    #[test]
    fn both_forms_of_a_mount_helper_become_a_mount() {
        let expected = os(&["pastfs", "mount", "--repo=/b/r", "--allow-other", "--", "/past"]);
        assert_eq!(line_of("/sbin/mount.fuse.pastfs /b/r /past -o rw,allow_other"), expected);
        assert_eq!(
            line_of("/sbin/mount.fuse.pastfs /b/r /past -sn -o rw,allow_other -t fuse.pastfs"),
            expected
        );
        assert_eq!(line_of("mount.fuse.pastfs -orw,allow_other pastfs#/b/r /past"), expected);
        assert_eq!(line_of("pastfs /b/r /past -o rw,allow_other,dev,suid"), expected);
        let relative = os(&["pastfs", "mount", "--repo=r", "--", "past"]);
        assert_eq!(line_of("/usr/bin/pastfs r past -o rw"), relative);
        assert!(call("mount.fuse.pastfs /b/r /past -f").unwrap().unwrap().fake);
    }

    #[test]
    fn other_command_lines_are_left_alone() {
        for line in [
            "pastfs",
            "pastfs mount /past -o ro",
            "pastfs backup /home",
            "pastfs -r /b mount /past",
            "pastfs x y",
        ] {
            assert!(call(line).is_none(), "{line}");
        }
        assert!(call("mount.fuse.pastfs /b/r").unwrap().is_err());
        assert!(call("mount.fuse.pastfs /b/r /past -o").unwrap().is_err());
        assert!(call("mount.fuse.pastfs /b/r /past -t ext4").unwrap().is_err());
        assert!(call("mount.fuse.pastfs /b/r /past -N 7").unwrap().is_err());
    }

    #[test]
    fn the_words_of_mount_and_systemd_change_nothing() {
        let all = "ro,defaults,noauto,nofail,user=ana,_netdev,x-systemd.automount,x-systemd.idle-timeout=60,\
                   comment=a b,nosuid,nodev,noatime,default_permissions,X-mount.mkdir";
        assert_eq!(options(all).unwrap(), os(&[]));
    }

    #[test]
    fn an_option_is_the_long_option_of_that_name() {
        assert_eq!(
            options("password_file=/etc/p,allow-other,names=%Y\\,{host},refresh=9").unwrap(),
            os(&["--password-file=/etc/p", "--allow-other", "--names=%Y,{host}", "--refresh=9"])
        );
        assert_eq!(
            options("cache=/a=b,,allow_other,allow_other").unwrap(),
            os(&["--cache=/a=b", "--allow-other"])
        );
        assert_eq!(options("refresh=1,refresh=2").unwrap(), os(&["--refresh=2"]));
        assert_eq!(options("noexec,exec").unwrap(), os(&[]));
        assert_eq!(options("exec,noexec").unwrap(), os(&["--noexec"]));
        let odd =
            long_options(&crate::cli::command(), &[OsString::from_vec(b"cache=/\xff\\\\".to_vec())], false);
        assert_eq!(odd.unwrap(), [OsString::from_vec(b"--cache=/\xff\\".to_vec())]);
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (text, word) in [
            ("uid=7", "\"uid\""),
            ("repo=/x", "\"repo\""),
            ("foreground", "\"foreground\""),
            ("allow_other=yes", "no value"),
            ("names", "needs a value"),
            ("remount", "remounted"),
            ("password=x", "all can read it"),
        ] {
            let e = options(text).unwrap_err();
            assert!(e.to_string().contains(word), "{text}: {e}");
            assert_eq!(code_of(crate::cli::ending::code_of(e.fault())), 1);
        }
        assert_eq!(
            long_options(&crate::cli::command(), &os(&["uid=7,noexec"]), true).unwrap(),
            os(&["--noexec"])
        );
    }

    #[test]
    fn options_of_the_command_itself_stand_behind_its_name() {
        let command = crate::cli::command();
        let args = os(&["pastfs", "-r", "mount", "-v", "mount", "mount", "-o", "noexec"]);
        let expected = os(&["pastfs", "-r", "mount", "-v", "mount", "--noexec", "mount", "-o", "noexec"]);
        assert_eq!(expand(&command, &args, &os(&["noexec"])).unwrap(), expected);
    }
}
