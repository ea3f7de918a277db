//! Purges go in parts: each answers in time, and its token leads on to the next one.

mod memory;
mod outage;
mod parts;
mod time;

use jobtrack::proto::v1::{
    CancelJobRequest, CompleteJobRequest, CreateJobRequest, FailJobRequest, Failure, ListJobsRequest, Order, Progress,
    PurgeJobsRequest, PurgeJobsResponse, UpdateProgressRequest,
};

use crate::support::{Admin, Client, large_document, new_job, redis::Redis, watching::make};

/// Number of callers that create jobs.
const MAKERS: usize = 8;

async fn purge(admin: &mut Admin, request: &PurgeJobsRequest) -> PurgeJobsResponse {
    admin.purge_jobs(request.clone()).await.expect("a purge").into_inner()
}

/// The ids of all jobs, the oldest first.
async fn oldest_first(client: &mut Client) -> Vec<String> {
    let mut request = ListJobsRequest { page_size: 1000, order: Order::Oldest.into(), ..Default::default() };
    let mut ids = Vec::new();
    loop {
        let page = client.list_jobs(request.clone()).await.expect("a page").into_inner();
        ids.extend(page.jobs.into_iter().map(|job| job.id));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return ids;
        }
    }
}

/// Purges, and returns what each part counted.
async fn purge_all(admin: &mut Admin, mut request: PurgeJobsRequest) -> Vec<i64> {
    let mut parts = Vec::new();
    loop {
        let part = purge(admin, &request).await;
        assert!(!part.partial);
        parts.push(part.purged_count);
        request.page_token = part.next_page_token;
        if request.page_token.is_empty() {
            return parts;
        }
    }
}

/// Makes a job that has ended, with as much in it as there may be.
async fn make_large(client: &mut Client, number: usize) {
    let id = format!("large-{number}");
    let title = "t".repeat(250);
    make(client, CreateJobRequest { title, metadata: Some(large_document(10_000)), ..new_job(&id) }).await;
    let failure = Failure { message: "f".repeat(16_000), details: Some(large_document(16_000)), ..Failure::default() };
    let failure =
        |retry| FailJobRequest { job_id: id.clone(), failure: Some(failure.clone()), retry, ..Default::default() };
    client.fail_job(failure(true)).await.expect("it is taken");
    let (message, details) = (Some("m".repeat(4_000)), Some(large_document(4_000)));
    let progress = Some(Progress { message, details, ..Progress::default() });
    let report = UpdateProgressRequest { job_id: id.clone(), progress, ..UpdateProgressRequest::default() };
    client.update_progress(report).await.expect("it is taken");
    let reason = "r".repeat(1_000);
    client
        .cancel_job(CancelJobRequest { job_id: id.clone(), reason, ..Default::default() })
        .await
        .expect("it is taken");
    if number.is_multiple_of(2) {
        client.fail_job(failure(false)).await.expect("it is taken");
    } else {
        let result = Some(large_document(20_000));
        client
            .complete_job(CompleteJobRequest { job_id: id.clone(), result, ..Default::default() })
            .await
            .expect("it is taken");
    }
}

/// Returns a figure of the memory section of `INFO`, in bytes.
async fn measured(redis: &Redis, name: &str) -> usize {
    let memory = redis.info("memory").await;
    let mut lines = memory.lines().filter_map(|line| line.split_once(':'));
    let (_, bytes) = lines.find(|(known, _)| *known == name).expect("Redis tells");
    bytes.trim().parse().expect("a number")
}
