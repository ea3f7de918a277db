//! Filters while Redis is unavailable, and after its return.

use jobtrack::proto::v1::{GetJobRequest, JobFilter, ListJobsRequest, Liveness, Order};

use super::{alive_or_lost, ids, list, matching, of_worker, report_as};
use crate::support::{
    Client, create,
    redis::Redis,
    replicas::{Health, in_time, server_on, under_lease},
};
use tonic_health::ServingStatus::{NotServing, Serving};

async fn liveness(client: &mut Client, id: &str) -> Liveness {
    let request = GetJobRequest { job_id: id.into(), ..GetJobRequest::default() };
    client.get_job(request).await.expect("it is there").into_inner().job.expect("a job").liveness()
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_in_an_outage_support_filters_and_orders() {
    let mut redis = Redis::start().await;
    let server = server_on(&redis).await;
    let mut client = server.client().await;
    let mut health = Health::watch(&server, "redis").await;
    health.until(Serving).await;
    for id in ["a:live", "b:live", "b:new"] {
        create(&mut client, id).await;
    }
    for (id, worker) in [("a:live", "w1"), ("b:live", "w2")] {
        report_as(&mut client, id, worker).await;
    }
    redis.kill();
    health.until(NotServing).await;
    create(&mut client, "a:lost").await;
    client.update_progress(under_lease("a:lost", 1)).await.expect("it is accepted");
    let lost = alive_or_lost(Liveness::Lost);
    in_time("a loss", async { while matching(&mut client, lost.clone()).await != ["a:lost"] {} }).await;
    assert_eq!(matching(&mut client, alive_or_lost(Liveness::Live)).await, ["a:live", "b:live"]);
    assert_eq!(matching(&mut client, of_worker("w2")).await, ["b:live"]);
    let prefix = JobFilter { id_prefix: "a:".into(), ..JobFilter::default() };
    assert_eq!(matching(&mut client, prefix.clone()).await, ["a:live", "a:lost"]);

    // A token remains valid after the return of Redis.
    let request =
        ListJobsRequest { filter: Some(prefix), page_size: 1, order: Order::Oldest.into(), ..Default::default() };
    let page = list(&mut client, request.clone()).await;
    assert!(page.partial && page.jobs[0].id == "a:live");
    redis.restart().await;
    health.until(Serving).await;
    let rest = ListJobsRequest { page_token: page.next_page_token, ..request };
    let whole = async { while list(&mut client, rest.clone()).await.partial {} };
    in_time("what was accepted", whole).await;
    assert_eq!(ids(&mut client, &rest).await, ["a:lost"]);
    server.stop().await;
}

/// Leases start anew when Redis returns. A list by liveness agrees with reads.
#[tokio::test(flavor = "multi_thread")]
async fn liveness_filter_does_not_count_the_time_of_an_outage() {
    let mut redis = Redis::with(&["--appendonly", "yes"]).await;
    let server = server_on(&redis).await;
    let mut client = server.client().await;
    let mut health = Health::watch(&server, "redis").await;
    health.until(Serving).await;
    create(&mut client, "a").await;
    client.update_progress(under_lease("a", 3000)).await.expect("a report");
    redis.kill();
    health.until(NotServing).await;
    in_time("the end of the lease", async { while liveness(&mut client, "a").await != Liveness::Lost {} }).await;
    redis.restart().await;
    health.until(Serving).await;

    let lost = ListJobsRequest { filter: Some(alive_or_lost(Liveness::Lost)), ..ListJobsRequest::default() };
    let seen = async {
        loop {
            let page = list(&mut client, lost.clone()).await;
            if page.jobs.is_empty() {
                continue;
            }
            // No worker reports: what the list shows, each later read shows.
            assert_eq!(liveness(&mut client, "a").await, Liveness::Lost, "{page:?}");
            // The loss is stored after the lease has expired once more.
            if page.jobs[0].revision > 2 {
                return;
            }
        }
    };
    in_time("another loss", seen).await;
    server.stop().await;
}
