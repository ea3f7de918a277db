//! Streams that are watched as server-sent events.

use std::{collections::HashMap, pin::Pin};

use futures_util::{Stream, StreamExt, stream};
use jobtrack::proto::v1::{
    Cancellation, Durability, Event, Failure, Job, Liveness, Progress, Removal,
    job::{Outcome, State},
};
use serde_json::Value;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::support::{
    events::{self, Events},
    json::Http,
    watching::Seen,
};

/// A stream in either form.
pub type Watched = Pin<Box<dyn Stream<Item = Result<Seen, Status>> + Send>>;

/// Opens a stream, or resumes it as a browser does.
pub async fn open(http: &Http, path: &str, token: &str, identity: &str) -> Result<Watched, Status> {
    let authorization = format!("Bearer {identity}");
    let mut headers = vec![("authorization", authorization.as_str())];
    headers.extend(Some(("last-event-id", token)).filter(|_| !token.is_empty()));
    let opened = Events::try_open(http, path, &headers).await.map_err(|error| broken(&error))?;
    match opened.status.as_u16() {
        200 => Ok(seen(blocks(opened))),
        // Nothing is behind the token: a browser does not connect again.
        204 => Ok(stream::empty().boxed()),
        _ => Err(refusal(&opened.whole().await.map_err(|error| broken(&error))?["error"])),
    }
}

type Blocks = Pin<Box<dyn Stream<Item = Result<events::Event, Status>> + Send>>;

fn blocks(events: Events) -> Blocks {
    let next = async |mut events: Events| {
        let block = events.try_next().await.map_err(|error| broken(&error))?;
        Ok(block.map(|block| (block, events)))
    };
    stream::try_unfold(events, next).boxed()
}

/// Returns the events in blocks. They end well only behind the block that says so.
fn seen(blocks: Blocks) -> Watched {
    let next = async |mut blocks: Blocks| {
        while let Some(block) = blocks.next().await.transpose()? {
            if block.name == "end" {
                return Ok(None);
            }
            if !block.data.is_null() {
                return Ok(Some((event(&block), blocks)));
            }
        }
        Err(Status::unavailable("closed before its end"))
    };
    stream::try_unfold(blocks, next).boxed()
}

fn broken(error: &dyn std::error::Error) -> Status {
    Status::unavailable(error.to_string())
}

fn refusal(error: &Value) -> Status {
    let code = match text(&error["status"]) {
        "NOT_FOUND" => Code::NotFound,
        "UNAVAILABLE" => Code::Unavailable,
        "RESOURCE_EXHAUSTED" => Code::ResourceExhausted,
        "DEADLINE_EXCEEDED" => Code::DeadlineExceeded,
        _ => Code::Unknown,
    };
    let reason = text(&error["details"][0]["reason"]);
    Status::with_error_details(code, text(&error["message"]), ErrorDetails::with_error_info(reason, "", HashMap::new()))
}

fn event(block: &events::Event) -> Seen {
    let data = &block.data;
    let event = Event::from_str_name(&format!("EVENT_{}", text(&data["event"]))).expect("an event");
    let removal = Removal::from_str_name(&format!("REMOVAL_{}", text(&data["removal"]))).unwrap_or_default();
    let is = |name: &str| data[name].as_bool().unwrap_or_default();
    Seen {
        event,
        job: data.get("job").map(job),
        skipped: data["skipped"].as_i64().unwrap_or_default(),
        token: block.id.clone(),
        reset: is("reset"),
        removal,
        pending: is("snapshotPending"),
    }
}

/// Returns the fields of a job that the history has.
fn job(json: &Value) -> Job {
    let failure = json
        .get("failure")
        .map(|failure| Outcome::Failure(Failure { reason: text(&failure["reason"]).to_owned(), ..Failure::default() }));
    let state = State::from_str_name(&format!("STATE_{}", text(&json["state"]))).expect("a state");
    let liveness = Liveness::from_str_name(&format!("LIVENESS_{}", text(&json["liveness"])));
    let durability = Durability::from_str_name(&format!("DURABILITY_{}", text(&json["durability"])));
    let completed = |progress: &Value| Progress { completed: whole(&progress["completed"]), ..Progress::default() };
    Job {
        id: text(&json["id"]).to_owned(),
        create_time: json["createTime"].as_str().map(|time| time.parse().expect("a time")),
        owner: text(&json["owner"]).to_owned(),
        revision: whole(&json["revision"]).expect("a revision"),
        state: state.into(),
        attempt: json["attempt"].as_i64().map_or(0, |attempt| attempt.try_into().expect("few")),
        progress: json.get("progress").map(completed),
        cancel: json.get("cancel").map(|_| Cancellation::default()),
        liveness: liveness.unwrap_or_default().into(),
        outcome: failure,
        lease_timeout: json["leaseTimeout"].as_str().map(|time| time.parse().expect("a duration")),
        durability: durability.unwrap_or_default().into(),
        ..Job::default()
    }
}

fn text(json: &Value) -> &str {
    json.as_str().unwrap_or_default()
}

fn whole(json: &Value) -> Option<i64> {
    json.as_str().map(|number| number.parse().expect("a whole number"))
}

mod tests {
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;

    use super::{super::clients::Client, *};
    use crate::robustness::history::{Ending, Face, Recorder, check};

    fn sent(revision: i64, state: &str) -> events::Event {
        let event = if revision == 1 { "SNAPSHOT" } else { "UPDATE" };
        let job = format!("{{\"id\":\"a\",\"revision\":\"{revision}\",\"state\":\"{state}\",\"owner\":\"o\"}}");
        events::Event::parse(&format!("id: t{revision}\ndata: {{\"event\":\"{event}\",\"job\":{job},\"skipped\":0}}"))
    }

    /// Returns the rules that a stream of these blocks breaks.
    async fn broken_by(sent: Vec<events::Event>, wanted: Ending) -> Vec<&'static str> {
        let recorder = Arc::new(Recorder::start());
        let (channels, https) = (Vec::new(), vec![Http::new(([127, 0, 0, 1], 9).into())]);
        let (name, limited_to, face) = ("w".to_owned(), String::new(), Face::Events);
        let client = Client { name, limited_to, channels, https, face, recorder: recorder.clone() };
        let place = client.open(0, Some("a".to_owned()), None);
        let blocks = stream::iter(sent.into_iter().map(Ok)).boxed();
        let ending = client.follow(seen(blocks), &place, &mut None, usize::MAX, &CancellationToken::new()).await;
        assert_eq!(ending, wanted);
        let found = check(&recorder.history());
        found.iter().map(|violation| violation.rule).collect()
    }

    #[tokio::test]
    async fn events_that_come_twice_or_end_too_soon_are_reported() {
        let end = || events::Event::parse("event: end\ndata: {}");
        let retry = || events::Event::parse("retry: 1000");
        let (first, second, last) = (sent(1, "PENDING"), sent(2, "RUNNING"), sent(3, "SUCCEEDED"));
        let good = vec![retry(), first.clone(), second.clone(), last.clone(), end()];
        assert_eq!(broken_by(good, Ending::Ok).await, [""; 0]);
        let twice = vec![retry(), first.clone(), second.clone(), second.clone(), last, end()];
        assert_eq!(broken_by(twice, Ending::Ok).await, ["G4"]);
        let too_soon = vec![first.clone(), second.clone(), end()];
        assert_eq!(broken_by(too_soon, Ending::Ok).await, ["G6"]);
        let cut = vec![first, second];
        assert_eq!(broken_by(cut, Ending::Broken(Code::Unavailable)).await, [""; 0]);
    }
}
