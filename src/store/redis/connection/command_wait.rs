//! The time limit of a command.
//!
//! A time-out must mean that Redis was silent for the whole time limit, and not that this process was busy: a command
//! waits as long as answers to other commands keep arriving on its connection. After half of the time limit without an
//! answer, Redis is *suspected* to be silent, and each pool pings it. At the time limit, an answer to one of these
//! pings shows that only the connection of the command hangs; without one, Redis is silent.

use std::{pin::pin, time::Duration};

use tokio::{
    select,
    time::{Instant, timeout_at},
};

use super::turns::Turns;

/// Maximum wait of a command while other answers keep arriving, as a multiple of its limit. No caller waits longer.
const PROGRESS_FACTOR: u32 = 4;
/// Minimum of that maximum wait, however short the limit of a command is.
const PROGRESS_MIN: Duration = Duration::from_secs(5);

/// The wait for one command.
#[derive(Debug)]
pub struct CommandWait {
    limit: Duration,
    started: Instant,
    silent_since: Instant,
    suspected: Option<Instant>,
}

/// The next action after a command has waited until [`CommandWait::due`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Wait on.
    Wait,
    /// Have Redis pinged, and wait on.
    Suspect,
    /// Give up.
    GiveUp,
}

impl CommandWait {
    /// Begins the wait. A silence may last as long as `limit`.
    pub fn new(limit: Duration) -> Self {
        let started = Instant::now();
        Self { limit, started, silent_since: started, suspected: None }
    }

    /// Waits for `work` of a server whose last answer was at `last_answer`, and calls `suspect` when a suspicion
    /// begins. Before it gives up with `None`, it waits for `turns`, so that an answer that has arrived can be read.
    pub async fn wait<T>(
        &mut self,
        last_answer: impl Fn() -> Option<Instant>,
        suspect: impl Fn(),
        turns: &Turns,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = pin!(work);
        let mut is_last = false;
        loop {
            // `timeout_at` polls the work first: an answer that has arrived counts, however late this task is.
            if let Ok(outcome) = timeout_at(self.due(), &mut work).await {
                return Some(outcome);
            }
            match self.step(Instant::now(), last_answer()) {
                Step::Wait => is_last = false,
                Step::Suspect => suspect(),
                Step::GiveUp if is_last => return None,
                Step::GiveUp => {
                    is_last = true;
                    select! { biased; outcome = &mut work => return Some(outcome), () = Box::pin(turns.pass()) => {} }
                }
            }
        }
    }

    /// Returns the time of the next check.
    fn due(&self) -> Instant {
        let half = self.limit / 2;
        let due = match self.suspected {
            None => self.silent_since + half,
            // Leaves time for the answer to a ping, however late the suspicion began.
            Some(suspected) => (self.silent_since + self.limit).max(suspected + half),
        };
        due.min(self.end())
    }

    /// Decides what to do at `now`; `last_answer` is the time of the last answer on the connection.
    fn step(&mut self, now: Instant, last_answer: Option<Instant>) -> Step {
        if let Some(last_answer) = last_answer.filter(|last_answer| *last_answer > self.silent_since) {
            self.silent_since = last_answer;
            self.suspected = None;
        }
        match self.suspected {
            _ if now >= self.end() => Step::GiveUp,
            _ if now < self.due() => Step::Wait,
            None => {
                self.suspected = Some(now);
                Step::Suspect
            }
            Some(_) => Step::GiveUp,
        }
    }

    /// Returns the start of the present suspicion; `None` if an answer has ended it, or there was none.
    pub fn suspected(&self) -> Option<Instant> {
        self.suspected
    }

    /// Returns whether there is time to send a command once more after `pause`, because its keys are moving.
    pub fn allows(&self, pause: Duration) -> bool {
        Instant::now() + pause < self.started + self.limit
    }

    fn end(&self) -> Instant {
        self.started + longest(self.limit)
    }
}

/// Returns the maximum wait of a command whose limit for a silence is `limit`.
pub fn longest(limit: Duration) -> Duration {
    (limit * PROGRESS_FACTOR).max(PROGRESS_MIN)
}

#[cfg(test)]
mod tests {
    use tokio::{spawn, task::yield_now, time::advance};

    use super::*;

    const LIMIT: Duration = Duration::from_millis(200);

    fn begin() -> (CommandWait, Instant) {
        let command_wait = CommandWait::new(LIMIT);
        let started = command_wait.started;
        (command_wait, started)
    }

    #[test]
    fn silence_is_suspected_after_half_of_the_limit_and_ends_at_the_limit() {
        let (mut command_wait, started) = begin();
        assert_eq!(command_wait.due(), started + LIMIT / 2);
        assert_eq!(command_wait.step(command_wait.due(), None), Step::Suspect);
        assert_eq!(command_wait.due(), started + LIMIT);
        assert_eq!(command_wait.step(command_wait.due(), None), Step::GiveUp);
    }

    #[test]
    fn answers_of_before_do_not_count() {
        let (mut command_wait, started) = begin();
        let before = Some(started - LIMIT / 10);
        assert_eq!(command_wait.step(command_wait.due(), before), Step::Suspect);
        assert_eq!(command_wait.step(command_wait.due(), before), Step::GiveUp);
    }

    #[test]
    fn each_answer_begins_another_silence() {
        let (mut command_wait, started) = begin();
        for answers in 1..8 {
            let last_answer = started + LIMIT / 4 * answers;
            assert_eq!(command_wait.step(command_wait.due(), Some(last_answer)), Step::Wait);
            assert_eq!(command_wait.due(), last_answer + LIMIT / 2);
        }
        let last_answer = started + LIMIT / 4 * 7;
        assert_eq!(command_wait.step(command_wait.due(), Some(last_answer)), Step::Suspect);
        assert_eq!(command_wait.due(), last_answer + LIMIT);
        assert_eq!(command_wait.step(command_wait.due(), Some(last_answer)), Step::GiveUp);
    }

    #[test]
    fn answers_to_others_are_not_waited_for_without_end() {
        let (mut command_wait, started) = begin();
        let mut now = started;
        while command_wait.step(now, Some(now)) != Step::GiveUp {
            now = command_wait.due();
            assert!(now <= started + longest(LIMIT));
        }
        assert_eq!(now, started + longest(LIMIT));
    }

    #[test]
    fn late_ping_has_time_to_be_answered() {
        let (mut command_wait, started) = begin();
        let late = started + LIMIT * 3;
        assert_eq!(command_wait.step(late, None), Step::Suspect);
        assert_eq!(command_wait.due(), late + LIMIT / 2);
        assert_eq!(command_wait.step(command_wait.due(), None), Step::GiveUp);
    }

    #[tokio::test(start_paused = true)]
    async fn answer_that_is_there_counts_however_late_it_is_looked_at() {
        let mut command_wait = CommandWait::new(LIMIT);
        advance(longest(LIMIT) * 3).await;
        assert_eq!(command_wait.wait(|| None, || panic!("a suspicion"), &Turns::default(), async { 7 }).await, Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn answer_is_awaited_while_other_tasks_are_delivering_it() {
        let mut command_wait = CommandWait::new(LIMIT);
        advance(longest(LIMIT) * 3).await;
        // One task each to write, to read and to hand over.
        let bring = async { spawn(async { spawn(yield_now()).await }).await };
        assert!(command_wait.wait(|| None, || {}, &Turns::default(), bring).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn silent_server_times_out_at_the_limit() {
        let begun = Instant::now();
        let outcome =
            CommandWait::new(LIMIT).wait(|| None, || {}, &Turns::default(), std::future::pending::<()>()).await;
        assert_eq!(outcome, None);
        assert!(begun.elapsed() < LIMIT + Duration::from_millis(5), "{:?}", begun.elapsed());
    }
}
