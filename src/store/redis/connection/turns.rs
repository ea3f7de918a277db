//! Waits until all tasks that are ready have been polled, so that scheduling delay is not taken for silence of Redis.
//! One such pass over the ready tasks is called a turn.
//!
//! Separate tasks write a command, read its answer and hand the answer over, and each waits for its turn. If thousands
//! of tasks are ready, that takes longer than Redis does, and such a delay in this process must not count as silence of
//! Redis. A task that is spawned from outside of the runtime joins the queue that all threads of the runtime share,
//! after all tasks that overflowed from the threads' own queues. When it runs, those tasks have had their turn.

use std::{
    sync::{OnceLock, mpsc},
    thread,
};

use tokio::{
    runtime::Handle,
    select,
    sync::{Mutex, oneshot, watch},
};

/// Maximum number of turns that a command needs after it was sent: to be written, to be read, to be handed over, and
/// one more for the turn that was under way.
const TURNS: u64 = 4;

/// A counter of turns, which counts only while a task waits for turns.
#[derive(Debug, Default)]
pub struct Turns {
    count: watch::Sender<u64>,
    /// Locked by the task that counts for all waiting tasks.
    counting: Mutex<()>,
    /// Channel to the thread that spawns tasks; the thread ends when this is dropped.
    spawner: OnceLock<mpsc::Sender<Marker>>,
}

/// A task that only reports that it has had its turn.
struct Marker {
    runtime: Handle,
    done: oneshot::Sender<()>,
}

impl Turns {
    /// Waits until all tasks have had as many turns as a command needs. Returns almost at once if few tasks are ready.
    pub async fn pass(&self) {
        let mut count = self.count.subscribe();
        let last = *count.borrow() + TURNS;
        let are_over = count.wait_for(|count| *count >= last);
        let counted = async {
            // The task that held the lock before may have counted far enough.
            let _counting = self.counting.lock().await;
            while *self.count.borrow() < last {
                self.turn().await;
                self.count.send_modify(|count| *count += 1);
            }
        };
        select! { biased; _ = are_over => {} () = counted => {} }
    }

    /// Waits until a task that another thread spawned has had its turn.
    async fn turn(&self) {
        let (done, had_its_turn) = oneshot::channel();
        let marker = Marker { runtime: Handle::current(), done };
        if self.spawner.get_or_init(spawner).send(marker).is_ok() {
            _ = had_its_turn.await;
        }
    }
}

/// Starts the thread that spawns markers. If that fails, for example for lack of memory, turns count as over at once.
fn spawner() -> mpsc::Sender<Marker> {
    let (sender, markers) = mpsc::channel::<Marker>();
    let spawn_all = move || {
        for Marker { runtime, done } in markers {
            runtime.spawn(async move { done.send(()) });
        }
    };
    _ = thread::Builder::new().name("turns".to_owned()).spawn(spawn_all);
    sender
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        thread,
        time::Duration,
    };

    use futures_util::{FutureExt, future::join_all};
    use tokio::{spawn, task::yield_now};

    use super::*;

    #[tokio::test]
    async fn turns_are_counted_once_for_all_who_wait() {
        let turns = Turns::default();
        join_all((0..1000).map(|_| turns.pass())).await;
        assert!(*turns.count.borrow() < 2 * TURNS, "{turns:?}");
    }

    #[tokio::test]
    async fn cancelled_waiter_hands_the_counting_to_the_next() {
        let turns = Turns::default();
        let mut first = Box::pin(turns.pass());
        assert!(first.as_mut().now_or_never().is_none());
        let second = turns.pass();
        drop(first);
        second.await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn tasks_that_are_ready_run_before_the_turns_are_over() {
        const TASKS: usize = 2000;
        let ran = Arc::new(AtomicUsize::new(0));
        for _ in 0..TASKS {
            let ran = ran.clone();
            spawn(async move {
                yield_now().await;
                thread::sleep(Duration::from_micros(50));
                ran.fetch_add(1, Relaxed);
            });
        }
        Turns::default().pass().await;
        // A few hundred may still be in the queues of the threads.
        assert!(ran.load(Relaxed) > TASKS / 2, "{ran:?}");
    }
}
