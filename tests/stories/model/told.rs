//! What a member makes of each frame, and what must hold of it.

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::member::{Fate, Member};
use super::plan::Act;
use super::view::{Heard, heard_of};
use crate::harness::Told;

/// Answers that say: at another time.
const RETRY: [&str; 4] = [
    "unavailable",
    "overloaded",
    "archive_behind",
    "rate_limited",
];

impl Member {
    pub(super) fn take(&mut self, frame: &Value) -> Told {
        let number = |name: &str| frame[name].as_u64().with_context(|| name.to_owned());
        match frame["type"].as_str().context("type")? {
            "connected" => {
                let epoch = number("epoch")?;
                ensure!(epoch >= self.place.0, "the epoch falls");
                if epoch == self.place.0 {
                    self.watermark(number("archived_seq")?);
                }
            }
            "resumed" => {
                let from = number("from")?;
                ensure!(
                    self.resuming.take() == Some(from),
                    "resumed from elsewhere than asked"
                );
                self.view.forget_after(from);
                (self.place.1, self.last_seq) = (from, from);
                self.gap = false;
            }
            "reload" => {
                self.reload(number("epoch")?, number("seq")?)?;
                self.watermark(number("archived_seq")?);
            }
            "archived" => self.watermark(number("seq")?),
            "sync" => self.view.merge(frame)?,
            "board" => {
                if frame["part"] == 1 {
                    self.view.board.clear();
                }
                self.view.board.show(frame);
                self.shown = self.shown.max(number("seq")?);
            }
            "users" => {
                // The last of what a newcomer is shown.
                self.knows = true;
                self.view.listed(&frame["users"]);
            }
            "users_list" => self.view.listed(&frame["users"]),
            "user_joined" => self.view.joined(frame),
            "user_left" => {
                self.note(format_args!("sees {} leave", frame["userId"]));
                self.view.left(frame)?;
            }
            "ack" => self.ack(frame)?,
            "error" => self.error(frame)?,
            "notice" => {
                let code = frame["code"].as_str().unwrap_or_default();
                ensure!(
                    ["replaced", "draining", "too_slow"].contains(&code),
                    "sent away"
                );
            }
            "not JSON" => bail!("it is not JSON"),
            _ if frame["seq"].is_u64() && frame["ts"].is_i64() => self.entry(frame)?,
            _ => {}
        }
        Ok(())
    }

    /// The present state comes, and what was not archived is to be said again.
    fn reload(&mut self, epoch: u64, seq: u64) -> Told {
        if epoch == self.place.0 && std::mem::take(&mut self.asked_before_reload) {
            // The answer to a `resume` that crossed the first reload: the state again.
            self.note(format_args!("reload once more, at {epoch}.{seq}"));
            self.view.board.clear();
            (self.view.cleared, self.last_seq, self.shown) = (0, seq, seq);
            return Ok(());
        }
        ensure!(epoch > self.place.0, "a reload brings no new epoch");
        self.asked_before_reload = self.resuming.is_some();
        let safe = self.archived.min(self.place.1);
        self.note(format_args!(
            "reload from {:?} to {epoch}.{seq}, archived up to {}",
            self.place, self.archived
        ));
        for own in self.own.values_mut() {
            if let Fate::Logged { seq, .. } = own.fate {
                own.fate = if seq <= self.archived {
                    Fate::Archived(seq)
                } else {
                    Fate::Waiting
                };
            }
        }
        self.view.forget_after(safe);
        self.view.board.clear();
        self.view.cleared = 0;
        self.archived = 0;
        self.place = (epoch, safe);
        (self.last_seq, self.shown) = (seq, seq);
        self.resuming = None;
        (self.gap, self.asks) = (true, true);
        // Until it was shown what there is now.
        self.knows = false;
        Ok(())
    }

    fn watermark(&mut self, seq: u64) {
        self.archived = self.archived.max(seq);
        let (epoch, archived) = (self.place.0, self.archived);
        for own in self.own.values_mut() {
            if let Fate::Logged { epoch: at, seq } = own.fate
                && at == epoch
                && seq <= archived
            {
                own.fate = Fate::Archived(seq);
            }
        }
    }

    /// It is brought to `seq`.
    fn reach(&mut self, seq: u64) -> Told {
        ensure!(seq > self.last_seq, "seq does not rise: {}", self.last_seq);
        self.last_seq = seq;
        if !self.gap {
            self.place.1 = seq;
        }
        Ok(())
    }

    fn entry(&mut self, frame: &Value) -> Told {
        let seq = frame["seq"].as_u64().context("seq")?;
        let from = frame["from"].as_str().context("from")?.to_owned();
        self.reach(seq)?;
        match frame["type"].as_str().unwrap_or_default() {
            "draw" => self.view.draw(frame, &from, seq),
            "update" => self.view.merge(frame)?,
            _ => {
                let heard = heard_of(frame);
                if let ("chat_message", Some(id)) = (heard.kind.as_str(), frame["id"].as_str()) {
                    self.view.messages.insert(id.to_owned(), seq);
                }
                self.view.hear(seq, heard)?;
            }
        }
        if from == self.client_id {
            self.own_again(frame, seq);
        }
        Ok(())
    }

    /// Its own, as others get it: it had not heard that this was stored.
    fn own_again(&mut self, frame: &Value, seq: u64) {
        // (Of draws several may be joined: their acks are asked for again.)
        let token = heard_of(frame).token;
        let epoch = self.place.0;
        if let Some(own) = self.own.get_mut(&token)
            && matches!(own.fate, Fate::Waiting | Fate::Sent(_))
        {
            own.fate = Fate::Logged { epoch, seq };
            own.id = frame["id"].as_str().map(str::to_owned);
        }
        self.watermark(0);
    }

    fn ack(&mut self, ack: &Value) -> Told {
        ensure!(ack["durability"] == "logged", "durability");
        let seq = ack["seq"].as_u64().context("seq")?;
        let reference = ack["ref"].as_str().context("ref")?;
        let own = self
            .own
            .get_mut(reference)
            .context("it never used this ref")?;
        ensure!(own.sends > 0, "it never sent this");
        let (act, message) = (own.act, own.message.clone());
        let is_edit = matches!(act, Act::Type | Act::Cut);
        match own.fate {
            Fate::Refused => bail!("refused before, acknowledged now"),
            Fate::Logged { seq: first, .. } | Fate::Archived(first) => {
                // Of a document's update: where all of it is in.
                ensure!(first == seq || is_edit, "acknowledged as {first} before");
                return Ok(());
            }
            Fate::Waiting | Fate::Sent(_) => {}
        }
        let first_try = own.sends == 1;
        own.fate = Fate::Logged {
            epoch: self.place.0,
            seq,
        };
        own.id = ack["id"].as_str().map(str::to_owned);
        if let (Act::Chat, Some(id)) = (act, &own.id) {
            self.view.messages.insert(id.clone(), seq);
        }
        match act {
            Act::Type | Act::Cut => {}
            // The board that it was shown had it, or what became of it.
            Act::Draw | Act::Clear if seq <= self.shown => {}
            Act::Draw | Act::Clear => {
                // In a window draws of several are told one after another: an ack may stand behind a later seq.
                let late = seq <= self.last_seq;
                if !late {
                    self.reach(seq)?;
                }
                if !late || (act == Act::Draw && seq > self.view.cleared) {
                    let by = self.client_id.clone();
                    self.view.draw(&message, &by, seq);
                }
            }
            _ => {
                if seq > self.last_seq || first_try {
                    self.reach(seq)?;
                }
                if !self.view.heard.contains_key(&seq) {
                    let token = match act {
                        Act::Delete | Act::React => String::new(),
                        _ => reference.to_owned(),
                    };
                    let kind = kind_of(act).to_owned();
                    self.view.hear(seq, Heard { kind, token })?;
                }
            }
        }
        self.watermark(0);
        Ok(())
    }

    fn error(&mut self, error: &Value) -> Told {
        let code = error["code"].as_str().context("code")?;
        let Some(reference) = error["ref"].as_str() else {
            ensure!(RETRY.contains(&code), "a message without a ref was refused");
            return Ok(());
        };
        let own = self
            .own
            .get_mut(reference)
            .context("it never used this ref")?;
        if RETRY.contains(&code) {
            if matches!(own.fate, Fate::Sent(_)) {
                own.fate = Fate::Waiting;
            }
            return Ok(());
        }
        let speaks_of_another =
            matches!(own.act, Act::Edit | Act::Delete | Act::React | Act::Direct);
        ensure!(
            speaks_of_another && code == "not_found",
            "a sound message was refused"
        );
        ensure!(
            own.seq().is_none(),
            "stored as {:?}, and refused when it was sent again",
            own.fate
        );
        own.fate = Fate::Refused;
        let note = format!("{reference} refused: {code}");
        self.note(note);
        Ok(())
    }
}

/// The type under which others get it.
pub fn kind_of(act: Act) -> &'static str {
    match act {
        Act::Direct => "direct_message",
        Act::Edit => "chat_edited",
        Act::Delete => "chat_deleted",
        Act::React => "reaction_update",
        Act::Draw | Act::Clear => "draw",
        Act::Type | Act::Cut => "update",
        Act::Session => "session_update",
        _ => "chat_message",
    }
}
