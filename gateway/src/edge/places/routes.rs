//! The handlers that all kinds of place have, written once: each kind's module calls [`place_routes`] with its words and
//! paths (and imports [`prelude`]), and adds what only it does (how one is made, and which are listed).

/// `get`, `patch`, `delete`, `members`, `add_member`, `change_member` and `remove_member` of one kind of place.
macro_rules! place_routes {
    (
        $kind:expr, $one:literal, tag: $tag:literal, id: $id:literal,
        place: $place:literal, members: $members:literal, member: $member:literal,
        deleting: $deleting:literal
    ) => {
        /// For those who belong to it.
        #[utoipa::path(get, path = $place, operation_id = "get", tag = $tag, summary = concat!("One ", $one), params(($id = uuid::Uuid, Path)), security(("bearer" = [])), responses(
            (status = 200, description = concat!("The ", $one), body = PlaceView),
            NeedsRight, Missing, Failures,
        ))]
        pub async fn get(
            State(app): State<App>,
            Authenticated(principal): Authenticated,
            Id(id): Id<PlaceId>,
        ) -> Result<Json<PlaceView>, Problem> {
            let (place, role) = known(&app, $kind, id, &principal).await?;
            Ok(Json(PlaceView::new(place, Some(role))))
        }

        /// Admins only.
        #[utoipa::path(patch, path = $place, operation_id = "patch", tag = $tag, summary = concat!("Changes what a ", $one, " is"), params(($id = uuid::Uuid, Path)), request_body = PlacePatch, security(("bearer" = [])), responses(
            (status = 200, description = concat!("The ", $one, " as it is now"), body = PlaceView),
            NeedsRight, Missing, BadBody, Failures,
        ))]
        pub async fn patch(
            State(app): State<App>,
            Authenticated(principal): Authenticated,
            Id(id): Id<PlaceId>,
            Body(asked): Body<PlacePatch>,
        ) -> Result<Json<PlaceView>, Problem> {
            lifecycle::patch(&app, $kind, id, &principal, asked).await
        }

        /// Owners only.
        #[utoipa::path(delete, path = $place, operation_id = "delete", tag = $tag, summary = $deleting, params(($id = uuid::Uuid, Path)), security(("bearer" = [])), responses(
            (status = 204, description = "Gone"),
            NeedsRight, Missing, Taken, Failures,
        ))]
        pub async fn delete(
            State(app): State<App>,
            Authenticated(principal): Authenticated,
            Id(id): Id<PlaceId>,
        ) -> Result<StatusCode, Problem> {
            lifecycle::delete(&app, $kind, id, &principal).await
        }

        /// By user id. Who belongs to a project by its workspace is not among them.
        #[utoipa::path(get, path = $members, operation_id = "members_list", tag = $tag, summary = concat!("Who belongs to the ", $one), params(($id = uuid::Uuid, Path), PageParams), security(("bearer" = [])), responses(
            (status = 200, description = "A page of members", body = Page<members::PlaceMemberView>),
            NeedsRight, Missing, BadQuery, Failures,
        ))]
        pub async fn members(
            State(app): State<App>,
            Authenticated(principal): Authenticated,
            Id(id): Id<PlaceId>,
            Query(page): Query<PageParams>,
        ) -> Result<
            Json<Page<members::PlaceMemberView>>,
            Problem,
        > {
            members::list(&app, $kind, id, &principal, &page).await
        }

        /// Admins only, and owners only for another owner.
        #[utoipa::path(post, path = $members, operation_id = "members_add", tag = $tag, summary = concat!("Takes somebody into the ", $one), params(($id = uuid::Uuid, Path)), request_body = members::NewPlaceMember, security(("bearer" = [])), responses(
            (status = 201, description = "The member", body = members::PlaceMemberView),
            NeedsRight, Missing, BadBody, Taken, Failures,
        ))]
        pub async fn add_member(
            State(app): State<App>,
            Authenticated(principal): Authenticated,
            Id(id): Id<PlaceId>,
            Body(asked): Body<members::NewPlaceMember>,
        ) -> Result<
            (StatusCode, Json<members::PlaceMemberView>),
            Problem,
        > {
            members::add(&app, $kind, id, principal, asked).await
        }

        /// Admins only, and owners only where an owner is made or changed. One owner stays.
        #[utoipa::path(patch, path = $member, operation_id = "members_change", tag = $tag, summary = "Changes somebody's role", params(($id = uuid::Uuid, Path), ("user_id" = uuid::Uuid, Path)), request_body = members::PlaceMemberPatch, security(("bearer" = [])), responses(
            (status = 200, description = "The member", body = members::PlaceMemberView),
            NeedsRight, Missing, BadBody, Taken, Failures,
        ))]
        pub async fn change_member(
            State(app): State<App>,
            Authenticated(principal): Authenticated,
            Ids(id, user): Ids<
                PlaceId,
                UserId,
            >,
            Body(asked): Body<members::PlaceMemberPatch>,
        ) -> Result<
            Json<members::PlaceMemberView>,
            Problem,
        > {
            members::change(&app, $kind, id, user, principal, asked).await
        }

        /// One owner stays.
        #[utoipa::path(delete, path = $member, operation_id = "members_remove", tag = $tag, summary = "Sends somebody away, or leaves", params(($id = uuid::Uuid, Path), ("user_id" = uuid::Uuid, Path)), security(("bearer" = [])), responses(
            (status = 204, description = "Not a member any more"),
            NeedsRight, Missing, Taken, Failures,
        ))]
        pub async fn remove_member(
            State(app): State<App>,
            Authenticated(principal): Authenticated,
            Ids(id, user): Ids<
                PlaceId,
                UserId,
            >,
        ) -> Result<StatusCode, Problem> {
            members::remove(&app, $kind, id, user, principal).await
        }
    };
}

/// `create` and `list` of places that stand alone (workspaces and teams).
macro_rules! place_of_its_own {
    ($kind:expr, $one:literal, tag: $tag:literal, places: $places:literal) => {
        /// Its maker is owner.
        #[utoipa::path(post, path = $places, operation_id = "create", tag = $tag, summary = concat!("Makes a ", $one), request_body = NewPlace, security(("bearer" = [])), responses(
            (status = 201, description = concat!("The ", $one), body = PlaceView, headers(("location" = String, description = "Its path"))),
            NeedsToken, BadBody, Failures,
        ))]
        pub async fn create(
            State(app): State<App>,
            Authenticated(principal): Authenticated,
            Body(asked): Body<NewPlace>,
        ) -> Result<impl IntoResponse, Problem> {
            lifecycle::create(&app, $kind, None, &principal, asked).await
        }

        /// Newest first.
        #[utoipa::path(get, path = $places, operation_id = "list", tag = $tag, summary = concat!("The ", $tag, " that you belong to"), params(PageParams), security(("bearer" = [])), responses(
            (status = 200, description = concat!("A page of ", $tag), body = Page<PlaceView>),
            NeedsToken, BadQuery, Failures,
        ))]
        pub async fn list(
            State(app): State<App>,
            Authenticated(principal): Authenticated,
            Query(page): Query<PageParams>,
        ) -> Result<
            Json<Page<PlaceView>>,
            Problem,
        > {
            lifecycle::list_of_kind(&app, $kind, &principal, &page).await
        }
    };
}

pub(super) use {place_of_its_own, place_routes};

/// What the handlers are written with.
pub(super) mod prelude {
    pub use atelier_shared::domain::ids::{PlaceId, UserId};
    pub use axum::Json;
    pub use axum::extract::State;
    pub use axum::http::StatusCode;
    pub use axum::response::IntoResponse;

    pub(in crate::edge::places) use super::super::{
        NewPlace, PlacePatch, PlaceView, known, lifecycle, members,
    };
    pub use crate::edge::client::Authenticated;
    pub use crate::edge::extract::{Body, Id, Ids, Query};
    pub use crate::edge::page::{Page, PageParams};
    pub use crate::edge::problem::Problem;
    pub use crate::edge::refusals::{
        BadBody, BadQuery, Failures, Missing, NeedsRight, NeedsToken, Taken,
    };
    pub use crate::edge::state::App;
}
