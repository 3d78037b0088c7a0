//! The quick way through an answer that is as it always is: one pass along its known shape, in which the
//! name that came next the last time is expected to come next again.
//!
//! It takes valid JSON of the known shape and gives up on anything else, so whatever it takes has no
//! findings, and what it hands out is what any other reader would find there.

use super::{Known, MAX_DEPTH, MAX_VALUE_BYTES, Type};

/// What the caller wants of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mark {
    #[default]
    None,
    /// To hear of each object or list that begins there.
    Begin(usize),
    /// The value, if it is not null: a text, a number or a flag, or an object or a list as a whole.
    Value(usize),
}

/// What stands at a marked path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Met<'a> {
    Begin(usize),
    /// As written.
    Value(usize, &'a str),
}

/// No node.
const NONE: usize = usize::MAX;

/// An object or list that is being walked.
struct Frame {
    node: usize,
    /// Where it begins.
    start: usize,
    is_object: bool,
    /// Members that are always there and were met.
    always: usize,
    /// Tells this object from all others of the answer.
    serial: u32,
    /// The member before; [`NONE`] at the beginning.
    before: usize,
}

/// What is remembered of a node during one walk.
#[derive(Clone, Copy)]
struct Memory {
    /// The node that came first within it the last time.
    first: usize,
    /// The node that came after it the last time.
    next: usize,
    /// The object in which it was last met.
    met_in: u32,
}

impl Known {
    /// Has what stands at `path` handed out by [`follow`](Self::follow). A path that is not known stays
    /// without: it would be a finding.
    pub(crate) fn mark(&mut self, path: &str, mark: Mark) {
        if let Some(node) = self.find(path) {
            self.nodes[node].mark = mark;
        }
    }

    /// Walks through an answer and hands out what stands at marked paths, in their order. Whether the answer
    /// is valid JSON, without a name that stands twice in an object, and as it is known: what was handed out
    /// says nothing otherwise, nor after `take` said no.
    pub(crate) fn follow<'a>(&self, text: &'a str, take: impl FnMut(Met<'a>) -> bool) -> bool {
        let memory = vec![Memory { first: NONE, next: NONE, met_in: 0 }; self.nodes.len()];
        let mut walk = Walk { known: self, text, bytes: text.as_bytes(), at: 0, memory, take };
        !self.nodes.is_empty() && walk.all().is_some()
    }
}

struct Walk<'k, 'a, F> {
    known: &'k Known,
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    memory: Vec<Memory>,
    take: F,
}

/// `None`: this is not the way.
impl<'a, F: FnMut(Met<'a>) -> bool> Walk<'_, 'a, F> {
    fn all(&mut self) -> Option<()> {
        let mut stack: Vec<Frame> = Vec::with_capacity(MAX_DEPTH);
        let mut serial = 0;
        self.blanks();
        let mut node = 0;
        loop {
            // At the beginning of a value of `node`.
            let start = self.at;
            match self.peek()? {
                open @ (b'{' | b'[') => {
                    let is_object = open == b'{';
                    self.check(node, if is_object { Type::Object } else { Type::List })?;
                    if stack.len() == MAX_DEPTH {
                        return None;
                    }
                    if let Mark::Begin(mark) = self.known.nodes[node].mark {
                        self.tell(Met::Begin(mark))?;
                    }
                    serial += 1;
                    self.at += 1;
                    stack.push(Frame { node, start, is_object, always: 0, serial, before: NONE });
                    self.blanks();
                    let closes = if is_object { b'}' } else { b']' };
                    if self.peek()? != closes {
                        node = self.enter(stack.last_mut()?)?;
                        continue;
                    }
                }
                _ => self.scalar(node)?,
            }
            // After a value, or before the end of something empty.
            loop {
                self.blanks();
                let Some(frame) = stack.last_mut() else {
                    return (self.at == self.bytes.len()).then_some(());
                };
                match (self.peek()?, frame.is_object) {
                    (b',', _) => {
                        self.at += 1;
                        self.blanks();
                        node = self.enter(frame)?;
                        break;
                    }
                    (b'}', true) | (b']', false) => {
                        self.at += 1;
                        let known = &self.known.nodes[frame.node];
                        if frame.is_object && frame.always != known.always {
                            return None;
                        }
                        if let Mark::Value(mark) = known.mark {
                            let value = &self.text[frame.start..self.at];
                            self.tell(Met::Value(mark, value))?;
                        }
                        stack.pop();
                    }
                    _ => return None,
                }
            }
        }
    }

    /// To the next value within an object or list; the node of it.
    fn enter(&mut self, frame: &mut Frame) -> Option<usize> {
        let node = if frame.is_object { self.name(frame)? } else { self.element(frame)? };
        if frame.is_object {
            if std::mem::replace(&mut self.memory[node].met_in, frame.serial) == frame.serial {
                return None;
            }
            frame.always += usize::from(self.known.nodes[node].is_always);
        }
        Some(node)
    }

    fn element(&mut self, frame: &Frame) -> Option<usize> {
        let guess = self.memory[frame.node].first;
        if guess != NONE {
            return Some(guess);
        }
        let node = *self.known.nodes[frame.node].children.get(&b"[]"[..])?;
        self.memory[frame.node].first = node;
        Some(node)
    }

    /// Over a name and its colon; the node of the member.
    fn name(&mut self, frame: &mut Frame) -> Option<usize> {
        if self.peek()? != b'"' {
            return None;
        }
        self.at += 1;
        let guess = match frame.before {
            NONE => self.memory[frame.node].first,
            before => self.memory[before].next,
        };
        let rest = &self.bytes[self.at..];
        let is_guessed = self.known.nodes.get(guess).is_some_and(|known| {
            let name = known.name.as_slice();
            rest.starts_with(name) && rest.get(name.len()) == Some(&b'"')
        });
        let node = if is_guessed {
            guess
        } else {
            let name = &rest[..rest.iter().position(|byte| *byte == b'"')?];
            let node = *self.known.nodes[frame.node].children.get(name)?;
            match frame.before {
                NONE => self.memory[frame.node].first = node,
                before => self.memory[before].next = node,
            }
            node
        };
        frame.before = node;
        self.at += self.known.nodes[node].name.len() + 1;
        self.blanks();
        if self.peek()? != b':' {
            return None;
        }
        self.at += 1;
        self.blanks();
        Some(node)
    }

    /// Over a text, a number, a flag or null.
    fn scalar(&mut self, node: usize) -> Option<()> {
        let start = self.at;
        let kind = match self.peek()? {
            b'"' => {
                self.string()?;
                Type::Text
            }
            b'n' => {
                self.word(b"null")?;
                return self.check(node, Type::Null);
            }
            b't' => {
                self.word(b"true")?;
                Type::Boolean
            }
            b'f' => {
                self.word(b"false")?;
                Type::Boolean
            }
            _ => {
                self.number()?;
                Type::Number
            }
        };
        self.check(node, kind)?;
        let (known, value) = (&self.known.nodes[node], &self.text[start..self.at]);
        let is_value = known.values.is_empty()
            || value.len() <= MAX_VALUE_BYTES && known.values.iter().any(|v| v == value.as_bytes());
        if !is_value {
            return None;
        }
        match known.mark {
            Mark::Value(mark) => self.tell(Met::Value(mark, value)),
            _ => Some(()),
        }
    }

    fn check(&self, node: usize, kind: Type) -> Option<()> {
        (self.known.nodes[node].allowed & kind.bit() != 0).then_some(())
    }

    fn tell(&mut self, met: Met<'a>) -> Option<()> {
        (self.take)(met).then_some(())
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.bytes[self.at..].starts_with(word).then(|| self.at += word.len())
    }

    fn string(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            let rest = &self.bytes[self.at..];
            self.at += rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => self.escape()?,
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<()> {
        let length = match self.bytes.get(self.at + 1)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
            b'u' => {
                let digits = self.bytes.get(self.at + 2..self.at + 6)?;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(6)?
            }
            _ => return None,
        };
        self.at += length;
        Some(())
    }

    fn number(&mut self) -> Option<()> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        // No number begins with a zero and a digit.
        let is_zero = self.peek()? == b'0';
        if self.digits()? > 1 && is_zero {
            return None;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    /// At least one.
    fn digits(&mut self) -> Option<usize> {
        let rest = &self.bytes[self.at..];
        let count = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        self.at += count;
        (count > 0).then_some(count)
    }
}
