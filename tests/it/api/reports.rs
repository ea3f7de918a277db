//! Reports always count: they renew the lease even if they are ignored, a new stage starts its numbers again, and no
//! report or end is rejected for the form of its texts.

use jobtrack::proto::v1::{
    CancelJobRequest, ConfirmCancelRequest, CreateJobRequest, FailJobRequest, Failure, Ignored, Job, Liveness,
    Progress, UpdateProgressRequest, UpdateProgressResponse, job::Outcome,
};
use prost_types::Timestamp;
use rstest::rstest;
use tonic::Code;

use crate::support::{
    Client, Server, create, new_job,
    watching::{Watch, make, millis, watch},
};

/// Length of a lease that does not expire during a test.
const LONG: i64 = 3_600_000;

async fn send(client: &mut Client, id: &str, sequence: Option<i64>, progress: Progress) -> UpdateProgressResponse {
    let progress = Some(progress);
    let request = UpdateProgressRequest { job_id: id.into(), sequence, progress, ..UpdateProgressRequest::default() };
    client.update_progress(request).await.expect("a report is accepted").into_inner()
}

fn percent(percent: f64) -> Progress {
    Progress { percent: Some(percent), ..Progress::default() }
}

fn job(answer: &UpdateProgressResponse) -> &Job {
    answer.job.as_ref().expect("a job")
}

/// Returns whether a time of the job is later in the second answer.
fn renews(
    first: &UpdateProgressResponse,
    second: &UpdateProgressResponse,
    time: fn(&Job) -> Option<Timestamp>,
) -> bool {
    let [first, second] = [first, second].map(|answer| time(job(answer)).map(|time| (time.seconds, time.nanos)));
    second > first
}

fn shown_percent(answer: &UpdateProgressResponse) -> Option<f64> {
    job(answer).progress.as_ref().and_then(|progress| progress.percent)
}

/// An ignored report does not change the progress.
#[rstest]
#[case::lower_number(None, Ignored::LowerProgress)]
#[case::repeated_sequence(Some(5), Ignored::OlderSequence)]
#[case::lower_sequence(Some(4), Ignored::OlderSequence)]
#[tokio::test]
async fn ignored_report_names_the_reason_and_renews_the_lease(#[case] sequence: Option<i64>, #[case] why: Ignored) {
    let server = Server::start().await;
    let mut client = server.client().await;
    make(&mut client, CreateJobRequest { lease_timeout: millis(LONG), ..new_job("leased") }).await;
    create(&mut client, "free").await;
    for (id, revisions) in [("leased", 1), ("free", 0)] {
        let first = send(&mut client, id, Some(5), percent(50.0)).await;
        assert_eq!((first.applied, first.ignored()), (true, Ignored::Unspecified));
        let second = send(&mut client, id, sequence, percent(40.0)).await;
        assert_eq!((second.applied, second.ignored()), (false, why), "{id}");
        assert_eq!(shown_percent(&second), Some(50.0), "{id}");
        assert_eq!(
            job(&second).revision,
            job(&first).revision + revisions,
            "{id}: one more if there is a lease to renew"
        );
        assert_eq!(renews(&first, &second, |job| job.lease_expire_time), revisions > 0, "{id}");
    }
    server.stop().await;
}

/// Without a lease, a limit on active jobs is enough.
#[tokio::test]
async fn ignored_report_extends_the_retention_of_an_active_job() {
    let server = Server::with(&["--ttl-active", "1h"]).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let first = send(&mut client, "a", None, percent(50.0)).await;
    let second = send(&mut client, "a", None, percent(40.0)).await;
    assert!(!second.applied && renews(&first, &second, |job| job.expire_time));
    server.stop().await;
}

/// A report with too high a number does not make the worker lost: each later one is lower, and counts as a sign of
/// life.
#[tokio::test]
async fn worker_that_only_sends_ignored_reports_is_live_again_after_it_was_lost() {
    let server = Server::start().await;
    let mut client = server.client().await;
    make(&mut client, CreateJobRequest { lease_timeout: millis(2000), ..new_job("a") }).await;
    send(&mut client, "a", None, percent(100.0)).await;
    let mut stream: Watch = watch(&client, "a").await;
    stream.until(|seen| seen.job().liveness() == Liveness::Lost && seen.revision() == 3).await;
    let answer = send(&mut client, "a", None, percent(60.0)).await;
    assert_eq!((answer.applied, answer.ignored()), (false, Ignored::LowerProgress));
    assert_eq!(job(&answer).liveness(), Liveness::Live);
    let seen = stream.until(|seen| seen.revision() >= 4).await.pop().expect("an event");
    assert_eq!(seen.job().progress.as_ref().and_then(|progress| progress.percent), Some(100.0));
    server.stop().await;
}

#[tokio::test]
async fn second_stage_starts_the_numbers_again() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let pass = |stage: &str, index, completed| Progress {
        stage: Some(stage.into()),
        stage_index: index,
        completed: Some(completed),
        ..Progress::default()
    };
    let first = Progress { total: Some(100), ..pass("analyse", None, 90) };
    assert_eq!(shown_percent(&send(&mut client, "a", None, first).await), Some(90.0));
    let second = send(&mut client, "a", None, pass("encode", None, 1)).await;
    assert!(second.applied, "it is another stage");
    let progress = job(&second).progress.clone().expect("there is progress");
    assert_eq!(
        (progress.percent, progress.completed, progress.total),
        (None, Some(1), None),
        "the total was the other's"
    );
    assert!(!send(&mut client, "a", None, pass("encode", None, 0)).await.applied, "within a stage numbers rise");
    // By its index, a lower one was reported before.
    assert!(send(&mut client, "a", None, pass("upload", Some(3), 7)).await.applied);
    assert!(send(&mut client, "a", None, pass("verify", Some(4), 1)).await.applied);
    let late = send(&mut client, "a", None, pass("upload", Some(3), 8)).await;
    assert_eq!((late.applied, late.ignored()), (false, Ignored::LowerProgress));
    server.stop().await;
}

#[rstest]
#[case::rounded(100.01, Some(100.0))]
#[case::a_sum_of_parts(33.34 * 3.0 - 0.01, Some(100.0))]
#[case::too_much(100.011, None)]
#[tokio::test]
async fn rounding_is_no_error(#[case] reported: f64, #[case] expected: Option<f64>) {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let progress = Some(percent(reported));
    let request = UpdateProgressRequest { job_id: "a".into(), progress, ..UpdateProgressRequest::default() };
    match client.update_progress(request).await {
        Ok(answer) => assert_eq!(shown_percent(answer.get_ref()), expected),
        Err(status) => assert_eq!((status.code(), expected), (Code::InvalidArgument, None), "{status:?}"),
    }
    server.stop().await;
}

/// Returns a text of slightly more than `bytes` bytes, of two-byte characters.
fn long(bytes: usize) -> String {
    "é".repeat(bytes / 2 + 1)
}

/// Fails unless `text` is the part of [`long`] that fits into `most` bytes with an ellipsis.
fn assert_cut(text: &str, most: usize) {
    let kept = text.strip_suffix('…').expect("it ends with an ellipsis");
    assert!(kept.chars().all(|letter| letter == 'é'), "characters are whole");
    assert!((most - 1..=most).contains(&text.len()), "{} of {most}", text.len());
}

#[tokio::test]
async fn texts_for_people_are_cut_and_not_refused() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let message = Progress { message: Some(long(4096)), ..Progress::default() };
    let answer = send(&mut client, "a", None, message).await;
    assert_cut(
        job(&answer).progress.as_ref().and_then(|progress| progress.message.as_deref()).expect("a message"),
        4096,
    );

    let cancel = CancelJobRequest { job_id: "a".into(), reason: long(1024), ..CancelJobRequest::default() };
    let asked = client.cancel_job(cancel).await.expect("it is asked for").into_inner().job.expect("a job");
    assert_cut(&asked.cancel.expect("it was asked for").reason, 1024);
    let confirm =
        ConfirmCancelRequest { job_id: "a".into(), message: Some(long(4096)), ..ConfirmCancelRequest::default() };
    let done = client.confirm_cancel(confirm).await.expect("it is confirmed").into_inner().job.expect("a job");
    assert_cut(&done.progress.and_then(|progress| progress.message).expect("a message"), 4096);
    // Texts that fit are not changed.
    create(&mut client, "b").await;
    let exact = "é".repeat(2048);
    let answer = send(&mut client, "b", None, Progress { message: Some(exact.clone()), ..Progress::default() }).await;
    assert_eq!(job(&answer).progress.as_ref().and_then(|progress| progress.message.clone()), Some(exact));
    server.stop().await;
}

/// A traceback of 17 KB used to be rejected, and the job ran for ever.
#[rstest]
#[case::conventional(Some(5), "OUT_OF_DISK", (5, "OUT_OF_DISK"))]
#[case::name_of_an_exception(None, "requests.exceptions:Timeout-1", (2, "requests.exceptions:Timeout-1"))]
#[case::other_characters(Some(17), "no space\nleft é", (2, "no_space_left__"))]
#[case::no_failure_at_all(Some(0), "", (2, ""))]
#[case::negative(Some(-1), "X", (2, "X"))]
#[tokio::test]
async fn end_is_never_refused_for_its_form(
    #[case] code: Option<i32>,
    #[case] reason: &str,
    #[case] stored: (i32, &str),
) {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let failure = Failure { code, reason: reason.into(), message: long(16 * 1024), details: None };
    let request = FailJobRequest { job_id: "a".into(), failure: Some(failure), ..FailJobRequest::default() };
    let failed = client.fail_job(request).await.expect("it fails").into_inner().job.expect("a job");
    let Some(Outcome::Failure(failure)) = failed.outcome else { panic!("it failed") };
    assert_eq!((failure.code, failure.reason.as_str()), (Some(stored.0), stored.1));
    assert_cut(&failure.message, 16 * 1024);

    create(&mut client, "b").await;
    let failure = Some(Failure { reason: "R".repeat(200), ..Failure::default() });
    let request = FailJobRequest { job_id: "b".into(), failure, ..FailJobRequest::default() };
    let failed = client.fail_job(request).await.expect("it fails").into_inner().job.expect("a job");
    assert!(matches!(failed.outcome, Some(Outcome::Failure(failure)) if failure.reason == "R".repeat(63)));
    server.stop().await;
}
