//! `watch`, `wait` and `top`: bars on a terminal, lines in a pipe, JSON, and exit codes.

use std::{
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdout, Stdio},
    time::Instant,
};

use jobtrack::proto::v1::{GetStatsRequest, Progress, UpdateProgressRequest};
use serde_json::{Value, json};

use super::{Ended, client, ok, run, terminal::Terminal};
use crate::support::{
    Client, create,
    process::{Process, command},
};

/// A command whose output is read line by line.
struct Follower {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    errors: Lines<BufReader<ChildStderr>>,
}

impl Follower {
    fn start(process: &Process, arguments: &[&str]) -> Self {
        let mut command = client(process.address, arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be started");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let errors = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        Self { child, lines, errors }
    }

    /// Reads lines until a line has these words. Returns that line.
    #[track_caller]
    fn until(&mut self, words: &[&str]) -> String {
        until(&mut self.lines, words)
    }

    /// Reads lines of standard error until a line has these words. Returns that line.
    #[track_caller]
    fn until_error(&mut self, words: &[&str]) -> String {
        until(&mut self.errors, words)
    }

    /// Waits for the end. Returns the exit code and the rest of the output.
    fn end(mut self) -> Ended {
        let [stdout, stderr] = [
            self.lines.map(|line| line.expect("text") + "\n").collect::<String>(),
            self.errors.map(|line| line.expect("text") + "\n").collect(),
        ];
        Ended { code: self.child.wait().expect("it ends").code(), stdout, stderr }
    }
}

#[track_caller]
fn until(lines: &mut Lines<impl BufRead>, words: &[&str]) -> String {
    let mut seen = Vec::new();
    for line in lines {
        let line = line.expect("the output is text");
        if words.iter().all(|word| line.contains(word)) {
            return line;
        }
        seen.push(line);
    }
    panic!("no line with {words:?} in {seen:#?}");
}

async fn report(jobs: &mut Client, id: &str, completed: i64, total: i64) {
    let progress = Progress { completed: Some(completed), total: Some(total), ..Progress::default() };
    let request = UpdateProgressRequest { job_id: id.into(), progress: Some(progress), ..Default::default() };
    jobs.update_progress(request).await.expect("it runs");
}

/// Waits until the server has an open watch.
async fn watched(process: &Process) {
    let mut admin = process.admin().await;
    while admin.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner().watchers == 0 {}
}

#[test]
fn exit_code_is_that_of_the_ends() {
    let process = Process::start(&[]);
    for (id, end) in [
        ("good", &["complete", "good"][..]),
        ("bad", &["fail", "bad", "-r", "FULL"]),
        ("stopped", &["cancel", "stopped"]),
    ] {
        ok(&process, &["create", "--kind", "k", "--id", id]);
        ok(&process, end);
    }
    for (ids, code, words) in [
        (&["good"][..], 0, &["good  SUCCEEDED"][..]),
        (&["bad"], 1, &["bad  FAILED", "FULL"]),
        (&["stopped"], 3, &["stopped  CANCELLED"]),
        (&["good", "good"], 0, &["SUCCEEDED"]),
        (&["good", "stopped"], 3, &["SUCCEEDED", "CANCELLED"]),
        (&["stopped", "bad", "good"], 1, &["CANCELLED", "FAILED", "SUCCEEDED"]),
        (&["good", "missing"], 4, &["SUCCEEDED"]),
        (&["missing"], 4, &[]),
    ] {
        for verb in ["wait", "watch"] {
            let ended = run(&process, &[&[verb], ids].concat());
            assert_eq!(ended.code, Some(code), "{verb} {ids:?}: {}{}", ended.stdout, ended.stderr);
            assert!(words.iter().all(|word| ended.stdout.contains(word)), "{verb} {ids:?}: {}", ended.stdout);
            assert_eq!(ended.stderr.contains("missing"), code == 4, "{}", ended.stderr);
        }
    }
    let both = run(&process, &["watch", "good", "--kind", "k"]);
    assert_eq!(both.code, Some(2), "{}", both.stderr);
}

#[tokio::test]
async fn lines_of_a_pipe_follow_the_jobs_to_their_ends() {
    let process = Process::start(&[]);
    let mut jobs = process.client().await;
    for id in ["a", "b"] {
        create(&mut jobs, id).await;
    }
    let mut watch = Follower::start(&process, &["watch", "a", "b"]);
    watch.until(&["a  PENDING  VOLATILE"]);
    watch.until(&["b  PENDING"]);
    report(&mut jobs, "a", 1, 4).await;
    watch.until(&["a  RUNNING  25.0%  1/4"]);
    ok(&process, &["complete", "a"]);
    watch.until(&["a  SUCCEEDED  100%"]);
    ok(&process, &["rm", "b", "--force"]);
    let ended = watch.end();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(4), "note: b was deleted\n"), "{}", ended.stdout);
}

#[tokio::test]
async fn filter_shows_jobs_that_are_created_later() {
    let process = Process::start(&[]);
    let mut jobs = process.client().await;
    create(&mut jobs, "old").await;
    ok(&process, &["complete", "old"]);
    create(&mut jobs, "new").await;
    let mut watch = Follower::start(&process, &["watch", "--kind", "test.work"]);
    assert_eq!(watch.until(&["PENDING"]), "new  PENDING  VOLATILE");
    ok(&process, &["create", "--kind", "other", "--id", "other"]);
    create(&mut jobs, "newer").await;
    let line = watch.until(&["newer"]);
    assert!(line.contains("PENDING"), "{line}");
    ok(&process, &["cancel", "new"]);
    watch.until(&["new  CANCELLED"]);
    watch.child.kill().expect("it runs");
}

#[tokio::test]
async fn json_has_the_events_or_the_ends() {
    let process = Process::start(&[]);
    create(&mut process.client().await, "a").await;
    let mut watch = Follower::start(&process, &["watch", "a", "-o", "jsonl"]);
    let json = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
    let first = json(&watch.until(&["SNAPSHOT"]));
    assert_eq!((&first["job"]["id"], &first["job"]["state"]), (&json!("a"), &json!("PENDING")));
    let ends = Follower::start(&process, &["watch", "a", "-o", "json"]);
    ok(&process, &["complete", "a", "--result", r#"{"rows": 3}"#]);
    let last = json(&watch.until(&["UPDATE", "SUCCEEDED"]));
    assert_eq!(last["job"]["result"], json!({"rows": 3.0}));
    assert_eq!(watch.end().code, Some(0));
    let ended = ends.end();
    assert_eq!((ended.code, &json(&ended.stdout)["result"]), (Some(0), &json!({"rows": 3.0})));
    let waited = ok(&process, &["wait", "a", "-o", "jsonl"]);
    assert_eq!((waited.lines().count(), &json(&waited)["state"]), (1, &json!("SUCCEEDED")));
}

#[tokio::test]
async fn waiting_has_an_end() {
    let process = Process::start(&[]);
    create(&mut process.client().await, "a").await;
    let late = run(&process, &["wait", "a", "--timeout", "100ms"]);
    assert_eq!((late.code, late.stdout.as_str()), (Some(1), ""));
    assert_eq!(late.stderr, "error: not ended within 100ms: a PENDING\n");
    let waiting = Follower::start(&process, &["wait", "a", "-q", "--timeout", "1m"]);
    watched(&process).await;
    ok(&process, &["complete", "a"]);
    let ended = waiting.end();
    assert_eq!((ended.code, ended.stdout.as_str(), ended.stderr.as_str()), (Some(0), "", ""));
}

#[tokio::test]
async fn tracker_that_goes_away_is_tried_again_and_one_that_never_was_is_not() {
    let process = Process::start(&[]);
    create(&mut process.client().await, "a").await;
    let (address, url) = (process.address, format!("http://{}", process.address));
    let mut watch = Follower::start(&process, &["watch", "a"]);
    watch.until(&["PENDING"]);
    drop(process);
    watch.until_error(&["note: the tracker is unavailable, trying again"]);
    for verb in ["watch", "wait"] {
        let ended: Ended = client(address, &[verb, "a"]).output().expect("the binary can be started").into();
        assert_eq!(ended.code, Some(5), "{}", ended.stderr);
        assert!(ended.stderr.contains(&url) && ended.stderr.lines().count() == 1, "{}", ended.stderr);
    }
    // The new process has no jobs, and the watch reports that.
    let process = Process::run_on(command(&[]), &address.to_string());
    let ended = watch.end();
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    assert!(ended.stderr.contains("JOB_NOT_FOUND"), "{}", ended.stderr);
    create(&mut process.client().await, "a").await;
    let mut waiting = Follower::start(&process, &["wait", "a", "--timeout", "5s"]);
    watched(&process).await;
    drop(process);
    waiting.until_error(&["unavailable, trying again"]);
    assert_eq!(waiting.end().code, Some(5));
}

#[tokio::test]
async fn terminal_shows_bars_that_end_as_lines() {
    let process = Process::start(&[]);
    let mut jobs = process.client().await;
    for id in ["a", "b"] {
        create(&mut jobs, id).await;
    }
    let mut terminal = Terminal::run(&client(process.address, &["watch", "a", "b"]), 100, 24);
    terminal.until(|text| text.contains("b  ") && text.contains("PENDING"));
    report(&mut jobs, "a", 2, 4).await;
    terminal.until(|text| text.contains(&"━".repeat(10)) && text.contains("50.0%") && text.contains("2/4"));
    ok(&process, &["complete", "a"]);
    ok(&process, &["fail", "b", "-r", "FULL"]);
    let status = terminal.end();
    assert_eq!(status.code(), Some(1), "{:?}", terminal.text);
    let plain = without_sequences(&terminal.text);
    for line in ["a  SUCCEEDED  100%", "b  FAILED", "FULL"] {
        assert!(plain.contains(line), "{line:?} is missing in {plain:?}");
    }
}

/// Returns text without the sequences that control a terminal.
pub fn without_sequences(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text.chars();
    while let Some(letter) = rest.next() {
        if letter == '\u{1b}' {
            for letter in rest.by_ref() {
                if letter.is_ascii_alphabetic() {
                    break;
                }
            }
        } else {
            plain.push(letter);
        }
    }
    plain
}

#[tokio::test]
async fn thousand_jobs_are_drawn_a_few_times_a_second() {
    const JOBS: usize = 1000;
    let process = Process::start(&[]);
    let mut jobs = process.client().await;
    for number in 0..JOBS {
        let id = format!("job-{number:03}");
        create(&mut jobs, &id).await;
        report(&mut jobs, &id, 0, 1000).await;
    }
    let started = Instant::now();
    let mut terminal = Terminal::run(&client(process.address, &["top"]), 100, 30);
    terminal.until(|text| text.contains("and 973 more"));
    for round in 1..=5 {
        for number in 0..JOBS {
            report(&mut jobs, &format!("job-{number:03}"), round * 100, 1000).await;
        }
    }
    terminal.until(|text| text.rsplit("RUNNING").next().unwrap_or_default().contains("50.0%"));
    let frames = terminal.text.matches("and 973 more").count();
    let max = started.elapsed().as_millis() / 250 + 2;
    assert!((frames as u128) <= max, "{frames} frames, at most {max}");
    terminal.press("q");
    assert!(terminal.end().success());
}

#[tokio::test]
async fn top_takes_the_terminal_and_gives_it_back() {
    let process = Process::start(&[]);
    let mut jobs = process.client().await;
    create(&mut jobs, "waiting").await;
    create(&mut jobs, "stalled").await;
    report(&mut jobs, "stalled", 1, 4).await;
    let once = ok(&process, &["top", "--stalled-after", "0"]);
    let lines: Vec<_> = once.lines().collect();
    assert!(lines[0].contains("RUNNING 1") && lines[0].contains("PENDING 1"), "{once}");
    assert_eq!(lines[1], "0 lost, 1 stalled");
    assert!(lines[2].starts_with("stalled ") && lines[2].contains("STALLED"), "{once}");
    assert!(lines[3].starts_with("waiting ") && lines[3].contains("PENDING"), "{once}");
    for ending in ["q", "TERM", "INT"] {
        let mut terminal = Terminal::run(&client(process.address, &["top"]), 100, 24);
        terminal.until(|text| text.contains("\u{1b}[?1049h") && text.contains("waiting") && text.contains("25.0%"));
        match ending {
            "q" => terminal.press("xq"),
            signal => terminal.signal(signal),
        }
        terminal.until(|text| text.contains("\u{1b}[?1049l"));
        let status = terminal.end();
        assert!(terminal.ended_plain(), "{:?}", terminal.text);
        assert_eq!(status.code(), Some(0), "{ending}");
    }
}
