//! Wall clocks of single processes that a test can step while the processes run. Their steady clocks are unaffected.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use uuid::Uuid;

use super::programs::FAKETIME;

/// A wall clock for any number of processes, right until it is stepped.
pub struct WallClock {
    library: PathBuf,
    /// The file that the library reads at each read of the clock.
    file: PathBuf,
}

impl WallClock {
    /// Creates a clock that is right.
    pub fn new() -> Self {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("clock-{}", Uuid::new_v4()));
        let clock = Self { library: FAKETIME.path(), file };
        clock.set_off(0);
        clock
    }

    /// Sets the clock this many seconds off the machine's, for every read from now on.
    pub fn set_off(&self, seconds: i64) {
        // Renamed into place: a process could read a half-written file as neither the old time nor the new one.
        let next = self.file.with_extension("next");
        fs::write(&next, format!("{seconds:+}\n")).expect("a file can be written");
        fs::rename(next, &self.file).expect("a file can be renamed");
    }

    /// Returns the command that runs another command by this clock.
    pub fn words(&self) -> Vec<String> {
        // Debian's redis-server uses jemalloc, which reads the clock as it starts, and the library allocates memory as
        // it starts: with the C library's allocator in front, neither waits for the other.
        let preload = format!("LD_PRELOAD={}:libc.so.6", self.library.display());
        let settings = self.settings().map(|(name, value)| format!("{name}={value}"));
        ["env".to_owned(), preload].into_iter().chain(settings).collect()
    }

    /// Makes a command run by this clock.
    pub fn drive(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).envs(self.settings());
    }

    fn settings(&self) -> [(&'static str, String); 4] {
        let file = self.file.display().to_string();
        let on = || "1".to_owned();
        [
            ("FAKETIME_TIMESTAMP_FILE", file),
            ("FAKETIME_NO_CACHE", on()),
            // The first is the name in version 0.9.10 and later, the second the name before that.
            ("FAKETIME_DONT_FAKE_MONOTONIC", on()),
            ("DONT_FAKE_MONOTONIC", on()),
        ]
    }
}

impl Drop for WallClock {
    fn drop(&mut self) {
        _ = fs::remove_file(&self.file);
    }
}

/// Removes the names of the memory that the library shares between a process and its children. A killed process would
/// leave them behind.
pub fn tidy(process: u32) {
    for name in [format!("faketime_shm_{process}"), format!("sem.faketime_sem_{process}")] {
        _ = fs::remove_file(Path::new("/dev/shm").join(name));
    }
}
