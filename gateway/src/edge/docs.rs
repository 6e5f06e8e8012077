//! The OpenAPI document, and the pages that show it; nothing on them comes from elsewhere.

use aide::redoc::Redoc;
use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::path::{ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{RefOr, Required};
use utoipa::{IntoResponses, Modify, OpenApi};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::layers::{CSP_PAGE, CSP_REDOC};
use super::problem::ProblemBody;
use super::refusals::Keyed;
use super::state::App;
use super::words::{BucketWord, FormatWord, JobStateWord, KindWord};

/// What no handler says.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Atelier",
        description = "A real-time collaboration server: rooms to draw, chat, edit documents and run code in.\n\n\
        Every path under /api/v1 answers under /api as well, except that GET /api/rooms is a bare list of active rooms.\n\n\
        Errors are problem+json (RFC 9457) with a stable type, the offending field where there is one, and a trace id. \
        Lists are keyset-paginated. Times are RFC 3339, UTC; ids are UUID v7, rooms also accept names of 1 to 64 A-Z a-z 0-9 _ -.",
        license(name = "MIT OR Apache-2.0"),
    ),
    tags(
        (name = "auth", description = "Accounts, guests, logins and their tokens"),
        (name = "users", description = "Names, profiles, and deleting one's account"),
        (name = "rooms", description = "Where people meet"),
        (name = "board", description = "A room's drawing as a file"),
        (name = "backups", description = "A room's earlier states, and the way back to them"),
        (name = "sessions", description = "Rooms of kind session: for members, with hosts, editors and viewers"),
        (name = "document", description = "The Yjs document of a room"),
        (name = "workspaces", description = "Where projects stand together; roles in one count in its projects and their rooms"),
        (name = "projects", description = "Rooms that stand together"),
        (name = "teams", description = "People who share insights and are counted together"),
        (name = "analytics", description = "Who did how much when"),
        (name = "insights", description = "Titled notes with tags and links, shared with a team"),
        (name = "jobs", description = "Code, run in a sandbox"),
        (name = "health", description = "Is it alive, is it ready"),
        (name = "metrics", description = "Figures"),
        (name = "sockets", description = "Where WebSockets come in"),
    ),
    // Schemas of parameters are not found by themselves.
    components(schemas(ProblemBody, BucketWord, FormatWord, JobStateWord, KindWord)),
    modifiers(&Bearer),
)]
pub struct Base;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut Document) {
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        scheme.bearer_format = Some("JWT".to_owned());
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

/// Puts each operation's tag before its id (`rooms_create`), so that ids are unique and generated clients read well.
pub fn name_operations(document: &mut Document) {
    for item in document.paths.paths.values_mut() {
        let operations = [
            &mut item.get,
            &mut item.post,
            &mut item.put,
            &mut item.patch,
            &mut item.delete,
        ];
        for operation in operations.into_iter().flatten() {
            let tag = operation.tags.as_ref().and_then(|tags| tags.first());
            if let (Some(tag), Some(id)) = (tag, &operation.operation_id) {
                operation.operation_id = Some(format!("{tag}_{id}"));
            }
        }
    }
}

/// A body that may say nothing need not be there.
pub fn document_optional_bodies(document: &mut Document) {
    let Ok(written) = serde_json::to_value(&*document) else {
        return;
    };
    for item in document.paths.paths.values_mut() {
        for operation in [&mut item.post, &mut item.patch].into_iter().flatten() {
            let Some(RefOr::T(body)) = &mut operation.request_body else {
                continue;
            };
            let schema = body
                .content
                .get("application/json")
                .and_then(|content| serde_json::to_value(content).ok())
                .and_then(|content| {
                    let name = content["schema"]["$ref"].as_str()?;
                    written.pointer(name.trim_start_matches('#')).cloned()
                });
            if schema.is_some_and(|schema| schema["required"].is_null()) {
                body.required = Some(Required::False);
            }
        }
    }
}

/// Every POST that makes something heeds `Idempotency-Key`.
pub fn document_idempotency(document: &mut Document) {
    let text = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(255))
        .pattern(Some("^[!-~]([ -~]*[!-~])?$"));
    let header = ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "Up to 255 characters of your own choice. The same request with the same key within 24 h gets the first one's \
             answer and makes nothing anew (of registrations and guests, within 5 min); 409 while that is under way, 422 with \
             another body.",
        ))
        .schema(Some(text))
        .build();
    for (path, item) in &mut document.paths.paths {
        let makes = !path.contains("/auth/")
            || path.ends_with("/auth/register")
            || path.ends_with("/auth/guest");
        let Some(post) = item.post.as_mut().filter(|_| makes) else {
            continue;
        };
        post.parameters
            .get_or_insert_default()
            .push(header.clone().into());
        for (status, response) in Keyed::responses() {
            post.responses.responses.entry(status).or_insert(response);
        }
    }
}

/// The router's way to say "and all that follows" is not OpenAPI's.
pub fn name_wildcards(document: &mut Document) {
    let paths = std::mem::take(&mut document.paths.paths);
    let plain = paths
        .into_iter()
        .map(|(path, item)| (path.replace("{*", "{"), item));
    document.paths.paths = plain.collect();
}

/// `/openapi.json`, `/docs`, `/redoc`, the same two under `/api`, and their files.
pub fn router(document: &Document) -> Router<App> {
    let json: &'static str = document
        .to_json()
        .map_or("{}", |json| Box::leak(json.into_boxed_str()));
    let swagger = |path: &'static str| {
        let config = Config::from("/openapi.json")
            .persist_authorization(false)
            .validator_url("none");
        Router::from(SwaggerUi::new(path).config(config))
    };
    let pages = Router::new()
        .route(
            "/page.css",
            get(|| async { file("text/css; charset=utf-8", include_str!("pages/page.css")) }),
        )
        .merge(swagger("/docs"))
        .merge(swagger("/api/docs"))
        .layer(axum::middleware::map_response(
            |mut response: Response| async {
                response
                    .headers_mut()
                    .insert(header::CONTENT_SECURITY_POLICY, CSP_PAGE);
                response
            },
        ));
    pages
        .route("/redoc", get(redoc))
        .route("/api/redoc", get(redoc))
        .route(
            "/openapi.json",
            get(move || async move { file("application/json", json) }),
        )
}

/// One page with its script in it, a megabyte of them: put together for each reader, of whom there are few.
async fn redoc() -> Response {
    let page = Redoc::new("/openapi.json").with_title("Atelier: every route");
    let headers = [
        (header::CONTENT_SECURITY_POLICY, CSP_REDOC),
        (
            header::CACHE_CONTROL,
            HeaderValue::from_static("public, max-age=3600"),
        ),
    ];
    (headers, Html(page.html())).into_response()
}

fn file(kind: &'static str, text: &'static str) -> Response {
    (
        [
            (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
            (
                header::CACHE_CONTROL,
                HeaderValue::from_static("public, max-age=60"),
            ),
        ],
        text,
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    fn document() -> Value {
        serde_json::to_value(crate::edge::document()).unwrap()
    }

    fn operations(document: &Value) -> Vec<(&String, &String, &Value)> {
        let paths = document["paths"].as_object().unwrap();
        paths
            .iter()
            .flat_map(|(path, item)| {
                let item = item.as_object().unwrap();
                item.iter()
                    .map(move |(verb, operation)| (path, verb, operation))
            })
            .collect()
    }

    #[test]
    fn every_operation_is_described_once() {
        let document = document();
        assert_eq!(document["openapi"], "3.1.0");
        let mut ids = BTreeSet::new();
        for (path, verb, operation) in operations(&document) {
            let id = operation["operationId"].as_str().unwrap();
            assert!(
                ids.insert(id.to_owned()),
                "{verb} {path}: {id} stands twice"
            );
            assert!(
                operation["summary"].is_string(),
                "{verb} {path}: no summary"
            );
        }
    }

    #[test]
    fn every_failure_is_a_problem() {
        let document = document();
        for (path, verb, operation) in operations(&document) {
            for (status, response) in operation["responses"].as_object().unwrap() {
                // What /health answers is its body, whatever the status.
                if status.as_str() < "400" || path.ends_with("/health") {
                    continue;
                }
                let schema = &response["content"]["application/problem+json"]["schema"]["$ref"];
                assert_eq!(
                    schema, "#/components/schemas/Problem",
                    "{verb} {path} {status}"
                );
            }
        }
    }

    #[test]
    fn nothing_on_our_pages_comes_from_elsewhere() {
        for page in [
            include_str!("pages/index.html"),
            include_str!("pages/page.css"),
        ] {
            for outside in ["https://", "http://", "//cdn", "@import"] {
                assert!(!page.contains(outside), "{outside}");
            }
        }
    }

    #[test]
    fn redoc_has_its_script_in_its_page() {
        let page = super::Redoc::new("/openapi.json").html();
        assert!(page.contains("Redoc.init(\"/openapi.json\""));
        assert!(!page.contains("<script src") && !page.contains("<link"));
    }
}
