//! The key in Redis, which replicas share.

use jobtrack::proto::v1::Event;
use redis::Value;
use serde_json::json;
use tonic::{Code, Status};
use tonic_health::ServingStatus::{NotServing, Serving};
use tonic_types::StatusExt;

use super::{
    assert_unauthenticated, create, ends::assert_ends_with_its_job, entries, error, get, next, request, server_with,
    token_for, until, watch,
};
use crate::support::{
    Server,
    credentials::{Folder, bearer, holder, identities},
    reason,
    redis::Redis,
    replicas::{Health, part_of_shared_redis},
};

/// The key of the secret, with the default prefix.
const SECRET: &str = "jobs:{0}:token-key";

#[track_caller]
fn assert_unavailable(status: &Status) {
    assert_eq!((status.code(), reason(status).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"), "{status:?}");
    assert!(status.get_details_retry_info().is_some(), "no RetryInfo in {status:?}");
}

#[tokio::test]
async fn token_is_valid_on_each_replica() {
    let flags = part_of_shared_redis().await;
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let (a, _a_folder) = server_with(&entries(), &flags).await;
    let (b, _b_folder) = server_with(&entries(), &flags).await;
    let (mut of_a, of_b) = (a.client().await, b.client().await);
    create(&mut of_a, &["a"]).await;
    for (mut maker, mut other) in [(of_a.clone(), of_b.clone()), (of_b.clone(), of_a.clone())] {
        let token = token_for(&mut maker, &["a"]).await;
        assert_eq!(get(&mut other, &token, "a").await.expect("its job").id, "a");
        let mut stream = watch(&mut other, &token, "a").await.expect("a stream");
        assert_eq!(next(&mut stream).await.expect("a snapshot").event(), Event::Snapshot);
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn token_ends_with_its_job_in_redis_too() {
    let flags = part_of_shared_redis().await;
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let (server, _folder) = server_with(&entries(), &flags).await;
    assert_ends_with_its_job(&mut server.client().await).await;
    server.stop().await;
}

/// A job that is deleted and created again on another replica, with an id that the token has.
#[tokio::test]
async fn job_that_was_created_again_elsewhere_is_not_shown() {
    let flags = part_of_shared_redis().await;
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let (a, _a_folder) = server_with(&entries(), &flags).await;
    let (b, _b_folder) = server_with(&entries(), &flags).await;
    let (mut of_a, mut of_b) = (a.client().await, b.client().await);
    create(&mut of_a, &["a"]).await;
    let token = token_for(&mut of_a, &["a"]).await;
    let mut stream = watch(&mut of_a, &token, "a").await.expect("a stream");
    next(&mut stream).await.expect("a snapshot");
    let deletion = jobtrack::proto::v1::DeleteJobRequest { job_id: "a".to_owned(), force: true };
    of_b.delete_job(bearer("alice", deletion)).await.expect("her job");
    create(&mut of_b, &["a"]).await;
    // Either the removal arrives, or the new job comes first: then the stream ends as that of a missing job.
    loop {
        match crate::support::replicas::in_time("the end", stream.message()).await {
            Ok(None) => break,
            Ok(Some(event)) => {
                assert!(matches!(event.event(), Event::Bookmark | Event::Removed), "{event:?}");
            }
            Err(status) => {
                assert_eq!(status.code(), Code::NotFound, "{status:?}");
                break;
            }
        }
    }
    until("the new job is known", async || {
        let status = get(&mut of_a, &token, "a").await.err()?;
        (status.code() == Code::NotFound).then_some(())
    })
    .await;
    assert_eq!(get(&mut of_b, &token, "a").await.expect_err("another job").code(), Code::NotFound);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn token_is_valid_after_a_restart_of_the_server() {
    let redis = Redis::start().await;
    let folder = Folder::new();
    let file = folder.write("identities.json", &identities(&[holder("alice", "reporter", &json!("*"))]));
    let url = redis.url();
    let flags = ["--auth-tokens", &file, "--redis-url", &url];
    let server = Server::with(&flags).await;
    create(&mut server.client().await, &["a"]).await;
    let token = token_for(&mut server.client().await, &["a"]).await;
    server.stop().await;
    let server = Server::with(&flags).await;
    assert_eq!(get(&mut server.client().await, &token, "a").await.expect("its job").id, "a");
    server.stop().await;
    // Without Redis the key is gone with the process.
    let server = Server::with(&flags[..2]).await;
    let mut client = server.client().await;
    create(&mut client, &["a"]).await;
    assert_unauthenticated(&get(&mut client, &token, "a").await.expect_err("another key"), "INVALID");
    server.stop().await;
}

/// As long as the key is unknown, nobody is told that a token is invalid.
#[tokio::test]
async fn token_can_not_be_checked_before_redis_was_reached() {
    let mut redis = Redis::start().await;
    let url = redis.url();
    let flags = ["--redis-url", &url];
    let (server, _folder) = server_with(&entries(), &flags).await;
    create(&mut server.client().await, &["a"]).await;
    let token = token_for(&mut server.client().await, &["a"]).await;
    // Once the key is known, an outage changes nothing.
    redis.kill();
    Health::watch(&server, "redis").await.until(NotServing).await;
    let mut client = server.client().await;
    get(&mut client, &token, "a").await.expect("it is held");
    create(&mut client, &["volatile"]).await;
    let volatile = token_for(&mut client, &["volatile"]).await;
    get(&mut client, &volatile, "volatile").await.expect("it is held");

    let (late, _late_folder) = server_with(&entries(), &flags).await;
    let mut client = late.client().await;
    create(&mut client, &["b"]).await;
    let status = client.create_watch_token(bearer("alice", request(&["b"]))).await.expect_err("there is no key");
    assert_unavailable(&status);
    assert!(status.message().contains("has not been reachable since this server started"), "{status:?}");
    let (message, _) = token.rsplit_once('.').expect("three parts");
    for token in [token.clone(), format!("{message}.AAAA")] {
        assert_unavailable(&get(&mut client, &token, "a").await.expect_err("there is no key"));
        assert_unavailable(&watch(&mut client, &token, "a").await.expect_err("there is no key"));
    }
    // Other credentials need no key.
    assert_unauthenticated(&get(&mut client, "nobody", "b").await.expect_err("nobody"), "INVALID");
    redis.restart().await;
    Health::watch(&late, "redis").await.until(Serving).await;
    until("the key is known", async || {
        let made = client.create_watch_token(bearer("alice", request(&["b"]))).await.ok()?.into_inner().token;
        get(&mut client, &made, "b").await.ok()
    })
    .await;
    server.stop().await;
    late.stop().await;
}

/// Returns the message of the error for want of a key, if it has these words.
async fn why_no_token(server: &Server, words: &str) -> Option<String> {
    let status = server.client().await.create_watch_token(bearer("alice", request(&["a"]))).await.err()?;
    assert_unavailable(&status);
    Some(status.message().to_owned()).filter(|message| message.contains(words))
}

/// Whoever can mend the key should learn that it is the key.
#[tokio::test]
async fn unusable_key_in_redis_is_named_in_the_answer() {
    let redis = Redis::start().await;
    let url = redis.url();
    redis.command(&["HSET", SECRET, "no", "key"]).await;
    let (server, _folder) = server_with(&entries(), &["--redis-url", &url]).await;
    let mut client = server.client().await;
    create(&mut client, &["a"]).await;
    let told = until("what is no string", async || why_no_token(&server, "refused to read").await);
    assert!(told.await.ends_with("check the Redis key that ends with :token-key"));
    redis.command(&["DEL", SECRET]).await;
    redis.command(&["SET", SECRET, "short"]).await;
    let told = until("a key that is too short", async || why_no_token(&server, "fewer than 32 bytes").await);
    assert!(told.await.ends_with("is not used, so it must be replaced"));
    redis.command(&["SET", SECRET, &"k".repeat(64)]).await;
    let token = until("the key is read", async || {
        Some(client.create_watch_token(bearer("alice", request(&["a"]))).await.ok()?.into_inner().token)
    });
    get(&mut server.client().await, &token.await, "a").await.expect("its job");
    server.stop().await;
}

/// A replica that knows the key puts it back after a loss of data; whoever replaces the key ends all tokens.
#[tokio::test]
async fn key_is_put_back_after_a_loss_and_can_be_replaced() {
    let redis = Redis::start().await;
    let url = redis.url();
    let (server, _folder) = server_with(&entries(), &["--redis-url", &url]).await;
    let mut client = server.client().await;
    create(&mut client, &["a"]).await;
    let token = token_for(&mut client, &["a"]).await;
    let secret = async || match redis.command(&["GET", SECRET]).await {
        Value::BulkString(secret) => Some(secret),
        _ => None,
    };
    let before = secret().await.expect("it was stored at the start");
    assert_eq!(before.len(), 64, "32 random bytes, as text");
    redis.command(&["DEL", SECRET]).await;
    assert_eq!(until("it is put back", async || secret().await).await, before);
    get(&mut client, &token, "a").await.expect("the key is the same");
    let mut stream = watch(&mut client, &token, "a").await.expect("a stream");
    next(&mut stream).await.expect("a snapshot");
    // What is too short to be a key is not used.
    redis.command(&["SET", SECRET, "short"]).await;
    get(&mut client, &token, "a").await.expect("the key is the same");
    redis.command(&["SET", SECRET, &"k".repeat(64)]).await;
    assert_unauthenticated(&error(&mut stream).await, "ENDED");
    assert_unauthenticated(&get(&mut client, &token, "a").await.expect_err("another key"), "INVALID");
    let fresh = token_for(&mut client, &["a"]).await;
    get(&mut client, &fresh, "a").await.expect("it has the new key");
    drop(stream);
    server.stop().await;
}
