//! Lists and streams by liveness, worker, id prefix and last change, and lists in both orders.

mod outage;
mod tokens;

use std::time::Duration;

use jobtrack::proto::v1::{
    Event, JobFilter, ListJobsRequest, ListJobsResponse, Liveness, Order, UpdateProgressRequest, WatchJobsRequest,
};
use rstest::rstest;
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::support::{
    Client, Server, create, owned,
    redis::Redis,
    replicas::{in_time, server_on, under_lease},
    watching::{Watch, make, report, watch_jobs},
};

/// Starts a server in memory, or on a Redis of its own.
async fn start(on_redis: bool) -> (Option<Redis>, Server) {
    if on_redis {
        let redis = Redis::start().await;
        let server = server_on(&redis).await;
        return (Some(redis), server);
    }
    (None, Server::start().await)
}

async fn list(client: &mut Client, request: ListJobsRequest) -> ListJobsResponse {
    client.list_jobs(request).await.expect("a page").into_inner()
}

/// Returns the ids of all pages, in their order.
async fn ids(client: &mut Client, request: &ListJobsRequest) -> Vec<String> {
    let (mut ids, mut request) = (Vec::new(), request.clone());
    loop {
        let page = list(client, request.clone()).await;
        ids.extend(page.jobs.into_iter().map(|job| job.id));
        if page.next_page_token.is_empty() {
            return ids;
        }
        request.page_token = page.next_page_token;
    }
}

/// Returns the ids of all matching jobs, the oldest first.
async fn matching(client: &mut Client, filter: JobFilter) -> Vec<String> {
    let filter = Some(filter);
    ids(client, &ListJobsRequest { filter, page_size: 2, order: Order::Oldest.into(), ..Default::default() }).await
}

fn alive_or_lost(liveness: Liveness) -> JobFilter {
    JobFilter { liveness: vec![liveness.into()], ..JobFilter::default() }
}

fn of_worker(worker: &str) -> JobFilter {
    JobFilter { worker: worker.into(), ..JobFilter::default() }
}

async fn report_as(client: &mut Client, id: &str, worker: &str) {
    let request = UpdateProgressRequest { worker: worker.into(), ..under_lease(id, 3_600_000) };
    client.update_progress(request).await.expect("a report");
}

/// Opens a stream of the jobs that match `filter`. Returns it after its first bookmark, with the ids of the snapshot.
async fn watch_matching(client: &Client, filter: JobFilter) -> (Watch, Vec<String>) {
    let request = WatchJobsRequest { filter: Some(filter), ..WatchJobsRequest::default() };
    let mut stream = watch_jobs(client, request).await;
    let mut events = stream.until_bookmark().await;
    events.pop();
    (stream, events.iter().map(|seen| seen.id().to_owned()).collect())
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn lists_filter_by_liveness_worker_id_and_change(#[values(false, true)] on_redis: bool) {
    let (_redis, server) = start(on_redis).await;
    let mut client = server.client().await;
    for id in ["a:live", "a:lost", "b:live", "b:none"] {
        create(&mut client, id).await;
    }
    report_as(&mut client, "a:live", "w1").await;
    client.update_progress(under_lease("a:lost", 1)).await.expect("a report");
    report_as(&mut client, "b:live", "w2").await;
    let last = report(&mut client, "b:none").await;

    // An expired lease shows in a read, whether or not the expiry is stored.
    in_time("the end of a lease", async {
        while matching(&mut client, alive_or_lost(Liveness::Lost)).await != ["a:lost"] {}
    })
    .await;
    assert_eq!(matching(&mut client, alive_or_lost(Liveness::Live)).await, ["a:live", "b:live"]);
    let either = vec![Liveness::Live.into(), Liveness::Lost.into()];
    let either = JobFilter { liveness: either, id_prefix: "a:".into(), ..JobFilter::default() };
    assert_eq!(matching(&mut client, either).await, ["a:live", "a:lost"]);
    assert_eq!(matching(&mut client, of_worker("w2")).await, ["b:live"]);
    assert_eq!(
        matching(&mut client, JobFilter { id_prefix: "b:".into(), ..Default::default() }).await,
        ["b:live", "b:none"]
    );
    let updated = JobFilter { updated_after: last.update_time, ..JobFilter::default() };
    assert_eq!(matching(&mut client, updated.clone()).await, ["b:none"], "the time itself is included");
    report_as(&mut client, "a:live", "w3").await;
    assert_eq!(matching(&mut client, updated).await, ["a:live", "b:none"]);

    let page = list(&mut client, ListJobsRequest { filter: Some(of_worker("w3")), ..Default::default() }).await;
    assert_eq!((page.jobs.len(), page.total_size, page.partial), (1, None, false));
    server.stop().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_by_liveness_follows_a_worker_that_is_lost_and_comes_back(#[values(false, true)] on_redis: bool) {
    let (_redis, server) = start(on_redis).await;
    let mut client = server.client().await;
    let (mut lost, at_first) = watch_matching(&client, alive_or_lost(Liveness::Lost)).await;
    assert!(at_first.is_empty());
    let (mut live, _) = watch_matching(&client, alive_or_lost(Liveness::Live)).await;

    create(&mut client, "a").await;
    client.update_progress(under_lease("a", 1500)).await.expect("a report");
    let started = live.expect(Event::Update).await;
    assert_eq!((started.brief(), started.job().liveness()), ((Event::Update, "a", 2), Liveness::Live));
    // The loss is one revision: the job starts to match in one stream, and stops in the other.
    for stream in [&mut lost, &mut live] {
        let seen = stream.expect(Event::Update).await;
        assert_eq!((seen.brief(), seen.job().liveness()), ((Event::Update, "a", 3), Liveness::Lost));
    }
    report_as(&mut client, "a", "w").await;
    for stream in [&mut lost, &mut live] {
        let seen = stream.expect(Event::Update).await;
        assert_eq!((seen.brief(), seen.job().liveness()), ((Event::Update, "a", 4), Liveness::Live));
    }
    // The stream of lost jobs has received its last event of this one.
    report(&mut client, "a").await;
    assert_eq!(live.update().await.revision, 5);
    create(&mut client, "b").await;
    client.update_progress(under_lease("b", 1)).await.expect("a report");
    let events = in_time("the next loss", lost.until(|seen| seen.brief() == (Event::Update, "b", 3))).await;
    assert!(events.iter().all(|seen| seen.id() == "b"), "{events:?}");
    server.stop().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_by_worker_id_and_change_tells_when_a_job_starts_and_stops_matching(
    #[values(false, true)] on_redis: bool,
) {
    let (_redis, server) = start(on_redis).await;
    let mut client = server.client().await;
    for id in ["a:1", "a:2", "b:1"] {
        create(&mut client, id).await;
    }
    report_as(&mut client, "a:1", "w1").await;
    let filter = JobFilter { id_prefix: "a:".into(), ..of_worker("w1") };
    let (mut stream, at_first) = watch_matching(&client, filter).await;
    assert_eq!(at_first, ["a:1"]);
    report_as(&mut client, "b:1", "w1").await;
    report_as(&mut client, "a:2", "w1").await;
    assert_eq!(stream.expect(Event::Update).await.brief(), (Event::Update, "a:2", 2));
    report_as(&mut client, "a:1", "w2").await;
    assert_eq!(stream.expect(Event::Update).await.brief(), (Event::Update, "a:1", 3));
    report_as(&mut client, "a:1", "w2").await;
    report_as(&mut client, "a:2", "w1").await;
    assert_eq!(stream.expect(Event::Update).await.brief(), (Event::Update, "a:2", 3));

    let last = report(&mut client, "b:1").await;
    let updated = JobFilter { updated_after: last.update_time, ..JobFilter::default() };
    let (mut stream, at_first) = watch_matching(&client, updated).await;
    assert_eq!(at_first, ["b:1"]);
    report_as(&mut client, "a:1", "w2").await;
    assert_eq!(stream.update().await.id, "a:1");
    server.stop().await;
}

/// In memory, a token reveals the states of jobs at its position, but not their workers or liveness.
#[tokio::test]
async fn watch_by_mutable_criteria_starts_over_with_a_token() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for id in ["a", "b"] {
        create(&mut client, id).await;
        report_as(&mut client, id, "w1").await;
    }
    let request = WatchJobsRequest { filter: Some(of_worker("w1")), ..WatchJobsRequest::default() };
    let mut stream = watch_jobs(&client, request.clone()).await;
    let resume_token = stream.until_bookmark().await.pop().expect("a bookmark").token;
    report_as(&mut client, "b", "w2").await;
    let mut stream = watch_jobs(&client, WatchJobsRequest { resume_token, ..request }).await;
    let events = stream.until_bookmark().await;
    let brief: Vec<_> = events.iter().map(|seen| (seen.brief(), seen.reset)).collect();
    assert_eq!(brief, [((Event::Snapshot, "a", 2), true), ((Event::Bookmark, "", 0), true)]);

    // A filter by id resumes, because an id never changes.
    let filter = Some(JobFilter { id_prefix: "b".into(), ..JobFilter::default() });
    let request = WatchJobsRequest { filter, ..WatchJobsRequest::default() };
    let mut stream = watch_jobs(&client, request.clone()).await;
    let resume_token = stream.until_bookmark().await.pop().expect("a bookmark").token;
    report(&mut client, "a").await;
    report(&mut client, "b").await;
    let mut stream = watch_jobs(&client, WatchJobsRequest { resume_token, ..request }).await;
    assert!(!stream.expect(Event::Bookmark).await.reset);
    assert_eq!(stream.update().await.id, "b");
    server.stop().await;
}

/// Creates jobs until `stop` is cancelled. An aborted task would leave a creation under way.
fn create_all_the_time(client: &Client, stop: &CancellationToken) -> JoinSet<()> {
    let mut creators = JoinSet::new();
    for part in 0..2 {
        let (mut client, stop) = (client.clone(), stop.clone());
        creators.spawn(async move {
            for n in 0.. {
                if stop.is_cancelled() {
                    return;
                }
                make(&mut client, owned(&format!("n{part}-{n}"), "o")).await;
                sleep(Duration::from_millis(2)).await;
            }
        });
    }
    creators
}

/// Jobs that exist throughout are listed once each, whatever is created in the meantime.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn lists_in_both_orders_are_complete_while_jobs_are_created(#[values(false, true)] on_redis: bool) {
    let (_redis, server) = start(on_redis).await;
    let mut client = server.client().await;
    let mut stayed = Vec::new();
    for n in 0..60 {
        stayed.push(make(&mut client, owned(&format!("s{n}"), "o")).await.id);
    }
    let stop = CancellationToken::new();
    let creators = create_all_the_time(&client, &stop);
    let filter = Some(JobFilter { owner: "o".into(), ..JobFilter::default() });
    for order in [Order::Newest, Order::Oldest] {
        let mut request =
            ListJobsRequest { filter: filter.clone(), page_size: 7, order: order.into(), ..Default::default() };
        let mut found: Vec<String> = Vec::new();
        // A list with the oldest first may never end while jobs are created.
        while found.len() < stayed.len() {
            let page = list(&mut client, request.clone()).await;
            found.extend(page.jobs.into_iter().map(|job| job.id).filter(|id| id.starts_with('s')));
            request.page_token = page.next_page_token;
            assert!(found.len() == stayed.len() || !request.page_token.is_empty(), "it ends after {found:?}");
        }
        if order == Order::Newest {
            found.reverse();
        }
        assert_eq!(found, stayed, "{order:?}");
    }
    stop.cancel();
    creators.join_all().await;
    let all = |order: Order| ListJobsRequest { filter: filter.clone(), order: order.into(), ..Default::default() };
    let newest = ids(&mut client, &all(Order::Newest)).await;
    let mut oldest = ids(&mut client, &all(Order::Oldest)).await;
    assert_eq!(ids(&mut client, &all(Order::Unspecified)).await, newest);
    oldest.reverse();
    assert_eq!(oldest, newest);
    server.stop().await;
}
