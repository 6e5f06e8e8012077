//! What happened in a round, for the failure's message: the part of it that is about what went wrong.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::Instant;

use crate::harness::story::lock;

/// Lines that a failure shows of what is about it, and of the end.
const ABOUT: usize = 40;
const LAST: usize = 25;

pub struct History {
    began: Instant,
    lines: Mutex<Vec<String>>,
}

impl History {
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            lines: Mutex::default(),
        }
    }

    pub fn note(&self, who: &str, what: impl std::fmt::Display) {
        let at = self.began.elapsed().as_millis();
        lock(&self.lines).push(format!("{at:>6} ms  {who}  {what}"));
    }

    /// The lines that hold one of the words of `problem` that stand for something (refs and names of members do), all
    /// misfortunes, and the last of `room`.
    pub fn about(&self, problem: &str, room: &str) -> String {
        let lines = lock(&self.lines);
        let words: Vec<&str> = problem
            .split(|c: char| !c.is_alphanumeric() && c != '.' && c != '~')
            .filter(|word| word.contains('~'))
            .collect();
        let is_about = |line: &&String| {
            line.contains("  world  ") || words.iter().any(|word| line.contains(word))
        };
        let about: Vec<&String> = lines.iter().filter(is_about).collect();
        let last: Vec<&String> = lines.iter().filter(|line| line.contains(room)).collect();
        let mut shown = String::from("what was about it:\n");
        for line in &about[about.len().saturating_sub(ABOUT)..] {
            // Writing to a string does not fail.
            let _ = writeln!(shown, "  {line}");
        }
        shown.push_str("the last in this room:\n");
        for line in &last[last.len().saturating_sub(LAST)..] {
            let _ = writeln!(shown, "  {line}");
        }
        shown
    }
}
