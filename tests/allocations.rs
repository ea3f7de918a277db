//! How many times answering a call allocates. A count and not a time: it is the same on every machine.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Request, Version, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use jobtrack::{
    auth::Authenticator,
    clock::SystemClock,
    domain::Retention,
    grpc::Face,
    proto::v1::{CreateJobRequest, GetJobRequest, Progress, UpdateProgressRequest},
    store::MemoryStore,
    tracker::Tracker,
    watch::Hub,
};
use prost::Message;
use tower::ServiceExt;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// As many calls are counted.
const CALLS: u64 = 100;

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
async fn count(face: &Face, method: &str, messages: impl Iterator<Item = impl Message>) -> u64 {
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

#[tokio::test]
async fn calls_allocate_no_more_than_they_did() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let none = Duration::ZERO;
    let retention = Retention { succeeded: none, failed: none, cancelled: none, active: none };
    let hub = Arc::new(Hub::default());
    let store = Arc::new(MemoryStore::new(1000, hub.clone()));
    let tracker = Arc::new(Tracker::new(store, hub, Arc::new(SystemClock), retention));
    let face = Face::new(tracker, Authenticator::open_to_all(), true).await;
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
        progress: Some(Progress { completed: Some(number.cast_signed()), total: Some(1000), ..Progress::default() }),
        worker: "worker-1".to_owned(),
        ..UpdateProgressRequest::default()
    });
    let report = count(&face, "UpdateProgress", reports).await;
    let reads = (0..=CALLS).map(|_| GetJobRequest { job_id: id(7), ..GetJobRequest::default() });
    let read = count(&face, "GetJob", reads).await;
    // A change that saves some lowers these.
    assert_eq!((read, report, creation), (50, 57, 62));
}
