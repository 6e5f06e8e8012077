//! Hocuspocus's envelope: every frame names its document, and a socket holds several.

use atelier_shared::domain::ids::RoomId;
use bytes::Bytes;

use super::lib0::{Malformed, Reader, put_var_bytes, put_var_uint};
use super::message::{self, Message, put_type};
use crate::room::websocket;

const STATELESS: u8 = 5;
const BROADCAST_STATELESS: u8 = 6;
const CLOSE: u8 = 7;
const SYNC_STATUS: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// "A reply to a sync message": what the stock client takes for a sync message.
const SYNC_REPLY: u8 = 4;

const TOKEN: u8 = 0;
const PERMISSION_DENIED: u8 = 1;
const AUTHENTICATED: u8 = 2;

/// Longest name of a document with the session behind it, in bytes.
const KEY_MAX_BYTES: usize = 256;
/// Longest token.
const TOKEN_MAX_BYTES: usize = 16 * 1024;
/// Longest stateless payload.
pub const STATELESS_MAX_BYTES: usize = 64 * 1024;

/// A whole frame from a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Of the connection, no document's. The answer is [`PONG_MESSAGE`].
    Ping,
    Pong,
    Of {
        /// The document's name, and behind a NUL the session's where several providers share a document and a socket.
        key: &'a str,
        said: Said<'a>,
    },
}

/// What is said about one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said<'a> {
    Auth {
        token: &'a str,
    },
    Message(Message<'a>),
    /// Any text, for everybody in the document.
    Stateless(&'a str),
    Close,
}

impl Said<'_> {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Auth { .. } => "auth",
            Self::Message(message) => message.kind(),
            Self::Stateless(_) => "stateless",
            Self::Close => "close",
        }
    }
}

pub const PONG_MESSAGE: [u8; 1] = [PONG];

/// The document that a key names.
pub fn document_of(key: &str) -> &str {
    key.split('\0').next().unwrap_or(key)
}

/// The key in the first bytes of a frame.
pub fn key_of(head: &[u8]) -> Option<&str> {
    let key = Reader::new(head).var_string().ok()?;
    (1..=KEY_MAX_BYTES).contains(&key.len()).then_some(key)
}

pub fn parse(bytes: &[u8]) -> Result<Frame<'_>, Malformed> {
    match bytes {
        [PING] => return Ok(Frame::Ping),
        [PONG] => return Ok(Frame::Pong),
        _ => {}
    }
    let mut reader = Reader::new(bytes);
    let key = reader.var_string()?;
    if key.is_empty() || key.len() > KEY_MAX_BYTES {
        return Err(Malformed("a document's name has 1 to 256 bytes"));
    }
    let kind = reader.var_uint()?;
    let said = match u8::try_from(kind) {
        Ok(message::AUTH) => {
            if reader.var_uint()? != u64::from(TOKEN) {
                return Err(Malformed("an unknown kind of auth message"));
            }
            let token = reader.var_string()?;
            if token.len() > TOKEN_MAX_BYTES {
                return Err(Malformed("a token is too long"));
            }
            Said::Auth { token }
        }
        Ok(SYNC_REPLY) => Said::Message(message::body(message::SYNC.into(), &mut reader)?),
        Ok(STATELESS | BROADCAST_STATELESS) => {
            let payload = reader.var_string()?;
            if payload.len() > STATELESS_MAX_BYTES {
                return Err(Malformed("a stateless payload is too long"));
            }
            Said::Stateless(payload)
        }
        Ok(CLOSE) => Said::Close,
        _ => Said::Message(message::body(kind, &mut reader)?),
    };
    Ok(Frame::Of { key, said })
}

/// A message of y-websocket's, as it stands in this dialect: they share the bytes.
pub fn wrap(key: &str, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + message.len() + 2);
    put_var_bytes(&mut out, key.as_bytes());
    out.extend_from_slice(message);
    out
}

/// A ready frame under another key: what several providers on one socket need, who share a document.
pub fn readdress(frame: &Bytes, key: &str) -> Bytes {
    let payload = websocket::payload(frame);
    let mut reader = Reader::new(&payload);
    // Our own frame: it begins with a key.
    let _ = reader.var_bytes();
    let message = &payload[payload.len() - reader.remaining()..];
    message::frame(&wrap(key, message))
}

fn envelope(key: &str, kind: u8) -> Vec<u8> {
    let mut out = wrap(key, &[]);
    put_type(&mut out, kind);
    out
}

pub fn authenticated(key: &str, may_write: bool) -> Vec<u8> {
    let scope = if may_write { "read-write" } else { "readonly" };
    let mut out = envelope(key, message::AUTH);
    put_var_uint(&mut out, AUTHENTICATED.into());
    put_var_bytes(&mut out, scope.as_bytes());
    out
}

pub fn permission_denied(key: &str, reason: &str) -> Vec<u8> {
    let mut out = envelope(key, message::AUTH);
    put_var_uint(&mut out, PERMISSION_DENIED.into());
    put_var_bytes(&mut out, reason.as_bytes());
    out
}

/// Asks for a fresh token; clients before version 3 ignore it.
pub fn ask_for_token(key: &str) -> Vec<u8> {
    let mut out = envelope(key, message::AUTH);
    put_var_uint(&mut out, TOKEN.into());
    out
}

/// Exactly one for each step 2 or update that came.
pub fn sync_status(key: &str, applied: bool) -> Vec<u8> {
    let mut out = envelope(key, SYNC_STATUS);
    put_var_uint(&mut out, applied.into());
    out
}

pub fn stateless(key: &str, payload: &str) -> Vec<u8> {
    let mut out = envelope(key, STATELESS);
    put_var_bytes(&mut out, payload.as_bytes());
    out
}

/// The room of a document's name.
pub fn room_of(key: &str) -> Result<RoomId, atelier_shared::domain::Invalid> {
    document_of(key).parse()
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn of<'a>(key: &'a str, said: Said<'a>) -> Result<Frame<'a>, Malformed> {
        Ok(Frame::Of { key, said })
    }

    #[test]
    fn frames_are_what_stock_providers_write() {
        assert_eq!(parse(&[9]), Ok(Frame::Ping));
        assert_eq!(parse(&[10]), Ok(Frame::Pong));
        assert_eq!(
            parse(b"\x01d\x02\x00\x03jwt\x054.8.0"),
            of("d", Said::Auth { token: "jwt" }),
            "a version may follow"
        );
        assert_eq!(
            parse(b"\x01d\x00\x00\x01\x00"),
            of("d", Said::Message(Message::Step1(&[0])))
        );
        assert_eq!(
            parse(b"\x01d\x04\x01\x02\x00\x00"),
            of("d", Said::Message(Message::Step2(&[0, 0])))
        );
        assert_eq!(
            parse(b"\x03d\x00s\x05\x02hi"),
            of("d\0s", Said::Stateless("hi"))
        );
        assert_eq!(document_of("d\0s"), "d");
        assert_eq!(parse(b"\x01d\x07"), of("d", Said::Close));
        assert_eq!(sync_status("d", true), b"\x01d\x08\x01");
        assert_eq!(sync_status("d", false), b"\x01d\x08\x00");
        assert_eq!(authenticated("d", true), b"\x01d\x02\x02\x0aread-write");
        assert_eq!(authenticated("d", false), b"\x01d\x02\x02\x08readonly");
        assert_eq!(permission_denied("d", "no"), b"\x01d\x02\x01\x02no");
        let long = wrap("d", &[7; 300]);
        for (message, key) in [(&b"\x01d\x03"[..], "d\0s"), (&long, "d\0other")] {
            let wanted = [
                &[u8::try_from(key.len()).unwrap()],
                key.as_bytes(),
                &message[2..],
            ]
            .concat();
            assert_eq!(
                readdress(&message::frame(message), key),
                message::frame(&wanted)
            );
        }
        for malformed in [
            &b""[..],
            b"\x00\x00",
            b"\x02d",
            b"\x01d",
            b"\x01d\x02\x02\x00",
            b"\x01d\x63",
        ] {
            assert!(parse(malformed).is_err(), "{malformed:?}");
        }
    }

    #[test]
    fn random_and_mutated_frames_are_answered_or_refused() {
        let mut random = StdRng::seed_from_u64(21);
        let samples = [
            authenticated("document", true),
            wrap("document", &[2, 0, 3, b'j', b'w', b't']),
            wrap("document", &message::step_1(&[0])),
            wrap("document", &message::update(&[0, 0])),
            wrap("document", &[1, 9, 1, 5, 7, 4, b'n', b'u', b'l', b'l', 0]),
            stateless("document", "hello"),
        ];
        for _ in 0..40_000 {
            let mut bytes = samples[random.random_range(0..samples.len())].clone();
            for _ in 0..random.random_range(0..5) {
                match (random.random_range(0..3), bytes.len()) {
                    (0, length @ 1..) => bytes[random.random_range(0..length)] = random.random(),
                    (1, length @ 1..) => bytes.truncate(random.random_range(0..length)),
                    (_, length) => bytes.insert(random.random_range(0..=length), random.random()),
                }
            }
            if let Ok(Frame::Of { key, .. }) = parse(&bytes) {
                assert!(key.len() <= KEY_MAX_BYTES && !key.is_empty());
            }
        }
    }
}
