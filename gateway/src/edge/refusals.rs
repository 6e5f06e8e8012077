//! The problem responses that handlers name in the OpenAPI document, in groups.

use std::collections::BTreeMap;

use utoipa::IntoResponses;
use utoipa::openapi::{Content, Ref, RefOr, Response};

macro_rules! documented {
    ($($(#[$doc:meta])* $name:ident: $($status:literal $words:literal),+;)+) => {$(
        $(#[$doc])*
        pub struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                BTreeMap::from([$(($status.to_owned(), documented_problem($words))),+])
            }
        }
    )+};
}

documented! {
    /// Whatever is asked.
    Failures: "429" "Too many requests; see Retry-After", "500" "Internal error", "503" "A store is away, or the gateway is busy or stopping; see Retry-After";
    /// A token is needed.
    NeedsToken: "401" "No token, or one that is not valid any more";
    /// A right is needed.
    NeedsRight: "401" "No token, or one that is not valid any more", "403" "The role is not enough";
    Missing: "404" "There is no such thing";
    /// There is a body.
    BadBody: "400" "Not JSON", "413" "The body is too large", "415" "Not application/json", "422" "A field breaks a rule; `field` names it";
    /// The body is a form with a file in it.
    BadForm: "400" "Not a form, or it ended early", "413" "Larger than MAX_FILE_SIZE", "415" "No form, or a type that is not allowed; the allowed ones are named", "422" "A field is missing or breaks a rule; `field` names it";
    /// It is had by a signed link.
    BadLink: "403" "No signature, a wrong one, or it has expired";
    /// A part of it may be asked for.
    BadRange: "416" "There are no such bytes; Content-Range tells the size";
    /// There are query parameters.
    BadQuery: "422" "A parameter breaks a rule; `field` names it";
    /// It was there.
    Over: "410" "It has expired or was used up";
    /// A request with an `Idempotency-Key`.
    Keyed: "409" "The same request is under way", "422" "The key was used for another request, or can't be one";
    Taken: "409" "Somebody else has it, or it is over";
    Unready: "503" "The gateway is stopping, or a store is away";
}

fn documented_problem(words: &str) -> RefOr<Response> {
    let content = Content::new(Some(Ref::from_schema_name("Problem")));
    let mut response = Response::new(words);
    response
        .content
        .insert("application/problem+json".to_owned(), content.into());
    response.into()
}
