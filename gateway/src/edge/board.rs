//! A room's drawing as a file: `/rooms/{id}/export.svg` and `.json`, and the strokes that a room made from a file begins
//! with.

use std::sync::Arc;

use atelier_shared::domain::board::Stroke;
use atelier_shared::domain::drawing::{self, Rest};
use atelier_shared::domain::entry::{Body, Record};
use atelier_shared::domain::ids::{RoomId, Seq};
use atelier_shared::domain::room::{Activity, Room};
use atelier_shared::domain::svg::{self, Imported};
use atelier_shared::recovery;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::IntoResponse;
use chrono::Utc;
use serde::Deserialize;
use tokio::sync::SemaphorePermit;

use super::client::{MaybePrincipal, may_enter};
use super::extract::{Id, read_file};
use super::members::actor;
use super::problem::{Kind, Problem};
use super::refusals::{Failures, Missing, NeedsRight};
use super::room_view::ImportReport;
use super::state::App;
use crate::identity::Principal;

/// Entries of one append: a few megabytes at most.
const RECORDS_PER_APPEND: usize = 8;
/// A drawing may be opened in a browser's tab: nothing in it runs, nothing is loaded, and it has no origin.
const CSP_DRAWING: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; sandbox",
);

/// How a drawing is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Svg,
    Json,
}

impl Format {
    fn extension(self) -> &'static str {
        match self {
            Self::Svg => "svg",
            Self::Json => "json",
        }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Svg => "image/svg+xml",
            Self::Json => "application/json",
        })
    }
}

/// A drawing ready to be sent as a file.
pub type File = ([(HeaderName, HeaderValue); 4], Bytes);

/// The drawing as SVG. Ids and times of the strokes are in it, so that a room made from it has the same strokes.
#[utoipa::path(get, path = "/rooms/{room_id}/export.svg", tag = "board", params(("room_id" = String, Path)), security((), ("bearer" = [])), responses(
    (status = 200, description = "The drawing", body = String, content_type = "image/svg+xml"), NeedsRight, Missing, Failures,
))]
pub async fn export_svg(
    State(app): State<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Id(id): Id<RoomId>,
) -> Result<impl IntoResponse, Problem> {
    export(&app, &id, principal.as_ref(), Format::Svg).await
}

/// The drawing as JSON: `{type, version, seq, paths}`, the paths as in `board`.
#[utoipa::path(get, path = "/rooms/{room_id}/export.json", tag = "board", params(("room_id" = String, Path)), security((), ("bearer" = [])), responses(
    (status = 200, description = "The drawing", body = Object, content_type = "application/json"), NeedsRight, Missing, Failures,
))]
pub async fn export_json(
    State(app): State<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Id(id): Id<RoomId>,
) -> Result<impl IntoResponse, Problem> {
    export(&app, &id, principal.as_ref(), Format::Json).await
}

async fn export(
    app: &App,
    id: &RoomId,
    principal: Option<&Principal>,
    format: Format,
) -> Result<File, Problem> {
    let (room, _) = may_enter(app, id, principal).await?;
    let _turn = turn(app).await?;
    let b = &app.backends;
    let (state, seq) = recovery::present(&*b.log, &*b.archive, id).await?;
    let strokes = state.board.strokes();
    file(&room.name, strokes, seq, None, format).await
}

/// Whole drawings are large: only a few are held at once.
pub async fn turn(app: &App) -> Result<SemaphorePermit<'_>, Problem> {
    app.drawings
        .acquire()
        .await
        .map_err(|_| Problem::internal())
}

/// Strokes as a file named after the room; one of JSON has the `rest`, too.
pub async fn file(
    name: &str,
    strokes: Vec<Arc<Stroke>>,
    seq: Seq,
    rest: Option<Rest>,
    format: Format,
) -> Result<File, Problem> {
    let title = name.to_owned();
    let disposition = disposition(name, format);
    let bytes = tokio::task::spawn_blocking(move || match format {
        Format::Svg => svg::export(strokes.iter().map(|stroke| &**stroke), &title).into(),
        Format::Json => drawing::to_json(&strokes, seq, rest.as_ref()),
    });
    let bytes = bytes.await.map_err(|_| Problem::internal())?;
    let headers = [
        (header::CONTENT_TYPE, format.content_type()),
        (header::CONTENT_DISPOSITION, disposition),
        (header::CONTENT_SECURITY_POLICY, CSP_DRAWING),
        (
            header::CACHE_CONTROL,
            HeaderValue::from_static("private, no-cache"),
        ),
    ];
    Ok((headers, bytes.into()))
}

/// RFC 6266: a name that every client can take, and the real one for those that read RFC 8187.
fn disposition(name: &str, format: Format) -> HeaderValue {
    let plain: String = name
        .chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | ' ' => c,
            _ => '_',
        })
        .collect();
    let mut exact = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            exact.push(char::from(byte));
        } else {
            exact.push_str(&format!("%{byte:02X}"));
        }
    }
    let extension = format.extension();
    let value = format!(
        "attachment; filename=\"{plain}.{extension}\"; filename*=UTF-8''{exact}.{extension}"
    );
    HeaderValue::from_str(&value).unwrap_or(HeaderValue::from_static("attachment"))
}

/// Puts a file's strokes into the log of a room that is yet to be made: nobody knows its id, so a refusal or a failure on
/// the way leaves no room.
pub async fn import(
    app: &App,
    principal: &Principal,
    room: &Room,
    format: Format,
    request: Request,
) -> Result<ImportReport, Problem> {
    if !room.allows(Activity::Draw) {
        return Err(Problem::invalid("kind", "must be one that has a drawing"));
    }
    // A turn only for what is there: who sends slowly keeps nobody from theirs.
    let mut held = app.whole_files.begin()?;
    let bytes = read_file(request, app.config.max_import, &mut held).await?;
    let _turn = turn(app).await?;
    let now_ms = Utc::now().timestamp_millis();
    let read = tokio::task::spawn_blocking(move || {
        let mut imported = read(&bytes, format, now_ms)?;
        drop((bytes, held));
        let strokes = std::mem::take(&mut imported.strokes);
        let report = ImportReport {
            strokes: strokes.len(),
            outlined: imported.outlined,
            left_out: imported.left_out,
        };
        let draws = drawing::draws(strokes.into_iter().map(Arc::new));
        Ok::<_, Problem>((report, draws.into_iter().map(Body::Draw).collect()))
    });
    let (report, draws) = read.await.map_err(|_| Problem::internal())??;
    append(app, principal, &room.id, draws).await?;
    Ok(report)
}

fn read(bytes: &[u8], format: Format, now_ms: i64) -> Result<Imported, Problem> {
    match format {
        Format::Svg => {
            let text = std::str::from_utf8(bytes).map_err(|error| {
                let reason = format!("not UTF-8 at byte {}", error.valid_up_to());
                Problem::invalid("body", reason)
            })?;
            svg::import(text, now_ms)
                .map_err(|error| Problem::new(Kind::Invalid, error.to_string()).at(error.element))
        }
        Format::Json => {
            let strokes = drawing::from_json(bytes, now_ms)
                .map_err(|error| Problem::new(Kind::Invalid, error.reason).at(error.field))?;
            Ok(Imported {
                strokes,
                ..Imported::default()
            })
        }
    }
}

/// Writes to a room's log as this person, from outside any connection; each body is as large as one entry may be.
pub async fn append(
    app: &App,
    principal: &Principal,
    room: &RoomId,
    bodies: Vec<Body>,
) -> Result<(), Problem> {
    let now_ms = Utc::now().timestamp_millis();
    let author = actor(principal)?;
    let records: Vec<Record> = bodies
        .into_iter()
        .map(|body| Record {
            ts_ms: now_ms,
            author: author.clone(),
            reference: None,
            audience: None,
            body,
        })
        .collect();
    let b = &app.backends;
    for some in records.chunks(RECORDS_PER_APPEND) {
        recovery::append_all(&*b.log, &*b.archive, &*b.queue, room, some, now_ms).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_name_cannot_break_out_of_its_header() {
        let value = disposition("Plän \"1\"; x=../y", Format::Svg);
        assert_eq!(
            value.to_str().unwrap(),
            "attachment; filename=\"Pl_n _1__ x____y.svg\"; \
             filename*=UTF-8''Pl%C3%A4n%20%221%22%3B%20x%3D%2E%2E%2Fy.svg"
        );
    }
}
