//! What the REST side costs: logins beside bare password hashes, a profile and a page of ten thousand rooms beside an answer
//! that says nothing.

use std::time::Instant;

use anyhow::{Context as _, Result};
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use serde_json::{Value, json};

use crate::Settings;
use crate::http::Http;
use crate::process::{OnLoadCore, SERVER_CORE, pin_while};
use crate::report::Section;
use crate::server::{self, Server};

/// Logins of one repetition, by [`CALLERS`] at a time.
const LOGINS: usize = 40;
const CALLERS: usize = 4;
const PASSWORD: &str = "correct horse battery staple";
/// Requests of one repetition.
const READS: usize = 2_000;
const PAGES: usize = 400;
/// Rooms in the long list and in the short one.
const MANY_ROOMS: usize = 10_000;
const FEW_ROOMS: usize = 100;
/// Connections that make them, so that they share commits.
const MAKERS: usize = 8;

/// Both on one core: hashing is all that a login should cost.
pub fn logins(settings: &Settings) -> Result<Vec<Section>> {
    let server = server::embedded()?;
    let mut people = Vec::new();
    for caller in 0..CALLERS {
        let mut http = Http::connect(server.address)?;
        let body = json!({"username": format!("bench{caller}"), "password": PASSWORD});
        http.post("/api/v1/auth/register", "", &body)?;
        people.push((http, body));
    }
    let argon2 = argon2()?;
    let hash = argon2.hash_password(PASSWORD.as_bytes());
    let hash = hash.map_err(anyhow::Error::msg)?.to_string();
    let names = ["bare argon2id call (19 MiB, 2 passes)", "POST /auth/login"];
    let mut section = Section::new("logins, on one core", "ms each", &names);
    for _ in 0..settings.repetitions {
        let bare = pin_while(SERVER_CORE, || -> Result<f64> {
            let began = Instant::now();
            for _ in 0..LOGINS {
                let parsed = PasswordHash::new(&hash).map_err(anyhow::Error::msg)?;
                argon2
                    .verify_password(PASSWORD.as_bytes(), &parsed)
                    .map_err(anyhow::Error::msg)?;
            }
            Ok(began.elapsed().as_secs_f64())
        })??;
        let _core = OnLoadCore::enter()?;
        for (http, _) in &mut people {
            // The server closes connections that are silent for long, and on a busy machine the bare calls are.
            *http = Http::connect(server.address)?;
        }
        let began = Instant::now();
        std::thread::scope(|scope| {
            let log_in = |(http, body): &mut (Http, Value)| -> Result<()> {
                for _ in 0..LOGINS / CALLERS {
                    http.post("/api/v1/auth/login", "", body)?;
                }
                Ok(())
            };
            let callers: Vec<_> = people
                .iter_mut()
                .map(|person| scope.spawn(move || log_in(person)))
                .collect();
            callers.into_iter().try_for_each(|caller| {
                caller
                    .join()
                    .map_err(|_| anyhow::anyhow!("a caller panicked"))?
            })
        })?;
        let ours = began.elapsed().as_secs_f64();
        for (row, seconds) in section.rows.iter_mut().zip([bare, ours]) {
            let each = seconds / LOGINS as f64;
            row.push(each * 1e3, &[("a second", 1.0 / each)]);
        }
    }
    Ok(vec![section])
}

fn argon2() -> Result<Argon2<'static>> {
    let params = Params::new(19_456, 2, 1, None).map_err(anyhow::Error::msg)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// A profile that was read before.
pub fn profile(settings: &Settings) -> Result<Vec<Section>> {
    let server = server::embedded()?;
    let mut http = Http::connect(server.address)?;
    let body = json!({"username": "ana", "password": PASSWORD});
    let person = http.post("/api/v1/auth/register", "", &body)?;
    let id = person["user"]["id"].as_str().context("the person's id")?;
    let path = format!("/api/v1/users/{id}");
    let paths = [
        ("GET /livez".to_owned(), "/livez", String::new()),
        (
            "GET /users/{id}".to_owned(),
            path.as_str(),
            authorization(&person)?,
        ),
    ];
    let title = "a profile, read before";
    Ok(vec![reads(settings, title, READS, &server, &paths)?])
}

/// A page of all rooms, where there are few and where there are many.
pub fn listing(settings: &Settings) -> Result<Vec<Section>> {
    let server = server::embedded()?;
    let mut http = Http::connect(server.address)?;
    let guest = http.post("/api/v1/auth/guest", "", &json!({"name": "bench"}))?;
    let token = authorization(&guest)?;
    let mut sections = Vec::new();
    let mut made = 0;
    for rooms in [FEW_ROOMS, MANY_ROOMS] {
        make_rooms(&server, &token, rooms - made)?;
        made = rooms;
        let paths = [
            ("GET /livez".to_owned(), "/livez", String::new()),
            (
                "GET /api/v1/rooms, 50 of them".to_owned(),
                "/api/v1/rooms",
                token.clone(),
            ),
            (
                "GET /api/v1/rooms, nobody's".to_owned(),
                "/api/v1/rooms",
                String::new(),
            ),
        ];
        let title = format!("list of rooms, where there are {rooms}");
        sections.push(reads(settings, &title, PAGES, &server, &paths)?);
    }
    Ok(sections)
}

fn make_rooms(server: &Server, token: &str, rooms: usize) -> Result<()> {
    std::thread::scope(|scope| {
        let make = |maker: usize| -> Result<()> {
            let mut http = Http::connect(server.address)?;
            for room in (maker..rooms).step_by(MAKERS) {
                let body =
                    json!({"name": format!("Room {room}"), "kind": "open", "retention": "keep"});
                http.post("/api/v1/rooms", token, &body)?;
            }
            Ok(())
        };
        let makers: Vec<_> = (0..MAKERS)
            .map(|maker| scope.spawn(move || make(maker)))
            .collect();
        makers.into_iter().try_for_each(|maker| {
            maker
                .join()
                .map_err(|_| anyhow::anyhow!("a maker of rooms panicked"))?
        })
    })
}

/// CPU time of the server for each request of each kind, one after the other on one connection.
fn reads(
    settings: &Settings,
    title: &str,
    many: usize,
    server: &Server,
    paths: &[(String, &str, String)],
) -> Result<Section> {
    let names: Vec<&str> = paths.iter().map(|(name, ..)| name.as_str()).collect();
    let mut section = Section::new(title, "CPU us each", &names);
    let _core = OnLoadCore::enter()?;
    let mut http = Http::connect(server.address)?;
    for (_, path, headers) in paths {
        http.get(path, headers)?;
    }
    for _ in 0..settings.repetitions {
        for (row, (_, path, headers)) in section.rows.iter_mut().zip(paths) {
            let cpu = server.process.cpu_time()?;
            let began = Instant::now();
            for _ in 0..many {
                http.get(path, headers)?;
            }
            let waited_us = began.elapsed().as_secs_f64() * 1e6 / many as f64;
            let cpu_us = server.process.cpu_time()?.since_ns(&cpu) as f64 / 1e3;
            row.push(cpu_us / many as f64, &[("us until answered", waited_us)]);
        }
    }
    Ok(section)
}

fn authorization(login: &Value) -> Result<String> {
    let token = login["access_token"].as_str().context("a token")?;
    Ok(format!("Authorization: Bearer {token}\r\n"))
}
