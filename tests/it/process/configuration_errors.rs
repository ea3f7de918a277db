//! Configuration errors in flags and variables that retries can't resolve. They end the start with an error that names
//! the remedy.

use std::{
    io::Read,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use crate::support::{
    credentials::{Authority, Folder, dns},
    http::Scrape,
    process::{Process, command},
};

/// Maximum duration of a start that fails.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Returns the binary with these variables and flags.
fn with(variables: &[(&str, &str)], flags: &[&str]) -> Command {
    let mut command = command(flags);
    command.envs(variables.iter().copied());
    command
}

/// Returns the exit code and the output.
fn ended(mut command: Command) -> (Option<i32>, String) {
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary can be started");
    let mut child = Killed(child);
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let status = loop {
        if let Some(status) = child.0.try_wait().expect("it can be waited for") {
            break status;
        }
        assert!(Instant::now() < deadline, "it goes on: {command:?}");
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut text = String::new();
    child.0.stderr.take().expect("it is piped").read_to_string(&mut text).expect("errors are text");
    (status.code(), text)
}

/// A process that is killed when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

#[track_caller]
fn fails(command: Command, code: i32, words: &[&str]) {
    let (status, text) = ended(command);
    assert_eq!(status, Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in {text:?}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

/// A free port, for starts that must not succeed.
const LISTEN: [&str; 2] = ["--listen", "127.0.0.1:0"];

#[test]
fn bad_values_of_flags_and_variables_are_refused_with_code_2() {
    let cases: [(&str, &str, &str); 17] = [
        ("--listen", "nonsense", "HOST:PORT"),
        ("--listen", ":50051", "HOST:PORT"),
        ("--listen", "127.0.0.1:65536", "HOST:PORT"),
        ("--http-listen", "8080", "off"),
        ("--http-listen", "no", "HOST:PORT"),
        ("--log", "nonsense", "is not a level"),
        ("--log", "jobtrack", "jobtrack=LEVEL"),
        ("--log", "info,nonsense", "is not a level"),
        ("--log", "jobtrak=debug", "would silence jobtrack"),
        ("--log", "", "would silence jobtrack"),
        ("--key-prefix", "job::", "one colon"),
        ("--key-prefix", "jobs:", "s:"),
        ("--redis-url", "", "in memory"),
        ("--redis-url", " ", "in memory"),
        ("--redis-url", "redis://127.0.0.1?db=5", "redis://HOST:PORT/5"),
        ("--tls-cert", "", "--tls-cert"),
        ("--auth-tokens", "", "--auth-tokens"),
    ];
    for (flag, value, word) in cases {
        let variable = format!("JOBTRACK_{}", flag.trim_start_matches('-').to_uppercase().replace('-', "_"));
        let listen: &[&str] = if flag == "--listen" { &[] } else { &LISTEN };
        fails(with(&[], &[listen, &[flag, value]].concat()), 2, &[flag, word]);
        fails(with(&[], &[&["serve", flag, value], listen].concat()), 2, &[flag, word]);
        fails(with(&[(&variable, value)], listen), 2, &[flag, word]);
    }
    fails(with(&[("JOBTRACK_REDIS_URL_FILE", "")], &LISTEN), 2, &["JOBTRACK_REDIS_URL_FILE", "empty"]);
    fails(with(&[("JOBTRACK_INSECURE", "disabled")], &LISTEN), 2, &["--insecure"]);
    let jwt = ["--jwt-jwks-file", "keys.json", "--jwt-issuer", "", "--jwt-audience", "a"];
    fails(with(&[], &[&LISTEN[..], &jwt].concat()), 2, &["--jwt-issuer"]);
    let jwt = ["--jwt-jwks-file", "keys.json", "--jwt-issuer", "i", "--jwt-audience", ""];
    fails(with(&[], &[&LISTEN[..], &jwt].concat()), 2, &["--jwt-audience"]);
    for address in [["--addr", "nonsense"], ["--addr", ""]] {
        fails(with(&[], &[&["health"], &address[..]].concat()), 2, &["--addr", "HOST:PORT"]);
    }
}

/// Variables with invalid values.
const BAD: [(&str, &str); 5] = [
    ("JOBTRACK_TTL_FAILED", "soon"),
    ("JOBTRACK_KEY_PREFIX", "job::"),
    ("JOBTRACK_LOG", "nonsense"),
    ("JOBTRACK_LOG_FORMAT", "xml"),
    ("JOBTRACK_REDIS_URL", ""),
];

#[test]
fn a_flag_overrides_a_bad_variable() {
    let url = "redis://127.0.0.1:1";
    let good =
        ["--ttl-failed", "3d", "--key-prefix", "job:", "--log", "info", "--log-format", "human", "--redis-url", url];
    for subcommand in [&[][..], &["serve"]] {
        let process = Process::run(with(&BAD, &[subcommand, &good[..]].concat()));
        process.signal("TERM");
        let (status, log) = process.wait();
        assert_eq!(status.code(), Some(0), "{log}");
    }
    // Variables that no flag overrides count.
    fails(with(&BAD[..1], &["serve", "--key-prefix", "job:"]), 2, &["--ttl-failed"]);
}

#[test]
fn variables_of_the_server_do_not_disturb_other_subcommands() {
    let process = Process::start(&[]);
    let address = process.address.to_string();
    let mut variables = BAD.to_vec();
    variables.extend([("JOBTRACK_LISTEN", "nonsense"), ("JOBTRACK_TLS_CERT", "cert.pem"), ("JOBTRACK_FALLBACK", "")]);
    let (code, text) = ended(with(&variables, &["health", "--addr", &address]));
    assert_eq!(code, Some(0), "{text}");
    for words in [&["help"][..], &["help", "serve"], &["serve", "--help"], &["--version"]] {
        let (code, text) = ended(with(&variables, words));
        assert_eq!(code, Some(0), "{words:?}: {text}");
    }
    // Variables that the probe uses, too, count.
    fails(with(&variables, &["health"]), 2, &["--addr", "nonsense"]);
}

#[test]
fn a_variable_that_sets_nothing_is_a_warning() {
    let of_kubernetes = [("JOBTRACK_SERVICE_HOST", "10.0.0.1"), ("JOBTRACK_PORT_50051_TCP_PORT", "50051")];
    let process = Process::run(with(&[&[("JOBTRACK_REDIS_ULR", "redis://s3cret")], &of_kubernetes[..]].concat(), &[]));
    process.signal("TERM");
    let (status, log) = process.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert!(matches!(warnings[..], [one] if one.contains("JOBTRACK_REDIS_ULR")), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
}

#[test]
fn a_default_port_for_metrics_that_is_in_use_is_a_warning() {
    // The port may be in use already.
    let _taken = TcpListener::bind("127.0.0.1:8080");
    let mut unset = command(&[]);
    unset.env_remove("JOBTRACK_HTTP_LISTEN");
    let process = Process::run(unset);
    process.signal("TERM");
    let (status, log) = process.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
    let [warning] = warnings[..] else { panic!("not one warning: {log}") };
    for word in ["127.0.0.1:8080", "in use", "--http-listen", "off"] {
        assert!(warning.contains(word), "{word:?} is missing in {warning:?}");
    }
    // An address that is given explicitly must be available.
    let words = ["127.0.0.1:8080", "in use", "--http-listen"];
    fails(with(&[], &[&LISTEN[..], &["--http-listen", "127.0.0.1:8080"]].concat()), 1, &words);
    fails(with(&[("JOBTRACK_HTTP_LISTEN", "127.0.0.1:8080")], &LISTEN), 1, &words);
}

/// Returns the log of a process with a TLS certificate that ends at this time, and the remaining seconds in its metric.
async fn with_certificate_until(end: SystemTime) -> (String, i64) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let own = authority.sign_until(vec![dns("localhost")], end);
    let (cert, key) = (folder.write("cert.pem", &own.pem), folder.write("key.pem", &own.key));
    let process = Process::run(command(&["--http-listen", "127.0.0.1:0", "--tls-cert", &cert, "--tls-key", &key]));
    let http = process.http();
    let left = Scrape::of(http).await.value("jobtrack_tls_certificate_remaining_seconds");
    // The process continues with a new certificate in the file.
    let next = authority.server();
    folder.write("key.pem", &next.key);
    folder.write("cert.pem", &next.pem);
    let is_next = |scrape: &Scrape| scrape.value("jobtrack_tls_certificate_remaining_seconds") > 80_000.0;
    Scrape::until(http, "the new certificate", is_next).await;
    process.signal("TERM");
    let (status, log) = process.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    #[expect(clippy::cast_possible_truncation, reason = "it is a whole number")]
    (log, left as i64)
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_a_warning_and_a_metric() {
    const HOUR: Duration = Duration::from_secs(3600);
    let (log, left) = with_certificate_until(SystemTime::now() - HOUR).await;
    assert!((-3720..=-3600).contains(&left), "{left}");
    let warning = log.lines().find(|line| line.contains("WARN")).unwrap_or_else(|| panic!("no warning: {log}"));
    assert!(warning.contains("has expired") && warning.contains("replace the file"), "{warning}");
    let (log, left) = with_certificate_until(SystemTime::now() + HOUR).await;
    assert!((3400..=3600).contains(&left), "{left}");
    assert!(!log.contains("expired"), "{log}");
}
