//! Bearer tokens of the identities file.

use std::{fs, process::Command};

use jobtrack::proto::v1::{WatchJobRequest, WatchJobsRequest};
use serde_json::{Value, json};
use tonic::{Code, Request, metadata::MetadataValue};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{assert_denied, assert_unauthenticated, missing, read_as};
use crate::support::{
    Server,
    credentials::{Folder, bearer, holder, identities},
    new_job,
    process::{Process, output},
    reason, until,
};

/// Starts a server with these `entries`. Returns it with the folder of its `identities.json`.
async fn server(entries: &[Value]) -> (Server, Folder) {
    let folder = Folder::new();
    let file = folder.write("identities.json", &identities(entries));
    (Server::with(&["--auth-tokens", &file]).await, folder)
}

#[tokio::test]
async fn unknown_caller_is_unauthenticated() {
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
async fn only_streams_of_a_revoked_token_end() {
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
    // The streams of other callers are undisturbed.
    all.message().await.expect("the bookmark behind the snapshot").expect("a bookmark");
    let request = jobtrack::proto::v1::UpdateProgressRequest { job_id: "a".into(), ..Default::default() };
    client.update_progress(bearer("kept", request)).await.expect("a reporter reports");
    assert_eq!(one.message().await.expect("an update").expect("an update").skipped, 0);
    assert_eq!(all.message().await.expect("an update").expect("an update").skipped, 0);
    drop((one, all));
    server.stop().await;
}

/// Starts a process with the `identities.json` of this folder, which also receives the log.
fn logging(folder: &Folder, level: &str) -> Process {
    let mut command = Command::new("sh");
    command.args(["-c", r#"log=$1; shift; exec "$0" "$@" 2>"$log""#, env!("CARGO_BIN_EXE_jobtrack")]);
    command.args([&folder.path("log"), "--log", level, "--auth-tokens", &folder.path("identities.json")]);
    command.args(["--http-listen", "off"]).env_clear();
    Process::run(command)
}

fn log(folder: &Folder) -> String {
    fs::read_to_string(folder.path("log")).expect("the log is text")
}

#[tokio::test]
async fn unusable_identities_file_keeps_the_previous_version() {
    let folder = Folder::new();
    let tom = || holder("tom", "reader", &json!("*"));
    folder.write("identities.json", &identities(&[tom()]));
    let process = logging(&folder, "info");
    let mut client = process.client().await;
    let both = identities(&[tom(), holder("ann", "reader", &json!("*"))]);
    let bad = ["", "{", &both[..both.len() - 1], r#"{"identities": [{"name": "tom"}]}"#];
    for (number, bad) in bad.into_iter().enumerate() {
        folder.write("identities.json", bad);
        let complaints = || log(&folder).matches("reload failed").count();
        until("it is noticed", async || (complaints() > number).then_some(())).await;
        let status = client.get_job(bearer("tom", missing())).await.expect_err("there is no such job");
        assert_eq!(reason(&status), "JOB_NOT_FOUND", "{bad:?}");
    }
    folder.write("identities.json", &both);
    until("a good file is taken", async || {
        let status = client.get_job(bearer("ann", missing())).await.expect_err("there is no such job");
        (status.code() == Code::NotFound).then_some(())
    })
    .await;
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
        (with(|entry| entry["token"] = json!("canary-2fb1")), "no other key"),
        (with(|entry| entry["role"] = json!("canary-2fb1")), "reader, reporter or admin"),
        (with(|entry| entry["owners"] = json!("canary-2fb1")), "owners"),
        (with(|entry| entry["owners"] = json!([1])), "owners"),
        (with(|entry| entry["owners"] = json!(vec!["x"; 101])), "owners"),
        (with(|entry| entry["certificate"] = json!("spiffe://x")), "either sha256 or certificate"),
        (with(|entry| _ = entry.as_object_mut().expect("an object").remove("sha256")), "either sha256 or certificate"),
        (with(|entry| _ = entry.as_object_mut().expect("an object").remove("owners")), "owners"),
        (with(|entry| entry["name"] = json!("")), "number 1"),
        (identities(&[good(), good()]), "another entry"),
        (identities(&[holder("", "reader", &json!("*"))]).replace("\"name\":\"\"", "\"name\":\"tom\""), "empty token"),
        (identities(&[holder("\n", "reader", &json!("*"))]), "empty token"),
        (identities(&[good()]).replace("\"role\"", "\"role\":\"admin\",\"role\""), "twice"),
        (identities(&[good()]).replace("\"owners\"", "\"owners\":[\"canary-2fb1\"],\"owners\""), "twice"),
        (identities(&[good()]).replace("\"identities\"", "\"identities\":[],\"identities\""), "twice"),
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

/// Uses the most verbose log level, of all libraries.
#[tokio::test]
async fn no_log_line_has_a_token() {
    let folder = Folder::new();
    folder.write("identities.json", &identities(&[holder("canary-known", "reader", &json!("*"))]));
    let process = logging(&folder, "trace,h2=trace,hyper=trace,tonic=trace");
    let mut client = process.client().await;
    for (token, code) in [("canary-known", Code::NotFound), ("canary-unknown", Code::Unauthenticated)] {
        let status = client.get_job(bearer(token, missing())).await.expect_err("there is no such job");
        assert_eq!(status.code(), code);
    }
    folder.write("identities.json", r#"{"identities": [{"name": "tom", "sha256": "canary-digest"}]}"#);
    until("the bad file is noticed", async || log(&folder).contains("reload failed").then_some(())).await;
    process.signal("TERM");
    process.wait();
    let lines = log(&folder);
    assert!(lines.contains("GetJob") && lines.contains("h2::"), "{lines}");
    // The name of an identity is no secret, although it has the same text as the token here.
    let tells = |line: &&str| line.replace("caller=\"canary-known\"", "").contains("canary");
    let secrets: Vec<_> = lines.lines().filter(tells).collect();
    assert!(secrets.is_empty(), "{secrets:#?}");
}

#[tokio::test]
async fn log_names_rejected_callers() {
    let folder = Folder::new();
    folder.write("identities.json", &identities(&[holder("tom", "reader", &json!("*"))]));
    let process = logging(&folder, "debug");
    let mut client = process.client().await;
    let refused = client.create_job(bearer("tom", new_job("a"))).await.expect_err("a reader");
    assert_denied(&refused, ("role", "reporter"));
    let named = until("the line of the call", async || {
        log(&folder).lines().find(|line| line.contains("PermissionDenied")).map(str::to_owned)
    });
    let line = named.await;
    assert!(line.contains("caller=\"tom\"") || line.contains("caller=tom"), "{line}");
}
