//! Curves as polylines within [`FLATNESS`] of them, after their transform.

use std::f64::consts::{PI, TAU};

use super::geometry::{Matrix, Point};
use super::{CURVE_SEGMENTS_MAX, FLATNESS};

/// Adds the points of a Bézier curve behind its start; `control` is given in user units, end included.
///
/// Segments by Wang's formula: `sqrt(d (d-1) / 8 · max |second difference| / tolerance)` of equal parameter steps.
pub fn bezier<const N: usize>(out: &mut Vec<Point>, matrix: &Matrix, control: [Point; N]) {
    let control = control.map(|point| matrix.apply(point));
    let bend = control
        .windows(3)
        .map(|w| (w[0][0] - 2.0 * w[1][0] + w[2][0]).hypot(w[0][1] - 2.0 * w[1][1] + w[2][1]))
        .fold(0.0, f64::max);
    let degree = (N - 1) as f64;
    let segments = bounded((degree * (degree - 1.0) / 8.0 * bend / FLATNESS).sqrt());
    for step in 1..segments {
        let t = step as f64 / segments as f64;
        let mut points = control;
        for level in (1..N).rev() {
            for i in 0..level {
                let [next, point] = [points[i + 1], points[i]];
                points[i] = [
                    point[0] + (next[0] - point[0]) * t,
                    point[1] + (next[1] - point[1]) * t,
                ];
            }
        }
        out.push(rounded(points[0]));
    }
    out.push(control[N - 1]);
}

/// Part of an ellipse, by its parametric angle; `tilt` in radians.
#[derive(Debug, Clone, Copy)]
pub struct Arc {
    pub center: Point,
    pub radii: [f64; 2],
    pub tilt: f64,
    pub from: f64,
    pub sweep: f64,
}

impl Arc {
    fn at(&self, angle: f64) -> Point {
        let (sin, cos) = angle.sin_cos();
        let (tilt_sin, tilt_cos) = self.tilt.sin_cos();
        let (x, y) = (self.radii[0] * cos, self.radii[1] * sin);
        [
            self.center[0] + x * tilt_cos - y * tilt_sin,
            self.center[1] + x * tilt_sin + y * tilt_cos,
        ]
    }

    /// Adds the points behind its start; the last is `end` itself, free of the angle's rounding.
    pub fn flatten(&self, out: &mut Vec<Point>, matrix: &Matrix, end: Point) {
        let radius = self.radii[0].abs().max(self.radii[1].abs()) * matrix.stretch();
        // A chord over the angle s is at most r (1 - cos(s / 2)) from its arc.
        let step = if radius <= FLATNESS {
            PI / 2.0
        } else {
            (2.0 * (1.0 - FLATNESS / radius).acos()).min(PI / 2.0)
        };
        let segments = bounded(self.sweep.abs() / step);
        for i in 1..segments {
            let angle = self.from + self.sweep * (i as f64 / segments as f64);
            out.push(rounded(matrix.apply(self.at(angle))));
        }
        out.push(matrix.apply(end));
    }

    /// A whole ellipse, from its rightmost point on.
    pub fn ellipse(out: &mut Vec<Point>, matrix: &Matrix, center: Point, radii: [f64; 2]) {
        let start = [center[0] + radii[0], center[1]];
        out.push(matrix.apply(start));
        let whole = Self {
            center,
            radii,
            tilt: 0.0,
            from: 0.0,
            sweep: TAU,
        };
        whole.flatten(out, matrix, start);
    }

    /// The `A` command between two points (SVG 2, appendix B.2.4 and B.2.5). `None`: it is a straight line.
    pub fn between(
        from: Point,
        to: Point,
        radii: [f64; 2],
        tilt_degrees: f64,
        large: bool,
        clockwise: bool,
    ) -> Option<Self> {
        let [mut rx, mut ry] = radii.map(f64::abs);
        if rx == 0.0 || ry == 0.0 || from == to {
            return None;
        }
        let tilt = tilt_degrees.to_radians();
        let (sin, cos) = tilt.sin_cos();
        let (dx, dy) = ((from[0] - to[0]) / 2.0, (from[1] - to[1]) / 2.0);
        let (x, y) = (cos * dx + sin * dy, cos * dy - sin * dx);
        let reach = (x / rx).powi(2) + (y / ry).powi(2);
        if !reach.is_finite() {
            return None;
        }
        // Too small to reach from one to the other: grown until they do.
        if reach > 1.0 {
            rx *= reach.sqrt();
            ry *= reach.sqrt();
        }
        let (x_part, y_part) = ((x / rx).powi(2), (y / ry).powi(2));
        let root = ((1.0 - x_part - y_part).max(0.0) / (x_part + y_part)).sqrt();
        let root = if large == clockwise { -root } else { root };
        let (cx, cy) = (root * rx * y / ry, -root * ry * x / rx);
        let start = ((y - cy) / ry).atan2((x - cx) / rx);
        let end = ((-y - cy) / ry).atan2((-x - cx) / rx);
        let mut sweep = end - start;
        if clockwise && sweep < 0.0 {
            sweep += TAU;
        } else if !clockwise && sweep > 0.0 {
            sweep -= TAU;
        }
        Some(Self {
            center: [
                cos * cx - sin * cy + (from[0] + to[0]) / 2.0,
                sin * cx + cos * cy + (from[1] + to[1]) / 2.0,
            ],
            radii: [rx, ry],
            tilt,
            from: start,
            sweep,
        })
    }
}

/// Between its ends a curve is only followed, not met: three decimals keep the strokes small.
fn rounded(point: Point) -> Point {
    point.map(|n| {
        if n.abs() < 1e9 {
            (n * 1e3).round() / 1e3
        } else {
            n
        }
    })
}

/// At least one, at most [`CURVE_SEGMENTS_MAX`], whatever came of the arithmetic.
fn bounded(segments: f64) -> usize {
    if segments.is_nan() {
        return 1;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to a small positive number"
    )]
    let segments = segments.ceil().clamp(1.0, CURVE_SEGMENTS_MAX as f64) as usize;
    segments
}
