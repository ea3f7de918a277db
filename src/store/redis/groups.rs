//! Group commit: concurrent writes are sent to Redis in one call of a script.
//!
//! A call of a script costs Redis more than the commands in it. While another write is under way, a write waits until
//! all tasks that are ready have run, and then everything that waits is sent together. A write that is alone is sent at
//! once, and no write waits for the answer to another. Each write of a group is compared and set for itself, and each
//! caller receives the answer to its own write. If a group has no answer, none of its writes has one.

use std::{
    mem::take,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use redis::Value;
use tokio::{spawn, sync::oneshot, task::yield_now};

use super::{
    arguments::Encoded,
    client::Client,
    connection::{Counted, Fault, timed_out},
    schema::keys::{PARTITIONS, Partition},
    script::{FieldChanges, Outcome, Write, run_group},
};

/// Maximum number of writes in a group: larger groups save little more, and hold up others in Redis.
const GROUP_MAX: usize = 16;

/// Maximum size of a write in a group, in bytes. Larger ones are sent alone, because copying them costs more than the
/// call of a script.
const GROUPED_BYTES_MAX: usize = 16 * 1024;

/// The writes that are under way.
pub struct Groups {
    client: Arc<Client>,
    /// The writes of all partitions; for a cluster, those of each partition.
    queues: Box<[GroupQueue]>,
}

/// A queue of writes that may be sent in one group.
#[derive(Default)]
struct GroupQueue {
    /// Number of writes that have no answer yet.
    under_way: AtomicU32,
    waiting: Mutex<Vec<Waiting>>,
}

/// A write that waits for the next group.
struct Waiting {
    write: Encoded,
    answer: oneshot::Sender<Answer>,
}

/// The answer to a write of a group.
enum Answer {
    /// Redis executed it.
    Executed(Value),
    /// Redis did not answer, or can't serve now.
    Failed(Fault),
    /// Redis refused it, or the whole group: it must be executed again alone, which shows the error.
    Refused,
}

impl GroupQueue {
    /// Adds a write to the next group. Returns whether it is the first one.
    fn push(&self, waiting: Waiting) -> bool {
        let mut all = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(waiting);
        all.len() == 1
    }

    fn take(&self) -> Vec<Waiting> {
        take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Groups {
    /// Creates groups of writes that `client` sends.
    pub fn new(client: Arc<Client>) -> Self {
        let queues = if client.connector().is_cluster() { PARTITIONS } else { 1 };
        Self { client, queues: (0..queues).map(|_| GroupQueue::default()).collect() }
    }

    /// Executes a write, together with others if there are any.
    pub async fn execute(self: &Arc<Self>, write: &Write<'_>) -> Result<Outcome, Fault> {
        let fields = write.fields().await;
        let number = Partition::of(write.id).index() % self.queues.len();
        let queue = &self.queues[number];
        let is_alone = queue.under_way.load(Relaxed) == 0;
        let _under_way = Counted::new(&queue.under_way);
        if is_alone || fields.bytes() > GROUPED_BYTES_MAX {
            return self.execute_alone(write, &fields).await;
        }
        let (answer, answered) = oneshot::channel();
        if queue.push(Waiting { write: write.encode(&fields, self.client.keys()), answer }) {
            spawn(self.clone().send_waiting(number));
        }
        match answered.await {
            Ok(Answer::Executed(answer)) => Ok(answer.into()),
            Ok(Answer::Failed(fault)) => Err(fault),
            Ok(Answer::Refused) => self.execute_alone(write, &fields).await,
            // The task that sends the group was stopped.
            Err(_) => Err(Fault::Unavailable(timed_out())),
        }
    }

    async fn execute_alone(&self, write: &Write<'_>, fields: &FieldChanges) -> Result<Outcome, Fault> {
        write.run_with(fields, None, self.client.calls(), self.client.keys()).await
    }

    /// Waits until all tasks that are ready now have run, then sends the writes that wait.
    async fn send_waiting(self: Arc<Self>, queue: usize) {
        yield_now().await;
        let mut waiting = self.queues[queue].take();
        // Drops writes whose caller has left: they have not been sent.
        waiting.retain(|waiting| !waiting.answer.is_closed());
        while waiting.len() > GROUP_MAX {
            let group = waiting.split_off(waiting.len() - GROUP_MAX);
            spawn(self.clone().send(group));
        }
        self.send(waiting).await;
    }

    async fn send(self: Arc<Self>, group: Vec<Waiting>) {
        let (writes, callers): (Vec<_>, Vec<_>) = group.into_iter().map(|one| (one.write, one.answer)).unzip();
        if callers.is_empty() {
            return;
        }
        let mut answers = run_group(&writes, self.client.calls()).await.map(Vec::into_iter);
        for caller in callers {
            let answer = match &mut answers {
                Ok(answers) => match answers.next() {
                    Some(Value::SimpleString(word)) if word == "FAILED" => Answer::Refused,
                    Some(answer) => Answer::Executed(answer),
                    None => Answer::Refused,
                },
                Err(Fault::Refused(_)) => Answer::Refused,
                Err(fault) => Answer::Failed(fault.clone()),
            };
            // A caller that has left does not receive its answer.
            _ = caller.send(answer);
        }
    }
}
