//! Hostile peers of every kind beside honest callers, for as long as `tests/run.sh --hostile` says.

use std::{
    env,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::join_all};
use hdrhistogram::Histogram;
use jobtrack::proto::v1::{
    BatchGetJobsRequest, CompleteJobRequest, DeleteJobRequest, GetStatsRequest, UpdateProgressRequest, WatchJobsRequest,
};
use prost::Message;
use prost_types::{ListValue, Struct, Value, value::Kind as ValueKind};
use rustix::process::setpriority_process;
use tokio::{io::AsyncWriteExt, net::TcpStream, runtime::Builder, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::pb::HealthCheckRequest;
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request::MessageRequest};

use super::readers::large_jobs;
use crate::support::{
    Client, create, new_job,
    process::Process,
    raw::{Raw, answer, frame, frame_as, unread},
    replicas::read,
};

/// Budget of the server, in bytes.
const BUDGET: u64 = 256 << 20;

/// Honest callers.
const CALLERS: usize = 64;

/// Connections that they share.
const CONNECTIONS: usize = 8;

/// Pause of an honest caller after each call. All honest callers together leave the server idle for most of the time:
/// on a busy one, latency would measure the load rather than the hostile peers.
const PAUSE: Duration = Duration::from_millis(20);

/// Calls that one hostile peer has open at a time.
const CALLS: usize = 20;

/// Time in which everything must have been released after the last hostile peer went away.
const RELEASE: Duration = Duration::from_secs(60);

/// Room of the process besides the budget, in bytes: code, stacks, connections.
const PROCESS_ROOM: u64 = 64 << 20;

/// Latencies of honest calls, in microseconds.
type Latencies = Arc<Mutex<Histogram<u64>>>;

/// Makes honest calls until `stop` is cancelled. Fails if one fails.
async fn call_honestly(mut client: Client, caller: usize, latencies: Latencies, stop: CancellationToken) {
    for number in 0.. {
        let job_id = format!("honest-{caller}-{number}");
        for step in 0..11 {
            if stop.is_cancelled() {
                return;
            }
            let begun = Instant::now();
            let report = UpdateProgressRequest { job_id: job_id.clone(), ..Default::default() };
            let end = CompleteJobRequest { job_id: job_id.clone(), ..Default::default() };
            let failed = match step {
                0 => client.create_job(new_job(&job_id)).await.err(),
                1..=4 => client.update_progress(report).await.err(),
                5..=8 => client.get_job(read(&job_id)).await.err(),
                9 => client.complete_job(end).await.err(),
                // Jobs of honest callers that stayed would count as memory that hostile peers have not released.
                _ => client.delete_job(DeleteJobRequest { job_id: job_id.clone(), force: false }).await.err(),
            };
            assert!(failed.is_none(), "an honest call failed in step {step}: {failed:?}");
            let micros = u64::try_from(begun.elapsed().as_micros()).expect("not that long");
            latencies.lock().expect("no caller panics here").record(micros).expect("it is resized");
            sleep(PAUSE).await;
        }
    }
}

/// Runs honest callers for so long. Returns the 99th percentile of their latencies in microseconds, and their number.
async fn honest(server: &Process, time: Duration, name: usize) -> (u64, u64) {
    let latencies = Latencies::new(Mutex::new(Histogram::new(3).expect("three digits")));
    let stop = CancellationToken::new();
    let clients = join_all((0..CONNECTIONS).map(|_| server.client())).await;
    let callers = (0..CALLERS).map(|caller| {
        let client = clients[caller % CONNECTIONS].clone();
        tokio::spawn(call_honestly(client, name * CALLERS + caller, latencies.clone(), stop.clone()))
    });
    let callers: Vec<_> = callers.collect();
    sleep(time).await;
    stop.cancel();
    for caller in callers {
        caller.await.expect("no honest call fails");
    }
    let latencies = latencies.lock().expect("no caller panics here");
    (latencies.value_at_quantile(0.99), latencies.len())
}

/// Kinds of hostile peers.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Read no answer.
    Unread,
    /// Open watches and read none.
    UnreadWatches,
    /// Begin large requests and do not end them.
    Unfinished,
    /// Open watches of health and read none.
    Health,
    /// Say a few bytes of HTTP/1.1 and no more.
    Silent,
    /// Ask for large answers by gRPC-Web over HTTP/1.1 and read none.
    Web,
    /// Ask reflection for everything and read no answer.
    Reflection,
    /// Read large answers as fast as they can.
    Greedy,
    /// Send large documents as fast as they can.
    Documents,
}

const KINDS: [Kind; 9] = [
    Kind::Unread,
    Kind::UnreadWatches,
    Kind::Unfinished,
    Kind::Health,
    Kind::Silent,
    Kind::Web,
    Kind::Reflection,
    Kind::Greedy,
    Kind::Documents,
];

/// Hostile peers of each kind.
const PEERS: usize = 2;

/// A request with a document that takes long to check: a table of numbers.
fn heavy_request() -> Vec<u8> {
    let number = || Value { kind: Some(ValueKind::NumberValue(0.5)) };
    let row = || Value { kind: Some(ValueKind::ListValue(ListValue { values: (0..10).map(|_| number()).collect() })) };
    let rows = Value { kind: Some(ValueKind::ListValue(ListValue { values: (0..9_000).map(|_| row()).collect() })) };
    let result = Some(Struct { fields: [("rows".to_owned(), rows)].into() }.into());
    CompleteJobRequest { job_id: "absent".into(), result, ..CompleteJobRequest::default() }.encode_to_vec()
}

/// Sends `text` on a connection of its own, reads nothing, and leaves.
async fn say(server: &Process, text: &[u8]) {
    let mut stream = TcpStream::connect(server.address).await.expect("it listens");
    // It may be closed for what the peers before have done.
    _ = stream.write_all(text).await;
    sleep(Duration::from_secs(10)).await;
}

/// Makes the calls of one peer once, and waits for their ends.
async fn attack(kind: Kind, server: &Process, job_ids: &[String]) {
    let batch = BatchGetJobsRequest { job_ids: job_ids.to_vec(), ..BatchGetJobsRequest::default() }.encode_to_vec();
    let (path, window, deadline, message) = match kind {
        Kind::Unread => ("/jobtrack.v1.JobService/BatchGetJobs", 0, "5S", frame(&batch)),
        Kind::UnreadWatches => {
            ("/jobtrack.v1.JobService/WatchJobs", 0, "10S", frame(&WatchJobsRequest::default().encode_to_vec()))
        }
        Kind::Unfinished => {
            ("/jobtrack.v1.JobService/CompleteJob", 0, "5S", frame_as(0, 2 << 20, &vec![b'x'; 256 * 1024]))
        }
        Kind::Health => {
            ("/grpc.health.v1.Health/Watch", 0, "10S", frame(&HealthCheckRequest::default().encode_to_vec()))
        }
        Kind::Greedy => ("/jobtrack.v1.JobService/BatchGetJobs", 8 << 20, "5S", frame(&batch)),
        Kind::Documents => ("/jobtrack.v1.JobService/CompleteJob", 8 << 20, "5S", frame(&heavy_request())),
        Kind::Reflection => {
            let list = ServerReflectionRequest {
                message_request: Some(MessageRequest::ListServices(String::new())),
                ..ServerReflectionRequest::default()
            };
            let message = frame(&list.encode_to_vec()).repeat(100);
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", 0, "10S", message)
        }
        Kind::Silent => return say(server, b"POST /jobtrack.v1.JobService/GetJob HTTP/1.1\r\nhost: x\r\n").await,
        Kind::Web => {
            let (path, body) = ("/jobtrack.v1.JobService/BatchGetJobs", frame(&batch));
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc-web\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            return say(server, &[head.as_bytes(), &body].concat()).await;
        }
    };
    let raw = Raw::with_window(server.address, window).await;
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        let (response, mut body) = raw.open_at(path, &[("grpc-timeout", deadline)]).await;
        // A server that refuses a call need not read the rest of it.
        _ = body.send_data(message.clone().into(), !matches!(kind, Kind::Unfinished));
        calls.push((response, body));
    }
    if matches!(kind, Kind::Greedy | Kind::Documents) {
        join_all(calls.into_iter().map(|(response, _)| answer(response))).await;
    } else {
        join_all(calls.into_iter().map(|(response, _body)| unread(response))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/run.sh --hostile runs it"]
async fn hostile_peers_disturb_no_honest_caller_for_long() {
    let minutes: u64 = env::var("JOBTRACK_HOSTILE_MINUTES").map_or(1, |text| text.parse().expect("a number"));
    let server = Arc::new(Process::start(&["--max-memory", "256MiB", "--max-memory-jobs", "2000"]));
    let job_ids = large_jobs(&mut server.client().await).await;
    create(&mut server.client().await, "a").await;
    let (alone, _) = honest(&server, Duration::from_secs(20), 0).await;
    let before = server.resident();

    let (stop, peers, attacks) = (CancellationToken::new(), TaskTracker::new(), Arc::new(AtomicU64::new(0)));
    // The lowest priority: they stand for other machines, which take no time of this one.
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .on_thread_start(|| setpriority_process(None, 19).expect("a thread may lower its priority"))
        .build()
        .expect("a runtime");
    for kind in KINDS.repeat(PEERS) {
        let (server, job_ids, attacks) = (server.clone(), job_ids.clone(), attacks.clone());
        let attacking = async move {
            loop {
                // A peer whose connection was closed meanwhile begins again.
                _ = AssertUnwindSafe(attack(kind, &server, &job_ids)).catch_unwind().await;
                attacks.fetch_add(1, Relaxed);
            }
        };
        peers.spawn_on(stop.clone().run_until_cancelled_owned(attacking), runtime.handle());
    }
    let largest = Arc::new(AtomicU64::new(0));
    let (watched, seen) = (server.clone(), largest.clone());
    peers.spawn(stop.clone().run_until_cancelled_owned(async move {
        loop {
            seen.fetch_max(watched.resident(), Relaxed);
            sleep(Duration::from_millis(100)).await;
        }
    }));
    let (beside, calls) = honest(&server, Duration::from_secs(minutes * 60), 1).await;
    stop.cancel();
    peers.close();
    peers.wait().await;
    runtime.shutdown_background();

    let mut admin = server.admin().await;
    let begun = Instant::now();
    let released = async {
        loop {
            let stats = admin.get_stats(GetStatsRequest {}).await.expect("statistics").into_inner();
            if stats.watchers == 0 && server.resident() < before + PROCESS_ROOM {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    let released = tokio::select! { () = released => Some(begun.elapsed()), () = sleep(RELEASE) => None };
    let largest = largest.load(Relaxed);
    println!(
        "{calls} honest calls, {} attacks; p99 {alone} us alone, {beside} us beside; resident {} MiB before, at most {} \
         MiB, released after {released:?}",
        attacks.load(Relaxed),
        before >> 20,
        largest >> 20,
    );
    assert!(released.is_some(), "it holds {} bytes and had {before}", server.resident());
    assert!(largest < BUDGET + PROCESS_ROOM, "{largest} bytes");
    assert!(beside <= 3 * alone, "{beside} us beside, {alone} us alone");
}
