//! Statistics of a server as protobuf messages.

use super::values::{count, duration, state, timestamp};
use crate::{
    domain::{JobId, State},
    proto::v1,
    store::{self, CacheStats, ReconcileReport, RedisStats, ReplicaStats, StorageMode},
    tracker::TrackerStats,
};

/// Returns the statistics of a server.
pub fn stats(stats: &TrackerStats) -> v1::GetStatsResponse {
    let counts = stats.store.counts;
    let in_redis = counts.filter(|_| stats.mode == StorageMode::Redis);
    v1::GetStatsResponse {
        storage_mode: match stats.mode {
            StorageMode::Memory => v1::StorageMode::Memory,
            StorageMode::Redis => v1::StorageMode::Redis,
            StorageMode::Degraded => v1::StorageMode::Degraded,
        }
        .into(),
        jobs_in_memory: count(stats.store.held),
        jobs_in_redis: in_redis.map(|counts| count(counts.iter().sum())),
        state_counts: counts
            .map(|counts| State::ALL.iter().zip(counts))
            .into_iter()
            .flatten()
            .map(|(from, number)| v1::StateCount { state: state(*from).into(), count: count(number) })
            .collect(),
        redis: stats.store.redis.map(redis_stats),
        cache: stats.store.cache.map(cache_stats),
        dirty_jobs: count(stats.store.dirty),
        last_reconciliation: stats.store.last_reconciliation.as_ref().map(reconciliation),
        watchers: count(stats.watchers as u64),
        uptime: Some(duration(stats.uptime)),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        replicas: stats.store.replicas.iter().map(replica).collect(),
        decisions_held_back: stats.store.held_back.is_some(),
        decisions_held_back_reason: stats.store.held_back.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

fn replica(from: &ReplicaStats) -> v1::Replica {
    v1::Replica {
        id: from.id.clone(),
        version: from.version.clone(),
        last_seen_time: Some(timestamp(from.last_seen)),
        dirty_jobs: count(from.dirty),
    }
}

fn redis_stats(from: RedisStats) -> v1::RedisStats {
    v1::RedisStats {
        reachable: from.ping.is_some(),
        ping: from.ping.map(duration),
        pool_in_use: small(from.in_use),
        pool_idle: small(from.idle),
        pool_waiting: small(from.waiting),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate needs no more digits than a double has")]
fn cache_stats(from: CacheStats) -> v1::CacheStats {
    let reads = from.hits + from.misses;
    v1::CacheStats {
        hits: count(from.hits),
        misses: count(from.misses),
        errors: count(from.errors),
        hit_rate: if reads == 0 { 0.0 } else { from.hits as f64 / reads as f64 },
    }
}

fn reconciliation(from: &ReconcileReport) -> v1::Reconciliation {
    let [merged_count, conflicted_count, dropped_count] = from.counts.map(count);
    let job = |(id, outcome, reason): &(JobId, store::ReconcileOutcome, &str)| v1::ReconciledJob {
        job_id: id.to_string(),
        outcome: match outcome {
            store::ReconcileOutcome::Merged => v1::reconciled_job::Outcome::Merged,
            store::ReconcileOutcome::Conflicted => v1::reconciled_job::Outcome::Conflicted,
            store::ReconcileOutcome::Dropped => v1::reconciled_job::Outcome::Dropped,
        }
        .into(),
        reason: (*reason).to_owned(),
    };
    v1::Reconciliation {
        end_time: from.end_time.map(timestamp),
        merged_count,
        conflicted_count,
        dropped_count,
        jobs: from.jobs.iter().map(job).collect(),
    }
}

fn small(from: u32) -> i32 {
    i32::try_from(from).unwrap_or(i32::MAX)
}
