//! `Idempotency-Key` on every POST that makes something (outside `/auth`, and registering and coming as a guest): what was
//! made once is not made again when its request is sent again.
//!
//! A key belongs to whoever sends it (a person; without a token, an address) and to the path it is sent to. While the
//! first request is under way another gets 409; afterwards, for [`KEPT`], the same request gets the same answer and another
//! body 422. A request that made nothing (any answer but a 2xx) leaves its key free. A gateway that dies in between frees
//! the key after the lease; a job that it had taken in by then is found by the key in its row ([`AskedKey`]). Of an answer
//! with tokens nobody who reads the vault has anything: it is sealed, and kept for [`KEPT_TOKENS`] only.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use atelier_shared::ports::{ANSWER_MAX_BYTES, Once, OnceKey};
use axum::RequestPartsExt;
use axum::body::{Body, BodyDataStream, HttpBody};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::Stream;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::time::Timeout;
use tracing::Instrument;

use super::body_digest::BodyDigest;
use super::client::{ClientAddress, MaybePrincipal};
use super::extract::only;
use super::files;
use super::layers;
use super::problem::{Kind, Problem};
use super::state::App;
use super::trace;

pub const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// How long the answer is remembered.
pub const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// How long one with tokens is: whoever has had no answer by then has no use for them, and whoever has had it may have
/// exchanged the refresh token, which must not be presented twice.
const KEPT_TOKENS: Duration = Duration::from_secs(5 * 60);
/// What makes somebody under `/auth`; the rest of it makes nothing.
const WITH_TOKENS: [&str; 2] = ["/auth/register", "/auth/guest"];
/// Whose answer has links that lapse.
const UPLOAD: &str = "/upload";
/// Longest key, in characters.
const KEY_MAX_CHARS: usize = 255;
/// A key is held so much longer than a request may take.
const LEASE_SLACK: Duration = Duration::from_secs(5);
/// Longest body kept: base64 and headers must fit into the vault's bound with it.
const KEPT_BODY_MAX_BYTES: u64 = ANSWER_MAX_BYTES as u64 / 2;
/// What a handler leaves unread of a body is read here, so that the whole of it counts; beyond this the body is refused
/// as another one.
const UNREAD_MAX_BYTES: usize = 64 << 20;

/// The key of a request that makes something, where it has one: for what must not be made twice even if whoever makes it dies
/// before the answer is kept.
#[derive(Debug, Clone, Copy)]
pub struct AskedKey(pub Option<[u8; 32]>);

impl AskedKey {
    /// That of one of several things that one request makes.
    pub fn part(self, index: usize) -> Self {
        let part = |key: [u8; 32]| {
            let hash = Sha256::new().chain_update(key);
            hash.chain_update((index as u64).to_be_bytes()).finalize()
        };
        Self(self.0.map(|key| part(key).into()))
    }

    /// What is said of another body under it.
    pub fn mismatch() -> Problem {
        Problem::new(
            Kind::IdempotencyMismatch,
            "This Idempotency-Key was used for another request.",
        )
        .at("Idempotency-Key")
    }
}

impl<S: Sync> FromRequestParts<S> for AskedKey {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().copied().unwrap_or(Self(None)))
    }
}

/// An answer as the vault keeps it.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// SHA-256 of the request's body, hexadecimal.
    body_hash: String,
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

/// Middleware. Inside of everything that adds headers of its own.
pub async fn layer(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = resource(request.uri().path());
    let applies = request.method() == Method::POST
        && request.headers().contains_key(HEADER)
        && (!path.starts_with("/auth/") || WITH_TOKENS.contains(&path));
    if !applies {
        return next.run(request).await;
    }
    match once(app, request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

/// The path without `/api/v1` or `/api`, under which the same things stand.
fn resource(path: &str) -> &str {
    ["/api/v1", "/api"]
        .iter()
        .find_map(|prefix| {
            path.strip_prefix(prefix)
                .filter(|rest| rest.starts_with('/'))
        })
        .unwrap_or(path)
}

async fn once(app: App, request: Request, next: Next) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let (key, secret) = key_of(&app, &mut parts).await?;
    let patience = layers::patience(&app.config, &parts.extensions);
    match app
        .backends
        .vault
        .begin_once(&key, patience + LEASE_SLACK)
        .await?
    {
        Once::InFlight => Err(Problem::new(
            Kind::IdempotencyInFlight,
            "A request with this Idempotency-Key is under way.",
        )
        .at("Idempotency-Key")),
        Once::Answered(kept) => match &secret {
            None => {
                let answer = replay(&kept, digest(&parts.headers), body).await?;
                Ok(if resource(parts.uri.path()) == UPLOAD {
                    files::linked_anew(&app, answer).await
                } else {
                    answer
                })
            }
            Some(secret) => {
                let opened = app.identity.open_answer(secret, &kept);
                let opened = opened.ok_or_else(Problem::internal)?;
                replay(&opened, digest(&parts.headers), body).await
            }
        },
        Once::Begun => {
            let (tee, body) = Tee::new(digest(&parts.headers), body);
            let asked = Sha256::new().chain_update(key.owner).chain_update(key.key);
            parts
                .extensions
                .insert(AskedKey(Some(asked.finalize().into())));
            let request = Request::from_parts(parts, body);
            // On a task of its own: a client that hangs up sends its request again, and must not find it half done.
            let handler = tokio::time::timeout(patience, next.run(request));
            let work = carry_out(app, key, secret, tee, handler);
            let work = tokio::spawn(trace::carried(work).in_current_span());
            match work.await {
                Ok(response) => Ok(response),
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => Ok(layers::panicked(panic)),
                    Err(_) => Err(Problem::internal()),
                },
            }
        }
    }
}

/// The key, and, where the answer has tokens, what it is sealed with.
async fn key_of(app: &App, parts: &mut Parts) -> Result<(OnceKey, Option<Vec<u8>>), Problem> {
    let value = only(&parts.headers, &HEADER).and_then(|v| v.to_str().ok());
    let value = value.map(str::trim).unwrap_or_default().to_owned();
    let visible = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if value.is_empty() || value.len() > KEY_MAX_CHARS || !visible {
        return Err(Problem::new(
            Kind::Invalid,
            format!("must stand once and have 1 to {KEY_MAX_CHARS} visible ASCII characters"),
        )
        .at("Idempotency-Key"));
    }
    let path = parts.uri.path().to_owned();
    let target = resource(&path);
    let with_tokens = WITH_TOKENS.contains(&target);
    let principal = match parts.extract_with_state(app).await {
        Ok(MaybePrincipal(principal)) => principal,
        // Whoever asks for tokens may have none that is good.
        Err(problem) if with_tokens && problem.status() == StatusCode::UNAUTHORIZED => None,
        Err(problem) => return Err(problem),
    };
    let owner = match principal {
        Some(principal) => format!("user:{}", principal.user_id),
        None => {
            let ClientAddress(address) = parts.extract_with_state(app).await?;
            format!("address:{address}")
        }
    };
    let query = parts.uri.query().unwrap_or_default();
    let secret = with_tokens.then(|| format!("{owner}\n{target}\n{value}").into_bytes());
    let key = OnceKey {
        owner: Sha256::digest(owner).into(),
        key: Sha256::digest(format!("{target}?{query}\n{value}")).into(),
        request: rand::random(),
    };
    Ok((key, secret))
}

/// Waits for the handler and settles the key by what it answered.
async fn carry_out(
    app: App,
    key: OnceKey,
    secret: Option<Vec<u8>>,
    tee: Tee,
    handler: Timeout<impl Future<Output = Response>>,
) -> Response {
    let Ok(response) = handler.await else {
        // It may have been carried out: the key stays held until the lease is over.
        return layers::timed_out();
    };
    let vault = &app.backends.vault;
    if !response.status().is_success() {
        if let Err(error) = vault.forget_once(&key).await {
            tracing::debug!(%error, "an idempotency key is not free before its lease is over");
        }
        return response;
    }
    let size = response.body().size_hint().exact();
    if size.is_none_or(|size| size > KEPT_BODY_MAX_BYTES) {
        // What is made in one request is told in a few lines; a stream or a file is no answer to remember.
        tracing::warn!(?size, "an answer is not kept for its Idempotency-Key");
        return response;
    }
    let body_hash = tee.hash().await;
    let (parts, body) = response.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, ANSWER_MAX_BYTES).await else {
        return Problem::internal().into_response();
    };
    let shown = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let headers = parts.headers.iter();
    let kept = Kept {
        body_hash,
        status: parts.status.as_u16(),
        headers: headers
            .filter_map(|(name, value)| Some((name.to_string(), shown(value)?)))
            .collect(),
        body: STANDARD.encode(&bytes),
    };
    let mut text = serde_json::to_string(&kept).unwrap_or_default();
    let keep = if let Some(secret) = &secret {
        let Some(sealed) = app.identity.seal_answer(secret, &text) else {
            return Response::from_parts(parts, Body::from(bytes));
        };
        text = sealed;
        KEPT_TOKENS
    } else {
        KEPT
    };
    match vault.answer_once(&key, &text, keep).await {
        Ok(true) => {}
        Ok(false) => tracing::warn!("an Idempotency-Key was lost to another request"),
        Err(error) => tracing::warn!(%error, "an answer was not kept for its Idempotency-Key"),
    }
    Response::from_parts(parts, Body::from(bytes))
}

async fn replay(kept: &str, digest: BodyDigest, body: Body) -> Result<Response, Problem> {
    let kept: Kept = serde_json::from_str(kept).map_err(|error| {
        tracing::error!(%error, "a kept answer can't be read");
        Problem::internal()
    })?;
    let (tee, body) = Tee::new(digest, body);
    drop(body);
    if tee.hash().await != kept.body_hash {
        return Err(AskedKey::mismatch());
    }
    let mut response = Response::new(Body::from(STANDARD.decode(kept.body).unwrap_or_default()));
    *response.status_mut() = StatusCode::from_u16(kept.status).unwrap_or_default();
    for (name, value) in kept.headers {
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(&value),
        ) {
            response.headers_mut().append(name, value);
        }
    }
    Ok(response)
}

/// A form is the same whatever boundary its sender drew: every try has another one.
fn digest(headers: &HeaderMap) -> BodyDigest {
    let boundary = only(headers, &header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| multer::parse_boundary(value).ok());
    BodyDigest::new(boundary.as_deref())
}

/// Sees what the handler reads of a body; reads the rest itself.
#[derive(Clone)]
struct Tee(Arc<Mutex<Reading>>);

struct Reading {
    body: BodyDataStream,
    hash: BodyDigest,
    ended: bool,
}

impl Tee {
    fn new(hash: BodyDigest, body: Body) -> (Self, Body) {
        let tee = Self(Arc::new(Mutex::new(Reading {
            ended: body.is_end_stream(),
            body: body.into_data_stream(),
            hash,
        })));
        (tee.clone(), Body::from_stream(tee))
    }

    /// Of the whole body, whoever read it; of a body that breaks off, something no other has.
    async fn hash(mut self) -> String {
        let mut unread = 0;
        while let Some(piece) = futures::StreamExt::next(&mut self).await {
            match piece {
                Ok(piece) if unread <= UNREAD_MAX_BYTES => unread += piece.len(),
                _ => return hex::encode(rand::random::<[u8; 32]>()),
            }
        }
        self.0.lock().hash.clone().finish()
    }
}

impl Stream for Tee {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut reading = self.0.lock();
        if reading.ended {
            return Poll::Ready(None);
        }
        let piece = Pin::new(&mut reading.body).poll_next(cx);
        match &piece {
            Poll::Ready(Some(Ok(bytes))) => reading.hash.update(bytes),
            Poll::Ready(_) => reading.ended = true,
            Poll::Pending => {}
        }
        piece
    }
}
