//! What members write: each message with a token of its own, by which it is found again in the log.

use chrono::Utc;
use serde_json::{Value, json};

use super::member::{Fate, Member, Own};
use super::plan::{Act, Step};
use crate::harness::story::lock;

impl Member {
    pub(super) async fn write(&mut self, step: &Step) {
        let [a, b, c] = step.numbers;
        match step.act {
            Act::Chat => self.chat(),
            Act::Burst => (0..a % 40 + 5).for_each(|_| self.chat()),
            Act::ChatOnce => {
                let token = self.token();
                self.note(format_args!("says once {token}"));
                self.once.push(token.clone());
                self.say(json!({"type": "chat_message", "content": token}))
                    .await;
            }
            Act::Direct => {
                let to = pick(lock(&self.people).values(), a).cloned();
                if let Some(to) = to.filter(|to| *to != self.user_id) {
                    let token = self.token();
                    let message = json!({"type": "direct_message", "to": to, "content": token});
                    self.own(token, Act::Direct, message);
                }
            }
            Act::Edit => {
                if let Some(id) = self.own_message(a) {
                    let token = self.token();
                    let message = json!({"type": "chat_edit", "message_id": id, "content": token});
                    self.own(token, Act::Edit, message);
                }
            }
            Act::Delete => {
                if let Some(id) = self.own_message(a) {
                    let token = self.token();
                    self.own(
                        token,
                        Act::Delete,
                        json!({"type": "chat_delete", "message_id": id}),
                    );
                }
            }
            Act::React => {
                if let Some(id) = pick(self.view.messages.keys(), a).cloned() {
                    let emoji = ["👍", "🎉"][b as usize % 2];
                    let action = if c % 4 == 0 { "remove" } else { "add" };
                    let data = json!({"message_id": id, "emoji": emoji, "action": action});
                    let token = self.token();
                    self.own(token, Act::React, json!({"type": "reaction", "data": data}));
                }
            }
            Act::Draw => self.draw(step.numbers),
            Act::Clear => {
                let token = self.token();
                let ts = Utc::now().timestamp_millis() / 16 * 16 + self.index;
                let stroke = json!({"id": token, "width": 1, "color": "#112233", "points": [1, 2], "ts": ts});
                let message = json!({"type": "draw", "paths": [stroke], "clear": true});
                self.own(token, Act::Clear, message);
            }
            Act::Type => {
                let token = self.token();
                let update = self.view.type_at(a, &format!("[{token}]"));
                let message = json!({"type": "update", "data": hex::encode(update)});
                self.own(token, Act::Type, message);
            }
            Act::Cut => {
                if let Some(update) = self.view.cut(a, b) {
                    let token = self.token();
                    let message = json!({"type": "update", "data": hex::encode(update)});
                    self.own(token, Act::Cut, message);
                }
            }
            Act::Session => {
                let token = self.token();
                let data = json!({format!("k{}", a % 4): token});
                self.own(
                    token,
                    Act::Session,
                    json!({"type": "session_update", "data": data}),
                );
            }
            Act::Again => {
                let sent = self
                    .own
                    .iter_mut()
                    .filter(|(_, own)| own.fate != Fate::Refused && own.sends > 0);
                if let Some((reference, own)) = pick(sent, a) {
                    own.sends += 1;
                    let (note, message) = (format!("again {reference}"), own.message.clone());
                    self.note(note);
                    self.say(message).await;
                }
            }
            // Not written: see `Member::move_or_write`.
            _ => {}
        }
    }

    fn token(&mut self) -> String {
        self.counter += 1;
        format!("{}~{}", self.name, self.counter)
    }

    fn own(&mut self, token: String, act: Act, mut message: Value) {
        message["ref"] = token.as_str().into();
        let text: String = message.to_string().chars().take(220).collect();
        self.note(format_args!("writes {text}"));
        let own = Own {
            act,
            message,
            fate: Fate::Waiting,
            sends: 0,
            id: None,
        };
        self.own.insert(token, own);
    }

    pub(super) fn chat(&mut self) {
        let token = self.token();
        let message = json!({"type": "chat_message", "content": token});
        self.own(token, Act::Chat, message);
    }

    /// A message of its own that is in the log.
    fn own_message(&self, number: u32) -> Option<String> {
        let mine = self.own.values().filter(|own| own.seq().is_some());
        let mine: Vec<&String> = mine.filter_map(|own| own.id.as_ref()).collect();
        pick(mine.into_iter(), number).cloned()
    }

    /// Two new strokes, of which one stays as it is, and known ones drawn over or erased. No two members ever write at the same `ts`; one that must lose is
    /// only given to what is known to be newer.
    fn draw(&mut self, numbers: [u32; 3]) {
        let [a, b, c] = numbers;
        let token = self.token();
        let now = Utc::now().timestamp_millis() / 16 * 16 + self.index;
        let points = json!([a % 500, b % 500, c % 500, self.counter]);
        let stroke = |id: &str, ts: i64| json!({"id": id, "width": 2, "color": "#112233", "points": points, "ts": ts});
        let mut paths = vec![stroke(&token, now), stroke(&format!("{token}*"), now)];
        let mut erase = Vec::new();
        for number in [a, b] {
            let Some((id, known)) = self.view.board.pick(number) else {
                continue;
            };
            let older = number % 5 == 0;
            let later = now.max((known / 16 + 1) * 16 + self.index);
            let ts = if older {
                (known / 16 - 1) * 16 + self.index
            } else {
                later
            };
            // Not beyond what a server takes for a clock.
            let ts = ts.min(now + 1_600);
            if number % 3 == 0 {
                erase.push(json!({"id": id, "ts": ts}));
            } else {
                paths.push(stroke(&id, ts));
            }
        }
        let message = json!({"type": "draw", "paths": paths, "erase": erase});
        self.own(token, Act::Draw, message);
    }
}

/// One of these, by a number that may be larger than there are.
fn pick<T>(mut some: impl Iterator<Item = T>, number: u32) -> Option<T> {
    let all: Vec<T> = some.by_ref().collect();
    let at = number as usize % all.len().max(1);
    all.into_iter().nth(at)
}
