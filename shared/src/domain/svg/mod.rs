//! Drawings as SVG: strokes out as paths that render alike everywhere, shapes of other people's files in as strokes.
//!
//! What we write carries id, `ts` and colour in data attributes and reads back to the same strokes. What others wrote is
//! read by its geometry: curves become polylines no further than [`FLATNESS`] from the curve, shapes that are only
//! filled become outlines in their fill colour, and what can't be a stroke (text, gradients' areas, filters, dashes) is
//! left out and counted. What could do anything but draw is refused, with the element and its place.

mod color;
mod curve;
pub mod doctype;
mod element;
mod error;
mod export;
mod geometry;
mod import;
mod length;
mod names;
mod path;
mod scan;
mod shape;
mod style;
#[cfg(test)]
mod tests;

pub(crate) use color::Rgba;
pub use error::SvgError;
pub use export::export;
pub use import::{Imported, import};
pub use scan::check_cost;

/// How far a polyline may be from the curve it stands for, in board units.
pub const FLATNESS: f64 = 0.1;
/// Most line segments for one curve: one so large that it needs more is followed less closely.
const CURVE_SEGMENTS_MAX: usize = 1_000;
/// Deepest nesting of elements.
const DEPTH_MAX: usize = 64;
/// Most elements in a file.
const ELEMENTS_MAX: usize = 200_000;
/// Most attributes of one element: the parser compares each with each.
const ATTRIBUTES_MAX: usize = 100;
/// Most namespaces declared on one element and those around it: the parser compares each with each, for every element that
/// declares one.
const NAMESPACES_MAX: usize = 64;
/// Most strokes that one file makes.
pub const STROKES_MAX: usize = 100_000;
/// Most points of all strokes of one file: about 100 MB while they are held.
pub const TOTAL_POINTS_MAX: usize = 5_000_000;

/// Marks a file that we wrote: its coordinates are the board's own.
const MARK: (&str, &str) = ("data-atelier", "board");
