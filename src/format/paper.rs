//! A full key on paper: what opens a repository when every slot is gone, in lines that somebody types back.
//!
//! ```text
//! bytes = version 1 (1) ‖ epoch (u32le) ‖ repository id (32) ‖ root secret (32) ‖ id secret (32) ‖ index key (32) ‖ sum (11)
//! line  = its number, from 1 ‖ 16 bytes in hexadecimal ‖ sum (2)
//! code  = "PASTFS1" ‖ all bytes in hexadecimal, upper case: for a QR code, whose alphanumeric mode has no lower case
//! ```
//!
//! Sums are beginnings of BLAKE3 hashes: of a line, of its number and its bytes, so that a slip of the finger is found where
//! it is; of all, of what is before it.

use crate::fault::{Error, Fault, Result};
use crate::id::{RepositoryId, hex};
use zeroize::{Zeroize, Zeroizing};

/// The version that this program writes and reads.
const VERSION: u8 = 1;
/// Bytes of a line.
const LINE_LEN: usize = 16;
/// Lines.
const LINES: usize = 9;
/// Bytes of the sum of a line.
const LINE_SUM: usize = 2;
const FIELDS_LEN: usize = 1 + 4 + 4 * 32;
const LEN: usize = LINES * LINE_LEN;
const CODE: &str = "PASTFS1";
/// Longest text that is read, in bytes: the lines, and prose around them.
pub const TEXT_MAX: usize = 64 << 10;

/// What a paper key holds. Wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Paper {
    /// Which repository it opens.
    pub repository: RepositoryId,
    /// Epoch of the keys.
    pub epoch: u32,
    /// All that full keys need follows from it.
    pub root: [u8; 32],
    /// Names chunks.
    pub id_secret: [u8; 32],
    /// Seals segments and manifests.
    pub index_key: [u8; 32],
}

impl Drop for Paper {
    fn drop(&mut self) {
        self.root.zeroize();
        self.id_secret.zeroize();
        self.index_key.zeroize();
    }
}

impl std::fmt::Debug for Paper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Paper(..)")
    }
}

impl Paper {
    fn bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(LEN));
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        for part in [&self.repository.0, &self.root, &self.id_secret, &self.index_key] {
            bytes.extend_from_slice(part);
        }
        let sum = blake3::hash(&bytes);
        bytes.extend_from_slice(&sum.as_bytes()[..LEN - FIELDS_LEN]);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (fields, sum) = bytes
            .split_at_checked(FIELDS_LEN)
            .filter(|_| bytes.len() == LEN)
            .ok_or_else(|| wrong("the paper key has another length"))?;
        if blake3::hash(fields).as_bytes()[..sum.len()] != *sum {
            return Err(wrong("the lines of the paper key are not of one paper"));
        }
        let Some((&VERSION, rest)) = fields.split_first() else {
            let text = format!("the paper key is of version {}", fields.first().copied().unwrap_or_default());
            return Err(Error::new(Fault::Newer, text));
        };
        let (epoch, rest) = rest.split_first_chunk::<4>().ok_or_else(|| wrong("it is cut off"))?;
        let (parts, _) = rest.as_chunks::<32>();
        let [repository, root, id_secret, index_key] = *parts else { return Err(wrong("it is cut off")) };
        let (repository, epoch) = (RepositoryId(repository), u32::from_le_bytes(*epoch));
        Ok(Self { repository, epoch, root, id_secret, index_key })
    }

    /// The lines, as they are printed.
    pub fn lines(&self) -> Zeroizing<Vec<String>> {
        let bytes = self.bytes();
        let line = |(n, part): (usize, &[u8])| {
            let groups: Vec<String> = part.chunks(2).map(hex).collect();
            format!("{}  {}  {}", n + 1, groups.join(" "), hex(&sum(n + 1, part)))
        };
        Zeroizing::new(bytes.chunks(LINE_LEN).enumerate().map(line).collect())
    }

    /// What a QR code holds.
    pub fn code(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{CODE}{}", hex(&self.bytes()).to_ascii_uppercase()))
    }

    /// Reads what was typed or scanned: the lines, in any order, with whatever else is on the paper, or the code.
    ///
    /// # Errors
    /// `Misuse`, with the line that is wrong.
    pub fn from_text(text: &str) -> Result<Self> {
        let mut lines: [Option<[u8; LINE_LEN]>; LINES] = [None; LINES];
        for row in text.lines() {
            let plain: Zeroizing<String> = Zeroizing::new(row.chars().filter(|c| !is_space(*c)).collect());
            if let Some(digits) = plain.to_ascii_uppercase().strip_prefix(CODE) {
                let bytes = unhex(digits).ok_or_else(|| wrong("the code is no code of a paper key"))?;
                return Self::from_bytes(&bytes);
            }
            let Some((number, digits)) = numbered(row) else { continue };
            let bytes = line(number, &digits)?;
            match &mut lines[number - 1] {
                Some(before) if *before != bytes => {
                    return Err(wrong(&format!("there are two different lines {number}")));
                }
                place => *place = Some(bytes),
            }
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(LEN));
        for (at, line) in lines.iter().enumerate() {
            let missing = || wrong(&format!("line {} of {LINES} is missing", at + 1));
            bytes.extend_from_slice(line.as_ref().ok_or_else(missing)?);
        }
        lines.zeroize();
        Self::from_bytes(&bytes)
    }
}

fn wrong(what: &str) -> Error {
    Error::misuse(format!("reading a paper key: {what}"))
        .hint("type the lines as they are printed, each with its number and the four digits at its end")
}

fn sum(number: usize, part: &[u8]) -> [u8; LINE_SUM] {
    let hash = blake3::hash(&[&[number as u8], part].concat());
    let mut sum = [0; LINE_SUM];
    sum.copy_from_slice(&hash.as_bytes()[..LINE_SUM]);
    sum
}

/// What people put between groups of digits.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '-' | '|' | ':' | '.')
}

/// The number of a row that looks like a line, and its digits. Prose is none.
fn numbered(row: &str) -> Option<(usize, Zeroizing<String>)> {
    let row = row.trim();
    let (number, rest) = row.split_once(is_space)?;
    let number = number.parse::<usize>().ok().filter(|n| (1..=LINES).contains(n))?;
    // Letters that are taken for digits.
    let digit = |c: char| match c {
        'o' | 'O' => '0',
        'l' | 'I' | 'i' => '1',
        c => c,
    };
    let digits: String = rest.chars().filter(|c| !is_space(*c)).map(digit).collect();
    Some((number, Zeroizing::new(digits)))
}

fn line(number: usize, digits: &str) -> Result<[u8; LINE_LEN]> {
    let expected = 2 * (LINE_LEN + LINE_SUM);
    let bytes = unhex(digits).filter(|b| b.len() == LINE_LEN + LINE_SUM).ok_or_else(|| {
        wrong(&format!(
            "line {number} must have {expected} digits, 0 to 9 and a to f, and has {}",
            digits.chars().count()
        ))
    })?;
    let (part, own) = bytes.split_at(LINE_LEN);
    let misspelt =
        || wrong(&format!("line {number} is misspelt: the digits at its end do not fit the others"));
    if sum(number, part) != *own {
        return Err(misspelt());
    }
    part.try_into().map_err(|_| misspelt())
}

fn unhex(digits: &str) -> Option<Zeroizing<Vec<u8>>> {
    let digit = |d: u8| char::from(d).to_digit(16).map(|d| d as u8);
    let (pairs, odd) = digits.as_bytes().as_chunks::<2>();
    if !odd.is_empty() {
        return None;
    }
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[a, b]| Some(digit(*a)? << 4 | digit(*b)?)).collect();
    bytes.map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paper() -> Paper {
        let counting = |first: u8| std::array::from_fn(|i| first + i as u8);
        Paper {
            repository: RepositoryId(counting(0)),
            epoch: 1,
            root: counting(0x20),
            id_secret: counting(0x40),
            index_key: counting(0x60),
        }
    }

    fn refused(text: &str, says: &str) {
        let e = Paper::from_text(text).unwrap_err();
        assert!(e.to_string().contains(says), "{e} does not say {says:?}");
        assert_eq!(e.fault(), Fault::Misuse);
    }

    /// These lines stand in the description of the format.
    #[test]
    fn a_paper_key_is_these_lines_for_ever() {
        let lines = [
            "1  0101 0000 0000 0102 0304 0506 0708 090a  b3d0",
            "2  0b0c 0d0e 0f10 1112 1314 1516 1718 191a  9d4d",
            "3  1b1c 1d1e 1f20 2122 2324 2526 2728 292a  1e00",
            "4  2b2c 2d2e 2f30 3132 3334 3536 3738 393a  2b1f",
            "5  3b3c 3d3e 3f40 4142 4344 4546 4748 494a  c505",
            "6  4b4c 4d4e 4f50 5152 5354 5556 5758 595a  8739",
            "7  5b5c 5d5e 5f60 6162 6364 6566 6768 696a  61ea",
            "8  6b6c 6d6e 6f70 7172 7374 7576 7778 797a  5052",
            "9  7b7c 7d7e 7ffa 742e 4d96 97a1 7c9f f6f3  705c",
        ];
        assert_eq!(paper().lines().as_slice(), lines);
    }

    #[test]
    fn what_is_typed_or_scanned_comes_back() {
        let lines = paper().lines();
        let plain = lines.join("\n");
        let mut upside_down: Vec<&str> = lines.iter().map(String::as_str).collect();
        upside_down.reverse();
        let typed = plain.to_uppercase().replace("  ", ": ").replace('0', "O");
        for text in [
            plain.clone(),
            upside_down.join("\r\n\n"),
            format!("pastfs paper key\n\nRepository 00\n{plain}\n{plain}\n2026 was the year\n"),
            typed,
            paper().code().to_string(),
            format!("scanned:\n {} \n", *paper().code()),
        ] {
            assert_eq!(Paper::from_text(&text).unwrap(), paper(), "{text}");
        }
    }

    #[test]
    fn the_line_that_is_wrong_is_named() {
        let lines = paper().lines();
        let without = |n: usize| {
            let left = lines.iter().enumerate().filter(|(at, _)| *at != n);
            left.map(|(_, l)| l.clone()).collect::<Vec<_>>().join("\n")
        };
        refused("", "line 1 of 9 is missing");
        refused(&without(6), "line 7 of 9 is missing");
        let other = Paper { epoch: 2, ..paper() };
        refused(&[without(0), other.lines()[0].clone()].join("\n"), "not of one paper");
        refused(&[lines.join("\n"), other.lines()[0].clone()].join("\n"), "two different lines 1");
        refused(&[without(2), format!("{} 0", lines[2])].join("\n"), "line 3 must have 36 digits");
        // Whichever digit is changed, and whichever two are swapped.
        for at in 0..lines[3].len() {
            let mut line = lines[3].clone().into_bytes();
            if line[at] == b' ' || at == 0 {
                continue;
            }
            line[at] = if line[at] == b'7' { b'8' } else { b'7' };
            let text = [without(3), String::from_utf8(line).unwrap()].join("\n");
            refused(&text, "line 4 is misspelt");
        }
        refused("PASTFS10", "no code");
        refused("PASTFS100", "another length");
    }

    #[test]
    fn any_text_is_read_or_refused() {
        let lines = paper().lines().join("\n");
        for at in 0..lines.len() {
            let _ = (Paper::from_text(&lines[..at]), Paper::from_text(&lines[at..]));
        }
        for text in ["1", "1 é", "0 00", "10 00", "1 -", "PASTFS1", "PASTFS1é", "\u{130}1 00"] {
            assert!(Paper::from_text(text).is_err());
        }
    }
}
