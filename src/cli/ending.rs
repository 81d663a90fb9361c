//! How a command ends: exit codes, and errors as people and machines read them.

use super::output;
use super::words;
use crate::fault::{Error, Fault};
use serde_json::json;
use std::error::Error as _;
use std::io::Write;

/// The exit codes, as every command's help and manual page show them. The numbers are restic's
/// where restic has them.
pub const EXIT_CODES: &[(u8, &str)] = &[
    (0, "done"),
    (1, "failed; find: nothing matches; diff --exit-code: there are differences"),
    (2, "usage: the command line makes no sense, nothing was done"),
    (3, "done, but some of the source data was not read (restore: not written; replicate: not copied)"),
    (4, "findings: something in the repository is damaged"),
    (10, "there is no repository"),
    (12, "wrong password or key file"),
    (130, "interrupted"),
];

/// [`EXIT_CODES`] as a paragraph of help.
pub fn exit_codes_help() -> String {
    let mut text = String::from("Exit codes:");
    for (code, meaning) in EXIT_CODES {
        text.push_str(&format!("\n  {code:>3}  {meaning}"));
    }
    text
}

/// A command that did its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All of it.
    Done,
    /// All of it, and the answer is no.
    No,
    /// All but what could not be read or written.
    Partly,
    /// All but what is damaged in the repository.
    Damaged,
    /// What another process, started for this work, ended with.
    As(u8),
}

impl Exit {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::No => 1,
            Exit::Partly => 3,
            Exit::Damaged => 4,
            Exit::As(code) => code,
        }
    }
}

/// The exit code of a failure.
pub fn code_of(fault: Fault) -> u8 {
    match fault {
        Fault::Misuse => 2,
        Fault::Damaged => 4,
        Fault::NoRepository => 10,
        Fault::WrongKey => 12,
        Fault::Stopped => 130,
        Fault::Missing
        | Fault::Denied
        | Fault::Busy
        | Fault::Full
        | Fault::Newer
        | Fault::Io
        | Fault::Bug => 1,
    }
}

/// What to do next where the error itself brings no advice.
fn hint_of(fault: Fault) -> Option<&'static str> {
    match fault {
        Fault::NoRepository => {
            Some("make one with `pastfs init -r DIR`, or name the right place by -r or PASTFS_REPOSITORY")
        }
        Fault::WrongKey => {
            Some("any of the repository's passwords and key files will do; is this the right repository?")
        }
        Fault::Newer => Some("install a newer pastfs: this one would misread what it does not know"),
        Fault::Denied => Some("run it as a user who may do that; reading files of all users takes root"),
        Fault::Full => {
            Some("make room and run it again: what was stored is kept, and the next run goes on from there")
        }
        Fault::Busy => Some("try again in a while"),
        Fault::Damaged => Some(
            "nothing wrong was handed out. Check the disk; other files and snapshots can still be read, and another \
             copy of the repository may have this part whole. `pastfs check` tells what is hit, and how it is mended",
        ),
        Fault::Bug => Some("this is a defect of pastfs: please report it with this message"),
        Fault::Missing | Fault::Misuse | Fault::Stopped | Fault::Io => None,
    }
}

/// Tells a failure on the standard error output and gives its exit code.
pub fn report(error: &Error, json: bool) -> u8 {
    let code = code_of(error.fault());
    if output::reader_left() {
        // Nobody reads our output any more, as in `pastfs ls latest | head`: end as others do there.
        let _ = signal_hook::low_level::emulate_default_handler(libc::SIGPIPE);
        return code;
    }
    let hint = error.advice().or_else(|| hint_of(error.fault()));
    let mut causes = Vec::new();
    let mut at = error.source();
    while let Some(cause) = at {
        causes.push(cause.to_string());
        at = cause.source();
    }
    let text = if json {
        let line = json!({
            "message_type": "error",
            "code": code,
            "fault": format!("{:?}", error.fault()),
            "message": error.to_string(),
            "causes": causes,
            "hint": hint,
        });
        format!("{line}\n")
    } else {
        plain(&error.to_string(), &causes, hint)
    };
    // With the standard error output closed there is nobody left to tell.
    let _ = std::io::stderr().write_all(text.as_bytes());
    code
}

fn plain(headline: &str, causes: &[String], hint: Option<&str>) -> String {
    let mut text = format!("Error: {}\n", words::harmless(headline));
    for cause in causes {
        text.push_str(&format!("Caused by: {}\n", words::harmless(cause)));
    }
    if let Some(hint) = hint {
        text.push_str(&format!("Hint: {}\n", words::harmless(hint)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_that_a_command_can_end_with_is_in_the_help() {
        let all = [
            Fault::Missing,
            Fault::Damaged,
            Fault::Denied,
            Fault::Busy,
            Fault::Full,
            Fault::Misuse,
            Fault::Stopped,
            Fault::NoRepository,
            Fault::WrongKey,
            Fault::Newer,
            Fault::Io,
            Fault::Bug,
        ];
        let codes = all.into_iter().map(code_of).chain([Exit::Done.code(), Exit::Partly.code()]);
        for code in codes {
            assert!(EXIT_CODES.iter().any(|(c, _)| *c == code), "{code}");
        }
        assert!(exit_codes_help().contains("\n   12  wrong password"));
    }

    #[test]
    fn an_error_reads_as_headline_causes_and_hint() {
        let causes = ["reading config/1 from /b".to_string(), "no\x1b[2Jsuch file".to_string()];
        assert_eq!(
            plain("opening the repository", &causes, Some("look elsewhere")),
            "Error: opening the repository\nCaused by: reading config/1 from /b\n\
             Caused by: no\\e[2Jsuch file\nHint: look elsewhere\n"
        );
    }
}
