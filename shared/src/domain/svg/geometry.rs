//! Points, the matrix that moves them, and how `transform` and `viewBox` are read.

use super::length::numbers;

pub type Point = [f64; 2];

/// `x' = a x + c y + e`, `y' = b x + d y + f`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Matrix {
    pub a: f64,
    pub b: f64,
    pub c: f64,
    pub d: f64,
    pub e: f64,
    pub f: f64,
}

impl Matrix {
    pub const IDENTITY: Self = Self::of([1.0, 0.0, 0.0, 1.0, 0.0, 0.0]);

    pub const fn of([a, b, c, d, e, f]: [f64; 6]) -> Self {
        Self { a, b, c, d, e, f }
    }

    /// First `inner`, then `self`.
    pub fn after(&self, inner: &Self) -> Self {
        Self {
            a: self.a * inner.a + self.c * inner.b,
            b: self.b * inner.a + self.d * inner.b,
            c: self.a * inner.c + self.c * inner.d,
            d: self.b * inner.c + self.d * inner.d,
            e: self.a * inner.e + self.c * inner.f + self.e,
            f: self.b * inner.e + self.d * inner.f + self.f,
        }
    }

    pub fn apply(&self, [x, y]: Point) -> Point {
        if *self == Self::IDENTITY {
            return [x, y];
        }
        [
            self.a * x + self.c * y + self.e,
            self.b * x + self.d * y + self.f,
        ]
    }

    /// What widths are multiplied by: the root of the area's growth.
    pub fn scale(&self) -> f64 {
        (self.a * self.d - self.b * self.c).abs().sqrt()
    }

    /// Upper bound of how far a unit vector is stretched.
    pub fn stretch(&self) -> f64 {
        (self.a * self.a + self.b * self.b + self.c * self.c + self.d * self.d).sqrt()
    }

    /// A `transform` attribute; `None`: it breaks the grammar.
    pub fn parse(text: &str) -> Option<Self> {
        let mut matrix = Self::IDENTITY;
        let mut rest = text.trim();
        if rest == "none" {
            return Some(matrix);
        }
        while !rest.is_empty() {
            let (name, after) = rest.split_once('(')?;
            let (arguments, after) = after.split_once(')')?;
            let arguments = numbers(arguments)?;
            matrix = matrix.after(&Self::function(name.trim(), &arguments)?);
            rest = after.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
        }
        Some(matrix)
    }

    /// A `transform` property, whose numbers may have the units of their own coordinates; `None`: it breaks the grammar, or
    /// has other units.
    pub fn parse_css(text: &str) -> Option<Self> {
        Self::parse(&text.replace("px", "").replace("deg", ""))
    }

    fn function(name: &str, arguments: &[f64]) -> Option<Self> {
        let turn = |degrees: f64| {
            let (sin, cos) = degrees.to_radians().sin_cos();
            Self::of([cos, sin, -sin, cos, 0.0, 0.0])
        };
        let shift = |x, y| Self::of([1.0, 0.0, 0.0, 1.0, x, y]);
        Some(match (name, arguments) {
            ("matrix", &[a, b, c, d, e, f]) => Self::of([a, b, c, d, e, f]),
            ("translate", &[x]) => shift(x, 0.0),
            ("translate", &[x, y]) => shift(x, y),
            ("translateX", &[x]) => shift(x, 0.0),
            ("translateY", &[y]) => shift(0.0, y),
            ("scale", &[s]) => Self::of([s, 0.0, 0.0, s, 0.0, 0.0]),
            ("scale", &[x, y]) => Self::of([x, 0.0, 0.0, y, 0.0, 0.0]),
            ("rotate", &[angle]) => turn(angle),
            ("rotate", &[angle, x, y]) => shift(x, y).after(&turn(angle)).after(&shift(-x, -y)),
            ("skewX", &[angle]) => Self::of([1.0, 0.0, angle.to_radians().tan(), 1.0, 0.0, 0.0]),
            ("skewY", &[angle]) => Self::of([1.0, angle.to_radians().tan(), 0.0, 1.0, 0.0, 0.0]),
            _ => return None,
        })
    }
}

/// A rectangle: where, and how large.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Area {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

impl Area {
    /// A `viewBox` attribute; `None`: it breaks the grammar or is empty.
    pub fn parse(text: &str) -> Option<Self> {
        let &[x, y, width, height] = numbers(text)?.as_slice() else {
            return None;
        };
        (width > 0.0 && height > 0.0).then_some(Self {
            x,
            y,
            width,
            height,
        })
    }

    /// What brings this view box into `to`, as `preserveAspectRatio` says; `None`: that breaks the grammar.
    pub fn into(self, to: Self, preserve: &str) -> Option<Matrix> {
        let (mut sx, mut sy) = (to.width / self.width, to.height / self.height);
        let mut words = preserve.split_whitespace();
        let align = words.next().unwrap_or("xMidYMid");
        let (mut spare_x, mut spare_y) = (0.0, 0.0);
        if align != "none" {
            let share = |word: &str| match word {
                "Min" => Some(0.0),
                "Mid" => Some(0.5),
                "Max" => Some(1.0),
                _ => None,
            };
            let (x, y) = align.strip_prefix('x')?.split_once('Y')?;
            let scale = match words.next().unwrap_or("meet") {
                "meet" => sx.min(sy),
                "slice" => sx.max(sy),
                _ => return None,
            };
            (sx, sy) = (scale, scale);
            spare_x = (to.width - self.width * sx) * share(x)?;
            spare_y = (to.height - self.height * sy) * share(y)?;
        }
        Some(Matrix::of([
            sx,
            0.0,
            0.0,
            sy,
            to.x + spare_x - self.x * sx,
            to.y + spare_y - self.y * sy,
        ]))
    }
}
