//! The words that fields take, as the OpenAPI document lists them. Their types are the domain's, which knows no OpenAPI.

use utoipa::ToSchema;

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident: $($word:ident),+;)+) => {$(
        $(#[$doc])*
        #[derive(ToSchema)]
        #[expect(dead_code, reason = "only described")]
        #[schema(rename_all = "snake_case")]
        pub enum $name {
            $($word),+
        }
    )+};
}

words! {
    /// What somebody is in a room
    RoleWord: Viewer, Editor, Host;
    /// What somebody is in a workspace, a project or a team
    PlaceRoleWord: Viewer, Member, Admin, Owner;
    KindWord: Open, Whiteboard, Session, Project;
    /// Who may enter without being a member
    AccessWord: Open, Invite, Members;
    /// What becomes of a room when it is empty
    RetentionWord: Keep, Ephemeral;
    ActivityWord: Draw, Chat, Document, Code;
    FormatWord: Svg, Json;
    BucketWord: Hour, Day, Week;
    JobStateWord: Queued, Running, Succeeded, Failed, TimedOut, OutOfMemory, OutputLimit, Killed, Cancelled, Rejected, Dead;
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;
    use std::str::FromStr;

    use atelier_shared::domain::job::JobState;
    use atelier_shared::domain::place::PlaceRole;
    use atelier_shared::domain::room::{Access, Activity, Retention, Role, RoomKind};
    use serde_json::Value;
    use utoipa::{PartialSchema, ToSchema};

    use super::*;

    /// Every word is one of the type's; how many there are is the type's own to say.
    fn describes<W: ToSchema + PartialSchema, T: FromStr<Err: Debug>>(count: usize) {
        let schema = serde_json::to_value(W::schema()).unwrap();
        let words = schema["enum"].as_array().unwrap();
        assert_eq!(words.len(), count, "{}", W::name());
        for word in words.iter().filter_map(Value::as_str) {
            word.parse::<T>().unwrap();
        }
    }

    #[test]
    fn words_are_those_of_the_domain() {
        describes::<RoleWord, Role>(3);
        describes::<PlaceRoleWord, PlaceRole>(4);
        describes::<KindWord, RoomKind>(4);
        describes::<AccessWord, Access>(3);
        describes::<RetentionWord, Retention>(2);
        describes::<ActivityWord, Activity>(4);
        describes::<JobStateWord, JobState>(11);
    }
}
