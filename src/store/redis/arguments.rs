//! The keys and arguments of scripts.

use std::{fmt::Display, io::Write};

use redis::Cmd;

use crate::domain::Timestamp;

/// A receiver of the keys and arguments for one execution of a script.
pub trait Arguments {
    /// Sets the number of keys, which are added first.
    fn begin(&mut self, keys: usize);

    /// Adds a key or an argument.
    fn add(&mut self, argument: impl AsRef<[u8]>);

    /// Adds a key or an argument that consists of several parts.
    fn add_parts(&mut self, parts: &[&str]);

    /// Adds a number.
    fn add_number(&mut self, number: impl Display);
}

impl Arguments for Cmd {
    fn begin(&mut self, keys: usize) {
        self.arg(keys);
    }

    fn add(&mut self, argument: impl AsRef<[u8]>) {
        self.arg(argument.as_ref());
    }

    fn add_parts(&mut self, parts: &[&str]) {
        self.add(parts.concat());
    }

    fn add_number(&mut self, number: impl Display) {
        self.add(number.to_string());
    }
}

/// The keys and arguments for one execution, from which a command is made later.
#[derive(Debug, Default)]
pub struct Encoded {
    /// The keys and arguments, without separators.
    bytes: Vec<u8>,
    /// The end of each key and argument in `bytes`.
    ends: Vec<usize>,
    /// Number of keys.
    keys: usize,
}

impl Arguments for Encoded {
    fn begin(&mut self, keys: usize) {
        debug_assert!(self.ends.is_empty(), "the number of keys is set before keys are added");
        self.keys = keys;
    }

    fn add(&mut self, argument: impl AsRef<[u8]>) {
        self.bytes.extend_from_slice(argument.as_ref());
        self.ends.push(self.bytes.len());
    }

    fn add_parts(&mut self, parts: &[&str]) {
        for part in parts {
            self.bytes.extend_from_slice(part.as_bytes());
        }
        self.ends.push(self.bytes.len());
    }

    fn add_number(&mut self, number: impl Display) {
        write!(self.bytes, "{number}").expect("a vector takes all bytes");
        self.ends.push(self.bytes.len());
    }
}

impl Encoded {
    /// Adds the keys and arguments to a command.
    pub fn add_to(&self, command: &mut Cmd) {
        command.begin(self.keys);
        for part in self.parts() {
            command.add(part);
        }
    }

    /// Adds the keys and arguments of several replacements to a command with group.lua. The first argument of each is
    /// its channel of notifications; all notifications are sent through that of the first one. Without a cluster the
    /// replacements may be of several partitions, but each notification names its partition, and replicas subscribe to
    /// all channels.
    pub fn add_all(all: &[Self], command: &mut Cmd) {
        command.begin(all.iter().map(|one| one.keys).sum());
        for one in all {
            for key in one.parts().take(one.keys) {
                command.add(key);
            }
        }
        let channel = all.first().and_then(|first| first.parts().nth(first.keys));
        command.add(channel.unwrap_or_default());
        for one in all {
            for argument in one.parts().skip(one.keys + 1) {
                command.add(argument);
            }
        }
    }

    /// Returns the keys, and then the arguments.
    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let begins = [0].into_iter().chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(begin, end)| &self.bytes[begin..*end])
    }
}

/// The effect of a replacement on the fields of a record; the numbers are those of replace.lua.
#[derive(Clone, Copy, Debug)]
pub enum Mode {
    /// The record is removed.
    Removed = 0,
    /// Fields that are not given stay.
    Part = 1,
    /// Fields that are not given are removed.
    Whole = 2,
    /// Only the time of the worker's last report changes.
    Heard = 3,
}

/// A time that replace.lua writes.
#[derive(Clone, Copy, Debug)]
pub enum Time {
    /// The record keeps its own.
    Kept,
    /// The time of the write, on the clock of Redis.
    Now,
    /// This time.
    At(Timestamp),
}

impl From<Option<Timestamp>> for Time {
    fn from(time: Option<Timestamp>) -> Self {
        time.map_or(Self::Kept, Self::At)
    }
}

/// A branch that is given to replace.lua.
#[derive(Debug)]
pub enum GivenBranch {
    /// The record gets this branch.
    Begun(String),
    /// The record gets this branch only if its own is of another lineage, or missing.
    Continued(String),
}

/// The optional arguments of replace.lua.
#[derive(Debug)]
pub struct ReplacementOptions {
    /// Notification of the commit, without its number; `None`: the commit is neither counted nor announced.
    pub notification: Option<Vec<u8>>,
    /// Time of the worker's last report.
    pub heard: Time,
    /// Time at which the id was taken.
    pub since: Time,
    /// Time at which the end of the job was stored.
    pub durable_time: Time,
    /// The branch; `None`: the record keeps its own.
    pub branch: Option<GivenBranch>,
}

impl ReplacementOptions {
    /// Returns the head of the arguments. `sets` is the number of sorted sets that change, `deleted` and `set` are the
    /// numbers of fields to delete and to set.
    pub fn head(&self, mode: Mode, sets: usize, deleted: usize, set: usize) -> [u8; 11] {
        let byte = |number: usize| u8::try_from(number).expect("a write has fewer than 256 keys and arguments");
        let form = |time: Time| match time {
            Time::Kept => 0,
            Time::Now => 1,
            Time::At(_) => 2,
        };
        let given =
            self.times().count() + usize::from(self.notification.is_some()) + usize::from(self.branch.is_some());
        // The head and the expected version; the id and the scores, if there are sorted sets.
        let arguments = 2 + given + sets + usize::from(sets > 0) + deleted + 2 * set;
        [
            // The job and the count of commits.
            byte(2 + sets),
            byte(arguments),
            mode as u8,
            form(self.heard),
            form(self.since),
            form(self.durable_time),
            match self.branch {
                None => 0,
                Some(GivenBranch::Begun(_)) => 1,
                Some(GivenBranch::Continued(_)) => 2,
            },
            u8::from(self.notification.is_some()),
            byte(sets),
            byte(deleted),
            byte(2 * set),
        ]
    }

    /// Adds the arguments.
    pub fn add_to(&self, to: &mut impl Arguments) {
        if let Some(notification) = &self.notification {
            to.add(notification);
        }
        for time in self.times() {
            to.add_number(time.as_micros());
        }
        if let Some(GivenBranch::Begun(branch) | GivenBranch::Continued(branch)) = &self.branch {
            to.add(branch);
        }
    }

    /// Returns the times that are given.
    fn times(&self) -> impl Iterator<Item = Timestamp> {
        let times = [self.heard, self.since, self.durable_time];
        times.into_iter().filter_map(|time| if let Time::At(time) = time { Some(time) } else { None })
    }
}
