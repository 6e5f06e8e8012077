//! Strokes as an SVG file.

use std::fmt::Write;

use super::MARK;
use super::color::Rgba;
use crate::domain::board::Stroke;

/// A whole file that draws `strokes` in this order. [`super::import`] reads the same strokes back from it.
pub fn export<'a>(strokes: impl IntoIterator<Item = &'a Stroke> + Clone, title: &str) -> String {
    let frame = Frame::around(strokes.clone());
    let mut svg = String::with_capacity(4_096);
    // Writing to a String can't fail.
    let _ = write!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" {}="{}" data-version="1" viewBox="{} {} {} {}" width="{}" height="{}" fill="none" stroke-linecap="round" stroke-linejoin="round">"#,
        MARK.0,
        MARK.1,
        Number(frame.x),
        Number(frame.y),
        Number(frame.width),
        Number(frame.height),
        Number(frame.width),
        Number(frame.height),
    );
    let _ = writeln!(svg, "\n<title>{}</title>", Escaped(title));
    for stroke in strokes {
        path(&mut svg, stroke);
    }
    svg.push_str("</svg>\n");
    svg
}

fn path(svg: &mut String, stroke: &Stroke) {
    // Some characters that an id may have can't be written in XML at all, not even as references.
    if stroke.id.chars().all(is_xml) {
        let _ = write!(svg, r#"<path data-id="{}""#, Escaped(&stroke.id));
    } else {
        let _ = write!(svg, r#"<path data-id-hex="{}""#, hex::encode(&stroke.id));
    }
    let _ = write!(svg, r#" data-ts="{}""#, stroke.ts);
    match Rgba::parse(&stroke.color) {
        // Every renderer knows six digits, and alpha by its own attribute; names, functions and alpha within a colour are
        // for those of some age only.
        Some(color) if color.alpha < 255 || !stroke.color.starts_with('#') => {
            let opaque = Rgba {
                alpha: 255,
                ..color
            };
            let spelled = Escaped(&stroke.color);
            let _ = write!(svg, r#" data-color="{spelled}" stroke="{opaque}""#);
            if color.alpha < 255 {
                let _ = write!(svg, r#" stroke-opacity="{}""#, Number(color.opacity()));
            }
        }
        _ => {
            let _ = write!(svg, r#" stroke="{}""#, Escaped(&stroke.color));
        }
    }
    let _ = write!(svg, r#" stroke-width="{}" d=""#, Number(stroke.width));
    for (i, point) in stroke.points.chunks_exact(2).enumerate() {
        let command = match i {
            0 => "M",
            1 => "L",
            _ => " ",
        };
        let _ = write!(svg, "{command}{} {}", Number(point[0]), Number(point[1]));
    }
    // A subpath of nothing but a start is not drawn; closed, it is a dot (SVG 2, 13.5.4 "stroke-linecap").
    let end = if stroke.points.len() == 2 { "Z" } else { "" };
    let _ = writeln!(svg, r#"{end}"/>"#);
}

/// What all strokes lie in, with their widths.
struct Frame {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl Frame {
    fn around<'a>(strokes: impl IntoIterator<Item = &'a Stroke>) -> Self {
        let (mut low, mut high) = ([f64::INFINITY; 2], [f64::NEG_INFINITY; 2]);
        for stroke in strokes {
            let half = stroke.width / 2.0;
            for point in stroke.points.chunks_exact(2) {
                for axis in 0..2 {
                    low[axis] = low[axis].min(point[axis] - half);
                    high[axis] = high[axis].max(point[axis] + half);
                }
            }
        }
        if low[0] > high[0] {
            return Self {
                x: 0.0,
                y: 0.0,
                width: 1.0,
                height: 1.0,
            };
        }
        // Points far out would make nothing or infinity of a size, and a file could have neither.
        let size = |axis: usize| (high[axis] - low[axis]).clamp(1e-9, f64::MAX);
        Self {
            x: low[0].max(f64::MIN),
            y: low[1].max(f64::MIN),
            width: size(0),
            height: size(1),
        }
    }
}

/// The shortest decimal that reads back as the same number.
struct Number(f64);

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let size = self.0.abs();
        if size != 0.0 && !(1e-6..1e15).contains(&size) {
            return write!(f, "{:e}", self.0);
        }
        write!(f, "{}", self.0)
    }
}

struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                _ if is_xml(c) => f.write_char(c)?,
                _ => f.write_char('\u{fffd}')?,
            }
        }
        Ok(())
    }
}

/// XML 1.0, production 2 (without the control characters, which we never have).
fn is_xml(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}')
}
