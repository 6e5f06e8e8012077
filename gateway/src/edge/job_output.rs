//! `GET /jobs/{id}/output`: what a program says, while it says it and afterwards, as server-sent events.
//!
//! While it runs it is read from [`LiveOutput`](atelier_shared::ports::LiveOutput), on any gateway; what is missing at the
//! end comes from the stored result. An event's id says how much of each stream has been seen, so it is a place in both.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use atelier_shared::domain::ids::JobId;
use atelier_shared::domain::job::{Job, JobResult, JobState, Progress};
use atelier_shared::domain::room::Role;
use atelier_shared::ports::{OutputPiece, OutputWaker, PortError};
use atelier_shared::withdrawal;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use chrono::Utc;
use futures::{Stream, stream};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};
use utoipa::{IntoParams, ToSchema};

use super::client::MaybePrincipal;
use super::extract::{Id, Query};
use super::jobs::find;
use super::problem::{Kind, Problem};
use super::refusals::{BadQuery, Failures, Missing, NeedsToken};
use super::state::App;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// The streams of a program, in the order of the counts in an event's id.
const STREAMS: [&str; 4] = ["compile_stdout", "compile_stderr", "stdout", "stderr"];
/// Pieces read at a time: what one reader holds in memory while the program runs.
const PIECES_AT_ONCE: usize = 16;
/// Longest text of one event made from the result, in bytes.
const CHUNK_MAX_BYTES: usize = 16 * 1024;
/// How often the row is looked at without a word from the worker: it may have died.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Comments that keep proxies from closing a silent stream.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How soon a client that lost the stream comes again.
const RETRY: Duration = Duration::from_secs(1);

/// One event of the stream, its `data` JSON: `{stream, chunk, offset}`, `{status}` or `{status, result}`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only described")]
pub struct OutputEvent {
    /// `output`, `status` or `end`
    #[schema(example = "output")]
    event: String,
    /// Send it as `Last-Event-ID` to go on behind it
    id: String,
    data: String,
    /// Milliseconds until a lost stream should be asked for again
    retry: Option<u32>,
}

/// For a browser's `EventSource`, which can set no header.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Credentials {
    /// An access token, instead of the header
    token: Option<String>,
    /// A ticket of `POST /auth/ws-ticket`, good for one connection
    ticket: Option<String>,
}

/// What a program says, live and to its end, as server-sent events: `output {stream, chunk, offset}`, `status {status}`,
/// `progress {percent, message}` (of a line `::progress 42 half way` that it writes), `end {status, result}`; then the stream closes. `offset` counts the bytes of text before `chunk` in its stream.
/// Send `Last-Event-ID` to go on where you were.
#[utoipa::path(get, path = "/jobs/{job_id}/output", tag = "jobs", security(("bearer" = [])),
    params(("job_id" = Uuid, Path), Credentials, ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event you got")),
    responses(
        (status = 200, description = "Events", content_type = "text/event-stream", body = OutputEvent), NeedsToken, Missing, BadQuery, Failures,
    ))]
pub async fn output(
    State(app): State<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Id(id): Id<JobId>,
    Query(query): Query<Credentials>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    let principal = match (principal, query) {
        (Some(principal), _) => principal,
        (
            None,
            Credentials {
                token: Some(token), ..
            },
        ) => app.identity.authenticate(&token).await?,
        (
            None,
            Credentials {
                ticket: Some(ticket),
                ..
            },
        ) => app.identity.redeem_ticket(&ticket).await?,
        (None, _) => return Err(Problem::unauthenticated()),
    };
    let job = find(&app, id, &principal, Role::Viewer).await?;
    let permit = app.output_readers.clone().try_acquire_owned();
    let permit = permit.map_err(|_| {
        Problem::new(
            Kind::Busy,
            "Too many are watching programs on this gateway.",
        )
    })?;
    let place = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    let follow = Follow {
        // Before anything is read, so that what is said meanwhile is not missed.
        waker: app.backends.output.waker(id).await?,
        moved: false,
        app,
        id,
        seen: place.and_then(|id| id.parse().ok()).unwrap_or_default(),
        told: None,
        step: None,
        next: 0,
        row: Some(job),
        // At once: it may have ended after the row was read and before its waker was watched.
        row_due: Instant::now(),
        ready: VecDeque::new(),
        ending: None,
        over: false,
        _permit: permit,
    };
    // nginx would gather what is to be seen at once.
    let unbuffered = [(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    )];
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok((unbuffered, Sse::new(follow.events()).keep_alive(keep_alive)))
}

/// How much of each stream of which attempt was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Place {
    attempt: u32,
    offsets: [u64; STREAMS.len()],
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d] = self.offsets;
        write!(f, "{}.{a}.{b}.{c}.{d}", self.attempt)
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (attempt, offsets) = text.split_once('.').ok_or(())?;
        let offsets: Vec<u64> = offsets
            .split('.')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map_err(|_| ())?;
        Ok(Self {
            attempt: attempt.parse().map_err(|_| ())?,
            offsets: offsets.try_into().map_err(|_| ())?,
        })
    }
}

impl Place {
    /// The part of the piece that is new; `None`: it was seen, or what comes before it is missing (the result has it).
    fn take(&mut self, piece: &OutputPiece) -> Option<(usize, u64, String)> {
        let stream = STREAMS.iter().position(|name| *name == piece.stream)?;
        let seen = self.offsets[stream];
        let from = usize::try_from(seen.checked_sub(piece.offset)?).ok()?;
        let new = piece.text.get(from..).filter(|new| !new.is_empty())?;
        self.offsets[stream] += new.len() as u64;
        Some((stream, seen, new.to_owned()))
    }

    /// The next event's worth of a result that was not sent.
    fn rest(&mut self, result: &JobResult) -> Option<(usize, u64, String)> {
        let compile = result.compile.as_ref();
        let texts = [
            compile.map_or("", |step| &step.stdout),
            compile.map_or("", |step| &step.stderr),
            &result.stdout,
            &result.stderr,
        ];
        for (stream, text) in texts.into_iter().enumerate() {
            let seen = self.offsets[stream];
            let from = usize::try_from(seen).unwrap_or(usize::MAX);
            // A place that is none (made up, or in a character's midst) has no rest.
            let rest = text.get(from..).unwrap_or_default();
            let chunk = &rest[..rest.floor_char_boundary(CHUNK_MAX_BYTES)];
            if !chunk.is_empty() {
                self.offsets[stream] += chunk.len() as u64;
                return Some((stream, seen, chunk.to_owned()));
            }
        }
        None
    }
}

/// One reader's way through a job's output. It reads on only when what it has was taken, so a slow one costs no more.
struct Follow {
    app: App,
    id: JobId,
    waker: OutputWaker,
    /// The waker moved while it was waited for, which it does not tell a second time.
    moved: bool,
    seen: Place,
    /// The last status that was sent.
    told: Option<JobState>,
    /// The last progress that was sent.
    step: Option<Progress>,
    /// Where to read on in the live output of `seen.attempt`.
    next: u64,
    /// As it was looked at last; `None`: the job was removed.
    row: Option<Job>,
    row_due: Instant,
    ready: VecDeque<Event>,
    /// The state it ended in, and the result (where one is kept).
    ending: Option<(JobState, Option<JobResult>)>,
    over: bool,
    _permit: OwnedSemaphorePermit,
}

impl Follow {
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut follow| async move {
            follow.next().await.map(|event| (Ok(event), follow))
        })
    }

    /// `None`: the stream closes.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            if let Some((state, result)) = self.ending.take() {
                return Some(self.end(state, result));
            }
            if self.app.is_draining() {
                // It comes again, with the last id, to another gateway.
                return None;
            }
            match self.look().await {
                Ok(true) => {}
                Ok(false) => self.wait().await,
                Err(error) => {
                    tracing::debug!(%error, "watching a job while a store is away");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Finds what there is to be sent. False: nothing.
    async fn look(&mut self) -> Result<bool, PortError> {
        let moved = std::mem::take(&mut self.moved) || self.waker.has_changed().unwrap_or(false);
        self.waker.borrow_and_update();
        let Some(row) = &self.row else {
            self.over = true;
            return Ok(true);
        };
        let state = row.state;
        if state.is_final() {
            let stored = self.app.backends.archive.result(self.id, Utc::now());
            let result = stored.await?.or_else(|| withdrawal::result_of(row));
            if let Some(result) = &result {
                self.attempt(result.attempts);
            }
            self.tell(state);
            self.step(result.as_ref().and_then(|result| result.progress.clone()));
            self.ending = Some((state, result));
            return Ok(true);
        }
        self.tell(state);
        let output = &self.app.backends.output;
        let page = output
            .read(self.id, self.seen.attempt, self.next, PIECES_AT_ONCE)
            .await?;
        if page.attempt >= self.seen.attempt.max(1) {
            if page.attempt > self.seen.attempt {
                self.attempt(page.attempt);
            }
            self.tell(JobState::Running);
            self.next = page.next;
            for piece in &page.pieces {
                if let Some(new) = self.seen.take(piece) {
                    self.push(new);
                }
            }
            self.step(page.progress);
            if !page.pieces.is_empty() {
                return Ok(true);
            }
        } else if moved {
            // It speaks no more: over, or on its way to another worker. A short program's start and end are one move: then
            // nobody was told that it runs.
            self.row_due = Instant::now();
        }
        if !self.ready.is_empty() {
            return Ok(true);
        }
        if Instant::now() < self.row_due {
            return Ok(false);
        }
        self.row = self.app.backends.records.job(self.id).await?;
        self.row_due = Instant::now() + LOOK_EVERY;
        Ok(self.row.as_ref().is_none_or(|row| row.state != state))
    }

    async fn wait(&mut self) {
        let most = self.row_due.saturating_duration_since(Instant::now());
        // Without a waker there is still the time.
        match timeout(most, self.waker.changed()).await {
            Ok(Ok(())) => self.moved = true,
            Ok(Err(_)) => tokio::time::sleep(most).await,
            Err(_) => {}
        }
    }

    /// What an earlier attempt said is void.
    fn attempt(&mut self, attempt: u32) {
        if self.seen.attempt != attempt {
            self.seen = Place {
                attempt,
                ..Place::default()
            };
            self.next = 0;
            self.step = None;
        }
    }

    fn tell(&mut self, state: JobState) {
        // A row that was read before the worker began says "queued" for a moment longer.
        let late = self.told == Some(JobState::Running) && state == JobState::Queued;
        if self.told == Some(state) || late {
            return;
        }
        let first = self.told.replace(state).is_none();
        let event = self.event("status", &json!({ "status": state.as_str() }));
        self.ready
            .push_back(if first { event.retry(RETRY) } else { event });
    }

    fn step(&mut self, progress: Option<Progress>) {
        let Some(progress) = progress.filter(|step| self.step.as_ref() != Some(step)) else {
            return;
        };
        let data = json!({ "percent": progress.percent, "message": progress.message });
        self.ready.push_back(self.event("progress", &data));
        self.step = Some(progress);
    }

    fn push(&mut self, (stream, offset, chunk): (usize, u64, String)) {
        let data = json!({ "stream": STREAMS[stream], "chunk": chunk, "offset": offset });
        let event = self.event("output", &data);
        self.ready.push_back(event);
    }

    /// The next piece of the result, or the end.
    fn end(&mut self, state: JobState, result: Option<JobResult>) -> Event {
        let rest = result.as_ref().and_then(|result| self.seen.rest(result));
        if let Some(new) = rest {
            self.ending = Some((state, result));
            self.push(new);
            return self.ready.pop_front().unwrap_or_default();
        }
        self.over = true;
        let data = json!({ "status": state.as_str(), "result": result });
        self.event("end", &data)
    }

    fn event(&self, name: &str, data: &serde_json::Value) -> Event {
        // JSON has no line breaks, so it is one line of data.
        Event::default()
            .event(name)
            .id(self.seen.to_string())
            .data(data.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(offset: u64, text: &str) -> OutputPiece {
        OutputPiece {
            stream: "stdout".into(),
            offset,
            text: text.into(),
        }
    }

    #[test]
    fn a_place_is_read_back_from_its_event_id() {
        let place = Place {
            attempt: 2,
            offsets: [1, 2, 3, u64::MAX],
        };
        assert_eq!(place.to_string().parse(), Ok(place));
        for bad in ["", "1", "1.2", "1.2.3.4.x", "1.2.3.4.5.6", "-1.0.0.0.0"] {
            assert_eq!(bad.parse::<Place>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn only_what_is_new_and_follows_is_sent() {
        let mut seen = Place {
            attempt: 1,
            offsets: [0, 0, 3, 0],
        };
        assert_eq!(seen.take(&piece(0, "abc")), None, "seen");
        assert_eq!(seen.take(&piece(2, "cde")), Some((2, 3, "de".into())));
        assert_eq!(seen.take(&piece(9, "x")), None, "a hole before it");
        assert_eq!(seen.take(&piece(4, "üx")), None, "in a character's midst");
        assert_eq!(seen.take(&piece(5, "f")), Some((2, 5, "f".into())));
    }
}
