//! The table of messages: each is sent by each kind of sender, in a room where what it speaks about is there.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::cast::Cast;
use super::table::{self, Message};
use crate::harness::{Address, Client, Cluster, Story, Told, fresh};

pub async fn every_message_is_taken_from_whom_the_table_says(story: Story) -> Told {
    let messages = table::messages(&table::text("messages.txt")?)?;
    let (cluster, cast) = Cast::of(&story).await?;
    let (open, closed) = (
        cast.make_room("open").await?,
        cast.make_room("session").await?,
    );
    let door = |room: &str, who: &str| {
        let door = cluster.door(Address::Rooms, room);
        match cast.token(who) {
            Some(token) => door.header("authorization", format!("Bearer {token}")),
            None => door,
        }
    };
    let host = door(&open, "host").enter().await?;
    covers(&messages, &host).await?;
    let mut differences = Vec::new();
    for message in &messages {
        for (sender, cell) in &message.cells {
            let who = match *sender {
                "outsider" => "stranger",
                "anonymous" => "nobody",
                member => member,
            };
            if let Ok(status) = cell.parse::<u16>() {
                let address = cluster.door(Address::Rooms, &closed);
                let token = cast.token(who).context("an account")?;
                let address = address.header("authorization", format!("Bearer {token}"));
                address.refused(status, "forbidden").await?;
                continue;
            }
            let client = door(&open, who).enter().await?;
            let place = Place {
                cluster: &cluster,
                cast: &cast,
                room: &open,
                host: &host,
                client: &client,
                who,
            };
            let answer = place.send(message).await;
            let answer = answer.with_context(|| format!("{} from {sender}", message.kind))?;
            if answer.as_deref().unwrap_or("+") != cell {
                let told = format!("{} from {sender}: {cell} stands there", message.kind);
                differences.push(format!("{told}, {answer:?} came"));
            }
            client.close().await?;
        }
    }
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

/// Every type that the server names has a row, and every row is of a type that it names.
async fn covers(messages: &[Message], client: &Client) -> Told {
    client.send(json!({"type": "no such type"})).await?;
    let error = client.expect("error").await?;
    let text = error["message"].as_str().context("message")?;
    let (_, known) = text.split_once("known are ").context("the known types")?;
    let known: BTreeSet<&str> = known.split(", ").collect();
    let rows: BTreeSet<&str> = messages.iter().map(|row| row.kind.as_str()).collect();
    let differ: Vec<_> = known.symmetric_difference(&rows).collect();
    ensure!(
        differ.is_empty(),
        "types without a row, or rows without a type: {differ:?}"
    );
    Ok(())
}

/// Where one cell is tried.
struct Place<'a> {
    cluster: &'a Cluster,
    cast: &'a Cast,
    room: &'a str,
    host: &'a Client,
    client: &'a Client,
    who: &'a str,
}

impl Place<'_> {
    /// Sends it; the code of the error that came, if one did.
    async fn send(&self, message: &Message) -> anyhow::Result<Option<String>> {
        let mut fields = message.fields.clone();
        // Somebody to be spoken to, given a role or sent out: of this cell alone.
        let other = self.cast.somebody("guest").await?;
        let there = self.cluster.door(Address::Rooms, self.room).person(&other);
        let there = there.enter().await?;
        let own = ["chat_edit", "chat_delete"].contains(&message.kind.as_str());
        if fields.contains("{message}") {
            let says = if own && self.who != "viewer" {
                self.client
            } else {
                self.host
            };
            fields = fields.replace("{message}", &said(says).await?);
        }
        let token = self.cast.token(self.who).or(self.cast.token("host"));
        fields = fields
            .replace("{other}", &other.id)
            .replace("{token}", token.context("a token")?)
            .replace("{fresh}", &fresh("path"));
        let mut sent: Value = serde_json::from_str(&fields)?;
        let reference = fresh("ref");
        sent["type"] = message.kind.clone().into();
        sent["ref"] = reference.clone().into();
        let before = self.client.frames().len();
        self.client.send(sent).await?;
        if message.is_durable() {
            let settled = |frame: &Value| {
                frame["ref"] == reference.as_str()
                    && (frame["type"] == "ack" || frame["type"] == "error")
            };
            self.client.news_after(before, settled).await?;
        } else {
            // The room answers in the order it was asked: whatever comes of this comes behind that.
            let mark = fresh("ref");
            let chat = json!({"type": "chat_message", "content": "and then?", "ref": mark});
            self.client.send(chat).await?;
            let settled = |frame: &Value| frame["ref"] == mark.as_str();
            self.client.news_after(before, settled).await?;
        }
        drop(there);
        let frames = self.client.frames();
        let about = |m: &Value| m["ref"].is_null() || m["ref"] == reference.as_str();
        let mut frames = frames[before..].iter();
        let error = frames.find(|m| m["type"] == "error" && about(m));
        Ok(error.map(|error| error["code"].as_str().unwrap_or_default().to_owned()))
    }
}

/// A message of this client's, by its id.
async fn said(client: &Client) -> anyhow::Result<String> {
    let reference = fresh("ref");
    client
        .send(json!({"type": "chat_message", "content": "words", "ref": reference}))
        .await?;
    let ack = client
        .expect_where("ack", |m| m["ref"] == reference.as_str())
        .await?;
    Ok(ack["id"].as_str().context("an id")?.to_owned())
}
