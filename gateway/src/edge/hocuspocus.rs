//! `GET /hocuspocus`: one socket for any number of documents, each with a token of its own.

use std::sync::Arc;

use atelier_shared::domain::ids::UserId;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::get;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::client::{ClientAddress, make_room_by_connecting, may_enter};
use super::problem::{Kind, Problem};
use super::state::App;
use super::ws;
use crate::identity::Principal;
use crate::room::yjs::hocuspocus::document_of;
use crate::room::{Admission, Denied, Doorkeeper, HocuspocusSocket, Newcomer, Speaks};

pub fn routes() -> Router<App> {
    Router::new()
        .route("/hocuspocus", get(enter))
        .route("/hocuspocus/", get(enter))
}

async fn enter(
    State(app): State<App>,
    from: ClientAddress,
    mut request: Request,
) -> Result<Response, Problem> {
    let accept = ws::handshake(&request)?;
    ws::check_origin(&app, request.headers())?;
    ws::stays(&app)?;
    let seat = ws::seat(&app, &mut request)?;
    let rooms = app.rooms.clone();
    let tasks = rooms.tasks.clone();
    let doorkeeper = Arc::new(Door { app, from });
    Ok(ws::upgrade(
        request,
        &tasks,
        (accept, None),
        |socket| async move {
            // Where there is none, it was told why.
            if let Some((stream, early)) = socket {
                let socket = HocuspocusSocket::new(rooms.clone(), doorkeeper, stream, seat);
                // A task of its own, so that what the handshake needed is not carried along for the connection's life.
                rooms.tasks.spawn(socket.run(early));
            }
        },
    ))
}

/// Decides about each document of one socket.
struct Door {
    app: App,
    from: ClientAddress,
}

impl Doorkeeper for Door {
    fn let_in<'a>(
        &'a self,
        key: &'a str,
        token: &'a str,
    ) -> BoxFuture<'a, Result<Admission, Denied>> {
        async move { self.admit(key, token).await.map_err(denied) }.boxed()
    }
}

impl Door {
    /// By the rules of every other address; no token is somebody anonymous.
    async fn admit(&self, key: &str, token: &str) -> Result<Admission, Problem> {
        let app = &self.app;
        let id = document_of(key).parse()?;
        let principal = match token {
            "" => None,
            token => Some(app.identity.authenticate(token).await?),
        };
        make_room_by_connecting(app, &id, &self.from, principal.as_ref()).await?;
        let (room, role) = may_enter(app, &id, principal.as_ref()).await?;
        ws::allows_document(&room)?;
        let principal = principal.unwrap_or_else(|| Principal::anonymous(UserId::generate()));
        let newcomer = Newcomer {
            room,
            role,
            name: principal.name.clone(),
            name_is_exclusive: false,
            claims_name: false,
            principal,
            client_id: None,
            color: None,
            avatar_url: None,
            resume: None,
            speaks: Speaks::Hocuspocus {
                key: key.into(),
                readdressed: key != id.as_str(),
            },
        };
        app.rooms.admit(newcomer).await.map_err(ws::refusal)
    }
}

/// What a provider is told: permission denied, which ends its tries; or to come back, where the fault is ours.
fn denied(problem: Problem) -> Denied {
    match problem.kind.status().as_u16() {
        503 if problem.kind == Kind::Draining => Denied::Later {
            code: 4503,
            reason: problem.detail,
        },
        429 | 500.. => Denied::Later {
            code: 1013,
            reason: problem.detail,
        },
        _ => Denied::No(problem.detail),
    }
}
