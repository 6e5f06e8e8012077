//! Insights: read back, changed, searched, voted for once by each, and seen by those they are for.

use atelier_shared::Mode;
use atelier_shared::domain::ids::{InsightId, PlaceId, UserId};
use atelier_shared::domain::insight::{Insight, Link, LinkKind};
use atelier_shared::domain::place::{Place, PlaceKind, PlaceRole};
use atelier_shared::ports::{InsightFilter, InsightPatch, PortError, Records, UserDeletion};
use chrono::Duration;
use libtest_mimic::Trial;

use super::{account, at_once, now, unique};
use crate::archive::promises;
use crate::fixture::{self, Outcome, both};

pub fn trials(trials: &mut Vec<Trial>) {
    use crate::records::insights;
    promises!(trials, "records":
        insights::an_insight_is_read_back_changed_and_deleted,
        insights::a_vote_counts_once_however_many_cast_it_at_once,
        insights::a_list_shows_ones_own_and_ones_teams_newest_first_in_pages,
        insights::a_search_takes_every_sign_as_it_stands_and_a_tag_whole,
        insights::an_insight_of_no_team_is_not_made_and_a_teams_go_with_it,
        insights::of_a_deleted_person_what_was_shared_stays_without_the_name,
    );
}

pub fn insight(author: UserId, team: Option<PlaceId>, title: &str) -> Insight {
    Insight {
        id: InsightId::generate(),
        team,
        author,
        title: title.into(),
        body: "Größe\n🦊 \"quoted\"".into(),
        tags: vec!["parser".into(), "speed \"up\"".into()],
        links: vec![
            Link {
                kind: LinkKind::Message,
                id: "m1".into(),
                room_id: Some("r1".into()),
            },
            Link {
                kind: LinkKind::Run,
                id: "j1".into(),
                room_id: None,
            },
        ],
        created_at: now(),
        updated_at: now(),
    }
}

async fn team(records: &dyn Records, members: &[UserId]) -> Result<PlaceId, PortError> {
    let place = Place {
        id: PlaceId::generate(),
        kind: PlaceKind::Team,
        parent: None,
        name: "T".into(),
        description: String::new(),
        created_by: Some(members[0]),
        created_at: now(),
    };
    assert!(records.create_place(&place).await?);
    for member in &members[1..] {
        records
            .set_place_role(place.id, *member, None, Some(PlaceRole::Member))
            .await?;
    }
    Ok(place.id)
}

async fn titles(records: &dyn Records, reader: UserId, filter: &InsightFilter) -> Vec<String> {
    let found = records.list_insights(reader, filter, None, 100).await;
    let items = found.expect("a list").items;
    items.into_iter().map(|seen| seen.insight.title).collect()
}

pub async fn an_insight_is_read_back_changed_and_deleted(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let ana = account(&unique("ana"));
    records.create_user(&ana).await?;
    let mut it = insight(ana.user.id, None, "100% slower");
    assert!(records.create_insight(&it).await?);
    let seen = records
        .insight(it.id, UserId::generate())
        .await?
        .expect("it");
    assert_eq!(seen.insight, it);
    assert_eq!(seen.author_name.as_deref(), Some(ana.user.name.as_str()));
    assert_eq!((seen.votes, seen.voted), (0, false));
    it.title = "Faster".into();
    it.body = String::new();
    it.tags = Vec::new();
    it.links = Vec::new();
    it.updated_at = now() + Duration::seconds(1);
    // Each alone, at once: none undoes another.
    let none = InsightPatch::default;
    let patches = [
        InsightPatch {
            title: Some(it.title.clone()),
            ..none()
        },
        InsightPatch {
            body: Some(it.body.clone()),
            ..none()
        },
        InsightPatch {
            tags: Some(it.tags.clone()),
            links: Some(it.links.clone()),
            ..none()
        },
    ];
    let at_once = patches
        .iter()
        .map(|patch| records.patch_insight(it.id, patch, it.updated_at));
    for patched in futures::future::join_all(at_once).await {
        assert!(patched?);
    }
    let found = |search: &str| InsightFilter {
        search: search.to_owned(),
        ..InsightFilter::default()
    };
    let author = ana.user.id;
    assert_eq!(
        titles(&*records, author, &found("faster")).await,
        ["Faster"]
    );
    assert!(titles(&*records, author, &found("slower")).await.is_empty());
    let seen = records.insight(it.id, ana.user.id).await?.expect("it");
    assert_eq!(seen.insight, it);
    assert!(records.delete_insight(it.id).await?);
    assert!(!records.delete_insight(it.id).await?);
    assert!(!records.patch_insight(it.id, &none(), now()).await?);
    assert!(!records.vote(it.id, ana.user.id, true).await?);
    assert!(records.insight(it.id, ana.user.id).await?.is_none());
    Ok(())
}

pub async fn a_vote_counts_once_however_many_cast_it_at_once(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (ana, ben) = (UserId::generate(), UserId::generate());
    let it = insight(ana, None, "x");
    assert!(records.create_insight(&it).await?);
    let answers = at_once(10, |n| {
        let (records, voter) = (records.clone(), [ana, ben][n % 2]);
        async move { records.vote(it.id, voter, true).await.expect("an answer") }
    })
    .await;
    assert!(answers.into_iter().all(|there| there));
    let seen = records.insight(it.id, ana).await?.expect("it");
    assert_eq!((seen.votes, seen.voted), (2, true));
    for _ in 0..2 {
        assert!(records.vote(it.id, ana, false).await?);
        let seen = records.insight(it.id, ana).await?.expect("it");
        assert_eq!((seen.votes, seen.voted), (1, false));
    }
    let all = InsightFilter::default();
    let listed = records.list_insights(ben, &all, None, 10).await?;
    assert!(listed.items.is_empty(), "a vote shows nobody anything");
    let mine = records.list_insights(ana, &all, None, 10).await?;
    assert_eq!(mine.items[0].votes, 1);
    Ok(())
}

pub async fn a_list_shows_ones_own_and_ones_teams_newest_first_in_pages(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (ana, ben, eve) = (UserId::generate(), UserId::generate(), UserId::generate());
    let (ours, hers) = (
        team(&*records, &[ana, ben]).await?,
        team(&*records, &[ana]).await?,
    );
    for (author, team, title) in [
        (ana, Some(ours), "1"),
        (ben, Some(ours), "2"),
        (ben, None, "3"),
        (ana, Some(hers), "4"),
        (ana, None, "5"),
    ] {
        assert!(
            records
                .create_insight(&insight(author, team, title))
                .await?
        );
    }
    let all = InsightFilter::default();
    assert_eq!(titles(&*records, ana, &all).await, ["5", "4", "2", "1"]);
    assert_eq!(titles(&*records, ben, &all).await, ["3", "2", "1"]);
    assert!(titles(&*records, eve, &all).await.is_empty());
    let of_team = InsightFilter {
        team: Some(ours),
        ..InsightFilter::default()
    };
    assert_eq!(titles(&*records, ben, &of_team).await, ["2", "1"]);
    assert!(titles(&*records, eve, &of_team).await.is_empty());
    let mut paged = Vec::new();
    let mut before = None;
    loop {
        let page = records.list_insights(ana, &all, before, 3).await?;
        before = page.items.last().map(|seen| seen.insight.id);
        paged.extend(page.items.into_iter().map(|seen| seen.insight.title));
        if !page.more {
            break;
        }
    }
    assert_eq!(paged, ["5", "4", "2", "1"]);
    // Who leaves the team sees its insights no more, but their own.
    records
        .set_place_role(ours, ben, Some(PlaceRole::Member), None)
        .await?;
    assert_eq!(titles(&*records, ben, &all).await, ["3", "2"]);
    Ok(())
}

pub async fn a_search_takes_every_sign_as_it_stands_and_a_tag_whole(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let ana = UserId::generate();
    for title in ["100% slower", "1000 slower", "snake_case!", "snakeXcase"] {
        assert!(records.create_insight(&insight(ana, None, title)).await?);
    }
    let found = async |search: &str, tag: &str| {
        let filter = InsightFilter {
            search: search.into(),
            tag: tag.into(),
            team: None,
        };
        titles(&*records, ana, &filter).await
    };
    assert_eq!(found("100%", "").await, ["100% slower"]);
    assert_eq!(found("snake_case", "").await, ["snake_case!"]);
    assert_eq!(found("case!", "").await, ["snake_case!"]);
    assert_eq!(found("größe", "").await.len(), 4, "in the body");
    assert_eq!(found("\"quoted\"", "").await.len(), 4);
    assert_eq!(found("speed \"up\"", "").await.len(), 4, "in the tags");
    assert_eq!(found("", "parser").await.len(), 4);
    assert_eq!(found("slower", "speed \"up\"").await.len(), 2);
    for part in ["parse", "arser", "up", "%", "parser\",\"speed"] {
        assert!(found("", part).await.is_empty(), "{part}");
    }
    Ok(())
}

pub async fn an_insight_of_no_team_is_not_made_and_a_teams_go_with_it(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let ana = UserId::generate();
    let nowhere = insight(ana, Some(PlaceId::generate()), "x");
    assert!(!records.create_insight(&nowhere).await?);
    assert!(records.insight(nowhere.id, ana).await?.is_none());
    let team = team(&*records, &[ana]).await?;
    let it = insight(ana, Some(team), "x");
    assert!(records.create_insight(&it).await?);
    assert!(records.vote(it.id, ana, true).await?);
    records.delete_place(team).await?;
    assert!(records.insight(it.id, ana).await?.is_none());
    Ok(())
}

pub async fn of_a_deleted_person_what_was_shared_stays_without_the_name(mode: Mode) -> Outcome {
    let records = fixture::records(mode).await;
    let (ana, ben) = (account(&unique("ana")), account(&unique("ben")));
    records.create_user(&ana).await?;
    records.create_user(&ben).await?;
    let team = team(&*records, &[ben.user.id, ana.user.id]).await?;
    let (shared, alone) = (
        insight(ana.user.id, Some(team), "shared"),
        insight(ana.user.id, None, "alone"),
    );
    let bens = insight(ben.user.id, Some(team), "bens");
    for it in [&shared, &alone, &bens] {
        assert!(records.create_insight(it).await?);
    }
    assert!(records.vote(bens.id, ana.user.id, true).await?);
    let gone = records.delete_user(ana.user.id, now()).await?;
    assert!(matches!(gone, UserDeletion::Done(_)));
    let left = records.insight(shared.id, ben.user.id).await?.expect("it");
    assert_eq!(left.author_name, None);
    assert!(records.insight(alone.id, ben.user.id).await?.is_none());
    let voted = records.insight(bens.id, ben.user.id).await?.expect("it");
    assert_eq!(voted.votes, 0);
    Ok(())
}
