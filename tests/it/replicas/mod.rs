//! Servers that share a Redis.

mod earlier_versions;
mod races;
mod registered;
mod shared_redis;
mod time;
