//! `jobtrack stats`.

use std::{
    fmt::Write,
    time::{Duration, SystemTime},
};

use clap::Args;
use jobtrack_client::proto::v1::{GetStatsResponse, RedisStats};

use crate::cli::{
    connection::Connection,
    exit::{CommandError, Exit},
    output::{Json, Output, print},
    show::{age, between},
    text::escape,
};

/// The tracker whose statistics are shown.
#[derive(Args)]
pub struct Stats {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

impl Stats {
    /// Shows statistics of one replica.
    pub async fn run(self) -> Result<Exit, CommandError> {
        let stats = self.connection.tracker()?.stats().await?;
        let format = self.output.format;
        let json = || Json::of("GetStatsResponse", format).write(&stats);
        print(&if format.is_json() { json() } else { shown(&stats, SystemTime::now()) })?;
        Ok(Exit::Done)
    }
}

fn shown(stats: &GetStatsResponse, now: SystemTime) -> String {
    let mut text = String::new();
    let mut add = |name: &str, value: &str| _ = writeln!(text, "{name:15} {}", escape(value));
    let uptime = stats.uptime.and_then(|uptime| Duration::try_from(uptime).ok()).map(age).unwrap_or_default();
    add("Version", &stats.version);
    add("Uptime", &uptime);
    add("Storage", stats.storage_mode().as_str_name().trim_start_matches("STORAGE_MODE_"));
    for count in stats.state_counts.iter().filter(|count| count.count > 0) {
        add(count.state().as_str_name().trim_start_matches("STATE_"), &count.count.to_string());
    }
    add("In memory", &stats.jobs_in_memory.to_string());
    if let Some(count) = stats.jobs_in_redis {
        add("In Redis", &count.to_string());
    }
    add("Watches", &stats.watchers.to_string());
    if let Some(redis) = &stats.redis {
        add("Redis", &link(redis));
        add("Not in Redis", &stats.dirty_jobs.to_string());
    }
    if let Some(cache) = &stats.cache {
        add("Cache hits", &format!("{:.1}%", cache.hit_rate * 100.0));
    }
    if stats.decisions_held_back {
        add("Held back", &stats.decisions_held_back_reason);
    }
    for replica in &stats.replicas {
        let seen = between(replica.last_seen_time.as_ref(), now).map(age).unwrap_or_default();
        add("Replica", &format!("{}  {}  seen {seen} ago", replica.id, replica.version));
    }
    text
}

fn link(redis: &RedisStats) -> String {
    if !redis.reachable {
        return "unavailable".to_owned();
    }
    let ping = redis.ping.and_then(|ping| Duration::try_from(ping).ok()).unwrap_or_default();
    let RedisStats { pool_in_use, pool_idle, pool_waiting, .. } = redis;
    format!(
        "answers in {ping:.1?}; connections: {pool_in_use} in use, {pool_idle} idle; {pool_waiting} callers waiting"
    )
}
