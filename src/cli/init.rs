//! `pastfs init`.

use super::access::{Ask, Global, label};
use super::ending::Exit;
use super::output;
use crate::fault::Result;
use crate::parity::PERCENT_MAX;
use crate::repository::{InitOptions, Repository};
use crate::seal;
use crate::storage;
use serde_json::json;

/// Make a new repository
///
/// The folder is made if it is not there (a bucket is not), and must be empty. With --key-file, the key file is made if it is not
/// there: 32 random bytes that only its owner can read. Without its key nobody can read a repository: keep a
/// copy of the password or key file somewhere else.
#[derive(clap::Args)]
pub struct Init {
    /// How data is encrypted; aes256gcm is faster where the processor has AES instructions
    #[arg(long, value_enum, default_value_t = Cipher::Xchacha20)]
    cipher: Cipher,
    /// Store so much more with each pack, 1% to 100% of it, that damage to as much of it heals by itself: flipped bits, and
    /// sectors that cannot be read. It makes up for no pack that is missing, and for no second copy
    #[arg(long, value_name = "P%", value_parser = parse_parity)]
    parity: Option<u8>,
}

fn parse_parity(text: &str) -> std::result::Result<u8, String> {
    let percent = text.strip_suffix('%').unwrap_or(text).parse().ok();
    percent
        .filter(|p| (1..=PERCENT_MAX).contains(p))
        .ok_or_else(|| format!("{text:?} is no share from 1% to {PERCENT_MAX}%"))
}

#[derive(clap::ValueEnum, Clone, Copy)]
enum Cipher {
    /// XChaCha20-Poly1305
    Xchacha20,
    /// AES-256-GCM
    Aes256gcm,
}

impl Init {
    pub fn run(self, global: &Global) -> Result<Exit> {
        // Before the password is asked for: a folder in use is refused first.
        let store = storage::create(&global.place()?, &Repository::FIRST_FOLDERS, &global.reach()?)?;
        Repository::may_begin(&*store)?;
        let credential = global.credential(Ask::Twice)?;
        let cipher = match self.cipher {
            Cipher::Xchacha20 => seal::Cipher::XChaCha20Poly1305,
            Cipher::Aes256gcm => seal::Cipher::Aes256Gcm,
        };
        let id = Repository::init(
            &store,
            &credential,
            &InitOptions { cipher, parity: self.parity.unwrap_or(0), label: label(Vec::new()) },
        )?;
        if global.json {
            let line = json!({
                "message_type": "initialized",
                "id": id.hex(),
                "repository": store.location(),
            });
            output::line(line.to_string())?;
        } else if !global.quiet {
            output::line(format!("repository {} made in {}", id.short(), store.location()))?;
            output::line(
                "Without its password or key file nobody can read it: keep a copy of that elsewhere.",
            )?;
        }
        Ok(Exit::Done)
    }
}
