//! Numbers and lengths as attributes write them.

/// What a percentage is of.
#[derive(Debug, Clone, Copy)]
pub enum Axis {
    X,
    Y,
    /// Neither: the diagonal over the root of two.
    Other,
}

/// The size of the nearest `svg` element, in its own user units.
#[derive(Debug, Clone, Copy)]
pub struct Viewport {
    pub width: f64,
    pub height: f64,
}

/// A length in user units (CSS pixels); `None`: it breaks the grammar, or its unit depends on a font.
pub fn length(text: &str, axis: Axis, viewport: Viewport) -> Option<f64> {
    let text = text.trim();
    let unit_at = text
        .rfind(|c: char| c.is_ascii_digit() || c == '.')
        .map_or(0, |last| last + 1);
    let (number, unit) = text.split_at(unit_at);
    let number = finite(number)?;
    let per_unit = match unit.to_ascii_lowercase().as_str() {
        "" | "px" => 1.0,
        "pt" => 4.0 / 3.0,
        "pc" => 16.0,
        "in" => 96.0,
        "cm" => 96.0 / 2.54,
        "mm" => 96.0 / 25.4,
        "q" => 96.0 / 101.6,
        "%" => {
            let whole = match axis {
                Axis::X => viewport.width,
                Axis::Y => viewport.height,
                Axis::Other => {
                    (viewport.width.powi(2) + viewport.height.powi(2)).sqrt() / 2_f64.sqrt()
                }
            };
            whole / 100.0
        }
        _ => return None,
    };
    Some(number * per_unit)
}

/// Only a number.
pub fn finite(text: &str) -> Option<f64> {
    let text = text.trim();
    // Rust reads words that SVG does not know (`inf`, `nan`).
    let plain = |b: u8| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E');
    if !text.bytes().all(plain) {
        return None;
    }
    text.parse().ok().filter(|n: &f64| n.is_finite())
}

/// A list of numbers, however they are separated; `None`: something else is between them.
pub fn numbers(text: &str) -> Option<Vec<f64>> {
    let mut reader = Reader::new(text);
    let mut all = Vec::new();
    reader.skip_separators();
    while !reader.is_at_end() {
        all.push(reader.number()?);
        reader.skip_separators();
    }
    Some(all)
}

/// Reads path data and number lists from the left; `at` is the byte it stands at.
pub struct Reader<'a> {
    bytes: &'a [u8],
    text: &'a str,
    pub at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(text: &'a str) -> Self {
        Self {
            bytes: text.as_bytes(),
            text,
            at: 0,
        }
    }

    pub fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    pub fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    pub fn skip_space(&mut self) {
        while self.peek().is_some_and(|b| b.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    /// White space with at most one comma in it.
    pub fn skip_separators(&mut self) {
        self.skip_space();
        if self.peek() == Some(b',') {
            self.at += 1;
            self.skip_space();
        }
    }

    /// A number may end where the next begins: `1-2`, `.5.5`.
    pub fn number(&mut self) -> Option<f64> {
        let start = self.at;
        if matches!(self.peek(), Some(b'+' | b'-')) {
            self.at += 1;
        }
        let mut digits = self.digits();
        if self.peek() == Some(b'.') {
            self.at += 1;
            digits += self.digits();
        }
        if digits == 0 {
            self.at = start;
            return None;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            let mantissa_end = self.at;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                self.at = mantissa_end;
            }
        }
        let number: f64 = self.text[start..self.at].parse().ok()?;
        number.is_finite().then_some(number)
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        self.at - start
    }

    /// An arc's flag: one character, so that `a1 1 0 01 2 3` reads as flags 0 and 1.
    pub fn flag(&mut self) -> Option<bool> {
        let flag = match self.peek()? {
            b'0' => false,
            b'1' => true,
            _ => return None,
        };
        self.at += 1;
        Some(flag)
    }
}
