//! Requests made by chance: whatever comes, the answer is OK or an error of ours, and nobody panics.

use std::{collections::HashMap, sync::LazyLock};

use jobtrack::proto::{
    EncodedStruct,
    v1::{
        BatchGetJobsRequest, CancelJobRequest, CompleteJobRequest, ConfirmCancelRequest, CreateJobRequest,
        CreateWatchTokenRequest, DeleteJobRequest, FailJobRequest, Failure, GetJobRequest, Job, JobFilter,
        ListJobsRequest, ListJobsResponse, Progress, PurgeJobsRequest, StartAttemptRequest, UpdateProgressRequest,
        View, WatchJobRequest, WatchJobsRequest, job::State,
    },
};
use proptest::{
    arbitrary::any,
    collection::{hash_map, vec},
    option::of,
    prelude::{BoxedStrategy, Just, ProptestConfig, Strategy, TestCaseError, prop_assert, prop_oneof, proptest},
    sample::select,
};
use prost::Message;
use prost_types::{Duration, ListValue, Struct, Timestamp, Value, value::Kind};
use tokio::runtime::Runtime;
use tonic::{Code, Status};

use crate::support::{
    Server, error_info,
    raw::{Call, Raw, call, decode, frame, methods},
};

/// One server for all cases, and a connection to it.
struct Target {
    runtime: Runtime,
    raw: Raw,
    unary: Vec<String>,
    streaming: Vec<String>,
    _server: Server,
}

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let runtime = Runtime::new().expect("a runtime");
    let (server, raw) = runtime.block_on(async {
        let server = Server::with(&["--max-memory-jobs", "20"]).await;
        let raw = Raw::connect(server.address).await;
        (server, raw)
    });
    Target { runtime, raw, unary: methods(false), streaming: methods(true), _server: server }
});

/// Makes a call, gets OK or an error of ours. Of a stream only the beginning is looked at.
fn exchange(method: &str, message: &[u8]) -> Result<Vec<u8>, TestCaseError> {
    let Target { runtime, raw, streaming, .. } = &*TARGET;
    let outcome = runtime.block_on(async {
        if streaming.iter().any(|streaming| streaming == method) {
            let (response, mut request) = raw.open(method, &[]).await;
            _ = request.send_data(frame(message).into(), true);
            let head = response.await.expect("a response");
            request.send_reset(h2::Reason::CANCEL);
            Status::from_header_map(head.headers()).map_or(Ok(Vec::new()), Err)
        } else {
            raw.send(method, &[], frame(message)).await.outcome().map(|body| body.to_vec())
        }
    });
    outcome.or_else(|status| {
        let info = error_info(&status);
        let expected = match info.reason.as_str() {
            "INVALID_FIELD" => Code::InvalidArgument,
            "JOB_NOT_FOUND" => Code::NotFound,
            "JOB_EXISTS" => Code::AlreadyExists,
            "MEMORY_FULL" => Code::ResourceExhausted,
            "REVISION_NOT_REACHED" => Code::Unavailable,
            "REVISION_MISMATCH" => Code::Aborted,
            "JOB_FINISHED" | "STALE_ATTEMPT" | "ATTEMPT_RUNNING" | "CANCEL_NOT_REQUESTED" | "JOB_ACTIVE" => {
                Code::FailedPrecondition
            }
            reason => return Err(TestCaseError::fail(format!("{reason} is not called for: {status:?}"))),
        };
        prop_assert!(status.code() == expected, "{status:?}");
        Ok(Vec::new())
    })
}

/// Bytes that look like a message more often than not.
fn near_message() -> impl Strategy<Value = Vec<u8>> {
    let field =
        (1..12_u8, select(&[0_u8, 1, 2, 5][..]), vec(any::<u8>(), 0..12)).prop_map(|(number, wire, content)| {
            let length = u8::try_from(content.len()).expect("it is short");
            let head = if wire == 2 { vec![number << 3 | wire, length] } else { vec![number << 3 | wire] };
            [head, content].concat()
        });
    prop_oneof![vec(any::<u8>(), 0..64), vec(field, 0..6).prop_map(|fields| fields.concat())]
}

/// Text that is allowed, or nearly so.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just(String::new()),
        30 => "[a-z]{1,8}",
        1 => any::<String>(),
        1 => (120..140_usize).prop_map(|length| "x".repeat(length)),
    ]
}

/// Few ids, so that calls meet the same jobs.
fn id() -> impl Strategy<Value = String> {
    prop_oneof![30 => select(&["a", "b", "c"][..]).prop_map(str::to_owned), 1 => text()]
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![20 => 0.0..=100.0, 1 => proptest::num::f64::ANY]
}

fn count() -> impl Strategy<Value = i64> {
    prop_oneof![30 => 0..10_i64, 1 => any::<i64>(), 1 => select(&[i64::MIN, i64::MAX][..])]
}

fn small() -> impl Strategy<Value = i32> {
    prop_oneof![30 => 1..6_i32, 2 => Just(0), 1 => any::<i32>(), 1 => select(&[i32::MIN, i32::MAX][..])]
}

fn duration() -> impl Strategy<Value = Option<Duration>> {
    of((count(), small()).prop_map(|(seconds, nanos)| Duration { seconds, nanos }))
}

fn timestamp() -> impl Strategy<Value = Option<Timestamp>> {
    of((count(), small()).prop_map(|(seconds, nanos)| Timestamp { seconds, nanos }))
}

fn labels() -> impl Strategy<Value = HashMap<String, String>> {
    hash_map(text(), text(), 0..3)
}

fn structure() -> BoxedStrategy<Option<EncodedStruct>> {
    let leaf = prop_oneof![
        Just(None),
        any::<bool>().prop_map(|flag| Some(Kind::BoolValue(flag))),
        number().prop_map(|number| Some(Kind::NumberValue(number))),
        text().prop_map(|text| Some(Kind::StringValue(text))),
        any::<i32>().prop_map(|null| Some(Kind::NullValue(null))),
    ];
    // One in the other, a list or a Struct each, now and then to beyond what can be decoded.
    let wrappers = prop_oneof![9 => vec(any::<bool>(), 0..15), 1 => vec(any::<bool>(), 15..40)];
    let nested = (leaf, wrappers).prop_map(|(leaf, wrappers)| {
        wrappers.into_iter().fold(leaf, |kind, in_list| {
            let value = Value { kind };
            Some(if in_list {
                Kind::ListValue(ListValue { values: vec![value] })
            } else {
                Kind::StructValue(Struct { fields: [("k".to_owned(), value)].into() })
            })
        })
    });
    let field = (text(), nested.prop_map(|kind| Value { kind }));
    of(vec(field, 0..3).prop_map(|fields| Struct { fields: fields.into_iter().collect() }.into())).boxed()
}

fn filter() -> BoxedStrategy<Option<JobFilter>> {
    let numbers = (vec(small(), 0..3), vec(small(), 0..3));
    let parts = (numbers, (text(), text(), text(), text()), labels(), (timestamp(), timestamp(), timestamp()));
    of(parts.prop_map(|((states, liveness), texts, labels, (created_after, created_before, updated_after))| {
        let (kind, owner, worker, id_prefix) = texts;
        JobFilter {
            states,
            kind,
            owner,
            labels,
            created_after,
            created_before,
            liveness,
            worker,
            id_prefix,
            updated_after,
        }
    }))
    .boxed()
}

fn creation() -> BoxedStrategy<Call> {
    let texts = (text(), text(), text(), text());
    let parts = (id(), texts, labels(), structure(), duration(), any::<bool>(), duration());
    parts
        .prop_map(|(job_id, texts, labels, metadata, lease_timeout, fail_when_lost, retention)| {
            let (request_id, kind, owner, title) = texts;
            let request = CreateJobRequest {
                job_id,
                request_id,
                kind,
                owner,
                labels,
                metadata,
                lease_timeout,
                fail_when_lost,
                retention,
                title,
                start_timeout: lease_timeout,
            };
            call("JobService/CreateJob", &request)
        })
        .boxed()
}

fn progress() -> BoxedStrategy<Option<Progress>> {
    let numbers = (of(number()), of(count()), of(count()), of(small()), of(small()));
    of((numbers, of(text()), of(text()), of(text()), structure()).prop_map(
        |(numbers, unit, stage, message, details)| {
            let (percent, completed, total, stage_index, stage_count) = numbers;
            Progress { percent, completed, total, unit, stage, stage_index, stage_count, message, details }
        },
    ))
    .boxed()
}

/// Mostly none: no other is that of an attempt.
fn claim() -> BoxedStrategy<String> {
    prop_oneof![6 => Just(String::new()), 1 => text()].boxed()
}

fn report() -> BoxedStrategy<Call> {
    let parts = (id(), progress(), text(), of(count()), of(small()), of(count()), duration(), claim());
    let reports =
        parts.prop_map(|(job_id, progress, worker, sequence, attempt, expected_revision, lease_timeout, claim)| {
            let request = UpdateProgressRequest {
                job_id,
                progress,
                worker,
                sequence,
                attempt,
                expected_revision,
                lease_timeout,
                claim,
            };
            call("JobService/UpdateProgress", &request)
        });
    let starts = (id(), text(), text(), duration(), any::<bool>()).prop_map(
        |(job_id, worker, request_id, lease_timeout, takeover)| {
            let request = StartAttemptRequest { job_id, worker, request_id, lease_timeout, takeover };
            call("JobService/StartAttempt", &request)
        },
    );
    prop_oneof![3 => reports, 1 => starts].boxed()
}

fn ending() -> BoxedStrategy<Call> {
    let reason = prop_oneof![6 => "[A-Z][A-Z_]{0,8}", 1 => text()];
    let failure = (of(small()), reason, text(), structure()).prop_map(|(code, reason, message, details)| Failure {
        code,
        reason,
        message,
        details,
    });
    let attempt = || of(small());
    prop_oneof![
        (id(), structure(), attempt(), of(count()), claim()).prop_map(
            |(job_id, result, attempt, expected_revision, claim)| {
                let request = CompleteJobRequest { job_id, result, attempt, expected_revision, claim };
                call("JobService/CompleteJob", &request)
            }
        ),
        (id(), of(failure), attempt(), of(count()), claim(), any::<bool>()).prop_map(
            |(job_id, failure, attempt, expected_revision, claim, retry)| {
                let request = FailJobRequest { job_id, failure, attempt, expected_revision, claim, retry };
                call("JobService/FailJob", &request)
            }
        ),
        (id(), text(), text(), any::<bool>(), duration()).prop_map(|(job_id, reason, requester, force, grace)| {
            call("JobService/CancelJob", &CancelJobRequest { job_id, reason, requester, force, grace })
        }),
        (id(), attempt(), of(text()), claim()).prop_map(|(job_id, attempt, message, claim)| {
            call("JobService/ConfirmCancel", &ConfirmCancelRequest { job_id, attempt, message, claim })
        }),
        (id(), any::<bool>())
            .prop_map(|(job_id, force)| { call("JobService/DeleteJob", &DeleteJobRequest { job_id, force }) }),
        (duration(), vec(small(), 0..3), text(), text(), any::<bool>(), text()).prop_map(
            |(older_than, states, kind, owner, dry_run, page_token)| {
                let request = PurgeJobsRequest { older_than, states, kind, owner, dry_run, page_token };
                call("AdminService/PurgeJobs", &request)
            }
        ),
    ]
    .boxed()
}

fn reading() -> BoxedStrategy<Call> {
    // A revision that does not come is waited for: those asked for here are there, or malformed.
    let revision = of(prop_oneof![Just(0), Just(1), i64::MIN..0]);
    prop_oneof![
        (id(), revision, small()).prop_map(|(job_id, min_revision, view)| {
            call("JobService/GetJob", &GetJobRequest { job_id, min_revision, view })
        }),
        (vec(id(), 0..4), small())
            .prop_map(|(job_ids, view)| call("JobService/BatchGetJobs", &BatchGetJobsRequest { job_ids, view })),
        (vec(id(), 0..4), duration(), small()).prop_map(|(job_ids, ttl, view)| {
            call("JobService/CreateWatchToken", &CreateWatchTokenRequest { job_ids, ttl, view })
        }),
        (filter(), small(), text(), small(), small()).prop_map(|(filter, page_size, page_token, view, order)| {
            call("JobService/ListJobs", &ListJobsRequest { filter, page_size, page_token, view, order })
        }),
        (id(), text(), duration(), duration(), small()).prop_map(
            |(job_id, resume_token, min_interval, bookmark_interval, view)| {
                let request = WatchJobRequest { job_id, resume_token, min_interval, bookmark_interval, view };
                call("JobService/WatchJob", &request)
            }
        ),
        (vec(id(), 0..3), filter(), text(), duration(), small()).prop_map(
            |(job_ids, filter, resume_token, min_interval, view)| {
                let bookmark_interval = min_interval;
                let request = WatchJobsRequest { job_ids, filter, resume_token, min_interval, bookmark_interval, view };
                call("JobService/WatchJobs", &request)
            }
        ),
    ]
    .boxed()
}

/// Checks the invariants of a job.
fn check(job: &Job) -> Result<(), TestCaseError> {
    let progress = job.progress.clone().unwrap_or_default();
    prop_assert!(progress.percent.is_none_or(|percent| (0.0..=100.0).contains(&percent)), "{job:?}");
    let ended = matches!(job.state(), State::Succeeded | State::Failed | State::Cancelled);
    prop_assert!(job.state() != State::Unspecified && ended == job.end_time.is_some(), "{job:?}");
    prop_assert!(job.revision >= 1 && job.attempt >= 0 && !job.kind.is_empty(), "{job:?}");
    prop_assert!(!ended || job.lease_expire_time.is_none() && job.start_expire_time.is_none(), "{job:?}");
    let numbers: Vec<_> = job.attempts.iter().map(|attempt| attempt.number).collect();
    prop_assert!(
        numbers.is_sorted() && numbers.len() <= 16 && numbers.last().is_none_or(|last| *last <= job.attempt),
        "{job:?}"
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_answered_by_every_method(message in near_message()) {
        for method in TARGET.unary.iter().chain(&TARGET.streaming) {
            exchange(method, &message)?;
        }
    }

    #[test]
    fn any_calls_are_answered_and_leave_jobs_sound(
        calls in vec(prop_oneof![2 => creation(), 3 => report(), 3 => ending(), 1 => reading()], 1..12)
    ) {
        for call in calls {
            exchange(call.method, &call.message)?;
        }
        let all = ListJobsRequest { view: View::Full.into(), page_size: 1000, ..Default::default() };
        let page: ListJobsResponse = decode(&exchange("JobService/ListJobs", &all.encode_to_vec())?);
        page.jobs.iter().try_for_each(check)?;
    }
}
