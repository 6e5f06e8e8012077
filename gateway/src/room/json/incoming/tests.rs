//! What messages are read as, and by which field they are refused.

use super::*;

fn refusal(text: &str) -> (String, String) {
    let error = parse(text, 1_000).unwrap_err();
    (error.code.into(), error.field.unwrap_or_default())
}

#[test]
fn bad_json_is_told_in_the_words_of_the_protocol() {
    for text in ["{", "", "nope", "nullx", "12 {}", "{\"type\":\"ping\"} x"] {
        let error = parse(text, 0).unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            ("bad_json", "Invalid JSON"),
            "{text}"
        );
    }
}

#[test]
fn a_message_is_an_object_with_each_field_once() {
    for text in [
        "null",
        "[\"ping\",null,null]",
        "{\"type\":\"ping\",\"type\":\"join\"}",
    ] {
        let error = parse(text, 0).unwrap_err();
        assert_eq!(error.code, "invalid", "{text}");
    }
    assert!(parse(" \n{\"type\":\"ping\"}", 0).is_ok());
}

#[test]
fn refusals_name_the_field() {
    let pair = |code: &str, field: &str| (code.to_owned(), field.to_owned());
    assert_eq!(refusal("[1]"), pair("invalid", ""));
    assert_eq!(refusal("{}"), pair("invalid", "type"));
    assert_eq!(refusal(r#"{"type":"nope"}"#), pair("unknown_type", "type"));
    assert_eq!(
        refusal(r#"{"type":"chat_message"}"#),
        pair("invalid", "content")
    );
    assert_eq!(
        refusal(r#"{"type":"chat_message","content":5}"#),
        pair("invalid", "content")
    );
    assert_eq!(
        refusal(r#"{"type":"chat_message","content":""}"#),
        pair("invalid", "content")
    );
    assert_eq!(
        refusal(r#"{"type":"code_comment","data":{"file":"a","content":"x"}}"#),
        pair("invalid", "data.line")
    );
    assert_eq!(
        refusal(r#"{"type":"presence_update","data":{"status":"x"}}"#),
        pair("invalid", "data.status")
    );
    assert_eq!(
        refusal(r#"{"type":"cursor_update","data":{"x":1}}"#),
        pair("invalid", "data")
    );
    assert_eq!(
        refusal(r#"{"type":"join","name":"a\u202eb"}"#),
        pair("invalid", "name")
    );
    assert_eq!(
        refusal(r#"{"type":"chat_edit","message_id":"x","content":"y"}"#),
        pair("invalid", "message_id")
    );
    let id = MessageId::generate();
    let reaction = |emoji: &str, action: &str| {
        let data = serde_json::json!({"message_id": id, "emoji": emoji, "action": action});
        refusal(&serde_json::json!({"type": "reaction", "data": data}).to_string())
    };
    assert_eq!(reaction("no", "add"), pair("invalid", "data.emoji"));
    assert_eq!(reaction("👍", "toggle"), pair("invalid", "data.action"));
    assert_eq!(
        refusal(r#"{"type":"run","language":"cobol","source":"1"}"#),
        pair("invalid", "language")
    );
    assert_eq!(
        refusal(r#"{"type":"run","language":"python"}"#),
        pair("invalid", "source")
    );
    assert_eq!(
        refusal(r#"{"type":"set_role","user_id":"x","role":"host"}"#),
        pair("invalid", "user_id")
    );
    assert_eq!(
        refusal(r#"{"type":"ping","ref":5}"#),
        pair("invalid", "ref")
    );
    assert_eq!(
        refusal(
            r##"{"type":"draw","paths":[{"id":"s","width":1,"color":"#fff","points":[1,"x"],"ts":1}]}"##
        ),
        pair("invalid", "paths[0].points[1]")
    );
    for (text, field) in [
        (
            r#"{"type":"chat_message","content":"a","content":"b"}"#,
            "content",
        ),
        (r#"{"type":"ping","ref":"a","ref":"b"}"#, "ref"),
        (
            r#"{"type":"code_comment","data":{"file":"a","file":"b","line":1,"content":"x"}}"#,
            "data.file",
        ),
        (
            r#"{"type":"code_comment","data":["a.py",1,"c",null,null]}"#,
            "data",
        ),
        (
            r##"{"type":"draw","paths":[["p1",1,"red",[0,0,1,1],1]]}"##,
            "paths[0]",
        ),
        (r#"{"type":"draw","erase":[["p1",2]]}"#, "erase[0]"),
        (
            r#"{"type":"run","language":"python","files":[["main.py","1",null]]}"#,
            "files[0]",
        ),
        (r#"{"type":"chat_message","content":"\ud800"}"#, "content"),
    ] {
        assert_eq!(refusal(text), pair("invalid", field), "{text}");
    }
}

#[test]
fn an_error_repeats_the_ref() {
    let error = parse(r#"{"type":"chat_message","ref":"r1"}"#, 0).unwrap_err();
    assert_eq!(error.reference.unwrap().as_str(), "r1");
}

#[test]
fn a_chat_message_finds_its_mentions() {
    let Ok(Request::Durable(message)) = parse(r#"{"type":"chat_message","content":"hi @Ana"}"#, 0)
    else {
        panic!("not durable")
    };
    assert!(matches!(message.body, Body::ChatMessage { mentions, .. } if mentions == ["Ana"]));
}
