//! A Redis cluster.

use std::time::{Duration, Instant};

use ::redis::{Value, from_redis_value};
use futures_util::future::join_all;

use super::{Redis, addresses, until};

/// Number of slots of a cluster.
const SLOTS: u16 = 16_384;

/// Three masters with a replica each. If one slot is not served, none is, as is the default of Redis.
pub struct Cluster {
    nodes: Vec<Redis>,
}

/// A node as another sees it.
struct Seen {
    id: String,
    port: u16,
    myself: bool,
    slots: Vec<(u16, u16)>,
}

impl Cluster {
    /// Starts a cluster. Its replicas are in sync with their masters, and all nodes agree.
    pub async fn start() -> Self {
        Self::with(Duration::from_secs(1), &[]).await
    }

    /// Starts a cluster with these flags, whose nodes consider another one dead after this time without an answer.
    pub async fn with(silence: Duration, flags: &[&str]) -> Self {
        let silence = silence.as_millis().to_string();
        let flags = [&["--cluster-enabled", "yes", "--cluster-node-timeout", &silence], flags].concat();
        let nodes = join_all((0..6).map(|_| Redis::with(&flags))).await;
        let cluster = Self { nodes };
        for (node, epoch) in cluster.nodes.iter().zip(1..) {
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch.to_string()]).await;
        }
        for node in &cluster.nodes {
            for other in cluster.nodes.iter().filter(|other| other.port != node.port) {
                node.command(&["CLUSTER", "MEET", "127.0.0.1", &other.port.to_string()]).await;
            }
        }
        let ends = [(0, 5460), (5461, 10_922), (10_923, SLOTS - 1)];
        for (node, (first, last)) in cluster.nodes.iter().zip(ends) {
            node.command(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).await;
        }
        for (master, replica) in cluster.nodes.iter().zip(&cluster.nodes[3..]) {
            until("the master is known", async || {
                let id: String = master.prompt(&["CLUSTER", "MYID"]).await?;
                replica.prompt::<()>(&["CLUSTER", "REPLICATE", &id]).await
            })
            .await;
        }
        cluster.in_sync().await;
        cluster
    }

    /// Returns the URL of three of the nodes for jobtrack.
    pub fn url(&self) -> String {
        format!("redis+cluster://{}", addresses(&self.nodes[..3]))
    }

    /// Returns the slot of a key.
    pub async fn slot(&self, key: &str) -> u16 {
        let answers = self.command_on_all(&["CLUSTER", "KEYSLOT", key]).await;
        from_redis_value(answers[0].clone()).expect("a number")
    }

    /// Returns the master of a slot, once all nodes agree.
    pub async fn master_of_slot(&self, slot: u16) -> &Redis {
        let (_, seen) = self.agreed().await;
        let owner = seen.iter().find(|seen| seen.slots.iter().any(|&(first, last)| first <= slot && slot <= last));
        self.node(owner.expect("all slots are served").port)
    }

    /// Kills the master of a slot.
    pub async fn kill_master_of_slot(&mut self, slot: u16) {
        let port = self.master_of_slot(slot).await.port;
        self.nodes.iter_mut().filter(|node| node.port == port).for_each(Redis::kill);
    }

    /// Waits until running nodes serve all slots, and all of them agree on that. Returns the time.
    pub async fn elected(&self) -> Instant {
        self.agreed().await.0
    }

    /// Starts the killed nodes, and waits until they are replicas in sync with their masters.
    pub async fn restart_killed(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| node.running.is_none()) {
            node.restart().await;
        }
        self.in_sync().await;
    }

    /// Returns the answers of all running nodes.
    pub async fn command_on_all(&self, words: &[&str]) -> Vec<Value> {
        let running = self.nodes.iter().filter(|node| node.running.is_some());
        join_all(running.map(|node| node.command(words))).await
    }

    /// Begins to move a slot to another master: from now on keys that don't exist are redirected with ASK.
    pub async fn begin_migration(&self, slot: u16) {
        let ((from, from_id), (to, to_id)) = self.migration(slot).await;
        let slot = slot.to_string();
        to.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).await;
        from.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).await;
    }

    /// Moves the keys of a slot that is being moved: from now on all are redirected with ASK.
    pub async fn migrate_keys(&self, slot: u16) {
        let ((from, _), (to, _)) = self.migration(slot).await;
        let keys = from.command(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "1000000"]).await;
        for key in from_redis_value::<Vec<String>>(keys).expect("keys that are text") {
            from.command(&["MIGRATE", "127.0.0.1", &to.port.to_string(), &key, "0", "10000"]).await;
        }
    }

    /// Finishes moving a slot with its keys: from now on they are redirected with MOVED.
    pub async fn finish_migration(&self, slot: u16) {
        self.migrate_keys(slot).await;
        let ((from, _), (to, to_id)) = self.migration(slot).await;
        for node in [to, from] {
            node.command(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &to_id]).await;
        }
        until("the slot is moved", async || (self.master_of_slot(slot).await.port == to.port).then_some(())).await;
    }

    /// Returns the source and the target of the slot that is being moved, each with its id.
    async fn migration(&self, slot: u16) -> ((&Redis, String), (&Redis, String)) {
        let from = self.master_of_slot(slot).await;
        let (_, seen) = self.agreed().await;
        let mut masters: Vec<_> = seen.into_iter().filter(|seen| !seen.slots.is_empty()).collect();
        masters.sort_by_key(|seen| (seen.port != from.port, seen.port));
        let mut masters = masters.into_iter().map(|seen| (self.node(seen.port), seen.id));
        (masters.next().expect("it has a master"), masters.next().expect("there is another"))
    }

    /// Returns the node at a port, whether it runs or not.
    pub fn node(&self, port: u16) -> &Redis {
        self.nodes.iter().find(|node| node.port == port).expect("a node of this cluster")
    }

    /// Returns whether the nodes agree that the one at `port` has failed.
    pub async fn is_failed(&self, port: u16) -> bool {
        let other = self.nodes.iter().find(|node| node.port != port && node.running.is_some()).expect("others run");
        let nodes: String = from_redis_value(other.command(&["CLUSTER", "NODES"]).await).expect("a text");
        let line = nodes.lines().find(|line| line.contains(&format!(":{port}@")));
        let flags = line.and_then(|line| line.split(' ').nth(2)).expect("it knows the node");
        flags.split(',').any(|flag| flag == "fail")
    }

    /// Waits until every master has a replica in sync, and the nodes agree.
    async fn in_sync(&self) {
        until("every master has its replica", async || {
            let (_, seen) = self.agreed().await;
            let masters = seen.iter().filter(|seen| !seen.slots.is_empty()).map(|seen| self.node(seen.port));
            let complete = join_all(masters.map(|master| master.has_replicas(1))).await;
            complete.iter().all(|&complete| complete).then_some(())
        })
        .await;
    }

    /// Returns the view of all running nodes, once they agree and all slots are served by running nodes; and the time.
    async fn agreed(&self) -> (Instant, Vec<Seen>) {
        until("the nodes agree", async || {
            let views = join_all(self.nodes.iter().map(view)).await;
            let views: Vec<_> = views.into_iter().flatten().collect();
            let answering: Vec<u16> =
                views.iter().flat_map(|view| &view.1).filter(|seen| seen.myself).map(|seen| seen.port).collect();
            let owners = |seen: &[Seen]| {
                let mut owners: Vec<_> = seen
                    .iter()
                    .filter(|seen| !seen.slots.is_empty())
                    .map(|seen| (seen.port, seen.slots.clone()))
                    .collect();
                owners.sort();
                owners
            };
            let first = owners(&views.first()?.1);
            let served = |(healthy, seen): &(bool, Vec<Seen>)| {
                *healthy && seen.len() == self.nodes.len() && owners(seen) == first
            };
            let slots: u32 = first.iter().flat_map(|owner| &owner.1).map(|&(from, to)| u32::from(to - from) + 1).sum();
            let alive = first.iter().all(|(port, _)| answering.contains(port));
            let agreed = slots == u32::from(SLOTS) && alive && views.iter().all(served);
            agreed.then(|| views.into_iter().next()).flatten().map(|(_, seen)| (Instant::now(), seen))
        })
        .await
    }
}

/// Returns whether a node considers its cluster healthy, and the nodes that it knows; `None` if it does not answer.
async fn view(node: &Redis) -> Option<(bool, Vec<Seen>)> {
    let info: String = node.prompt(&["CLUSTER", "INFO"]).await?;
    let nodes: String = node.prompt(&["CLUSTER", "NODES"]).await?;
    let seen = nodes.lines().map(|line| {
        let words: Vec<_> = line.split(' ').collect();
        let port = words[1].split([':', '@']).nth(1).expect("an address has a port").parse().expect("a number");
        // After the slots come, in brackets, those that are being moved.
        let slots = words[8..].iter().filter(|word| !word.starts_with('['));
        let slots = slots.map(|range| range.split_once('-').unwrap_or((range, range)));
        let slots = slots.map(|(first, last)| (first.parse().expect("a number"), last.parse().expect("a number")));
        Seen { id: words[0].to_owned(), port, myself: words[2].contains("myself"), slots: slots.collect() }
    });
    Some((info.contains("cluster_state:ok"), seen.collect()))
}
