//! One connection that asks one thing after the other, at hardly any cost of its own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

pub struct Http {
    stream: BufReader<TcpStream>,
    head: String,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Http {
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::new(stream),
            head: String::new(),
        })
    }

    /// `headers`: whole lines, each with its end.
    pub fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[&[u8]],
    ) -> Result<Answer> {
        let length: usize = body.iter().map(|part| part.len()).sum();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        let stream = self.stream.get_mut();
        stream.write_all(head.as_bytes())?;
        for part in body {
            stream.write_all(part)?;
        }
        self.answer().with_context(|| format!("{method} {path}"))
    }

    /// # Errors
    /// Any answer but a 2xx.
    pub fn get(&mut self, path: &str, headers: &str) -> Result<Vec<u8>> {
        let answer = self.ask("GET", path, headers, &[])?;
        answer.ok()
    }

    /// # Errors
    /// Any answer but a 2xx.
    pub fn post(&mut self, path: &str, headers: &str, body: &Value) -> Result<Value> {
        let headers = format!("Content-Type: application/json\r\n{headers}");
        let body = body.to_string();
        let answer = self.ask("POST", path, &headers, &[body.as_bytes()])?;
        Ok(serde_json::from_slice(&answer.ok()?)?)
    }

    fn answer(&mut self) -> Result<Answer> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.with_context(|| format!("no status in {first:?}"))?;
        let mut length = 0;
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(Answer { status, body })
    }

    fn line(&mut self) -> Result<String> {
        self.head.clear();
        let got = self.stream.read_line(&mut self.head)?;
        ensure!(got > 0, "the server closed");
        Ok(self.head.trim_end().to_owned())
    }
}

impl Answer {
    pub fn ok(self) -> Result<Vec<u8>> {
        let text = || String::from_utf8_lossy(&self.body).into_owned();
        ensure!(
            (200..300).contains(&self.status),
            "{} {}",
            self.status,
            text()
        );
        Ok(self.body)
    }
}
