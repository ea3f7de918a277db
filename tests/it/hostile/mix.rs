//! Hostile peers of every kind beside honest callers, for as long as `tests/run.sh --hostile` says.

use std::{
    env,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use hdrhistogram::Histogram;
use jobtrack::proto::v1::{
    BatchGetJobsRequest, CompleteJobRequest, DeleteJobRequest, GetStatsRequest, UpdateProgressRequest, WatchJobsRequest,
};
use prost::Message;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::pb::HealthCheckRequest;

use super::readers::large_jobs;
use crate::support::{
    Client, create, new_job,
    process::Process,
    raw::{Raw, frame, frame_as, unread},
    replicas::read,
};

/// Budget of the server, in bytes.
const BUDGET: u64 = 256 << 20;

/// Honest callers.
const CALLERS: usize = 64;

/// Connections that they share.
const CONNECTIONS: usize = 8;

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
                // What honest callers leave behind is not to be mistaken for what hostile peers do.
                _ => client.delete_job(DeleteJobRequest { job_id: job_id.clone(), force: false }).await.err(),
            };
            assert!(failed.is_none(), "an honest call failed in step {step}: {failed:?}");
            let micros = u64::try_from(begun.elapsed().as_micros()).expect("not that long");
            latencies.lock().expect("no caller panics here").record(micros).expect("it is resized");
            sleep(Duration::from_millis(5)).await;
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
    /// Read large answers as fast as they can.
    Greedy,
}

const KINDS: [Kind; 6] =
    [Kind::Unread, Kind::UnreadWatches, Kind::Unfinished, Kind::Health, Kind::Silent, Kind::Greedy];

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
        Kind::Silent => {
            let mut stream = TcpStream::connect(server.address).await.expect("it listens");
            stream.write_all(b"POST /jobtrack.v1.JobService/GetJob HTTP/1.1\r\nhost: x\r\n").await.expect("it is open");
            sleep(Duration::from_secs(10)).await;
            return;
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
    if matches!(kind, Kind::Greedy) {
        join_all(calls.into_iter().map(|(response, _)| crate::support::raw::answer(response))).await;
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
    for kind in KINDS.repeat(3) {
        let (server, job_ids, attacks) = (server.clone(), job_ids.clone(), attacks.clone());
        peers.spawn(stop.clone().run_until_cancelled_owned(async move {
            loop {
                attack(kind, &server, &job_ids).await;
                attacks.fetch_add(1, Relaxed);
            }
        }));
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
