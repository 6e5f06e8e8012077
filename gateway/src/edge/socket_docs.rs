//! The WebSocket addresses as the OpenAPI document shows them: how to come in, and the refusals before the upgrade. What is
//! said on the socket is told elsewhere (docs/PROTOCOL.md).

use utoipa::openapi::path::{Operation, OperationBuilder, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Content, HttpMethod, OpenApi as Document, Ref, Required, Response};

/// Path, operation id, summary, what comes in the query besides a token, refusals besides those of all.
type Address = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

const JSON: &[&str] = &["client_id", "epoch", "seq", "resume_token", "username"];
const ROOM: &[&str] = &["401", "404", "409", "422"];
/// Where an unknown room may be made, the address's limit may refuse it.
const ADDRESSES: [Address; 7] = [
    (
        "/api/v1/rooms/{room_id}/ws",
        "room",
        "A room's WebSocket",
        JSON,
        ROOM,
    ),
    (
        "/api/ws/{room_id}",
        "plain",
        "A room's WebSocket; an unknown room is made where ANONYMOUS_ROOMS allows it",
        JSON,
        ROOM,
    ),
    (
        "/ws/{room_id}",
        "named",
        "The same; one person at a time bears the name that `username` gives",
        JSON,
        ROOM,
    ),
    (
        "/ws/session/{session_id}",
        "session",
        "A session's WebSocket, for its members",
        JSON,
        ROOM,
    ),
    (
        "/yjs/{room_id}",
        "yjs",
        "A room's document in the dialect of y-websocket",
        &[],
        ROOM,
    ),
    (
        "/hocuspocus",
        "hocuspocus",
        "Documents in the dialect of Hocuspocus, each with a token in its own message",
        &[],
        &[],
    ),
    (
        "/hocuspocus/",
        "hocuspocus_slash",
        "As /hocuspocus",
        &[],
        &[],
    ),
];

/// Refusals of every address, in words.
const REFUSALS: [(&str, &str); 9] = [
    ("400", "Sec-WebSocket-Key is missing"),
    ("401", "A token is needed, or it is not valid any more"),
    (
        "403",
        "This origin may not, or this person is no member of the room",
    ),
    ("404", "There is no such room"),
    (
        "409",
        "Somebody else is connected by this client id or name",
    ),
    ("422", "A parameter breaks a rule; `field` names it"),
    ("426", "No WebSocket handshake of version 13"),
    (
        "429",
        "Too many requests, or too many rooms from this address",
    ),
    ("503", "The gateway is stopping, or a store is away"),
];
/// Those that no address can do without.
const OF_ALL: [&str; 6] = ["400", "403", "426", "429", "500", "503"];

pub fn document(document: &mut Document) {
    for (path, id, summary, query, refusals) in ADDRESSES {
        let item = PathItem::new(
            HttpMethod::Get,
            operation(path, id, summary, query, refusals),
        );
        document.paths.paths.insert(path.to_owned(), item);
    }
}

fn operation(path: &str, id: &str, summary: &str, query: &[&str], refusals: &[&str]) -> Operation {
    let mut operation = OperationBuilder::new()
        .tag("sockets")
        .operation_id(Some(format!("sockets_{id}")))
        .summary(Some(summary))
        .response("101", Response::new("The socket is open"))
        .response("500", problem("Internal error"));
    for (status, words) in REFUSALS {
        if OF_ALL.contains(&status) || refusals.contains(&status) {
            operation = operation.response(status, problem(words));
        }
    }
    let text = || ObjectBuilder::new().schema_type(Type::String);
    if let Some(name) = path.split(['{', '}']).nth(1) {
        let parameter = ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .schema(Some(text()));
        operation = operation.parameter(parameter);
    }
    let tokens: &[&str] = if refusals.is_empty() {
        &[]
    } else {
        &["token", "ticket"]
    };
    for name in query.iter().chain(tokens) {
        let parameter = ParameterBuilder::new()
            .name(*name)
            .parameter_in(ParameterIn::Query)
            .required(Required::False)
            .schema(Some(text()));
        operation = operation.parameter(parameter);
    }
    if !refusals.is_empty() {
        operation = operation.securities(Some([
            SecurityRequirement::default(),
            SecurityRequirement::new("bearer", Vec::<String>::new()),
        ]));
    }
    operation.build()
}

fn problem(words: &str) -> Response {
    let content = Content::new(Some(Ref::from_schema_name("Problem")));
    let mut response = Response::new(words);
    response
        .content
        .insert("application/problem+json".to_owned(), content.into());
    response
}
