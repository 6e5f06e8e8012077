//! A file's shapes as strokes.

use std::collections::{BTreeMap, HashSet};

use roxmltree::{Document, Node, ParsingOptions};

use super::color::Rgba;
use super::element::{self, is_svg};
use super::error::{SvgError, shown};
use super::geometry::{Area, Matrix, Point};
use super::length::{Axis, Viewport};
use super::shape::{Shape, attribute_length, close};
use super::style::{Painted, Style, declared};
use super::{ELEMENTS_MAX, MARK, STROKES_MAX, TOTAL_POINTS_MAX, doctype, scan};
use crate::domain::board::{POINTS_MAX, Stroke};
use crate::domain::drawing::STROKE_BYTES_MAX;

/// What a file that has no size is taken to have, for percentages: CSS's own default.
const DEFAULT_VIEWPORT: Viewport = Viewport {
    width: 300.0,
    height: 150.0,
};

/// What became of a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Imported {
    /// In drawing order; ids differ.
    pub strokes: Vec<Stroke>,
    /// So many of them are outlines of shapes that were only filled.
    pub outlined: usize,
    /// Elements that can't be strokes (`text`, …), by name.
    pub left_out: BTreeMap<String, usize>,
}

/// Reads an SVG file; pure work of up to seconds for the largest, so off the async threads. Strokes that carry no `ts` get
/// `now_ms`.
///
/// # Errors
/// The first thing in the file that is refused. Nothing is imported in part.
pub fn import(text: &str, now_ms: i64) -> Result<Imported, SvgError> {
    let text = &*doctype::without(text);
    scan::check(text)?;
    let options = ParsingOptions {
        allow_dtd: false,
        // Text and comments are nodes as well.
        nodes_limit: u32::try_from(ELEMENTS_MAX * 4).unwrap_or(u32::MAX),
        ..ParsingOptions::default()
    };
    let document = Document::parse_with_options(text, options).map_err(|error| {
        let pos = error.pos();
        SvgError {
            element: "svg".to_owned(),
            line: pos.row,
            column: pos.col,
            reason: format!("not well-formed XML: {error}"),
        }
    })?;
    let root = document.root_element();
    if root.tag_name().name() != "svg" || !is_svg(root) {
        return Err(SvgError::at(root, "the file's root must be svg"));
    }
    for node in root.descendants().filter(Node::is_element) {
        element::check(node)?;
    }
    let mut reader = Reader {
        imported: Imported::default(),
        ids: HashSet::new(),
        own_ids: root
            .descendants()
            .filter_map(|node| node.attribute("data-id").map(str::to_owned))
            .collect(),
        made: 0,
        points: 0,
        ours: root.attribute(MARK.0) == Some(MARK.1),
        now_ms,
    };
    reader.root(root)?;
    Ok(reader.imported)
}

struct Reader {
    imported: Imported,
    /// Ids used, and (so that none of them is made up before it comes) those of ours still to come.
    ids: HashSet<String>,
    own_ids: HashSet<String>,
    /// Ids given to strokes that brought none.
    made: usize,
    points: usize,
    /// We wrote the file: its coordinates are the board's, whatever its size says.
    ours: bool,
    now_ms: i64,
}

impl Reader {
    fn root(&mut self, root: Node<'_, '_>) -> Result<(), SvgError> {
        let shown_as = |name, axis| match root.attribute(name) {
            // The page that would show it is not known.
            Some(text) if text.trim_end().ends_with('%') => Ok(None),
            _ => attribute_length(root, name, axis, DEFAULT_VIEWPORT),
        };
        let (width, height) = (shown_as("width", Axis::X)?, shown_as("height", Axis::Y)?);
        let (matrix, viewport) = self.view(root, [0.0, 0.0], width, height)?;
        let matrix = if self.ours { Matrix::IDENTITY } else { matrix };
        let style = Style::default();
        self.container(root, &matrix, &style, viewport)
    }

    /// The inside of an `svg` element: what moves it into its place, and its own size.
    fn view(
        &self,
        node: Node<'_, '_>,
        at: Point,
        width: Option<f64>,
        height: Option<f64>,
    ) -> Result<(Matrix, Viewport), SvgError> {
        let area = node
            .attribute("viewBox")
            .map(|text| {
                Area::parse(text).ok_or_else(|| {
                    SvgError::at(node, "viewBox: must be four numbers, the size above 0")
                })
            })
            .transpose()?;
        let Some(area) = area else {
            let viewport = Viewport {
                width: width.unwrap_or(DEFAULT_VIEWPORT.width),
                height: height.unwrap_or(DEFAULT_VIEWPORT.height),
            };
            return Ok((Matrix::of([1.0, 0.0, 0.0, 1.0, at[0], at[1]]), viewport));
        };
        // One size given gives the other, by the view box's proportions.
        let (width, height) = match (width, height) {
            (Some(width), Some(height)) => (width, height),
            (Some(width), None) => (width, width * area.height / area.width),
            (None, Some(height)) => (height * area.width / area.height, height),
            (None, None) => (area.width, area.height),
        };
        if width <= 0.0 || height <= 0.0 {
            return Err(SvgError::at(node, "width, height: must be above 0"));
        }
        let place = Area {
            x: at[0],
            y: at[1],
            width,
            height,
        };
        let preserve = node.attribute("preserveAspectRatio").unwrap_or("");
        let matrix = area.into(place, preserve).ok_or_else(|| {
            SvgError::at(node, "preserveAspectRatio: must be like \"xMidYMid meet\"")
        })?;
        let viewport = Viewport {
            width: area.width,
            height: area.height,
        };
        Ok((matrix, viewport))
    }

    /// An element with others in it. The nesting was bounded by the scan.
    fn container(
        &mut self,
        node: Node<'_, '_>,
        matrix: &Matrix,
        around: &Style,
        viewport: Viewport,
    ) -> Result<(), SvgError> {
        let Some(style) = around.of(node, viewport)? else {
            return Ok(());
        };
        let matrix = &moved(node, matrix)?;
        for child in node.children().filter(Node::is_element) {
            if is_svg(child) {
                self.element(child, matrix, &style, viewport)?;
                if node.tag_name().name() == "switch" {
                    break;
                }
            }
        }
        Ok(())
    }

    fn element(
        &mut self,
        node: Node<'_, '_>,
        matrix: &Matrix,
        around: &Style,
        viewport: Viewport,
    ) -> Result<(), SvgError> {
        match node.tag_name().name() {
            "g" | "a" | "switch" => self.container(node, matrix, around, viewport),
            "svg" => {
                let length = |name, axis| attribute_length(node, name, axis, viewport);
                let at = [
                    length("x", Axis::X)?.unwrap_or(0.0),
                    length("y", Axis::Y)?.unwrap_or(0.0),
                ];
                let width = length("width", Axis::X)?.unwrap_or(viewport.width);
                let height = length("height", Axis::Y)?.unwrap_or(viewport.height);
                let (inner, viewport) = self.view(node, at, Some(width), Some(height))?;
                self.container(node, &matrix.after(&inner), around, viewport)
            }
            "path" | "line" | "polyline" | "polygon" | "rect" | "circle" | "ellipse" => {
                self.shape(node, matrix, around, viewport)
            }
            // Drawn only where something refers to it, or never.
            "defs" | "symbol" | "clipPath" | "mask" | "marker" | "pattern" | "linearGradient"
            | "radialGradient" | "filter" | "title" | "desc" | "metadata" | "view" => Ok(()),
            name => {
                if self.imported.left_out.len() < 100 {
                    *self.imported.left_out.entry(shown(name)).or_default() += 1;
                }
                Ok(())
            }
        }
    }

    fn shape(
        &mut self,
        node: Node<'_, '_>,
        matrix: &Matrix,
        around: &Style,
        viewport: Viewport,
    ) -> Result<(), SvgError> {
        let Some(style) = around.of(node, viewport)?.filter(|style| style.visible) else {
            return Ok(());
        };
        let matrix = moved(node, matrix)?;
        let scale = if style.fixed_width {
            1.0
        } else {
            matrix.scale()
        };
        if scale == 0.0 {
            // Flattened to a line or a point: nothing of it is seen.
            return Ok(());
        }
        let width = style.stroke_width * scale;
        let stroke = if width > 0.0 {
            style.line_color(self.ours)
        } else {
            Painted::Nothing
        };
        let (color, width, outlined) = match (stroke, style.fill_color()) {
            (Painted::Color(color, words), _) => ((color, words), width, false),
            // A straight line has no inside.
            (Painted::Nothing, _) if node.tag_name().name() == "line" => return Ok(()),
            (Painted::Nothing, Painted::Color(color, words)) => ((color, words), scale, true),
            (Painted::Nothing, Painted::Nothing) => return Ok(()),
            (Painted::Server, _) | (Painted::Nothing, Painted::Server) => {
                let reason = "gradients and patterns can't become strokes: give it a colour";
                return Err(SvgError::at(node, reason));
            }
        };
        let shape = Shape {
            node,
            matrix,
            viewport,
            most: POINTS_MAX,
        };
        let lines = shape.lines()?.unwrap_or_default();
        let lone = lines.len() == 1;
        for mut line in lines {
            if outlined {
                close(&mut line);
                self.imported.outlined += 1;
            }
            self.points += line.len();
            if self.points > TOTAL_POINTS_MAX {
                let reason = format!("more than {TOTAL_POINTS_MAX} points in the file");
                return Err(SvgError::at(node, reason));
            }
            if self.imported.strokes.len() >= STROKES_MAX {
                let reason = format!("more than {STROKES_MAX} strokes in the file");
                return Err(SvgError::at(node, reason));
            }
            let own_id = if lone && self.ours {
                own_id(node)?
            } else {
                None
            };
            let stroke = Stroke {
                id: self.unique(node, own_id)?,
                width,
                color: self.color(node, &color),
                points: line.into_flattened(),
                ts: self.ts(node)?,
            };
            stroke
                .check(self.now_ms)
                .map_err(|invalid| SvgError::at(node, invalid.to_string()))?;
            if stroke.json_len() > STROKE_BYTES_MAX {
                let reason = format!("comes to more than {STROKE_BYTES_MAX} bytes as a stroke");
                return Err(SvgError::at(node, reason));
            }
            self.imported.strokes.push(stroke);
        }
        Ok(())
    }

    fn unique(&mut self, node: Node<'_, '_>, own: Option<String>) -> Result<String, SvgError> {
        if let Some(id) = own {
            if !self.ids.insert(id.clone()) {
                return Err(SvgError::at(node, "data-id: another element has it too"));
            }
            return Ok(id);
        }
        loop {
            self.made += 1;
            let id = format!("svg-{}", self.made);
            if !self.own_ids.contains(&id) && self.ids.insert(id.clone()) {
                return Ok(id);
            }
        }
    }

    /// The board's own spelling of a colour, where it still means what is painted.
    fn color(&self, node: Node<'_, '_>, (color, words): &(Rgba, String)) -> String {
        let spelled = node
            .attribute("data-color")
            .filter(|text| self.ours && Rgba::parse(text) == Some(*color));
        spelled.unwrap_or(words).to_owned()
    }

    fn ts(&self, node: Node<'_, '_>) -> Result<i64, SvgError> {
        match node.attribute("data-ts").filter(|_| self.ours) {
            Some(text) => text
                .parse()
                .map_err(|_| SvgError::at(node, "data-ts: must be milliseconds since 1970")),
            None => Ok(self.now_ms),
        }
    }
}

fn own_id(node: Node<'_, '_>) -> Result<Option<String>, SvgError> {
    if let Some(id) = node.attribute("data-id") {
        return Ok(Some(id.to_owned()));
    }
    let Some(hexadecimal) = node.attribute("data-id-hex") else {
        return Ok(None);
    };
    hex::decode(hexadecimal)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .map(Some)
        .ok_or_else(|| SvgError::at(node, "data-id-hex: must be hexadecimal UTF-8"))
}

/// With the element's own transform, as a property or else as an attribute, inside what is around it.
fn moved(node: Node<'_, '_>, around: &Matrix) -> Result<Matrix, SvgError> {
    let own = match (declared(node, "transform"), node.attribute("transform")) {
        (Some(property), _) => Matrix::parse_css(&property),
        (None, Some(attribute)) => Matrix::parse(attribute),
        (None, None) => return Ok(*around),
    };
    let own = own.ok_or_else(|| SvgError::at(node, "transform: can't be read"))?;
    Ok(around.after(&own))
}
