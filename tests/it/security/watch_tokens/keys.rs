//! The key in a file.

use jobtrack::proto::v1::Event;
use serde_json::json;

use super::{assert_unauthenticated, create, entries, error, get, next, server_with, token_for, until, watch};
use crate::support::{
    credentials::{Folder, bearer, holder, identities},
    process::output,
    replicas::part_of_shared_redis,
};

fn key(letter: &str) -> String {
    letter.repeat(40)
}

#[tokio::test]
async fn tokens_end_when_the_key_file_is_replaced() {
    let keys = Folder::new();
    let file = keys.write("key", &key("a"));
    let (server, folder) = server_with(&entries(), &["--token-key-file", &file]).await;
    let mut client = server.client().await;
    create(&mut client, &["a"]).await;
    let token = token_for(&mut client, &["a"]).await;
    let mut stream = watch(&mut client, &token, "a").await.expect("a stream");
    next(&mut stream).await.expect("a snapshot");
    // A line end is not a part of the key, and a key that is too short is not used.
    for (number, content) in [key("a") + "\n", "short".to_owned(), key("a") + "\r\n"].into_iter().enumerate() {
        keys.write("key", &content);
        // The files are checked together: the new identity shows that they were.
        let marker = format!("marker-{number}");
        let others = [entries(), vec![holder(&marker, "reader", &json!("*"))]].concat();
        folder.write("identities.json", &identities(&others));
        until("the files are read", async || get(&mut client, &marker, "a").await.ok()).await;
        get(&mut client, &token, "a").await.expect("the key is the same");
    }
    let report = jobtrack::proto::v1::UpdateProgressRequest { job_id: "a".to_owned(), ..Default::default() };
    client.update_progress(bearer("alice", report)).await.expect("her job");
    while next(&mut stream).await.expect("the stream goes on").event() != Event::Update {}
    keys.write("key", &key("b"));
    assert_unauthenticated(&error(&mut stream).await, "ENDED");
    assert_unauthenticated(&get(&mut client, &token, "a").await.expect_err("another key"), "INVALID");
    let fresh = token_for(&mut client, &["a"]).await;
    get(&mut client, &fresh, "a").await.expect("it has the new key");
    keys.write("key", &key("a"));
    until("the first key is back", async || get(&mut client, &token, "a").await.ok()).await;
    server.stop().await;
}

/// With a key file nothing is stored in Redis, and replicas with the same file accept the tokens of each other.
#[tokio::test]
async fn key_file_takes_precedence_over_redis() {
    let keys = Folder::new();
    let file = keys.write("key", &key("a"));
    let flags = part_of_shared_redis().await;
    let prefix = flags[3].trim_end_matches(':').to_owned();
    let mut flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let (without, _folder) = server_with(&entries(), &flags).await;
    flags.extend(["--token-key-file", &file]);
    let (one, _one_folder) = server_with(&entries(), &flags).await;
    let (other, _other_folder) = server_with(&entries(), &flags).await;
    let (mut of_one, mut of_other) = (one.client().await, other.client().await);
    create(&mut of_one, &["a"]).await;
    let token = token_for(&mut of_one, &["a"]).await;
    get(&mut of_other, &token, "a").await.expect("the same key");
    let status = get(&mut without.client().await, &token, "a").await.expect_err("another key");
    assert_unauthenticated(&status, "INVALID");
    let stored = crate::support::redis::shared_redis().await.command(&["KEYS", &format!("{prefix}*token-key")]).await;
    assert_eq!(stored.as_sequence().map(<[_]>::len), Some(1), "that of the server without a file");
    for server in [without, one, other] {
        server.stop().await;
    }
}

#[test]
fn unusable_key_file_prevents_the_start() {
    let folder = Folder::new();
    let short = folder.write("short", "c4n4ry");
    let empty = folder.write("empty", "\n");
    let cases = [(short, "at least 32 bytes"), (empty, "at least 32 bytes"), (folder.path("absent"), "can't be read")];
    for (file, words) in cases {
        let output = output(&["--listen", "127.0.0.1:0", "--token-key-file", &file]);
        let text = String::from_utf8(output.stderr).expect("errors are text");
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(&file) && text.contains(words), "{text}");
        assert!(!text.contains("c4n4ry") && !text.contains("panicked"), "{text}");
    }
}
