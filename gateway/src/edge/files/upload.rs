//! `POST /upload`: one file of a multipart form, streamed to the file store as it comes in; no more than a part of it is
//! ever held.

use std::sync::Arc;
use std::time::Duration;

use atelier_shared::domain::entry::{Author, Body as EntryBody, Record};
use atelier_shared::domain::file::{self, SharedFile, StoredFile};
use atelier_shared::domain::ids::{FileId, Ref};
use atelier_shared::domain::room::{Role, Room};
use atelier_shared::ports::{PortError, Result as PortResult};
use atelier_shared::recovery;
use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use bytes::{Bytes, BytesMut};
use chrono::{SubsecRound, Utc};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use multer::{Field, Multipart};
use parking_lot::Mutex;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::super::client::{MaybePrincipal, may};
use super::super::extract::Query;
use super::super::problem::{Kind, Problem};
use super::super::refusals::{BadForm, Failures, Missing, NeedsRight};
use super::super::state::App;
use super::sender::{author, may_upload_nowhere_yet, room_of};
use super::tap::Tap;
use super::{FileView, kinds, svg};
use crate::identity::Principal;

/// What a form may have beside its file: boundaries, headers, other fields.
const FORM_OVERHEAD: u64 = 64 * 1024;
/// Fields of one form.
const FIELDS_MAX: usize = 16;
/// Longest value of a field that is not the file, bytes.
const FIELD_MAX: usize = 1_024;
/// A sender that is silent for so long has gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long an upload waits for its turn.
const TURN_PATIENCE: Duration = Duration::from_secs(60);
/// How long the row of a stored file is tried.
const ROW_PATIENCE: Duration = Duration::from_secs(20);
const ROW_PAUSE: Duration = Duration::from_millis(200);
/// How long a room's log that is away is waited for to tell it of a file, how often it is tried, and how long the sender
/// waits for that.
const TELL_PATIENCE: Duration = Duration::from_secs(600);
const TELL_PAUSE: Duration = Duration::from_secs(1);
const TELL_WAIT: Duration = Duration::from_secs(15);
/// What is still read of a body that is refused, and how long, so that the sender gets to read why.
const REST_PATIENCE: Duration = Duration::from_secs(10);
/// An SVG is looked at whole, and its tree takes several times its size: so many at once.
const SVG_AT_ONCE: usize = 2;

/// The gateway's turns for uploading.
pub struct Uploads {
    turns: Arc<Semaphore>,
    svg: Semaphore,
}

impl Uploads {
    pub fn new(at_once: usize) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(at_once.max(1))),
            svg: Semaphore::new(SVG_AT_ONCE),
        }
    }
}

/// `multipart/form-data`
#[derive(ToSchema)]
#[expect(dead_code, reason = "only described")]
pub struct UploadForm {
    #[schema(content_media_type = "application/octet-stream")]
    file: String,
    /// The room that it is shown in at once; without it the file is in no room until a `chat_message` names it
    room_id: Option<String>,
    /// Of somebody without a token, what `connected` told them: the room sees whose it is
    resume_token: Option<String>,
}

#[derive(Deserialize, IntoParams)]
pub struct UploadQuery {
    /// As the form's field, which counts if both are there
    room_id: Option<String>,
}

/// Uploads a file. Its type is what its bytes are, whatever it is called; SVG is stored without what could run.
#[utoipa::path(post, path = "/upload", tag = "files", request_body(content = UploadForm, content_type = "multipart/form-data"), params(UploadQuery), security((), ("bearer" = [])), responses(
    (status = 201, description = "Stored, and told to the room", body = FileView),
    BadForm,
    NeedsRight, Missing, Failures,
))]
pub async fn upload(
    State(app): State<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Query(query): Query<UploadQuery>,
    request: Request,
) -> Result<impl IntoResponse, Problem> {
    let boundary = boundary(request.headers())?;
    let limit = u64::from(app.config.max_file_size);
    let declared = content_length(request.headers());
    let body = Arc::new(Tap::new(
        request.into_body().into_data_stream(),
        limit + FORM_OVERHEAD,
    ));
    let outcome = if declared.is_some_and(|length| length > limit + FORM_OVERHEAD) {
        Err(too_large(&app))
    } else {
        let received = receive(&app, principal.as_ref(), query, &body, boundary);
        tokio::time::timeout(app.config.upload_timeout(), received)
            .await
            .unwrap_or_else(|_| Err(Problem::new(Kind::Timeout, "The upload took too long.")))
    };
    match outcome {
        Ok(file) => {
            let location = format!("/api/v1/files/{}", file.id);
            let view = FileView::new(&app, file);
            Ok((
                StatusCode::CREATED,
                [(header::LOCATION, location)],
                Json(view),
            ))
        }
        Err(problem) => {
            let problem = if body.is_over() {
                too_large(&app)
            } else {
                problem
            };
            // Twice as much as would have been taken: who sends more than that is cut off.
            let rest = body.read_on(2 * (limit + FORM_OVERHEAD));
            let _ = tokio::time::timeout(REST_PATIENCE, rest).await;
            Err(problem)
        }
    }
}

fn boundary(headers: &HeaderMap) -> Result<String, Problem> {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| multer::parse_boundary(value).ok())
        .ok_or_else(|| {
            Problem::new(
                Kind::UnsupportedMediaType,
                "Send a form: Content-Type: multipart/form-data with a boundary, and the file in the field `file`.",
            )
        })
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn too_large(app: &App) -> Problem {
    let limit = app.config.max_file_size;
    Problem::new(
        Kind::TooLarge,
        format!("A file may have at most {limit} bytes."),
    )
    .at("file")
}

fn broken(error: &multer::Error) -> Problem {
    Problem::new(Kind::Malformed, format!("The form can't be read: {error}"))
}

/// The form's fields in whatever order they come. Where the room is named first, it is asked before anything is stored.
async fn receive(
    app: &App,
    principal: Option<&Principal>,
    query: UploadQuery,
    body: &Arc<Tap>,
    boundary: String,
) -> Result<StoredFile, Problem> {
    let turn = app.uploads.turns.clone().acquire_owned();
    let _turn = tokio::time::timeout(TURN_PATIENCE, turn)
        .await
        .ok()
        .and_then(Result::ok)
        .ok_or_else(|| {
            Problem::new(
                Kind::Busy,
                "Too many uploads at once; try again in a moment.",
            )
        })?;
    let mut form = Multipart::new(body.stream(), boundary);
    let mut room = room_of(app, principal, query.room_id.unwrap_or_default()).await?;
    let mut stranger = None;
    let mut stored: Option<Stored<'_>> = None;
    for _ in 0..FIELDS_MAX {
        let field = form.next_field().await.map_err(|error| broken(&error))?;
        let Some(field) = field else { break };
        match field.name() {
            Some("room_id") => {
                let text = short_text(field, body).await?;
                room = room_of(app, principal, text).await?.or(room);
            }
            Some("resume_token") => {
                let token = short_text(field, body).await?;
                let claim = app.identity.verify_resume_token(&token);
                stranger = claim.filter(|claim| claim.anonymous);
            }
            Some("file") if stored.is_some() => {
                return Err(Problem::invalid("file", "send one file at a time"));
            }
            Some("file") => {
                if room.is_none() {
                    may_upload_nowhere_yet(app, principal)?;
                }
                stored = Some(store(app, field, body).await?);
            }
            name if field.file_name().is_some() => {
                let name = name.unwrap_or_default();
                let text = format!("send the file in the field `file`, not in `{name}`");
                return Err(Problem::invalid("file", text));
            }
            _ => {
                short_text(field, body).await?;
            }
        }
    }
    let stored = stored.ok_or_else(|| Problem::invalid("file", "is missing"))?;
    if let Some(room) = &room {
        // They may have been sent out while the file came.
        let allowed = may(app, &room.id, principal, Role::Editor).await;
        allowed.map_err(|problem| problem.at("room_id"))?;
    }
    let shown_in = room.as_ref().map(|room| &room.id);
    let author = author(app, principal, stranger, shown_in).await?;
    let kept = keep(app, principal, &author, room, stored).await?;
    if kept.room.is_some() {
        let telling = tokio::spawn(tell(app.clone(), author, kept.clone()));
        match tokio::time::timeout(TELL_WAIT, telling).await {
            Ok(told) => told.map_err(|_| Problem::internal())??,
            // The file is there, and a second try would make another: it is told when the log is back.
            Err(_) => {
                tracing::warn!(file = %kept.id, "a file is stored and not told to its room yet");
            }
        }
    }
    Ok(kept)
}

async fn short_text(mut field: Field<'static>, body: &Tap) -> Result<String, Problem> {
    let mut text = Vec::new();
    while let Some(chunk) = next_chunk(&mut field).await? {
        body.used(chunk.len());
        if text.len() + chunk.len() > FIELD_MAX {
            return Err(Problem::new(
                Kind::Invalid,
                format!("must have at most {FIELD_MAX} bytes"),
            )
            .at(field.name().unwrap_or_default()));
        }
        text.extend_from_slice(&chunk);
    }
    String::from_utf8(text).map_err(|_| {
        let name = field.name().unwrap_or_default();
        Problem::new(Kind::Invalid, "must be text in UTF-8").at(name)
    })
}

async fn next_chunk(field: &mut Field<'static>) -> Result<Option<Bytes>, Problem> {
    match tokio::time::timeout(SILENCE_MAX, field.chunk()).await {
        Ok(chunk) => chunk.map_err(|error| broken(&error)),
        Err(_) => Err(Problem::new(
            Kind::Malformed,
            "The form ended before it was whole.",
        )),
    }
}

/// Bytes in the store that no row knows yet: gone again unless they are kept.
struct Stored<'a> {
    app: &'a App,
    id: FileId,
    name: String,
    content_type: &'static str,
    size: u64,
    sha256: String,
    kept: bool,
}

impl Drop for Stored<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (files, key) = (self.app.backends.files.clone(), file::key(self.id));
        // If this fails too, the cleanup of orphaned files takes them.
        tokio::spawn(async move {
            if let Err(error) = files.delete(&key).await {
                tracing::warn!(%error, "an upload that was refused could not be removed yet");
            }
        });
    }
}

async fn store<'a>(
    app: &'a App,
    mut field: Field<'static>,
    body: &Arc<Tap>,
) -> Result<Stored<'a>, Problem> {
    let name = file::clean_name(field.file_name().unwrap_or_default());
    let mut head = BytesMut::new();
    while head.len() < kinds::HEAD_BYTES {
        let Some(chunk) = next_chunk(&mut field).await? else {
            break;
        };
        body.used(chunk.len());
        head.extend_from_slice(&chunk);
    }
    if head.is_empty() {
        return Err(Problem::invalid("file", "must not be empty"));
    }
    let kind = kinds::of(&head).filter(|kind| is_allowed(app, kind));
    let kind = kind.ok_or_else(|| refused_type(app))?;
    let head = head.freeze();
    let rest: BoxStream<'static, PortResult<Bytes>> = if kind == kinds::SVG {
        stream::iter([Ok(clean_svg(app, head, &mut field, body).await?)]).boxed()
    } else {
        let rest = stream::unfold((field, body.clone()), |(mut field, body)| async move {
            match next_chunk(&mut field).await {
                Ok(chunk) => chunk.map(|chunk| {
                    body.used(chunk.len());
                    (Ok(chunk), (field, body))
                }),
                Err(problem) => {
                    let error = PortError::fatal("receive upload", problem.detail);
                    Some((Err(error), (field, body)))
                }
            }
        });
        stream::iter([Ok(head)]).chain(rest).boxed()
    };
    let (limit, seen) = (u64::from(app.config.max_file_size), Seen::default());
    let id = FileId::generate();
    let put = app
        .backends
        .files
        .put(&file::key(id), seen.clone().watch(rest, limit))
        .await;
    if seen.too_large() {
        return Err(too_large(app));
    }
    put.map_err(|error| match error.operation {
        "receive upload" => Problem::new(Kind::Malformed, error.source.to_string()),
        _ => Problem::from(error),
    })?;
    let (size, sha256) = seen.result();
    Ok(Stored {
        app,
        id,
        name,
        content_type: kind,
        size,
        sha256,
        kept: false,
    })
}

fn is_allowed(app: &App, kind: &str) -> bool {
    app.config
        .allowed_file_types
        .iter()
        .any(|allowed| allowed == kind)
}

fn refused_type(app: &App) -> Problem {
    let allowed = app.config.allowed_file_types.join(", ");
    Problem::new(
        Kind::UnsupportedMediaType,
        format!("Files of this type are not taken. Allowed: {allowed}."),
    )
    .at("file")
}

async fn clean_svg(
    app: &App,
    head: Bytes,
    field: &mut Field<'static>,
    body: &Tap,
) -> Result<Bytes, Problem> {
    let mut held = app.whole_files.begin()?;
    held.grow_to(head.len())?;
    let mut all = head.to_vec();
    while let Some(chunk) = next_chunk(field).await? {
        body.used(chunk.len());
        if all.len() + chunk.len() > app.config.max_file_size as usize {
            return Err(too_large(app));
        }
        held.grow_to(all.len() + chunk.len())?;
        all.extend_from_slice(&chunk);
    }
    // Only now: who sends slowly keeps nobody from their turn.
    let turn = app.uploads.svg.acquire().await;
    // The semaphore is never closed.
    let _turn = turn.map_err(|_| Problem::internal())?;
    let clean = tokio::task::spawn_blocking(move || svg::sanitise(&all)).await;
    match clean.map_err(|_| Problem::internal())? {
        Ok(Some(clean)) => Ok(clean.into()),
        Ok(None) => Err(refused_type(app)),
        Err(reason) => Err(Problem::invalid(
            "file",
            format!("this SVG is refused: {reason}"),
        )),
    }
}

/// Size and hash of what went by.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<(Sha256, u64, bool)>>);

impl Seen {
    fn watch(
        self,
        bytes: BoxStream<'static, PortResult<Bytes>>,
        limit: u64,
    ) -> BoxStream<'static, PortResult<Bytes>> {
        bytes
            .map(move |chunk| {
                let chunk = chunk?;
                let mut seen = self.0.lock();
                seen.0.update(&chunk);
                seen.1 += chunk.len() as u64;
                if seen.1 > limit {
                    seen.2 = true;
                    return Err(PortError::fatal("receive upload", "too large"));
                }
                Ok(chunk)
            })
            .boxed()
    }

    fn too_large(&self) -> bool {
        self.0.lock().2
    }

    fn result(&self) -> (u64, String) {
        let seen = self.0.lock();
        (seen.1, hex::encode(seen.0.clone().finalize()))
    }
}

async fn keep(
    app: &App,
    principal: Option<&Principal>,
    author: &Author,
    room: Option<Room>,
    mut stored: Stored<'_>,
) -> Result<StoredFile, Problem> {
    let made_at = room.as_ref().map(|room| room.created_at);
    let file = StoredFile {
        id: stored.id,
        room: room.map(|room| room.id),
        uploader: principal.map(|principal| principal.user_id),
        uploader_name: author.name.clone(),
        name: stored.name.clone(),
        content_type: stored.content_type.to_owned(),
        size: stored.size,
        sha256: stored.sha256.clone(),
        created_at: Utc::now().trunc_subsecs(6),
    };
    // The row may be there although its answer was lost: then the bytes must stay.
    stored.kept = true;
    // Many large files at once keep a disk busy: the row waits, the sender has sent it all already.
    let deadline = Instant::now() + ROW_PATIENCE;
    loop {
        match app.backends.records.create_file(&file, made_at).await {
            Ok(true) => return Ok(file),
            // It was removed while the file came in; a room that has its name since is another's.
            Ok(false) => {
                stored.kept = false;
                return Err(room_gone());
            }
            Err(error) if !error.is_retryable() || Instant::now() > deadline => {
                return Err(error.into());
            }
            Err(_) => tokio::time::sleep(ROW_PAUSE).await,
        }
    }
}

fn room_gone() -> Problem {
    Problem::not_found("room").at("room_id")
}

/// Logs the file in the room, so that everybody hears of it, now and later. A log that is away is waited for.
async fn tell(app: App, author: Author, file: StoredFile) -> Result<(), Problem> {
    let Some(room) = &file.room else {
        return Ok(());
    };
    let b = &app.backends;
    let now_ms = Utc::now().timestamp_millis();
    let record = Record {
        ts_ms: now_ms,
        author,
        // One per file: told once, however often this is tried.
        reference: Some(Ref::of_server(format_args!("file:{}", file.id))),
        audience: None,
        body: EntryBody::FileShared {
            file: SharedFile::from(&file),
        },
    };
    let deadline = Instant::now() + TELL_PATIENCE;
    loop {
        let telling = async {
            // The room may have been removed, and its file with it, while the log was away.
            let kept = b.records.file(file.id).await?;
            if kept.is_none_or(|kept| kept.room != file.room) {
                return Ok(false);
            }
            recovery::append(&*b.log, &*b.archive, &*b.queue, room, &record, now_ms).await?;
            Ok::<_, PortError>(true)
        };
        match telling.await {
            Ok(true) => return Ok(()),
            Ok(false) => return Err(room_gone()),
            Err(error) if error.is_retryable() && Instant::now() < deadline => {
                tokio::time::sleep(TELL_PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
