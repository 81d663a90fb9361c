//! `pastfs key export` and `pastfs key import`: a full key on paper.

use super::access::{Global, NewKey, label};
use super::ending::Exit;
use super::key;
use super::output::Output;
use super::progress::Progress;
use super::words;
use crate::clock::{self, Time};
use crate::fault::{Doing, Error, Result};
use crate::format::paper::{Paper, TEXT_MAX};
use crate::repository::{Repository, Right};
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use serde_json::json;
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use zeroize::Zeroizing;

/// Write the key in use on paper
///
/// Prints, in nine numbered lines and as a QR code, all that opens the repository: without any password, and also when
/// every key in the repository is gone. Print it (`pastfs key export --paper | lp`), and keep it where the repository is
/// not. Each line ends with digits that tell whether it was typed right. A full key is needed. After `pastfs key rotate` the
/// paper is of no use any more: print another.
#[derive(clap::Args)]
pub struct Export {
    /// As text and QR code for a printer; there is no other way yet
    #[arg(long, required = true)]
    paper: bool,
    /// Leave the QR code out
    #[arg(long)]
    no_qr: bool,
}

/// Add a key by what is on paper
///
/// Reads the lines, or what the QR code holds, and adds a full key: a password that is asked for, or the one that the
/// options name. No other password or key file is needed.
#[derive(clap::Args)]
pub struct Import {
    /// File with the lines as they were typed, or with what the QR code holds; `-` is the standard input
    #[arg(long, value_name = "FILE", required = true)]
    paper: Option<PathBuf>,
    #[command(flatten)]
    new: NewKey,
}

impl Export {
    pub fn run(self, global: &Global) -> Result<Exit> {
        let repository = global.open_plainly()?;
        repository.allow(Right::Manage, "writing a key on paper")?;
        let paper = repository.paper()?;
        let mut out = Output::open()?;
        if global.json {
            let told = json!({ "message_type": "paper_key", "lines": *paper.lines(), "code": *paper.code() });
            out.line(told.to_string())?;
            out.finish()?;
            return Ok(Exit::Done);
        }
        for line in head(&repository) {
            out.line(line)?;
        }
        out.line("")?;
        for line in paper.lines().iter() {
            out.line(format!("    {line}"))?;
        }
        if !self.no_qr {
            out.line("")?;
            for line in picture(&paper)?.lines() {
                out.line(line)?;
            }
        }
        out.finish()?;
        Ok(Exit::Done)
    }
}

fn head(repository: &Repository) -> Vec<String> {
    let now = words::local_time(Time { nanos: 0, ..clock::now() });
    let place = words::harmless(&repository.location());
    vec![
        format!("pastfs paper key of the repository in {place}, printed {now}"),
        "Whoever has this reads everything and deletes everything, without a password.".into(),
        "It is read back by: pastfs key import --paper FILE".into(),
    ]
}

/// Modules are dark on paper; on a terminal, which mostly is dark itself, light is what is printed.
fn picture(paper: &Paper) -> Result<Zeroizing<String>> {
    let code = QrCode::with_error_correction_level(paper.code().as_bytes(), EcLevel::M);
    let code = code.map_err(|e| Error::bug(format!("making a QR code: {e}")))?;
    let mut renderer = code.render::<Dense1x2>();
    if std::io::stdout().is_terminal() {
        renderer.dark_color(Dense1x2::Light).light_color(Dense1x2::Dark);
    }
    Ok(Zeroizing::new(renderer.build()))
}

impl Import {
    pub fn run(self, global: &Global) -> Result<Exit> {
        let path = self.paper.unwrap_or_default();
        let doing = || format!("reading a paper key from {}", path.display());
        let mut text = Zeroizing::new(String::with_capacity(TEXT_MAX + 1));
        let limit = TEXT_MAX as u64 + 1;
        match path.as_os_str() == "-" {
            true => std::io::stdin().take(limit).read_to_string(&mut text),
            false => File::open(&path).and_then(|f| f.take(limit).read_to_string(&mut text)),
        }
        .doing(doing)?;
        if text.len() > TEXT_MAX {
            return Err(Error::misuse(format!("{} is too long for a paper key", path.display())));
        }
        let paper = Paper::from_text(&text)?;
        let store = global.store()?;
        let observer = Progress::warnings(global);
        let credential = self.new.credential()?;
        let id = Repository::import(&*store, &paper, &credential, &label(b"from paper".to_vec()), &observer)?;
        // What was written is proven to open.
        global.open_with(store, &credential, observer)?;
        key::tell(global, "added", &id)
    }
}
