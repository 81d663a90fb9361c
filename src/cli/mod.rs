//! The command line: words, JSON, exit codes. Nothing else prints.
//!
//! One file per command, whose doc comments are its help and its manual page. What they share:
//! [`access`] (global options, passwords, opening), [`ending`] (exit codes, errors, hints),
//! [`fstab`] (calls by mount(8)), [`log`] (in the background), [`output`], [`progress`], [`select`] (which snapshot is
//! meant), [`timeline`] (all of them together), [`words`] (units, times, names).

mod access;
mod backup;
mod cat;
mod check;
mod daemon;
mod diff;
mod ending;
mod export;
mod find;
mod forget;
mod fstab;
mod glob;
mod init;
mod key;
mod leases;
mod log;
mod ls;
mod mount;
mod output;
mod paper;
mod progress;
mod prune;
mod repair;
mod repair_from;
mod replicate;
mod restore;
mod select;
mod snapshots;
mod stats;
mod tag;
mod timeline;
mod umount;
mod versions;
mod words;
mod yesterday;

pub use ending::EXIT_CODES;

use access::Global;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use ending::Exit;
use std::ffi::OsString;
use std::io::Write;

/// Deduplicating, encrypted backups that are a file system
///
/// pastfs saves folders into a repository: encrypted, and each piece of data once. Mounted, the repository
/// shows every snapshot as a folder named by its date, so that a restore is `cp` and going back in time is `cd`.
#[derive(Parser)]
#[command(name = "pastfs", version, max_term_width = 110, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Init(init::Init),
    #[command(subcommand)]
    Key(key::Key),
    Backup(Box<backup::Backup>),
    Snapshots(snapshots::Snapshots),
    Ls(ls::Ls),
    Cat(cat::Cat),
    Export(export::Export),
    Versions(versions::Versions),
    Find(find::Find),
    Diff(diff::Diff),
    Yesterday(yesterday::Yesterday),
    Mount(mount::Mount),
    Umount(umount::Umount),
    Restore(restore::Restore),
    Check(check::Check),
    #[command(subcommand)]
    Repair(repair::Repair),
    Replicate(replicate::Replicate),
    Tag(tag::Tag),
    Forget(forget::Forget),
    Prune(prune::Prune),
    Leases(leases::Leases),
    Stats(stats::Stats),
}

/// The whole command line with the exit codes in each command's help; manual pages are made from it.
pub fn command() -> clap::Command {
    fn with_exit_codes(command: clap::Command) -> clap::Command {
        command.after_help(ending::exit_codes_help()).mut_subcommands(with_exit_codes)
    }
    with_exit_codes(Cli::command())
}

/// Runs the program: parses the arguments of this process, does what they say, tells how it ended.
pub fn main() -> ! {
    // First of all, as there is only one thread yet.
    let passwords = access::take_passwords();
    access::without_core_dumps();
    let command = command();
    let args: Vec<OsString> = std::env::args_os().collect();
    let is_command = |word: &str| word == "help" || command.find_subcommand(word).is_some();
    let code = match fstab::Call::of(&args, is_command) {
        None => run(command, &args, passwords, false),
        Some(call) => fstab::code_of(match call.and_then(|c| Ok((c.command_line(&command)?, c.fake))) {
            Ok((line, fake)) => run(command, &line, passwords, fake),
            Err(error) => ending::report(&error, false),
        }),
    };
    leave(code)
}

/// Ends the process at once. By `exit(3)` the destructors of RocksDB's statics would run, while a thread that fetches ahead
/// may still be on its way out of RocksDB: met as `pthread lock: Invalid argument` and an abort behind work that was done.
fn leave(code: u8) -> ! {
    // As Rust does it at the end; with the output closed there is nobody left to tell.
    let _ = std::io::stdout().flush();
    // SAFETY: _exit(2) only ends the process. All values of ours were dropped, and what was written is in the kernel.
    unsafe { libc::_exit(code.into()) }
}

/// Gives the exit code; nothing is done where it is all `fake`.
fn run(command: clap::Command, args: &[OsString], passwords: access::Passwords, fake: bool) -> u8 {
    let parse = |args: &[OsString]| {
        let mut matches = command.clone().try_get_matches_from(args)?;
        Cli::from_arg_matches_mut(&mut matches)
    };
    let parsed = parse(args).map(|cli| match &cli.verb {
        Verb::Mount(mount) if !mount.options.is_empty() => {
            fstab::expand(&command, args, &mount.options).map(|args| parse(&args))
        }
        _ => Ok(Ok(cli)),
    });
    let cli = match parsed {
        Ok(Ok(Ok(cli))) => cli,
        Ok(Err(error)) => return ending::report(&error, false),
        // --help and --version as well, which end with 0.
        Ok(Ok(Err(e))) | Err(e) => {
            // With the output closed there is nobody left to tell.
            let _ = e.print();
            return u8::try_from(e.exit_code()).unwrap_or(2);
        }
    };
    if fake {
        return Exit::Done.code();
    }
    let global = cli.global.with_passwords(passwords);
    let result = match cli.verb {
        Verb::Init(verb) => verb.run(&global),
        Verb::Key(verb) => verb.run(&global),
        Verb::Backup(verb) => verb.run(&global),
        Verb::Snapshots(verb) => verb.run(&global),
        Verb::Ls(verb) => verb.run(&global),
        Verb::Cat(verb) => verb.run(&global),
        Verb::Export(verb) => verb.run(&global),
        Verb::Versions(verb) => verb.run(&global),
        Verb::Find(verb) => verb.run(&global),
        Verb::Diff(verb) => verb.run(&global),
        Verb::Yesterday(verb) => verb.run(&global),
        Verb::Mount(verb) => verb.run(&global),
        Verb::Umount(verb) => verb.run(&global),
        Verb::Restore(verb) => verb.run(&global),
        Verb::Check(verb) => verb.run(&global),
        Verb::Repair(verb) => verb.run(&global),
        Verb::Replicate(verb) => verb.run(&global),
        Verb::Tag(verb) => verb.run(&global),
        Verb::Forget(verb) => verb.run(&global),
        Verb::Prune(verb) => verb.run(&global),
        Verb::Leases(verb) => verb.run(&global),
        Verb::Stats(verb) => verb.run(&global),
    };
    match result {
        Ok(exit) => exit.code(),
        Err(error) => ending::report(&error, global.json),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn every_command_tells_its_exit_codes() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("130  interrupted"), "{}", command.get_name());
            command.get_subcommands().for_each(check);
        }
        check(&command());
    }

    #[test]
    fn no_option_takes_a_password_as_an_argument() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments() {
                let long = arg.get_long().unwrap_or_default();
                assert!(!long.ends_with("password"), "{} --{long}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&command());
    }

    #[test]
    fn what_the_benchmarks_call_is_understood() {
        let id = "3f".repeat(32);
        for line in [
            "pastfs init -q".to_string(),
            "pastfs backup -q --tag src1 /data/src1".into(),
            "pastfs snapshots --json --tag src1".into(),
            "pastfs mount --foreground --names {id} /mnt".into(),
            format!("pastfs restore -q {id} --target /tmp/x"),
        ] {
            let parsed = command().try_get_matches_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }
}
