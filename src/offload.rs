//! Work on large documents. Writing or reading one as JSON takes milliseconds, in which no other call would have its
//! turn on the same thread.

use std::{sync::LazyLock, thread::available_parallelism};

use tokio::{sync::Semaphore, task::spawn_blocking};

/// Size in bytes from which documents are written and read on another thread: half a millisecond of work.
pub const LARGE_BYTES: usize = 64 * 1024;

/// Permits to use these threads, one for each processor: more threads would only take time from those that answer
/// calls.
static THREADS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(available_parallelism().map_or(1, usize::from)));

/// Does `work` on another thread; `None` if it was not done, because the runtime shuts down.
pub async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let _thread = THREADS.acquire().await.ok()?;
    spawn_blocking(work).await.ok()
}

/// Occupies all threads until the permit is dropped, so that tests find offloaded work pending however fast it is.
#[cfg(test)]
pub async fn occupy() -> tokio::sync::SemaphorePermit<'static> {
    let all = available_parallelism().map_or(1, usize::from);
    THREADS.acquire_many(u32::try_from(all).expect("few processors")).await.expect("it is never closed")
}
