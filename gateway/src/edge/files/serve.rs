//! `GET /files/{id}`: bytes to whoever holds a signed link, whole or in a range, in a form that runs nothing.

use std::ops::Range;

use atelier_shared::domain::file::{self, StoredFile};
use atelier_shared::domain::ids::FileId;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::super::extract::{Id, Query};
use super::super::problem::{Kind, Problem};
use super::super::refusals::{BadLink, BadQuery, BadRange, Failures, Missing};
use super::super::state::App;
use super::kinds;
use crate::identity::FILE_LINK_LIFETIME;

/// For pictures: nothing runs, nothing is loaded, styles within an SVG count. A sandbox has an origin of its own.
const CSP_FILE: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; base-uri 'none'; \
     form-action 'none'; sandbox",
);

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Link {
    /// When the link expires, seconds since 1970
    exp: Option<i64>,
    /// Its signature
    sig: Option<String>,
    /// To be saved, not shown
    download: Option<bool>,
}

/// The bytes of a file, to whoever has a link from `file_shared`, `chat_message` or a list; a link holds an hour.
#[utoipa::path(get, path = "/files/{file_id}", operation_id = "files_get", tag = "files", params(("file_id" = uuid::Uuid, Path), Link), security(()), responses(
    (status = 200, description = "The file", content(
        (Vec<u8> = "image/*"), (Vec<u8> = "application/pdf"), (Vec<u8> = "application/octet-stream"),
    )),
    (status = 206, description = "The bytes that Range asked for", content(
        (Vec<u8> = "image/*"), (Vec<u8> = "application/pdf"), (Vec<u8> = "application/octet-stream"),
    )),
    (status = 304, description = "What If-None-Match names is still right"),
    BadLink, BadRange, Missing, BadQuery, Failures,
))]
pub async fn get(
    State(app): State<App>,
    Id(id): Id<FileId>,
    Query(link): Query<Link>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let expires = link.exp.unwrap_or_default();
    app.identity
        .check_file_link(id, expires, link.sig.as_deref().unwrap_or_default())
        .map_err(|error| Problem::forbidden(error.to_string()))?;
    let file = app.backends.records.file(id).await?;
    let file = file.ok_or_else(|| Problem::not_found("file"))?;
    if let Some(room) = &file.room
        && app.backends.records.room(room).await?.is_none()
    {
        // It goes with its room, whether or not the bytes are there for a while.
        return Err(Problem::not_found("file"));
    }
    let mut response = answer(&app, &file, &method, &headers).await?;
    if response.status().is_client_error() {
        return Ok(response);
    }
    describe(
        response.headers_mut(),
        &file,
        link.download.unwrap_or(false),
    );
    Ok(response)
}

async fn answer(
    app: &App,
    file: &StoredFile,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let tag = entity_tag(file);
    if names_tag(headers, header::IF_NONE_MATCH, &tag) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    // A range of something else than what the client has a part of would not fit to it.
    let fits =
        !headers.contains_key(header::IF_RANGE) || names_tag(headers, header::IF_RANGE, &tag);
    let asked = headers
        .get(header::RANGE)
        .filter(|_| fits)
        .and_then(|value| value.to_str().ok());
    let range = match asked.map_or(Asked::Whole, |asked| parse_range(asked, file.size)) {
        Asked::Whole => None,
        Asked::Part(range) => Some(range),
        Asked::Nothing => {
            let text = format!("The file has {} bytes.", file.size);
            let mut refused = Problem::new(Kind::NoSuchRange, text).into_response();
            let size = format!("bytes */{}", file.size);
            put(refused.headers_mut(), header::CONTENT_RANGE, &size);
            return Ok(refused);
        }
    };
    let (status, length) = match &range {
        Some(range) => (StatusCode::PARTIAL_CONTENT, range.end - range.start),
        None => (StatusCode::OK, file.size),
    };
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        let bytes = app
            .backends
            .files
            .get(&file::key(file.id), range.clone())
            .await?;
        Body::from_stream(bytes.ok_or_else(|| Problem::not_found("file"))?)
    };
    let mut response = (status, body).into_response();
    let out = response.headers_mut();
    out.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if let Some(range) = range {
        let text = format!("bytes {}-{}/{}", range.start, range.end - 1, file.size);
        put(out, header::CONTENT_RANGE, &text);
    }
    Ok(response)
}

fn describe(headers: &mut HeaderMap, file: &StoredFile, download: bool) {
    put(headers, header::CONTENT_TYPE, &file.content_type);
    put(headers, header::ETAG, &entity_tag(file));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_SECURITY_POLICY, CSP_FILE);
    // The bytes under an id never change; only the link ends.
    let cache = format!(
        "private, max-age={}, immutable",
        FILE_LINK_LIFETIME.num_seconds()
    );
    put(headers, header::CACHE_CONTROL, &cache);
    // Browsers' PDF viewers do not work within a sandbox.
    let shown = !download && file.content_type != kinds::PDF;
    put(
        headers,
        header::CONTENT_DISPOSITION,
        &disposition(shown, &file.name),
    );
}

/// Values of ours are visible ASCII; what is not is left out, never sent broken.
fn put(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn entity_tag(file: &StoredFile) -> String {
    format!("\"{}\"", file.sha256)
}

/// Does the header name this tag (or `*`)? Our tags are strong; `W/` compares the same for If-None-Match.
fn names_tag(headers: &HeaderMap, name: header::HeaderName, tag: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|named| named == "*" || named.strip_prefix("W/").unwrap_or(named) == tag)
}

/// RFC 6266 with RFC 8187: an ASCII name for old clients, the real one percent-encoded. Nothing of the name is outside
/// the quotes, and no quote, backslash or control character is inside.
fn disposition(shown: bool, name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| match c {
            '"' | '\\' | '%' => '_',
            c if c.is_ascii_graphic() || c == ' ' => c,
            _ => '_',
        })
        .collect();
    let mut encoded = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push_str(&hex::encode_upper([byte]));
        }
    }
    let kind = if shown { "inline" } else { "attachment" };
    format!("{kind}; filename=\"{plain}\"; filename*=UTF-8''{encoded}")
}

/// What a `Range` header asks of a file.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// No range, or one that is not understood: the whole file (RFC 9110, 14.2).
    Whole,
    Part(Range<u64>),
    /// Bytes that the file does not have.
    Nothing,
}

/// One range of bytes; of several, which a server need not serve, the whole file is the answer.
fn parse_range(text: &str, size: u64) -> Asked {
    let Some((unit, range)) = text.split_once('=') else {
        return Asked::Whole;
    };
    let Some((first, last)) = range.trim().split_once('-') else {
        return Asked::Whole;
    };
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !unit.trim().eq_ignore_ascii_case("bytes") || !digits(first) || !digits(last) {
        return Asked::Whole;
    }
    let number = |text: &str| text.parse::<u64>().unwrap_or(u64::MAX);
    match (first.is_empty(), last.is_empty()) {
        (true, true) => Asked::Whole,
        (true, false) => match number(last).min(size) {
            0 => Asked::Nothing,
            count => Asked::Part(size - count..size),
        },
        (false, _) => {
            let first = number(first);
            let end = if last.is_empty() {
                size
            } else {
                number(last).saturating_add(1).min(size)
            };
            if !last.is_empty() && number(last) < first {
                Asked::Whole
            } else if first >= size {
                Asked::Nothing
            } else {
                Asked::Part(first..end)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        for (text, asked) in [
            ("bytes=0-9", Asked::Part(0..10)),
            ("bytes=90-", Asked::Part(90..100)),
            ("bytes=-10", Asked::Part(90..100)),
            ("bytes=-1000", Asked::Part(0..100)),
            ("bytes=50-1000", Asked::Part(50..100)),
            ("bytes=99-99", Asked::Part(99..100)),
            ("bytes=100-", Asked::Nothing),
            ("bytes=-0", Asked::Nothing),
            ("bytes=18446744073709551616-", Asked::Nothing),
            ("bytes=9-3", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("bytes=0-1,5-6", Asked::Whole),
            ("lines=0-9", Asked::Whole),
            ("bytes=+1-2", Asked::Whole),
        ] {
            assert_eq!(parse_range(text, 100), asked, "{text}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Asked::Nothing);
    }

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        assert_eq!(
            disposition(true, "a\"; x=\"\\b%ü.png"),
            "inline; filename=\"a_; x=__b__.png\"; filename*=UTF-8''a%22%3B%20x%3D%22%5Cb%25%C3%BC.png"
        );
        assert!(HeaderValue::from_str(&disposition(false, "a\r\nb")).is_ok());
    }
}
