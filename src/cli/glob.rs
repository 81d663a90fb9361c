//! Patterns for names and paths, as the shell has them.

/// A pattern, over bytes: names need be no UTF-8, and what is none matches `?` byte by byte.
///
/// `*` is any text and `?` any character, but for `/`; `[a-z]` one of these and `[!a-z]` any other; `**` is any text
/// with `/`, and as a whole part of a path any number of folders, none as well; `\` takes the next character as it is.
#[derive(Clone, Debug)]
pub struct Glob {
    tokens: Vec<Token>,
    ignore_case: bool,
    /// It has a `/`: for whole paths.
    whole: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    One(Unit),
    /// `?`
    Any,
    /// `*`
    Text,
    /// `**`
    Everything,
    /// `**/` at the beginning of a part: between two parts, and within one that it passes over.
    Folders,
    Within,
    Class {
        not: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A character, or a byte that belongs to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Char(char),
    Byte(u8),
}

fn units(bytes: &[u8], ignore_case: bool) -> Vec<Unit> {
    let mut units = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match ignore_case {
                true => units.extend(c.to_lowercase().map(Unit::Char)),
                false => units.push(Unit::Char(c)),
            }
        }
        units.extend(chunk.invalid().iter().map(|b| Unit::Byte(*b)));
    }
    units
}

impl Glob {
    /// # Errors
    /// A line for people: it is empty, or a `[` has no end.
    pub fn new(pattern: &[u8], ignore_case: bool) -> Result<Self, String> {
        const SLASH: Unit = Unit::Char('/');
        let wrong = |why: &str| format!("the pattern {:?} {why}", String::from_utf8_lossy(pattern));
        if pattern.is_empty() {
            return Err("a pattern is empty".into());
        }
        let text = units(pattern, ignore_case);
        let whole = text.contains(&SLASH);
        let mut tokens = Vec::new();
        if whole && text.first() != Some(&SLASH) {
            // Below any folder. Paths begin with a slash.
            tokens.extend([Token::One(SLASH), Token::Folders, Token::Within]);
        }
        let mut at = 0;
        while let Some(unit) = text.get(at) {
            at += 1;
            match unit {
                Unit::Char('?') => tokens.push(Token::Any),
                Unit::Char('*') => {
                    let begins = tokens.last().is_none_or(|t| matches!(t, Token::One(SLASH) | Token::Within));
                    let stars = 1 + text[at..].iter().take_while(|u| **u == Unit::Char('*')).count();
                    at += stars - 1;
                    if stars > 1 && begins && text.get(at) == Some(&SLASH) {
                        tokens.extend([Token::Folders, Token::Within]);
                        at += 1;
                    } else {
                        tokens.push(if stars > 1 { Token::Everything } else { Token::Text });
                    }
                }
                Unit::Char('[') => {
                    let (class, len) = class(&text[at..]).ok_or_else(|| wrong("has a [ without an end"))?;
                    tokens.push(class);
                    at += len;
                }
                Unit::Char('\\') => {
                    let next = text.get(at).ok_or_else(|| wrong("ends with a backslash"))?;
                    tokens.push(Token::One(*next));
                    at += 1;
                }
                unit => tokens.push(Token::One(*unit)),
            }
        }
        Ok(Self { tokens, ignore_case, whole })
    }

    /// Whether it matches a file: by its absolute path where the pattern has a `/`, else by its name, the last part.
    pub fn matches(&self, path: &[u8]) -> bool {
        match self.whole {
            true => self.fits(path),
            false => self.fits(path.rsplit(|b| *b == b'/').next().unwrap_or_default()),
        }
    }

    /// All places in the pattern that the text so far can stand at go on together: no pattern takes longer than its
    /// length times the text's.
    fn fits(&self, text: &[u8]) -> bool {
        let end = self.tokens.len();
        let mut here = vec![false; end + 1];
        here[0] = true;
        self.skip(&mut here);
        for unit in units(text, self.ignore_case) {
            let slash = unit == Unit::Char('/');
            let mut next = vec![false; end + 1];
            for (at, token) in self.tokens.iter().enumerate().filter(|(at, _)| here[*at]) {
                match token {
                    Token::One(one) => next[at + 1] |= *one == unit,
                    Token::Any => next[at + 1] |= !slash,
                    Token::Text => next[at] |= !slash,
                    Token::Everything => next[at] = true,
                    Token::Folders if slash => next[at] = true,
                    Token::Folders => next[at + 1] = true,
                    Token::Within if slash => next[at - 1] = true,
                    Token::Within => next[at] = true,
                    Token::Class { not, ranges } => {
                        let is_in = match unit {
                            Unit::Char(c) => ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)),
                            Unit::Byte(_) => false,
                        };
                        next[at + 1] |= !slash && is_in != *not;
                    }
                }
            }
            self.skip(&mut next);
            here = next;
        }
        here[end]
    }

    /// Passes over what can match nothing.
    fn skip(&self, here: &mut [bool]) {
        for (at, token) in self.tokens.iter().enumerate() {
            match token {
                Token::Text | Token::Everything if here[at] => here[at + 1] = true,
                Token::Folders if here[at] => here[at + 2] = true,
                _ => {}
            }
        }
    }
}

/// What follows a `[`, and its length with the `]`.
fn class(text: &[Unit]) -> Option<(Token, usize)> {
    let not = matches!(text.first(), Some(Unit::Char('!' | '^')));
    let mut at = usize::from(not);
    let first = at;
    let mut ranges = Vec::new();
    loop {
        let letter = |at: &mut usize| -> Option<char> {
            if text.get(*at) == Some(&Unit::Char('\\')) {
                *at += 1;
            }
            *at += 1;
            match text.get(*at - 1)? {
                Unit::Char(c) => Some(*c),
                Unit::Byte(_) => None,
            }
        };
        if at > first && text.get(at) == Some(&Unit::Char(']')) {
            return Some((Token::Class { not, ranges }, at + 1));
        }
        let from = letter(&mut at)?;
        let is_range =
            text.get(at) == Some(&Unit::Char('-')) && text.get(at + 1).is_some_and(|u| *u != Unit::Char(']'));
        let to = if is_range {
            at += 1;
            letter(&mut at)?
        } else {
            from
        };
        ranges.push((from, to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, path: &str) -> bool {
        Glob::new(pattern.as_bytes(), false).unwrap().matches(path.as_bytes())
    }

    #[test]
    fn a_pattern_without_a_slash_is_for_the_name() {
        for (pattern, yes) in [
            ("report.odt", true),
            ("*.odt", true),
            ("*", true),
            ("r?port.*", true),
            ("rep", false),
            ("*ana*", false),
            ("[q-s]eport.[!p]dt", true),
            ("[!r]*", false),
            ("*e*o*t", true),
            ("r**t", true),
            ("\\*", false),
        ] {
            assert_eq!(fits(pattern, "/home/ana/report.odt"), yes, "{pattern}");
        }
        assert!(fits("\\*", "/a/*") && fits("[]]", "/]") && fits("[a-]", "/-") && fits("[\\]]", "/]"));
        assert!(fits("?", "/é") && !fits("??", "/é"));
    }

    #[test]
    fn a_pattern_with_a_slash_is_for_the_path() {
        for (pattern, yes) in [
            ("/home/ana/report.odt", true),
            ("/home/*/report.odt", true),
            ("/home/*", false),
            ("/home/**", true),
            ("/**/report.odt", true),
            ("/**/home/**/report.odt", true),
            ("/**/ome/ana/report.odt", false),
            ("ana/*.odt", true),
            ("na/*.odt", false),
            ("home/ana/report.odt", true),
            ("home/report.odt", false),
            ("/home?ana/report.odt", false),
            ("/home[!x]ana/report.odt", false),
            ("/home**odt", true),
        ] {
            assert_eq!(fits(pattern, "/home/ana/report.odt"), yes, "{pattern}");
        }
        assert!(fits("/**/x", "/x") && fits("a/b", "/a/b"));
    }

    #[test]
    fn case_can_be_ignored_and_names_need_be_no_text() {
        let ignoring = |p: &str, path: &[u8]| Glob::new(p.as_bytes(), true).unwrap().matches(path);
        assert!(
            ignoring("*.JPG", b"/x/A.jpg") && ignoring("é*", "/ÉA".as_bytes()) && ignoring("[A-C]", b"/b")
        );
        let raw = Glob::new(b"a\xff*", false).unwrap();
        assert!(raw.matches(b"/a\xff\xfe") && !raw.matches(b"/a\xfe"));
        assert!(Glob::new(b"a?", false).unwrap().matches(b"/a\xff"));
    }

    #[test]
    fn patterns_that_make_no_sense_are_refused_and_none_takes_long() {
        for bad in ["", "[", "[a", "[!", "x\\", "[a\\"] {
            assert!(Glob::new(bad.as_bytes(), false).is_err(), "{bad}");
        }
        let name = format!("/{}", "a".repeat(4000));
        assert!(!fits(&format!("{}b", "*a".repeat(100)), &name));
    }
}
