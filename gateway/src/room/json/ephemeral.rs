//! What is told but not logged, client to server: of each kind only the latest counts.

use atelier_shared::domain::Invalid;
use atelier_shared::domain::ids::Seq;
use atelier_shared::domain::names;
use atelier_shared::domain::presence::Status;
use atelier_shared::domain::room::Role;
use atelier_shared::domain::signal::EphemeralKind;
use serde_json::{Map, Value};

use super::fields::{CursorFields, DataFields, ReceiptFields, SelectionFields, bounded, fields};
use super::incoming::unknown_type;
use super::outgoing::ErrorFrame;

/// The latest value of one kind.
#[derive(Debug)]
pub enum Ephemeral {
    Cursor {
        position: Value,
        name: Option<String>,
        color: Option<String>,
    },
    Selection(Value),
    CursorUpdate(Value),
    ViewportUpdate(Value),
    PresenceUpdate(Status, Value),
    Typing(Value),
    Receipt(Seq),
}

impl Ephemeral {
    pub fn kind(&self) -> EphemeralKind {
        match self {
            Self::Cursor { .. } => EphemeralKind::Cursor,
            Self::Selection(_) => EphemeralKind::Selection,
            Self::CursorUpdate(_) => EphemeralKind::CursorUpdate,
            Self::ViewportUpdate(_) => EphemeralKind::ViewportUpdate,
            Self::PresenceUpdate(..) => EphemeralKind::PresenceUpdate,
            Self::Typing(_) => EphemeralKind::Typing,
            Self::Receipt(_) => EphemeralKind::Receipt,
        }
    }

    /// The least role that may send it.
    pub fn role(&self) -> Role {
        match self {
            Self::Typing(_) => Role::Editor,
            _ => Role::Viewer,
        }
    }
}

pub fn ephemeral(kind: &str, text: &str) -> Result<Ephemeral, ErrorFrame> {
    match kind {
        "cursor" => {
            let m: CursorFields = fields(text)?;
            bounded("position", &m.position)?;
            if !(m.position.is_number() || m.position.is_object() || m.position.is_null()) {
                return Err(Invalid::new("position", "must be a number or an object").into());
            }
            let name = m
                .name
                .as_deref()
                .map(|n| names::name("name", n))
                .transpose()?;
            if let Some(color) = &m.color {
                names::color("color", color)?;
            }
            Ok(Ephemeral::Cursor {
                position: m.position,
                name,
                color: m.color,
            })
        }
        "selection" => {
            let m: SelectionFields = fields(text)?;
            bounded("selection", &m.selection)?;
            let range = |key| m.selection.get(key).is_some_and(Value::is_number);
            if !(m.selection.is_null() || (range("start") && range("end"))) {
                return Err(Invalid::new("selection", "must be {start, end} or null").into());
            }
            Ok(Ephemeral::Selection(m.selection))
        }
        "cursor_update" => Ok(Ephemeral::CursorUpdate(data(
            text,
            &[&["file", "line"], &["x", "y"]],
        )?)),
        "viewport_update" => Ok(Ephemeral::ViewportUpdate(data(
            text,
            &[&["file", "start_line", "end_line"], &["x", "y", "zoom"]],
        )?)),
        "typing" => {
            let data = data(text, &[&["on"]])?;
            if !data["on"].is_boolean() {
                return Err(Invalid::new("data.on", "must be true or false").into());
            }
            Ok(Ephemeral::Typing(data))
        }
        "presence_update" => {
            let data = data(text, &[&["status"]])?;
            let status = data["status"].as_str().unwrap_or("");
            Ok(Ephemeral::PresenceUpdate(status.parse()?, data))
        }
        "receipt" => {
            let m: ReceiptFields = fields(text)?;
            Ok(Ephemeral::Receipt(m.seq))
        }
        other => Err(unknown_type(other)),
    }
}

/// What is a number wherever it stands beside the keys of a shape.
const NUMBERS: [&str; 7] = ["line", "column", "start_line", "end_line", "x", "y", "zoom"];

/// `data` with all keys of one of the shapes, each of its type.
fn data(text: &str, shapes: &[&[&'static str]]) -> Result<Value, ErrorFrame> {
    let m: DataFields<Map<String, Value>> = fields(text)?;
    bounded("data", &m.data)?;
    let fits = |shape: &&[&str]| shape.iter().all(|key| m.data.contains_key(*key));
    if let Some(shape) = shapes.iter().find(|shape| fits(shape)) {
        for (key, value) in &m.data {
            let key = key.as_str();
            // `column` may be left out of what names a file, also by null.
            let counts = shape.contains(&key) || (key == "column" && !value.is_null());
            if counts && NUMBERS.contains(&key) && !value.is_number() {
                return Err(Invalid::new(format!("data.{key}"), "must be a number").into());
            }
            if counts && key == "file" && !value.is_string() {
                return Err(Invalid::new("data.file", "must be a string").into());
            }
        }
        return Ok(Value::Object(m.data));
    }
    let wanted: Vec<String> = shapes
        .iter()
        .map(|s| format!("{{{}}}", s.join(", ")))
        .collect();
    Err(Invalid::new("data", format!("must have {}", wanted.join(" or "))).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_data_has_its_type() {
        let refused = |kind, data: &str| {
            let refusal = ephemeral(kind, &format!(r#"{{"data":{data}}}"#));
            refusal.err().and_then(|error| error.field)
        };
        for (kind, data, field) in [
            ("cursor_update", r#"{"file":5,"line":1}"#, "data.file"),
            ("cursor_update", r#"{"file":"a","line":"x"}"#, "data.line"),
            (
                "cursor_update",
                r#"{"file":"a","line":1,"column":"x"}"#,
                "data.column",
            ),
            ("cursor_update", r#"{"x":null,"y":1}"#, "data.x"),
            ("cursor_update", r#"{"x":1,"y":[]}"#, "data.y"),
            (
                "viewport_update",
                r#"{"file":"a","start_line":1,"end_line":{}}"#,
                "data.end_line",
            ),
            (
                "viewport_update",
                r#"{"x":1,"y":2,"zoom":true}"#,
                "data.zoom",
            ),
        ] {
            assert_eq!(refused(kind, data).as_deref(), Some(field), "{data}");
        }
        for (kind, data) in [
            ("cursor_update", r#"{"file":"a","line":1}"#),
            ("cursor_update", r#"{"file":"a","line":1,"column":null}"#),
            ("cursor_update", r#"{"x":-1.5,"y":2e3,"tool":["pen"]}"#),
            ("viewport_update", r#"{"x":1,"y":2,"zoom":0.5}"#),
        ] {
            assert_eq!(refused(kind, data), None, "{data}");
        }
    }
}
