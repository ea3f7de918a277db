//! The processes of a command: all of its descendants, as far as `/proc` shows them.

use std::{collections::HashMap, fs};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// A process as `/proc` shows it. A system without `/proc` knows only the group of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    parent: i32,
    group: i32,
    session: i32,
    /// Start time, which distinguishes processes that have the same id one after the other.
    start: u64,
}

/// The process group that a command runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The command is in the process group of this process: a terminal sends its signals to both.
    Shared,
    /// The command leads a process group of its own.
    Group,
    /// The command leads a session of its own, on a terminal of its own.
    Session,
}

/// A command with the processes that it has started.
#[derive(Debug)]
pub struct Tree {
    root: Pid,
    placement: Placement,
    /// Start times of processes that were found before, by id. If the parent of such a process has ended, only this map
    /// tells that the process belongs to the command.
    known: HashMap<i32, u64>,
}

impl Tree {
    /// Returns the tree of a command that was just started.
    pub fn new(root: Pid, placement: Placement) -> Self {
        let start = read(root.as_raw_pid()).map(|process| (root.as_raw_pid(), process.start));
        Self { root, placement, known: start.into_iter().collect() }
    }

    /// Returns whether no process is left.
    pub fn is_empty(&mut self) -> bool {
        self.members().is_empty()
    }

    /// Sends a signal to the command alone.
    pub fn signal_root(&self, signal: Signal) {
        // The signal fails if the command has ended.
        _ = kill_process(self.root, signal);
    }

    /// Sends a signal to the process group that the command leads, or to the command alone if it leads none.
    pub fn signal_group(&self, signal: Signal) {
        match self.placement {
            Placement::Shared => self.signal_root(signal),
            Placement::Group | Placement::Session => _ = kill_process_group(self.root, signal),
        }
    }

    /// Sends a signal to all processes.
    pub fn signal_all(&mut self, signal: Signal) {
        let others = self.members();
        self.signal_group(signal);
        let root = self.root.as_raw_pid();
        for (id, process) in others {
            let is_reached = id == root || (self.placement != Placement::Shared && process.group == root);
            if !is_reached && let Some(id) = Pid::from_raw(id) {
                _ = kill_process(id, signal);
            }
        }
    }

    /// Sends a signal to all processes but the command itself.
    pub fn signal_others(&mut self, signal: Signal) {
        for (id, _) in self.members() {
            if id != self.root.as_raw_pid()
                && let Some(id) = Pid::from_raw(id)
            {
                _ = kill_process(id, signal);
            }
        }
    }

    /// Returns the processes that run, and remembers them.
    fn members(&mut self) -> Vec<(i32, Process)> {
        let all = processes();
        let root = self.root.as_raw_pid();
        let is_known = |id: i32| all.get(&id).is_some_and(|process| self.known.get(&id) == Some(&process.start));
        let leads = self.placement != Placement::Shared;
        let is_member = |id: i32, process: &Process| {
            is_known(id) || (leads && (process.group == root || process.session == root)) || {
                let parents =
                    std::iter::successors(Some(process.parent), |id| all.get(id).map(|process| process.parent));
                parents.take(all.len()).any(is_known)
            }
        };
        let members: Vec<_> =
            all.iter().filter(|(id, process)| is_member(**id, process)).map(|(id, process)| (*id, *process)).collect();
        self.known.extend(members.iter().map(|(id, process)| (*id, process.start)));
        members
    }
}

/// Returns all processes that have not ended.
fn processes() -> HashMap<i32, Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter_map(|id| Some((id, read(id)?))).collect()
}

/// Reads a process, unless it has ended.
fn read(id: i32) -> Option<Process> {
    parse(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
}

/// Reads `ID (NAME) STATE PARENT GROUP SESSION …`; the 22nd field is the start.
fn parse(line: &str) -> Option<Process> {
    // The name may have parentheses and spaces.
    let fields: Vec<_> = line.rsplit_once(") ")?.1.split(' ').collect();
    let [state, parent, group, session, ..] = fields[..] else { return None };
    let is_over = matches!(state, "Z" | "X");
    let number = |field: &str| field.parse().ok();
    let start = fields.get(19)?.parse().ok()?;
    (!is_over).then_some(Process { parent: number(parent)?, group: number(group)?, session: number(session)?, start })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_is_read_whatever_its_name_is() {
        let stat = "7 (a) b (c) S 1 2 3 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 12345 0 0";
        assert_eq!(parse(stat), Some(Process { parent: 1, group: 2, session: 3, start: 12345 }));
        assert_eq!(parse(&stat.replace(" S ", " Z ")), None);
        assert_eq!(parse(""), None);
    }
}
