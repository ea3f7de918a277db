//! Threads for work on large documents. Serializing or parsing a large document as JSON takes milliseconds, during
//! which the thread of the call could run no other call.

use std::{sync::LazyLock, thread::available_parallelism};

use tokio::{sync::Semaphore, task::spawn_blocking};

/// Minimum size in bytes of the documents that are serialized and parsed on another thread. One of this size takes half
/// a millisecond.
pub const LARGE_BYTES: usize = 64 * 1024;

/// Permits to use these threads, one for each processor: more threads would only take processor time from the threads
/// that answer calls.
static THREADS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(available_parallelism().map_or(1, usize::from)));

/// Does `work` on another thread; `None` if it was not done, because the runtime shuts down.
pub async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let _thread = THREADS.acquire().await.ok()?;
    spawn_blocking(work).await.ok()
}

/// Occupies all threads until the permit is dropped, so that tests find offloaded work waiting, however short it is.
#[cfg(test)]
pub async fn occupy() -> tokio::sync::SemaphorePermit<'static> {
    let all = available_parallelism().map_or(1, usize::from);
    THREADS.acquire_many(u32::try_from(all).expect("few processors")).await.expect("it is never closed")
}
