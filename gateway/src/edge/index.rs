//! `/` and `/api/`: where to look.

use axum::Json;
use axum::http::{HeaderMap, header};
use axum::response::{Html, IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::layers::CSP_PAGE;

#[derive(Debug, Serialize, ToSchema)]
pub struct Welcome {
    #[schema(example = "Atelier - real-time collaboration server")]
    message: &'static str,
    version: &'static str,
    /// Swagger UI
    docs: &'static str,
    /// The reference to read
    reference: &'static str,
    openapi: &'static str,
}

const WELCOME: Welcome = Welcome {
    message: "Atelier - real-time collaboration server",
    version: env!("CARGO_PKG_VERSION"),
    docs: "/docs",
    reference: "/redoc",
    openapi: "/openapi.json",
};

/// Where to look: a page for browsers, JSON for others.
#[utoipa::path(get, path = "/", tag = "health", operation_id = "index", responses(
    (status = 200, description = "Where to look", content((Welcome = "application/json"), (String = "text/html"))),
))]
pub async fn root(headers: HeaderMap) -> Response {
    let wants_page = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"));
    if wants_page {
        let page = Html(include_str!("pages/index.html"));
        return ([(header::CONTENT_SECURITY_POLICY, CSP_PAGE)], page).into_response();
    }
    Json(WELCOME).into_response()
}

/// Where to look.
#[utoipa::path(get, path = "/api/", tag = "health", operation_id = "api_index", responses(
    (status = 200, description = "Where to look", body = Welcome),
))]
pub async fn api() -> Json<Welcome> {
    Json(WELCOME)
}
