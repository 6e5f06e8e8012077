//! How an element is painted: presentation attributes, the `style` attribute over them, and what is inherited.

use roxmltree::Node;

use super::color::{Rgba, opacity};
use super::error::{SvgError, shown};
use super::length::{Axis, Viewport, length};

/// What lines and areas are painted with.
#[derive(Debug, Clone, PartialEq)]
pub enum Paint {
    None,
    /// With the words that said so.
    Color(Rgba, String),
    CurrentColor,
    /// A gradient or pattern, which no stroke can have.
    Server,
}

impl Paint {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let server = text
            .get(..4)
            .is_some_and(|start| start.eq_ignore_ascii_case("url("));
        if server {
            // `url(#gradient) red`: the colour is what is painted where the gradient can't be.
            let fallback = text.rsplit_once(')').map_or("", |(_, rest)| rest.trim());
            return if fallback.is_empty() {
                Some(Self::Server)
            } else {
                Self::parse(fallback)
            };
        }
        match text.to_ascii_lowercase().as_str() {
            "none" => Some(Self::None),
            "currentcolor" => Some(Self::CurrentColor),
            _ => Rgba::parse(text).map(|color| Self::Color(color, text.to_owned())),
        }
    }
}

/// The properties that matter to a stroke, as an element has them.
#[derive(Debug, Clone)]
pub struct Style {
    pub fill: Paint,
    pub stroke: Paint,
    pub stroke_width: f64,
    pub color: Rgba,
    fill_opacity: f64,
    stroke_opacity: f64,
    /// Of the element and all around it, multiplied.
    opacity: f64,
    pub visible: bool,
    /// The width is not scaled with the element.
    pub fixed_width: bool,
}

impl Default for Style {
    fn default() -> Self {
        Self {
            fill: Paint::Color(Rgba::BLACK, "#000000".to_owned()),
            stroke: Paint::None,
            stroke_width: 1.0,
            color: Rgba::BLACK,
            fill_opacity: 1.0,
            stroke_opacity: 1.0,
            opacity: 1.0,
            visible: true,
            fixed_width: false,
        }
    }
}

/// Presentation attributes that are looked at.
const PROPERTIES: [&str; 10] = [
    "color",
    "fill",
    "stroke",
    "stroke-width",
    "fill-opacity",
    "stroke-opacity",
    "opacity",
    "visibility",
    "display",
    "vector-effect",
];

impl Style {
    /// The style of a child of what this is the style of; `None`: it is not displayed.
    pub fn of(&self, node: Node<'_, '_>, viewport: Viewport) -> Result<Option<Self>, SvgError> {
        let mut style = Self {
            fixed_width: false,
            ..self.clone()
        };
        let mut display = true;
        let mut own_opacity = 1.0;
        let mut set = |name: &str, value: &str| {
            let value = value.trim();
            if matches!(value, "inherit" | "unset" | "revert") {
                return Ok(());
            }
            let known = match name {
                "color" => Rgba::parse(value).map(|color| style.color = color),
                "fill" => Paint::parse(value).map(|paint| style.fill = paint),
                "stroke" => Paint::parse(value).map(|paint| style.stroke = paint),
                "stroke-width" => length(value, Axis::Other, viewport)
                    .filter(|width| *width >= 0.0)
                    .map(|width| style.stroke_width = width),
                "fill-opacity" => opacity(value).map(|share| style.fill_opacity = share),
                "stroke-opacity" => opacity(value).map(|share| style.stroke_opacity = share),
                "opacity" => opacity(value).map(|share| own_opacity = share),
                "visibility" => {
                    style.visible = value == "visible";
                    Some(())
                }
                "display" => {
                    display = value != "none";
                    Some(())
                }
                "vector-effect" => {
                    style.fixed_width = value == "non-scaling-stroke";
                    Some(())
                }
                _ => Some(()),
            };
            known.ok_or_else(|| {
                let reason = format!("{name}: \"{}\" can't be read", shown(value));
                SvgError::at(node, reason)
            })
        };
        for name in PROPERTIES {
            if let Some(value) = node.attribute(name) {
                set(name, value)?;
            }
        }
        for (name, value) in declarations(&uncommented(node.attribute("style").unwrap_or_default()))
        {
            set(&name, value)?;
        }
        style.opacity *= own_opacity;
        Ok(display.then_some(style))
    }

    /// What a line of this style looks like. `unseen`: a colour that is wholly transparent is one as well.
    pub fn line_color(&self, unseen: bool) -> Painted {
        self.painted(&self.stroke, self.stroke_opacity, unseen)
    }

    pub fn fill_color(&self) -> Painted {
        self.painted(&self.fill, self.fill_opacity, false)
    }

    fn painted(&self, paint: &Paint, opacity: f64, unseen: bool) -> Painted {
        let opacity = opacity * self.opacity;
        let (color, words) = match paint {
            Paint::None => return Painted::Nothing,
            Paint::Server => return Painted::Server,
            Paint::Color(color, words) => (*color, Some(words)),
            Paint::CurrentColor => (self.color, None),
        };
        let faded = color.faded(opacity);
        match words {
            _ if faded.alpha == 0 && !unseen => Painted::Nothing,
            // A hex colour stays as it was written.
            Some(words) if words.starts_with('#') && faded == color => {
                Painted::Color(faded, words.clone())
            }
            _ => Painted::Color(faded, faded.to_string()),
        }
    }
}

/// A paint with all opacities in it.
pub enum Painted {
    Nothing,
    Server,
    /// And as a stroke's `color` spells it.
    Color(Rgba, String),
}

/// What the `style` attribute says of this property, last.
pub fn declared(node: Node<'_, '_>, property: &str) -> Option<String> {
    let style = uncommented(node.attribute("style")?);
    let found = declarations(&style).filter(|(name, _)| name == property);
    found.last().map(|(_, value)| value.trim().to_owned())
}

/// Names in small letters, and values.
fn declarations(style: &str) -> impl Iterator<Item = (String, &str)> {
    style.split(';').filter_map(|declaration| {
        let (name, value) = declaration.split_once(':')?;
        let value = value.split('!').next().unwrap_or(value);
        Some((name.trim().to_ascii_lowercase(), value))
    })
}

/// Without `/* … */`.
fn uncommented(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("/*") {
        plain.push_str(before);
        rest = after.split_once("*/").map_or("", |(_, after)| after);
    }
    plain + rest
}
