//! What the placeholders of one row stand for: made when they are first asked for.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use reqwest::Method;
use serde_json::{Value, json};

use super::cast::{Cast, id_of};
use super::table::Route;
use crate::harness::{Answer, Rest, fresh};

/// The administrator's token is nobody's in particular.
const NIL: &str = "00000000-0000-0000-0000-000000000000";
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0\x90wS\xde";

/// The things of one row, or of one cell of it.
pub struct Scene<'a> {
    cast: &'a Cast,
    route: &'a Route,
    values: BTreeMap<String, String>,
}

impl<'a> Scene<'a> {
    pub fn new(cast: &'a Cast, route: &'a Route) -> Self {
        Self {
            cast,
            route,
            values: BTreeMap::new(),
        }
    }

    /// Puts in what `{…}` stands for.
    async fn fill(&mut self, text: &str, caller: &str) -> anyhow::Result<String> {
        let mut filled = String::new();
        let mut rest = text;
        while let Some(start) = rest.find('{') {
            let name: String = rest[start + 1..]
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                .collect();
            let end = start + 1 + name.len();
            if name.is_empty() || !rest[end..].starts_with('}') {
                // A brace of JSON.
                filled.push_str(&rest[..=start]);
                rest = &rest[start + 1..];
                continue;
            }
            filled.push_str(&rest[..start]);
            filled.push_str(&self.value(&name, caller).await?);
            rest = &rest[end + 1..];
        }
        filled.push_str(rest);
        Ok(filled)
    }

    /// Asks as this caller; the path may be another one than the row's, with the same placeholders.
    pub async fn ask(&mut self, rest: &Rest, path: &str, caller: &str) -> anyhow::Result<Answer> {
        let route = self.route;
        let mut path = self.fill(path, caller).await?;
        let mut body = self.fill(&route.extra, caller).await?;
        if body.starts_with('?') {
            path.push_str(&std::mem::take(&mut body));
        }
        if route.is("link") {
            path = format!("{path}?{}", self.value("link", caller).await?);
        }
        if route.method == "WS" {
            let handshake = rest
                .request(Method::GET, &path)
                .header("connection", "upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
            let response = handshake.send().await?;
            if response.status() == 101 {
                // Nothing behind it is read: the socket is gone with this.
                let (status, headers) = (101, response.headers().clone());
                let (body, text) = (Value::Null, String::new());
                return Ok(Answer {
                    status,
                    headers,
                    body,
                    text,
                });
            }
            return Answer::of(response).await;
        }
        let request = rest.request(route.method.parse()?, &path);
        let request = match body.as_str() {
            "" => request,
            "@file" if route.of.is_empty() => with_form(request, None),
            "@file" => with_form(request, Some(&self.room().await?)),
            body => request
                .header("content-type", "application/json")
                .body(body.to_owned()),
        };
        Answer::of(request.send().await?).await
    }

    async fn value(&mut self, name: &str, caller: &str) -> anyhow::Result<String> {
        match name {
            "fresh" => Ok(fresh("n")),
            "user_id" if self.route.is("self") => Ok(match caller {
                "admin" => NIL.to_owned(),
                caller => self.id(if self.cast.id(caller).is_some() {
                    caller
                } else {
                    "bystander"
                })?,
            }),
            "user_id" => self.id("bystander"),
            "newcomer" => self.id("newcomer"),
            "stranger_name" => Ok("stranger".to_owned()),
            "refresh_token" => Ok(self.cast.somebody("guest").await?.refresh_token),
            "name" => Ok("code_execution".to_owned()),
            "id" => Ok("none".to_owned()),
            "removal_id" => Ok(NIL.to_owned()),
            "path" => Ok("out.txt".to_owned()),
            "job_id" if self.route.is("done") => self.cast.done_job(self.route.is("project")).await,
            name => self.thing(name).await,
        }
    }

    fn id(&self, who: &str) -> anyhow::Result<String> {
        Ok(self.cast.id(who).context("an id")?.to_owned())
    }

    async fn thing(&mut self, name: &str) -> anyhow::Result<String> {
        if let Some(known) = self.values.get(name) {
            return Ok(known.clone());
        }
        let made = match name {
            "room_id" | "session_id" => return self.room().await,
            "workspace_id" if self.anew(name) => self.cast.make_workspace().await?,
            "workspace_id" => self.cast.places.workspace.clone(),
            "project_id" if self.anew(name) => {
                let workspace = self.cast.make_workspace().await?;
                self.cast.make_project(&workspace).await?
            }
            "project_id" => self.cast.places.project.clone(),
            "team_id" if self.anew(name) => self.cast.make_team().await?,
            "team_id" => self.cast.places.team.clone(),
            "invite_id" | "code" => return self.invitation(name).await,
            "backup_id" => {
                let path = format!("/api/v1/rooms/{}/backups", self.room().await?);
                id_of(&self.made(&path, json!({})).await?)?
            }
            "file_id" | "link" => return self.file(name).await,
            "job_id" => {
                let mut body =
                    json!({"language": "python", "source": "import time; time.sleep(60)"});
                if self.route.is("project") {
                    body["room_id"] = self.room().await?.into();
                }
                let host = self.cast.rest("host");
                id_of(&host.post("/api/v1/jobs", body).await?.expect(202)?)?
            }
            "insight_id" => {
                let mut body = json!({"title": "Slow"});
                if self.route.is("team") {
                    body["team_id"] = self.cast.places.team.clone().into();
                }
                id_of(&self.made("/api/v1/insights", body).await?)?
            }
            other => bail!("nothing is known of {{{other}}}"),
        };
        self.values.insert(name.to_owned(), made.clone());
        Ok(made)
    }

    /// Will the row change the place? Then it gets one of its own.
    fn anew(&self, name: &str) -> bool {
        self.route.changes() && self.route.path.contains(&format!("{{{name}}}"))
    }

    async fn room(&mut self) -> anyhow::Result<String> {
        if let Some(room) = self.values.get("room_id") {
            return Ok(room.clone());
        }
        let kinds = ["open", "session", "whiteboard", "project"];
        let kind = kinds.into_iter().find(|kind| self.route.is(kind));
        let kind = kind.with_context(|| format!("which room? {:?}", self.route))?;
        let room = self.cast.make_room(kind).await?;
        self.values.insert("room_id".to_owned(), room.clone());
        Ok(room)
    }

    async fn made(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.cast.rest("host").post(path, body).await?.expect(201)
    }

    async fn invitation(&mut self, name: &str) -> anyhow::Result<String> {
        let path = format!("/api/v1/rooms/{}/invites", self.room().await?);
        let made = self.made(&path, json!({"role": "editor"})).await?;
        let code = made["code"].as_str().context("a code")?.to_owned();
        self.values.insert("invite_id".to_owned(), id_of(&made)?);
        self.values.insert("code".to_owned(), code);
        Ok(self.values[name].clone())
    }

    async fn file(&mut self, name: &str) -> anyhow::Result<String> {
        let room = self.room().await?;
        let request = self.cast.rest("host").request(Method::POST, "/upload");
        let answer = with_form(request, Some(&room)).send().await?;
        let file = Answer::of(answer).await?.expect(201)?;
        let url = file["url"].as_str().context("a link")?;
        let (_, query) = url.split_once('?').context("a signed link")?;
        self.values.insert("link".to_owned(), query.to_owned());
        self.values.insert("file_id".to_owned(), id_of(&file)?);
        Ok(self.values[name].clone())
    }
}

fn with_form(request: reqwest::RequestBuilder, room: Option<&str>) -> reqwest::RequestBuilder {
    let boundary = fresh("boundary");
    let mut body = Vec::new();
    if let Some(room) = room {
        let part = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"room_id\"\r\n\r\n{room}\r\n"
        );
        body.extend(part.bytes());
    }
    let part = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.png\"\r\n\r\n"
    );
    body.extend(part.bytes());
    body.extend(PNG);
    body.extend(format!("\r\n--{boundary}--\r\n").bytes());
    request
        .header(
            "content-type",
            format!("multipart/form-data; boundary={boundary}"),
        )
        .body(body)
}
