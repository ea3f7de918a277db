//! Credential files that are replaced while calls are made.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use jobtrack::proto::v1::{GetJobRequest, WatchJobRequest, job_service_client::JobServiceClient};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::support::{
    Server,
    credentials::{Authority, Folder, bearer, connect, holder, identities},
    new_job, until,
};

/// Number of callers, each of which opens a new connection after some calls.
const CALLERS: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_and_a_token_file_are_replaced_and_no_call_fails() {
    let folder = Folder::new();
    let (old, new) = (Arc::new(Authority::new()), Arc::new(Authority::new()));
    let entry = |token: &str| holder(token, "reporter", &json!("*"));
    let certificate = old.server();
    let flags = [
        ("--tls-cert", folder.write("cert.pem", &certificate.pem)),
        ("--tls-key", folder.write("key.pem", &certificate.key)),
        ("--auth-tokens", folder.write("identities.json", &identities(&[entry("always")]))),
    ];
    let flags: Vec<_> = flags.iter().flat_map(|(flag, value)| [*flag, value.as_str()]).collect();
    let server = Server::with(&flags).await;
    let address = server.address;
    let channel = connect(address, &old, None).await.expect("the old certificate");
    let mut client = JobServiceClient::new(channel);
    client.create_job(bearer("always", new_job("a"))).await.expect("a reporter");
    let watch = WatchJobRequest { job_id: "a".into(), ..WatchJobRequest::default() };
    let mut stream = client.watch_job(bearer("always", watch)).await.expect("a stream").into_inner();
    stream.message().await.expect("a snapshot").expect("a snapshot");

    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (stop, calls, old, new) = (stop.clone(), calls.clone(), old.clone(), new.clone());
        callers.spawn(async move {
            let mut reached_new = false;
            while !stop.load(Relaxed) || !reached_new {
                // Either certificate is valid during the replacement, and one of them always is.
                let channel = if let Ok(channel) = connect(address, &old, None).await {
                    channel
                } else {
                    reached_new = true;
                    connect(address, &new, None).await.expect("one of the two certificates")
                };
                let mut client = JobServiceClient::new(channel);
                for _ in 0..50 {
                    let read = GetJobRequest { job_id: "a".into(), ..GetJobRequest::default() };
                    client.get_job(bearer("always", read)).await.expect("no call fails");
                    calls.fetch_add(1, Relaxed);
                }
            }
        });
    }
    let called = async |more: u64| {
        let target = calls.load(Relaxed) + more;
        let made = async {
            while calls.load(Relaxed) < target {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(60), made).await.expect("calls are made");
    };
    called(500).await;
    let certificate = new.server();
    // First a certificate without its key, for longer than the interval of the checks.
    folder.write("cert.pem", &certificate.pem);
    called(2000).await;
    connect(address, &old, None).await.expect("what does not fit together is not used");
    folder.write("key.pem", &certificate.key);
    until("the new certificate is used", async || connect(address, &new, None).await.ok()).await;
    connect(address, &old, None).await.expect_err("the old one is not used any more");
    folder.write("identities.json", &identities(&[entry("always"), entry("later")]));
    let mut newcomer = JobServiceClient::new(connect(address, &new, None).await.expect("the new certificate"));
    until("the new token is known", async || {
        let read = GetJobRequest { job_id: "a".into(), ..GetJobRequest::default() };
        newcomer.get_job(bearer("later", read)).await.ok()
    })
    .await;
    called(500).await;
    stop.store(true, Relaxed);
    while let Some(caller) = callers.join_next().await {
        caller.expect("no call failed");
    }
    // The connection and the stream from before the replacement continue.
    let report = jobtrack::proto::v1::UpdateProgressRequest { job_id: "a".into(), ..Default::default() };
    client.update_progress(bearer("always", report)).await.expect("the old connection goes on");
    // On a busy machine the stream may have been idle for long enough to send a bookmark.
    let update = loop {
        let event = stream.message().await.expect("the old stream goes on").expect("an event");
        if let Some(job) = event.job {
            break job;
        }
    };
    assert_eq!(update.revision, 2);
    println!("{} calls", calls.load(Relaxed));
    drop((stream, client, newcomer));
    server.stop().await;
}
