//! Creations that are rejected because the owner of the id is unknown.

use super::stored;
use crate::support::{
    Server, create, new_job,
    redis::Redis,
    replicas::{assert_away, degraded, read, stats, whole},
    until,
    watching::delete,
};

#[tokio::test(flavor = "multi_thread")]
async fn creation_under_a_tombstone_that_is_held_is_refused_while_redis_is_unavailable() {
    let mut redis = Redis::with(&["--appendonly", "yes"]).await;
    let flags = ["--redis-url", &redis.url()];
    let (server, other) = (Server::with(&flags).await, Server::with(&flags).await);
    let (mut client, mut elsewhere) = (server.client().await, other.client().await);
    for id in ["deleted-here", "deleted-elsewhere"] {
        create(&mut client, id).await;
    }
    delete(&mut client, "deleted-here").await;
    delete(&mut elsewhere, "deleted-elsewhere").await;
    until("the deletion is seen here", async || client.get_job(read("deleted-elsewhere")).await.err()).await;
    redis.kill();
    degraded(&server).await;
    for id in ["deleted-here", "deleted-elsewhere"] {
        let refused = client.create_job(new_job(id)).await.expect_err("its tombstone is held");
        assert_away(id, &refused);
    }
    redis.restart().await;
    whole(&server).await;
    for id in ["deleted-here", "deleted-elsewhere"] {
        assert_eq!(create(&mut client, id).await.revision, 3, "{id}");
        stored(&mut elsewhere, id, 3).await;
    }
    assert_eq!(stats(&mut server.admin().await).await.dirty_jobs, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn creation_that_can_not_be_checked_is_refused_where_changes_are() {
    let mut redis = Redis::start().await;
    let server = Server::with(&["--redis-url", &redis.url(), "--fallback", "reject"]).await;
    let mut client = server.client().await;
    redis.kill();
    degraded(&server).await;
    let refused = client.create_job(new_job("chosen")).await.expect_err("it can't be checked");
    assert_away("a creation", &refused);
}
