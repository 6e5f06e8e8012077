//! CSS colours.

use std::fmt;

use super::length::finite;
use super::names::NAMES;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rgba {
    pub red: u8,
    pub green: u8,
    pub blue: u8,
    pub alpha: u8,
}

impl Rgba {
    pub const BLACK: Self = Self::opaque(0);

    const fn opaque(rgb: u32) -> Self {
        let [_, red, green, blue] = rgb.to_be_bytes();
        Self {
            red,
            green,
            blue,
            alpha: 255,
        }
    }

    /// A name, `#rgb`, `#rgba`, `#rrggbb`, `#rrggbbaa`, `rgb()`, `rgba()`, `hsl()`, `hsla()` in old and new spelling, or
    /// `transparent`. `None`: none of these.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        if let Some(digits) = text.strip_prefix('#') {
            return Self::hex(digits);
        }
        if text == "transparent" {
            return Some(Self {
                alpha: 0,
                ..Self::BLACK
            });
        }
        if let Some(inside) = text.strip_suffix(')') {
            let (name, arguments) = inside.split_once('(')?;
            return match name {
                "rgb" | "rgba" => Self::rgb(arguments),
                "hsl" | "hsla" => Self::hsl(arguments),
                _ => None,
            };
        }
        let at = NAMES
            .binary_search_by_key(&text.as_str(), |(name, _)| name)
            .ok()?;
        Some(Self::opaque(NAMES[at].1))
    }

    fn hex(digits: &str) -> Option<Self> {
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let long: String = match digits.len() {
            3 | 4 => digits.chars().flat_map(|c| [c, c]).collect(),
            6 | 8 => digits.to_owned(),
            _ => return None,
        };
        let byte = |i: usize| u8::from_str_radix(long.get(i * 2..i * 2 + 2)?, 16).ok();
        Some(Self {
            red: byte(0)?,
            green: byte(1)?,
            blue: byte(2)?,
            alpha: if long.len() == 8 { byte(3)? } else { 255 },
        })
    }

    fn rgb(arguments: &str) -> Option<Self> {
        let (color, alpha) = arguments_of(arguments)?;
        let channel = |text: &str| {
            let value = match text.strip_suffix('%') {
                Some(percent) => finite(percent)? * 255.0 / 100.0,
                None => finite(text)?,
            };
            Some(byte(value))
        };
        Some(Self {
            red: channel(color[0])?,
            green: channel(color[1])?,
            blue: channel(color[2])?,
            alpha,
        })
    }

    /// CSS Color 4, section 7.1.
    fn hsl(arguments: &str) -> Option<Self> {
        let (color, alpha) = arguments_of(arguments)?;
        let hue = degrees(color[0])?.rem_euclid(360.0);
        let share = |text: &str| {
            let percent = finite(text.strip_suffix('%').unwrap_or(text))?;
            Some((percent / 100.0).clamp(0.0, 1.0))
        };
        let (saturation, light) = (share(color[1])?, share(color[2])?);
        let channel = |n: f64| {
            let k = (n + hue / 30.0) % 12.0;
            let a = saturation * light.min(1.0 - light);
            byte(255.0 * (light - a * (k - 3.0).min(9.0 - k).clamp(-1.0, 1.0)))
        };
        Some(Self {
            red: channel(0.0),
            green: channel(8.0),
            blue: channel(4.0),
            alpha,
        })
    }

    /// 0 to 1.
    pub fn opacity(self) -> f64 {
        f64::from(self.alpha) / 255.0
    }

    pub fn faded(self, opacity: f64) -> Self {
        Self {
            alpha: byte(f64::from(self.alpha) * opacity),
            ..self
        }
    }
}

/// `#rrggbb`, with `aa` where it is not opaque.
impl fmt::Display for Rgba {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:02x}{:02x}{:02x}", self.red, self.green, self.blue)?;
        if self.alpha < 255 {
            write!(f, "{:02x}", self.alpha)?;
        }
        Ok(())
    }
}

/// Three channels and the alpha, separated by commas, or by spaces and a slash.
fn arguments_of(text: &str) -> Option<([&str; 3], u8)> {
    let parts: Vec<&str> = text
        .split(|c: char| c.is_ascii_whitespace() || matches!(c, ',' | '/'))
        .filter(|part| !part.is_empty())
        .collect();
    let opaque = |alpha: &str| opacity(alpha).map(|share| byte(share * 255.0));
    match *parts.as_slice() {
        [a, b, c] => Some(([a, b, c], 255)),
        [a, b, c, alpha] => Some(([a, b, c], opaque(alpha)?)),
        _ => None,
    }
}

/// `0.5` or `50%`, held between 0 and 1.
pub fn opacity(text: &str) -> Option<f64> {
    let text = text.trim();
    let share = match text.strip_suffix('%') {
        Some(percent) => finite(percent)? / 100.0,
        None => finite(text)?,
    };
    Some(share.clamp(0.0, 1.0))
}

fn degrees(text: &str) -> Option<f64> {
    for (unit, per_unit) in [
        ("deg", 1.0),
        ("grad", 0.9),
        ("rad", 180.0 / std::f64::consts::PI),
        ("turn", 360.0),
    ] {
        if let Some(number) = text.strip_suffix(unit) {
            return finite(number).map(|number| number * per_unit);
        }
    }
    finite(text)
}

fn byte(value: f64) -> u8 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to what a byte holds"
    )]
    let byte = value.round().clamp(0.0, 255.0) as u8;
    byte
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_colour_is_read() {
        for (text, hex) in [
            ("Red", "#ff0000"),
            ("rebeccapurple", "#663399"),
            ("#AbC", "#aabbcc"),
            ("#abcd", "#aabbccdd"),
            ("#01020304", "#01020304"),
            ("rgb(1, 2,3)", "#010203"),
            ("rgb(100% 0% 50% / 50%)", "#ff008080"),
            ("rgba(1,2,3,.5)", "#01020380"),
            ("hsl(120, 100%, 25%)", "#008000"),
            ("hsl(0.5turn 100% 50%)", "#00ffff"),
            ("hsla(240deg 100% 50% / 0)", "#0000ff00"),
            ("transparent", "#00000000"),
        ] {
            let read = Rgba::parse(text).map(|color| color.to_string());
            assert_eq!(read.as_deref(), Some(hex), "{text}");
        }
        for bad in [
            "",
            "#12",
            "#12345g",
            "reddish",
            "rgb(1,2)",
            "rgb(a,b,c)",
            "url(#a)",
        ] {
            assert_eq!(Rgba::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_are_sorted_for_the_search() {
        assert!(NAMES.is_sorted());
    }
}
