//! The tables of tests/authorisation, read.

use std::path::Path;

use anyhow::{Context, ensure};

/// A table's columns behind those that describe the row.
pub type Cells = Vec<(&'static str, String)>;

/// Who asks, in the order of the columns.
pub const CALLERS: [&str; 11] = [
    "nobody", "guest", "stranger", "viewer", "editor", "host", "wsadmin", "owner", "admin",
    "expired", "revoked",
];

/// A route as one row of routes.txt asks it.
#[derive(Debug, Clone)]
pub struct Route {
    pub method: String,
    pub path: String,
    pub of: Vec<String>,
    /// The answers where it is allowed.
    pub ok: Vec<u16>,
    pub cells: Cells,
    /// Body or query, with placeholders.
    pub extra: String,
}

impl Route {
    pub fn is(&self, word: &str) -> bool {
        self.of.iter().any(|of| of == word)
    }

    /// Does asking it leave something changed?
    pub fn changes(&self) -> bool {
        !matches!(self.method.as_str(), "GET" | "WS")
    }

    /// The answers that this cell promises.
    pub fn wanted(&self, cell: &str) -> anyhow::Result<Vec<u16>> {
        Ok(match cell {
            "+" => self.ok.clone(),
            status => vec![status.parse().with_context(|| format!("{self:?}"))?],
        })
    }
}

/// A table's text.
pub fn text(name: &str) -> anyhow::Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/authorisation")
        .join(name);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Lines that are rows: the first names the columns, comments and empty lines are left out.
fn rows(text: &str) -> impl Iterator<Item = &str> {
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines.skip(1)
}

/// The first so many words of a line, and what is behind them.
fn split(line: &str, count: usize) -> anyhow::Result<(Vec<&str>, &str)> {
    let mut rest = line;
    let mut words = Vec::new();
    for _ in 0..count {
        rest = rest.trim_start();
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        ensure!(end > 0, "a row with a cell missing: {line}");
        words.push(&rest[..end]);
        rest = &rest[end..];
    }
    Ok((words, rest.trim()))
}

fn cells(names: &[&'static str], words: &[&str]) -> Cells {
    let words = words.iter().map(|word| (*word).to_owned());
    names.iter().copied().zip(words).collect()
}

pub fn routes(text: &str) -> anyhow::Result<Vec<Route>> {
    rows(text)
        .map(|line| {
            let (words, extra) = split(line, 4 + CALLERS.len())?;
            let ok = words[3].split('|').map(str::parse);
            let of = words[2].split(',').filter(|of| *of != "-");
            Ok(Route {
                method: words[0].to_owned(),
                path: words[1].to_owned(),
                of: of.map(str::to_owned).collect(),
                ok: ok
                    .collect::<Result<_, _>>()
                    .with_context(|| line.to_owned())?,
                cells: cells(&CALLERS, &words[4..]),
                extra: extra.to_owned(),
            })
        })
        .collect()
}

/// A message as one row of messages.txt sends it.
#[derive(Debug, Clone)]
pub struct Message {
    pub kind: String,
    pub cells: Cells,
    /// Its other fields, a JSON object with placeholders.
    pub fields: String,
}

impl Message {
    /// Is it logged, and so acknowledged?
    pub fn is_durable(&self) -> bool {
        matches!(
            self.kind.as_str(),
            "update"
                | "draw"
                | "chat_message"
                | "direct_message"
                | "chat_edit"
                | "chat_delete"
                | "code_comment"
                | "reaction"
                | "session_update"
                | "run"
                | "set_role"
                | "kick"
        )
    }
}

/// Who sends, in the order of the columns.
pub const SENDERS: [&str; 6] = ["outsider", "anonymous", "viewer", "editor", "host", "admin"];

pub fn messages(text: &str) -> anyhow::Result<Vec<Message>> {
    rows(text)
        .map(|line| {
            let (words, fields) = split(line, 1 + SENDERS.len())?;
            Ok(Message {
                kind: words[0].to_owned(),
                cells: cells(&SENDERS, &words[1..]),
                fields: fields.to_owned(),
            })
        })
        .collect()
}
