//! The router over embedded stores: what is refused, and how.

use std::net::SocketAddr;
use std::path::Path;

use atelier_shared::Backends;
use atelier_shared::config::StoreConfig;
use atelier_shared::domain::ids::RoomId;
use atelier_shared::domain::room::{Access, Retention, Role, Room, RoomChoice};
use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Request, StatusCode};
use chrono::Utc;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::client::{ClientAddress, make_room_by_connecting, may_enter};
use super::problem::Kind;
use super::{App, routes};
use crate::config::tests::parse;

mod again;
mod limits;
mod lists;
mod odd_input;
mod slow;
mod untold;

struct Server {
    app: App,
    router: Router,
    _folder: tempfile::TempDir,
}

async fn server(flags: &[&str]) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let data_dir: &Path = folder.path();
    let stores = StoreConfig {
        data_dir: data_dir.to_owned(),
        ..StoreConfig::default()
    };
    let backends = Backends::open(&stores).await.unwrap();
    let mut config = parse(flags).unwrap();
    config.prepare(backends.mode, data_dir).unwrap();
    let app = App::start(backends, config).await.unwrap();
    Server {
        router: routes::router(app.clone()),
        app,
        _folder: folder,
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Server {
    async fn send(&self, from: &str, request: Request<Body>) -> Answer {
        let mut request = request;
        let peer: SocketAddr = format!("{from}:4711").parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(peer));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        }
    }

    async fn call(&self, method: &str, path: &str, token: &str, body: Option<Value>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map_or(Body::empty(), |body| Body::from(body.to_string()));
        self.send("192.0.2.1", request.body(body).unwrap()).await
    }

    async fn post(&self, path: &str, token: &str, body: Value) -> Answer {
        self.call("POST", path, token, Some(body)).await
    }

    async fn get(&self, path: &str, token: &str) -> Answer {
        self.call("GET", path, token, None).await
    }

    async fn guest(&self, name: &str) -> Value {
        let answer = self
            .post("/api/v1/auth/guest", "", json!({ "name": name }))
            .await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        answer.body
    }
}

fn access(tokens: &Value) -> &str {
    tokens["access_token"].as_str().unwrap()
}

fn refresh(tokens: &Value) -> Value {
    json!({"refresh_token": tokens["refresh_token"]})
}

#[tokio::test]
async fn whatever_is_refused_is_a_problem_with_security_headers() {
    let server = server(&[]).await;
    for (method, path, status) in [
        ("GET", "/nowhere", 404),
        ("GET", "/api/v1/nowhere", 404),
        ("PUT", "/api/v1/rooms", 405),
        ("GET", "/api/v1/rooms/x.y", 404),
        ("GET", "/api/v1/jobs/not-a-uuid", 401),
        ("GET", "/api/v1/rooms?limit=0", 422),
        ("GET", "/api/v1/rooms?cursor=x", 422),
        ("GET", "/api/v1/rooms/unknown/ws", 426),
    ] {
        let answer = server.call(method, path, "", None).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path}");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        assert_eq!(answer.headers["referrer-policy"], "no-referrer");
        assert!(answer.headers.contains_key("content-security-policy"));
        assert_eq!(answer.body["status"], status, "{method} {path}");
        let trace_id = answer.body["trace_id"].as_str().unwrap();
        assert_eq!(trace_id.len(), 32);
        assert_ne!(trace_id, "0".repeat(32), "{method} {path}");
    }
    let wrong_method = server.call("PUT", "/api/v1/rooms", "", None).await;
    assert!(wrong_method.headers.contains_key("allow"));
}

#[tokio::test]
async fn a_bad_body_is_refused_by_what_is_wrong_with_it() {
    let server = server(&["--max-body=1024"]).await;
    let send = async |kind: &str, body: String| {
        let request = Request::post("/api/v1/auth/guest")
            .header("content-type", kind)
            .body(Body::from(body))
            .unwrap();
        let answer = server.send("192.0.2.1", request).await;
        (answer.status.as_u16(), answer.body["field"].clone())
    };
    let json = "application/json";
    assert_eq!(send("text/plain", "{}".into()).await.0, 415);
    assert_eq!(send(json, "{".into()).await.0, 400);
    assert_eq!(send(json, "{}".into()).await, (422, json!("name")));
    assert_eq!(
        send(json, r#"{"name":7}"#.into()).await,
        (422, json!("name"))
    );
    assert_eq!(
        send(json, format!(r#"{{"name":"{}"}}"#, "x".repeat(2000)))
            .await
            .0,
        413
    );
    assert_eq!(
        send(
            "application/json; charset=utf-8",
            r#"{"name":"Ana"}"#.into()
        )
        .await
        .0,
        201
    );
}

#[tokio::test]
async fn an_unknown_user_and_a_wrong_password_look_alike() {
    let server = server(&[]).await;
    let account =
        json!({"username": "ana", "password": "correct horse", "email": "ana@example.com"});
    let made = server.post("/api/v1/auth/register", "", account).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let login = async |username: &str, password: &str| {
        let body = json!({"username": username, "password": password});
        server.post("/api/auth/login", "", body).await
    };
    for name in ["ana", "ANA", "Ana@Example.com"] {
        assert_eq!(
            login(name, "correct horse").await.status,
            StatusCode::OK,
            "{name}"
        );
    }
    let mut wrong = login("ana", "wrong horse").await;
    let mut unknown = login("nobody", "wrong horse").await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    wrong.body["trace_id"] = Value::Null;
    unknown.body["trace_id"] = Value::Null;
    assert_eq!((wrong.status, wrong.body), (unknown.status, unknown.body));
    let again = json!({"username": "ANA", "password": "correct horse"});
    let again = server.post("/api/v1/auth/register", "", again).await;
    assert_eq!(
        (again.status.as_u16(), &again.body["field"]),
        (409, &json!("username"))
    );
}

#[tokio::test]
async fn guessing_is_slowed_without_locking_the_owner_out() {
    let server = server(&["--login-tries=3"]).await;
    let account = json!({"username": "ana", "password": "correct horse"});
    server
        .post("/api/v1/auth/register", "", account.clone())
        .await;
    let login = async |from: &str, password: &str| {
        let request = Request::post("/api/v1/auth/login")
            .header("content-type", "application/json")
            .body(Body::from(
                json!({"username": "ana", "password": password}).to_string(),
            ))
            .unwrap();
        server.send(from, request).await
    };
    for _ in 0..3 {
        assert_eq!(
            login("198.51.100.1", "guess").await.status,
            StatusCode::UNAUTHORIZED
        );
    }
    let refused = login("198.51.100.1", "correct horse").await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(refused.headers["ratelimit-policy"], "\"default\";q=3;w=900");
    assert_eq!(
        login("198.51.100.2", "correct horse").await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_logout_ends_the_login_and_its_tickets() {
    let server = server(&[]).await;
    let tokens = server.guest("Ben").await;
    let token = access(&tokens);
    assert_eq!(
        server.get("/api/v1/auth/me", token).await.body["name"],
        "Ben"
    );
    let ticket = server
        .call("POST", "/api/v1/auth/ws-ticket", token, None)
        .await;
    let ticket = ticket.body["ticket"].as_str().unwrap().to_owned();
    let renewed = server
        .post("/api/v1/auth/refresh", "", refresh(&tokens))
        .await;
    assert_eq!(renewed.status, StatusCode::OK);
    let repeated = server
        .post("/api/v1/auth/refresh", "", refresh(&tokens))
        .await;
    assert_eq!(
        repeated.body["refresh_token"], renewed.body["refresh_token"],
        "a lost answer can be asked for again"
    );
    let ended = server
        .post("/api/v1/auth/logout", "", refresh(&renewed.body))
        .await;
    assert_eq!(ended.status, StatusCode::NO_CONTENT);
    let after = server.get("/api/v1/auth/me", token).await;
    assert_eq!(after.body["type"], "/problems/token-revoked");
    assert!(server.app.identity.redeem_ticket(&ticket).await.is_err());
    let refused = server
        .post("/api/v1/auth/refresh", "", refresh(&renewed.body))
        .await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    let unknown = json!({"refresh_token": "made up"});
    let unknown = server.post("/api/v1/auth/logout", "", unknown).await;
    assert_eq!(unknown.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_ticket_is_good_for_one_use() {
    let server = server(&[]).await;
    let tokens = server.guest("Ben").await;
    let ticket = server
        .call("POST", "/api/v1/auth/ws-ticket", access(&tokens), None)
        .await;
    let ticket = ticket.body["ticket"].as_str().unwrap().to_owned();
    let principal = server.app.identity.redeem_ticket(&ticket).await.unwrap();
    assert_eq!(json!(principal.user_id), tokens["user"]["id"]);
    assert!(server.app.identity.redeem_ticket(&ticket).await.is_err());
}

async fn room(server: &Server, access: Access) -> Room {
    let choice = RoomChoice {
        access: Some(access),
        ..RoomChoice::default()
    };
    let room = Room::new(RoomId::generate(), choice, None, None, Utc::now());
    assert!(
        server
            .app
            .backends
            .records
            .create_room(&room)
            .await
            .unwrap()
    );
    room
}

#[tokio::test]
async fn a_room_lets_in_whom_it_should() {
    let server = server(&["--admin-token=0123456789abcdef"]).await;
    let tokens = server.guest("Ben").await;
    let guest = server.app.identity.verify(access(&tokens)).unwrap();
    let admin = server.app.identity.verify("0123456789abcdef").unwrap();
    let enter = async |room: &Room, principal| {
        may_enter(&server.app, &room.id, principal)
            .await
            .map(|(_, role)| role)
            .map_err(|problem| problem.kind)
    };
    let open = room(&server, Access::Open).await;
    assert_eq!(enter(&open, None).await, Ok(Role::Editor));
    assert_eq!(enter(&open, Some(&guest)).await, Ok(Role::Editor));
    let records = &server.app.backends.records;
    records
        .set_role(&open.id, guest.user_id, Some(Role::Viewer))
        .await
        .unwrap();
    assert_eq!(
        enter(&open, Some(&guest)).await,
        Ok(Role::Viewer),
        "a given role wins"
    );
    for access in [Access::Invite, Access::Members] {
        let closed = room(&server, access).await;
        assert_eq!(enter(&closed, None).await, Err(Kind::Unauthenticated));
        assert_eq!(enter(&closed, Some(&guest)).await, Err(Kind::Forbidden));
        assert_eq!(enter(&closed, Some(&admin)).await, Ok(Role::Host));
        records
            .set_role(&closed.id, guest.user_id, Some(Role::Editor))
            .await
            .unwrap();
        assert_eq!(enter(&closed, Some(&guest)).await, Ok(Role::Editor));
    }
    let unknown = may_enter(&server.app, &RoomId::generate(), Some(&admin)).await;
    assert_eq!(unknown.unwrap_err().kind, Kind::NotFound);
}

#[tokio::test]
async fn connecting_makes_a_room_up_to_the_limit_of_its_address() {
    let server = server(&["--rooms-per-address=2"]).await;
    let connect = async |id: &str, from: &str| {
        let id: RoomId = id.parse().unwrap();
        let address = ClientAddress(from.to_owned());
        make_room_by_connecting(&server.app, &id, &address, None)
            .await
            .map_err(|problem| problem.kind)
    };
    let made = connect("one", "192.0.2.1").await.unwrap();
    assert_eq!(
        (made.access, made.retention),
        (Access::Open, Retention::Ephemeral)
    );
    assert_eq!(
        connect("one", "192.0.2.1").await.unwrap(),
        made,
        "it is made once"
    );
    let (two, three) = tokio::join!(connect("two", "192.0.2.1"), connect("three", "192.0.2.1"));
    let refused = [two, three]
        .into_iter()
        .filter_map(Result::err)
        .collect::<Vec<_>>();
    assert_eq!(
        refused,
        [Kind::RoomLimit],
        "of two at once the limit lets one through"
    );
    assert!(connect("four", "192.0.2.2").await.is_ok());
    assert_eq!(connect("one", "192.0.2.1").await.unwrap(), made);
}

#[tokio::test]
async fn where_rooms_are_not_made_by_connecting_an_unknown_one_is_not_found() {
    let server = server(&["--anonymous-rooms=false"]).await;
    let address = ClientAddress("192.0.2.1".into());
    let unknown = "one".parse().unwrap();
    let refused = make_room_by_connecting(&server.app, &unknown, &address, None).await;
    assert_eq!(refused.unwrap_err().kind, Kind::NotFound);
}

#[tokio::test]
async fn a_room_keeps_a_host() {
    let server = server(&[]).await;
    let (host, guest) = (server.guest("Ana").await, server.guest("Ben").await);
    let made = server
        .post("/api/v1/rooms", access(&host), json!({"kind": "session"}))
        .await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let members = format!(
        "/api/v1/rooms/{}/members",
        made.body["id"].as_str().unwrap()
    );
    let member = |tokens: &Value| format!("{members}/{}", tokens["user"]["id"].as_str().unwrap());
    let alone = server
        .call("DELETE", &member(&host), access(&host), None)
        .await;
    assert_eq!(alone.status, StatusCode::CONFLICT);
    let stranger = server.get(&members, access(&guest)).await;
    assert_eq!(stranger.status, StatusCode::FORBIDDEN);
    let added = json!({"user_id": guest["user"]["id"], "role": "host"});
    let added = server.post(&members, access(&host), added).await;
    assert_eq!(added.status, StatusCode::CREATED, "{}", added.body);
    let left = server
        .call("DELETE", &member(&host), access(&host), None)
        .await;
    assert_eq!(left.status, StatusCode::NO_CONTENT, "{}", left.body);
    assert_eq!(
        server.get(&members, access(&host)).await.status,
        StatusCode::FORBIDDEN
    );
}

#[tokio::test]
async fn a_job_belongs_to_whoever_sent_it() {
    let server = server(&[]).await;
    let (ana, ben) = (server.guest("Ana").await, server.guest("Ben").await);
    let code = json!({"language": "python", "source": "print(6*7)"});
    let nobodys = server.post("/api/v1/jobs", "", code.clone()).await;
    assert_eq!(nobodys.status, StatusCode::UNAUTHORIZED);
    let sent = server.post("/api/v1/jobs", access(&ana), code).await;
    assert_eq!(sent.status, StatusCode::ACCEPTED, "{}", sent.body);
    let path = sent.headers["location"].to_str().unwrap().to_owned();
    assert_eq!(
        server.get(&path, access(&ana)).await.body["status"],
        "queued"
    );
    assert_eq!(
        server.get(&path, access(&ben)).await.status,
        StatusCode::NOT_FOUND
    );
    let cancelled = server
        .call("POST", &format!("{path}/cancel"), access(&ana), None)
        .await;
    assert_eq!(cancelled.body["status"], "cancelled", "{}", cancelled.body);
    let waiting = server
        .app
        .backends
        .queue
        .stats("code_execution")
        .await
        .unwrap();
    assert_eq!(
        (waiting.waiting, waiting.in_flight),
        (0, 0),
        "it left the queue"
    );
    let removed = server.call("DELETE", &path, access(&ana), None).await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    assert_eq!(
        server.get(&path, access(&ana)).await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn a_panic_is_an_internal_error_that_says_nothing() {
    async fn boom() {
        panic!("the secret is 42");
    }
    let router = Router::new().route("/", axum::routing::get(boom)).layer(
        tower_http::catch_panic::CatchPanicLayer::custom(super::layers::panicked),
    );
    let response = router
        .oneshot(Request::get("/").body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20)
        .await
        .unwrap();
    assert!(!String::from_utf8_lossy(&bytes).contains("42"));
}
