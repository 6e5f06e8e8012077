//! Addresses that reference documents spell otherwise: each leads to a handler that answers elsewhere too.

use axum::Router;
use axum::routing::{get, post};
use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::path::{Operation, PathItem};

use super::state::App;
use super::{cleanup, figures, files, health, index, removed, rooms, users};

macro_rules! aliases {
    ($($method:ident $alias:literal = $path:literal, $handler:path;)+) => {
        /// Each alias and the documented path that it answers like.
        const ALIASES: &[(&str, &str)] = &[$(($alias, $path)),+];

        pub fn routes() -> Router<App> {
            Router::new()$(.route($alias, $method($handler)))+
        }
    };
}

aliases! {
    get "/api" = "/api/", index::api;
    get "/api/v1" = "/api/", index::api;
    get "/api/v1/" = "/api/", index::api;
    get "/api/health" = "/health", health::health;
    get "/api/v1/health" = "/health", health::health;
    get "/api/v1/metrics" = "/api/metrics", figures::figures;
    get "/api/v1/metrics/events" = "/api/metrics/events", figures::events;
    get "/ws/stats" = "/api/metrics", figures::figures;
    get "/api/v1/ws/stats" = "/api/metrics", figures::figures;
    get "/api/ws/stats" = "/api/metrics", figures::figures;
    post "/users/check" = "/api/v1/users/check", users::check;
    post "/upload" = "/api/v1/upload", files::upload;
    get "/rooms/{room_id}/users" = "/api/v1/rooms/{room_id}/users", rooms::users;
    post "/cleanup" = "/api/v1/cleanup", cleanup::connections;
    post "/cleanup/auto-users" = "/api/v1/cleanup/auto-users", cleanup::auto_users;
    post "/cleanup/room/{room_id}" = "/api/v1/cleanup/room/{room_id}", cleanup::room;
    post "/cleanup/orphaned-files" = "/api/v1/cleanup/orphaned-files", cleanup::orphaned_files;
    post "/cleanup/comprehensive" = "/api/v1/cleanup/comprehensive", cleanup::comprehensive;
    post "/cleanup/force-stuck-users" = "/api/v1/cleanup/force-stuck-users", cleanup::force_stuck_users;
    get "/cleanup/status" = "/api/v1/cleanup/status", cleanup::status;
    get "/cleanup/removed" = "/api/v1/cleanup/removed", removed::list;
    post "/cleanup/removed/{removal_id}/restore" = "/api/v1/cleanup/removed/{removal_id}/restore", removed::restore;
    get "/cleanup/removed/{removal_id}/export" = "/api/v1/cleanup/removed/{removal_id}/export", removed::export;
}

/// Puts the aliases into the document, and the POST beside the bare list at `/api/rooms`. The other paths under `/api` are
/// described by the document's own words: they are those under `/api/v1`.
pub fn document(document: &mut Document) {
    let paths = &mut document.paths.paths;
    for (alias, path) in ALIASES {
        if let Some(item) = paths.get(*path).cloned() {
            paths.insert((*alias).to_owned(), renamed(item, alias, path));
        }
    }
    let post = paths
        .get("/api/v1/rooms")
        .and_then(|item| item.post.clone());
    if let (Some(mut post), Some(item)) = (post, paths.get_mut("/api/rooms")) {
        rename(&mut post, "/api/rooms", "/api/v1/rooms");
        item.post = Some(post);
    }
}

fn renamed(mut item: PathItem, alias: &str, path: &str) -> PathItem {
    for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
        rename(operation, alias, path);
    }
    item
}

/// Operation ids are unique: the alias's has its path behind it.
fn rename(operation: &mut Operation, alias: &str, path: &str) {
    let at: String = alias
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    if let Some(id) = &mut operation.operation_id {
        *id = format!("{id}_at{at}");
    }
    operation.description = Some(format!("As {path}."));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alias_stands_in_the_document_beside_its_path() {
        let document = crate::edge::document();
        for (alias, path) in ALIASES {
            let methods = |path: &str| {
                let item = document.paths.paths.get(path).unwrap();
                (item.get.is_some(), item.post.is_some())
            };
            assert_eq!(methods(alias), methods(path), "{alias}");
        }
        assert!(document.paths.paths["/api/rooms"].post.is_some());
    }
}
