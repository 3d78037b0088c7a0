//! The shape of an answer: which paths it has, with which JSON types; and what differs from the known one.
//!
//! One pass over the bytes, without recursion and without building values, bounded in paths, depth and
//! the length of names. A list is the path `[]`, whatever its length; so a page of twenty ads has the
//! paths of one. Bytes that are no JSON are walked too: what is no value has the type `invalid`.

mod follow;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

pub(crate) use self::follow::{Mark, Met};

use super::scan::{Token, Tokens};

/// Most paths of an answer that are told apart: four times those of a page of 2026.
const MAX_PATHS: usize = 1_000;
/// Deepest path that is followed.
const MAX_DEPTH: usize = 16;
/// Longest name that is kept whole, in bytes; the longest known has 41.
const MAX_NAME_BYTES: usize = 64;
/// Longest path that is told, in bytes.
const MAX_PATH_BYTES: usize = 600;
/// Different values of a field with few values that one answer can show.
const MAX_VALUES: usize = 20;
/// Longest such value.
const MAX_VALUE_BYTES: usize = 64;
/// Longest sample that is kept.
const MAX_SAMPLE_BYTES: usize = 300;
/// Most differences of one answer that are told.
const MAX_FINDINGS: usize = 100;

/// The type of a JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Type {
    Null,
    Boolean,
    Number,
    Text,
    List,
    Object,
    /// No JSON at all, such as `NaN`.
    Invalid,
}

impl Type {
    pub const ALL: [Self; 7] = [
        Self::Null,
        Self::Boolean,
        Self::Number,
        Self::Text,
        Self::List,
        Self::Object,
        Self::Invalid,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "boolean",
            Self::Number => "number",
            Self::Text => "text",
            Self::List => "list",
            Self::Object => "object",
            Self::Invalid => "invalid",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }

    fn of_bare(token: &[u8]) -> Self {
        match token {
            b"null" => Self::Null,
            b"true" | b"false" => Self::Boolean,
            [b'-' | b'0'..=b'9', ..] => Self::Number,
            _ => Self::Invalid,
        }
    }
}

/// How an answer differs from the known shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// A path that is not known. Only the topmost: what is within it is new with it.
    New,
    /// A field lacks that is always there.
    Missing,
    /// A known path with another type.
    Retyped,
    /// A field that has few values has another one.
    Value,
}

impl Change {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Missing => "missing",
            Self::Retyped => "retyped",
            Self::Value => "value",
        }
    }
}

/// One difference between an answer and the known shape of its call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub path: String,
    pub change: Change,
    /// The type found; `None`: missing.
    pub found: Option<Type>,
    /// The value found, as written; `None`: it is not about a value.
    pub value: Option<String>,
    /// The beginning of what stands there; of what is missing, of an object that should have it.
    pub sample: Vec<u8>,
}

/// A path of an answer.
struct Node<'a> {
    /// As written, at most [`MAX_NAME_BYTES`]; `[]` below a list.
    name: &'a [u8],
    children: Vec<usize>,
    /// Times that anything stood there.
    seen: usize,
    /// Where each type first stood.
    types: [Option<usize>; Type::ALL.len()],
    /// Times that an object stood there.
    objects: usize,
    /// What stood there, if it is a field with few values.
    values: Option<Vec<&'a [u8]>>,
}

/// The shape of one answer.
pub struct Shape<'a> {
    bytes: &'a [u8],
    nodes: Vec<Node<'a>>,
    /// Whether everything was seen: no bound was met, and the answer is whole.
    is_whole: bool,
}

/// An object or list that is being walked.
struct Frame {
    /// `None`: not told apart.
    node: Option<usize>,
    is_object: bool,
    /// The member whose name was read.
    member: Option<usize>,
    /// Whether a member's value is expected.
    at_value: bool,
    /// The child that comes next, if the order is that of the object before.
    next: usize,
}

impl<'a> Shape<'a> {
    /// Fields named so are looked at for their values.
    #[must_use]
    pub fn of(bytes: &'a [u8], with_values: &[&str]) -> Self {
        let mut shape = Self { bytes, nodes: Vec::with_capacity(256), is_whole: true };
        shape.add(b"", with_values);
        shape.walk(with_values);
        shape
    }

    fn add(&mut self, name: &'a [u8], with_values: &[&str]) -> usize {
        let has_values = with_values.iter().any(|field| field.as_bytes() == name);
        self.nodes.push(Node {
            name,
            children: Vec::new(),
            seen: 0,
            types: [None; Type::ALL.len()],
            objects: 0,
            values: has_values.then(Vec::new),
        });
        self.nodes.len() - 1
    }

    /// The child of that name, made if it is new and there is room.
    fn child(&mut self, frame: &mut Frame, name: &'a [u8], with_values: &[&str]) -> Option<usize> {
        let name = &name[..name.len().min(MAX_NAME_BYTES)];
        let parent = frame.node?;
        let children = &self.nodes[parent].children;
        let is_it = |&&child: &&usize| self.nodes[child].name == name;
        if let Some(&child) = children.get(frame.next).filter(is_it) {
            frame.next += 1;
            return Some(child);
        }
        if let Some(at) = children.iter().position(|child| is_it(&child)) {
            frame.next = at + 1;
            return Some(children[at]);
        }
        if self.nodes.len() == MAX_PATHS {
            self.is_whole = false;
            return None;
        }
        frame.next = children.len() + 1;
        let child = self.add(name, with_values);
        self.nodes[parent].children.push(child);
        Some(child)
    }

    fn walk(&mut self, with_values: &[&str]) {
        let mut tokens = Tokens::new(self.bytes);
        let mut stack: Vec<Frame> = Vec::with_capacity(MAX_DEPTH);
        // Brackets below the deepest frame.
        let mut below = 0_usize;
        while let Some(token) = tokens.next() {
            let end = tokens.at();
            match token {
                Token::Close(_) if below > 0 => below -= 1,
                Token::Open(_) if below > 0 || stack.len() == MAX_DEPTH => {
                    below += 1;
                    self.is_whole = false;
                }
                _ if below > 0 => {}
                Token::Close(_) => {
                    stack.pop();
                    if stack.is_empty() {
                        break;
                    }
                }
                Token::Colon => {}
                Token::Comma => {
                    if let Some(frame) = stack.last_mut() {
                        frame.at_value = !frame.is_object;
                    }
                }
                Token::Text(name) if stack.last().is_some_and(|f| f.is_object && !f.at_value) => {
                    if let Some(mut frame) = stack.pop() {
                        frame.member = self.child(&mut frame, name, with_values);
                        frame.at_value = true;
                        stack.push(frame);
                    }
                }
                Token::Open(bracket) => {
                    let is_object = bracket == b'{';
                    let kind = if is_object { Type::Object } else { Type::List };
                    let node = self.place(&mut stack, with_values);
                    self.note(node, kind, end - 1, None);
                    stack.push(Frame {
                        node,
                        is_object,
                        member: None,
                        at_value: !is_object,
                        next: 0,
                    });
                }
                Token::Text(text) => {
                    let node = self.place(&mut stack, with_values);
                    let start = end - text.len() - 2;
                    self.note(node, Type::Text, start, Some(&self.bytes[start..end]));
                }
                Token::Bare(bare) => {
                    let node = self.place(&mut stack, with_values);
                    self.note(node, Type::of_bare(bare), end - bare.len(), Some(bare));
                }
            }
        }
        self.is_whole &= stack.is_empty() && below == 0;
    }

    /// The path of the value that begins here.
    fn place(&mut self, stack: &mut Vec<Frame>, with_values: &[&str]) -> Option<usize> {
        let Some(mut frame) = stack.pop() else {
            return Some(0);
        };
        let node = if frame.is_object {
            frame.member
        } else {
            frame.next = 0;
            self.child(&mut frame, b"[]", with_values)
        };
        stack.push(frame);
        node
    }

    fn note(&mut self, node: Option<usize>, kind: Type, start: usize, value: Option<&'a [u8]>) {
        let Some(node) = node.and_then(|node| self.nodes.get_mut(node)) else {
            return;
        };
        node.seen += 1;
        node.objects += usize::from(kind == Type::Object);
        node.types[kind as usize].get_or_insert(start);
        if let (Some(values), Some(value)) = (&mut node.values, value)
            && kind != Type::Null
            && value.len() <= MAX_VALUE_BYTES
            && values.len() < MAX_VALUES
            && !values.contains(&value)
        {
            values.push(value);
        }
    }

    /// What stands at an offset, or its beginning.
    fn sample(&self, start: usize) -> Vec<u8> {
        let rest = &self.bytes[start..];
        let rest = &rest[..rest.len().min(MAX_SAMPLE_BYTES)];
        let mut tokens = Tokens::new(rest);
        let mut depth = 0_usize;
        for token in tokens.by_ref() {
            match token {
                Token::Open(_) => depth += 1,
                Token::Close(_) => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        rest[..tokens.at().min(rest.len())].to_owned()
    }
}

/// The shape of a call as far as it is known. As text: a line for each path, with its types, whether it
/// is always there, and the values of a field that has few.
#[derive(Debug, Default)]
pub struct Known {
    nodes: Vec<KnownNode>,
}

#[derive(Debug, Default)]
struct KnownNode {
    name: Vec<u8>,
    children: HashMap<Vec<u8>, usize>,
    types: Vec<Type>,
    /// The types as bits.
    allowed: u8,
    is_always: bool,
    /// Members that are always there.
    always: usize,
    /// What is wanted of a quick walk.
    mark: Mark,
    /// As written; empty: any.
    values: Vec<Vec<u8>>,
}

/// A line of a file of shapes that can't be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no line CALL PATH TYPES always|sometimes [VALUE…]")]
pub struct BadLine(String);

impl Known {
    /// Shapes by call. Lines that begin with `#` are comments; of a path that stands twice both hold.
    pub fn read(text: &str) -> Result<BTreeMap<String, Self>, BadLine> {
        let mut calls: BTreeMap<String, Self> = BTreeMap::new();
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            let bad = || BadLine(line.to_owned());
            let mut words = line.split(' ');
            let mut word = || words.next().ok_or_else(bad);
            let (call, path, types, presence) = (word()?, word()?, word()?, word()?);
            let types: Option<Vec<Type>> = types
                .split('|')
                .map(|name| Type::ALL.into_iter().find(|kind| kind.as_str() == name))
                .collect();
            let node = calls.entry(call.to_owned()).or_default().node(path);
            for kind in types.ok_or_else(bad)? {
                node.types.push(kind);
                node.allowed |= kind.bit();
            }
            node.is_always |= match presence {
                "always" => true,
                "sometimes" => false,
                _ => return Err(bad()),
            };
            node.values.extend(words.map(|value| value.as_bytes().to_owned()));
        }
        for known in calls.values_mut() {
            for node in 0..known.nodes.len() {
                let children =
                    known.nodes[node].children.values().map(|child| &known.nodes[*child]);
                let always = children.filter(|child| child.is_always && child.name != b"[]");
                known.nodes[node].always = always.count();
            }
        }
        Ok(calls)
    }

    fn find(&self, path: &str) -> Option<usize> {
        let root = (!self.nodes.is_empty()).then_some(0);
        names(path).fold(root, |node, name| self.nodes[node?].children.get(name).copied())
    }

    /// The node of a path such as `data[].adv.price`; `.` is the whole.
    fn node(&mut self, path: &str) -> &mut KnownNode {
        if self.nodes.is_empty() {
            self.nodes.push(KnownNode::default());
        }
        let mut node = 0;
        for name in names(path) {
            let next = self.nodes.len();
            let child = *self.nodes[node].children.entry(name.to_vec()).or_insert(next);
            if child == next {
                self.nodes.push(KnownNode { name: name.to_vec(), ..KnownNode::default() });
            }
            node = child;
        }
        &mut self.nodes[node]
    }

    /// What of an answer differs, at most [`MAX_FINDINGS`].
    #[must_use]
    pub fn compare(&self, shape: &Shape<'_>) -> Vec<Finding> {
        let mut findings = Vec::new();
        // Each with the node of the known shape and its path.
        let mut open = vec![(0, 0, String::new())];
        while let Some((at, known, path)) = open.pop() {
            let (node, known) = (&shape.nodes[at], &self.nodes[known]);
            for kind in Type::ALL {
                if let Some(start) =
                    node.types[kind as usize].filter(|_| !known.types.contains(&kind))
                {
                    findings.push(Finding {
                        path: shown(&path),
                        change: Change::Retyped,
                        found: Some(kind),
                        value: None,
                        sample: shape.sample(start),
                    });
                }
            }
            self.compare_values(node, known, &path, &mut findings);
            // What is within something that was no object or list is new with it.
            if !known.types.iter().any(|kind| matches!(kind, Type::Object | Type::List)) {
                continue;
            }
            let mut seen: HashMap<&[u8], usize> = HashMap::new();
            for &child in &node.children {
                let name = shape.nodes[child].name;
                let path = join(&path, name);
                seen.insert(name, shape.nodes[child].seen);
                match known.children.get(name) {
                    Some(known) => open.push((child, *known, path)),
                    None => findings.extend(new(shape, child, &path)),
                }
            }
            if node.objects > 0 && shape.is_whole {
                let lacks = |name: &[u8]| seen.get(name).is_none_or(|seen| *seen < node.objects);
                let always =
                    known.children.iter().filter(|(_, known)| self.nodes[**known].is_always);
                let start = node.types[Type::Object as usize].unwrap_or_default();
                findings.extend(always.filter(|(name, _)| lacks(name)).map(|(name, _)| Finding {
                    path: shown(&join(&path, name)),
                    change: Change::Missing,
                    found: None,
                    value: None,
                    sample: shape.sample(start),
                }));
            }
            if findings.len() >= MAX_FINDINGS {
                break;
            }
        }
        findings.truncate(MAX_FINDINGS);
        findings.sort_by(|a, b| (&a.path, a.change, &a.value).cmp(&(&b.path, b.change, &b.value)));
        findings
    }

    #[expect(clippy::unused_self, reason = "beside its only caller")]
    fn compare_values(
        &self,
        node: &Node<'_>,
        known: &KnownNode,
        path: &str,
        findings: &mut Vec<Finding>,
    ) {
        if known.values.is_empty() {
            return;
        }
        let unknown = node
            .values
            .iter()
            .flatten()
            .filter(|value| known.values.iter().all(|known| known != *value));
        findings.extend(unknown.map(|value| Finding {
            path: shown(path),
            change: Change::Value,
            found: Some(if value.starts_with(b"\"") { Type::Text } else { Type::of_bare(value) }),
            value: Some(text(value)),
            sample: value.to_vec(),
        }));
    }
}

/// A path that is not known, once for each type that stands there.
fn new(shape: &Shape<'_>, node: usize, path: &str) -> Vec<Finding> {
    let types = Type::ALL.into_iter().zip(shape.nodes[node].types);
    let found = types.filter_map(|(kind, start)| Some((kind, start?)));
    found
        .map(|(kind, start)| Finding {
            path: shown(path),
            change: Change::New,
            found: Some(kind),
            value: None,
            sample: shape.sample(start),
        })
        .collect()
}

/// What is told of one path of an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct PathSeen {
    pub path: String,
    pub types: Vec<Type>,
    /// Whether every object that could have it has it.
    pub is_always: bool,
    /// As written, of a field with few values.
    pub values: Vec<String>,
}

impl Shape<'_> {
    /// Every path, in the order of the answer.
    #[must_use]
    pub fn paths(&self) -> Vec<PathSeen> {
        let mut paths = Vec::new();
        let mut open = vec![(0, String::new(), true)];
        while let Some((at, path, is_always)) = open.pop() {
            let node = &self.nodes[at];
            let types = Type::ALL.into_iter().filter(|kind| node.types[*kind as usize].is_some());
            let values = node.values.iter().flatten().map(|value| text(value)).collect();
            let seen = PathSeen { path: shown(&path), types: types.collect(), is_always, values };
            open.extend(node.children.iter().rev().map(|&child| {
                let inner = &self.nodes[child];
                let is_always = inner.name == b"[]" || inner.seen >= node.objects;
                (child, join(&path, inner.name), is_always)
            }));
            paths.push(seen);
        }
        paths
    }
}

/// The names on a path.
fn names(path: &str) -> impl Iterator<Item = &[u8]> {
    path.split('.').flat_map(|part| {
        let name = part.find("[]").map_or(part, |at| &part[..at]);
        let lists = (part.len() - name.len()) / 2;
        let name = Some(name.as_bytes()).filter(|name| !name.is_empty());
        name.into_iter().chain(std::iter::repeat_n(&b"[]"[..], lists))
    })
}

fn join(path: &str, name: &[u8]) -> String {
    let mut joined = path.to_owned();
    if !path.is_empty() && name != b"[]" {
        joined.push('.');
    }
    // Writing to a string does not fail.
    write!(joined, "{}", text(name)).ok();
    joined
}

/// A path as it is told: the whole has no name, and bytes that are no text may have made it long.
fn shown(path: &str) -> String {
    if path.is_empty() {
        return ".".to_owned();
    }
    path[..path.floor_char_boundary(MAX_PATH_BYTES)].to_owned()
}

/// Bytes as text that a database and a terminal hold.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KNOWN: &str = r#"# of a test
c . object always
c a number always
c b list sometimes
c b[] object sometimes
c b[].t text always
c b[].u text|null sometimes
c b[].k text sometimes "x" "y"
"#;

    fn findings(json: &str) -> Vec<String> {
        let known = Known::read(KNOWN).unwrap().remove("c").unwrap();
        let found = known.compare(&Shape::of(json.as_bytes(), &["k"]));
        let line = |finding: &Finding| {
            let found = finding.found.map_or("", Type::as_str);
            let value = finding.value.as_deref().unwrap_or_default();
            let sample = String::from_utf8_lossy(&finding.sample).into_owned();
            format!("{} {} {found} {value} {sample}", finding.change.as_str(), finding.path)
        };
        found.iter().map(line).collect()
    }

    #[test]
    fn what_is_known_is_no_finding() {
        for json in [
            r#"{"a":1}"#,
            r#"{"b":[],"a":-1.5e3}"#,
            r#" { "a" : 1 , "b" : [ {"t":"x,]}\"" , "u":null} , {"u":"y","t":"", "k":"y"} ] } "#,
        ] {
            assert_eq!(findings(json), [""; 0], "{json}");
        }
    }

    #[test]
    fn what_differs_is_told_with_a_sample() {
        assert_eq!(
            findings(r#"{"a":"1","n":{"deep":[1]},"b":[{"t":"x"},{"u":true,"k":"z"},{"t":NaN}]}"#),
            [
                r#"retyped a text  "1""#,
                r#"value b[].k text "z" "z""#,
                r#"missing b[].t   {"t":"x"}"#,
                "retyped b[].t invalid  NaN",
                "retyped b[].u boolean  true",
                r#"new n object  {"deep":[1]}"#,
            ]
        );
        assert_eq!(findings("[]"), ["retyped . list  []"]);
        assert_eq!(findings(r#"{"a":{"x":1}}"#), [r#"retyped a object  {"x":1}"#]);
        assert_eq!(findings(r#"{"A":1}"#), ["new A number  1", r#"missing a   {"A":1}"#]);
    }

    #[test]
    fn a_cut_answer_misses_nothing() {
        assert_eq!(findings(r#"{"b":[{"u":"#), [""; 0]);
    }

    #[test]
    fn monsters_are_bounded() {
        let names: Vec<String> = (0..50_000).map(|n| format!("\"name{n}\":1")).collect();
        let wide = format!("{{\"a\":1,{}}}", names.join(","));
        let shape = Shape::of(wide.as_bytes(), &[]);
        assert_eq!((shape.nodes.len(), shape.is_whole), (MAX_PATHS, false));
        assert_eq!(findings(&wide).len(), MAX_FINDINGS);
        let deep = format!("{{\"a\":1,\"d\":{}", "[".repeat(1_000_000));
        assert_eq!(findings(&deep), [format!("new d list  {}", "[".repeat(MAX_SAMPLE_BYTES))]);
        let long = format!("{{\"a\":1,\"{}\":1}}", "n".repeat(1_000));
        assert_eq!(findings(&long), [format!("new {} number  1", "n".repeat(MAX_NAME_BYTES))]);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        for line in ["c a", "c a what always", "c a text never"] {
            assert_eq!(Known::read(line).unwrap_err(), BadLine(line.to_owned()));
        }
    }

    #[test]
    fn paths_are_told_in_order() {
        let shape = Shape::of(br#"{"b":[{"t":1,"k":"x"},{"t":null}],"a":[[2]]}"#, &["k"]);
        let paths: Vec<_> = shape.paths().into_iter().map(|p| (p.path, p.is_always)).collect();
        let wanted = [(".", true), ("b", true), ("b[]", true), ("b[].t", true), ("b[].k", false)];
        let wanted: Vec<_> =
            wanted.into_iter().chain([("a", true), ("a[]", true), ("a[][]", true)]).collect();
        assert_eq!(paths.iter().map(|(path, is)| (path.as_str(), *is)).collect::<Vec<_>>(), wanted);
        assert_eq!(shape.paths()[4].values, [r#""x""#]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let known = Known::read(KNOWN).unwrap().remove("c").unwrap();
            prop_assert!(known.compare(&Shape::of(&bytes, &["k"])).len() <= MAX_FINDINGS);
        }
    }
}
