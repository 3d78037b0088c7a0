//! `p2p watch` on a terminal of its own, which `script` makes.

use std::io::{Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::{away, text};

/// Begin and end of the screen that a program has for itself.
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";

/// The real binary on a terminal of 100 columns and 30 rows. It tells its process id first.
struct Terminal {
    script: Child,
    out: ChildStdout,
    seen: String,
}

impl Terminal {
    fn start() -> Self {
        let watch = format!(
            "stty cols 100 rows 30; echo PID $$ END; exec {} watch",
            env!("CARGO_BIN_EXE_p2p")
        );
        let mut command = Command::new("script");
        command.args(["-qec", &watch, "/dev/null"]);
        // Nobody is there: the screen says so and goes on.
        command.envs(away()).env("TERM", "xterm-256color").env("SHELL", "/bin/sh");
        let mut script = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script, of the package bsdutils");
        let out = script.stdout.take().unwrap();
        Self { script, out, seen: String::new() }
    }

    /// Reads until `part` was seen; the end of the output is an error.
    fn wait_for(&mut self, part: &str) {
        let mut buffer = [0; 4096];
        while !self.seen.contains(part) {
            let read = self.out.read(&mut buffer).unwrap();
            assert!(read > 0, "{part:?} in {}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    }

    /// Its exit code, and all that was seen.
    fn end(mut self) -> (i32, String) {
        let mut rest = Vec::new();
        self.out.read_to_end(&mut rest).unwrap();
        self.seen.push_str(&String::from_utf8_lossy(&rest));
        (self.script.wait().unwrap().code().unwrap(), self.seen)
    }
}

#[test]
fn q_leaves_the_screen_as_it_was() {
    let mut terminal = Terminal::start();
    terminal.wait_for("NOT HEALTHY");
    assert!(terminal.seen.contains(ENTER));
    terminal.script.stdin.take().unwrap().write_all(b"q").unwrap();
    let (code, seen) = terminal.end();
    assert_eq!(code, 0, "{seen}");
    assert!(seen.contains(LEAVE), "{seen}");
}

#[test]
fn a_signal_gives_the_terminal_back() {
    let mut terminal = Terminal::start();
    terminal.wait_for("NOT HEALTHY");
    let id = terminal.seen.split("PID ").nth(1).unwrap().split(" END").next().unwrap();
    let killed = Command::new("kill").args(["-TERM", id]).status().unwrap();
    assert!(killed.success());
    // Kept open: the end of the input would be a reason of its own.
    let stdin = terminal.script.stdin.take();
    let (code, seen) = terminal.end();
    drop(stdin);
    assert_eq!(code, 128 + 15, "{seen}");
    assert!(seen.contains(LEAVE), "{seen}");
}

#[test]
fn without_a_terminal_it_says_so() {
    let away = away();
    let settings: Vec<(&str, &str)> =
        away.iter().map(|(name, url)| (*name, url.as_str())).collect();
    let (code, error) = text(&settings, &["watch"]);
    assert!(code == 64 && error.contains("needs a terminal"), "{error}");
    assert!(error.contains("p2p status"), "{error}");
}
