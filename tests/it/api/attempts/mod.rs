//! Attempts: a worker claims one, fails it with a retry, and is shut out by the next one.

mod calls;
mod cancellation;
mod start_timeout;

use crate::support::{Server, replicas::part_of_shared_redis};

/// Starts a server with these flags, in memory or with a part of the shared Redis.
async fn serve(with_redis: bool, flags: &[&str]) -> Server {
    let part = if with_redis { part_of_shared_redis().await.to_vec() } else { Vec::new() };
    let flags: Vec<_> = part.iter().map(String::as_str).chain(flags.iter().copied()).collect();
    Server::with(&flags).await
}
