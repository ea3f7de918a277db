//! The keys and arguments of scripts.

use std::{fmt::Display, io::Write};

use redis::Cmd;

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

    /// Adds the keys and arguments of several executions to a command with group.lua.
    pub fn add_all(all: &[Self], command: &mut Cmd) {
        command.begin(all.iter().map(|one| one.keys).sum());
        for one in all {
            for key in one.parts().take(one.keys) {
                command.add(key);
            }
        }
        for one in all {
            command.add_number(one.keys);
            command.add_number(one.ends.len() - one.keys);
            for argument in one.parts().skip(one.keys) {
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
