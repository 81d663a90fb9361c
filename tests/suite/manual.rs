//! The manual pages of the commands are those that the command line itself makes.
//!
//! `PASTFS_BLESS=1 cargo test --release manual` (or `make man`) writes them anew.

use clap_mangen::Man;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("man")
}

/// File name and text of the pages of `command` and of all below it.
fn pages(command: &clap::Command, into: &mut BTreeMap<String, String>) {
    for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        pages(below, into);
    }
    let exit_codes: Vec<(u8, &str)> = pastfs::cli::EXIT_CODES.to_vec();
    let man = Man::new(command.clone()).manual("pastfs");
    let mut page = Vec::new();
    man.render_title(&mut page).unwrap();
    man.render_name_section(&mut page).unwrap();
    man.render_synopsis_section(&mut page).unwrap();
    man.render_description_section(&mut page).unwrap();
    man.render_options_section(&mut page).unwrap();
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page).unwrap();
    }
    let mut page = String::from_utf8(page).unwrap();
    page.push_str(".SH \"EXIT STATUS\"\n");
    for (code, meaning) in exit_codes {
        page.push_str(&format!(".TP\n.B {code}\n{meaning}\n"));
    }
    page.push_str(".SH \"SEE ALSO\"\n.BR pastfs (1),\n.BR pastfs-repository (5)\n");
    into.insert(man.get_filename(), page);
}

fn all_pages() -> BTreeMap<String, String> {
    let mut command = pastfs::cli::command().disable_help_subcommand(true);
    command.build();
    let mut all = BTreeMap::new();
    pages(&command, &mut all);
    all
}

fn is_ours(name: &str) -> bool {
    name.starts_with("pastfs") && name.ends_with(".1")
}

#[test]
fn manual_pages_are_fresh() {
    let pages = all_pages();
    if std::env::var_os("PASTFS_BLESS").is_some() {
        std::fs::create_dir_all(folder()).unwrap();
        for (name, text) in &pages {
            std::fs::write(folder().join(name), text).unwrap();
        }
    }
    for (name, text) in &pages {
        let there = std::fs::read_to_string(folder().join(name)).unwrap_or_default();
        assert!(there == *text, "man/{name} is not what the command line says: run `make man`");
    }
    for file in std::fs::read_dir(folder()).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(!is_ours(&name) || pages.contains_key(&name), "man/{name} belongs to no command: delete it");
    }
}

#[test]
fn every_command_has_a_page_that_names_its_exit_codes() {
    let pages = all_pages();
    for name in ["pastfs.1", "pastfs-backup.1", "pastfs-key-passwd.1", "pastfs-mount.1", "pastfs-umount.1"] {
        let page = pages.get(name).unwrap_or_else(|| panic!("no {name} among {:?}", pages.keys()));
        assert!(page.contains(".B 130\ninterrupted"), "{name}");
    }
}
