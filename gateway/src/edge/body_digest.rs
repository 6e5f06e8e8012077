//! What a body says, as a hash: of a form without the boundary, which its sender makes up anew for each try.

use sha2::{Digest, Sha256};

/// SHA-256 of a body that comes in pieces, wherever they end.
#[derive(Clone)]
pub struct BodyDigest {
    hash: Sha256,
    /// Empty: the body is no form.
    boundary: Vec<u8>,
    /// The end of what came so far, which may be the beginning of a boundary.
    tail: Vec<u8>,
}

impl BodyDigest {
    pub fn new(boundary: Option<&str>) -> Self {
        let boundary = boundary.map(|text| format!("--{text}").into_bytes());
        Self {
            hash: Sha256::new(),
            boundary: boundary.unwrap_or_default(),
            tail: Vec::new(),
        }
    }

    pub fn update(&mut self, piece: &[u8]) {
        if self.boundary.is_empty() {
            self.hash.update(piece);
            return;
        }
        let mut bytes = std::mem::take(&mut self.tail);
        bytes.extend_from_slice(piece);
        let mut rest = bytes.as_slice();
        let length = self.boundary.len();
        while let Some(at) = rest.windows(length).position(|part| part == self.boundary) {
            self.hash.update(&rest[..at]);
            self.hash.update(b"--");
            rest = &rest[at + length..];
        }
        let (sure, tail) = rest.split_at(rest.len().saturating_sub(length - 1));
        self.hash.update(sure);
        self.tail = tail.to_vec();
    }

    /// Hexadecimal.
    pub fn finish(mut self) -> String {
        self.hash.update(&self.tail);
        hex::encode(self.hash.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(boundary: Option<&str>, body: &str, piece: usize) -> String {
        let mut digest = BodyDigest::new(boundary);
        for piece in body.as_bytes().chunks(piece) {
            digest.update(piece);
        }
        digest.finish()
    }

    #[test]
    fn a_form_is_the_same_under_another_boundary_and_in_other_pieces() {
        let form = |boundary: &str, text: &str| {
            format!("--{boundary}\r\nname\r\n\r\n{text}\r\n--{boundary}--\r\n")
        };
        let first = of(Some("abcabd"), &form("abcabd", "cat --abcab"), 1_000);
        for piece in [1, 2, 7, 13] {
            assert_eq!(
                of(Some("abcabd"), &form("abcabd", "cat --abcab"), piece),
                first
            );
            assert_eq!(of(Some("x-1"), &form("x-1", "cat --abcab"), piece), first);
        }
        assert_ne!(of(Some("x-1"), &form("x-1", "dog --abcab"), 3), first);
        assert_ne!(of(None, &form("abcabd", "cat --abcab"), 3), first);
    }
}
