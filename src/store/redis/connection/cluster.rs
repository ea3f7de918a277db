//! Connections to a cluster, in sets that do not delay each other.
//!
//! A connection of the library to a cluster consists of one connection to each master. With each command for a master
//! that is lost, the library looks for that master, and meanwhile all commands on the connection wait. Therefore there
//! are several connections, here called sets: each master is assigned to one of them, and a command is sent through the
//! set of its master.

use std::{
    iter::once,
    mem::replace,
    pin::pin,
    sync::{
        LazyLock,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::{join, try_join_all};
use redis::{
    Cmd, FromRedisValue, ParsingError, RedisResult, Value,
    aio::ConnectionLike,
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    cluster_routing::{RoutingInfo::SingleNode, SingleNodeRoutingInfo, Slot},
    cmd,
};
use tokio::{
    sync::{AcquireError, Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{
    counted::Counted,
    fault::is_without_answer,
    reachability::{LANES, lane_of},
    server,
};

/// Maximum number of sets. Each set has a connection to every master, but carries only the commands for the masters
/// that are assigned to it.
const SETS_MAX: usize = 4;

/// Interval at which a command that waits for a permit checks whether commands before it were answered.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);

/// Maximum number of commands that a set carries at a time, apart from those whose callers have given up. With many
/// commands, the task of the library can exhaust tokio's cooperative budget before a command takes a lock that was
/// granted to it. If the task then looks for slots that have moved, it waits for that lock for ever. Measured: this
/// happened with 32 commands in 3 of 10 moves of a slot, and with 12 commands in none.
const UNDER_WAY_MAX: usize = 12;

/// Number of slots of a cluster.
const SLOTS: u16 = 16384;

/// One slot of the cluster for each lane: that of the keys whose hash tag is the number of the lane.
static LANE_SLOTS: LazyLock<[u16; LANES]> = LazyLock::new(|| std::array::from_fn(|lane| slot_of(lane.to_string())));

/// Sets of connections to the masters of a cluster.
pub struct RawCluster {
    sets: Vec<Set>,
    /// The last slot of each range of slots, in the order of slots, and the set of the master of that range.
    ranges: Vec<(u16, usize)>,
    /// Number of commands without a key.
    keyless: AtomicUsize,
}

/// A connection to each master, and the permits for commands on it.
struct Set {
    connection: ClusterConnection,
    permits: Semaphore,
    /// Number of answers.
    answers: AtomicUsize,
    /// Number of commands that wait for a permit.
    waiting: AtomicU32,
}

impl Set {
    fn new(connection: ClusterConnection) -> Self {
        Self {
            connection,
            permits: Semaphore::new(UNDER_WAY_MAX),
            answers: AtomicUsize::new(0),
            waiting: AtomicU32::new(0),
        }
    }

    /// Waits for a permit to send a command. Calls `progress` when the permit is granted, and while commands before it
    /// are answered.
    async fn permit(&self, progress: &impl Fn()) -> Result<SemaphorePermit<'_>, AcquireError> {
        if let Ok(permit) = self.permits.try_acquire() {
            progress();
            return Ok(permit);
        }
        let _waiting = Counted::new(&self.waiting);
        let mut acquiring = pin!(self.permits.acquire());
        let mut answers = self.answers.load(Relaxed);
        loop {
            if let Ok(granted) = timeout(PROGRESS_INTERVAL, &mut acquiring).await {
                progress();
                return granted;
            }
            let now = self.answers.load(Relaxed);
            if replace(&mut answers, now) != now {
                progress();
            }
        }
    }
}

impl RawCluster {
    /// Connects to a cluster.
    pub async fn connect(client: &ClusterClient) -> RedisResult<Self> {
        let mut first = client.get_async_connection().await?;
        let (mut asking, mut ask) = (first.clone(), cmd("INFO"));
        let told = asking.route_command(ask.arg("server").take(), SingleNode(SingleNodeRoutingInfo::Random));
        let mut slots = cmd("CLUSTER");
        let (ranges, told) = join(slots.arg("SLOTS").query_async(&mut first), told).await;
        // Without the right to use INFO, the versions of the servers are unknown.
        let info = told.and_then(|told| Ok(String::from_redis_value(told)?)).unwrap_or_default();
        server::check(&info)?;
        let ranges = spread(ranges?);
        let others = ranges.iter().map(|(_, set)| *set).max().unwrap_or_default();
        let others = try_join_all((0..others).map(|_| client.get_async_connection())).await?;
        let sets = once(first).chain(others).map(Set::new).collect();
        Ok(Self { sets, ranges, keyless: AtomicUsize::new(0) })
    }

    /// Returns the number of commands that wait for a permit.
    pub fn waiting(&self) -> u32 {
        self.sets.iter().map(|set| set.waiting.load(Relaxed)).sum()
    }

    /// Sends a command with this key. Calls `progress` when the command is sent, and for answers to it and to commands
    /// before it. Commands without a key are distributed over the sets in turn.
    pub async fn send(&self, command: &Cmd, key: Option<&[u8]>, progress: &impl Fn()) -> RedisResult<Value> {
        let set = match key {
            None => self.keyless.fetch_add(1, Relaxed) % self.sets.len(),
            Some(key) => set_of(&self.ranges, lane_of(key).map_or_else(|| slot_of(key), |lane| LANE_SLOTS[lane])),
        };
        let set = &self.sets[set];
        // The semaphore is never closed, so this can't fail.
        let _permit = set.permit(progress).await;
        let answer = set.connection.clone().req_packed_command(command).await;
        if !answer.as_ref().is_err_and(is_without_answer) {
            set.answers.fetch_add(1, Relaxed);
            progress();
        }
        answer
    }
}

/// A range of slots, as `CLUSTER SLOTS` names it.
struct Range {
    last: u16,
    master: Value,
}

impl FromRedisValue for Range {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        // The items after the master are its replicas.
        let mut items = Vec::<Value>::from_redis_value(value)?;
        items.truncate(3);
        let (_, last, master): (u16, u16, Value) = FromRedisValue::from_redis_value(Value::Array(items))?;
        Ok(Self { last, master })
    }
}

/// Assigns the masters to sets in turn. Returns the last slot and the set of each range.
fn spread(mut ranges: Vec<Range>) -> Vec<(u16, usize)> {
    ranges.sort_unstable_by_key(|range| range.last);
    let mut masters: Vec<Value> = Vec::new();
    let mut set = |master: Value| {
        let known = masters.iter().position(|known| *known == master);
        known.unwrap_or_else(|| {
            masters.push(master);
            masters.len() - 1
        }) % SETS_MAX
    };
    ranges.into_iter().map(|Range { last, master }| (last, set(master))).collect()
}

/// Returns the set of a slot; for a slot without a master, the first set.
fn set_of(ranges: &[(u16, usize)], slot: u16) -> usize {
    let at = ranges.partition_point(|(last, _)| *last < slot);
    ranges.get(at).map_or(0, |(_, set)| *set)
}

/// Returns the number of the slot of a key, which the library does not expose.
fn slot_of(key: impl AsRef<[u8]>) -> u16 {
    let slot = Slot::for_key(key);
    (0..SLOTS).find(|number| Slot::new(*number) == Some(slot)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: i64, last: i64, port: i64) -> Value {
        let node = |port| Value::Array(vec![Value::BulkString(b"127.0.0.1".to_vec()), Value::Int(port)]);
        Value::Array(vec![Value::Int(first), Value::Int(last), node(port), node(port + 100)])
    }

    #[test]
    fn masters_are_spread_over_sets() {
        let answer = Value::Array((0..6).rev().map(|at| range(at * 100, at * 100 + 99, 7000 + at % 5)).collect());
        let ranges = spread(FromRedisValue::from_redis_value(answer).expect("ranges"));
        assert_eq!(ranges, [(99, 0), (199, 1), (299, 2), (399, 3), (499, 0), (599, 0)]);
        let set = |slot| set_of(&ranges, slot);
        assert_eq!([set(0), set(99), set(100), set(399), set(599), set(600)], [0, 0, 1, 3, 0, 0]);
    }

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        assert_eq!(slot_of("123456789"), 12739);
        assert_eq!(slot_of("{3}:commits"), slot_of("3"));
        assert_eq!(LANE_SLOTS[3], slot_of("jobs:{3}:commits"));
    }
}
