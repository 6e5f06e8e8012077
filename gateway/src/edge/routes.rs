//! The one router: which path leads to which handler, and what stands before them all.

use axum::Router;
use axum::http::{Method, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa::openapi::OpenApi as Document;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::places::{projects, teams, workspaces};
use super::problem::{Kind, Problem};
use super::state::App;
use super::{
    accounts, aliases, analytics, artifacts, auth, backups, board, cleanup, docs, documents,
    events, figures, files, health, history, hocuspocus, idempotency, index, insights, invites,
    job_batch, job_output, jobs, languages, layers, limits, members, messages, prometheus, queues,
    removed, rooms, sessions, simulate, socket_docs, trace, users, ws,
};

/// What answers under `/api/v1` and `/api` alike.
fn resources() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(accounts::register))
        .routes(routes!(auth::login))
        .routes(routes!(auth::refresh))
        .routes(routes!(auth::logout))
        .routes(routes!(accounts::guest))
        .routes(routes!(auth::ws_ticket))
        .routes(routes!(auth::me))
        .routes(routes!(users::check))
        .routes(routes!(users::me, users::patch_me, users::delete_me))
        .routes(routes!(users::get))
        .routes(routes!(rooms::create))
        .routes(routes!(rooms::get, rooms::patch, rooms::delete))
        .routes(routes!(rooms::users))
        .routes(routes!(documents::persist))
        .routes(routes!(documents::load))
        .routes(routes!(documents::get))
        .routes(routes!(messages::list))
        .routes(routes!(board::export_svg))
        .routes(routes!(board::export_json))
        .routes(routes!(backups::list, backups::create))
        .routes(routes!(backups::restore))
        .routes(routes!(backups::export))
        .routes(routes!(events::events))
        .routes(routes!(history::log))
        .routes(routes!(invites::create, invites::list))
        .routes(routes!(invites::revoke))
        .routes(routes!(invites::look))
        .routes(routes!(invites::accept))
        .routes(routes!(members::list, members::add))
        .routes(routes!(members::change, members::remove))
        .routes(routes!(sessions::create, sessions::list))
        .routes(routes!(sessions::get, sessions::patch, sessions::delete))
        .routes(routes!(sessions::participants, sessions::add_participant))
        .routes(routes!(
            sessions::change_participant,
            sessions::remove_participant
        ))
        .routes(routes!(sessions::messages))
        .routes(routes!(sessions::message_stats))
        .routes(routes!(sessions::files))
        .routes(routes!(sessions::events))
        .routes(routes!(simulate::add, simulate::remove))
        .routes(routes!(cleanup::connections))
        .routes(routes!(cleanup::auto_users))
        .routes(routes!(cleanup::room))
        .routes(routes!(cleanup::orphaned_files))
        .routes(routes!(cleanup::comprehensive))
        .routes(routes!(cleanup::force_stuck_users))
        .routes(routes!(cleanup::status))
        .routes(routes!(removed::list))
        .routes(routes!(removed::restore))
        .routes(routes!(removed::export))
        .routes(routes!(files::upload))
        .routes(routes!(files::get, files::delete))
        .routes(routes!(files::list))
        .routes(routes!(workspaces::create, workspaces::list))
        .routes(routes!(
            workspaces::get,
            workspaces::patch,
            workspaces::delete
        ))
        .routes(routes!(workspaces::members, workspaces::add_member))
        .routes(routes!(
            workspaces::change_member,
            workspaces::remove_member
        ))
        .routes(routes!(projects::create, projects::list))
        .routes(routes!(projects::get, projects::patch, projects::delete))
        .routes(routes!(projects::members, projects::add_member))
        .routes(routes!(projects::change_member, projects::remove_member))
        .routes(routes!(teams::create, teams::list))
        .routes(routes!(teams::get, teams::patch, teams::delete))
        .routes(routes!(teams::members, teams::add_member))
        .routes(routes!(teams::change_member, teams::remove_member))
        .routes(routes!(analytics::project))
        .routes(routes!(analytics::team))
        .routes(routes!(insights::create, insights::list))
        .routes(routes!(insights::get, insights::patch, insights::delete))
        .routes(routes!(insights::vote, insights::unvote))
        .routes(routes!(jobs::create, jobs::list))
        .routes(routes!(jobs::get, jobs::delete))
        .routes(routes!(jobs::cancel))
        .routes(routes!(job_batch::create))
        .routes(routes!(job_output::output))
        .routes(routes!(artifacts::get))
        .routes(routes!(languages::languages))
        .routes(routes!(queues::list))
        .routes(routes!(queues::dead))
        .routes(routes!(queues::replay))
}

/// What lives at the root, or spells its whole path.
fn roots() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(index::root))
        .routes(routes!(index::api))
        .routes(routes!(health::health))
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(auth::jwks))
        .routes(routes!(rooms::active))
        .routes(routes!(prometheus::metrics))
        .routes(routes!(figures::figures))
        .routes(routes!(figures::events))
}

fn documented() -> (Router<App>, Document) {
    let v1 = resources().routes(routes!(rooms::list));
    let (router, mut document) = OpenApiRouter::with_openapi(docs::Base::openapi())
        .nest("/api/v1", v1)
        .merge(roots())
        .split_for_parts();
    docs::name_operations(&mut document);
    docs::document_optional_bodies(&mut document);
    docs::document_idempotency(&mut document);
    docs::name_wildcards(&mut document);
    aliases::document(&mut document);
    socket_docs::document(&mut document);
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    (router, document)
}

/// The OpenAPI 3.1 document of every route.
pub fn document() -> Document {
    documented().1
}

/// What answers under `/api` as it does under `/api/v1`.
fn short() -> Router<App> {
    let (resources, _) = resources().split_for_parts();
    Router::new().nest("/api", resources)
}

pub fn router(app: App) -> Router {
    let (router, document) = documented();
    router
        .merge(short())
        .merge(aliases::routes())
        .merge(docs::router(&document))
        .merge(ws::routes())
        .merge(hocuspocus::routes())
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(app.clone(), idempotency::layer))
        .layer(from_fn_with_state(app.clone(), limits::layer))
        .layer(from_fn_with_state(app.clone(), layers::in_time))
        .layer(CatchPanicLayer::custom(layers::panicked))
        .layer(layers::cors(&app.config))
        .layer(from_fn(layers::security_headers))
        .layer(from_fn_with_state(app.clone(), layers::count))
        .layer(from_fn(trace::layer))
        .with_state(app)
}

async fn unknown_path(uri: Uri) -> Problem {
    Problem::new(Kind::NotFound, format!("Nothing lives at {}.", uri.path()))
}

async fn wrong_method(method: Method) -> Problem {
    Problem::new(
        Kind::MethodNotAllowed,
        format!("{method} is not allowed here; see Allow."),
    )
}
