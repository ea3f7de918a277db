//! Ends of commands, and the resulting states of their jobs.

use std::{fs, os::unix::fs::PermissionsExt, process::Stdio};

use jobtrack_client::State;
use serde_json::json;

use super::{Gate, ID, bare, code, ended, gone, kill, output, run, same, tracker, until, wrap, wrap_words};
use crate::support::{credentials::Folder, process::Process};

#[tokio::test(flavor = "multi_thread")]
async fn ends_of_commands_are_those_of_their_jobs() {
    for (script, state, reason) in [
        ("echo out; echo err >&2", State::Succeeded, None),
        ("echo out; echo err >&2; exit 3", State::Failed, Some("EXIT_3")),
        ("echo out; kill -9 $$", State::Failed, Some("SIGNAL_9")),
        ("kill -TERM $$", State::Failed, Some("SIGNAL_15")),
        ("no-such-command", State::Failed, Some("EXIT_127")),
    ] {
        let process = Process::start(&[]);
        let finished = run(wrap(process.address, &[], script)).await;
        assert_eq!(same(&finished, &run(bare(script)).await), [""; 0], "{script}");
        let job = ended(&process).await;
        assert_eq!(job.state(), state, "{script}");
        assert_eq!(job.failure().map(|failure| failure.reason.as_str()), reason, "{script}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_has_the_end_of_the_output_and_details() {
    let script = "echo starting; printf ' 10%%\\r 20%%\\n'; echo 'no space left' >&2; exit 3";
    let process = Process::start(&[]);
    run(wrap(process.address, &[], script)).await;
    let job = ended(&process).await;
    let failure = job.failure().expect("it failed");
    let mut lines: Vec<_> = failure.message.lines().collect();
    // Standard output and standard error are two pipes: the order of their lines is undefined.
    lines.sort_unstable();
    assert_eq!(lines, [" 20%", "no space left", "starting"]);
    let mut details = failure.details.clone().expect("details").to_json();
    assert!(details["duration_seconds"].take().is_number());
    assert_eq!(details, json!({"exit_code": 3, "signal": null, "duration_seconds": null}));

    let process = Process::start(&[]);
    run(wrap(process.address, &["--no-output"], script)).await;
    let message = ended(&process).await.failure().expect("it failed").message.clone();
    assert_eq!(message, "the command ended with exit code 3");
}

#[tokio::test(flavor = "multi_thread")]
async fn command_that_can_not_be_started_ends_as_in_a_shell() {
    let files = Folder::new();
    let plain = files.write("plain", "text");
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).expect("it is ours");
    for (word, expected, problem) in
        [("no-such-command", 127, "not found"), (&plain, 126, "denied"), ("/", 126, "denied")]
    {
        let process = Process::start(&[]);
        let finished = run(wrap_words(process.address, &["--retries", "3"], &[word])).await;
        assert_eq!(code(finished.status), expected);
        let text = String::from_utf8_lossy(&finished.stderr).to_lowercase();
        assert!(text.contains(word) && text.contains(problem) && text.lines().count() == 1, "{text}");
        let job = ended(&process).await;
        assert_eq!(job.failure().expect("it failed").reason, format!("EXIT_{expected}"));
        assert_eq!(job.attempt, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn job_has_what_the_flags_say() {
    let process = Process::start(&[]);
    let flags = ["--title", "Nightly", "--kind", "backup", "--owner", "ops", "--label", "host=a", "--lease", "45s"];
    run(wrap(process.address, &flags, "true")).await;
    let job = ended(&process).await;
    assert_eq!((job.title.as_str(), job.kind.as_str(), job.owner.as_str()), ("Nightly", "backup", "ops"));
    assert_eq!(job.labels.get("host").map(String::as_str), Some("a"));
    assert_eq!(job.lease().map(|lease| lease.as_secs()), Some(45));

    let process = Process::start(&[]);
    run(wrap_words(process.address, &[], &["/bin/echo", "a", "b c"])).await;
    let job = ended(&process).await;
    assert_eq!((job.title.as_str(), job.kind.as_str()), ("/bin/echo a b c", "echo"));
    assert!(job.worker.contains(':'), "{}", job.worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn command_knows_its_job() {
    let process = Process::start(&[]);
    let script = "echo $JOBTRACK_JOB_ID,$JOBTRACK_ATTEMPT,$JOBTRACK_SERVER,$PYTHONUNBUFFERED";
    let finished = run(wrap(process.address, &["--strict"], script)).await;
    let expected = format!("{ID},1,http://{},1\n", process.address);
    assert_eq!(String::from_utf8_lossy(&finished.stdout), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn job_that_exists_is_claimed_and_one_that_has_ended_is_not() {
    let process = Process::start(&[]);
    let tracker = tracker(process.address);
    tracker.create("test.work").id(ID).send().await.expect("it is created");
    let finished = run(wrap(process.address, &[], "exit 3")).await;
    assert_eq!((code(finished.status), finished.stderr.len()), (3, 0));
    let job = ended(&process).await;
    assert_eq!((job.kind.as_str(), job.state(), job.attempt), ("test.work", State::Failed, 1));
    let gate = Gate::new();
    let again = wrap(process.address, &[], &format!("read x < {}; echo done", gate.path)).spawn();
    let again = again.expect("it can be started");
    gate.open().await;
    let again = output(again).await;
    assert_eq!(String::from_utf8_lossy(&again.stdout), "done\n");
    let strict = run(wrap(process.address, &["--strict"], "echo started")).await;
    assert_eq!((code(strict.status), strict.stdout.len()), (1, 0));
    assert!(String::from_utf8_lossy(&strict.stderr).contains("JOB_FINISHED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_retry_is_an_attempt() {
    let files = Folder::new();
    let (process, marker) = (Process::start(&[]), files.path("failed-once"));
    let script = format!("echo attempt $JOBTRACK_ATTEMPT; test -e {marker} || {{ touch {marker}; exit 3; }}");
    let finished = run(wrap(process.address, &["--retries", "2", "--strict"], &script)).await;
    assert_eq!(
        (code(finished.status), String::from_utf8_lossy(&finished.stdout).as_ref()),
        (0, "attempt 1\nattempt 2\n")
    );
    let job = ended(&process).await;
    assert_eq!((job.state(), job.attempt), (State::Succeeded, 2));
    assert_eq!(job.last_failure.expect("the first attempt").reason, "EXIT_3");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_command_stays_alive_for_the_tracker() {
    let (process, gate) = (Process::start(&[]), Gate::new());
    let script = format!("echo $$; read x < {}", gate.path);
    let mut wrapper = wrap(process.address, &["--lease", "1s"], &script).spawn().expect("it can be started");
    let id = output::first_line(&mut wrapper).await;
    let first = until(process.address, |job| job.lease_expire_time.is_some()).await.lease_expire_time;
    kill("STOP", id.parse().expect("a number"));
    let expires = |job: &jobtrack_client::Job| job.lease_expire_time.map(|time| (time.seconds, time.nanos));
    let mut last = first.map(|time| (time.seconds, time.nanos));
    for _ in 0..6 {
        let job = until(process.address, |job| expires(job) > last || job.has_ended()).await;
        assert_eq!(job.state(), State::Running);
        last = expires(&job);
    }
    kill("CONT", id.parse().expect("a number"));
    gate.open().await;
    assert_eq!(code(output(wrapper).await.status), 0);
    assert_eq!(ended(&process).await.state(), State::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrapper_that_is_killed_leaves_no_process_behind() {
    let process = Process::start(&[]);
    // The command and one of its children print their ids. The command ignores SIGTERM, and its children inherit that.
    let script = "trap '' TERM; sh -c 'echo $$; exec sleep 1000' & echo $$; sleep 1000 & wait; sleep 1000";
    let flags = ["--lease", "1s", "--grace", "200ms"];
    let mut command = wrap(process.address, &flags, script);
    let mut wrapper = command.stderr(Stdio::null()).spawn().expect("it can be started");
    let mut lines = output::lines(&mut wrapper);
    let ids = [lines.recv().await.expect("a line"), lines.recv().await.expect("a line")];
    until(process.address, |job| job.state() == State::Running).await;
    kill("KILL", wrapper.id());
    output(wrapper).await;
    for id in &ids {
        gone(id).await;
    }
    let job = ended(&process).await;
    assert_eq!((job.state(), job.failure().expect("it failed").reason.as_str()), (State::Failed, "WORKER_LOST"));
}
