//! The recorder of what clients see, and its output for people.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::record::{At, History, Shown};

impl History {
    /// Returns everything about a job, ordered by time, as text for people.
    pub fn tell(&self, job: &str) -> String {
        let is_it = |shown: &Option<Shown>| shown.as_ref().is_some_and(|shown| shown.id == job);
        let calls = self.calls.iter().filter(|call| call.job == job).map(|call| (call.ended, format!("{call:?}")));
        let streams = self.streams.iter().flat_map(|stream| {
            let name = format!(
                "{} through {:?} on {}, opened at {:?}",
                stream.watcher, stream.face, stream.replica, stream.opened
            );
            let whole = stream.job.as_deref() == Some(job);
            let line =
                whole.then(|| (stream.opened, format!("{name}, resumed {:?}, {:?}", stream.resumed, stream.closed)));
            let heard = stream
                .events
                .iter()
                .filter(move |heard| whole || is_it(&heard.shown) || (heard.reset && heard.shown.is_none()));
            line.into_iter().chain(heard.map(move |heard| (heard.at, format!("{name}: {heard:?}"))))
        });
        let faults = self.faults.iter().map(|fault| (fault.from, format!("{fault:?}")));
        let deaths = self.deaths.iter().map(|death| (death.at, format!("{death:?}")));
        let stops = self.stops.iter().map(|stop| (stop.at, format!("{stop:?}")));
        let entries =
            self.reported.iter().filter(|entry| entry.job == job).map(|entry| (entry.at, format!("{entry:?}")));
        let mut all: Vec<_> = calls.chain(streams).chain(faults).chain(deaths).chain(stops).chain(entries).collect();
        all.sort();
        let lines: Vec<_> = all.into_iter().map(|(at, line)| format!("{at:?} {line}")).collect();
        lines.join("\n")
    }

    /// Returns the time for which the machine was too busy between `from` and `until`.
    pub fn stalled(&self, from: At, until: At) -> At {
        let overlap = |stall: &(At, At)| stall.1.min(until).saturating_sub(stall.0.max(from));
        self.stalls.iter().map(overlap).sum()
    }

    /// Forgets the jobs and streams for whose names `keep` does not hold.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.calls.retain(|call| keep(&call.job));
        self.streams.retain(|stream| keep(stream.job.as_ref().unwrap_or(&stream.watcher)));
        self.reported.retain(|entry| keep(&entry.job));
    }
}

/// The recorder of what clients see.
pub struct Recorder {
    started: Instant,
    history: Mutex<History>,
}

impl Recorder {
    pub fn start() -> Self {
        Self { started: Instant::now(), history: Mutex::default() }
    }

    pub fn now(&self) -> At {
        self.started.elapsed()
    }

    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
