//! Answers that hold tokens, kept for whoever sends a request again: sealed (ChaCha20-Poly1305, RFC 8439) under a key made
//! of the server's and of the Idempotency-Key, of which the store has a hash only. Whoever reads the store has no token.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::keys::{Key, KeyRing, Use};

fn sealing(key: &Key, secret: &[u8]) -> Option<LessSafeKey> {
    let tag = key.tag(Use::Answer, secret);
    let unbound = UnboundKey::new(&CHACHA20_POLY1305, &tag).ok()?;
    Some(LessSafeKey::new(unbound))
}

/// `None`: the system gives no randomness.
pub(super) fn seal(keys: &KeyRing, secret: &[u8], answer: &str) -> Option<String> {
    // One answer is kept under one key, so that a nonce by chance is never met twice.
    let random = super::refresh::random().ok()?;
    let nonce: [u8; NONCE_LEN] = random[..NONCE_LEN].try_into().ok()?;
    let mut sealed = answer.as_bytes().to_vec();
    sealing(keys.signing(), secret)?
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::empty(),
            &mut sealed,
        )
        .ok()?;
    Some(STANDARD.encode([nonce.as_slice(), &sealed].concat()))
}

/// Under any of the keys: while one is exchanged, gateways sign with different ones. `None`: sealed under others, or not by
/// us.
pub(super) fn open(keys: &KeyRing, secret: &[u8], sealed: &str) -> Option<String> {
    let bytes = STANDARD.decode(sealed).ok()?;
    let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
    keys.all().iter().find_map(|key| {
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = sealed.to_vec();
        let opened = sealing(key, secret)?
            .open_in_place(nonce, Aad::empty(), &mut text)
            .ok()?;
        String::from_utf8(opened.to_vec()).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::parse;

    #[test]
    fn only_who_knows_the_secret_opens_an_answer() {
        let ring = |secret: &str| {
            let config = parse(&[&format!("--jwt-secret-key={secret}")]).unwrap();
            KeyRing::open(&config).unwrap()
        };
        let keys = ring("0123456789abcdef0123456789abcdef");
        let answer = r#"{"access_token":"eyJ"}"#;
        let sealed = seal(&keys, b"key-1", answer).unwrap();
        assert!(
            !STANDARD
                .decode(&sealed)
                .unwrap()
                .windows(3)
                .any(|w| w == b"eyJ")
        );
        assert_eq!(open(&keys, b"key-1", &sealed).as_deref(), Some(answer));
        assert_eq!(open(&keys, b"key-2", &sealed), None);
        let others = ring("another-secret-another-secret-32");
        assert_eq!(open(&others, b"key-1", &sealed), None);
        assert_eq!(open(&keys, b"key-1", "AAAA"), None);
        assert_ne!(seal(&keys, b"key-1", answer).unwrap(), sealed);
    }
}
