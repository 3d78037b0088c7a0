//! What the bytes between a process and a server mean for the batch.
//!
//! A session is looked at in both directions, message by message, and only as far as is needed to
//! know the steps of a batch. Connections under TLS are not understood: nothing is seen on them.

use std::collections::HashMap;

/// A server that a process talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Server {
    Postgres,
    Redis,
    Rabbitmq,
    Exchange,
}

impl Server {
    /// Its name for `dev/stack`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::Rabbitmq => "rabbitmq",
            Self::Exchange => "exchange",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the process to the server.
    Up,
    Down,
}

/// What a transaction does, by the last statement in it that tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// A worker ends jobs and stores their facts.
    EndJobs,
    /// A worker stores advertisers, before the jobs.
    Advertisers,
    /// The coordinator opens the batch.
    Open,
    /// The coordinator plans jobs besides the plan: the rest of books, readings of moved pages.
    Jobs,
    /// The coordinator plans the pages of the batch.
    Plan,
    /// The coordinator closes the batch.
    Close,
}

/// Parts of statements that tell what a transaction does.
const STATEMENTS: [(&str, Work); 6] = [
    ("SET state = e.state", Work::EndJobs),
    ("warehouse.dim_advertisers", Work::Advertisers),
    ("INSERT INTO pipeline.batches", Work::Open),
    ("INSERT INTO pipeline.jobs", Work::Jobs),
    ("SET planned_at", Work::Plan),
    ("SET state = 'closed'", Work::Close),
];

/// A queue, or the exchange for events, by the end of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Urgent,
    Normal,
    Reports,
    Events,
}

const TARGETS: [(&str, Target); 4] = [
    (".jobs.urgent", Target::Urgent),
    (".jobs.normal", Target::Normal),
    (".reports", Target::Reports),
    (".events", Target::Events),
];

/// A message that is a step of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// `COMMIT` on its way to the database.
    Commit(Work),
    /// Its answer.
    Committed(Work),
    /// Redis granted a permit.
    Permit,
    /// A request to the exchange.
    Request,
    /// The beginning of its answer.
    Answer,
    Publish(Target),
    /// The broker confirms what was published.
    Confirm(Target),
    Deliver(Target),
    /// A delivery is acknowledged.
    Ack,
}

/// A moment among the bytes that were just read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) moment: Moment,
    /// Offset of its first byte; 0 if it began in earlier bytes.
    pub(super) start: usize,
    /// Offset behind its last byte.
    pub(super) end: usize,
}

/// One connection.
pub(super) enum Session {
    Postgres(Box<Postgres>),
    Rabbitmq(Box<Rabbitmq>),
    Redis,
    Exchange,
}

impl Session {
    pub(super) fn new(server: Server) -> Self {
        match server {
            Server::Postgres => Self::Postgres(Box::default()),
            Server::Rabbitmq => Self::Rabbitmq(Box::default()),
            Server::Redis => Self::Redis,
            Server::Exchange => Self::Exchange,
        }
    }

    /// The moments within `bytes`, in order.
    pub(super) fn look(&mut self, direction: Direction, bytes: &[u8]) -> Vec<Seen> {
        let find = |text: &[u8], moment| {
            let start = bytes.windows(text.len()).position(|window| window == text);
            start.map(|start| Seen { moment, start, end: bytes.len() }).into_iter().collect()
        };
        match (self, direction) {
            (Self::Postgres(session), _) => session.look(direction, bytes),
            (Self::Rabbitmq(session), _) => session.look(direction, bytes),
            // The script's answer: an array of seven, of which the first is the number of a permit, which
            // begins with the time, or 0.
            (Self::Redis, Direction::Down) => find(b"*7\r\n:1", Moment::Permit),
            (Self::Redis, Direction::Up) => Vec::new(),
            (Self::Exchange, Direction::Up) => find(b"POST /bapi", Moment::Request),
            (Self::Exchange, Direction::Down) => find(b"HTTP/1.1 ", Moment::Answer),
        }
    }
}

/// Bytes of a message that are kept: the heads of our longest statements fit.
const KEPT: usize = 4096;

/// Cuts a stream into messages: a head of fixed length tells how long the whole is.
struct Framer {
    head_length: usize,
    /// Length of the message by its head.
    length: fn(&[u8]) -> usize,
    kept: Vec<u8>,
    /// Bytes of the message seen so far.
    seen: usize,
}

impl Framer {
    fn new(head_length: usize, length: fn(&[u8]) -> usize) -> Self {
        Self { head_length, length, kept: Vec::new(), seen: 0 }
    }

    /// Takes bytes up to the end of a message at most, and gives how many; `Some` with the
    /// beginning of the message if it is whole.
    fn take(&mut self, bytes: &[u8]) -> (usize, Option<Vec<u8>>) {
        let mut taken = 0;
        if self.seen < self.head_length {
            taken = bytes.len().min(self.head_length - self.seen);
            self.kept.extend_from_slice(&bytes[..taken]);
            self.seen += taken;
            if self.seen < self.head_length {
                return (taken, None);
            }
        }
        let missing = (self.length)(&self.kept).saturating_sub(self.seen);
        let rest = &bytes[taken..bytes.len().min(taken + missing)];
        let kept = rest.len().min(KEPT.saturating_sub(self.kept.len()));
        self.kept.extend_from_slice(&rest[..kept]);
        self.seen += rest.len();
        taken += rest.len();
        if rest.len() < missing {
            return (taken, None);
        }
        self.seen = 0;
        (taken, Some(std::mem::take(&mut self.kept)))
    }
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// What `PostgreSQL`'s protocol says, version 3.
pub(super) struct Postgres {
    up: Framer,
    down: Framer,
    /// Answers of one byte, to a question for TLS, that are to come.
    bare_answers: usize,
    is_started: bool,
    statements: HashMap<Vec<u8>, Work>,
    /// What the open transaction does.
    work: Option<Work>,
    /// What the transaction does whose `COMMIT` was not answered yet.
    committing: Option<Work>,
}

impl Default for Postgres {
    fn default() -> Self {
        let typed = |head: &[u8]| 1 + number(&head[1..5]);
        Self {
            up: Framer::new(4, |head| number(&head[..4])),
            down: Framer::new(5, typed),
            bare_answers: 0,
            is_started: false,
            statements: HashMap::new(),
            work: None,
            committing: None,
        }
    }
}

impl Postgres {
    const TLS_QUESTIONS: [usize; 2] = [80_877_103, 80_877_104];

    fn look(&mut self, direction: Direction, bytes: &[u8]) -> Vec<Seen> {
        let (mut at, mut start, mut seen) = (0, 0, Vec::new());
        while at < bytes.len() {
            if direction == Direction::Down && self.bare_answers > 0 {
                self.bare_answers -= 1;
                at += 1;
                start = at;
                continue;
            }
            let framer = if direction == Direction::Up { &mut self.up } else { &mut self.down };
            let (taken, message) = framer.take(&bytes[at..]);
            at += taken;
            let Some(message) = message else { continue };
            let moment = match direction {
                Direction::Up => self.up_message(&message),
                Direction::Down => self.down_message(&message),
            };
            seen.extend(moment.map(|moment| Seen { moment, start, end: at }));
            start = at;
        }
        seen
    }

    fn up_message(&mut self, message: &[u8]) -> Option<Moment> {
        if !self.is_started {
            if Self::TLS_QUESTIONS.contains(&number(message.get(4..8)?)) {
                self.bare_answers += 1;
            } else {
                self.is_started = true;
                self.up = Framer::new(5, |head| 1 + number(&head[1..5]));
            }
            return None;
        }
        let mut texts = message.get(5..)?.split(|byte| *byte == 0);
        match message[0] {
            b'P' => {
                let (name, text) = (texts.next()?, String::from_utf8_lossy(texts.next()?));
                let told = STATEMENTS.iter().rev().find(|(part, _)| text.contains(part));
                self.statements.extend(told.map(|(_, work)| (name.to_vec(), *work)));
            }
            b'B' => {
                let (_portal, name) = (texts.next()?, texts.next()?);
                self.work = self.statements.get(name).copied().or(self.work);
            }
            b'Q' => match texts.next()? {
                b"COMMIT" => {
                    self.committing = self.work.take();
                    return self.committing.map(Moment::Commit);
                }
                _ => self.work = None,
            },
            _ => {}
        }
        None
    }

    fn down_message(&mut self, message: &[u8]) -> Option<Moment> {
        let is_commit = message.starts_with(b"C") && message.get(5..) == Some(b"COMMIT\0");
        if is_commit { self.committing.take().map(Moment::Committed) } else { None }
    }
}

/// What AMQP 0-9-1 says.
pub(super) struct Rabbitmq {
    /// Bytes of the protocol's name, which come before the frames, that are to come.
    greeting: usize,
    up: Framer,
    down: Framer,
    published: Option<Target>,
}

impl Default for Rabbitmq {
    fn default() -> Self {
        // Type, channel, size; then as many bytes and one that ends the frame.
        let frames = || Framer::new(7, |head| 8 + number(&head[3..7]));
        Self { greeting: 8, up: frames(), down: frames(), published: None }
    }
}

/// Class and method of the calls that matter.
const PUBLISH: [u8; 4] = [0, 60, 0, 40];
const DELIVER: [u8; 4] = [0, 60, 0, 60];
const ACK: [u8; 4] = [0, 60, 0, 80];

impl Rabbitmq {
    fn look(&mut self, direction: Direction, bytes: &[u8]) -> Vec<Seen> {
        let (mut at, mut seen) = (0, Vec::new());
        if direction == Direction::Up && self.greeting > 0 {
            at = self.greeting.min(bytes.len());
            self.greeting -= at;
        }
        let mut start = at;
        while at < bytes.len() {
            let framer = if direction == Direction::Up { &mut self.up } else { &mut self.down };
            let (taken, frame) = framer.take(&bytes[at..]);
            at += taken;
            let Some(frame) = frame else { continue };
            let is_method = frame[0] == 1;
            let moment = if is_method { self.method(direction, &frame[7..]) } else { None };
            seen.extend(moment.map(|moment| Seen { moment, start, end: at }));
            start = at;
        }
        seen
    }

    fn method(&mut self, direction: Direction, method: &[u8]) -> Option<Moment> {
        let (name, arguments) = method.split_at_checked(4)?;
        match (direction, <[u8; 4]>::try_from(name).ok()?) {
            (Direction::Up, PUBLISH) => {
                let (exchange, rest) = short_text(arguments.get(2..)?)?;
                let (routing_key, _) = short_text(rest)?;
                self.published = target(exchange).or_else(|| target(routing_key));
                self.published.map(Moment::Publish)
            }
            (Direction::Up, ACK) => Some(Moment::Ack),
            (Direction::Down, ACK) => self.published.map(Moment::Confirm),
            (Direction::Down, DELIVER) => {
                let (_consumer, rest) = short_text(arguments)?;
                // Number of the delivery and whether it came before: nine bytes.
                let (_exchange, rest) = short_text(rest.get(9..)?)?;
                target(short_text(rest)?.0).map(Moment::Deliver)
            }
            _ => None,
        }
    }
}

fn short_text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

fn target(name: &[u8]) -> Option<Target> {
    let named = TARGETS.iter().find(|(end, _)| name.ends_with(end.as_bytes()));
    named.map(|(_, target)| *target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind], length.as_slice(), body].concat()
    }

    /// Goal: the commit of the transaction that ends jobs is told from others, however the bytes are
    /// cut, with its place among them.
    #[test]
    fn a_commit_is_known_by_the_statements_before_it() {
        let question = [0, 0, 0, 8, 4, 210, 22, 47];
        let start = [0, 0, 0, 9, 0, 3, 0, 0, 0];
        let parse = typed(b'P', b"s1\0UPDATE pipeline.jobs j SET state = e.state\0\0\0");
        let bind = typed(b'B', b"\0s1\0\0\0\0\0\0\0");
        let (begin, commit) = (typed(b'Q', b"BEGIN\0"), typed(b'Q', b"COMMIT\0"));
        let up = [&question, start.as_slice(), &commit, &parse, &begin, &bind, &commit].concat();
        for size in [1, 7, up.len()] {
            let mut session = Session::new(Server::Postgres);
            let mut seen = Vec::new();
            for chunk in up.chunks(size) {
                seen.extend(session.look(Direction::Up, chunk));
            }
            assert_eq!(seen.len(), 1);
            assert_eq!(seen[0].moment, Moment::Commit(Work::EndJobs));
            if size == up.len() {
                assert_eq!((seen[0].start, seen[0].end), (up.len() - commit.len(), up.len()));
            }
            let down = [b"N".as_slice(), &typed(b'C', b"COMMIT\0")].concat();
            let seen = session.look(Direction::Down, &down);
            assert_eq!(
                seen,
                [Seen { moment: Moment::Committed(Work::EndJobs), start: 1, end: 13 }]
            );
        }
    }

    #[test]
    fn frames_of_the_broker_tell_queue_and_direction() {
        let frame = |body: &[u8]| {
            let size = u32::try_from(body.len()).unwrap().to_be_bytes();
            [&[1, 0, 1], size.as_slice(), body, &[0xCE]].concat()
        };
        let publish = frame(b"\0\x3c\0\x28\0\0\0\x09p.reports\0");
        let up = [b"AMQP\0\0\x09\x01".as_slice(), &publish].concat();
        let mut session = Session::new(Server::Rabbitmq);
        let seen = session.look(Direction::Up, &up);
        let moment = Moment::Publish(Target::Reports);
        assert_eq!(seen, [Seen { moment, start: 8, end: up.len() }]);
        let ack = frame(&[0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        let seen = session.look(Direction::Down, &ack);
        assert_eq!(seen[0].moment, Moment::Confirm(Target::Reports));
        assert_eq!(session.look(Direction::Up, &ack)[0].moment, Moment::Ack);
    }
}
