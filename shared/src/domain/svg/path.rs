//! Path data: every command, absolute and relative, as polylines.

use super::curve::{Arc, bezier};
use super::geometry::{Matrix, Point};
use super::length::Reader;

/// Why path data is not read on.
#[derive(Debug, PartialEq)]
pub enum PathError {
    /// It breaks the grammar at this byte.
    At(usize),
    /// More points than were allowed.
    TooManyPoints,
}

/// The polylines of path data, each with at least one point, transformed; together at most `most` points. A subpath that
/// only starts is none, as it draws nothing.
pub fn flatten(data: &str, matrix: &Matrix, most: usize) -> Result<Vec<Vec<Point>>, PathError> {
    let mut pen = Pen {
        matrix,
        lines: Vec::new(),
        current: [0.0; 2],
        start: [0.0; 2],
        open: false,
        handle: Handle::None,
        flushed: 0,
    };
    let mut reader = Reader::new(data);
    reader.skip_space();
    let mut command = 0_u8;
    while !reader.is_at_end() {
        let at = reader.at;
        match reader.peek() {
            Some(letter) if letter.is_ascii_alphabetic() => {
                reader.at += 1;
                reader.skip_space();
                if command == 0 && !letter.eq_ignore_ascii_case(&b'm') {
                    return Err(PathError::At(at));
                }
                command = letter;
            }
            // More arguments of the same command; after a move they are lines.
            _ => match command {
                b'm' => command = b'l',
                b'M' => command = b'L',
                0 | b'z' | b'Z' => return Err(PathError::At(at)),
                _ => {}
            },
        }
        pen.draw(command, &mut reader)
            .ok_or(PathError::At(reader.at))?;
        if pen.points() > most {
            return Err(PathError::TooManyPoints);
        }
        reader.skip_separators();
    }
    pen.lines.retain(|line| !line.is_empty());
    Ok(pen.lines)
}

/// The last control point, for the smooth commands.
enum Handle {
    None,
    Cubic(Point),
    Quadratic(Point),
}

struct Pen<'a> {
    matrix: &'a Matrix,
    lines: Vec<Vec<Point>>,
    current: Point,
    start: Point,
    /// The last of `lines` is drawn on.
    open: bool,
    handle: Handle,
    /// Points of the lines before the last.
    flushed: usize,
}

impl Pen<'_> {
    fn points(&self) -> usize {
        self.flushed + self.lines.last().map_or(0, Vec::len)
    }

    /// The line drawn on, begun where the pen stands.
    fn line(&mut self) -> &mut Vec<Point> {
        if !self.open {
            self.flushed = self.points();
            self.lines.push(vec![self.matrix.apply(self.current)]);
            self.open = true;
        }
        let last = self.lines.len() - 1;
        &mut self.lines[last]
    }

    fn line_to(&mut self, to: Point) {
        let point = self.matrix.apply(to);
        self.line().push(point);
        self.current = to;
    }

    fn curve_to<const N: usize>(&mut self, control: [Point; N]) {
        let matrix = *self.matrix;
        bezier(self.line(), &matrix, control);
        self.current = control[N - 1];
    }

    fn draw(&mut self, command: u8, reader: &mut Reader<'_>) -> Option<()> {
        let relative = command.is_ascii_lowercase();
        let base = if relative { self.current } else { [0.0; 2] };
        let handle = std::mem::replace(&mut self.handle, Handle::None);
        match command.to_ascii_uppercase() {
            b'M' => {
                self.current = point(reader, base)?;
                self.start = self.current;
                self.open = false;
            }
            b'L' => {
                let to = point(reader, base)?;
                self.line_to(to);
            }
            b'H' => {
                let x = reader.number()? + base[0];
                self.line_to([x, self.current[1]]);
            }
            b'V' => {
                let y = reader.number()? + base[1];
                self.line_to([self.current[0], y]);
            }
            b'C' => {
                let (one, two) = (point(reader, base)?, next_point(reader, base)?);
                let to = next_point(reader, base)?;
                self.curve_to([self.current, one, two, to]);
                self.handle = Handle::Cubic(two);
            }
            b'S' => {
                let one = match handle {
                    Handle::Cubic(two) => self.mirrored(two),
                    _ => self.current,
                };
                let (two, to) = (point(reader, base)?, next_point(reader, base)?);
                self.curve_to([self.current, one, two, to]);
                self.handle = Handle::Cubic(two);
            }
            b'Q' => {
                let (one, to) = (point(reader, base)?, next_point(reader, base)?);
                self.curve_to([self.current, one, to]);
                self.handle = Handle::Quadratic(one);
            }
            b'T' => {
                let one = match handle {
                    Handle::Quadratic(one) => self.mirrored(one),
                    _ => self.current,
                };
                let to = point(reader, base)?;
                self.curve_to([self.current, one, to]);
                self.handle = Handle::Quadratic(one);
            }
            b'A' => self.arc(reader, base)?,
            b'Z' => self.close(),
            _ => return None,
        }
        Some(())
    }

    fn mirrored(&self, handle: Point) -> Point {
        [
            2.0 * self.current[0] - handle[0],
            2.0 * self.current[1] - handle[1],
        ]
    }

    fn arc(&mut self, reader: &mut Reader<'_>, base: Point) -> Option<()> {
        let rx = reader.number()?;
        reader.skip_separators();
        let ry = reader.number()?;
        reader.skip_separators();
        let tilt = reader.number()?;
        reader.skip_separators();
        let large = reader.flag()?;
        reader.skip_separators();
        let clockwise = reader.flag()?;
        let to = next_point(reader, base)?;
        match Arc::between(self.current, to, [rx, ry], tilt, large, clockwise) {
            Some(arc) => {
                let matrix = *self.matrix;
                arc.flatten(self.line(), &matrix, to);
                self.current = to;
            }
            // From a point to itself an arc draws nothing.
            None if to == self.current => {}
            None => self.line_to(to),
        }
        Some(())
    }

    /// Back to the start, unless the line is there already: a lone point closed is a dot.
    fn close(&mut self) {
        let start = self.matrix.apply(self.start);
        let line = self.line();
        if line.last() != Some(&start) {
            line.push(start);
        }
        self.current = self.start;
        self.open = false;
    }
}

fn point(reader: &mut Reader<'_>, base: Point) -> Option<Point> {
    let x = reader.number()?;
    reader.skip_separators();
    let y = reader.number()?;
    Some([x + base[0], y + base[1]])
}

fn next_point(reader: &mut Reader<'_>, base: Point) -> Option<Point> {
    reader.skip_separators();
    point(reader, base)
}
