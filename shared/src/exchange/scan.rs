//! The structure of JSON over bytes: what begins and ends where.
//!
//! It looks at brackets, quotes and commas only, so it tells the parts of an answer apart also where one
//! of them is no valid JSON (`NaN`, bytes that are no text, a control character): the part is refused
//! then, and its neighbours are not. Without recursion, and bounded in depth.

/// Deepest nesting that is followed: ten times that of any answer.
const MAX_DEPTH: usize = 100;

/// The structure can't be told: cut, nested too deep, brackets that don't match.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Torn {
    #[error("ends within a text or before its brackets are closed")]
    Cut,
    #[error("is no {0}")]
    Kind(&'static str),
    #[error("has brackets that do not match at byte {0}")]
    Brackets(usize),
    #[error("is nested deeper than {MAX_DEPTH}")]
    Deep,
    #[error("has a member without a name at byte {0}")]
    Nameless(usize),
    #[error("goes on after its end at byte {0}")]
    Trailing(usize),
    #[error("has more than {0} parts")]
    Many(usize),
}

/// What the bytes are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// `{` or `[`.
    Open(u8),
    /// `}` or `]`.
    Close(u8),
    Colon,
    Comma,
    /// Between its quotes, escapes as written.
    Text(&'a [u8]),
    /// Anything else, up to the next blank or bracket: a number, `true`, `NaN`.
    Bare(&'a [u8]),
}

/// The tokens of some bytes.
pub(crate) struct Tokens<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Where the next token is looked for.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    fn text(&mut self) -> Option<Token<'a>> {
        let start = self.at + 1;
        let mut at = start;
        while let Some(&byte) = self.bytes.get(at) {
            match byte {
                b'"' => {
                    self.at = at + 1;
                    return Some(Token::Text(&self.bytes[start..at]));
                }
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
        // It never ends.
        self.at = self.bytes.len();
        None
    }

    fn bare(&mut self) -> Token<'a> {
        let rest = &self.bytes[self.at..];
        let ends = |byte: &u8| {
            matches!(byte, b'{' | b'}' | b'[' | b']' | b':' | b',' | b'"') || is_blank(*byte)
        };
        let length = rest.iter().position(ends).unwrap_or(rest.len());
        self.at += length;
        Token::Bare(&rest[..length])
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        while self.bytes.get(self.at).copied().is_some_and(is_blank) {
            self.at += 1;
        }
        let one = |tokens: &mut Self, token| {
            tokens.at += 1;
            Some(token)
        };
        match *self.bytes.get(self.at)? {
            byte @ (b'{' | b'[') => one(self, Token::Open(byte)),
            byte @ (b'}' | b']') => one(self, Token::Close(byte)),
            b':' => one(self, Token::Colon),
            b',' => one(self, Token::Comma),
            b'"' => self.text(),
            _ => Some(self.bare()),
        }
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// A member of an object: its name as written, its value as it stands.
pub(crate) type Member<'a> = (&'a [u8], &'a [u8]);

/// The members of an object. At most `most`.
pub(crate) fn members(bytes: &[u8], most: usize) -> Result<Vec<Member<'_>>, Torn> {
    let mut members = Vec::new();
    parts(bytes, b'{', most, |start, part| {
        let mut tokens = Tokens::new(part);
        match (tokens.next(), tokens.next()) {
            (Some(Token::Text(name)), Some(Token::Colon)) => {
                members.push((name, part[tokens.at()..].trim_ascii()));
                Ok(())
            }
            _ => Err(Torn::Nameless(start)),
        }
    })?;
    Ok(members)
}

/// The elements of a list, as they stand. At most `most`.
pub(crate) fn elements(bytes: &[u8], most: usize) -> Result<Vec<&[u8]>, Torn> {
    let mut elements = Vec::new();
    parts(bytes, b'[', most, |_, part| {
        elements.push(part);
        Ok(())
    })?;
    Ok(elements)
}

/// Hands out what stands between the commas of the outermost brackets, which must be of the kind `open`
/// and surround everything.
fn parts<'a>(
    bytes: &'a [u8],
    open: u8,
    most: usize,
    mut take: impl FnMut(usize, &'a [u8]) -> Result<(), Torn>,
) -> Result<(), Torn> {
    let mut tokens = Tokens::new(bytes);
    if tokens.next() != Some(Token::Open(open)) {
        return Err(Torn::Kind(if open == b'{' { "object" } else { "list" }));
    }
    let (mut stack, mut start, mut count) = (vec![open], tokens.at(), 0);
    let mut part = |start: usize, end: usize, is_last: bool| {
        let part = bytes[start..end].trim_ascii();
        // Empty brackets have no parts.
        if part.is_empty() && is_last && count == 0 {
            return Ok(());
        }
        count += 1;
        if count > most {
            return Err(Torn::Many(most));
        }
        take(start, part)
    };
    while let Some(token) = tokens.next() {
        let before = tokens.at().saturating_sub(1);
        match token {
            Token::Open(_) if stack.len() == MAX_DEPTH => return Err(Torn::Deep),
            Token::Open(kind) => stack.push(kind),
            Token::Close(kind) => {
                // In ASCII a bracket of either kind closes two after it opens.
                if stack.pop().is_none_or(|open| open + 2 != kind) {
                    return Err(Torn::Brackets(before));
                }
                if stack.is_empty() {
                    part(start, before, true)?;
                    let rest = &bytes[tokens.at()..];
                    return match rest.iter().position(|byte| !is_blank(*byte)) {
                        Some(more) => Err(Torn::Trailing(tokens.at() + more)),
                        None => Ok(()),
                    };
                }
            }
            Token::Comma if stack.len() == 1 => {
                part(start, before, false)?;
                start = tokens.at();
            }
            _ => {}
        }
    }
    Err(Torn::Cut)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(bytes: &[u8]) -> Result<Vec<String>, Torn> {
        let text = |part: &&[u8]| String::from_utf8_lossy(part).into_owned();
        Ok(elements(bytes, 10)?.iter().map(text).collect())
    }

    #[test]
    fn parts_are_told_apart_whatever_they_hold() {
        let list = b" [ {\"a\":\"],\\\"\"} , NaN,\"\xff\",[1,[2]] ] ";
        assert_eq!(texts(list).unwrap(), [r#"{"a":"],\""}"#, "NaN", "\"\u{fffd}\"", "[1,[2]]"]);
        let members = members(br#"{"a" : 1, "b":{"c":[2,3]}}"#, 10).unwrap();
        assert_eq!(members, [(&b"a"[..], &b"1"[..]), (b"b", br#"{"c":[2,3]}"#)]);
        assert_eq!(texts(b"[]").unwrap(), [""; 0]);
    }

    #[test]
    fn what_has_no_whole_structure_is_told() {
        assert_eq!(texts(b"[1,2"), Err(Torn::Cut));
        assert_eq!(texts(b"[\"1,2]"), Err(Torn::Cut));
        assert_eq!(texts(b"[1}"), Err(Torn::Brackets(2)));
        assert_eq!(texts(b"[1] 2"), Err(Torn::Trailing(4)));
        assert_eq!(texts(b"{}"), Err(Torn::Kind("list")));
        assert_eq!(texts(&b"[".repeat(1_000_000)), Err(Torn::Deep));
        assert_eq!(texts(&b"1,".repeat(20)), Err(Torn::Kind("list")));
        assert_eq!(texts(b"[1,1,1,1,1,1,1,1,1,1,1]"), Err(Torn::Many(10)));
        assert_eq!(members(b"{1:2}", 9), Err(Torn::Nameless(1)));
    }

    proptest! {
        /// Every list that is JSON has the parts that it has for everybody.
        #[test]
        fn lists_are_read_as_by_others(items in prop::collection::vec(".{0,9}", 0..6)) {
            let json = serde_json::to_vec(&items).unwrap();
            let read = texts(&json).unwrap();
            let items: Vec<_> = items.iter().map(|item| serde_json::to_string(item).unwrap()).collect();
            prop_assert_eq!(read, items);
        }

        #[test]
        fn any_bytes_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            elements(&bytes, 10).ok();
            members(&bytes, 10).ok();
        }
    }
}
