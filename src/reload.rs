//! Values that are read from files, and reloaded when the files change.

use std::{
    error::Error,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    mem::replace,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::{sync::Notify, task::spawn_blocking, time::sleep};
use tracing::{info, warn};

/// Interval between checks of the files. The contents are compared, because modification times are unreliable if a
/// mounted volume is replaced.
const INTERVAL: Duration = Duration::from_secs(1);

/// Creates a value from the contents of files and the previous value. The error must contain nothing of the contents.
type Make<T> = dyn Fn(&[Vec<u8>], Option<&T>) -> Result<T, BoxError> + Send + Sync;

type BoxError = Box<dyn Error + Send + Sync>;

/// The reason why a value can't be read from its files.
#[derive(Debug, Error)]
pub enum ReloadError {
    /// A file can't be read.
    #[error("{file} can't be read: {error}")]
    Unreadable {
        /// Path of the file.
        file: String,
        /// Error of the system.
        error: io::Error,
    },
    /// The contents are invalid.
    #[error("{files}: {problem}")]
    Invalid {
        /// Paths of the files.
        files: String,
        /// The problem, which contains nothing of the contents.
        problem: BoxError,
    },
}

/// A value that can be replaced while parts of it are in use.
pub trait Replaceable: Send + Sync {
    /// Ends the use of everything that is not in `next`, the value that has replaced this one.
    fn on_replaced(&self, _next: &Self) {}
}

/// A value that is reloaded when its files change.
pub struct Reloaded<T> {
    files: Vec<PathBuf>,
    make: Box<Make<T>>,
    seen: Mutex<Seen>,
    value: ArcSwap<T>,
}

/// Digests of the contents of the files.
struct Seen {
    /// At the last check.
    last: u64,
    /// At the last reload, successful or not.
    used: u64,
}

impl<T> Reloaded<T> {
    /// Reads the value. The error names the file and the problem.
    pub fn open<E: Error + Send + Sync + 'static>(
        files: Vec<PathBuf>,
        make: impl Fn(&[Vec<u8>], Option<&T>) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Self, ReloadError> {
        let contents = read(&files);
        let seen = digest(&contents);
        let make = move |contents: &[Vec<u8>], before: Option<&T>| Ok(make(contents, before)?);
        let value = make(&contents?, None)
            .map_err(|problem: BoxError| ReloadError::Invalid { files: names(&files), problem })?;
        let seen = Mutex::new(Seen { last: seen, used: seen });
        Ok(Self { files, make: Box::new(make), seen, value: ArcSwap::from_pointee(value) })
    }

    /// Returns the current value.
    pub fn load(&self) -> Arc<T> {
        self.value.load_full()
    }
}

/// A value that can be reloaded.
pub trait Refresh: Send + Sync {
    /// Reloads the value if its files have changed since the last reload, but not since the last check: a file that has
    /// just changed may be incomplete. If the files can't be used, the value stays as it is, and a warning is logged
    /// once.
    fn refresh(&self);
}

impl<T: Replaceable> Refresh for Reloaded<T> {
    fn refresh(&self) {
        let contents = read(&self.files);
        let found = digest(&contents);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = replace(&mut seen.last, found);
        if found == seen.used || found != before {
            return;
        }
        seen.used = found;
        let made =
            contents.map_err(BoxError::from).and_then(|contents| (self.make)(&contents, Some(&self.value.load())));
        let files = names(&self.files);
        match made {
            Ok(value) => {
                let value = Arc::new(value);
                // The new value is in force before uses of the old value end, so that callers that retry at once find
                // the new value.
                self.value.swap(value.clone()).on_replaced(&value);
                info!(target: "jobtrack::audit", files, "reloaded");
            }
            Err(problem) => {
                let problem = problem.to_string();
                warn!(target: "jobtrack::audit", files, problem, "reload failed; keeping the previous version");
            }
        }
    }
}

/// Reloads `values` when their files change, and at once when `now` is notified. Never returns.
pub async fn follow(values: Vec<Arc<dyn Refresh>>, now: Arc<Notify>) {
    let values: Arc<[_]> = values.into();
    loop {
        // The files are complete if a reload is requested. Two checks in a row count as if an interval had passed in
        // which the files did not change.
        let checks = tokio::select! {
            () = sleep(INTERVAL) => 1,
            () = now.notified() => 2,
        };
        let values = values.clone();
        // The result is ignored: a panic while reading has been logged, and the next check may succeed.
        _ = spawn_blocking(move || (0..checks).for_each(|_| values.iter().for_each(|value| value.refresh()))).await;
    }
}

fn read(files: &[PathBuf]) -> Result<Vec<Vec<u8>>, ReloadError> {
    let problem = |file: &PathBuf, error| ReloadError::Unreadable { file: file.display().to_string(), error };
    files.iter().map(|file| fs::read(file).map_err(|error| problem(file, error))).collect()
}

fn digest(contents: &Result<Vec<Vec<u8>>, ReloadError>) -> u64 {
    let mut hasher = DefaultHasher::new();
    contents.as_ref().map_err(ToString::to_string).hash(&mut hasher);
    hasher.finish()
}

fn names(files: &[PathBuf]) -> String {
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
}
