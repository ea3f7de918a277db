//! A cluster with one master that is unavailable or full: only its partitions are affected.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use jobtrack::proto::v1::{Durability, Job};
use rstest::rstest;
use tokio::time::sleep;
use tonic::{Code, Status};

use super::{each, ids, ids_in, stored, told};
use crate::support::{
    Client, Server, new_job, reason,
    redis::{Cluster, Redis},
    replicas::{stats, try_get, whole},
    until,
    watching::try_report,
};

/// Number of jobs when the fault comes; a third is on each master.
const JOBS: usize = 60;

/// Minimum number of reports on each job while the fault lasts.
const ROUNDS: i64 = 16;

/// Time without an answer after which nodes consider another as failed; a busy machine must not reach it.
const NODE_TIMEOUT: Duration = Duration::from_secs(4);

/// Key of the id of the data set, which one master has; jobs of other masters must not depend on it.
const EPOCH: &str = "jobtrack:epoch";

/// Maximum number of commands per second to a master that rejects writes: checks, beats and pushes.
const MOST_COMMANDS: u64 = 300;

/// The fault of the master.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// It answers nothing, and is not replaced.
    Silent,
    /// It is dead, and is not replaced.
    Dead,
    /// It rejects writes, and answers reads.
    Full,
}

struct World {
    cluster: Cluster,
    slot: u16,
    server: Server,
    client: Client,
}

impl World {
    /// Starts a cluster in which the master will fail that has the key of the data set, or another one.
    async fn start(has_epoch: bool) -> Self {
        let flags = [
            ["--cluster-require-full-coverage", "no"],
            ["--cluster-replica-no-failover", "yes"],
            ["--appendonly", "yes"],
        ];
        let cluster = Cluster::with(NODE_TIMEOUT, &flags.concat()).await;
        let epoch = cluster.master_of_slot(cluster.slot(EPOCH).await).await.port;
        let mut slot = None;
        for partition in 0..16 {
            let of_partition = cluster.slot(&format!("{{{partition}}}")).await;
            let is_there = cluster.master_of_slot(of_partition).await.port == epoch;
            slot = slot.or(Some(of_partition).filter(|_| is_there == has_epoch));
        }
        let slot = slot.expect("each master has a partition");
        // The time limit allows for a busy machine.
        let server = Server::with(&["--redis-url", &cluster.url(), "--redis-timeout", "1s"]).await;
        whole(&server).await;
        let client = server.client().await;
        Self { cluster, slot, server, client }
    }

    /// Returns the master that fails, while the nodes agree on it.
    async fn victim(&self) -> &Redis {
        self.cluster.master_of_slot(self.slot).await
    }

    async fn create(&self, ids: &[String]) -> HashMap<String, Job> {
        let made = each(&self.client, ids, async |mut client, id| {
            let answer = client.create_job(new_job(&id)).await?.into_inner();
            Ok(answer.job.expect("a job"))
        });
        by_id(made.await)
    }

    async fn report(&self, ids: &[String]) -> HashMap<String, Job> {
        by_id(each(&self.client, ids, async |mut client, id| try_report(&mut client, &id).await).await)
    }
}

fn by_id(jobs: Vec<Result<Job, Status>>) -> HashMap<String, Job> {
    let jobs = jobs.into_iter().map(|job| job.expect("it is accepted"));
    jobs.map(|job| (job.id.clone(), job)).collect()
}

/// Fails unless the jobs of the failing master are marked as volatile. Returns the number of other volatile jobs.
fn others_volatile(jobs: &HashMap<String, Job>, away: &BTreeSet<String>, what: &str) -> usize {
    let volatile: BTreeSet<_> =
        jobs.values().filter(|job| job.durability() == Durability::Volatile).map(|job| job.id.clone()).collect();
    let expected: BTreeSet<_> = jobs.keys().filter(|id| away.contains(*id)).cloned().collect();
    assert_eq!(expected.difference(&volatile).count(), 0, "{what}: durable of those that are away, of {}", jobs.len());
    volatile.difference(&expected).count()
}

#[rstest]
#[case::silent(Fault::Silent)]
#[case::dead(Fault::Dead)]
#[case::full(Fault::Full)]
#[tokio::test(flavor = "multi_thread")]
async fn only_partitions_of_the_failed_master_are_unavailable(#[case] fault: Fault) {
    let mut world = World::start(true).await;
    let all = ids("j", JOBS);
    world.create(&all).await;
    // The index changes of a first report make room, so that a full master takes it.
    world.report(&all).await;
    let victim = world.victim().await;
    let port = victim.port;
    let away: BTreeSet<_> = ids_in(victim).await.into_iter().collect();
    assert!(away.len() > 1 && away.len() < JOBS - 1, "{away:?}");

    match fault {
        Fault::Silent => world.cluster.node(port).signal("STOP"),
        Fault::Dead => world.cluster.kill_master_of_slot(world.slot).await,
        Fault::Full => _ = world.victim().await.command(&["CONFIG", "SET", "maxmemory", "1"]).await,
    }
    let mut round = 0;
    while round < ROUNDS || (fault != Fault::Full && !world.cluster.is_failed(port).await) {
        assert!(round < ROUNDS * 10, "the nodes don't note that one of them has failed");
        round += 1;
        let others = others_volatile(&world.report(&all).await, &away, &format!("{fault:?}, round {round}"));
        assert_eq!(others, 0, "{fault:?}, round {round}: volatile of others' jobs");
        // Gives the nodes time to notice each other's silence.
        sleep(Duration::from_millis(250)).await;
    }
    // The other masters can be asked, so for their ids absence is certain.
    let missing =
        each(&world.client, &ids("missing", JOBS), async |mut client, id| try_get(&mut client, &id).await).await;
    let codes: BTreeSet<_> = missing.iter().map(|job| job.as_ref().expect_err("there is none").code() as i32).collect();
    assert!(codes.contains(&(Code::NotFound as i32)), "{codes:?}");
    if fault != Fault::Full {
        let untold = missing.iter().filter_map(|job| job.as_ref().err()).filter(|error| error.code() != Code::NotFound);
        let reasons: BTreeSet<_> = untold.map(reason).collect();
        assert_eq!(reasons, ["STORE_UNAVAILABLE".to_owned()].into());
    }
    let new = world.create(&ids("n", JOBS)).await;

    match fault {
        Fault::Silent => world.cluster.node(port).signal("CONT"),
        Fault::Dead => world.cluster.restart_killed().await,
        Fault::Full => _ = world.victim().await.command(&["CONFIG", "SET", "maxmemory", "0"]).await,
    }
    let other = Server::with(&["--redis-url", &world.cluster.url(), "--redis-timeout", "1s"]).await;
    for client in [&world.client, &other.client().await] {
        each(client, &all, async |mut client, id| stored(&mut client, &id, 2 + round).await).await;
        each(client, &ids("n", JOBS), async |mut client, id| stored(&mut client, &id, 1).await).await;
    }
    let of_victim: BTreeSet<_> = ids_in(world.victim().await).await.into_iter().collect();
    let others = others_volatile(&new, &of_victim, "jobs that were made meanwhile");
    assert_eq!(others, 0, "volatile of others' new jobs");
    let mut admin = world.server.admin().await;
    until("nothing is left", async || (stats(&mut admin).await.dirty_jobs == 0).then_some(())).await;
    assert!(world.report(&all).await.values().all(|job| job.durability() == Durability::Durable));
    other.stop().await;
    world.server.stop().await;
}

/// One dirty job that is rejected does not cause all others to be read repeatedly.
#[tokio::test(flavor = "multi_thread")]
async fn one_dirty_job_of_a_full_master_costs_little() {
    const TIME: Duration = Duration::from_secs(4);
    let world = World::start(false).await;
    let all = ids("j", 2000);
    world.create(&all).await;
    let victim = world.victim().await;
    let there = ids_in(victim).await;
    world.report(&there[..1]).await;
    victim.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let dirty = world.report(&there[..1]).await;
    assert_eq!(dirty[&there[0]].durability(), Durability::Volatile);
    let before = told(victim, "stats", "total_commands_processed").await;
    sleep(TIME).await;
    let commands = told(victim, "stats", "total_commands_processed").await - before;
    let each_second = commands / TIME.as_secs();
    println!("{each_second} commands a second for one dirty job of {}", there.len());
    assert!(each_second < MOST_COMMANDS, "{each_second} commands a second");
    victim.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    stored(&mut world.client.clone(), &there[0], 3).await;
    world.server.stop().await;
}
