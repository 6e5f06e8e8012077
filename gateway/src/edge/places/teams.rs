//! `/teams`: people who share insights and are counted together.

use atelier_shared::domain::place::PlaceKind;

use super::routes::prelude::*;
use super::routes::{place_of_its_own, place_routes};

place_of_its_own!(PlaceKind::Team, "team", tag: "teams", places: "/teams");
place_routes!(
    PlaceKind::Team, "team", tag: "teams", id: "team_id",
    place: "/teams/{team_id}", members: "/teams/{team_id}/members",
    member: "/teams/{team_id}/members/{user_id}",
    deleting: "Deletes a team"
);
