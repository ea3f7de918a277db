//! Threads for work on large documents. Serializing or parsing a large document as JSON takes milliseconds, during
//! which the thread of the call could run no other call.

use std::{panic::resume_unwind, sync::LazyLock, thread::available_parallelism};

use tokio::{
    runtime::{Builder, Runtime},
    sync::Semaphore,
};

/// Minimum size in bytes of the documents that are serialized and parsed on another thread. One of this size takes half
/// a millisecond.
pub const LARGE_BYTES: usize = 64 * 1024;

/// Number of threads, one for each processor: more would only slow each other down.
static THREADS: LazyLock<usize> = LazyLock::new(|| available_parallelism().map_or(1, usize::from));

/// Permits to use the threads. Callers wait here in order, and the work of a caller that leaves before its turn is not
/// done.
static PERMITS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(*THREADS));

/// The threads. Their priority is low, so that the threads that answer calls need not wait for a processor.
static POOL: LazyLock<Runtime> = LazyLock::new(|| {
    let mut pool = Builder::new_current_thread();
    pool.thread_name("offload").max_blocking_threads(*THREADS).on_thread_start(lower_priority);
    pool.build().expect("a runtime without I/O needs nothing of the system")
});

/// Nice value of the threads: even if other threads use the processors fully, these threads get a tenth of the time, so
/// that their work makes progress.
const NICE: i32 = 10;

/// Lowers the priority of this thread, where threads have priorities of their own.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "can't lower the priority of the offload threads");
    }
}

/// Does `work` on another thread. Panics if `work` does.
pub async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let permit = PERMITS.acquire().await.expect("the semaphore is never closed");
    let done = POOL.spawn_blocking(move || {
        // Kept although the caller may have gone: its work occupies the thread nevertheless.
        let _permit = permit;
        work()
    });
    done.await.unwrap_or_else(|error| resume_unwind(error.into_panic()))
}

/// Occupies all threads until the permit is dropped, so that tests find offloaded work waiting, however short it is.
#[cfg(test)]
pub async fn occupy() -> tokio::sync::SemaphorePermit<'static> {
    PERMITS.acquire_many(u32::try_from(*THREADS).expect("few processors")).await.expect("it is never closed")
}
