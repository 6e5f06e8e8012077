//! The texts of [`crate::ports::RoomRecords::list_rooms`]. Each page is read off indexes, about as many rows as it shows:
//! never one condition that no index can serve.

/// Places in the lists below.
pub const WHOLE: usize = 0;
pub const LISTED: usize = 1;
pub const FOR: usize = 2;

/// `$1`, `$2`: before which time and id; `$3`: rows. `kind` and `member_kind` are empty, or ask for the kind `$4`; then come
/// the person and the beginning of time.
macro_rules! texts {
    ([$open:literal, $close:literal], kind: $kind:literal, member_kind: $member_kind:literal, person: $person:literal,
     ever: $ever:literal) => {
        [
            concat!(
                "SELECT * FROM rooms WHERE (created_at, id) < ($1, $2)",
                $kind,
                " ORDER BY created_at DESC, id DESC LIMIT +$3"
            ),
            concat!(
                "SELECT * FROM rooms WHERE listed AND (created_at, id) < ($1, $2)",
                $kind,
                " ORDER BY created_at DESC, id DESC LIMIT +$3"
            ),
            // Three lists, each off its own index. Of each project the newest as many as fit the page.
            concat!(
                "SELECT * FROM rooms WHERE id ",
                $open,
                "    SELECT id FROM (
                         SELECT id FROM rooms WHERE listed AND (created_at, id) < ($1, $2)",
                $kind,
                "        ORDER BY created_at DESC, id DESC LIMIT +$3
                     ) AS listed_rooms
                     UNION
                     SELECT id FROM (
                         SELECT room_id AS id FROM room_members
                         WHERE user_id = ",
                $person,
                "        AND (room_created_at, room_id) < ($1, $2)",
                $member_kind,
                "        ORDER BY room_created_at DESC, room_id DESC LIMIT +$3
                     ) AS own_rooms
                     UNION
                     SELECT id FROM (
                         SELECT rooms.id FROM (
                             SELECT place_id AS id FROM place_members WHERE user_id = ",
                $person,
                "            UNION
                             SELECT places.id FROM place_members
                             JOIN places ON places.parent = place_members.place_id
                             WHERE place_members.user_id = ",
                $person,
                "        ) AS mine
                         CROSS JOIN rooms
                         WHERE rooms.project_id = mine.id AND (rooms.created_at, rooms.id) < ($1, $2)",
                $kind,
                "        AND rooms.created_at >= COALESCE((
                             SELECT older.created_at FROM rooms AS older
                             WHERE older.project_id = mine.id AND (older.created_at, older.id) < ($1, $2)",
                $kind,
                "            ORDER BY older.created_at DESC, older.id DESC LIMIT 1 OFFSET +$3
                         ), ",
                $ever,
                "        )
                         ORDER BY rooms.created_at DESC, rooms.id DESC LIMIT +$3
                     ) AS project_rooms
                 ",
                $close,
                " ORDER BY created_at DESC, id DESC LIMIT +$3"
            ),
        ]
    };
}

/// The three lists.
pub struct Lists {
    /// Rooms of whatever kind.
    pub of_all: [&'static str; 3],
    /// Rooms of one kind.
    pub of_kind: [&'static str; 3],
}

macro_rules! lists {
    ($within:tt) => {
        Lists {
            of_all: texts!($within, kind: "", member_kind: "", person: "$4", ever: "$5"),
            of_kind: texts!($within, kind: " AND kind = $4", member_kind: " AND room_kind = $4", person: "$5", ever: "$6"),
        }
    };
}

pub const SQLITE: Lists = lists!(["IN (", ")"]);
/// Postgres takes a subquery of some hundred rows for a reason to read all rooms there are (until there are many more than
/// ten thousand); the elements of an array it looks up.
pub const POSTGRES: Lists = lists!(["= ANY (ARRAY(", "))"]);

/// Of rooms that were named one by one: whose member somebody (their id follows) is.
pub const MEMBER: &str = " OR EXISTS (
    SELECT 1 FROM room_members WHERE room_members.room_id = rooms.id AND room_members.user_id = ";
/// And those of the projects they belong to, themselves or by the workspace.
pub const OF_MY_PLACES: &str = " OR EXISTS (
    SELECT 1 FROM places JOIN place_members ON place_members.place_id IN (places.id, places.parent)
    WHERE places.id = rooms.project_id AND place_members.user_id = ";
