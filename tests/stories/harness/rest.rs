//! REST as a client uses it, and the people that stories are about.

use anyhow::{Context, ensure};
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use super::process::Process;

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Answer {
    pub async fn of(response: reqwest::Response) -> anyhow::Result<Self> {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        Ok(Self {
            status,
            headers,
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
            text,
        })
    }

    /// The body, if the status is this one.
    pub fn expect(self, status: u16) -> anyhow::Result<Value> {
        ensure!(
            self.status == status,
            "expected {status}, got {}: {}",
            self.status,
            self.text
        );
        Ok(self.body)
    }

    /// Is it this problem (RFC 9457), with a trace id? Returns the body.
    pub fn problem(self, status: u16, kind: &str) -> anyhow::Result<Value> {
        is_problem(&self.headers, &self.body, kind)
            .with_context(|| format!("{} {}", self.status, self.text))?;
        self.expect(status)
    }
}

fn is_problem(headers: &HeaderMap, body: &Value, kind: &str) -> anyhow::Result<()> {
    let content_type = headers
        .get("content-type")
        .map(|v| v.to_str())
        .transpose()?;
    ensure!(
        content_type == Some("application/problem+json"),
        "content type is {content_type:?}"
    );
    let is = body["type"].as_str().unwrap_or_default();
    ensure!(
        is.rsplit('/').next() == Some(kind),
        "expected the problem {kind}, got {is:?}"
    );
    let trace = body["trace_id"].as_str().unwrap_or_default();
    ensure!(trace.len() == 32, "trace_id is {trace:?}");
    Ok(())
}

/// Somebody with tokens.
#[derive(Debug, Clone)]
pub struct Person {
    pub id: String,
    pub token: String,
    pub refresh_token: String,
}

impl Person {
    fn of(tokens: &Value) -> anyhow::Result<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let person = (|| {
            Some(Self {
                id: text(&tokens["user"]["id"])?,
                token: text(&tokens["access_token"])?,
                refresh_token: text(&tokens["refresh_token"])?,
            })
        })();
        person.with_context(|| format!("not tokens: {tokens}"))
    }
}

/// A client of one gateway, with or without a token.
#[derive(Debug, Clone)]
pub struct Rest {
    client: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl Rest {
    pub fn at(process: &Process) -> Self {
        Self {
            client: reqwest::Client::new(),
            base: process.url(""),
            token: None,
        }
    }

    #[must_use]
    pub fn as_person(&self, person: &Person) -> Self {
        self.with_token(&person.token)
    }

    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        Answer::of(self.request(Method::GET, path).send().await?).await
    }

    pub async fn post(&self, path: &str, body: Value) -> anyhow::Result<Answer> {
        Answer::of(self.request(Method::POST, path).json(&body).send().await?).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> anyhow::Result<Answer> {
        Answer::of(self.request(Method::PATCH, path).json(&body).send().await?).await
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        Answer::of(self.request(Method::DELETE, path).send().await?).await
    }

    pub async fn guest(&self, name: &str) -> anyhow::Result<Person> {
        let body = json!({"name": name});
        let tokens = self.post("/api/v1/auth/guest", body).await?.expect(201)?;
        Person::of(&tokens)
    }

    pub async fn register(&self, username: &str, password: &str) -> anyhow::Result<Person> {
        let body = json!({"username": username, "password": password});
        let answer = self.post("/api/v1/auth/register", body).await?;
        Person::of(&answer.expect(201)?)
    }

    pub async fn login(&self, username: &str, password: &str) -> anyhow::Result<Person> {
        let body = json!({"username": username, "password": password});
        let answer = self.post("/api/v1/auth/login", body).await?;
        Person::of(&answer.expect(200)?)
    }

    pub async fn refresh(&self, refresh_token: &str) -> anyhow::Result<Person> {
        let body = json!({"refresh_token": refresh_token});
        let answer = self.post("/api/v1/auth/refresh", body).await?;
        Person::of(&answer.expect(200)?)
    }

    /// Makes a room as this person; its id.
    pub async fn make_room(&self, body: Value) -> anyhow::Result<String> {
        let room = self.post("/api/v1/rooms", body).await?.expect(201)?;
        let id = room["id"].as_str().context("a room has an id")?;
        Ok(id.to_owned())
    }
}
