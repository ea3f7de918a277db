//! A clock of other processes that a test moves: time passes for them as when a machine is suspended.
//!
//! Unlike [`WallClock`](super::faketime::WallClock), which uses libfaketime, it moves the steady clocks, too. jobtrack
//! and Redis have the same time.

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt,
    process::{Command, Output},
    time::Duration,
};

use super::credentials::Folder;

/// A library that replaces the clock functions of a process, and adds the seconds in a file to the clocks that advance.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *ahead;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("TEST_CLOCK_AHEAD");
    int file = path ? open(path, O_RDONLY) : -1;
    if (file < 0) return;
    void *page = mmap(0, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (page != MAP_FAILED) ahead = page;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int failed = syscall(SYS_clock_gettime, clock, time);
    int goes_on = clock != CLOCK_PROCESS_CPUTIME_ID && clock != CLOCK_THREAD_CPUTIME_ID;
    if (!failed && ahead && goes_on) time->tv_sec += *ahead;
    return failed;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *time) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (time) *time = now.tv_sec;
    return now.tv_sec;
}
"#;

/// A clock of several processes.
pub struct SharedClock {
    folder: Folder,
}

impl SharedClock {
    /// Creates a clock that is right until it is moved.
    pub fn new() -> Self {
        let clock = Self { folder: Folder::new() };
        clock.folder.write("ahead", "\0\0\0\0\0\0\0\0");
        let source = clock.folder.write("clock.c", SOURCE);
        let library = clock.folder.path("clock.so");
        let built = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o", &library, &source]).output();
        let Output { status, stderr, .. } = built.expect("cc is needed, a C compiler");
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        clock
    }

    /// Returns the environment with which a process uses this clock.
    pub fn environment(&self) -> [(String, String); 2] {
        [("LD_PRELOAD", "clock.so"), ("TEST_CLOCK_AHEAD", "ahead")]
            .map(|(name, file)| (name.to_owned(), self.folder.path(file)))
    }

    /// Moves all clocks ahead of the machine's at once.
    pub fn set_ahead(&self, ahead: Duration) {
        let seconds = i64::try_from(ahead.as_secs()).expect("not so long").to_ne_bytes();
        // Written in place, and never shorter: the processes have mapped this very file.
        let file = OpenOptions::new().write(true).open(self.folder.path("ahead"));
        file.and_then(|file| file.write_all_at(&seconds, 0)).expect("a file can be written");
    }
}
