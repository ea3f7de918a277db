//! Agreement of the metrics with their documentation, and with the conventions of Prometheus.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use crate::support::{
    Server, create,
    credentials::{Authority, Folder},
    http::Scrape,
    programs::PROMTOOL,
    redis::Redis,
    replicas::server_on,
};

/// Returns the names and kinds in the tables of `docs/metrics.md`.
fn documented() -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let text = fs::read_to_string(path).expect("the document is there");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows = rows.map(|row| {
        let (name, rest) = row.split_once('`').expect("a name ends");
        let kind = rest.split('|').nth(1).expect("a row has a kind").trim();
        (name.split('{').next().unwrap_or_default().to_owned(), kind.to_owned())
    });
    rows.collect()
}

/// Returns the reasons in the table of `docs/operating.md`.
fn documented_reasons() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operating.md");
    let text = fs::read_to_string(path).expect("the document is there");
    let (_, table) = text.split_once("| reason | meaning |").expect("there is a table of reasons");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with("| `"));
    rows.filter_map(|row| Some(row.split('`').nth(1)?.to_owned())).collect()
}

/// Fails if `promtool` reports a problem.
fn assert_liked(scrape: &Scrape) {
    let mut command = Command::new(PROMTOOL.path());
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool can be started");
    child.stdin.take().expect("it is piped").write_all(scrape.text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}\n{}", scrape.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_documented_and_well_formed() {
    let redis = Redis::start().await;
    let server = server_on(&redis).await;
    create(&mut server.client().await, "a").await;
    let up = |scrape: &Scrape| scrape.count("jobtrack_redis_up") == 1;
    let scrape = Scrape::until(server.http, "Redis", up).await;
    assert_liked(&scrape);
    let declared = |scrape: &Scrape| -> BTreeMap<_, _> {
        scrape.declared().into_iter().map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
    };
    let mut told = declared(&scrape);
    let labels =
        scrape.text.lines().filter_map(|line| line.strip_prefix("jobtrack_redis_command_failures_total{reason=\""));
    let reasons: BTreeSet<_> = labels.map(|rest| rest.split('"').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(reasons, documented_reasons());
    server.stop().await;
    // Some metrics exist with TLS only.
    let (folder, own) = (Folder::new(), Authority::new().server());
    let (cert, key) = (folder.write("cert.pem", &own.pem), folder.write("key.pem", &own.key));
    let server = Server::with(&["--tls-cert", &cert, "--tls-key", &key]).await;
    let scrape = Scrape::of(server.http).await;
    assert_liked(&scrape);
    told.extend(declared(&scrape));
    assert_eq!(told, documented());
    server.stop().await;
}

#[tokio::test]
async fn memory_mode_has_no_redis_metrics() {
    let server = Server::start().await;
    let scrape = Scrape::of(server.http).await;
    assert_liked(&scrape);
    let of_redis = ["redis", "breaker", "reconcil", "cache", "dirty"];
    let said: Vec<_> =
        scrape.declared().into_keys().filter(|name| of_redis.iter().any(|it| name.contains(it))).collect();
    assert!(said.is_empty(), "{said:?}");
    assert!(scrape.count("process_resident_memory_bytes") > 1_000_000);
    server.stop().await;
}
