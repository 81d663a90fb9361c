//! The answers to PROPFIND (RFC 4918, 9.1 and 14): what lies in a folder.

use crate::clock::Time;
use crate::storage::place::decode;
use quick_xml::events::Event;
use quick_xml::reader::Reader;

/// One thing of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Member {
    /// Path on the server, decoded, without a slash at its end.
    pub(super) path: String,
    /// Whether it is a collection.
    pub(super) is_folder: bool,
    /// Length in bytes, where the server tells it.
    pub(super) size: Option<u64>,
    /// When it was written, where the server tells it.
    pub(super) modified: Option<Time>,
}

/// All that an answer tells, in its order.
///
/// # Errors
/// What is wrong with the XML, or with a number or date in it.
pub(super) fn parse(xml: &[u8]) -> Result<Vec<Member>, String> {
    let mut reader = Reader::from_reader(xml);
    let (mut members, mut member, mut text) = (Vec::new(), Member::default(), String::new());
    // Properties that could not be told come with a status of their own, and mostly empty.
    let mut is_whole = false;
    loop {
        match reader.read_event().map_err(|e| e.to_string())? {
            Event::Start(tag) => {
                text.clear();
                match tag.local_name().as_ref() {
                    "response" => member = Member::default(),
                    "multistatus" => is_whole = false,
                    _ => {}
                }
                member.is_folder |= tag.local_name().as_ref() == "collection";
            }
            Event::Empty(tag) => member.is_folder |= tag.local_name().as_ref() == "collection",
            Event::Text(part) => text.push_str(&part.xml10_content()),
            Event::CData(part) => text.push_str(&part),
            Event::GeneralRef(reference) => match reference.resolve_char_ref() {
                Ok(Some(c)) => text.push(c),
                _ => text.push_str(match &*reference {
                    "amp" => "&",
                    "lt" => "<",
                    "gt" => ">",
                    "quot" => "\"",
                    "apos" => "'",
                    _ => return Err("an unknown entity".into()),
                }),
            },
            Event::End(tag) => {
                let value = text.trim();
                match tag.local_name().as_ref() {
                    "href" if member.path.is_empty() => member.path = path_of(value),
                    "getcontentlength" if !value.is_empty() => {
                        member.size = Some(value.parse().map_err(|_| format!("{value:?} is no length"))?);
                    }
                    "getlastmodified" if !value.is_empty() => {
                        member.modified = Some(date(value).ok_or_else(|| format!("{value:?} is no date"))?);
                    }
                    "response" => members.push(std::mem::take(&mut member)),
                    "multistatus" => is_whole = true,
                    _ => {}
                }
                text.clear();
            }
            Event::Eof => break,
            _ => {}
        }
    }
    match is_whole {
        true => Ok(members),
        false => Err("it is no whole answer".into()),
    }
}

/// The path of a href, which may be a whole URL.
fn path_of(href: &str) -> String {
    let path = match href.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("", |slash| &rest[slash..]),
        None => href,
    };
    decode(path.trim_end_matches('/'))
}

/// A date of HTTP (RFC 9110, 5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(super) fn date(text: &str) -> Option<Time> {
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Time { seconds: at.as_second(), nanos: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_servers_are_read() {
        // Apache's, with nginx's way to write a folder, and a whole URL.
        let xml = br#"<?xml version="1.0" encoding="utf-8"?>
<D:multistatus xmlns:D="DAV:" xmlns:ns0="DAV:">
<D:response xmlns:lp1="DAV:"><D:href>/dav/a%20b/</D:href>
<D:propstat><D:prop><lp1:resourcetype><D:collection/></lp1:resourcetype>
<lp1:getlastmodified>Sun, 22 Nov 2026 01:02:03 GMT</lp1:getlastmodified></D:prop>
<D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>
<D:response><D:href>http://h:1/dav/x&amp;y</D:href><D:propstat><D:prop><D:resourcetype/>
<D:getcontentlength>12</D:getcontentlength></D:prop></D:propstat>
<D:propstat><D:prop><D:getlastmodified/></D:prop><D:status>HTTP/1.1 404 Not Found</D:status></D:propstat></D:response>
</D:multistatus>"#;
        let members = parse(xml).unwrap();
        let time = Some(Time { seconds: 1_795_309_323, nanos: 0 });
        assert_eq!(
            members[0],
            Member { path: "/dav/a b".into(), is_folder: true, size: None, modified: time }
        );
        assert_eq!(
            members[1],
            Member { path: "/dav/x&y".into(), is_folder: false, size: Some(12), modified: None }
        );
        assert_eq!(members.len(), 2);
    }

    #[test]
    fn what_is_no_whole_answer_is_none() {
        for xml in ["", "<html></html>", "<D:multistatus><D:response>", "no xml", "<D:multistatus>"] {
            assert!(parse(xml.as_bytes()).is_err(), "{xml}");
        }
        assert!(parse(b"<D:multistatus></D:multistatus>").unwrap().is_empty());
    }
}
