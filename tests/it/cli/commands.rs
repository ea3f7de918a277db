//! Commands for shell scripts, which create, report on, end, find and delete jobs.

use std::{io::Write, process::Stdio};

use jobtrack::proto::v1::{CreateJobRequest, Progress, UpdateProgressRequest};
use serde_json::{Value, json};

use super::{Ended, client, ok, run};
use crate::support::{
    credentials::Folder,
    http::get,
    new_job,
    process::{Process, command},
    text_document,
    watching::make,
};

/// Runs a command that succeeds, and returns its output as JSON.
#[track_caller]
fn json_of(process: &Process, arguments: &[&str]) -> Value {
    let text = ok(process, &[arguments, &["-o", "json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[track_caller]
fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in {text}");
    }
}

#[test]
fn script_creates_claims_reports_and_ends() {
    let process = Process::start(&[]);
    let create = ["create", "--kind", "backup", "--label", "host=a", "--metadata", r#"{"size": 3}"#, "--lease", "1m"];
    let id = ok(&process, &[&create[..], &["--title", "Backup", "-q"]].concat());
    let id = id.trim_end();
    let claim = ok(&process, &["start", id, "--worker", "w", "-q"]);
    let claim = claim.trim_end();
    let again = run(&process, &["start", id]);
    assert_eq!(again.code, Some(1));
    has(&again.stderr, &["ATTEMPT_RUNNING"]);
    let report = ["-c", "3", "-t", "4", "--unit", "files", "-s", "copy", "--stage-number", "1/2", "-m", "on it"];
    let line = ok(&process, &[&["update", id, "--claim", claim][..], &report].concat());
    has(&line, &[id, "RUNNING", "75.0%", "3/4 files", "copy 1/2", "on it", "VOLATILE"]);
    let shown = ok(&process, &["get", id]);
    has(&shown, &["Backup", "host=a", "backup", r#"{"size":3}"#, "60s", "LIVE", "ago"]);
    let stale = run(&process, &["update", id, "--claim", "other", "-p", "90"]);
    assert_eq!(stale.code, Some(1));
    has(&stale.stderr, &["STALE_ATTEMPT"]);
    let done = ok(&process, &["complete", id, "--result", r#"{"url": "s3://a"}"#]);
    has(&done, &["SUCCEEDED", "100%"]);
    let job = json_of(&process, &["get", id]);
    assert_eq!(job["result"], json!({"url": "s3://a"}));
    assert_eq!(job["leaseTimeout"], "60s");
    assert_eq!(ok(&process, &["rm", id]), "");
    assert_eq!(run(&process, &["get", id]).code, Some(4));
}

#[test]
fn report_that_is_ignored_or_to_be_cancelled_says_so() {
    let process = Process::start(&[]);
    ok(&process, &["create", "--kind", "backup", "--id", "a", "--request-id", "1"]);
    assert_eq!(ok(&process, &["create", "--kind", "backup", "--id", "a", "--request-id", "1", "-q"]), "a\n");
    ok(&process, &["update", "a", "-p", "50"]);
    let ignored = run(&process, &["update", "a", "-p", "40", "-q"]);
    assert_eq!((ignored.code, ignored.stdout.as_str()), (Some(0), ""));
    assert_eq!(ignored.stderr, "note: the report was ignored: lower progress\n");
    has(&ok(&process, &["cancel", "a", "-r", "too late", "--requester", "me"]), &["RUNNING", "CANCELLING", "too late"]);
    let told = run(&process, &["update", "a"]);
    assert_eq!((told.code, told.stderr.as_str()), (Some(3), ""));
    has(&ok(&process, &["cancel", "a", "--confirm"]), &["CANCELLED"]);
    ok(&process, &["create", "--kind", "backup", "--id", "b"]);
    ok(&process, &["fail", "b", "-r", "AGAIN", "-m", "one\ntwo", "--retry"]);
    assert_eq!(json_of(&process, &["get", "b"])["state"], "PENDING");
    has(&ok(&process, &["fail", "b", "-r", "FULL", "-m", "one\ntwo", "--code", "8"]), &["FAILED", r"FULL: one\ntwo"]);
    has(&ok(&process, &["get", "b"]), &["FULL", "\n            one\n            two\n"]);
}

#[test]
fn documents_come_from_files_and_standard_input() {
    let process = Process::start(&[]);
    let files = Folder::new();
    let file = format!("@{}", files.write("metadata.json", r#"{"a": [1, {"b": null}]}"#));
    ok(&process, &["create", "--kind", "k", "--id", "a", "--metadata", &file]);
    let mut complete = client(process.address, &["complete", "a", "--result", "-", "-q"]);
    let mut complete = complete.stdin(Stdio::piped()).spawn().expect("the binary can be started");
    let mut input = complete.stdin.take().expect("it is piped");
    input.write_all(br#"{"from": "stdin"}"#).expect("it reads");
    drop(input);
    assert!(complete.wait().expect("it ends").success());
    let job = json_of(&process, &["get", "a"]);
    assert_eq!((&job["metadata"], &job["result"]), (&json!({"a": [1.0, {"b": null}]}), &json!({"from": "stdin"})));
    let refused = run(&process, &["complete", "a", "--result", "[1]"]);
    assert_eq!(refused.code, Some(2));
    has(&refused.stderr, &["error: --result", "JSON object"]);
}

#[test]
fn job_and_attempt_of_the_environment_are_the_default() {
    let process = Process::start(&[]);
    for id in ["own", "other"] {
        ok(&process, &["create", "--kind", "k", "--id", id]);
        ok(&process, &["start", id]);
    }
    let inside = |attempt: &str, arguments: &[&str]| -> Ended {
        let mut command = client(process.address, arguments);
        command.env("JOBTRACK_JOB_ID", "own").env("JOBTRACK_ATTEMPT", attempt);
        command.output().expect("the binary can be started").into()
    };
    has(&inside("1", &["update", "-p", "10"]).stdout, &["own", "10.0%"]);
    has(&inside("1", &["update", "other", "-p", "20"]).stdout, &["other", "20.0%"]);
    ok(&process, &["start", "own", "--takeover"]);
    let late = inside("1", &["update", "-p", "11"]);
    assert_eq!(late.code, Some(1));
    has(&late.stderr, &["STALE_ATTEMPT"]);
    has(&inside("9", &["update", "other", "-p", "21"]).stdout, &["21.0%"]);
    has(&inside("x", &["update", "own", "--attempt", "2", "-p", "22"]).stdout, &["22.0%"]);
    for invalid in ["x", "0", ""] {
        let refused = inside(invalid, &["update", "-p", "23"]);
        assert_eq!(refused.code, Some(2));
        has(&refused.stderr, &[&format!("JOBTRACK_ATTEMPT={invalid}: not a number from 1")]);
    }
}

#[tokio::test]
async fn list_has_filters_pages_and_columns() {
    let process = Process::start(&[]);
    let mut jobs = process.client().await;
    for number in 0..1100 {
        let kind = if number < 3 { "few" } else { "many" };
        let job = CreateJobRequest { kind: kind.to_owned(), ..new_job(&format!("job-{number:04}")) };
        make(&mut jobs, CreateJobRequest { labels: [("n".to_owned(), number.to_string())].into(), ..job }).await;
    }
    ok(&process, &["update", "job-0001", "-p", "12.5", "--worker", "w"]);
    let few = ok(&process, &["ls", "--kind", "few", "--order", "oldest"]);
    let lines: Vec<_> = few.lines().collect();
    assert_eq!(lines.len(), 4, "{few}");
    assert!(lines[0].starts_with("ID ") && lines[1].starts_with("job-0000 "), "{few}");
    has(lines[2], &["RUNNING", "12.5%"]);
    has(&ok(&process, &["ls", "--worker", "w", "-o", "wide"]), &["WORKER", "LIVENESS", "job-0001", "VOLATILE"]);
    assert_eq!(ok(&process, &["ls", "--label", "n=2", "-q"]), "job-0002\n");
    assert_eq!(ok(&process, &["ls", "--id-prefix", "job-000", "--state", "pending,failed", "-q"]).lines().count(), 9);
    assert_eq!(ok(&process, &["ls", "--created-after", "1h", "--created-before", "30m", "-q"]), "");
    let page = run(&process, &["ls"]);
    assert_eq!((page.code, page.stdout.lines().count()), (Some(0), 51));
    has(&page.stderr, &["note: ", "--all"]);
    for format in [&["-o", "jsonl"][..], &["--quiet"]] {
        let some = run(&process, &[&["ls", "--limit", "1"], format].concat());
        assert_eq!(some.stdout.lines().count(), 1);
        has(&some.stderr, &["note: there are more jobs"]);
    }
    let all = ok(&process, &["ls", "--all", "-o", "jsonl"]);
    let ids: std::collections::HashSet<_> =
        all.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["id"].to_string()).collect();
    assert_eq!((ids.len(), all.lines().count()), (1100, 1100));
    assert_eq!(json_of(&process, &["ls", "-n", "1050"])["jobs"].as_array().map(Vec::len), Some(1050));
    let refused = run(&process, &["ls", "--state", "done"]);
    assert_eq!(refused.code, Some(2));
    has(&refused.stderr, &["--state", "pending, running"]);
}

#[test]
fn purge_deletes_what_is_named() {
    let process = Process::start(&[]);
    for id in ["a", "b", "c"] {
        ok(&process, &["create", "--kind", "k", "--id", id]);
    }
    ok(&process, &["complete", "a"]);
    ok(&process, &["fail", "b"]);
    assert_eq!(run(&process, &["purge"]).code, Some(2));
    assert_eq!(ok(&process, &["purge", "--dry-run"]), "2 jobs would be purged\n");
    assert_eq!(ok(&process, &["purge", "--older-than", "1h"]), "0 jobs purged\n");
    assert_eq!(json_of(&process, &["purge", "--state", "failed"]), json!({"purgedCount": "1"}));
    assert_eq!(ok(&process, &["purge", "--all"]), "1 jobs purged\n");
    assert_eq!(ok(&process, &["ls", "-q"]), "c\n");
    assert_eq!(run(&process, &["rm", "c"]).code, Some(1));
    ok(&process, &["rm", "c", "--force"]);
}

#[tokio::test]
async fn token_is_followed_by_its_url_alone() {
    let process = Process::start(&[]);
    ok(&process, &["create", "--kind", "k", "--id", "a"]);
    ok(&process, &["complete", "a"]);
    let url = ok(&process, &["token", "a", "--ttl", "10m", "-q"]);
    let path = url.trim_end().strip_prefix(&format!("http://{}", process.address)).expect("a URL of the server");
    let (status, events) = get(process.address, path).await;
    assert_eq!(status, 200, "{events}");
    has(&events, &["SUCCEEDED"]);
    has(&ok(&process, &["token", "a"]), &["Token ", "URL ", "Expires "]);
    assert!(json_of(&process, &["token", "a"])["token"].is_string());
}

#[test]
fn statistics_count_jobs_by_state() {
    let process = Process::start(&[]);
    ok(&process, &["create", "--kind", "k"]);
    let shown = ok(&process, &["stats"]);
    has(&shown, &["Storage         MEMORY", "PENDING         1", env!("CARGO_PKG_VERSION")]);
    assert_eq!(json_of(&process, &["stats"])["storageMode"], "MEMORY");
}

#[tokio::test]
async fn foreign_texts_do_not_control_the_terminal() {
    const TEXT: &str = "a\u{1b}]0;title\u{7}\u{9b}2J\u{202e}\r";
    let process = Process::start(&[]);
    let mut jobs = process.client().await;
    let job =
        CreateJobRequest { title: TEXT.to_owned(), kind: TEXT.to_owned(), owner: TEXT.to_owned(), ..new_job("a") };
    let labels = [("l".to_owned(), TEXT.to_owned())].into();
    make(&mut jobs, CreateJobRequest { labels, metadata: Some(text_document(TEXT)), ..job }).await;
    let text = || Some(TEXT.to_owned());
    let progress = Progress { message: text(), stage: text(), unit: text(), completed: Some(1), ..Progress::default() };
    let request = UpdateProgressRequest {
        job_id: "a".into(),
        worker: TEXT.into(),
        progress: Some(progress),
        ..Default::default()
    };
    jobs.update_progress(request).await.expect("it runs");
    let controls = |letter: char| letter != '\n' && letter.is_control() || letter == '\u{202e}';
    for arguments in [
        &["get", "a"][..],
        &["get", "a", "-o", "json"],
        &["get", "a", "-o", "jsonl"],
        &["ls", "-o", "wide"],
        &["update", "a"],
        &["fail", "a", "-m", TEXT],
        &["get", "a"],
    ] {
        let shown = ok(&process, arguments);
        assert!(!shown.contains(controls), "{shown:?}");
        has(&shown, &["title"]);
    }
    let refused = run(&process, &["get", TEXT]);
    assert!(!refused.stderr.contains(controls), "{:?}", refused.stderr);
}

#[test]
fn completions_and_manual_pages_are_made() {
    for (shell, word) in [("bash", "complete "), ("zsh", "#compdef"), ("fish", "complete -c jobtrack")] {
        let made: Ended = command(&["completions", shell]).output().expect("the binary can be started").into();
        assert_eq!(made.code, Some(0));
        has(&made.stdout, &[word, "update", "stage"]);
    }
    let page: Ended = command(&["man", "update"]).output().expect("the binary can be started").into();
    has(&page.stdout, &[".TH", "JOBTRACK_SERVER", "\\-\\-percent"]);
    let files = Folder::new();
    let made: Ended = command(&["man", "--dir", &files.path("")]).output().expect("the binary can be started").into();
    assert_eq!((made.code, made.stderr.as_str()), (Some(0), ""));
    for page in ["jobtrack.1", "jobtrack-ls.1"] {
        assert!(std::fs::read_to_string(files.path(page)).expect("a page").contains(".SH"), "{page}");
    }
    let unknown: Ended = command(&["man", "nothing"]).output().expect("the binary can be started").into();
    assert_eq!(unknown.code, Some(2));
}

#[test]
fn closed_pipe_is_no_error() {
    let process = Process::start(&[]);
    ok(&process, &["create", "--kind", "k"]);
    for arguments in [&["ls", "--all"][..], &["stats", "-o", "json"], &["completions", "bash"]] {
        let mut command = client(process.address, arguments);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary can be started");
        drop(child.stdout.take());
        let ended: Ended = child.wait_with_output().expect("it ends").into();
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
    let mut full = client(process.address, &["stats"]);
    full.stdout(std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device"));
    let ended: Ended = full.output().expect("the binary can be started").into();
    assert_eq!(ended.code, Some(1));
    has(&ended.stderr, &["error: ", "standard output"]);
}
