//! An outage of Redis and its end: no acknowledged change is lost, and no caller gets a wrong answer.

use futures_util::future::join_all;
use jobtrack::proto::v1::{
    CreateJobRequest, Durability, Event, GetStatsRequest, ListJobsRequest, Source, StorageMode, UpdateProgressRequest,
    WatchJobRequest, job::State,
};
use redis::Value;

use crate::support::{
    Client, Server, create, new_job,
    redis::Redis,
    relay::{Link, Relay},
    replicas::{assert_away, degraded, get, in_time, read, server_on, whole},
    watching::{complete, delete, report, try_watch_job, watch},
};

#[tokio::test(flavor = "multi_thread")]
async fn cached_jobs_are_served_in_an_outage() {
    let mut redis = Redis::with(&["--appendonly", "yes"]).await;
    let (server, other) = (server_on(&redis).await, server_on(&redis).await);
    let (mut client, mut elsewhere) = (server.client().await, other.client().await);
    create(&mut client, "held").await;
    create(&mut elsewhere, "elsewhere").await;
    let mut stream = watch(&client, "held").await;
    stream.expect(Event::Snapshot).await;

    redis.kill();
    degraded(&server).await;
    let held = get(&mut client, "held").await;
    assert_eq!(held.source(), Source::Memory);
    assert_eq!(held.job.expect("a job").durability(), Durability::Volatile);
    for id in ["elsewhere", "nowhere"] {
        assert_away(id, &client.get_job(read(id)).await.expect_err("it is not held"));
    }
    let made = create(&mut client, "new").await;
    assert_eq!((made.revision, made.durability()), (1, Durability::Volatile));
    report(&mut client, "held").await;
    let update = stream.update().await;
    assert_eq!((update.revision, update.durability()), (2, Durability::Volatile));
    let page = client.list_jobs(ListJobsRequest::default()).await.expect("a page").into_inner();
    assert!(page.partial && page.total_size.is_none());
    assert_eq!(page.jobs.len(), 2);
    let mut admin = server.admin().await;
    let stats = admin.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner();
    assert_eq!((stats.storage_mode(), stats.dirty_jobs), (StorageMode::Degraded, 2));

    redis.restart().await;
    whole(&server).await;
    for (id, revision) in [("held", 2), ("new", 1), ("elsewhere", 1)] {
        let answer = get(&mut client, id).await;
        assert_eq!(answer.source(), Source::Redis);
        let job = answer.job.expect("a job");
        assert_eq!((job.revision, job.durability()), (revision, Durability::Durable), "{id}");
    }
    let stats = admin.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner();
    assert_eq!((stats.storage_mode(), stats.dirty_jobs), (StorageMode::Redis, 0));
    let reported = stats.last_reconciliation.expect("there was one");
    assert_eq!((reported.merged_count, reported.conflicted_count, reported.dropped_count), (2, 0, 0));
    complete(&mut client, "held").await;
    let end = stream.update().await;
    assert_eq!((end.revision, end.durability(), end.state()), (3, Durability::Durable, State::Succeeded));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_back_empty_is_filled_again() {
    const JOBS: usize = 1000;
    let mut redis = Redis::start().await;
    let server = server_on(&redis).await;
    let client = server.client().await;
    let name = |n: usize| format!("j{n}");
    let acknowledged = async |n: usize| {
        let mut client = client.clone();
        let request = UpdateProgressRequest { job_id: name(n), ..UpdateProgressRequest::default() };
        client.update_progress(request).await.expect("it is accepted").into_inner().job.expect("a job").revision
    };
    join_all((0..JOBS).map(|n| {
        let mut client = client.clone();
        async move { client.create_job(new_job(&name(n))).await.expect("it is created") }
    }))
    .await;
    join_all((0..JOBS).map(&acknowledged)).await;
    let mut streams = Vec::new();
    for n in 0..100 {
        let mut stream = watch(&client, &name(n)).await;
        stream.expect(Event::Snapshot).await;
        streams.push(stream);
    }

    redis.kill();
    let during = join_all((0..JOBS).map(&acknowledged)).await;
    assert!(during.iter().all(|revision| *revision == 3));
    redis.restart_empty().await;
    let after = join_all((0..JOBS).map(&acknowledged)).await;
    whole(&server).await;
    let other = server_on(&redis).await;
    let mut elsewhere = other.client().await;
    for (n, revision) in after.iter().enumerate() {
        let job = get(&mut elsewhere, &name(n)).await.job.expect("a job");
        assert_eq!((job.revision, job.durability()), (*revision, Durability::Durable), "{n}");
    }
    for (n, mut stream) in streams.into_iter().enumerate() {
        complete(&mut elsewhere, &name(n)).await;
        let events = in_time("the end", stream.rest()).await;
        assert_eq!(events.last().expect("an end").state(), State::Succeeded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn independent_changes_of_two_replicas_are_merged_and_reported() {
    let mut redis = Redis::with(&["--appendonly", "yes"]).await;
    let (server, other) = (server_on(&redis).await, server_on(&redis).await);
    let (mut client, mut elsewhere) = (server.client().await, other.client().await);
    create(&mut client, "a").await;
    get(&mut elsewhere, "a").await;
    redis.kill();
    degraded(&server).await;
    degraded(&other).await;
    report(&mut client, "a").await;
    complete(&mut elsewhere, "a").await;
    redis.restart().await;
    whole(&server).await;
    whole(&other).await;
    let (ours, theirs) =
        (get(&mut client, "a").await.job.expect("a job"), get(&mut elsewhere, "a").await.job.expect("a job"));
    assert_eq!(ours, theirs);
    assert_eq!(ours.state(), State::Succeeded);
    let mut conflicts = 0;
    for server in [&server, &other] {
        let stats = server.admin().await.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner();
        conflicts += stats.last_reconciliation.expect("there was one").conflicted_count;
    }
    assert_eq!(conflicts, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_during_an_outage_survives_it() {
    let mut redis = Redis::with(&["--appendonly", "yes"]).await;
    let (server, other) = (server_on(&redis).await, server_on(&redis).await);
    let (mut client, mut elsewhere) = (server.client().await, other.client().await);
    create(&mut client, "a").await;
    get(&mut elsewhere, "a").await;
    redis.kill();
    degraded(&server).await;
    degraded(&other).await;
    delete(&mut client, "a").await;
    redis.restart().await;
    whole(&server).await;
    whole(&other).await;
    for client in [&mut client, &mut elsewhere] {
        assert_eq!(client.get_job(read("a")).await.expect_err("it is gone").code(), tonic::Code::NotFound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_can_be_refused_while_redis_is_unavailable() {
    let mut redis = Redis::with(&["--appendonly", "yes"]).await;
    let server = Server::with(&["--redis-url", &redis.url(), "--fallback", "reject"]).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    redis.kill();
    degraded(&server).await;
    assert_away("create", &client.create_job(new_job("b")).await.expect_err("it is refused"));
    let request = UpdateProgressRequest { job_id: "a".to_owned(), ..UpdateProgressRequest::default() };
    assert_away("report", &client.update_progress(request).await.expect_err("it is refused"));
    assert_eq!(get(&mut client, "a").await.job.expect("a job").revision, 1);
    redis.restart().await;
    whole(&server).await;
    report(&mut client, "a").await;
}

async fn create_twin(client: &mut Client) -> i64 {
    let request = CreateJobRequest { request_id: "r".to_owned(), ..new_job("twin") };
    client.create_job(request).await.expect("it is created").into_inner().job.expect("a job").revision
}

#[tokio::test(flavor = "multi_thread")]
async fn watcher_of_a_losing_twin_receives_the_winner() {
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let (first, second) = (server_on(&redis).await, Server::with(&["--redis-url", &relay.url()]).await);
    let (mut one, mut other) = (first.client().await, second.client().await);
    relay.set_all(Link::Cut);
    degraded(&second).await;
    create_twin(&mut one).await;
    create_twin(&mut other).await;
    let request = WatchJobRequest { job_id: "twin".to_owned(), ..WatchJobRequest::default() };
    let mut stream = try_watch_job(&other, request).await.expect("it is held");
    stream.next().await;
    relay.set_all(Link::Pass);
    whole(&second).await;
    complete(&mut one, "twin").await;
    let events = in_time("the end", stream.rest()).await;
    assert_eq!(events.last().expect("an end").state(), State::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_statistics_does_not_hide_a_loss_of_data() {
    for restart in [false, true] {
        let mut redis = Redis::start().await;
        let server = server_on(&redis).await;
        let (mut client, mut admin) = (server.client().await, server.admin().await);
        create(&mut client, "a").await;
        report(&mut client, "a").await;
        if restart {
            redis.restart_empty().await;
        } else {
            redis.command(&["FLUSHALL"]).await;
        }
        admin.get_stats(GetStatsRequest {}).await.expect("it answers");
        let place = "jobs:{0}:created";
        in_time("the job in Redis", async { while redis.command(&["ZSCORE", place, "a"]).await == Value::Nil {} })
            .await;
        assert_eq!(get(&mut client, "a").await.job.expect("a job").revision, 2, "{restart}");
    }
}
