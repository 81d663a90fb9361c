//! The plan of the house: a room uses only the floors below it, and each foreign crate of weight is named
//! behind one door alone. Read from the sources, so that a short cut fails here and not in a review.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// From the ground up. On floor 0 each room may use those before it; on all others rooms do not know each other.
const FLOORS: &[(&str, &[&str])] = &[
    ("ground", &["id", "fault", "clock", "moment", "event", "gauge", "memory", "config", "format"]),
    ("hands", &["source", "chunk", "seal", "parity", "storage", "uncached"]),
    ("shelves", &["pack", "index", "tree"]),
    ("the repository", &["repository", "history"]),
    ("verbs", &["backup", "check", "mount", "prune", "repair", "replicate", "restore", "retention", "stats"]),
    ("the command line", &["cli"]),
];

/// Foreign crates and the only rooms that may name them. `main` and `lib` are the files of that name.
const DOORS: &[(&str, &[&str])] = &[
    ("argon2", &["seal"]),
    ("chacha20", &["seal"]),
    ("chacha20poly1305", &["seal"]),
    ("hpke", &["seal"]),
    ("ring", &["seal"]),
    ("zstd", &["seal"]),
    ("opendal", &["storage"]),
    ("reqwest", &["storage"]),
    ("tokio", &["storage"]),
    ("openssh_sftp_client", &["storage"]),
    ("rustls", &["storage"]),
    ("futures_util", &["storage"]),
    ("http", &["storage"]),
    ("quick_xml", &["storage"]),
    ("rocksdb", &["index"]),
    ("fuser", &["mount"]),
    ("fastcdc", &["chunk"]),
    ("reed_solomon_simd", &["parity"]),
    ("clap", &["cli", "main"]),
    ("qrcode", &["cli"]),
    ("rpassword", &["cli"]),
    ("serde", &["config"]),
    ("serde_json", &["cli"]),
    ("signal_hook", &["cli"]),
    ("tar", &["restore"]),
    ("toml", &["config"]),
];

/// What only the command line may do.
const PRINTING: &[&str] = &["println!", "eprintln!", "print!", "eprint!", "dbg!"];

struct Source {
    file: PathBuf,
    /// First part of its path below `src`, without `.rs`.
    room: String,
    /// Its text without comments and the contents of strings.
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut sources) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let file = entry.unwrap().path();
            if file.is_dir() {
                folders.push(file);
            } else if file.extension().is_some_and(|e| e == "rs") {
                let below = file.strip_prefix(&root).unwrap().with_extension("");
                let room = below.iter().next().unwrap().to_str().unwrap().to_string();
                let code = code_of(&std::fs::read_to_string(&file).unwrap());
                sources.push(Source { file, room, code });
            }
        }
    }
    assert!(sources.len() > 10, "there are hardly any sources in {}", root.display());
    sources
}

/// Takes comments and what is between quotes away; ends of lines stay.
fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut i = 0;
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    while i < chars.len() {
        match (at(i), at(i + 1)) {
            ('/', '/') => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            ('/', '*') => {
                while i < chars.len() && (at(i), at(i + 1)) != ('*', '/') {
                    i += 1;
                }
                i += 2;
            }
            ('r', '"' | '#')
                if !at(i.wrapping_sub(1)).is_alphanumeric() && raw_hashes(&chars, i).is_some() =>
            {
                let hashes = raw_hashes(&chars, i).unwrap_or(0);
                i += hashes + 2;
                let end = |i: usize| at(i) == '"' && (1..=hashes).all(|k| at(i + k) == '#');
                while i < chars.len() && !end(i) {
                    i += 1;
                }
                i += hashes + 1;
                code.push_str("\"\"");
            }
            ('"', _) => {
                i += 1;
                while i < chars.len() && at(i) != '"' {
                    i += if at(i) == '\\' { 2 } else { 1 };
                }
                i += 1;
                code.push_str("\"\"");
            }
            // A character, not a lifetime.
            ('\'', '\\') => {
                i += 3;
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            }
            ('\'', _) if at(i + 2) == '\'' => i += 3,
            (c, _) => {
                code.push(c);
                i += 1;
            }
        }
    }
    code
}

fn raw_hashes(chars: &[char], r: usize) -> Option<usize> {
    let hashes = chars[r + 1..].iter().take_while(|c| **c == '#').count();
    (chars.get(r + 1 + hashes) == Some(&'"')).then_some(hashes)
}

/// The names that follow `crate::`, also within braces.
fn rooms_used(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, found) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c == '$' || is_word(c)) {
            continue;
        }
        let rest = code[at + found.len()..].trim_start();
        match rest.strip_prefix('{') {
            None => drop(used.insert(first_word(rest))),
            Some(group) => {
                let (mut depth, mut item) = (1, String::new());
                for c in group.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 1 => drop(used.insert(first_word(std::mem::take(&mut item).trim()))),
                        _ if depth == 1 => item.push(c),
                        _ => {}
                    }
                    if depth == 0 {
                        used.insert(first_word(item.trim()));
                        break;
                    }
                }
            }
        }
    }
    used.remove("");
    used
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| is_word(*c)).collect()
}

/// Whether `name` is used as the root of a path: `name::`, `use name;`, `use {name}`, and not `x::name` or `self.name`.
/// A module of that name which was brought in from one of our own rooms is none.
fn names_crate(code: &str, name: &str) -> bool {
    let ours = code.split("use crate::").skip(1).filter_map(|rest| rest.split(';').next());
    if ours.flat_map(|import| import.split(|c| !is_word(c))).any(|word| word == name) {
        return false;
    }
    code.match_indices(name).any(|(at, _)| {
        let (before, after) = (code[..at].trim_end(), &code[at + name.len()..]);
        let whole = !code[..at].chars().next_back().is_some_and(is_word)
            && !after.chars().next().is_some_and(is_word);
        let rooted = !before.ends_with("::") && !before.ends_with('.') || before.ends_with(" ::");
        let path = after.trim_start().starts_with("::");
        let import = before.ends_with("use") || before.ends_with("extern crate");
        whole && rooted && (path || import)
    })
}

fn place(room: &str) -> Option<(usize, usize)> {
    FLOORS
        .iter()
        .enumerate()
        .find_map(|(floor, (_, rooms))| Some((floor, rooms.iter().position(|r| *r == room)?)))
}

/// Why `room` must not use `other`, if so.
fn objection(room: &str, other: &str) -> Option<String> {
    let (Some((floor, nth)), Some((other_floor, other_nth))) = (place(room), place(other)) else {
        return None;
    };
    match () {
        () if room == other || other_floor < floor => None,
        () if other_floor > floor => {
            Some(format!("{other} lies above it, on the floor of {}", FLOORS[other_floor].0))
        }
        () if floor == 0 && other_nth < nth => None,
        () if floor == 0 => {
            Some(format!("on the ground a room uses only those before it, and {other} comes later"))
        }
        () => Some(format!("{other} lies beside it, on the floor of {}", FLOORS[floor].0)),
    }
}

#[test]
fn every_room_stands_on_a_floor() {
    for source in sources() {
        let known = place(&source.room).is_some() || ["lib", "main"].contains(&source.room.as_str());
        assert!(known, "{} is a room that no floor has: add it to the plan", source.file.display());
    }
}

#[test]
fn rooms_use_only_the_floors_below_them() {
    let mut wrong = Vec::new();
    for source in sources() {
        for other in rooms_used(&source.code) {
            if let Some(why) = objection(&source.room, &other) {
                wrong.push(format!("{} uses crate::{other}: {why}", source.file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn foreign_crates_are_named_behind_their_one_door() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (name, rooms) in DOORS {
            if !rooms.contains(&source.room.as_str()) && names_crate(&source.code, name) {
                wrong.push(format!(
                    "{} names {name}, whose door is {}",
                    source.file.display(),
                    rooms.join(", ")
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn nothing_but_the_command_line_prints() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| s.room != "cli" && !s.file.ends_with("tests.rs")) {
        // Unit tests stand at the end of a file, or in one of their own, and may print.
        let code = source.code.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        for print in PRINTING {
            let own_word = |at: usize| !code[..at].chars().next_back().is_some_and(is_word);
            if code.match_indices(print).any(|(at, _)| own_word(at)) {
                wrong.push(format!("{} uses {print}", source.file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn the_program_itself_is_short() {
    let main = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/main.rs")).unwrap();
    assert!(main.lines().count() < 40);
}

/// A canary: were these checks to see nothing, they would pass for ever.
#[test]
fn the_checks_see_what_they_must() {
    assert_eq!(code_of("a // crate::x\n\"cr\\\"ate::y\" /* z */ 'c' r#\"q\"r\"# b"), "a \n\"\"   \"\" b");
    assert_eq!(code_of("fn f<'a>(x: &'a str) -> char { '\\'' }"), "fn f<'a>(x: &'a str) -> char {  }");
    let used = rooms_used(
        "use crate::cli::x; crate::{index::{a, b}, mount}; $crate::macros; pub(in crate::tree) fn f()",
    );
    assert_eq!(used.into_iter().collect::<Vec<_>>(), ["cli", "index", "mount", "tree"]);
    assert!(names_crate("use rocksdb::DB;", "rocksdb") && names_crate("let x = ring::aead::f();", "ring"));
    assert!(!names_crate("use crate::ring::x; self.ring.push(); spring::x(); let ring = 1;", "ring"));
    assert!(!names_crate("use crate::seal::{hpke, sign};\nhpke::seal();", "hpke"));
    assert!(objection("index", "cli").is_some() && objection("index", "tree").is_some());
    assert!(objection("id", "fault").is_some() && objection("fault", "id").is_none());
    assert!(objection("cli", "mount").is_none() && objection("mount", "mount").is_none());
}
