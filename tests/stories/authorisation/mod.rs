//! Who may do what: every cell of the tables in tests/authorisation is asked, and nothing that can be asked is without one.

mod cast;
mod messages;
mod scene;
mod table;

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use futures::{StreamExt, stream};

use crate::harness::{Answer, Person, Stories, Story, Told};
use cast::Cast;
use scene::Scene;
use table::Route;

/// Rows asked at once.
const AT_ONCE: usize = 6;
/// What is shown of the differences.
const SHOWN: usize = 60;

pub fn stories(all: &mut Stories) {
    all.both(every_route_answers_every_caller_as_the_table_says);
    all.both(messages::every_message_is_taken_from_whom_the_table_says);
}

async fn every_route_answers_every_caller_as_the_table_says(story: Story) -> Told {
    let routes = table::routes(&table::text("routes.txt")?)?;
    let (_cluster, cast) = Cast::of(&story).await?;
    let served = cast.here.get("/openapi.json").await?.expect(200)?;
    covers(&routes, &served)?;
    let rows = routes.iter().map(|route| row(&cast, route));
    let told: Vec<anyhow::Result<Vec<String>>> =
        stream::iter(rows).buffer_unordered(AT_ONCE).collect().await;
    let mut differences = Vec::new();
    for told in told {
        differences.extend(told?);
    }
    differences.sort();
    let count = differences.len();
    differences.truncate(SHOWN);
    ensure!(
        count == 0,
        "{count} answers differ from the table:\n{}",
        differences.join("\n")
    );
    Ok(())
}

/// Every operation of the OpenAPI document has a row; every row is one of its operations, or a page.
fn covers(routes: &[Route], document: &serde_json::Value) -> Told {
    let mut served = BTreeSet::new();
    for (path, item) in document["paths"].as_object().context("paths")? {
        for method in item.as_object().context("operations")?.keys() {
            served.insert((method.to_uppercase(), path.clone()));
        }
    }
    let asked: BTreeSet<(String, String)> = routes
        .iter()
        .map(|route| (route.method.replace("WS", "GET"), route.path.clone()))
        .collect();
    let missing: Vec<_> = served.difference(&asked).collect();
    ensure!(missing.is_empty(), "routes without a row: {missing:?}");
    let pages = [
        "/openapi.json",
        "/redoc",
        "/api/redoc",
        "/docs/",
        "/api/docs/",
    ];
    let unknown: Vec<_> = asked
        .difference(&served)
        .filter(|(_, path)| !pages.contains(&path.as_str()))
        .collect();
    ensure!(
        unknown.is_empty(),
        "rows that no route answers to: {unknown:?}"
    );
    Ok(())
}

/// Asks one row's cells: first those who are refused, all of the same things; then, of what they left untouched, the
/// first who may; then each other who may, of things of their own where the asking changes something.
async fn row(cast: &Cast, route: &Route) -> anyhow::Result<Vec<String>> {
    let mut differences = Vec::new();
    let mut shared = Scene::new(cast, route);
    let cells = || route.cells.iter().filter(|(_, cell)| cell != ".");
    let refused = cells().filter(|(_, cell)| cell != "+");
    let allowed = cells().filter(|(_, cell)| cell == "+");
    for (n, (caller, cell)) in refused.chain(allowed).enumerate() {
        let mut own = Scene::new(cast, route);
        let first_who_may = cell == "+" && n == cells().filter(|(_, cell)| cell != "+").count();
        let touches = cell == "+" && route.changes();
        let scene = if touches && !first_who_may {
            &mut own
        } else {
            &mut shared
        };
        let somebody = somebody(cast, route, caller).await?;
        let rest = match &somebody {
            Some(person) => cast.here.as_person(person),
            None => cast.rest(caller),
        };
        let wanted = route.wanted(cell)?;
        let told = format!("{} {} ({})", route.method, route.path, route.of.join(","));
        let answer = scene.ask(&rest, &route.path, caller).await;
        let answer = answer.with_context(|| format!("{told} as {caller}"))?;
        differences.extend(differs(&answer, &wanted, &format!("{told} as {caller}")));
        if let Some(short) = short_path(route).filter(|_| !touches) {
            let rest = match cast.token(caller) {
                Some(token) => cast.there.with_token(token),
                None => cast.there.clone(),
            };
            let answer = scene.ask(&rest, &short, caller).await?;
            let told = format!("{told} at {short} as {caller}");
            differences.extend(differs(&answer, &wanted, &told));
        }
    }
    Ok(differences)
}

/// Who is asked in the caller's place, because they are gone afterwards.
async fn somebody(cast: &Cast, route: &Route, caller: &str) -> anyhow::Result<Option<Person>> {
    if route.is("fresh") && ["guest", "stranger"].contains(&caller) {
        return cast.somebody(caller).await.map(Some);
    }
    Ok(None)
}

/// The same thing's path under `/api`; the list of rooms there is another list.
fn short_path(route: &Route) -> Option<String> {
    let rest = route.path.strip_prefix("/api/v1/")?;
    let other = rest.is_empty() || (rest == "rooms" && !route.changes());
    (!other).then(|| format!("/api/{rest}"))
}

fn differs(answer: &Answer, wanted: &[u16], told: &str) -> Option<String> {
    if !wanted.contains(&answer.status) {
        let text: String = answer.text.chars().take(160).collect();
        return Some(format!(
            "{told}: {wanted:?} stands there, {} came: {text}",
            answer.status
        ));
    }
    let kind = answer.headers.get("content-type");
    let kind = kind.and_then(|kind| kind.to_str().ok());
    let problem = kind == Some("application/problem+json");
    (answer.status >= 400 && !problem).then(|| format!("{told}: {kind:?} is no problem"))
}
