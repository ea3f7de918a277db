//! A password that changes at run time.

use std::fs;

use jobtrack::proto::v1::Durability;
use rstest::rstest;
use uuid::Uuid;

use crate::support::{
    create,
    credentials::Folder,
    process::{Process, command},
    redis::{Cluster, Redis, Sentinel},
    replicas::in_time,
};

const FIRST: &str = "f1rst-s3cret";
const SECOND: &str = "s3cond-s3cret";

/// A Redis in one of its topologies.
enum Place {
    Node(Redis),
    Sentinel(Sentinel),
    Cluster(Cluster),
}

impl Place {
    async fn command(&self, words: &[&str]) {
        match self {
            Self::Node(redis) => _ = redis.command(words).await,
            Self::Sentinel(sentinel) => _ = sentinel.master().await.command(words).await,
            Self::Cluster(cluster) => _ = cluster.command_on_all(words).await,
        }
    }

    /// Returns its URL for the user `tracker`.
    fn url(&self, password: &str) -> String {
        let url = match self {
            Self::Node(redis) => redis.url(),
            Self::Sentinel(sentinel) => sentinel.url(),
            Self::Cluster(cluster) => cluster.url(),
        };
        url.replacen("://", &format!("://tracker:{password}@"), 1)
    }
}

async fn node() -> Place {
    Place::Node(Redis::start().await)
}

async fn sentinel() -> Place {
    Place::Sentinel(Sentinel::start().await)
}

async fn cluster() -> Place {
    Place::Cluster(Cluster::start().await)
}

/// Waits until new jobs are stored in Redis.
async fn until_durable(process: &Process) {
    let mut client = process.client().await;
    let stored =
        async { while create(&mut client, &Uuid::new_v4().to_string()).await.durability() != Durability::Durable {} };
    in_time("a durable job", stored).await;
}

/// Starts a process that reads the URL of its Redis from this file, by this variable or flag.
fn reading(file: &str, variable: Option<&str>) -> Process {
    let flags = ["--redis-url-file", file];
    let mut command = command(if variable.is_none() { &flags } else { &[] });
    if let Some(variable) = variable {
        command.env(variable, file);
    }
    Process::run(command)
}

#[rstest]
#[case::node(node(), None)]
#[case::sentinel(sentinel(), Some("JOBTRACK_REDIS_URL_FILE"))]
#[case::cluster(cluster(), Some("REDIS_URL_FILE"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_changed_without_a_restart(
    #[future]
    #[case]
    place: Place,
    #[case] variable: Option<&str>,
) {
    let place = place.await;
    place.command(&["ACL", "SETUSER", "tracker", "on", &format!(">{FIRST}"), "~*", "&*", "+@all"]).await;
    let folder = Folder::new();
    let file = folder.write("url", &place.url(FIRST));
    let process = reading(&file, variable);
    until_durable(&process).await;

    // The order of the guide: the new password, the file, then the end of the old password.
    place.command(&["ACL", "SETUSER", "tracker", &format!(">{SECOND}")]).await;
    fs::write(&file, format!("{}\n", place.url(SECOND))).expect("it can be written");
    place.command(&["ACL", "SETUSER", "tracker", &format!("<{FIRST}")]).await;
    place.command(&["CLIENT", "KILL", "USER", "tracker"]).await;
    process.logged(&["INFO", "credentials of Redis reloaded", "jobtrack::audit"]).await;
    until_durable(&process).await;
    process.signal("TERM");
    let (status, log) = tokio::task::spawn_blocking(|| process.wait()).await.expect("no panic");
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains(FIRST) && !log.contains(SECOND), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_names_another_redis_is_not_followed() {
    let place = node().await;
    place.command(&["ACL", "SETUSER", "tracker", "on", &format!(">{FIRST}"), "~*", "&*", "+@all"]).await;
    let folder = Folder::new();
    let file = folder.write("url", &place.url(FIRST));
    let process = reading(&file, None);
    until_durable(&process).await;
    place.command(&["ACL", "SETUSER", "tracker", "resetpass", &format!(">{SECOND}")]).await;
    fs::write(&file, format!("redis://tracker:{SECOND}@127.0.0.1:1")).expect("it can be written");
    place.command(&["CLIENT", "KILL", "USER", "tracker"]).await;
    process.logged(&["WARN", "names another Redis"]).await;
    process.logged(&["WARN", "reason=WRONGPASS"]).await;
    // One line is enough.
    assert_eq!(process.log().matches("names another Redis").count(), 1, "{}", process.log());
    fs::write(&file, place.url(SECOND)).expect("it can be written");
    process.logged(&["INFO", "credentials of Redis reloaded"]).await;
    until_durable(&process).await;
}
