//! Who was in a room, from when until when, and a batch of what is to be noted of it.

use std::collections::HashMap;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::ids::{ClientId, RoomId, UserId};

/// Changes that wait in one batch at most.
pub const BATCH_MAX: usize = 10_000;

/// One stay of one client in one room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    pub room: RoomId,
    pub client_id: ClientId,
    pub user_id: UserId,
    pub name: String,
    pub color: String,
    pub simulated: bool,
    pub joined_at: DateTime<Utc>,
    /// `None`: is there still.
    pub left: Option<Left>,
}

/// How a visit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    pub at: DateTime<Utc>,
    /// As `user_left` says it; `None`: of their own accord.
    pub reason: Option<String>,
}

/// A client is gone from a room: whatever visit of theirs is open ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    pub room: RoomId,
    pub client_id: ClientId,
    pub left: Left,
}

/// Somebody came, or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VisitEvent {
    pub at: DateTime<Utc>,
    /// They went.
    pub gone: bool,
    pub client_id: ClientId,
    pub user_id: UserId,
    pub name: String,
    pub color: String,
    pub simulated: bool,
    pub reason: Option<String>,
}

/// A place among the events of one room's visits, which are in the order of their times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VisitPlace {
    pub at: DateTime<Utc>,
    pub gone: bool,
    /// `None`: ahead of all that happened at that moment.
    pub client_id: Option<ClientId>,
}

impl VisitPlace {
    /// Before all that happened at this moment.
    pub fn at(at: DateTime<Utc>) -> Self {
        Self {
            at,
            gone: false,
            client_id: None,
        }
    }
}

impl VisitEvent {
    pub fn place(&self) -> VisitPlace {
        VisitPlace {
            at: self.at,
            gone: self.gone,
            client_id: Some(self.client_id.clone()),
        }
    }
}

/// What has happened since the last batch, in its order. Who comes and goes within one is one row.
#[derive(Debug, Default)]
pub struct VisitBatch {
    visits: Vec<Visit>,
    departures: Vec<Departure>,
    /// The latest visit of each client.
    latest: HashMap<(RoomId, ClientId), usize>,
}

impl VisitBatch {
    pub fn is_empty(&self) -> bool {
        self.visits.is_empty() && self.departures.is_empty()
    }

    pub fn len(&self) -> usize {
        self.visits.len() + self.departures.len()
    }

    pub fn visits(&self) -> &[Visit] {
        &self.visits
    }

    /// Somebody came. False: there is no room for it.
    pub fn begin(&mut self, visit: Visit) -> bool {
        if self.len() >= BATCH_MAX {
            return false;
        }
        let mut visit = Visit {
            joined_at: visit.joined_at.trunc_subsecs(6),
            ..visit
        };
        let who = (visit.room.clone(), visit.client_id.clone());
        if let Some(before) = self.latest.get(&who).map(|at| &mut self.visits[*at]) {
            // A visit is told from another by when it began, and only one is open.
            let next = before.joined_at + TimeDelta::microseconds(1);
            visit.joined_at = visit.joined_at.max(next);
            before.left.get_or_insert(Left {
                at: visit.joined_at,
                reason: None,
            });
        }
        self.latest.insert(who, self.visits.len());
        self.visits.push(visit);
        true
    }

    /// Somebody went. Whoever is known here to have gone already is not gone twice. False: there is no room for it.
    pub fn end(&mut self, departure: Departure) -> bool {
        let Departure {
            room,
            client_id,
            mut left,
        } = departure;
        left.at = left.at.trunc_subsecs(6);
        let who = (room, client_id);
        if let Some(at) = self.latest.get(&who) {
            let visit = &mut self.visits[*at];
            left.at = left.at.max(visit.joined_at);
            visit.left.get_or_insert(left);
            return true;
        }
        if self.len() >= BATCH_MAX {
            return false;
        }
        let (room, client_id) = who;
        self.departures.push(Departure {
            room,
            client_id,
            left,
        });
        true
    }

    /// This one was not taken; what came since follows it. Returns how many changes there was no room for.
    pub fn follow(&mut self, newer: Self) -> usize {
        let before = newer.len();
        let departures = newer.departures.into_iter().map(|gone| self.end(gone));
        let mut kept = departures.filter(|kept| *kept).count();
        let visits = newer.visits.into_iter().map(|visit| self.begin(visit));
        kept += visits.filter(|kept| *kept).count();
        before - kept
    }

    /// Departures in rounds, in each of which a client goes once.
    pub fn rounds(&self) -> Vec<Vec<&Departure>> {
        let mut gone: HashMap<(&RoomId, &ClientId), usize> = HashMap::new();
        let mut rounds: Vec<Vec<&Departure>> = Vec::new();
        for departure in &self.departures {
            let round = gone
                .entry((&departure.room, &departure.client_id))
                .or_default();
            if rounds.len() == *round {
                rounds.push(Vec::new());
            }
            rounds[*round].push(departure);
            *round += 1;
        }
        rounds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(ms).unwrap_or_default()
    }

    fn room() -> RoomId {
        "r".parse().unwrap()
    }

    fn comes(client: &str, ms: i64) -> Visit {
        Visit {
            room: room(),
            client_id: client.parse().unwrap(),
            user_id: UserId::generate(),
            name: "Ana".into(),
            color: "teal".into(),
            simulated: false,
            joined_at: at(ms),
            left: None,
        }
    }

    fn goes(client: &str, ms: i64) -> Departure {
        Departure {
            room: room(),
            client_id: client.parse().unwrap(),
            left: Left {
                at: at(ms),
                reason: None,
            },
        }
    }

    fn ends(batch: &VisitBatch) -> Vec<Option<i64>> {
        let ends = batch.visits().iter();
        ends.map(|visit| Some(visit.left.as_ref()?.at.timestamp_millis()))
            .collect()
    }

    #[test]
    fn who_comes_and_goes_within_a_batch_is_one_row_each_time() {
        let mut batch = VisitBatch::default();
        assert!(batch.begin(comes("a", 1)) && batch.end(goes("a", 2)));
        assert!(batch.end(goes("a", 3)), "said twice");
        assert!(batch.begin(comes("a", 4)) && batch.begin(comes("a", 6)));
        assert_eq!(ends(&batch), [Some(2), Some(6), None]);
        assert!(batch.rounds().is_empty());
    }

    #[test]
    fn two_visits_that_began_at_one_moment_are_told_apart() {
        let mut batch = VisitBatch::default();
        assert!(batch.begin(comes("a", 1)) && batch.end(goes("a", 1)));
        assert!(batch.begin(comes("a", 1)));
        let [first, second] = batch.visits() else {
            panic!("{batch:?}");
        };
        assert!(first.joined_at < second.joined_at);
    }

    #[test]
    fn who_was_there_before_the_batch_goes_in_rounds() {
        let mut batch = VisitBatch::default();
        for departure in [goes("a", 1), goes("b", 1), goes("a", 2)] {
            assert!(batch.end(departure));
        }
        let rounds: Vec<usize> = batch.rounds().iter().map(Vec::len).collect();
        assert_eq!(rounds, [2, 1]);
    }

    #[test]
    fn what_was_not_taken_comes_first_again_and_the_whole_is_bounded() {
        let mut older = VisitBatch::default();
        assert!(older.begin(comes("a", 1)));
        let mut newer = VisitBatch::default();
        assert!(newer.end(goes("a", 5)) && newer.begin(comes("a", 7)));
        assert_eq!(older.follow(newer), 0);
        assert_eq!(ends(&older), [Some(5), None]);
        let mut many = VisitBatch::default();
        for client in 0..BATCH_MAX {
            assert!(many.begin(comes(&client.to_string(), 9)));
        }
        assert!(!many.begin(comes("late", 9)) && !many.end(goes("early", 9)));
        assert!(many.end(goes("7", 9)), "its row is here");
        assert_eq!(older.follow(many), 2);
    }
}
