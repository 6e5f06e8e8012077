//! Who sends slowly keeps nobody else waiting.

use std::time::Duration;

use axum::body::Bytes;
use futures::{StreamExt, stream};

use super::*;

const SVG: &str =
    r##"<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0L9 9" stroke="#000"/></svg>"##;

fn form(file: &str) -> String {
    format!(
        "--x\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.svg\"\r\n\r\n{file}\r\n--x--\r\n"
    )
}

/// What has come so far of a body that does not end.
fn endless(start: &str) -> Body {
    let start = Bytes::from(start.to_owned());
    let start = stream::iter([Ok::<_, std::io::Error>(start)]);
    Body::from_stream(start.chain(stream::pending()))
}

async fn with_others_under_way(path: &str, content_type: &str, half: &str, whole: &str) {
    let server = server(&["--request-timeout-s=20", "--upload-timeout-s=20"]).await;
    let tokens = server.guest("Ana").await;
    let request = |body: Body| {
        Request::post(path)
            .header("content-type", content_type)
            .header("authorization", format!("Bearer {}", access(&tokens)))
            .body(body)
            .unwrap()
    };
    let slow = (0..6).map(|_| server.send("192.0.2.1", request(endless(half))));
    let slow = futures::future::join_all(slow);
    let quick = async {
        // The others are further on than this one will be.
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        server
            .send("192.0.2.1", request(Body::from(whole.to_owned())))
            .await
    };
    tokio::select! {
        // Before the slow ones are out of time.
        biased;
        answer = quick => assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body),
        _ = slow => panic!("the slow ones were answered first"),
    }
}

#[tokio::test]
async fn drawings_are_imported_while_others_are_being_sent() {
    with_others_under_way("/api/v1/rooms?import=svg", "image/svg+xml", &SVG[..40], SVG).await;
}

#[tokio::test]
async fn svgs_are_uploaded_while_others_are_being_sent() {
    let content_type = "multipart/form-data; boundary=x";
    // So much that what it is is told before it has ended.
    let long = SVG.replace("><path", &format!("><!--{}--><path", "x".repeat(64 << 10)));
    let whole = form(&long);
    with_others_under_way("/upload", content_type, &whole[..32 << 10], &whole).await;
}

#[tokio::test]
async fn an_upload_with_a_key_has_as_long_as_one_without() {
    let server = server(&["--request-timeout-s=1"]).await;
    let tokens = server.guest("Ana").await;
    let whole = form(SVG);
    let (start, end) = whole.split_at(100);
    let pieces = [start.to_owned(), end.to_owned()].map(Bytes::from);
    let slowly = stream::iter(pieces).then(|piece| async {
        // Longer than any other request may take.
        tokio::time::sleep(Duration::from_millis(700)).await;
        Ok::<_, std::io::Error>(piece)
    });
    let request = Request::post("/upload")
        .header("content-type", "multipart/form-data; boundary=x")
        .header("authorization", format!("Bearer {}", access(&tokens)))
        .header("idempotency-key", "once")
        .body(Body::from_stream(slowly))
        .unwrap();
    let made = server.send("192.0.2.1", request).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
}
