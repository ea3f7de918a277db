//! Number of allocations of each call, and the memory that jobs occupy. Counts and not times: they are the same
//! on every machine.

use std::{future::ready, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Version, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use jobtrack::{
    auth::Authenticator,
    clock::SystemClock,
    domain::{
        Applied, Change, ChangeContext, ChangeId, Completion, Document, Failure, FailureCode, Job, JobId, NewJob,
        Progress, Report, Retention, Timestamp,
    },
    grpc::GrpcServer,
    proto::{
        EncodedStruct,
        v1::{self, CompleteJobRequest, CreateJobRequest, GetJobRequest, UpdateProgressRequest},
    },
    quota::Quotas,
    store::MemoryStore,
    tracker::Tracker,
    watch::Hub,
};
use prost::Message;
use prost_types::{ListValue, Struct, Value, value::Kind};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// As many calls are counted.
const CALLS: u64 = 100;

/// Size of a job without documents, with its place in a store, in bytes.
const JOB: usize = 2048;

const RETENTION: Retention =
    Retention { succeeded: Duration::ZERO, failed: Duration::ZERO, cancelled: Duration::ZERO, active: Duration::ZERO };

/// Only one test at a time counts.
static COUNTING: Mutex<()> = Mutex::const_new(());

/// A call as it comes off a connection.
fn request(method: &str, message: &impl Message) -> Request<tonic::body::Body> {
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.encoded_len()).expect("it is small").to_be_bytes());
    framed.extend(message.encode_to_vec());
    Request::post(format!("http://localhost/jobtrack.v1.JobService/{method}"))
        .version(Version::HTTP_2)
        .header(CONTENT_TYPE, "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(Full::from(framed)))
        .expect("a valid request")
}

/// Allocations per call, of calls that are all answered.
async fn count(face: &GrpcServer, method: &str, messages: impl Iterator<Item = impl Message>) -> u64 {
    let calls: Vec<_> = messages.map(|message| request(method, &message)).collect();
    assert_eq!(calls.len() as u64, CALLS + 1);
    let mut before = 0;
    for call in calls {
        let answer = face.service.clone().oneshot(call).await.expect("it answers");
        let answer = answer.into_body().collect().await.expect("an answer");
        let status = answer.trailers().and_then(|trailers| trailers.get("grpc-status"));
        assert_eq!(status.map(HeaderValue::as_bytes), Some(&b"0"[..]), "{method}");
        drop(answer);
        // The first is not counted.
        if before == 0 {
            before = dhat::HeapStats::get().total_blocks;
        }
    }
    (dhat::HeapStats::get().total_blocks - before) / CALLS
}

/// A server with jobs in memory.
async fn serve() -> GrpcServer {
    let hub = Arc::new(Hub::default());
    let store = Arc::new(MemoryStore::new(1000, hub.clone()));
    let tracker = Arc::new(Tracker::new(store, hub, Arc::new(SystemClock), RETENTION));
    GrpcServer::new(tracker, Authenticator::open_to_all(), true).await
}

/// Makes a call, which succeeds.
async fn call(face: &GrpcServer, method: &str, message: &impl Message) {
    let answer = face.service.clone().oneshot(request(method, message)).await.expect("it answers");
    let answer = answer.into_body().collect().await.expect("an answer");
    let status = answer.trailers().and_then(|trailers| trailers.get("grpc-status"));
    assert_eq!(status.map(HeaderValue::as_bytes), Some(&b"0"[..]), "{method}");
}

/// A document with one field.
fn document(value: Value) -> Struct {
    Struct { fields: [("k".to_owned(), value)].into() }
}

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

fn list(values: impl Iterator<Item = Value>) -> Value {
    value(Kind::ListValue(ListValue { values: values.collect() }))
}

/// Legal documents of which each would be many times as large if it were a tree.
fn dense_documents() -> [(&'static str, Struct); 4] {
    let null = || Struct { fields: [(String::new(), value(Kind::NullValue(0)))].into() };
    let nested = |depth| (1..depth).fold(null(), |inner, _| document(value(Kind::StructValue(inner))));
    let numbers = (0..90_000).map(|number| value(Kind::NumberValue(number.into())));
    [
        ("a table of numbers", document(list(numbers))),
        ("objects of nothing", document(list((0..90_000).map(|_| value(Kind::StructValue(null())))))),
        ("nested objects", document(list((0..6_000).map(|_| value(Kind::StructValue(nested(14))))))),
        ("a text", document(value(Kind::StringValue("x".repeat(1_000_000))))),
    ]
}

#[tokio::test]
async fn documents_occupy_little_more_than_they_have_bytes() {
    let _counting = COUNTING.lock().await;
    let documents = dense_documents().map(|(name, document)| (name, EncodedStruct::from(document)));
    let _profiler = dhat::Profiler::builder().testing().build();
    let face = serve().await;
    for (number, (name, document)) in documents.into_iter().enumerate() {
        let size = document.encoded_len();
        let job_id = format!("job-{number}");
        let creation = CreateJobRequest { job_id: job_id.clone(), kind: "k".to_owned(), ..CreateJobRequest::default() };
        call(&face, "CreateJob", &creation).await;
        let completion =
            CompleteJobRequest { job_id: job_id.clone(), result: Some(document), ..CompleteJobRequest::default() };
        let before = dhat::HeapStats::get();
        call(&face, "CompleteJob", &completion).await;
        let held = dhat::HeapStats::get();
        let growth = held.curr_bytes - before.curr_bytes;
        assert!(growth <= size + size / 5 + JOB, "{name} of {size} bytes occupies {growth}");
        assert!(held.total_blocks - before.total_blocks < 120, "{name} is not taken to pieces");
        let read = GetJobRequest { job_id, ..GetJobRequest::default() };
        call(&face, "GetJob", &read).await;
        let after = dhat::HeapStats::get();
        assert!(after.total_blocks - held.total_blocks < 100, "{name} is not put together");
        let copied = after.total_bytes - held.total_bytes;
        assert!(copied < 4 * size as u64, "reading {name} of {size} bytes takes {copied}");
    }
}

#[tokio::test]
async fn deleted_jobs_leave_little_behind() {
    const JOBS: usize = 50;
    let _counting = COUNTING.lock().await;
    let text = |size| EncodedStruct::from(document(value(Kind::StringValue("x".repeat(size)))));
    let _profiler = dhat::Profiler::builder().testing().build();
    let face = serve().await;
    let ids: Vec<_> = (0..JOBS).map(|number| format!("job-{number}")).collect();
    let before = dhat::HeapStats::get().curr_bytes;
    for job_id in &ids {
        let creation = CreateJobRequest {
            job_id: job_id.clone(),
            kind: "k".to_owned(),
            title: "t".repeat(250),
            metadata: Some(text(10_000)),
            ..CreateJobRequest::default()
        };
        call(&face, "CreateJob", &creation).await;
        let failure = v1::Failure { message: "m".repeat(10_000), details: Some(text(10_000)), ..Default::default() };
        let failure = v1::FailJobRequest { job_id: job_id.clone(), failure: Some(failure), ..Default::default() };
        call(&face, "FailJob", &v1::FailJobRequest { retry: true, ..failure.clone() }).await;
        call(&face, "FailJob", &failure).await;
    }
    let held = dhat::HeapStats::get().curr_bytes - before;
    for job_id in &ids {
        call(&face, "DeleteJob", &v1::DeleteJobRequest { job_id: job_id.clone(), force: true }).await;
    }
    let left = dhat::HeapStats::get().curr_bytes - before;
    assert!(held > JOBS * 30_000 && left < JOBS * JOB, "of {held} bytes {left} are left");
}

/// Jobs with and without each of what makes them large.
fn jobs() -> Vec<Job> {
    let document = |size: usize| {
        let encoded = document(value(Kind::StringValue("x".repeat(size)))).encode_to_vec();
        Document::parse(encoded).expect("a document")
    };
    let at = |micros| Timestamp::from_micros(micros);
    let change =
        |now| ChangeContext { now: at(now), change_id: ChangeId { process: 1, counter: 1 }, retention: RETENTION };
    let next = |job: &Job, what: Change, now| match job.apply(&what, &change(now)).expect("it applies") {
        Applied::Changed(next) => *next,
        other => panic!("{other:?}"),
    };
    let create = |new: NewJob| Job::create(JobId::parse("job").expect("an id"), new, None, Uuid::nil(), &change(1));
    let plain = create(NewJob { kind: "k".to_owned(), ..NewJob::default() });
    let described = create(NewJob {
        request_id: Some("request".to_owned()),
        kind: "video.render".to_owned(),
        owner: "media".to_owned(),
        title: "t".repeat(200),
        labels: [("team".to_owned(), "a".repeat(100)), ("b".to_owned(), "c".to_owned())].into(),
        metadata: Some(document(10_000)),
        ..NewJob::default()
    });
    let progress = Progress {
        unit: Some("frames".to_owned()),
        stage: Some("s".repeat(200)),
        message: Some("m".repeat(4000)),
        details: Some(document(4000)),
        ..Progress::default()
    };
    let report = Report { progress, worker: "w".repeat(100), ..Report::default() };
    let running = next(&described, Change::Report(report), 2);
    let failure = |size| Failure {
        code: FailureCode::UNKNOWN,
        reason: "REASON".to_owned(),
        message: "f".repeat(size),
        details: Some(document(size)),
    };
    let end = |size| Completion { outcome: failure(size), attempt: None, claim: None, expected_revision: None };
    let retried = next(&running, Change::Retry(end(2000)), 3);
    let asked =
        Change::Cancel { reason: "r".repeat(1000), requester: "q".repeat(100), force: false, grace: Duration::ZERO };
    let cancelled = next(&running, asked, 3);
    let failed = next(&running, Change::Fail(end(9000)), 3);
    let result = Completion { outcome: Some(document(500_000)), attempt: None, claim: None, expected_revision: None };
    let done = next(&plain, Change::Complete(result), 2);
    vec![plain, described, running, retried, cancelled, failed, done]
}

#[tokio::test]
async fn size_of_a_job_is_what_it_occupies() {
    let _counting = COUNTING.lock().await;
    let texts: Vec<_> = jobs().iter().map(|job| serde_json::to_string(job).expect("it can be written")).collect();
    let _profiler = dhat::Profiler::builder().testing().build();
    for text in texts {
        let before = dhat::HeapStats::get().curr_bytes;
        // Read anew, it shares nothing with others.
        let job: Arc<Job> = Arc::new(serde_json::from_str(&text).expect("it was written so"));
        let occupied = dhat::HeapStats::get().curr_bytes - before;
        let size = job.size();
        assert!(size.abs_diff(occupied) <= occupied / 20, "{size} instead of {occupied}: {text:.300}");
    }
}

/// The allocator has pieces of 640 bytes, and none between these and 768 bytes.
#[test]
fn a_job_with_its_counts_fits_a_piece_of_640_bytes() {
    let size = size_of::<[usize; 2]>() + size_of::<Job>();
    assert!(size <= 640, "{size}");
}

/// Jobs as the benchmark of memory has them: a running one of about 300 bytes as an answer.
#[tokio::test]
async fn a_job_occupies_no_more_than_it_did() {
    // As many as there is room for in the table of hashes before it is doubled.
    const JOBS: usize = 896;
    let _counting = COUNTING.lock().await;
    let _profiler = dhat::Profiler::builder().testing().build();
    let face = serve().await;
    let before = dhat::HeapStats::get().curr_bytes;
    for number in 0..JOBS {
        let job_id = format!("0123456789ab-{number:09}");
        let creation = CreateJobRequest {
            job_id: job_id.clone(),
            kind: "video.render".to_owned(),
            owner: format!("owner-{}", number % 10),
            labels: [("team".to_owned(), "media".to_owned()), ("region".to_owned(), "eu-west-1".to_owned())].into(),
            ..CreateJobRequest::default()
        };
        call(&face, "CreateJob", &creation).await;
        let progress = v1::Progress {
            completed: Some(1_000_000),
            total: Some(1_000_000_000),
            unit: Some("frames".to_owned()),
            stage: Some("rendering".to_owned()),
            stage_index: Some(2),
            stage_count: Some(4),
            message: Some("rendering the second of four passes at full resolution".to_owned()),
            ..v1::Progress::default()
        };
        let worker = "worker-17.render.example".to_owned();
        let report =
            UpdateProgressRequest { job_id, progress: Some(progress), worker, ..UpdateProgressRequest::default() };
        call(&face, "UpdateProgress", &report).await;
    }
    let occupied = (dhat::HeapStats::get().curr_bytes - before) / JOBS;
    // With what the allocator adds to each piece it must be less than 1350.
    assert!(occupied <= 1150, "a job occupies {occupied} bytes");
}

/// Opens a connection of HTTP/2, on which nothing happens then.
async fn connect(address: SocketAddr) -> TcpStream {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const ACKNOWLEDGED: &[u8] = &[0, 0, 0, 4, 1, 0, 0, 0, 0];
    let mut stream = TcpStream::connect(address).await.expect("the server listens");
    stream.write_all(&[PREFACE, SETTINGS].concat()).await.expect("the server reads");
    let mut said = Vec::new();
    while !said.windows(ACKNOWLEDGED.len()).any(|words| words == ACKNOWLEDGED) {
        assert!(stream.read_buf(&mut said).await.expect("the server answers") > 0, "the server has closed it");
    }
    stream.write_all(ACKNOWLEDGED).await.expect("the server reads");
    stream
}

#[tokio::test]
async fn an_idle_connection_occupies_no_more_than_it_did() {
    const CONNECTIONS: usize = 50;
    let _counting = COUNTING.lock().await;
    let _profiler = dhat::Profiler::builder().testing().build();
    let face = serve().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let (tasks, quotas, stop) = (TaskTracker::new(), Arc::new(Quotas::default()), CancellationToken::new());
    let served = jobtrack::grpc::serve(listener, None, face.service.clone(), tasks, quotas, stop, ready(()));
    tokio::spawn(served);
    let mut open = vec![connect(address).await];
    let before = dhat::HeapStats::get().curr_bytes;
    for _ in 0..CONNECTIONS {
        open.push(connect(address).await);
    }
    let occupied = (dhat::HeapStats::get().curr_bytes - before) / CONNECTIONS;
    assert!(occupied <= 42_000, "a connection occupies {occupied} bytes");
}

#[tokio::test]
async fn calls_allocate_no_more_than_they_did() {
    let _counting = COUNTING.lock().await;
    let _profiler = dhat::Profiler::builder().testing().build();
    let face = serve().await;
    let id = |number: u64| format!("job-{number:04}");
    let kind = "video.render".to_owned();
    let created = (0..=CALLS).map(|number| CreateJobRequest {
        job_id: id(number),
        kind: kind.clone(),
        owner: "media".to_owned(),
        labels: [("team".to_owned(), "media".to_owned())].into(),
        ..CreateJobRequest::default()
    });
    let creation = count(&face, "CreateJob", created).await;
    let reports = (0..=CALLS).map(|number| UpdateProgressRequest {
        job_id: id(7),
        progress: Some(v1::Progress {
            completed: Some(number.cast_signed()),
            total: Some(1000),
            ..v1::Progress::default()
        }),
        worker: "worker-1".to_owned(),
        ..UpdateProgressRequest::default()
    });
    let report = count(&face, "UpdateProgress", reports).await;
    let reads = (0..=CALLS).map(|_| GetJobRequest { job_id: id(7), ..GetJobRequest::default() });
    let read = count(&face, "GetJob", reads).await;
    // A change that saves some lowers these.
    assert_eq!((read, report, creation), (47, 54, 57));
}
