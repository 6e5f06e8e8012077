//! lib0's encoding: unsigned LEB128 numbers, and bytes and texts behind their length.

use thiserror::Error;

/// The largest number a JavaScript client can write (`Number.MAX_SAFE_INTEGER`).
pub const NUMBER_MAX: u64 = (1 << 53) - 1;

/// Outside bytes that are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("malformed: {0}")]
pub struct Malformed(pub &'static str);

/// Reads from the front of a slice; never beyond it, and without allocating.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes that are left.
    pub fn remaining(&self) -> usize {
        self.0.len()
    }

    pub fn var_uint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0_u64;
        for shift in (0..63).step_by(7) {
            let (byte, rest) = self
                .0
                .split_first()
                .ok_or(Malformed("a number is cut off"))?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                if number > NUMBER_MAX {
                    break;
                }
                return Ok(number);
            }
        }
        Err(Malformed("a number is out of range"))
    }

    pub fn var_bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.var_uint()?;
        let (bytes, rest) = usize::try_from(length)
            .ok()
            .and_then(|length| self.0.split_at_checked(length))
            .ok_or(Malformed("bytes are cut off"))?;
        self.0 = rest;
        Ok(bytes)
    }

    pub fn var_string(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.var_bytes()?).map_err(|_| Malformed("a text is not UTF-8"))
    }
}

pub fn put_var_uint(out: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or(0);
        number >>= 7;
        if number == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

pub fn put_var_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_var_uint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_bytes_are_read_as_they_were_written() {
        for number in [
            0,
            1,
            127,
            128,
            300,
            16_383,
            16_384,
            u64::from(u32::MAX),
            NUMBER_MAX,
        ] {
            let mut out = Vec::new();
            put_var_uint(&mut out, number);
            put_var_bytes(&mut out, "grüße".as_bytes());
            let mut reader = Reader::new(&out);
            assert_eq!(reader.var_uint(), Ok(number));
            assert_eq!(reader.var_string(), Ok("grüße"));
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn what_is_cut_off_or_out_of_range_is_malformed() {
        let number = |bytes: &[u8]| Reader::new(bytes).var_uint();
        assert!(number(&[]).is_err() && number(&[0x80]).is_err());
        assert!(number(&[0xff; 20]).is_err(), "it never ends");
        let mut over = Vec::new();
        put_var_uint(&mut over, NUMBER_MAX + 1);
        assert!(number(&over).is_err(), "no JavaScript client writes this");
        assert!(Reader::new(&[5, 1, 2]).var_bytes().is_err());
        assert!(
            Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x7f])
                .var_bytes()
                .is_err()
        );
        assert!(Reader::new(&[1, 0xff]).var_string().is_err());
    }
}
