//! Values that are made of files, and made anew when these change.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    mem::replace,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{sync::Notify, task::spawn_blocking, time::sleep};
use tracing::{info, warn};

/// How often files are looked at. Their contents are compared: times and names say little where a mount is swapped.
const INTERVAL: Duration = Duration::from_secs(1);

/// Makes a value of the contents of files and of the value before. The error must not repeat what is in them.
type Make<T> = dyn Fn(&[Vec<u8>], Option<&T>) -> Result<T, String> + Send + Sync;

/// What can be made anew while parts of it are in use.
pub trait Replaceable: Send + Sync {
    /// Called when `next` is in force in the place of this: what is not in it ends.
    fn give_way(&self, _next: &Self) {}
}

/// A value that follows the files it was made of.
pub struct Reloaded<T> {
    files: Vec<PathBuf>,
    make: Box<Make<T>>,
    seen: Mutex<Seen>,
    value: ArcSwap<T>,
}

/// Digests of the contents.
struct Seen {
    /// At the last look.
    last: u64,
    /// When they were made use of, or found to be of no use.
    used: u64,
}

impl<T> Reloaded<T> {
    /// Makes the value. The error says what is wrong with which file.
    pub fn open(
        files: Vec<PathBuf>,
        make: impl Fn(&[Vec<u8>], Option<&T>) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let contents = read(&files);
        let seen = digest(&contents);
        let value = make(&contents?, None).map_err(|problem| format!("{}: {problem}", names(&files)))?;
        let seen = Mutex::new(Seen { last: seen, used: seen });
        Ok(Self { files, make: Box::new(make), seen, value: ArcSwap::from_pointee(value) })
    }

    /// The value as it is now.
    pub fn load(&self) -> Arc<T> {
        self.value.load_full()
    }
}

/// Something that follows files.
pub trait Refresh: Send + Sync {
    /// Looks whether the files have changed, and are as they were at the last look: what is still being written is left
    /// alone. If they are not usable the value stays as it was, which is logged once.
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
        let made = contents.and_then(|contents| (self.make)(&contents, Some(&self.value.load())));
        let files = names(&self.files);
        match made {
            Ok(value) => {
                let value = Arc::new(value);
                // Whoever comes back at the end of what was replaced meets what is in force now.
                self.value.swap(value.clone()).give_way(&value);
                info!(target: "jobtrack::audit", files, "read again");
            }
            Err(problem) => {
                warn!(target: "jobtrack::audit", files, problem, "reload failed; keeping the previous version");
            }
        }
    }
}

/// Keeps `values` as their files are, and reads these at once when that is asked for; never returns.
pub async fn follow(values: Vec<Arc<dyn Refresh>>, now: Arc<Notify>) {
    let values: Arc<[_]> = values.into();
    loop {
        // Whoever asks has finished writing, so the files need not be the same at two looks.
        let looks = tokio::select! {
            () = sleep(INTERVAL) => 1,
            () = now.notified() => 2,
        };
        let values = values.clone();
        // A panic while reading has been reported, and the next second may fare better.
        _ = spawn_blocking(move || (0..looks).for_each(|_| values.iter().for_each(|value| value.refresh()))).await;
    }
}

fn read(files: &[PathBuf]) -> Result<Vec<Vec<u8>>, String> {
    let problem = |file: &PathBuf, error: io::Error| format!("{} can't be read: {error}", file.display());
    files.iter().map(|file| fs::read(file).map_err(|error| problem(file, error))).collect()
}

fn digest(contents: &Result<Vec<Vec<u8>>, String>) -> u64 {
    let mut hasher = DefaultHasher::new();
    contents.hash(&mut hasher);
    hasher.finish()
}

fn names(files: &[PathBuf]) -> String {
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
}
