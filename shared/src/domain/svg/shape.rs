//! The basic shapes as polylines.

use roxmltree::Node;

use super::curve::Arc;
use super::error::SvgError;
use super::geometry::{Matrix, Point};
use super::length::{Axis, Viewport, length, numbers};
use super::path::{self, PathError};

/// An element whose geometry is read.
pub struct Shape<'a, 'input> {
    pub node: Node<'a, 'input>,
    pub matrix: Matrix,
    pub viewport: Viewport,
    /// Most points that it may have.
    pub most: usize,
}

impl Shape<'_, '_> {
    /// Its lines, each with at least one point; `None`: no shape.
    pub fn lines(&self) -> Result<Option<Vec<Vec<Point>>>, SvgError> {
        let lines = match self.node.tag_name().name() {
            "path" => self.path()?,
            "line" => vec![self.line()?],
            "polyline" => vec![self.points(false)?],
            "polygon" => vec![self.points(true)?],
            "rect" => vec![self.rect()?],
            "circle" => {
                let r = self.size("r", Axis::Other)?.unwrap_or(0.0);
                vec![self.ellipse([r, r])?]
            }
            "ellipse" => {
                let (rx, ry) = (self.size("rx", Axis::X)?, self.size("ry", Axis::Y)?);
                let radii = [rx.or(ry), ry.or(rx)].map(|r| r.unwrap_or(0.0));
                vec![self.ellipse(radii)?]
            }
            _ => return Ok(None),
        };
        let lines: Vec<_> = lines.into_iter().filter(|line| !line.is_empty()).collect();
        if lines.iter().flatten().flatten().any(|n| !n.is_finite()) {
            return Err(SvgError::at(self.node, "its coordinates are too large"));
        }
        if lines.iter().map(Vec::len).sum::<usize>() > self.most {
            return Err(self.too_many());
        }
        Ok(Some(lines))
    }

    fn too_many(&self) -> SvgError {
        SvgError::at(self.node, format!("has more than {} points", self.most))
    }

    fn path(&self) -> Result<Vec<Vec<Point>>, SvgError> {
        let Some(data) = self.node.attribute("d").filter(|d| d.trim() != "none") else {
            return Ok(Vec::new());
        };
        path::flatten(data, &self.matrix, self.most).map_err(|error| match error {
            PathError::At(byte) => {
                let reason = format!("d: the path data can't be read at character {}", byte + 1);
                SvgError::at(self.node, reason)
            }
            PathError::TooManyPoints => self.too_many(),
        })
    }

    fn line(&self) -> Result<Vec<Point>, SvgError> {
        let from = [
            self.coordinate("x1", Axis::X)?,
            self.coordinate("y1", Axis::Y)?,
        ];
        let to = [
            self.coordinate("x2", Axis::X)?,
            self.coordinate("y2", Axis::Y)?,
        ];
        Ok(vec![self.matrix.apply(from), self.matrix.apply(to)])
    }

    fn points(&self, closed: bool) -> Result<Vec<Point>, SvgError> {
        let text = self.node.attribute("points").unwrap_or("");
        let numbers = numbers(text)
            .filter(|numbers| numbers.len() % 2 == 0)
            .ok_or_else(|| SvgError::at(self.node, "points: must be pairs of numbers"))?;
        let mut line: Vec<Point> = numbers
            .chunks_exact(2)
            .map(|pair| self.matrix.apply([pair[0], pair[1]]))
            .collect();
        if closed {
            close(&mut line);
        } else if line.len() == 1 {
            // Nothing is drawn between one point.
            line.clear();
        }
        Ok(line)
    }

    fn rect(&self) -> Result<Vec<Point>, SvgError> {
        let (x, y) = (
            self.coordinate("x", Axis::X)?,
            self.coordinate("y", Axis::Y)?,
        );
        let width = self.size("width", Axis::X)?.unwrap_or(0.0);
        let height = self.size("height", Axis::Y)?.unwrap_or(0.0);
        if width == 0.0 || height == 0.0 {
            return Ok(Vec::new());
        }
        let (rx, ry) = (self.size("rx", Axis::X)?, self.size("ry", Axis::Y)?);
        let rx_used = rx.or(ry).unwrap_or(0.0).min(width / 2.0);
        let ry_used = ry.or(rx).unwrap_or(0.0).min(height / 2.0);
        let (right, bottom) = (x + width, y + height);
        let mut line = Vec::new();
        if rx_used == 0.0 || ry_used == 0.0 {
            let corners = [[x, y], [right, y], [right, bottom], [x, bottom]];
            line.extend(corners.map(|corner| self.matrix.apply(corner)));
            close(&mut line);
            return Ok(line);
        }
        let quarter = std::f64::consts::FRAC_PI_2;
        // Clockwise from the left end of the upper edge: an edge, then the corner behind it.
        line.push(self.matrix.apply([x + rx_used, y]));
        for (turn, edge_end, corner_end) in [
            (-1.0, [right - rx_used, y], [right, y + ry_used]),
            (0.0, [right, bottom - ry_used], [right - rx_used, bottom]),
            (1.0, [x + rx_used, bottom], [x, bottom - ry_used]),
            (2.0, [x, y + ry_used], [x + rx_used, y]),
        ] {
            line.push(self.matrix.apply(edge_end));
            let center = match turn {
                -1.0 | 1.0 => [edge_end[0], corner_end[1]],
                _ => [corner_end[0], edge_end[1]],
            };
            let corner = Arc {
                center,
                radii: [rx_used, ry_used],
                tilt: 0.0,
                from: turn * quarter,
                sweep: quarter,
            };
            corner.flatten(&mut line, &self.matrix, corner_end);
        }
        Ok(line)
    }

    fn ellipse(&self, radii: [f64; 2]) -> Result<Vec<Point>, SvgError> {
        let center = [
            self.coordinate("cx", Axis::X)?,
            self.coordinate("cy", Axis::Y)?,
        ];
        let mut line = Vec::new();
        if radii.iter().all(|r| *r > 0.0) {
            Arc::ellipse(&mut line, &self.matrix, center, radii);
        }
        Ok(line)
    }

    fn coordinate(&self, name: &str, axis: Axis) -> Result<f64, SvgError> {
        Ok(self.length(name, axis)?.unwrap_or(0.0))
    }

    /// Not negative; `None`: absent or `auto`.
    fn size(&self, name: &str, axis: Axis) -> Result<Option<f64>, SvgError> {
        let size = self.length(name, axis)?;
        if size.is_some_and(|size| size < 0.0) {
            return Err(SvgError::at(
                self.node,
                format!("{name}: must not be negative"),
            ));
        }
        Ok(size)
    }

    fn length(&self, name: &str, axis: Axis) -> Result<Option<f64>, SvgError> {
        attribute_length(self.node, name, axis, self.viewport)
    }
}

/// A length attribute; `None`: absent or `auto`.
pub fn attribute_length(
    node: Node<'_, '_>,
    name: &str,
    axis: Axis,
    viewport: Viewport,
) -> Result<Option<f64>, SvgError> {
    let Some(text) = node.attribute(name).filter(|text| text.trim() != "auto") else {
        return Ok(None);
    };
    length(text, axis, viewport).map(Some).ok_or_else(|| {
        let reason = format!("{name}: must be a number, with a unit that no font decides");
        SvgError::at(node, reason)
    })
}

/// Leads a line back to its start.
pub fn close(line: &mut Vec<Point>) {
    if let (Some(first), Some(last)) = (line.first().copied(), line.last().copied())
        && first != last
    {
        line.push(first);
    }
}
