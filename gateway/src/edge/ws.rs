//! The WebSocket handshake on all addresses of a room: who, where, may they; then the raw socket goes to the room.
//!
//! A refusal is problem+json before the upgrade. After the 101 the socket is taken out of hyper and belongs to the room's
//! own connection engine: axum is not in the path of a message.

use std::collections::HashMap;
use std::str::FromStr;

use atelier_shared::domain::ids::{ClientId, Epoch, RoomId, Seq, UserId};
use atelier_shared::domain::names;
use atelier_shared::domain::room::{Activity, Role, Room};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;
use tungstenite::handshake::derive_accept_key;

use super::client::{
    ClientAddress, bearer, make_room_by_connecting, may_enter, may_take_part, sent_out_of_room,
};
use super::extract::{Id, Query};
use super::problem::{Kind, Problem};
use super::server;
use super::state::App;
use crate::identity::{Principal, ResumeClaim};
use crate::room::{AdmissionError, Newcomer, Speaks, sent_out};
use crate::seats::Seat;

/// Which address a client came by; they differ only in how it gets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Address {
    /// `/api/v1/rooms/{room_id}/ws`
    Rooms,
    /// `/api/ws/{room_id}`: an unknown room is made.
    Plain,
    /// `/ws/{room_id}`: as `Plain`; a name belongs to one person.
    Named,
    /// `/ws/session/{session_id}`: members only.
    Session,
    /// `/yjs/{room_id}`: as `Rooms`, or as `Plain` where rooms are made by connecting; y-websocket's dialect.
    Yjs,
}

/// The addresses of PROTOCOL.md, with their full paths.
pub fn routes() -> Router<App> {
    let route = |address: Address| {
        get(
            move |State(app): State<App>,
                  Id(room): Id<String>,
                  Query(query): Query<HashMap<String, String>>,
                  from: ClientAddress,
                  request: Request| enter(app, address, room, query, from, request),
        )
    };
    Router::new()
        .route("/api/v1/rooms/{room_id}/ws", route(Address::Rooms))
        .route("/api/rooms/{room_id}/ws", route(Address::Rooms))
        .route("/api/ws/{room_id}", route(Address::Plain))
        .route("/ws/{room_id}", route(Address::Named))
        .route("/ws/session/{session_id}", route(Address::Session))
        .route("/yjs/{room_id}", route(Address::Yjs))
}

/// A subprotocol that carries a token behind it.
const YAUTH: &str = "yauth-";

async fn enter(
    app: App,
    address: Address,
    room: String,
    query: HashMap<String, String>,
    from: ClientAddress,
    mut request: Request,
) -> Result<Response, Problem> {
    let accept = handshake(&request)?;
    check_origin(&app, request.headers())?;
    stays(&app)?;
    let seat = seat(&app, &mut request)?;
    let room: RoomId = room.parse()?;
    let (principal, subprotocol) = principal(&app, request.headers(), &query).await?;
    let who = who(&app, principal, &query)?;
    let (room, role) = find_room(&app, address, &room, &who, &from).await?;
    let newcomer = newcomer(address, room, role, who, &query)?;
    let admission = app.rooms.admit(newcomer).await.map_err(refusal)?;
    let tasks = app.rooms.tasks.clone();
    let answer = (accept, subprotocol);
    Ok(upgrade(request, &tasks, answer, |socket| async move {
        match socket {
            Some((stream, early)) => admission.connect(stream, seat, early).await,
            None => admission.abandon().await,
        }
    }))
}

/// Answers the handshake, and hands the TCP socket out of hyper to `run`; what hyper read behind the handshake comes along,
/// and its buffer goes. `None`: there is no socket.
pub fn upgrade<F: Future<Output = ()> + Send>(
    mut request: Request,
    tasks: &TaskTracker,
    (accept, subprotocol): (HeaderValue, Option<HeaderValue>),
    run: impl FnOnce(Option<(TcpStream, Bytes)>) -> F + Send + 'static,
) -> Response {
    let upgrade = hyper::upgrade::on(&mut request);
    tasks.spawn(async move {
        let socket = match upgrade.await {
            Ok(upgraded) => match upgraded.downcast::<TokioIo<TcpStream>>() {
                Ok(parts) => {
                    let stream = parts.io.into_inner();
                    server::cut_off_who_reads_nothing(&stream, None);
                    Some((stream, parts.read_buf))
                }
                Err(_) => {
                    tracing::error!("the connection under an upgrade is not a TCP socket");
                    None
                }
            },
            Err(error) => {
                tracing::debug!(%error, "the upgrade did not happen");
                None
            }
        };
        run(socket).await;
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(subprotocol) = subprotocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    response
}

/// The rules of RFC 6455, 4.2.1; returns the accept key.
pub fn handshake(request: &Request) -> Result<HeaderValue, Problem> {
    let headers = request.headers();
    let has = |name: header::HeaderName, word: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    let upgrades = request.method() == Method::GET
        && has(header::CONNECTION, "upgrade")
        && has(header::UPGRADE, "websocket");
    if !upgrades {
        return Err(Problem::new(
            Kind::UpgradeRequired,
            "This address is a WebSocket: connect with ws:// or wss://.",
        ));
    }
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .map(HeaderValue::as_bytes)
        != Some(b"13")
    {
        return Err(Problem::new(
            Kind::UpgradeRequired,
            "Sec-WebSocket-Version must be 13.",
        ));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let key = key.ok_or_else(|| Problem::new(Kind::Malformed, "Sec-WebSocket-Key is missing."))?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| Problem::internal())
}

/// A gateway that is going away takes nobody in. Asked first of all: a ticket that is spent here is none elsewhere.
pub fn stays(app: &App) -> Result<(), Problem> {
    if app.rooms.is_draining() {
        let text = "this server is going away";
        return Err(Problem::new(Kind::Draining, text));
    }
    Ok(())
}

/// The connection's seat, from now on a WebSocket's.
pub fn seat(app: &App, request: &mut Request) -> Result<Seat, Problem> {
    let seat = request.extensions_mut().remove::<Seat>();
    let seat = seat.ok_or_else(Problem::internal)?;
    if !app.seats.becomes_socket(&seat) {
        let text =
            "This server has as many connections as it may have; come back, best to another.";
        return Err(Problem::new(Kind::Busy, text));
    }
    Ok(seat)
}

/// A page of a foreign origin must not ride on somebody's browser.
pub fn check_origin(app: &App, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return Ok(());
    };
    let origin = origin.to_str().unwrap_or("");
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    if app.config.origin_allowed(origin, host) {
        return Ok(());
    }
    Err(Problem::forbidden("This origin is not in CORS_ORIGINS."))
}

/// The token from wherever it came: `Authorization`, subprotocol `bearer, <jwt>` or `yauth-<jwt>`, `?token=` or `?ticket=`.
async fn principal(
    app: &App,
    headers: &HeaderMap,
    query: &HashMap<String, String>,
) -> Result<(Option<Principal>, Option<HeaderValue>), Problem> {
    let offered: Vec<&str> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    if let [bearer, token, ..] = offered[..]
        && bearer.eq_ignore_ascii_case("bearer")
    {
        let principal = app.identity.authenticate(token).await?;
        return Ok((Some(principal), Some(HeaderValue::from_static("bearer"))));
    }
    // Clients of y-websocket can set neither a header nor a second subprotocol.
    if let Some((subprotocol, token)) = offered
        .iter()
        .find_map(|one| Some((one, one.strip_prefix(YAUTH)?)))
    {
        let principal = app.identity.authenticate(token).await?;
        let chosen = HeaderValue::from_str(subprotocol).ok();
        return Ok((Some(principal), chosen));
    }
    let given = |name: &str| query.get(name).filter(|value| !value.is_empty());
    let principal = if let Some(token) = bearer(headers)? {
        Some(app.identity.authenticate(token).await?)
    } else if let Some(token) = given("token") {
        Some(app.identity.authenticate(token).await?)
    } else if let Some(ticket) = given("ticket") {
        Some(app.identity.redeem_ticket(ticket).await?)
    } else {
        None
    };
    Ok((principal, None))
}

/// Who comes, as far as they can show it.
struct Who {
    /// By a token, or by the resume token of somebody anonymous. `None`: nobody yet.
    principal: Option<Principal>,
    client_id: Option<ClientId>,
}

fn who(
    app: &App,
    principal: Option<Principal>,
    query: &HashMap<String, String>,
) -> Result<Who, Problem> {
    let given = |name: &str| query.get(name).filter(|value| !value.is_empty());
    let mut client_id = given("client_id")
        .map(|text| text.parse::<ClientId>())
        .transpose()?;
    let claim = given("resume_token").and_then(|token| app.identity.verify_resume_token(token));
    let anonymous = |claim: &ResumeClaim| Principal::anonymous(claim.user_id);
    let shown = claim.as_ref().filter(|claim| claim.anonymous);
    let principal = principal.or_else(|| shown.map(anonymous));
    if let (Some(claim), Some(principal)) = (claim, &principal)
        && claim.user_id == principal.user_id
    {
        client_id.get_or_insert(claim.client_id);
    }
    Ok(Who {
        principal,
        client_id,
    })
}

async fn find_room(
    app: &App,
    address: Address,
    id: &RoomId,
    who: &Who,
    from: &ClientAddress,
) -> Result<(Room, Role), Problem> {
    let principal = who.principal.as_ref();
    match address {
        Address::Plain | Address::Named | Address::Yjs => {
            make_room_by_connecting(app, id, from, principal).await?;
        }
        Address::Session | Address::Rooms => {}
    }
    let (room, role) = match address {
        Address::Session => may_take_part(app, id, principal).await?,
        _ => may_enter(app, id, principal).await?,
    };
    if let (None, Some(client)) = (principal, &who.client_id)
        && sent_out::is_client_sent_out(&app.backends, id, client).await?
    {
        return Err(sent_out_of_room());
    }
    if address == Address::Yjs {
        allows_document(&room)?;
    }
    Ok((room, role))
}

/// The binary dialects are about the document alone.
pub fn allows_document(room: &Room) -> Result<(), Problem> {
    if room.allows(Activity::Document) {
        return Ok(());
    }
    Err(Problem::forbidden("This room does not allow document."))
}

fn newcomer(
    address: Address,
    room: Room,
    role: Role,
    who: Who,
    query: &HashMap<String, String>,
) -> Result<Newcomer, Problem> {
    let given = |name: &str| query.get(name).filter(|value| !value.is_empty());
    let stranger = || Principal::anonymous(UserId::generate());
    let principal = who.principal.unwrap_or_else(stranger);
    let username = given("username")
        .map(|name| names::name("username", name))
        .transpose()?;
    let color = given("color").cloned();
    if let Some(color) = &color {
        names::color("color", color)?;
    }
    let name = username.or_else(|| principal.name.clone());
    Ok(Newcomer {
        room,
        role,
        name_is_exclusive: address == Address::Named,
        claims_name: address == Address::Named && name.is_some(),
        name,
        principal,
        client_id: who.client_id,
        color,
        avatar_url: None,
        resume: resume(query)?,
        speaks: match address {
            Address::Yjs => Speaks::Yjs,
            _ => Speaks::Json,
        },
    })
}

/// `epoch` and `seq` of the URL, both or neither.
fn resume(query: &HashMap<String, String>) -> Result<Option<(Epoch, Seq)>, Problem> {
    let number = |name: &'static str| {
        query
            .get(name)
            .map(|text| u64::from_str(text))
            .transpose()
            .map_err(|_| Problem::invalid(name, "must be a whole number"))
    };
    match (number("epoch")?, number("seq")?) {
        (Some(epoch), Some(seq)) => Ok(Some((Epoch(epoch), Seq(seq)))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(Problem::invalid("seq", "must come with epoch")),
        (None, Some(_)) => Err(Problem::invalid("epoch", "must come with seq")),
    }
}

pub fn refusal(error: AdmissionError) -> Problem {
    match error {
        AdmissionError::ClientIdHeld => Problem::conflict(error.to_string()).at("client_id"),
        AdmissionError::NameHeld => Problem::conflict(error.to_string()).at("username"),
        AdmissionError::Draining => Problem::new(Kind::Draining, error.to_string()),
        AdmissionError::Port(error) => error.into(),
    }
}

impl IntoResponse for AdmissionError {
    fn into_response(self) -> Response {
        refusal(self).into_response()
    }
}
