//! Bodies, queries and path parameters, refused as problems that name the field.

use std::fmt::Display;
use std::str::FromStr;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use bytes::BytesMut;
use futures::StreamExt;
use serde::de::DeserializeOwned;

use super::memory::Held;
use super::problem::{Kind, Problem};
use super::state::App;
use crate::serde_words;

const NO_OBJECT: &str = "The body must be an object.";

/// A JSON body of at most `MAX_BODY` bytes.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let unsaid = !request.headers().contains_key(header::CONTENT_TYPE);
        if unsaid {
            // Nothing at all says nothing; what must be said is then named.
            let bytes = read_body(request, app.config.max_body).await?;
            if bytes.is_empty() {
                return parse_json(b"{}").map(Self);
            }
            return Err(no_json());
        }
        if !is_json(request.headers()) {
            return Err(no_json());
        }
        let bytes = read_body(request, app.config.max_body).await?;
        parse_json(&bytes).map(Self)
    }
}

fn no_json() -> Problem {
    Problem::new(
        Kind::UnsupportedMediaType,
        "Send JSON, with Content-Type: application/json.",
    )
}

/// A body that is a file, of at most `limit` bytes; what there is of it counts as held.
pub async fn read_file(request: Request, limit: u32, held: &mut Held) -> Result<Bytes, Problem> {
    let form = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.trim_start().starts_with("multipart/"));
    if form {
        let words = "Send the file itself as the body, not a form.";
        return Err(Problem::new(Kind::UnsupportedMediaType, words));
    }
    let limit = limit as usize;
    let mut pieces = request.into_body().into_data_stream();
    let mut file = BytesMut::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| unreadable(&error, limit))?;
        let size = file.len() + piece.len();
        if size > limit {
            return Err(too_large(limit));
        }
        held.grow_to(size)?;
        file.extend_from_slice(&piece);
    }
    Ok(file.freeze())
}

async fn read_body(request: Request, limit: u32) -> Result<Bytes, Problem> {
    let limit = limit as usize;
    axum::body::to_bytes(request.into_body(), limit)
        .await
        .map_err(|error| unreadable(&error, limit))
}

/// The header's value, if it is there once.
pub fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn is_json(headers: &HeaderMap) -> bool {
    // Two of them are none: who reads the other one would see another body.
    let Some(value) = only(headers, &header::CONTENT_TYPE) else {
        return false;
    };
    let essence = value
        .to_str()
        .unwrap_or("")
        .split(';')
        .next()
        .unwrap_or("")
        .trim()
        .to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn too_large(limit: usize) -> Problem {
    Problem::new(
        Kind::TooLarge,
        format!("A body may have at most {limit} bytes."),
    )
}

fn unreadable(error: &axum::Error, limit: usize) -> Problem {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(current) = source {
        if current.to_string() == "length limit exceeded" {
            return too_large(limit);
        }
        source = current.source();
    }
    Problem::new(Kind::Malformed, "The body ended before it was whole.")
}

fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // Serde would take an array for an object whose fields stand in order.
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(&b'[') {
        let whole: Result<serde::de::IgnoredAny, _> = serde_json::from_slice(bytes);
        return Err(match whole {
            Ok(_) => Problem::new(Kind::Invalid, NO_OBJECT),
            Err(error) => Problem::new(Kind::Malformed, format!("Not JSON: {error}")),
        });
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_data() {
            invalid(&path, &inner)
        } else {
            Problem::new(Kind::Malformed, format!("Not JSON: {inner}"))
        }
    })?;
    deserializer
        .end()
        .map_err(|error| Problem::new(Kind::Malformed, format!("Not JSON: {error}")))?;
    Ok(value)
}

/// A part of a body that was read already.
pub fn parse_value<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, Problem> {
    if value.is_array() {
        return Err(Problem::new(Kind::Invalid, "must be an object"));
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        invalid(&path, &error.into_inner())
    })
}

/// A value of the wrong shape. Where serde names the field only in its words, it is taken from there.
fn invalid(path: &str, error: &impl Display) -> Problem {
    let (words, named) = serde_words::told(&error.to_string());
    let parent = if path == "." { "" } else { path };
    let field = match named {
        Some(name) if parent.is_empty() => name,
        Some(name) if parent.rsplit('.').next() == Some(&name) => parent.to_owned(),
        Some(name) => format!("{parent}.{name}"),
        None => parent.to_owned(),
    };
    if field.is_empty() {
        return Problem::new(Kind::Invalid, format!("The body {words}."));
    }
    Problem::new(Kind::Invalid, words).at(field)
}

/// The query string.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<App> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        parse_query(parts.uri.query().unwrap_or("")).map(Self)
    }
}

fn parse_query<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    let deserializer = serde_urlencoded::Deserializer::new(pairs);
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let path = error.path().to_string();
        invalid(&path, &error.into_inner())
    })
}

/// One path parameter. What can't be one is a resource that does not exist.
#[derive(Debug)]
pub struct Id<T>(pub T);

/// Two path parameters.
#[derive(Debug)]
pub struct Ids<A, B>(pub A, pub B);

impl<T: FromStr> FromRequestParts<App> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, app)
            .await
            .map_err(|_| missing())?;
        text.parse().map(Self).map_err(|_| missing())
    }
}

impl<A: FromStr, B: FromStr> FromRequestParts<App> for Ids<A, B> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Path((a, b)) = Path::<(String, String)>::from_request_parts(parts, app)
            .await
            .map_err(|_| missing())?;
        match (a.parse(), b.parse()) {
            (Ok(a), Ok(b)) => Ok(Self(a, b)),
            _ => Err(missing()),
        }
    }
}

fn missing() -> Problem {
    Problem::new(Kind::NotFound, "There is nothing here by that id.")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "only parsed")]
        name: String,
        #[serde(default)]
        #[expect(dead_code, reason = "only parsed")]
        limits: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only parsed")]
        wall_ms: u64,
    }

    fn refusal(json: &str) -> (Kind, Option<String>) {
        let problem = parse_json::<Outer>(json.as_bytes()).unwrap_err();
        (problem.kind, problem.field)
    }

    #[test]
    fn a_refused_body_names_the_field() {
        let invalid = |field: &str| (Kind::Invalid, Some(field.to_owned()));
        assert_eq!(refusal("{}"), invalid("name"));
        assert_eq!(refusal(r#"{"name":1}"#), invalid("name"));
        assert_eq!(refusal(r#"{"name":"a","nmae":1}"#), invalid("nmae"));
        assert_eq!(
            refusal(r#"{"name":"a","limits":{"wall_ms":"x"}}"#),
            invalid("limits.wall_ms")
        );
        assert_eq!(
            refusal(r#"{"name":"a","limits":{}}"#),
            invalid("limits.wall_ms")
        );
        assert_eq!(
            refusal(r#"{"name":"a","limits":{"wall_ms":1,"walls":1}}"#),
            invalid("limits.walls")
        );
        assert_eq!(refusal(r#"{"name":"a","name":"b"}"#), invalid("name"));
        assert_eq!(refusal("7"), (Kind::Invalid, None));
        assert_eq!(refusal("[]").0, Kind::Invalid);
        assert_eq!(refusal(r#" ["a"]"#).0, Kind::Invalid, "fields have names");
        assert_eq!(refusal("[").0, Kind::Malformed);
        assert_eq!(refusal("{").0, Kind::Malformed);
        assert_eq!(refusal(r#"{"name":"a"} x"#).0, Kind::Malformed);
    }

    #[test]
    fn a_refused_query_names_the_parameter() {
        #[derive(Debug, Deserialize)]
        struct Params {
            #[expect(dead_code, reason = "only parsed")]
            limit: Option<u32>,
        }
        assert!(parse_query::<Params>("other=1").is_ok());
        let problem = parse_query::<Params>("limit=many").unwrap_err();
        assert_eq!(problem.field.as_deref(), Some("limit"));
    }
}
