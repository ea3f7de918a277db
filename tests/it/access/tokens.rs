//! Bearer tokens of the identities file.

use jobtrack::proto::v1::{WatchJobRequest, WatchJobsRequest};
use serde_json::{Value, json};
use tonic::{Request, metadata::MetadataValue};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{assert_denied, assert_unauthenticated, missing, read_as, until};
use crate::support::{
    Server,
    credentials::{Folder, bearer, holder, identities},
    new_job,
    process::output,
    reason,
};

/// A server for those of `entries`, and the folder with its file `identities.json`.
async fn server(entries: &[Value]) -> (Server, Folder) {
    let folder = Folder::new();
    let file = folder.write("identities.json", &identities(entries));
    (Server::with(&["--auth-tokens", &file]).await, folder)
}

#[tokio::test]
async fn who_is_not_known_is_turned_away() {
    let (server, _folder) = server(&[holder("tom", "reader", &json!("*"))]).await;
    let channel = server.channel().await;
    let headers = [
        (None, "MISSING"),
        (Some("Bearer nobody"), "INVALID"),
        (Some("Bearer "), "INVALID"),
        (Some("Bearer"), "INVALID"),
        (Some("tom"), "INVALID"),
        (Some("Basic dG9tOnRvbQ=="), "INVALID"),
        (Some("Bearer tom tom"), "INVALID"),
        (Some("Bearer TOM"), "INVALID"),
        (Some("Bearer é"), "INVALID"),
    ];
    for (header, problem) in headers {
        let mut request = Request::new(missing());
        if let Some(header) = header {
            let value = MetadataValue::try_from(header.as_bytes()).expect("a header's value");
            request.metadata_mut().insert("authorization", value);
        }
        assert_unauthenticated(&read_as(&channel, request).await, problem);
    }
    let mut twice = bearer("tom", missing());
    twice.metadata_mut().append("authorization", "Bearer tom".parse().expect("a header's value"));
    assert_unauthenticated(&read_as(&channel, twice).await, "INVALID");
    for known in ["Bearer tom", "bearer tom", "BEARER  tom "] {
        let mut request = Request::new(missing());
        request.metadata_mut().insert("authorization", known.parse().expect("a header's value"));
        assert_eq!(reason(&read_as(&channel, request).await), "JOB_NOT_FOUND", "{known}");
    }
    let health = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    health.expect("health answers without credentials");
    server.stop().await;
}

#[tokio::test]
async fn a_stream_ends_when_its_token_is_revoked_and_only_that() {
    let entries = ["gone", "demoted", "kept"].map(|name| holder(name, "reporter", &json!("*")));
    let (server, folder) = server(&entries).await;
    let mut client = server.client().await;
    client.create_job(bearer("kept", new_job("a"))).await.expect("a reporter creates");
    let mut streams = Vec::new();
    for token in ["gone", "demoted", "kept"] {
        let request = WatchJobRequest { job_id: "a".into(), ..WatchJobRequest::default() };
        let mut one = client.watch_job(bearer(token, request)).await.expect("a stream").into_inner();
        one.message().await.expect("a snapshot").expect("a snapshot");
        let all = client.watch_jobs(bearer(token, WatchJobsRequest::default())).await.expect("a stream");
        let mut all = all.into_inner();
        all.message().await.expect("a snapshot").expect("a snapshot");
        streams.push((token, one, all));
    }
    let (token, mut one, mut all) = streams.pop().expect("three");
    assert_eq!(token, "kept");
    folder.write("identities.json", &identities(&[entries[2].clone(), holder("demoted", "reader", &json!("*"))]));
    for (token, mut one, mut all) in streams {
        assert_unauthenticated(&one.message().await.expect_err(token), "ENDED");
        all.message().await.expect("the bookmark behind the snapshot").expect("a bookmark");
        assert_unauthenticated(&all.message().await.expect_err(token), "ENDED");
    }
    let channel = server.channel().await;
    assert_unauthenticated(&read_as(&channel, bearer("gone", missing())).await, "INVALID");
    let status = client.create_job(bearer("demoted", new_job("b"))).await.expect_err("a reader");
    assert_denied(&status, ("role", "reporter"));
    // The others' streams go on as if nothing had happened.
    all.message().await.expect("the bookmark behind the snapshot").expect("a bookmark");
    let request = jobtrack::proto::v1::UpdateProgressRequest { job_id: "a".into(), ..Default::default() };
    client.update_progress(bearer("kept", request)).await.expect("a reporter reports");
    assert_eq!(one.message().await.expect("an update").expect("an update").skipped, 0);
    assert_eq!(all.message().await.expect("an update").expect("an update").skipped, 0);
    drop((one, all));
    server.stop().await;
}

#[tokio::test]
async fn a_file_that_can_not_be_used_changes_nothing() {
    let (server, folder) = server(&[holder("tom", "reader", &json!("*"))]).await;
    let channel = server.channel().await;
    let both = identities(&[holder("tom", "reader", &json!("*")), holder("ann", "reader", &json!("*"))]);
    for bad in ["", "{", &both[..both.len() - 1], r#"{"identities": [{"name": "tom"}]}"#] {
        folder.write("identities.json", bad);
        // It is looked at within a second or two; that it was is seen by what comes after.
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
        assert_eq!(reason(&read_as(&channel, bearer("tom", missing())).await), "JOB_NOT_FOUND", "{bad:?}");
    }
    folder.write("identities.json", &both);
    until("a good file is taken", async || {
        let status = read_as(&channel, bearer("ann", missing())).await;
        (status.code() == tonic::Code::NotFound).then_some(())
    })
    .await;
    server.stop().await;
}

#[test]
fn a_bad_identities_file_is_refused_by_name_and_without_secrets() {
    let folder = Folder::new();
    let good = || holder("tom", "reader", &json!("*"));
    let with = |change: fn(&mut Value)| {
        let mut entry = good();
        change(&mut entry);
        identities(&[entry])
    };
    let canary = "canary-2fb1";
    let files = [
        (String::new(), "JSON"),
        (format!("{{\"identities\": \"{canary}\"}}"), "JSON"),
        ("[]".to_owned(), "JSON"),
        (format!("{{\"identities\": [], \"{canary}\": 1}}"), "JSON"),
        (with(|entry| entry["sha256"] = json!("canary-2fb1")), "64 hexadecimal"),
        (with(|entry| entry["token"] = json!("canary-2fb1")), "nothing else"),
        (with(|entry| entry["role"] = json!("canary-2fb1")), "reader, reporter or admin"),
        (with(|entry| entry["owners"] = json!("canary-2fb1")), "owners"),
        (with(|entry| entry["owners"] = json!([1])), "owners"),
        (with(|entry| entry["owners"] = json!(vec!["x"; 101])), "owners"),
        (with(|entry| entry["certificate"] = json!("spiffe://x")), "either sha256 or certificate"),
        (with(|entry| _ = entry.as_object_mut().expect("an object").remove("sha256")), "either sha256 or certificate"),
        (with(|entry| _ = entry.as_object_mut().expect("an object").remove("owners")), "owners"),
        (with(|entry| entry["name"] = json!("")), "number 1"),
        (identities(&[good(), good()]), "another entry"),
    ];
    for (content, word) in files {
        let file = folder.write("identities.json", &content);
        let output = output(&["--listen", "127.0.0.1:0", "--auth-tokens", &file]);
        let text = String::from_utf8(output.stderr).expect("errors are text");
        assert_eq!(output.status.code(), Some(1), "{content}: {text}");
        assert!(text.contains(&file) && text.contains(word), "{content}: {text}");
        assert!(!text.contains(canary) && !text.contains("panicked"), "{content}: {text}");
    }
    let missing = output(&["--listen", "127.0.0.1:0", "--auth-tokens", &folder.path("no-such-file")]);
    let text = String::from_utf8(missing.stderr).expect("errors are text");
    assert!(missing.status.code() == Some(1) && text.contains("no-such-file"), "{text}");
}
