//! The replicas that are registered in Redis, and the reason for which decisions by time are held back. Both are read
//! from the beats.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::try_join_all;
use redis::cmd;

use super::{client::Client, connection::Fault, probe::SILENCE, schema::keys::Partition};
use crate::{
    domain::Timestamp,
    store::{HeldBack, Presence, ReplicaStats},
};

/// Script that returns the time of the server and the beats of a partition: the servers of a cluster have clocks of
/// their own.
const BEATS: &str = "return { redis.call('TIME'), redis.call('HGETALL', KEYS[1]) }";

/// The beats of one partition; see `beat.lua`.
#[derive(Default)]
struct Beats {
    /// Time at which they were read.
    now: Timestamp,
    /// Time of the last beat of a serving replica.
    last: Option<Timestamp>,
    /// Time since which workers have been able to report.
    heard_since: Option<Timestamp>,
    replicas: BTreeMap<String, Beat>,
}

/// The last beat of one replica.
#[derive(Default)]
struct Beat {
    /// Time up to which Redis has everything that the replica acknowledged.
    mark: Option<Timestamp>,
    /// Data of the replica about itself; earlier releases of jobtrack send none.
    about: Option<About>,
}

struct About {
    seen: Timestamp,
    dirty: u64,
    version: String,
}

impl About {
    /// Reads the time of the beat, the number of dirty jobs and the version.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ' ');
        let seen = parse_time(parts.next()?)?;
        let dirty = parts.next()?.parse().ok()?;
        Some(Self { seen, dirty, version: parts.next()?.to_owned() })
    }
}

impl Beats {
    fn read(now: Timestamp, fields: Vec<(String, String)>) -> Self {
        let mut beats = Self { now, ..Self::default() };
        for (field, value) in fields {
            match field.split_once(':') {
                Some(("mark", process)) => beats.of(process).mark = parse_time(&value),
                Some(("about", process)) => beats.of(process).about = About::parse(&value),
                None if field == "last" => beats.last = parse_time(&value),
                None if field == "heard_since" => beats.heard_since = parse_time(&value),
                _ => {}
            }
        }
        beats
    }

    fn of(&mut self, process: &str) -> &mut Beat {
        self.replicas.entry(process.to_owned()).or_default()
    }

    /// Returns the reason why `decide.lua` makes no final decision in this partition now, apart from reasons that
    /// depend on the job. `bound` is the time for which the script waits for a replica; `replicas` are those of all
    /// partitions.
    fn held_back(&self, bound: Duration, replicas: &[ReplicaStats]) -> Option<HeldBack> {
        let now = self.now;
        let marks = self.replicas.iter().filter_map(|(process, beat)| Some((beat.mark?, process)));
        if self.last.is_some_and(|last| last > now) || marks.clone().any(|(mark, _)| mark > now) {
            return Some(HeldBack::ClockSetBack);
        }
        // Redis may lack what a replica acknowledged after its mark.
        let late = marks.filter(|(mark, _)| (now - bound..now - SILENCE).contains(mark)).min();
        if let Some(replica) = late.and_then(|(_, process)| replicas.iter().find(|replica| replica.id == *process)) {
            let silence = Some(now.since(replica.last_seen)).filter(|silence| *silence > SILENCE);
            return Some(HeldBack::Replica { id: replica.id.clone(), silence, dirty: replica.dirty });
        }
        if self.last.is_none_or(|last| now.since(last) > SILENCE) {
            return Some(HeldBack::NobodyServes);
        }
        let heard_for = now.since(self.heard_since.unwrap_or(now));
        (heard_for < bound).then_some(HeldBack::JustBack { heard_for, bound })
    }
}

/// Returns each replica once: its newest beat, and its dirty jobs in all partitions.
fn replicas(partitions: &[Beats]) -> Vec<ReplicaStats> {
    let mut replicas: BTreeMap<&str, ReplicaStats> = BTreeMap::new();
    for (process, beat) in partitions.iter().flat_map(|beats| &beats.replicas) {
        let Some(seen) = beat.about.as_ref().map(|about| about.seen).or(beat.mark) else { continue };
        let new = || ReplicaStats { id: process.clone(), version: String::new(), last_seen: seen, dirty: 0 };
        let replica = replicas.entry(process).or_insert_with(new);
        replica.last_seen = replica.last_seen.max(seen);
        if let Some(About { dirty, version, .. }) = &beat.about {
            replica.dirty += dirty;
            replica.version.clone_from(version);
        }
    }
    replicas.into_values().collect()
}

fn parse_time(text: &str) -> Option<Timestamp> {
    text.parse().ok().map(Timestamp::from_micros)
}

/// Reads the registered replicas.
pub struct Replicas {
    client: Arc<Client>,
    presence: Arc<Presence>,
    /// Maximum time for which a replica may be cut off with reports that it acknowledged.
    bound: Duration,
}

impl Replicas {
    /// Creates a reader of the replicas. Decisions by time wait up to `bound` for a replica that is cut off.
    pub const fn new(client: Arc<Client>, presence: Arc<Presence>, bound: Duration) -> Self {
        Self { client, presence, bound }
    }

    /// Returns the registered replicas, and the reason why decisions by time are postponed, if they are.
    pub async fn registered(&self) -> Result<(Vec<ReplicaStats>, Option<HeldBack>), Fault> {
        let partitions = try_join_all(Partition::all().map(|partition| self.beats_in(partition))).await?;
        let replicas = replicas(&partitions);
        let serves = Partition::all().all(|partition| self.presence.is_serving(partition.index()));
        let held_back = if serves {
            partitions.iter().find_map(|beats| beats.held_back(self.bound, &replicas))
        } else {
            Some(HeldBack::NotServing)
        };
        Ok((replicas, held_back))
    }

    async fn beats_in(&self, partition: Partition) -> Result<Beats, Fault> {
        let mut command = cmd("EVAL");
        command.arg(BEATS).arg(1).arg(self.client.keys().beat(partition));
        let ((seconds, micros), fields): ((i64, i64), _) = self.client.bulk().query(&command).await?;
        Ok(Beats::read(Timestamp::from_micros(seconds * 1_000_000 + micros), fields))
    }
}
