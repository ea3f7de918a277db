//! Indexes are repaired where they are read, and sweepers share the due records.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::StreamExt;
use jobtrack::proto::v1::{CreateJobRequest, Event, JobFilter, ListJobsRequest, WatchJobsRequest, job::State};
use redis::{Client as RedisClient, Value, from_redis_value};
use tokio::{
    join,
    sync::oneshot,
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::Code;

use super::{WAIT_TIMEOUT, each, ids};
use crate::support::{
    Client, Server, new_job, owned,
    process::Process,
    reason,
    records::key_of,
    redis::Redis,
    replicas::{stats, whole},
    until,
    watching::{Watch, millis, try_complete, try_report, watch_jobs},
};

/// Maximum number of jobs of an owner.
const QUOTA: usize = 30;

/// Number of jobs whose records vanish.
const VANISHED: usize = 12;

/// Number of jobs that expire together.
const EXPIRING: usize = 300;

/// Retention of these jobs in milliseconds: longer than it takes to end all of them.
const KEPT: i64 = 6000;

/// Reads a list to its end, in small pages. Returns the ids, and the total of the last page.
async fn list(client: &mut Client, filter: &JobFilter) -> (BTreeSet<String>, Option<i64>) {
    let mut request = ListJobsRequest { filter: Some(filter.clone()), page_size: 7, ..ListJobsRequest::default() };
    let mut ids = BTreeSet::new();
    loop {
        let page = client.list_jobs(request.clone()).await.expect("a page").into_inner();
        ids.extend(page.jobs.into_iter().map(|job| job.id));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return (ids, page.total_size);
        }
    }
}

/// Returns one filter for each index.
fn filters() -> [JobFilter; 4] {
    [
        JobFilter::default(),
        JobFilter { states: vec![State::Pending.into()], ..JobFilter::default() },
        JobFilter { owner: "o".to_owned(), ..JobFilter::default() },
        JobFilter { kind: "test.work".to_owned(), ..JobFilter::default() },
    ]
}

/// Creates as many jobs as the quota in `flags` allows, and stops the server: then no replica has them in memory.
async fn use_up_quota(flags: &[&str]) -> Vec<String> {
    let all = ids("j", QUOTA);
    let server = Server::with(flags).await;
    for made in
        each(&server.client().await, &all, async |mut client, id| client.create_job(owned(&id, "o")).await).await
    {
        made.expect("the quota has room");
    }
    server.stop().await;
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_vanished_leave_lists_totals_counts_and_quotas() {
    let redis = Redis::start().await;
    let flags = ["--redis-url", &redis.url(), "--max-jobs-per-owner", &QUOTA.to_string()];
    let all = use_up_quota(&flags).await;
    for id in &all[..VANISHED] {
        redis.command(&["DEL", &key_of(&redis, id).await]).await;
    }
    let server = Server::with(&flags).await;
    whole(&server).await;
    let mut client = server.client().await;
    for filter in filters() {
        list(&mut client, &filter).await;
    }
    let left: BTreeSet<_> = all[VANISHED..].iter().cloned().collect();
    let count = i64::try_from(left.len()).expect("few");
    for filter in filters() {
        assert_eq!(list(&mut client, &filter).await, (left.clone(), Some(count)), "{filter:?}");
    }
    let stats = stats(&mut server.admin().await).await;
    let pending = stats.state_counts.iter().find(|counted| counted.state() == State::Pending);
    assert_eq!(pending.map(|counted| counted.count), Some(count), "{stats:?}");
    assert_eq!(stats.jobs_in_redis, Some(count), "{stats:?}");
    for number in 0..VANISHED {
        client.create_job(owned(&format!("new-{number}"), "o")).await.expect("the quota has room again");
    }
    let refused = client.create_job(owned("one-more", "o")).await.expect_err("the quota is used up");
    assert_eq!((refused.code(), &*reason(&refused)), (Code::ResourceExhausted, "TOO_MANY_JOBS"));
    // The ids of the vanished records are free.
    server.stop().await;
    let server = Server::with(&["--redis-url", &redis.url()]).await;
    server.client().await.create_job(owned(&all[0], "o")).await.expect("the id is free");
    server.stop().await;
}

/// Nobody lists them: the caller whose quota seems used up has it looked into.
#[tokio::test(flavor = "multi_thread")]
async fn quota_has_room_again_when_records_vanished() {
    let redis = Redis::start().await;
    let flags = ["--redis-url", &redis.url(), "--max-jobs-per-owner", &QUOTA.to_string()];
    let all = use_up_quota(&flags).await;
    redis.command(&["DEL", &key_of(&redis, &all[0]).await]).await;
    let server = Server::with(&flags).await;
    whole(&server).await;
    let mut client = server.client().await;
    client.create_job(owned("new", "o")).await.expect("the quota has room again");
    let refused = client.create_job(owned("one-more", "o")).await.expect_err("the quota is used up");
    assert_eq!((refused.code(), &*reason(&refused)), (Code::ResourceExhausted, "TOO_MANY_JOBS"));
    server.stop().await;
}

/// Creates jobs that end now and expire together.
async fn make_brief(client: &Client, ids: &[String]) {
    let made = each(client, ids, async |mut client, id| {
        client.create_job(CreateJobRequest { retention: millis(KEPT), ..new_job(&id) }).await?;
        try_complete(&mut client, &id, None).await
    });
    for made in made.await {
        made.expect("it can be made");
    }
}

/// Counts the script calls that name each of these jobs, from now until it is told to stop.
async fn count_script_calls(redis: &Redis, mut stop: oneshot::Receiver<()>) -> BTreeMap<String, usize> {
    let client = RedisClient::open(redis.url()).expect("a valid address");
    let monitor = client.get_async_monitor().await.expect("Redis can be monitored");
    let mut lines = monitor.into_on_message::<Value>();
    let mut calls = BTreeMap::new();
    loop {
        let line = tokio::select! { line = lines.next() => line.expect("it goes on"), _ = &mut stop => return calls };
        let line: String = from_redis_value(line).expect("text");
        let call = line.split_once("] ").map_or("", |(_, call)| call);
        // Commands within scripts are shown, too, and not counted.
        if !["\"EVALSHA", "\"EVAL\"", "\"FCALL"].iter().any(|name| call.to_ascii_uppercase().starts_with(name)) {
            continue;
        }
        let words = call.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        let named: BTreeSet<_> = words.filter(|word| word.starts_with("brief-")).collect();
        for id in named {
            *calls.entry(id.to_owned()).or_default() += 1;
        }
    }
}

/// Reads a stream until all these jobs were removed, and for a moment more. Fails if one is removed twice.
async fn assert_each_goes_once(mut stream: Watch, ids: &[String]) {
    let mut gone = BTreeSet::new();
    let all_gone = async {
        while gone.len() < ids.len() {
            let seen = stream.next().await;
            if seen.event == Event::Removed {
                assert!(gone.insert(seen.id().to_owned()), "it goes again: {seen:?}");
            }
        }
    };
    timeout(WAIT_TIMEOUT, all_gone).await.unwrap_or_else(|_| panic!("so many expired: {}", gone.len()));
    let more = timeout(Duration::from_secs(1), stream.until(|seen| seen.event == Event::Removed)).await;
    assert!(more.is_err(), "one more goes: {more:?}");
}

/// No caller lists the jobs, and no replica has them in memory: without a repair they would be due for ever.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_vanished_leave_the_deadlines() {
    let redis = Redis::start().await;
    let flags = ["--redis-url", &redis.url()];
    // The sweeper starts before, because a start reads some lists.
    let sweeper = Server::with(&flags).await;
    let server = Server::with(&flags).await;
    let mut client = server.client().await;
    let leased = CreateJobRequest { lease_timeout: millis(KEPT), ..new_job("leased") };
    client.create_job(leased).await.expect("it can be created");
    try_report(&mut client, "leased").await.expect("it can be reported on");
    let ended = CreateJobRequest { retention: millis(KEPT), ..new_job("ended") };
    client.create_job(ended).await.expect("it can be created");
    try_complete(&mut client, "ended", None).await.expect("it can be completed");
    server.stop().await;
    let mut vanished = Vec::new();
    for (id, set) in [("leased", "lease"), ("ended", "expire")] {
        let key = key_of(&redis, id).await;
        redis.command(&["DEL", &key]).await;
        let partition = key.split(':').nth(1).expect("a partition");
        vanished.push((id, format!("jobs:{partition}:{set}")));
    }
    for (id, deadlines) in vanished {
        until(id, async || (redis.command(&["ZSCORE", &deadlines, id]).await == Value::Nil).then_some(())).await;
    }
    sweeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_expiry_is_done_by_one_of_three_sweepers() {
    let redis = Redis::start().await;
    let url = redis.url();
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(Server::with(&["--redis-url", &url]).await);
    }
    let brief = ids("brief", EXPIRING);
    make_brief(&servers[0].client().await, &brief).await;
    let mut streams = JoinSet::new();
    for server in &servers {
        let mut stream = watch_jobs(&server.client().await, WatchJobsRequest::default()).await;
        let listed = stream.until_bookmark().await;
        assert_eq!(listed.len(), EXPIRING + 1, "some expired too early for this test");
        let brief = brief.clone();
        streams.spawn(async move { assert_each_goes_once(stream, &brief).await });
    }
    let (stop, stopped) = oneshot::channel();
    let (calls, ()) = join!(count_script_calls(&redis, stopped), async {
        while let Some(stream) = streams.join_next().await {
            stream.expect("each expires once");
        }
        _ = stop.send(());
    });
    let attempts: usize = calls.values().sum();
    println!("{attempts} calls of scripts for {EXPIRING} expiries");
    assert_eq!(calls.len(), EXPIRING, "each is done by a script");
    assert!(attempts < EXPIRING * 4 / 3, "{attempts} calls of scripts for {EXPIRING} expiries");
    for server in servers {
        server.stop().await;
    }
}

/// Other sweepers handle the share of one that is killed.
#[tokio::test(flavor = "multi_thread")]
async fn sweepers_take_over_from_one_that_is_killed() {
    let redis = Redis::start().await;
    let flags = ["--redis-url", &redis.url()];
    let processes = [Process::start(&flags), Process::start(&flags), Process::start(&flags)];
    let brief = ids("brief", EXPIRING);
    make_brief(&processes[0].client().await, &brief).await;
    processes[0].signal("KILL");
    processes[1].signal("STOP");
    let mut admin = processes[2].admin().await;
    until("all have expired", async || (stats(&mut admin).await.jobs_in_redis == Some(0)).then_some(())).await;
    // The suspended sweeper finds its share done.
    processes[1].signal("CONT");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(stats(&mut admin).await.jobs_in_redis, Some(0), "it brought something back");
}
