//! One function for each decoder of `format`. All promise the same of any bytes: a value that encodes to
//! exactly these bytes again, or an error; never a panic.
//!
//! This module is part of the fuzzing targets and of the ordinary tests, which run it over all
//! corpora and over mutations of the test vectors.

use pastfs::format::cbor::{MapWriter, Reader, Writer};
use pastfs::format::config::Config;
use pastfs::format::epoch::{Earlier, Succession};
use pastfs::format::object::{self, Envelope, Kind, Signed};
use pastfs::format::pack::{self, Header, PackEntry, Table};
use pastfs::format::parity::{Description, Parity};
use pastfs::format::segment::{Retirement, Segment};
use pastfs::format::slot::{Certificate, Label, Secrets, Slot};
use pastfs::format::snapshot::{Lease, Manifest, Note, Private};
use pastfs::format::tree::{Content, Entry, ExtentPage, Page};

/// A name (of the target and of its corpus) and the function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("cbor", cbor),
    ("entry", entry),
    ("page", page),
    ("extent_page", extent_page),
    ("config", config),
    ("slot", slot),
    ("secrets", secrets),
    ("label", label),
    ("certificate", certificate),
    ("earlier", earlier),
    ("succession", succession),
    ("signed", signed),
    ("envelope", envelope),
    ("pack_header", pack_header),
    ("pack_table", pack_table),
    ("pack_trailer", pack_trailer),
    ("pack_entry", pack_entry),
    ("parity", parity),
    ("segment", segment),
    ("retirement", retirement),
    ("manifest", manifest),
    ("private", private),
    ("note", note),
    ("lease", lease),
];

/// Any item: what is accepted is what the writer writes for the same values.
pub fn cbor(data: &[u8]) {
    let mut r = Reader::new(data);
    if let Ok(item) = r.item() {
        assert_eq!(item.len() + r.left(), data.len());
        let mut w = Writer::new();
        copy(&mut Reader::new(item), &mut w);
        assert_eq!(w.finish(), item);
    }
}

/// Reads one item value by value and writes it again.
fn copy(r: &mut Reader<'_>, w: &mut Writer) {
    const ACCEPTED: &str = "the item was accepted as a whole";
    let mut ahead = r.clone();
    let item = ahead.item().expect(ACCEPTED);
    match item[0] >> 5 {
        0 => drop(w.unsigned(r.unsigned().expect(ACCEPTED))),
        1 => match r.clone().integer() {
            Ok(value) => {
                w.integer(value);
                *r = ahead;
            }
            // Below what 64 bits hold with a sign: kept in unknown fields only.
            Err(_) => drop(w.raw(r.item().expect(ACCEPTED))),
        },
        2 => drop(w.bytes(r.bytes(usize::MAX).expect(ACCEPTED))),
        4 => {
            let len = r.array().expect(ACCEPTED);
            w.array(len);
            for _ in 0..len {
                copy(r, w);
            }
        }
        5 => {
            let mut fields = r.map().expect(ACCEPTED);
            let mut m = MapWriter::new();
            while let Some(key) = fields.next(r).expect(ACCEPTED) {
                copy(r, m.field(key));
            }
            m.finish_into(w);
        }
        7 => drop(w.boolean(r.boolean().expect(ACCEPTED))),
        major => panic!("major type {major} was accepted"),
    }
}

/// One entry of a folder.
pub fn entry(data: &[u8]) {
    let mut r = Reader::new(data);
    if let Ok(entry) = Entry::decode(&mut r) {
        let mut w = Writer::new();
        entry.encode_into(&mut w);
        assert_eq!(w.finish(), data[..data.len() - r.left()]);
    }
}

/// A page of a folder.
pub fn page(data: &[u8]) {
    if let Ok(page) = Page::decode(data) {
        assert_eq!(page.encode(), data);
        if let Page::Leaf(entries) = page {
            let mut w = Writer::new();
            entries.iter().for_each(|e| e.encode_into(&mut w));
            assert_eq!(Page::encode_leaf(entries.len(), &w.finish()), data);
        }
    }
}

/// A page of a long file.
pub fn extent_page(data: &[u8]) {
    if let Ok(page) = ExtentPage::decode(data) {
        assert_eq!(page.encode(), data);
        assert!(Content::Extents(page.extents).len().is_ok(), "the sum is checked");
    }
}

macro_rules! targets {
    ($($(#[$doc:meta])* $name:ident: $type:ty;)*) => {$(
        $(#[$doc])*
        pub fn $name(data: &[u8]) {
            if let Ok(value) = <$type>::decode(data) {
                assert_eq!(value.encode(), data);
            }
        }
    )*};
}

targets! {
    /// The body of a config.
    config: Config;
    /// What lies in the secrets of a slot.
    secrets: Secrets;
    /// What opens an earlier epoch.
    earlier: Earlier;
    /// The word of one authority for the next.
    succession: Succession;
    /// The label of a slot.
    label: Label;
    /// A body with its signature.
    signed: Signed;
    /// The table of a pack.
    pack_table: Table;
    /// What the index says of a pack.
    pack_entry: PackEntry;
    /// The body of a segment.
    segment: Segment;
    /// The end of a pack.
    retirement: Retirement;
    /// The body of a manifest.
    manifest: Manifest;
    /// Its private part.
    private: Private;
    /// The body of a note.
    note: Note;
    /// The body of a lease.
    lease: Lease;
}

/// A key slot, and what its sealed parts are bound to.
pub fn slot(data: &[u8]) {
    if let Ok(slot) = Slot::decode(data) {
        assert_eq!(slot.encode(), data);
        assert!(data[1..].starts_with(&slot.associated()[1..]), "the plain fields are the first six");
    }
}

/// A certificate with its signature.
pub fn certificate(data: &[u8]) {
    if let Ok((certificate, signed)) = Certificate::open(data) {
        assert_eq!(certificate.encode(), signed.body);
        assert_eq!(signed.encode(), data);
    }
}

/// The head of a sealed object.
pub fn envelope(data: &[u8]) {
    const KINDS: [Kind; 8] = [
        Kind::Config,
        Kind::Slot,
        Kind::Pack,
        Kind::Segment,
        Kind::Manifest,
        Kind::Note,
        Kind::Lease,
        Kind::Parity,
    ];
    let mut kinds = 0;
    for kind in KINDS {
        if let Ok(rest) = object::body(kind, data) {
            kinds += 1;
            assert_eq!([&object::head(kind)[..], rest].concat(), data);
        }
        if let Ok(e) = Envelope::decode(kind, data) {
            assert_eq!([&Envelope::head(kind, e.epoch)[..], e.sealed].concat(), data);
        }
    }
    assert!(kinds <= 1, "an object is of one kind");
}

/// The header of a pack.
pub fn pack_header(data: &[u8]) {
    if let Ok((header, len)) = Header::decode(data) {
        assert_eq!(header.encode(), data[..len]);
    }
}

/// What heals a pack.
pub fn parity(data: &[u8]) {
    if let Ok(start) = Description::of_object(data) {
        assert!(data[8..].starts_with(&start.encode()));
    }
    if let Ok(read) = Parity::decode(data) {
        let d = read.description;
        assert_eq!(data.len(), d.object_len());
        assert_eq!(read.parts().count(), d.parts.1 as usize);
        assert!(read.sum((d.parts.0 + d.parts.1) as usize - 1).is_some());
        assert!(read.sum((d.parts.0 + d.parts.1) as usize).is_none());
    }
}

/// The last bytes of a pack.
fn pack_trailer(data: &[u8]) {
    if let Ok((table_len, frames)) = pack::decode_trailer(data) {
        assert!(data.ends_with(&pack::trailer(table_len, frames)));
    }
}
