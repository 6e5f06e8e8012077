//! Clients that nobody here wrote (`tests/clients`), moved by a story: a process that takes commands and answers.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::story::Story;
use super::wait::until;

/// Long enough for a stock client's own patience: some look for silence every few seconds, and come back with backoff.
const PATIENCE: Duration = Duration::from_secs(120);

/// What runs the clients: a program, its script, and where their packages lie.
#[derive(Debug, Clone, Copy)]
pub struct Interpreter {
    program: &'static str,
    script: &'static str,
}

pub const NODE: Interpreter = Interpreter {
    program: "node",
    script: "puppet.mjs",
};

pub const PYTHON: Interpreter = Interpreter {
    program: "python3",
    script: "puppet.py",
};

/// Where `scripts/setup clients` puts other people's packages.
pub fn packages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".local/clients")
}

impl Interpreter {
    /// `scripts/setup clients` was here.
    pub fn is_installed(self) -> bool {
        packages().join("installed").exists()
    }
}

/// A process full of clients; gone with the story.
pub struct Puppets {
    channel: Mutex<Channel>,
    _child: Child,
}

struct Channel {
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    number: u64,
}

impl Puppets {
    pub async fn start(story: &Story, interpreter: Interpreter) -> anyhow::Result<Self> {
        if !interpreter.is_installed() {
            bail!("the packages of tests/clients are missing: run scripts/setup clients");
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/clients")
            .join(interpreter.script);
        let log = std::fs::File::create(story.folder().join("puppets.log"))?;
        let mut child = Command::new(interpreter.program)
            .arg(script)
            .env("ATELIER_CLIENTS", packages())
            .env("PYTHONPATH", packages().join("python"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", interpreter.program))?;
        let commands = child.stdin.take().context("its standard input")?;
        let answers = child.stdout.take().context("its standard output")?;
        Ok(Self {
            channel: Mutex::new(Channel {
                commands,
                answers: BufReader::new(answers).lines(),
                number: 0,
            }),
            _child: child,
        })
    }

    /// One command and its answer.
    pub async fn ask(&self, name: &str, mut command: Value) -> anyhow::Result<Value> {
        let mut channel = self.channel.lock().await;
        channel.number += 1;
        command["n"] = channel.number.into();
        command["do"] = name.into();
        let line = format!("{command}\n");
        channel.commands.write_all(line.as_bytes()).await?;
        let answer = timeout(PATIENCE, channel.answers.next_line()).await;
        let answer = answer.context("the clients do not answer")??;
        let answer = answer.context("the clients' process has ended; see puppets.log")?;
        let answer: Value = serde_json::from_str(&answer)?;
        match &answer["error"] {
            Value::Null => Ok(answer["ok"].clone()),
            error => bail!("{name}: {error}"),
        }
    }

    pub async fn open(&self, client: &str, mut how: Value) -> anyhow::Result<()> {
        how["client"] = client.into();
        self.ask("open", how).await.map(drop)
    }

    pub async fn write(&self, client: &str, text: &str) -> anyhow::Result<()> {
        let insert = json!({"client": client, "text": text});
        self.ask("insert", insert).await.map(drop)
    }

    pub async fn tell(&self, client: &str, command: &str) -> anyhow::Result<Value> {
        self.ask(command, json!({"client": client})).await
    }

    pub async fn look(&self, client: &str) -> anyhow::Result<Value> {
        self.tell(client, "look").await
    }

    /// Looks at a client until the story is content with it.
    pub async fn until(
        &self,
        client: &str,
        what: &str,
        enough: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        until(&format!("{client}: {what}"), PATIENCE, async || {
            let seen = self.look(client).await?;
            if let Some(problem) = seen["problems"].get(0) {
                bail!("a client failed: {problem}");
            }
            if enough(&seen) {
                return Ok(seen);
            }
            bail!("{seen}")
        })
        .await
    }

    pub async fn reads(&self, client: &str, text: &str) -> anyhow::Result<()> {
        let same = |seen: &Value| seen["text"] == text;
        self.until(client, &format!("the text {text:?}"), same)
            .await
            .map(drop)
    }

    pub async fn synced(&self, client: &str) -> anyhow::Result<Value> {
        self.until(client, "synced", |seen| {
            seen["synced"] == true && seen["unsynced"] == 0
        })
        .await
    }
}
