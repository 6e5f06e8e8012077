//! Files of the largest size uploaded one after the other, beside `cp` of the same file to the same disk.

use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::Settings;
use crate::http::Http;
use crate::process::OnLoadCore;
use crate::report::Section;
use crate::server;

/// As large as a file may be.
const BYTES: usize = 10_485_760;
/// Files of one repetition.
const FILES: usize = 8;
const PNG: [u8; 8] = *b"\x89PNG\r\n\x1a\n";
const BOUNDARY: &str = "bench-boundary-7f3a";

pub fn measure(settings: &Settings) -> Result<Vec<Section>> {
    let server = server::embedded()?;
    let folder = server.data().join("bench");
    fs::create_dir_all(&folder)?;
    let bytes = picture();
    let original = folder.join("original.png");
    fs::write(&original, &bytes)?;
    let mut http = Http::connect(server.address)?;
    let guest = http.post("/api/v1/auth/guest", "", &json!({"name": "bench"}))?;
    let token = guest["access_token"].as_str().context("a token")?;
    let headers = format!(
        "Authorization: Bearer {token}\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
    );
    let head = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.png\"\r\nContent-Type: image/png\r\n\r\n"
    );
    let tail = format!("\r\n--{BOUNDARY}--\r\n");
    let form = [head.as_bytes(), &bytes, tail.as_bytes()];
    let title = format!("files of {} MiB", BYTES >> 20);
    let mut section = Section::new(title, "ms each", &["cp", "POST /upload"]);
    let _core = OnLoadCore::enter()?;
    http.ask("POST", "/api/v1/upload", &headers, &form)?.ok()?;
    for repetition in 0..settings.repetitions {
        let began = Instant::now();
        for file in 0..FILES {
            let copy = folder.join(format!("{repetition}-{file}.png"));
            let done = Command::new("cp").arg(&original).arg(copy).status()?;
            ensure!(done.success(), "cp failed: {done}");
        }
        let copied = began.elapsed();
        // The server closes connections that are silent for long.
        let mut http = Http::connect(server.address)?;
        let began = Instant::now();
        for _ in 0..FILES {
            http.ask("POST", "/api/v1/upload", &headers, &form)?.ok()?;
        }
        let uploaded = began.elapsed();
        for (row, took) in section.rows.iter_mut().zip([copied, uploaded]) {
            let each = took.as_secs_f64() / FILES as f64;
            row.push(each * 1e3, &[("MB/s", BYTES as f64 / 1e6 / each)]);
        }
    }
    Ok(vec![section])
}

/// Begins as a picture does; the rest nobody can compress.
fn picture() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = PNG.to_vec();
    while bytes.len() < BYTES {
        // xorshift64 (Marsaglia 2003)
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(BYTES);
    bytes
}
