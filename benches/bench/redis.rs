//! Publish and subscribe on a bare connection to Redis: the round trip that a message between two gateways is measured
//! against.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use reqwest::Url;

use crate::histogram::Histogram;

const PATIENCE: Duration = Duration::from_secs(5);

/// A publisher and a subscriber of one channel.
pub struct RoundTrip {
    publisher: BufReader<TcpStream>,
    subscriber: BufReader<TcpStream>,
    channel: String,
}

impl RoundTrip {
    pub fn connect(url: &str) -> Result<Self> {
        let channel = format!("bench:{}", std::process::id());
        let mut subscriber = open(url)?;
        command(&mut subscriber, &["SUBSCRIBE", &channel])?;
        // subscribe, channel, count
        let answer = reply(&mut subscriber)?;
        if answer.len() != 3 {
            bail!("SUBSCRIBE was answered {answer:?}");
        }
        Ok(Self {
            publisher: open(url)?,
            subscriber,
            channel,
        })
    }

    /// Publishes `payload_bytes` every `gap` for `duration`, each when the one before has arrived.
    pub fn run(
        &mut self,
        payload_bytes: usize,
        gap: Duration,
        duration: Duration,
    ) -> Result<Histogram> {
        let payload = "x".repeat(payload_bytes);
        let mut latency = Histogram::default();
        let start = Instant::now();
        for number in 0.. {
            let due = start + gap * number;
            if due >= start + duration {
                break;
            }
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let sent = Instant::now();
            command(&mut self.publisher, &["PUBLISH", &self.channel, &payload])?;
            // message, channel, payload
            reply(&mut self.subscriber)?;
            latency.record(sent.elapsed().as_nanos() as u64);
            reply(&mut self.publisher)?;
        }
        Ok(latency)
    }
}

/// CPU time that Redis has used so far, microseconds.
pub fn cpu_us(url: &str) -> Result<f64> {
    let mut stream = open(url)?;
    command(&mut stream, &["INFO", "cpu"])?;
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let length = line.trim_end().strip_prefix('$').context("INFO's answer")?;
    let mut text = vec![0; length.parse()?];
    stream.read_exact(&mut text)?;
    let text = String::from_utf8(text)?;
    let seconds = |name: &str| -> Option<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.strip_prefix(':')?.trim().parse().ok()
    };
    let (user, system) = (seconds("used_cpu_user"), seconds("used_cpu_sys"));
    Ok((user.context("used_cpu_user")? + system.context("used_cpu_sys")?) * 1e6)
}

fn open(url: &str) -> Result<BufReader<TcpStream>> {
    let url = Url::parse(url).context("REDIS_URL")?;
    let address = (
        url.host_str().unwrap_or("127.0.0.1"),
        url.port().unwrap_or(6379),
    );
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut stream = BufReader::new(stream);
    if let Some(password) = url.password() {
        let user = Some(url.username()).filter(|user| !user.is_empty());
        command(&mut stream, &["AUTH", user.unwrap_or("default"), password])?;
        reply(&mut stream)?;
    }
    Ok(stream)
}

fn command(stream: &mut BufReader<TcpStream>, words: &[&str]) -> io::Result<()> {
    let mut text = format!("*{}\r\n", words.len());
    for word in words {
        text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.get_mut().write_all(text.as_bytes())
}

/// The next reply, flattened to lines; an error is an error.
fn reply(stream: &mut BufReader<TcpStream>) -> Result<Vec<String>> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let line = line.trim_end();
    let (kind, rest) = line
        .split_at_checked(1)
        .context("Redis closed the connection")?;
    match kind {
        "+" | ":" => Ok(vec![rest.to_owned()]),
        "$" => {
            let mut text = String::new();
            stream.read_line(&mut text)?;
            Ok(vec![text.trim_end().to_owned()])
        }
        "*" => {
            let mut all = Vec::new();
            for _ in 0..rest.parse()? {
                all.extend(reply(stream)?);
            }
            Ok(all)
        }
        _ => bail!("Redis answered {line}"),
    }
}
