//! A drawing as a client folds it from `board` and `draw`: written from PROTOCOL.md alone, and shared with nothing that it
//! is compared to.

use std::collections::BTreeMap;

use serde_json::Value;

#[derive(Debug, Clone)]
struct Slot {
    ts: i64,
    by: String,
    /// `None`: erased.
    stroke: Option<Value>,
}

#[derive(Debug, Clone, Default)]
pub struct Board(BTreeMap<String, Slot>);

impl Board {
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// A `board` frame: what it shows is so.
    pub fn show(&mut self, frame: &Value) {
        for path in frame["paths"].as_array().into_iter().flatten() {
            let slot = Slot {
                ts: path["ts"].as_i64().unwrap_or(0),
                by: String::new(),
                stroke: Some(path.clone()),
            };
            self.0.insert(text(&path["id"]), slot);
        }
    }

    /// A `draw`, one's own or another's.
    pub fn draw(&mut self, draw: &Value, by: &str) {
        if draw["clear"] == true {
            self.0.clear();
        }
        for path in draw["paths"].as_array().into_iter().flatten() {
            self.write(path, by, Some(path.clone()));
        }
        for erase in draw["erase"].as_array().into_iter().flatten() {
            self.write(erase, by, None);
        }
    }

    fn write(&mut self, what: &Value, by: &str, stroke: Option<Value>) {
        let (id, ts) = (text(&what["id"]), what["ts"].as_i64().unwrap_or(0));
        let wins = |slot: &Slot| (ts, by) >= (slot.ts, slot.by.as_str());
        if self.0.get(&id).is_none_or(wins) {
            let by = by.to_owned();
            self.0.insert(id, Slot { ts, by, stroke });
        }
    }

    /// One of the ids that are known and everybody's to draw over, erased ones too, and when it was last written.
    pub fn pick(&self, number: u32) -> Option<(String, i64)> {
        let shared: Vec<_> = self.0.iter().filter(|(id, _)| id.ends_with('*')).collect();
        let at = number as usize % shared.len().max(1);
        let (id, slot) = shared.get(at)?;
        Some(((*id).clone(), slot.ts))
    }

    /// What is shown: color and points by id.
    pub fn shown(&self) -> BTreeMap<String, String> {
        let shown = self.0.iter().filter_map(|(id, slot)| {
            let stroke = slot.stroke.as_ref()?;
            let look = format!("{} {}", stroke["color"], stroke["points"]);
            Some((id.clone(), look))
        });
        shown.collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
