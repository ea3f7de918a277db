//! Lists, counts, pages and purges.

use jobtrack::proto::v1::{
    CompleteJobRequest, CreateJobRequest, JobFilter, ListJobsRequest, ListJobsResponse, PurgeJobsRequest,
};

use super::{by_owner, server};
use crate::support::{Client, Server, credentials::bearer, owned, redis::Redis, violations};

async fn list(client: &mut Client, token: &str, request: ListJobsRequest) -> (Vec<String>, ListJobsResponse) {
    let list = client.list_jobs(bearer(token, request)).await.expect("jobs can be listed").into_inner();
    (list.jobs.iter().map(|job| job.id.clone()).collect(), list)
}

/// Checks lists, counts and pages of each caller, with any store.
async fn assert_lists_its_own(server: &Server) {
    let mut client = server.client().await;
    for (number, owner) in ["a1", "bob", "", "a2", "bob", "a1"].into_iter().enumerate() {
        let token = if owner == "bob" {
            "bob"
        } else if owner.is_empty() {
            "nobody"
        } else {
            "alice"
        };
        client.create_job(bearer(token, owned(&format!("j{number}"), owner))).await.expect("its own");
    }
    let all = ListJobsRequest::default;
    let by = |owner: &str| ListJobsRequest { filter: Some(by_owner(owner)), ..all() };
    let cases = [
        ("alice", all(), vec!["j5", "j3", "j0"], Some(3)),
        ("alice", by("a1"), vec!["j5", "j0"], Some(2)),
        ("alice", by("bob"), vec![], Some(0)),
        ("bob", all(), vec!["j4", "j1"], Some(2)),
        ("nobody", all(), vec!["j2"], Some(1)),
        ("nobody", by("a1"), vec![], Some(0)),
        ("root", all(), vec!["j5", "j4", "j3", "j2", "j1", "j0"], Some(6)),
    ];
    for (token, request, ids, total) in cases {
        let (found, answer) = list(&mut client, token, request.clone()).await;
        assert_eq!(
            (found, answer.total_size),
            (ids.into_iter().map(str::to_owned).collect(), total),
            "{token} {request:?}"
        );
    }
    let page_of = |page_token: String| ListJobsRequest { page_size: 1, page_token, ..all() };
    let (first, page) = list(&mut client, "alice", page_of(String::new())).await;
    let (second, _) = list(&mut client, "alice", page_of(page.next_page_token.clone())).await;
    assert_eq!((first, second), (vec!["j5".to_owned()], vec!["j3".to_owned()]));
    // A caller with the same rights may not use the token either.
    for other in ["alice2", "bob", "root"] {
        let request = bearer(other, page_of(page.next_page_token.clone()));
        let status = client.list_jobs(request).await.expect_err("the token is Alice's");
        assert_eq!(violations(&status).keys().collect::<Vec<_>>(), ["page_token"]);
    }
    for number in 0..6 {
        let done = CompleteJobRequest { job_id: format!("j{number}"), ..Default::default() };
        client.complete_job(bearer("root", done)).await.expect("all are root's");
    }
    let mut admin = server.admin().await;
    let purged = admin.purge_jobs(bearer("alice", PurgeJobsRequest::default())).await.expect("her own");
    assert_eq!(purged.into_inner().purged_count, 3);
    assert_eq!(list(&mut client, "root", all()).await.0, ["j4", "j2", "j1"]);
}

#[tokio::test]
async fn lists_pages_and_purges_cover_only_own_jobs() {
    let (server, _folder) = server(&[]).await;
    assert_lists_its_own(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn lists_pages_and_purges_cover_only_own_jobs_with_redis() {
    let redis = Redis::start().await;
    let (server, _folder) = server(&["--redis-url", &redis.url()]).await;
    assert_lists_its_own(&server).await;
    server.stop().await;
}

/// The end of a page, and the existence of a next one, depend on the caller's own jobs alone.
async fn assert_pages_tell_nothing_of_others(server: &Server) {
    let mut client = server.client().await;
    let of_kind = |id: &str, owner: &str, kind: &str| CreateJobRequest { kind: kind.to_owned(), ..owned(id, owner) };
    for number in 0..2101 {
        client.create_job(bearer("bob", of_kind(&format!("b{number}"), "bob", "payroll"))).await.expect("his own");
    }
    for number in 0..10 {
        client.create_job(bearer("alice", of_kind(&format!("a{number}"), "a1", "demo"))).await.expect("her own");
    }
    for (number, kind) in ["payroll", "unheard-of"].into_iter().enumerate() {
        client.create_job(bearer("alice", of_kind(&format!("c{number}"), "a2", kind))).await.expect("her own");
        let filter = Some(JobFilter { kind: kind.to_owned(), ..JobFilter::default() });
        let request = ListJobsRequest { page_size: 1, filter, ..ListJobsRequest::default() };
        let (ids, mut page) = list(&mut client, "alice", request.clone()).await;
        assert_eq!(ids, [format!("c{number}")], "{kind}");
        while !page.next_page_token.is_empty() {
            let request = ListJobsRequest { page_token: page.next_page_token, ..request.clone() };
            let ids;
            (ids, page) = list(&mut client, "alice", request).await;
            assert!(ids.is_empty(), "{ids:?}");
            assert!(!page.next_page_token.contains(".b"), "{kind}: {}", page.next_page_token);
        }
    }
    for page_size in 1..4 {
        let request = ListJobsRequest { page_size, ..ListJobsRequest::default() };
        let (ids, page) = list(&mut client, "nobody", request).await;
        assert_eq!((ids.len(), &*page.next_page_token), (0, ""));
    }
}

#[tokio::test]
async fn pages_disclose_nothing_about_other_owners() {
    let (server, _folder) = server(&[]).await;
    assert_pages_tell_nothing_of_others(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn pages_disclose_nothing_about_other_owners_with_redis() {
    let redis = Redis::start().await;
    let (server, _folder) = server(&["--redis-url", &redis.url()]).await;
    assert_pages_tell_nothing_of_others(&server).await;
    server.stop().await;
}
