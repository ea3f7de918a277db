//! A large reconciliation, while callers are served.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use jobtrack::proto::v1::{Durability, JobFilter, ListJobsRequest, job::State};
use redis::{Client as RedisClient, Value, from_redis_value, pipe};
use tokio::time::{sleep, timeout};

use super::{assert_stored, load::Load};
use crate::support::{
    Client, Server, create,
    pace::scaled,
    records::ask,
    redis::Redis,
    replicas::{server_on, stats, whole},
    watching::complete,
};

/// Number of jobs that are created while Redis is unavailable.
const DIRTY: usize = 10_000;

/// Number of these jobs that end.
const ENDED: usize = 2000;

/// Number of callers that continue during the reconciliation.
const CALLERS: usize = 8;

/// Maximum duration of a call during such a reconciliation, in an unoptimized build.
const SLOW: Duration = Duration::from_secs(1);

fn id(number: usize) -> String {
    format!("dirty-{number}")
}

/// Creates the jobs, some at a time, and ends some of them.
async fn make_all(client: &Client) {
    let made = stream::iter(0..DIRTY).map(|number| {
        let mut client = client.clone();
        async move {
            assert_eq!(create(&mut client, &id(number)).await.durability(), Durability::Volatile);
            if number >= DIRTY - ENDED {
                complete(&mut client, &id(number)).await;
            }
        }
    });
    made.buffer_unordered(64).for_each(async |()| {}).await;
}

/// Returns the arguments of the script call that creates a job.
async fn creation(redis: &Redis, client: &mut Client) -> Vec<Vec<u8>> {
    let monitor = RedisClient::open(redis.url())
        .expect("a valid address")
        .get_async_monitor()
        .await
        .expect("Redis can be monitored");
    let mut lines = monitor.into_on_message::<Value>();
    create(client, "template").await;
    let found = timeout(SLOW * 10, async {
        loop {
            let line = lines.next().await.expect("it goes on");
            let line: String = from_redis_value(line).expect("text");
            let call = line.split_once("] ").map_or("", |(_, call)| call);
            if call.contains("template") && call.to_ascii_uppercase().starts_with("\"EVALSHA\"") {
                return words(call);
            }
        }
    });
    found.await.expect("the job is created by a script")
}

/// Returns the quoted words of a line.
fn words(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut bytes = line.bytes().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'"' {
            continue;
        }
        let mut word = Vec::new();
        while let Some(byte) = bytes.next().filter(|byte| *byte != b'"') {
            word.push(match byte {
                b'\\' => escaped(&mut bytes),
                byte => byte,
            });
        }
        words.push(word);
    }
    words
}

/// Returns the byte that follows a backslash in a line of MONITOR.
fn escaped(bytes: &mut impl Iterator<Item = u8>) -> u8 {
    let mut next = || bytes.next().expect("something is escaped");
    match next() {
        b'x' => {
            let digits = [next(), next()];
            let digits = std::str::from_utf8(&digits).expect("hexadecimal digits");
            u8::from_str_radix(digits, 16).expect("hexadecimal digits")
        }
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'a' => 7,
        b'b' => 8,
        byte => byte,
    }
}

/// Returns the time that the same script calls take in a pipeline of one connection.
async fn raw_time(redis: &Redis, client: &mut Client) -> Duration {
    let words = creation(redis, client).await;
    let raw = RedisClient::open(redis.url()).expect("a valid address");
    let mut connection = raw.get_multiplexed_async_connection().await.expect("it connects");
    let begun = Instant::now();
    for batch in 0..DIRTY / 100 {
        let mut commands = pipe();
        for number in 0..100 {
            let id = format!("raw-{}", batch * 100 + number);
            let command = commands.cmd("EVALSHA");
            for word in &words[1..] {
                let text = String::from_utf8_lossy(word).replace("template", &id);
                command.arg(text);
            }
            command.ignore();
        }
        commands.query_async::<()>(&mut connection).await.expect("they are stored");
    }
    begun.elapsed()
}

/// Returns the maximum number of connections that the server has during `going_on`: for calls and for its subscription.
async fn most_connections(redis: &Redis, going_on: impl Future<Output = ()>) -> usize {
    let count = async || {
        let list: String = ask(redis, &["CLIENT", "LIST"]).await;
        list.lines().filter(|line| !line.contains("cmd=client")).count()
    };
    let mut most = 0;
    tokio::pin!(going_on);
    loop {
        tokio::select! {
            () = &mut going_on => return most,
            now = count() => most = most.max(now),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until `server` has no dirty job. Returns the times at which the first and the last were stored.
async fn reconciled(server: &Server) -> (Instant, Instant) {
    let mut admin = server.admin().await;
    let all = stats(&mut admin).await.dirty_jobs;
    let mut begun = None;
    loop {
        let dirty = stats(&mut admin).await.dirty_jobs;
        if dirty < all {
            begun.get_or_insert_with(Instant::now);
        }
        if dirty == 0 {
            let now = Instant::now();
            return (begun.unwrap_or(now), now);
        }
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_dirty_jobs_are_stored_while_callers_are_served() {
    let mut redis = Redis::start().await;
    let server = server_on(&redis).await;
    let mut client = server.client().await;
    let raw = raw_time(&redis, &mut client).await;
    redis.restart_empty().await;
    whole(&server).await;
    let load = Load::start(&[server.client().await, server.client().await], CALLERS).await;
    redis.kill();
    make_all(&client).await;

    redis.restart_empty().await;
    let back = Instant::now();
    let mut times = None;
    let most = most_connections(&redis, async { times = Some(reconciled(&server).await) }).await;
    let (begun, ended) = times.expect("it was waited for");
    whole(&server).await;
    let took = ended - begun;
    println!(
        "{DIRTY} dirty jobs: stored in {took:?}, begun {:?} after Redis was back; raw {raw:?}, ratio {:.1}; at most \
         {most} connections",
        begun - back,
        took.as_secs_f64() / raw.as_secs_f64()
    );
    load.durable_since(Instant::now()).await;
    let tally = load.stop(&mut client).await;
    tally.assert_good("during the reconciliation", scaled(SLOW).await);

    let reported = stats(&mut server.admin().await).await.last_reconciliation.expect("there was one");
    assert!(usize::try_from(reported.merged_count).is_ok_and(|merged| merged >= DIRTY), "{}", reported.merged_count);
    assert_eq!((reported.conflicted_count, reported.dropped_count), (0, 0));
    let ended: HashSet<_> = (DIRTY - ENDED..DIRTY).map(id).collect();
    let late = reported.jobs.iter().filter(|job| ended.contains(&job.job_id)).count();
    assert_eq!(late, 0, "of the last {} jobs that were stored", reported.jobs.len());

    let other = server_on(&redis).await;
    let mut elsewhere = other.client().await;
    for number in (0..DIRTY).step_by(97) {
        assert_stored(&mut elsewhere, &id(number), if number >= DIRTY - ENDED { 2 } else { 1 }).await;
    }
    let filter = Some(JobFilter { states: vec![State::Succeeded as i32], ..JobFilter::default() });
    let request = ListJobsRequest { filter, page_size: 1, ..ListJobsRequest::default() };
    let listed = elsewhere.list_jobs(request).await.expect("a page").into_inner();
    assert_eq!(listed.total_size.and_then(|total| total.try_into().ok()), Some(ENDED));
    // Two carry calls and two the pushed jobs; one more probes Redis, and one has the subscription.
    assert!(most <= 6, "{most} connections at once");
    server.stop().await;
    other.stop().await;
}
