//! Exit codes and error lines of client commands.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{Ended, client, ok, run};
use crate::support::{
    create,
    credentials::{Folder, holder, identities},
    process::Process,
    redis::next_port,
};

/// Fails unless a command has this exit code, and its standard error is one line with these words.
#[track_caller]
fn check(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "{}{}", ended.stdout, ended.stderr);
    for word in words {
        assert!(ended.stderr.contains(word), "{word:?} is missing in {:?}", ended.stderr);
    }
    let is_line = ended.stderr.starts_with("error: ") && ended.stderr.lines().count() == 1;
    assert!(is_line || code == 2, "{}", ended.stderr);
}

#[tokio::test]
async fn errors_have_a_code_and_one_line() {
    let process = Process::start(&[]);
    create(&mut process.client().await, "a").await;
    for (arguments, code, words) in [
        (&["get"][..], 2, &["<ID>"][..]),
        (&["get", "a", "--no-such-flag"], 2, &["--no-such-flag"]),
        (&["get", "missing"], 4, &["missing", "JOB_NOT_FOUND"]),
        (&["get", "ä"], 2, &["job_id", "INVALID_FIELD"]),
        (&["get", "a", "--server", "localhost:1"], 2, &["localhost:1", "http://"]),
        (&["get", "a", "--token-file", "/missing"], 2, &["/missing"]),
        (&["get", "a", "--client-cert", "/missing"], 2, &["--client-key"]),
    ] {
        check(&run(&process, arguments), code, words);
    }
    let several = run(&process, &["rm", "missing", "a", "gone", "--force"]);
    assert_eq!((several.code, several.stderr.lines().count()), (Some(4), 2), "{}", several.stderr);
    create(&mut process.client().await, "a").await;
    let got: Value = serde_json::from_str(&ok(&process, &["get", "a", "-o", "json"])).expect("JSON");
    assert_eq!((&got["id"], &got["state"]), (&json!("a"), &json!("PENDING")));
}

#[test]
fn absent_tracker_is_code_5_with_its_url() {
    let address = SocketAddr::from(([127, 0, 0, 1], next_port()));
    let ended = client(address, &["get", "a"]).output().expect("the binary can be started").into();
    check(&ended, 5, &[&format!("http://{address}"), "refused", "jobtrack serve", "--server"]);
}

#[tokio::test]
async fn flags_of_the_connection_override_variables_and_those_of_the_server_do_not_count() {
    let files = Folder::new();
    let tokens = files.write("identities", &identities(&[holder("right", "reporter", &json!("*"))]));
    let process = Process::start(&["--auth-tokens", &tokens]);
    let token = files.write("token", "right\n");
    let get = |arguments: &[&str], token: &str| -> Ended {
        let mut command = client(process.address, &[&["get", "a"][..], arguments].concat());
        command.env("JOBTRACK_TOKEN", token).env("JOBTRACK_LISTEN", "nonsense").env("JOBTRACK_TTL_FAILED", "soon");
        command.output().expect("the binary can be started").into()
    };
    check(&get(&[], ""), 1, &["JOBTRACK_TOKEN", "UNAUTHENTICATED"]);
    check(&get(&[], "wrong"), 1, &["UNAUTHENTICATED"]);
    check(&get(&[], "right"), 4, &[]);
    check(&get(&["--token-file", &token], "wrong"), 4, &[]);
    check(&get(&["--server", "http://127.0.0.1:1"], "right"), 5, &["127.0.0.1:1"]);
}

#[tokio::test]
async fn server_takes_no_notice_of_variables_of_clients() {
    let mut command = crate::support::process::command(&[]);
    for variable in ["JOBTRACK_SERVER", "JOBTRACK_TOKEN", "JOBTRACK_JOB_ID", "JOBTRACK_ATTEMPT", "JOBTRACK_CA_FILE"] {
        command.env(variable, "nonsense");
    }
    let process = Process::run(command);
    process.logged(&["serving"]).await;
    assert!(!process.log().contains("unknown variable"), "{}", process.log());
}
