//! Drawings: exported, imported, large, and the same on every pod.

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    Address, Answer, Client, Cluster, Options, PATIENCE, Person, Rest, Stories, Story, Told,
};

/// What common WebSocket clients take at once.
const CLIENT_FRAME_MAX: usize = 1 << 20;

pub fn stories(all: &mut Stories) {
    all.both(a_guest_with_an_invitation_draws_on_a_whiteboard_that_nobody_else_finds);
    all.both(an_exported_drawing_makes_the_same_board_again);
    all.both(what_others_drew_becomes_strokes);
    all.both(a_file_that_is_more_than_a_drawing_makes_no_room);
    all.both(an_export_needs_the_right_to_enter);
    all.both(fifty_thousand_strokes_come_whole_and_hold_nobody_up);
    all.both(an_imported_order_is_the_order_that_everybody_draws_in);
}

pub async fn import(
    rest: &Rest,
    query: &str,
    file: impl Into<reqwest::Body>,
) -> anyhow::Result<Answer> {
    let path = format!("/api/v1/rooms?{query}");
    let request = rest.request(Method::POST, &path).body(file);
    Answer::of(request.send().await?).await
}

/// All paths of the `board` frames that a newcomer gets, in order.
pub async fn board_of(client: &Client) -> anyhow::Result<Vec<Value>> {
    let mut paths = Vec::new();
    loop {
        let frame = client.expect("board").await?;
        ensure!(
            frame.to_string().len() < CLIENT_FRAME_MAX,
            "a board frame is larger than clients take"
        );
        paths.extend(
            frame["paths"]
                .as_array()
                .context("board.paths")?
                .iter()
                .cloned(),
        );
        if frame["part"] == frame["parts"] {
            return Ok(paths);
        }
    }
}

async fn enter(cluster: &Cluster, room: &str, person: &Person) -> anyhow::Result<Client> {
    cluster
        .door(Address::Rooms, room)
        .person(person)
        .enter()
        .await
}

fn line(id: &str, ts: i64) -> Value {
    json!({"id": id, "width": 2.5, "color": "#1a2B3c", "points": [0, 0.1, 10, -3.25], "ts": ts})
}

async fn a_guest_with_an_invitation_draws_on_a_whiteboard_that_nobody_else_finds(
    story: Story,
) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let (ana, ben) = (rest.guest("Ana").await?, rest.guest("Ben").await?);
    let (as_ana, as_ben) = (rest.as_person(&ana), rest.as_person(&ben));
    let room = as_ana.make_room(json!({"kind": "whiteboard"})).await?;
    let door = cluster.door(Address::Rooms, &room);
    door.clone().person(&ben).refused(403, "forbidden").await?;
    door.refused(401, "unauthenticated").await?;
    let invites = format!("/api/v1/rooms/{room}/invites");
    let invite = as_ana
        .post(&invites, json!({"role": "editor"}))
        .await?
        .expect(201)?;
    let code = invite["code"].as_str().context("code")?;
    let accept = format!("/api/v1/invites/{code}/accept");
    let accepted = as_ben.post(&accept, json!({})).await?;
    ensure!(accepted.status < 300, "{}", accepted.text);

    let host = enter(&cluster, &room, &ana).await?;
    let door = cluster
        .door(Address::Rooms, &room)
        .at(cluster.there().address())
        .person(&ben);
    let guest = door.enter().await?;
    guest.saw_no("board")?;
    let path = |width: u32, ts: i64| json!({"id": "s", "width": width, "color": "#000", "points": [0, 0, 5, 5], "ts": ts});
    let first = guest
        .log(json!({"type": "draw", "paths": [path(2, 10)]}))
        .await?;
    let seen = host.expect("draw").await?;
    ensure!(
        seen["seq"] == first
            && seen["from"] == guest.client_id.as_str()
            && seen["paths"][0] == path(2, 10),
        "{seen}"
    );
    // The last write wins, whoever's comes last; an erase of what nobody drew yet is one as well.
    host.log(
        json!({"type": "draw", "paths": [path(9, 9)], "erase": [{"id": "unknown", "ts": 50}]}),
    )
    .await?;
    guest
        .log(json!({"type": "draw", "paths": [line("unknown", 49)]}))
        .await?;
    let ahead = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let ahead = i64::try_from(ahead.as_millis())? + 60_000;
    guest
        .send(json!({"type": "draw", "paths": [path(3, ahead)]}))
        .await?;
    let error = guest.expect("error").await?;
    ensure!(
        error["field"].as_str().is_some_and(|f| f.contains("ts")),
        "{error}"
    );
    // Not what the kind allows.
    guest
        .send(json!({"type": "chat_message", "content": "hello"}))
        .await?;
    ensure!(
        guest.expect("error").await?["code"] == "not_allowed",
        "a whiteboard has no chat"
    );
    let back = door.enter().await?;
    let board = board_of(&back).await?;
    ensure!(board == [path(2, 10)], "{board:?}");
    host.log(json!({"type": "draw", "clear": true, "paths": [line("after", 1)]}))
        .await?;
    let back = enter(&cluster, &room, &ana).await?;
    let board = board_of(&back).await?;
    ensure!(board == [line("after", 1)], "{board:?}");
    Ok(())
}

async fn an_exported_drawing_makes_the_same_board_again(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&ana);
    let room = rest
        .make_room(json!({"name": "Plan: \"A\"", "kind": "whiteboard"}))
        .await?;
    let client = enter(&cluster, &room, &ana).await?;
    let dot = json!({"id": "z<dot>", "width": 8, "color": "#ABC", "points": [5, 5], "ts": 3});
    let faint = json!({"id": "faint", "width": 1, "color": "#11223380", "points": [1.0e-9, 2, 3, 1.0e15], "ts": 4});
    client
        .log(json!({"type": "draw", "paths": [line("b", 2), dot, line("gone", 1)]}))
        .await?;
    client
        .log(json!({"type": "draw", "paths": [faint, line("a", 2)], "erase": [{"id": "gone", "ts": 2}]}))
        .await?;
    // An older write loses.
    client
        .log(json!({"type": "draw", "paths": [line("z<dot>", 2)]}))
        .await?;
    let again = enter(&cluster, &room, &ana).await?;
    let drawn = board_of(&again).await?;
    let ids: Vec<_> = drawn.iter().map(|path| path["id"].as_str()).collect();
    ensure!(
        ids == [Some("b"), Some("z<dot>"), Some("faint"), Some("a")],
        "the board is {ids:?}"
    );
    let other_pod = Rest::at(cluster.there()).as_person(&ana);
    for (format, content_type) in [("svg", "image/svg+xml"), ("json", "application/json")] {
        let export = other_pod
            .get(&format!("/api/v1/rooms/{room}/export.{format}"))
            .await?;
        ensure!(export.status == 200, "{}", export.text);
        let header = |name: &str| export.headers.get(name).and_then(|v| v.to_str().ok());
        ensure!(
            header("content-type") == Some(content_type),
            "{:?}",
            export.headers
        );
        ensure!(
            header("content-disposition").is_some_and(
                |v| v.starts_with(&format!("attachment; filename=\"Plan_ _A_.{format}\""))
            ),
            "{:?}",
            export.headers
        );
        ensure!(
            header("content-security-policy").is_some_and(|v| v.contains("sandbox")),
            "{:?}",
            export.headers
        );
        let query = format!("import={format}&name=Copy&kind=whiteboard");
        let copy = import(&rest, &query, export.text).await?.expect(201)?;
        ensure!(
            copy["name"] == "Copy" && copy["kind"] == "whiteboard" && copy["role"] == "host",
            "{copy}"
        );
        ensure!(copy["imported"]["strokes"] == 4, "{copy}");
        let id = copy["id"].as_str().context("id")?;
        let copied = board_of(&enter(&cluster, id, &ana).await?).await?;
        ensure!(copied == drawn, "{format}: {copied:?} instead of {drawn:?}");
    }
    Ok(())
}

async fn what_others_drew_becomes_strokes(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&ana);
    let file = r##"<?xml version="1.0"?>
        <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100" width="200" height="200">
          <defs><linearGradient id="g"/></defs>
          <g transform="translate(10 0)" stroke="teal" fill="none">
            <line x1="0" y1="0" x2="10" y2="5" stroke-width="3"/>
            <g transform="scale(2)"><polygon points="0,0 1,0 1,1" style="stroke: rgb(255 0 0 / 50%)"/></g>
          </g>
          <rect width="4" height="2" fill="hsl(120 100% 25%)"/>
          <text>words</text>
        </svg>"##;
    let made = import(&rest, "import=svg&kind=whiteboard", file)
        .await?
        .expect(201)?;
    ensure!(
        made["imported"] == json!({"strokes": 3, "outlined": 1, "left_out": {"text": 1}}),
        "{made}"
    );
    let room = made["id"].as_str().context("id")?;
    let strokes = board_of(&enter(&cluster, room, &ana).await?).await?;
    let seen: Vec<_> = strokes
        .iter()
        .map(|s| json!([s["width"], s["color"], s["points"]]))
        .collect();
    let expected = [
        json!([6, "#008080", [20, 0, 40, 10]]),
        json!([4, "#ff000080", [20, 0, 24, 0, 24, 4, 20, 0]]),
        json!([2, "#008000", [0, 0, 8, 0, 8, 4, 0, 4, 0, 0]]),
    ];
    ensure!(seen == expected, "{seen:?}");
    Ok(())
}

async fn a_file_that_is_more_than_a_drawing_makes_no_room(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&ana);
    let svg = |inside: &str| format!("<svg xmlns='http://www.w3.org/2000/svg'>{inside}</svg>");
    let path = |data: &str| svg(&format!("<path stroke='red' d='{data}'/>"));
    let bad_path = json!({"paths": [line("a", 1), {"id": "b", "width": 0, "color": "#000", "points": [0, 0], "ts": 1}]});
    for (format, file, field, words) in [
        (
            "svg",
            svg("<script>alert(1)</script>"),
            "script",
            "scripts are refused",
        ),
        ("svg", svg("<rect onload='alert(1)'/>"), "rect", "onload"),
        (
            "svg",
            svg("<image href='https://example.org/a.png'/>"),
            "image",
            "refused",
        ),
        (
            "svg",
            svg("<a href='https://example.org'/>"),
            "a",
            "external",
        ),
        (
            "svg",
            svg("<rect fill='url(//example.org/#a)'/>"),
            "rect",
            "external",
        ),
        ("svg", svg("<foreignObject/>"), "foreignObject", "refused"),
        (
            "svg",
            "<!DOCTYPE svg [<!ENTITY a 'a'><!ENTITY b '&a;&a;'>]><svg>&b;</svg>".to_owned(),
            "!DOCTYPE",
            "entities",
        ),
        ("svg", svg(&"<g>".repeat(1_000)), "g", "nested deeper"),
        ("svg", svg(&"<g/>".repeat(250_000)), "g", "elements"),
        (
            "svg",
            path(&format!("M0 0{}", "h1".repeat(150_000))),
            "path",
            "points",
        ),
        (
            "svg",
            svg("<g\n><circle r='x'/></g>"),
            "circle",
            "line 2, column 2",
        ),
        ("svg", "no markup".to_owned(), "svg", "XML"),
        ("json", "{".to_owned(), "body", "EOF"),
        ("json", bad_path.to_string(), "paths[1].width", "above 0"),
    ] {
        let query = format!("import={format}&name=Never");
        let answer = import(&rest, &query, file).await?;
        let problem = answer.problem(422, "invalid")?;
        let detail = problem["detail"].as_str().unwrap_or_default();
        ensure!(
            problem["field"] == field && detail.contains(words),
            "expected {field} and {words:?}: {problem}"
        );
    }
    let too_large = vec![b' '; (32 << 20) + 1];
    import(&rest, "import=svg", too_large)
        .await?
        .problem(413, "too-large")?;
    import(&rest, "import=svg&kind=session", svg(""))
        .await?
        .problem(422, "invalid")?;
    import(&rest, "import=png", svg(""))
        .await?
        .problem(422, "invalid")?;
    import(&cluster.rest(), "import=svg", svg(""))
        .await?
        .problem(401, "unauthenticated")?;
    let rooms = rest.get("/api/v1/rooms?limit=200").await?.expect(200)?;
    let mine = rooms["items"].as_array().context("items")?;
    ensure!(
        mine.iter().all(|room| room["name"] != "Never"),
        "a refused file left a room"
    );
    Ok(())
}

async fn an_export_needs_the_right_to_enter(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let (ana, ben) = (rest.guest("Ana").await?, rest.guest("Ben").await?);
    let room = rest
        .as_person(&ana)
        .make_room(json!({"kind": "whiteboard"}))
        .await?;
    let listed = rest.get("/api/v1/rooms?limit=200").await?.text;
    ensure!(!listed.contains(&room), "a whiteboard is not listed");
    for format in ["svg", "json"] {
        let path = format!("/api/v1/rooms/{room}/export.{format}");
        rest.get(&path).await?.problem(401, "unauthenticated")?;
        rest.as_person(&ben)
            .get(&path)
            .await?
            .problem(403, "forbidden")?;
        let empty = rest.as_person(&ana).get(&path).await?;
        ensure!(empty.status == 200, "{}", empty.text);
        rest.get(&format!("/api/v1/rooms/nowhere-at-all/export.{format}"))
            .await?
            .problem(404, "not-found")?;
    }
    Ok(())
}

async fn fifty_thousand_strokes_come_whole_and_hold_nobody_up(story: Story) -> Told {
    const STROKES: usize = 50_000;
    // Of its own: those who share one tell in seconds who is alive, and a debug build takes its time over these.
    let cluster = story.cluster(Options::default()).await?;
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&ana);
    let paths: Vec<Value> = (0..STROKES)
        .map(|n| json!({"id": format!("s{n}"), "width": 2, "color": "#123456", "points": [n, 0, n, 1.5, n, 3], "ts": n}))
        .collect();
    let file = json!({"paths": paths}).to_string();
    let made = import(&rest, "import=json&kind=whiteboard", file)
        .await?
        .expect(201)?;
    let large = made["id"].as_str().context("id")?.to_owned();
    let quiet = rest.make_room(json!({"kind": "open"})).await?;
    let (talker, hearer) = (
        enter(&cluster, &quiet, &ana).await?,
        cluster
            .door(Address::Rooms, &quiet)
            .at(cluster.there().address())
            .enter()
            .await?,
    );
    let loading = async {
        let joiners = (0..4).map(|_| async {
            let client = enter(&cluster, &large, &ana).await?;
            board_of(&client).await
        });
        futures::future::try_join_all(joiners).await
    };
    let talking = async {
        for n in 0..20 {
            talker.chat(&format!("word {n}")).await?;
            hearer.expect("chat_message").await?;
        }
        anyhow::Ok(())
    };
    let (boards, ()) = tokio::try_join!(loading, talking)?;
    for board in boards {
        ensure!(board.len() == STROKES, "{} strokes came", board.len());
        let in_order = board.iter().enumerate().all(|(n, s)| s["ts"] == n);
        ensure!(in_order, "the strokes are not in drawing order");
    }
    // And it stays usable.
    let drawer = enter(&cluster, &large, &ana).await?;
    drawer
        .log(json!({"type": "draw", "paths": [line("one more", 1)]}))
        .await?;
    let export = rest
        .get(&format!("/api/v1/rooms/{large}/export.svg"))
        .await?;
    ensure!(
        export.text.matches("<path ").count() == STROKES + 1,
        "the export lacks strokes"
    );
    Ok(())
}

/// Draws of one window travel as one frame for each author; who was there and who comes later see the same.
async fn an_imported_order_is_the_order_that_everybody_draws_in(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&ana);
    let file = json!({"paths": [line("z", 1), line("y", 1), line("x", 1)]}).to_string();
    let made = import(&rest, "import=json&kind=whiteboard", file)
        .await?
        .expect(201)?;
    let room = made["id"].as_str().context("id")?;
    let here = enter(&cluster, room, &ana).await?;
    let there = cluster
        .door(Address::Rooms, room)
        .at(cluster.there().address())
        .person(&ana)
        .enter()
        .await?;
    let begun = board_of(&there).await?;
    for n in 0..5 {
        here.send(json!({"type": "draw", "paths": [line(&format!("n{n}"), 2), line(&format!("m{n}"), 2)]}))
            .await?;
    }
    let last = here
        .log(json!({"type": "draw", "paths": [line("last", 2)]}))
        .await?;
    there
        .until("the last draw", PATIENCE, |frames| {
            frames
                .iter()
                .any(|m| m["type"] == "draw" && m["seq"].as_u64() >= Some(last))
        })
        .await?;
    let mut seen: Vec<Value> = begun;
    for frame in there.frames().iter().filter(|m| m["type"] == "draw") {
        seen.extend(frame["paths"].as_array().context("paths")?.iter().cloned());
    }
    let late = board_of(&enter(&cluster, room, &ana).await?).await?;
    let ids = |paths: &[Value]| paths.iter().map(|p| p["id"].clone()).collect::<Vec<_>>();
    ensure!(
        ids(&seen) == ids(&late),
        "{:?} and {:?}",
        ids(&seen),
        ids(&late)
    );
    ensure!(
        ids(&late)[..3] == [json!("z"), json!("y"), json!("x")],
        "{:?}",
        ids(&late)
    );
    Ok(())
}
