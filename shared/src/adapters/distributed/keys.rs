//! Names of keys and channels. Everything of one room carries its partition's hash tag, so that one script can write it
//! all in Redis Cluster; the format is frozen.

use crate::domain::ids::RoomId;

/// The keys of one room and of its partition.
pub struct RoomKeys<'a> {
    namespace: &'a str,
    room: &'a RoomId,
    partition: u16,
}

impl<'a> RoomKeys<'a> {
    pub fn new(namespace: &'a str, room: &'a RoomId) -> Self {
        let partition = room.partition();
        Self {
            namespace,
            room,
            partition,
        }
    }

    fn of_room(&self, what: &str) -> String {
        let Self {
            namespace,
            room,
            partition,
        } = self;
        format!("{namespace}:{{p{partition}}}:room:{room}:{what}")
    }

    /// Hash: epoch, seq, archived, trimmed, role_version, seeded_at, seeded_seq, all decimal.
    pub fn meta(&self) -> String {
        self.of_room("meta")
    }

    /// Stream: ids `<seq>-0`, one field `r` with the record's JSON.
    pub fn log(&self) -> String {
        self.of_room("log")
    }

    /// Hash: a ref's hash -> seq, of the refs written within one span of time (spans since 1970).
    pub fn refs(&self, span: i64) -> String {
        self.of_room(&format!("refs:{span}"))
    }

    /// Hash: client id -> member's JSON.
    pub fn members(&self) -> String {
        self.of_room("members")
    }

    /// Sharded pub/sub channel.
    pub fn channel(&self) -> String {
        let Self {
            namespace,
            room,
            partition,
        } = self;
        format!("{namespace}:{{p{partition}}}:room:{room}")
    }

    /// Set: rooms with entries that wait for the archive.
    pub fn dirty(&self) -> String {
        dirty(self.namespace, self.partition)
    }

    /// Sorted set, all scores 0: rooms with members, by id.
    pub fn occupied(&self) -> String {
        occupied(self.namespace, self.partition)
    }

    /// Sorted set, all scores 0: `pod room client connection`, one for each member.
    pub fn places(&self) -> String {
        places(self.namespace, self.partition)
    }
}

pub fn dirty(namespace: &str, partition: u16) -> String {
    format!("{namespace}:{{p{partition}}}:dirty")
}

pub fn occupied(namespace: &str, partition: u16) -> String {
    format!("{namespace}:{{p{partition}}}:occupied")
}

pub fn places(namespace: &str, partition: u16) -> String {
    format!("{namespace}:{{p{partition}}}:places")
}

/// The room a channel is of; `None`: not one of ours.
pub fn room_of_channel(namespace: &str, channel: &str) -> Option<RoomId> {
    let (_, room) = channel
        .strip_prefix(namespace)?
        .strip_prefix(":{p")?
        .split_once("}:room:")?;
    room.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_frozen() {
        let room: RoomId = "abc".parse().unwrap();
        let keys = RoomKeys::new("atelier", &room);
        let tag = format!("{{p{}}}", room.partition());
        assert_eq!(keys.meta(), format!("atelier:{tag}:room:abc:meta"));
        assert_eq!(keys.log(), format!("atelier:{tag}:room:abc:log"));
        assert_eq!(
            keys.refs(20_000),
            format!("atelier:{tag}:room:abc:refs:20000")
        );
        assert_eq!(keys.channel(), format!("atelier:{tag}:room:abc"));
        assert_eq!(keys.dirty(), format!("atelier:{tag}:dirty"));
    }

    #[test]
    fn a_channel_names_its_room() {
        let room: RoomId = "abc_1-X".parse().unwrap();
        let channel = RoomKeys::new("a:b", &room).channel();
        assert_eq!(room_of_channel("a:b", &channel), Some(room));
        assert_eq!(room_of_channel("other", &channel), None);
    }
}
