//! Races of callers on two servers.

use std::collections::HashSet;

use jobtrack::proto::v1::{CreateJobRequest, CreateJobResponse, Event, UpdateProgressRequest};
use tokio::task::JoinSet;
use tonic::Status;

use crate::support::{
    Client, create, new_job, reason,
    replicas::Pair,
    watching::{Seen, watch},
};

/// Returns clients with connections of their own, half of them to each server.
async fn clients(pair: &Pair, count: i64) -> Vec<Client> {
    let mut clients = Vec::new();
    for number in 0..count {
        clients.push(if number % 2 == 0 { &pair.a } else { &pair.b }.client().await);
    }
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_updates_are_consecutive_and_none_is_lost() {
    const CLIENTS: i64 = 16;
    const CALLS: i64 = 10_000;
    let pair = Pair::start(&[]).await;
    let clients = clients(&pair, CLIENTS).await;
    create(&mut clients[0].clone(), "a").await;
    let mut watchers = JoinSet::new();
    for client in &clients[..2] {
        let mut stream = watch(client, "a").await;
        stream.expect(Event::Snapshot).await;
        watchers.spawn(async move { stream.until(|seen| seen.revision() == CALLS + 1).await });
    }
    let mut callers = JoinSet::new();
    for mut client in clients {
        callers.spawn(async move {
            let mut acknowledged = Vec::new();
            for _ in 0..CALLS / CLIENTS {
                let report = UpdateProgressRequest { job_id: "a".into(), ..UpdateProgressRequest::default() };
                let answer = client.update_progress(report).await.expect("a heartbeat").into_inner();
                assert!(answer.applied);
                acknowledged.push(answer.job.expect("a job").revision);
            }
            acknowledged
        });
    }
    let histories = callers.join_all().await;
    assert!(histories.iter().all(|history| history.is_sorted()), "a caller's own calls come one after the other");
    let mut acknowledged = histories.concat();
    acknowledged.sort_unstable();
    assert_eq!(acknowledged, (2..=CALLS + 1).collect::<Vec<_>>());
    for seen in watchers.join_all().await {
        // The laws of all streams require that revisions rise and that skipped ones are counted.
        let told: i64 = seen.iter().map(|seen| seen.skipped + 1).sum();
        assert_eq!(told, CALLS);
        assert_eq!(seen.last().map(Seen::revision), Some(CALLS + 1));
    }
    pair.stop().await;
}

/// Returns the answers to a request that all clients send at the same time.
async fn at_once(
    clients: &[Client],
    request: impl Fn(usize) -> CreateJobRequest,
) -> Vec<Result<CreateJobResponse, Status>> {
    let mut calls = JoinSet::new();
    for (number, client) in clients.iter().enumerate() {
        let (mut client, request) = (client.clone(), request(number));
        calls.spawn(async move { client.create_job(request).await.map(tonic::Response::into_inner) });
    }
    calls.join_all().await
}

/// Fails unless all were answered with one job, which one of them created.
fn assert_one_job(answers: Vec<Result<CreateJobResponse, Status>>) -> String {
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect("the request can be repeated")).collect();
    assert_eq!(answers.iter().filter(|answer| answer.created).count(), 1);
    let job = answers[0].job.clone().expect("a job");
    assert!(answers.iter().all(|answer| answer.job.as_ref() == Some(&job)));
    job.id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_made_at_once_by_many_makes_one_job() {
    let pair = Pair::start(&[]).await;
    let clients = clients(&pair, 8).await;
    let mut ids = HashSet::new();
    for round in 0..500 {
        let request = CreateJobRequest { request_id: format!("r{round}"), owner: "o".into(), ..new_job("") };
        ids.insert(assert_one_job(at_once(&clients, |_| request.clone()).await));
    }
    assert_eq!(ids.len(), 500, "each request makes a job of its own");
    for round in 0..100 {
        let request = CreateJobRequest { request_id: "r".into(), ..new_job(&format!("j{round}")) };
        assert_eq!(assert_one_job(at_once(&clients, |_| request.clone()).await), request.job_id);
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contested_id_belongs_to_one_request() {
    let pair = Pair::start(&[]).await;
    let clients = clients(&pair, 8).await;
    for round in 0..100 {
        let id = format!("j{round}");
        let answers = at_once(&clients, |caller| CreateJobRequest { request_id: format!("r{caller}"), ..new_job(&id) });
        let (made, refused): (Vec<_>, Vec<_>) = answers.await.into_iter().partition(Result::is_ok);
        assert_eq!((made.len(), refused.len()), (1, 7));
        assert!(made.into_iter().flatten().all(|answer| answer.created));
        assert!(refused.into_iter().filter_map(Result::err).all(|status| reason(&status) == "JOB_EXISTS"));
    }
    pair.stop().await;
}
