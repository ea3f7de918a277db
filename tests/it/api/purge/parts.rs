//! Parts of a purge, and their tokens.

use std::time::Duration;

use jobtrack::proto::v1::{JobFilter, ListJobsRequest, Order, PurgeJobsRequest, PurgeJobsResponse, job::State};
use rstest::rstest;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::{MAKERS, oldest_first, purge, purge_all};
use crate::support::{
    Client, Server, create,
    raw::assert_invalid,
    redis::Redis,
    watching::{complete, report},
};

/// Makes jobs that have succeeded, and one that runs.
async fn make_ended(client: &Client, count: usize) {
    let mut makers = JoinSet::new();
    for part in 0..MAKERS {
        let mut client = client.clone();
        makers.spawn(async move {
            for n in (part..count).step_by(MAKERS) {
                let id = format!("j-{n}");
                create(&mut client, &id).await;
                complete(&mut client, &id).await;
            }
        });
    }
    makers.join_all().await;
    let mut client = client.clone();
    create(&mut client, "running").await;
    report(&mut client, "running").await;
}

#[tokio::test]
async fn a_purge_of_more_jobs_than_a_part_holds_goes_on_from_the_oldest() {
    const JOBS: usize = 5_100;
    let server = Server::start().await;
    let (mut client, mut admin) = (server.client().await, server.admin().await);
    make_ended(&client, JOBS).await;
    let all = oldest_first(&mut client).await;
    let dry_run = PurgeJobsRequest { dry_run: true, ..PurgeJobsRequest::default() };
    let counted = purge_all(&mut admin, dry_run).await;
    assert!(counted.len() > 1 && counted.iter().sum::<i64>() == 5_100, "{counted:?}");
    assert_eq!(oldest_first(&mut client).await, all, "a dry run deletes nothing");

    let first = purge(&mut admin, &PurgeJobsRequest::default()).await;
    let gone = usize::try_from(first.purged_count).expect("a count");
    assert!((1..=5_000).contains(&gone) && !first.next_page_token.is_empty(), "{first:?}");
    assert_eq!(oldest_first(&mut client).await, all[gone..], "the oldest go first");
    let request = PurgeJobsRequest { page_token: first.next_page_token, ..PurgeJobsRequest::default() };
    let rest: i64 = purge_all(&mut admin, request).await.iter().sum();
    assert_eq!(gone + usize::try_from(rest).expect("a count"), JOBS);
    assert_eq!(oldest_first(&mut client).await, ["running"]);
    server.stop().await;
}

/// Each part of a call with a short deadline purges some, and says where to go on.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_answers_within_its_deadline(#[values(false, true)] on_redis: bool) {
    const JOBS: usize = 1_500;
    let redis = if on_redis { Some(Redis::start().await) } else { None };
    let server = match &redis {
        Some(redis) => Server::with(&["--redis-url", &redis.url(), "--redis-timeout", "4s"]).await,
        None => Server::start().await,
    };
    let (mut client, mut admin) = (server.client().await, server.admin().await);
    make_ended(&client, JOBS).await;
    // A small part of the time that it takes to purge all.
    let deadline = Duration::from_millis(if on_redis { 200 } else { 10 });
    let (mut parts, mut late, mut page_token) = (0, 0, String::new());
    loop {
        let mut request =
            tonic::Request::new(PurgeJobsRequest { page_token: page_token.clone(), ..Default::default() });
        request.set_timeout(deadline);
        match admin.purge_jobs(request).await {
            Ok(part) => {
                parts += 1;
                let part = part.into_inner();
                assert_ne!(part.next_page_token, page_token, "it makes no progress");
                page_token = part.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            // On a machine that is very busy a step may take longer than all of the time: it is repeated.
            Err(status) => {
                assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
                late += 1;
            }
        }
    }
    println!("{parts} parts within {deadline:?}, {late} late");
    assert!(parts > 1, "all was purged at once");
    assert_eq!(oldest_first(&mut client).await, ["running"]);
    server.stop().await;
}

fn refused(outcome: Result<tonic::Response<PurgeJobsResponse>, Status>, what: &str) {
    assert_invalid(&outcome.expect_err(what), &["page_token"], what);
}

#[tokio::test]
async fn a_token_of_another_purge_is_refused() {
    let server = Server::start().await;
    let (mut client, mut admin) = (server.client().await, server.admin().await);
    make_ended(&client, 5_001).await;
    let dry_run = PurgeJobsRequest { dry_run: true, ..PurgeJobsRequest::default() };
    let page_token = purge(&mut admin, &dry_run).await.next_page_token;
    assert!(!page_token.is_empty());
    let same = PurgeJobsRequest { page_token: page_token.clone(), ..dry_run };
    let others = [
        ("another kind", PurgeJobsRequest { kind: "other".into(), ..same.clone() }),
        ("another owner", PurgeJobsRequest { owner: "other".into(), ..same.clone() }),
        ("other states", PurgeJobsRequest { states: vec![State::Failed.into()], ..same.clone() }),
        ("another age", PurgeJobsRequest { older_than: Some(prost_types::Duration::default()), ..same.clone() }),
        ("a purge in earnest", PurgeJobsRequest { dry_run: false, ..same.clone() }),
    ];
    for (what, other) in others {
        refused(admin.purge_jobs(other).await, what);
    }
    let states = [State::Succeeded, State::Failed, State::Cancelled].map(i32::from).to_vec();
    let filter = Some(JobFilter { states: states.clone(), ..JobFilter::default() });
    let request = ListJobsRequest { filter, page_size: 1, order: Order::Oldest.into(), ..Default::default() };
    let of_list = client.list_jobs(request).await.expect("a page").into_inner().next_page_token;
    assert!(!of_list.is_empty());
    refused(admin.purge_jobs(PurgeJobsRequest { page_token: of_list, ..same.clone() }).await, "a token of a list");
    // All states that are an end are the same as none.
    admin.purge_jobs(PurgeJobsRequest { states, ..same.clone() }).await.expect("the same jobs");
    admin.purge_jobs(same).await.expect("its own token");
    server.stop().await;
}
