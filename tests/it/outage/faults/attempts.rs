//! Attempts while Redis is unavailable: independent claims and retries, and their outcomes.

use std::time::Duration;

use jobtrack::proto::v1::{CreateJobRequest, Job, Liveness, job::State, reconciled_job::Outcome};
use tonic::Code;

use super::{apart::Apart, job, two_on};
use crate::support::{
    Client,
    attempts::{beat, by, claim, retry, start},
    create, error_info, new_job,
    redis::Redis,
    replicas::{degraded, get, in_time, whole},
    watching::{delete, make, millis},
};

fn numbers(job: &Job) -> Vec<(i32, bool)> {
    job.attempts.iter().map(|attempt| (attempt.number, attempt.failure.is_some())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_claims_wins_and_the_other_worker_is_told() {
    let mut apart = Apart::start().await;
    let mut claims = Vec::new();
    for (client, worker) in apart.clients.iter_mut().zip(["here", "there"]) {
        let claimed = claim(client, "a", worker).await;
        assert_eq!(claimed.job.attempt, 1);
        beat(client, "a", &claimed.claim).await.expect("its claim stands here");
        claims.push(claimed.claim);
    }
    let (job, told) = apart.meet("a").await;
    assert_eq!(told.iter().filter(|outcome| **outcome == Outcome::Conflicted).count(), 1, "{told:?}");
    let [stands, loses] = if job.worker == "here" { [0, 1] } else { [1, 0] };
    for client in &mut apart.clients {
        beat(client, "a", &claims[stands]).await.expect("its claim stands everywhere");
        let status = beat(client, "a", &claims[loses]).await.expect_err("the other's does not");
        assert_eq!((status.code(), error_info(&status).reason.as_str()), (Code::FailedPrecondition, "STALE_ATTEMPT"));
    }
}

/// The answer of the first call was lost, and the worker repeats it at the other replica.
#[tokio::test(flavor = "multi_thread")]
async fn request_that_is_repeated_at_the_other_replica_has_the_same_claim() {
    let mut apart = Apart::start().await;
    let mut claims = Vec::new();
    for client in &mut apart.clients {
        let mut request = by("a", "w");
        request.request_id = "r".into();
        claims.push(start(client, request).await.unwrap_or_else(|status| panic!("{status:?}")).claim);
    }
    assert_eq!(claims[0], claims[1]);
    apart.meet("a").await;
    for client in &mut apart.clients {
        beat(client, "a", &claims[0]).await.expect("it stands");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_in_an_outage_wins_over_reports_elsewhere() {
    let mut apart = Apart::start().await;
    let claimed = claim(&mut apart.clients[0], "a", "w").await;
    let waiting = retry(&mut apart.clients[0], "a", &claimed.claim, "AGAIN").await.expect("it runs");
    assert_eq!(waiting.state(), State::Pending);
    // Another worker continues the first attempt at the other replica, which does not know of its end.
    for _ in 0..3 {
        beat(&mut apart.clients[1], "a", "").await.expect("it runs there");
    }
    let (job, _) = apart.meet("a").await;
    assert_eq!((job.state(), job.attempt, numbers(&job)), (State::Pending, 1, vec![(1, true)]));
    let next = claim(&mut apart.clients[1], "a", "next").await;
    assert_eq!(next.job.attempt, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_of_both_replicas_is_kept() {
    let mut apart = Apart::start().await;
    let claimed = claim(&mut apart.clients[0], "a", "w").await;
    retry(&mut apart.clients[0], "a", &claimed.claim, "AGAIN").await.expect("it runs");
    claim(&mut apart.clients[1], "a", "one").await;
    let mut taking = by("a", "two");
    taking.takeover = true;
    start(&mut apart.clients[1], taking).await.unwrap_or_else(|status| panic!("{status:?}"));
    let (job, _) = apart.meet("a").await;
    assert_eq!((job.attempt, job.worker.as_str(), numbers(&job)), (2, "two", vec![(1, true), (2, false)]));
    assert_eq!(job.last_failure.map(|failure| failure.reason), Some("AGAIN".into()));
}

/// The job is deleted at one replica, while its worker reports to the other.
#[tokio::test(flavor = "multi_thread")]
async fn worker_of_a_job_that_was_deleted_in_an_outage_does_not_report_on_the_next_one() {
    let mut apart = Apart::start().await;
    let old = claim(&mut apart.clients[0], "a", "old").await;
    delete(&mut apart.clients[1], "a").await;
    beat(&mut apart.clients[0], "a", &old.claim).await.expect("it runs there");
    create(&mut apart.clients[0], "b").await;
    apart.meet("b").await;
    assert_eq!(create(&mut apart.clients[1], "a").await.attempt, 0);
    for client in &mut apart.clients {
        let status = beat(client, "a", &old.claim).await.expect_err("its job is gone");
        assert_eq!((status.code(), error_info(&status).reason.as_str()), (Code::FailedPrecondition, "STALE_ATTEMPT"));
    }
    assert_eq!(claim(&mut apart.clients[0], "a", "new").await.job.attempt, 1);
}

/// A worker reports to one replica, which is cut off. At the other one its lease expires, and another worker claims the
/// job: it gets the job only once the first worker can't have reported.
#[tokio::test(flavor = "multi_thread")]
async fn outage_hands_no_job_over() {
    let mut redis = Redis::with(&["--appendonly", "yes"]).await;
    let servers = two_on(&redis).await;
    let mut clients: [Client; 2] = [servers[0].client().await, servers[1].client().await];
    make(&mut clients[0], CreateJobRequest { lease_timeout: millis(1500), ..new_job("a") }).await;
    let claimed = claim(&mut clients[0], "a", "w").await;
    get(&mut clients[1], "a").await;
    redis.kill();
    for server in &servers {
        degraded(server).await;
    }
    let lost = in_time("the lease is over where nobody reports", async {
        loop {
            beat(&mut clients[0], "a", &claimed.claim).await.expect("its worker is heard");
            let seen = job(&mut clients[1], "a").await;
            if seen.liveness() == Liveness::Lost {
                break seen;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert_eq!(lost.attempt, 1);
    let status = start(&mut clients[1], by("a", "next")).await.err().expect("its worker may be heard elsewhere");
    assert_eq!(error_info(&status).reason, "ATTEMPT_RUNNING");
    redis.restart().await;
    for server in &servers {
        whole(server).await;
    }
    beat(&mut clients[1], "a", &claimed.claim).await.expect("it is its job still");
    // Then the worker dies.
    let next = in_time("the next attempt", async {
        loop {
            match start(&mut clients[1], by("a", "next")).await {
                Ok(claimed) => break claimed,
                Err(status) => assert_eq!(error_info(&status).reason, "ATTEMPT_RUNNING", "{status:?}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert_eq!((next.job.attempt, next.job.worker.as_str()), (2, "next"));
}

/// Redis is killed while workers race for a job at two replicas. Afterwards one claim is valid, and each other worker
/// that got one is told.
#[tokio::test(flavor = "multi_thread")]
async fn race_of_claims_during_a_crash_of_redis_has_one_winner() {
    let mut redis = Redis::with(&["--appendonly", "yes"]).await;
    let servers = two_on(&redis).await;
    let clients = [servers[0].client().await, servers[1].client().await];
    let mut maker = clients[0].clone();
    let ids: Vec<_> = (0..20).map(|number| format!("j{number}")).collect();
    for id in &ids {
        make(&mut maker, new_job(id)).await;
        get(&mut clients[1].clone(), id).await;
    }
    let racers: Vec<_> = ids
        .iter()
        .flat_map(|id| clients.iter().map(move |client| (id.clone(), client.clone())))
        .enumerate()
        .map(|(number, (id, mut client))| {
            tokio::spawn(async move { start(&mut client, by(&id, &format!("w{number}"))).await.map(|won| (id, won)) })
        })
        .collect();
    redis.kill();
    let mut won = Vec::new();
    for racer in racers {
        match racer.await.expect("no worker panics") {
            Ok(claimed) => won.push(claimed),
            Err(status) => {
                let reason = error_info(&status).reason;
                assert!(["ATTEMPT_RUNNING", "STORE_UNAVAILABLE"].contains(&reason.as_str()), "{status:?}");
            }
        }
    }
    for server in &servers {
        degraded(server).await;
    }
    redis.restart().await;
    for server in &servers {
        whole(server).await;
    }
    for id in &ids {
        let mut stands = 0;
        let claims = won.iter().filter(|(of, _)| of == id);
        for (_, claimed) in claims.clone() {
            match beat(&mut maker, id, &claimed.claim).await {
                Ok(_) => stands += 1,
                Err(status) => assert_eq!(error_info(&status).reason, "STALE_ATTEMPT", "{status:?}"),
            }
        }
        assert!(stands == 1 || claims.count() == 0, "{stands} claims of {id} stand");
    }
}
