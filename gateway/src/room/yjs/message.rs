//! y-websocket's messages (y-protocols): sync, awareness, auth. In: parsed and bounded. Out: ready WebSocket frames.

use bytes::Bytes;

use super::awareness::{self, Entry};
use super::lib0::{Malformed, Reader, put_var_bytes, put_var_uint};
use crate::room::websocket;

pub const SYNC: u8 = 0;
pub const AWARENESS: u8 = 1;
pub const AUTH: u8 = 2;
pub const QUERY_AWARENESS: u8 = 3;

const STEP_1: u8 = 0;
const STEP_2: u8 = 1;
const UPDATE: u8 = 2;

/// Permission denied, in an auth message.
pub const DENIED: u8 = 0;

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// "This is my state vector: send me what I lack."
    Step1(&'a [u8]),
    /// "This is what you lack."
    Step2(&'a [u8]),
    Update(&'a [u8]),
    Awareness(Vec<Entry>),
    QueryAwareness,
}

impl Message<'_> {
    /// The name under which it is counted.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Step1(_) => "sync_step_1",
            Self::Step2(_) => "sync_step_2",
            Self::Update(_) => "update",
            Self::Awareness(_) => "awareness",
            Self::QueryAwareness => "query_awareness",
        }
    }
}

/// One message of a frame of its own. What stands behind it is ignored, as the stock servers do.
pub fn parse(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut reader = Reader::new(bytes);
    let kind = reader.var_uint()?;
    body(kind, &mut reader)
}

/// What follows the type: the same in both dialects.
pub fn body<'a>(kind: u64, reader: &mut Reader<'a>) -> Result<Message<'a>, Malformed> {
    match u8::try_from(kind) {
        Ok(SYNC) => {
            let step = reader.var_uint()?;
            let bytes = reader.var_bytes()?;
            match u8::try_from(step) {
                Ok(STEP_1) => Ok(Message::Step1(bytes)),
                Ok(STEP_2) => Ok(Message::Step2(bytes)),
                Ok(UPDATE) => Ok(Message::Update(bytes)),
                _ => Err(Malformed("an unknown kind of sync message")),
            }
        }
        Ok(AWARENESS) => awareness::parse(reader.var_bytes()?).map(Message::Awareness),
        Ok(QUERY_AWARENESS) => Ok(Message::QueryAwareness),
        _ => Err(Malformed("an unknown type of message")),
    }
}

fn sync(step: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 12);
    out.extend_from_slice(&[SYNC, step]);
    put_var_bytes(&mut out, bytes);
    out
}

pub fn step_1(state_vector: &[u8]) -> Vec<u8> {
    sync(STEP_1, state_vector)
}

pub fn step_2(update: &[u8]) -> Vec<u8> {
    sync(STEP_2, update)
}

pub fn update(update: &[u8]) -> Vec<u8> {
    sync(UPDATE, update)
}

/// With no entries it says nothing: what keeps a client content that counts silence by messages, not by pings.
pub fn awareness<'a>(entries: impl ExactSizeIterator<Item = &'a Entry>) -> Vec<u8> {
    let mut out = vec![AWARENESS];
    put_var_bytes(&mut out, &awareness::encode(entries));
    out
}

pub fn denied(reason: &str) -> Vec<u8> {
    let mut out = vec![AUTH, DENIED];
    put_var_bytes(&mut out, reason.as_bytes());
    out
}

/// A message as a WebSocket frame.
pub fn frame(message: &[u8]) -> Bytes {
    websocket::binary(message)
}

/// A number that frames a type (Hocuspocus).
pub(super) fn put_type(out: &mut Vec<u8>, kind: u8) {
    put_var_uint(out, kind.into());
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn samples() -> Vec<Vec<u8>> {
        let entry = |client, state: Option<&'static str>| Entry {
            client,
            clock: 7,
            state: state.map(|text| Bytes::from_static(text.as_bytes())),
        };
        let entries = [
            entry(1, Some(r#"{"user":{"name":"Ana"}}"#)),
            entry(4_000_000_000, None),
        ];
        vec![
            step_1(&[0]),
            step_1(&[1, 0xff, 0xff, 3, 9]),
            step_2(&[0, 0]),
            update(&[1, 1, 5, 0, 4, 1, 1, b't', 1, b'a', 0]),
            awareness(entries.iter()),
            awareness([].iter()),
            vec![QUERY_AWARENESS],
        ]
    }

    #[test]
    fn messages_are_what_stock_clients_write() {
        assert_eq!(step_1(&[0]), [0, 0, 1, 0]);
        assert_eq!(step_2(&[0, 0]), [0, 1, 2, 0, 0]);
        assert_eq!(update(&[0, 0]), [0, 2, 2, 0, 0]);
        assert_eq!(awareness([].iter()), [1, 1, 0]);
        assert_eq!(denied("no"), [2, 0, 2, b'n', b'o']);
        assert_eq!(parse(&[0, 0, 1, 0]), Ok(Message::Step1(&[0])));
        assert_eq!(
            parse(&[0, 1, 2, 0, 0, 9]),
            Ok(Message::Step2(&[0, 0])),
            "a tail is ignored"
        );
        assert_eq!(parse(&[3]), Ok(Message::QueryAwareness));
        for malformed in [
            &[][..],
            &[0],
            &[0, 3, 0],
            &[0, 0, 2, 0],
            &[4],
            &[2, 0, 0],
            &[1, 1],
            &[0xff; 12],
        ] {
            assert!(parse(malformed).is_err(), "{malformed:?}");
        }
    }

    /// Whatever comes is parsed or refused; nothing panics, and nothing large is made of something small.
    #[test]
    fn random_and_mutated_bytes_are_answered_or_refused() {
        let mut random = StdRng::seed_from_u64(20);
        let samples = samples();
        for round in 0..40_000 {
            let mut bytes = if round % 3 == 0 {
                (0..random.random_range(0..40))
                    .map(|_| random.random())
                    .collect()
            } else {
                samples[random.random_range(0..samples.len())].clone()
            };
            for _ in 0..random.random_range(0..4) {
                match (random.random_range(0..3), bytes.len()) {
                    (0, length @ 1..) => bytes[random.random_range(0..length)] = random.random(),
                    (1, length @ 1..) => bytes.truncate(random.random_range(0..length)),
                    (_, length) => bytes.insert(random.random_range(0..=length), random.random()),
                }
            }
            if let Ok(Message::Awareness(entries)) = parse(&bytes) {
                assert!(entries.len() <= bytes.len());
                assert!(
                    parse(&awareness(entries.iter())).is_ok(),
                    "what is relayed can be read"
                );
            }
        }
    }
}
