//! What reaches a room from outside, struck at: frames, JSON, the binary dialects, documents and drawings. Everything is
//! taken or refused, and what is taken can be kept: it survives the log's encoding, the fold and the merge.

use atelier_shared::domain::document::{self, Document, Outline};
use atelier_shared::domain::{drawing, names, svg};
use bytes::Bytes;
use yrs::{Array as _, Doc, Map as _, ReadTxn, StateVector, Text as _, Transact, XmlFragment as _};

use super::json::incoming::{self, Request};
use super::websocket::{Message as Frame, Reader, Violation};
use super::yjs::{awareness, hocuspocus, message};
use crate::fuzz::{strike, texts};

const NOW_MS: i64 = 1_800_000_000_000;

#[test]
fn json_frames_are_taken_or_refused() {
    let samples = texts(&[
        r##"{"type":"join","name":"Ana","color":"#3B82F6","avatar_url":"https://example.com/a.png"}"##,
        r#"{"type":"resume","epoch":1,"seq":5}"#,
        r#"{"type":"ping","timestamp":123.5}"#,
        r#"{"type":"auth","token":"a.b.c"}"#,
        r#"{"type":"cursor","position":5,"name":"Ana","color":"red"}"#,
        r#"{"type":"selection","selection":{"start":1,"end":4}}"#,
        r#"{"type":"cursor_update","data":{"x":1.5,"y":-2e3}}"#,
        r#"{"type":"viewport_update","data":{"file":"a.rs","start_line":1,"end_line":9}}"#,
        r#"{"type":"presence_update","data":{"status":"idle"}}"#,
        r#"{"type":"typing","data":{"on":true}}"#,
        r#"{"type":"receipt","seq":7}"#,
        r#"{"type":"sync_request"}"#,
        r#"{"type":"update","data":"0000","ref":"u"}"#,
        r#"{"type":"chat_message","content":"hi @Ana `@Ben` é","reply_to":"0190d3c8-0000-7000-8000-000000000000","ref":"r"}"#,
        r#"{"type":"direct_message","to":"0190d3c8-0000-7000-8000-000000000000","content":"psst"}"#,
        r#"{"type":"chat_edit","message_id":"0190d3c8-0000-7000-8000-000000000000","content":"x"}"#,
        r#"{"type":"chat_delete","message_id":"0190d3c8-0000-7000-8000-000000000000"}"#,
        r#"{"type":"code_comment","data":{"file":"a.rs","line":3,"content":"why?","code_snippet":"x"}}"#,
        r#"{"type":"reaction","data":{"message_id":"0190d3c8-0000-7000-8000-000000000000","emoji":"👍🏽","action":"add"}}"#,
        r##"{"type":"draw","paths":[{"id":"p","width":2.5,"color":"#ff0000","points":[0,0.1,1e300,5e-324],"ts":1}],"erase":[{"id":"q","ts":-1}],"clear":true,"ref":"d"}"##,
        r#"{"type":"session_update","data":{"a":[1,{"b":null}]}}"#,
        r#"{"type":"set_role","user_id":"0190d3c8-0000-7000-8000-000000000000","role":"viewer"}"#,
        r#"{"type":"kick","user_id":"0190d3c8-0000-7000-8000-000000000000"}"#,
        r#"{"type":"run","language":"python","files":[{"path":"main.py","content":"cHJpbnQ=","encoding":"base64"}],"stdin":"x"}"#,
    ]);
    strike(&samples, |input| {
        let Ok(text) = std::str::from_utf8(input) else {
            return;
        };
        match incoming::parse(text, NOW_MS) {
            Ok(Request::Durable(message)) => {
                let kept = serde_json::to_string(&message.body).expect("it can be kept");
                let read = serde_json::from_str(&kept);
                assert_eq!(read.ok().as_ref(), Some(&message.body), "{kept}");
            }
            Ok(_) => {}
            Err(error) => assert!(!error.message.is_empty() && error.bytes().len() < 4_096),
        }
    });
}

fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![opcode];
    match payload.len() {
        n @ 0..=125 => out.push(0x80 | n as u8),
        n => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
    out
}

#[test]
fn websocket_frames_are_the_same_however_they_are_cut() {
    let samples = [
        frame(0x81, "grüße".as_bytes()),
        [frame(0x01, b"ab"), frame(0x89, b"mid"), frame(0x80, b"cd")].concat(),
        frame(0x82, &[7; 300]),
        frame(0x88, &1000_u16.to_be_bytes()),
        frame(0x8a, b"pong"),
    ];
    let read = |input: &[u8], piece: usize| -> (Vec<Frame>, Option<Violation>) {
        let (mut reader, mut messages) = (Reader::default(), Vec::new());
        for part in input.chunks(piece.max(1)) {
            if let Err(violation) = reader.feed(part, 4_096, &mut messages) {
                return (messages, Some(violation));
            }
        }
        (messages, None)
    };
    strike(&samples, |input| {
        let whole = read(input, input.len());
        for piece in [1, 3, 13] {
            assert_eq!(read(input, piece), whole, "in pieces of {piece}");
        }
    });
}

#[test]
fn messages_of_y_websocket_are_taken_or_refused() {
    let shown = [awareness::Entry {
        client: 7,
        clock: 3,
        state: Some(Bytes::from_static(br#"{"user":{"name":"Ana"}}"#)),
    }];
    let samples = [
        message::step_1(&[0]),
        message::step_1(&[1, 0xff, 0xff, 3, 9]),
        message::step_2(&document()),
        message::update(&document()),
        message::awareness(shown.iter()),
        vec![message::QUERY_AWARENESS],
    ];
    strike(&samples, |input| match message::parse(input) {
        Ok(message::Message::Awareness(entries)) => {
            assert!(entries.len() <= input.len());
            let told = message::awareness(entries.iter());
            assert_eq!(
                message::parse(&told),
                Ok(message::Message::Awareness(entries.clone())),
                "what is told on can be read"
            );
        }
        Ok(message::Message::Step1(vector)) => {
            let _ = document::read_state_vector(vector);
        }
        Ok(_) | Err(_) => {}
    });
}

#[test]
fn envelopes_of_hocuspocus_are_taken_or_refused() {
    let samples = [
        hocuspocus::wrap("document", &[2, 0, 3, b'j', b'w', b't']),
        hocuspocus::wrap("document\0session", &message::step_1(&[0])),
        hocuspocus::wrap("document", &message::update(&document())),
        hocuspocus::stateless("document", "hello"),
        hocuspocus::wrap("d", &[7]),
        vec![9],
    ];
    strike(&samples, |input| {
        if let Ok(hocuspocus::Frame::Of { key, .. }) = hocuspocus::parse(input) {
            assert!(!key.is_empty() && key.len() <= 256);
            let _ = hocuspocus::room_of(key);
        }
    });
}

/// A bit of everything that a document can hold.
fn document() -> Vec<u8> {
    let doc = Doc::with_client_id(5);
    let (text, map) = (doc.get_or_insert_text("t"), doc.get_or_insert_map("m"));
    let (list, xml) = (
        doc.get_or_insert_array("a"),
        doc.get_or_insert_xml_fragment("x"),
    );
    let mut t = doc.transact_mut();
    text.insert(&mut t, 0, "greetings");
    text.remove_range(&mut t, 1, 2);
    map.insert(&mut t, "k", 1.5);
    map.insert(&mut t, "k", "v");
    let inner = map.insert(&mut t, "n", yrs::MapPrelim::default());
    inner.insert(&mut t, "in", vec![1_u8, 2, 3]);
    list.insert_range(&mut t, 0, [1_i64, 2, 3]);
    list.remove(&mut t, 1);
    let paragraph = xml.insert(&mut t, 0, yrs::XmlElementPrelim::empty("p"));
    paragraph.insert(&mut t, 0, yrs::XmlTextPrelim::new("x"));
    t.encode_state_as_update_v1(&StateVector::default())
}

/// What passes the check never harms whoever reads it later: it is folded, told in parts, merged with others and compacted,
/// and loses nothing by it.
#[test]
fn updates_that_pass_can_be_kept_and_merged() {
    let doc = Doc::with_client_id(9);
    let text = doc.get_or_insert_text("t");
    let more = {
        let mut t = doc.transact_mut();
        text.insert(&mut t, 0, "more");
        t.encode_update_v1()
    };
    let samples = [document(), more.clone(), vec![0, 0]];
    strike(&samples, |input| {
        let update = Bytes::copy_from_slice(input);
        if document::check(&update).is_err() {
            // The log may hold what an older check let through: folding it must do no harm either.
            Document::default().fold(&update);
            return;
        }
        let mut kept = Document::default();
        kept.fold(&Bytes::from(more.clone()));
        if let Some(news) = kept.news(&update) {
            assert!(document::check(&news).is_ok(), "its news can be read");
            kept.fold(&news);
        }
        assert_eq!(kept.news(&update), None, "all of it is in");
        let held = kept.held();
        let state = kept.snapshot().state();
        let outline = Outline::read(&state).expect("the state can be read");
        assert!(held.covers(&outline));
        if document::compact(&mut kept) {
            assert!(kept.held().covers_all(&held), "nothing is lost");
        }
        let diff = kept.snapshot().diff(&kept.snapshot().state_vector());
        assert!(diff.is_ok_and(|diff| Outline::read(&diff).is_ok()));
    });
}

#[test]
fn drawings_from_outside_are_sound_or_refused() {
    let samples = texts(&[
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10" width="20" height="20"><g transform="translate(1 2) rotate(30) scale(2)"><path d="M0 0 L1 1 C1 2 3 4 5 6 Q1 1 2 2 A5 5 0 1 0 3 3 Z" stroke="#f00" stroke-width="2" fill="none"/></g></svg>"##,
        r##"<svg xmlns="http://www.w3.org/2000/svg"><rect x="1" y="1" width="5" height="4" rx="1" style="stroke:rgb(1,2,3);fill:none"/><circle cx="5" cy="5" r="2" stroke="hsl(120,50%,50%)"/><ellipse rx="3" ry="1"/><line x2="5"/><polyline points="0,0 1,1 2 0"/><polygon points="0 0 1 1 2 2"/></svg>"##,
        r#"<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>"#,
        r#"<!DOCTYPE svg [<!ENTITY a "aaaa">]><svg xmlns="http://www.w3.org/2000/svg"><text>&a;</text></svg>"#,
    ]);
    strike(&samples, |input| {
        let Ok(text) = std::str::from_utf8(input) else {
            return;
        };
        if let Ok(imported) = svg::import(text, NOW_MS) {
            for stroke in &imported.strokes {
                assert_eq!(stroke.check(NOW_MS), Ok(()));
            }
        }
    });
    let samples = texts(&[
        r##"{"type":"atelier.drawing","version":1,"seq":5,"paths":[{"id":"a","width":1.5,"color":"#000000","points":[0,1,2,3],"ts":5}]}"##,
        r#"{"paths":[]}"#,
    ]);
    strike(&samples, |input| {
        for stroke in drawing::from_json(input, NOW_MS).into_iter().flatten() {
            assert_eq!(stroke.check(NOW_MS), Ok(()));
        }
    });
}

#[test]
fn names_are_made_plain_or_refused() {
    let samples = texts(&[
        "Ana Müller",
        "李小龙",
        "👍🏽",
        "#3B82F6",
        "https://example.com/a.png",
        "User123",
    ]);
    strike(&samples, |input| {
        let text = &*String::from_utf8_lossy(input);
        if let Ok(name) = names::name("name", text) {
            assert_eq!(
                names::name("name", &name).ok().as_ref(),
                Some(&name),
                "once is enough"
            );
            assert!(!names::key(&name).is_empty());
        }
        let _ = (
            names::emoji("emoji", text),
            names::color("color", text),
            names::web_url("url", text),
            names::content("content", text),
            names::is_made_up(text),
        );
    });
}
