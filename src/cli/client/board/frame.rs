//! The lines of a live view.

use std::{
    cmp::Reverse,
    fmt::Write,
    time::{Duration, SystemTime},
};

use console::{Alignment, measure_text_width, pad_str, truncate_str};
use jobtrack_client::{Job, State, proto::v1::Liveness};

use super::Rates;
use crate::cli::{
    show::{DIM, WARNING, between, clock, elapsed, notes, percent, stage, style, styled, units},
    text::escape,
};

/// Width of a progress bar, in columns.
const BAR: usize = 20;

/// Percentage that each column of a bar stands for.
const STEP: f64 = 5.0;

/// Maximum width of the name of a job, in columns.
const NAME_MAX: usize = 32;

/// Rows and columns of a terminal.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
}

/// The view of some jobs at one moment.
pub struct Frame<'a> {
    /// The rates of the jobs.
    pub rates: &'a Rates,
    /// Time without progress after which a live job counts as stalled.
    pub stalled_after: Duration,
    /// The time of the frame.
    pub now: SystemTime,
}

impl Frame<'_> {
    /// Returns one line per job, up to the number of rows. Jobs that need attention come first. If some jobs do not
    /// fit, the last line shows their number.
    pub fn lines<'j>(&self, jobs: impl Iterator<Item = &'j Job>, size: Size) -> Vec<String> {
        let mut jobs: Vec<_> = jobs.collect();
        jobs.sort_by_cached_key(|job| (self.rank(job), Reverse(job.start_time.map(|time| time.seconds)), &job.id));
        let shown = if jobs.len() > size.rows { size.rows.saturating_sub(1) } else { jobs.len() };
        let names: Vec<_> = jobs[..shown].iter().map(|job| name(job)).collect();
        let width = names.iter().map(|name| measure_text_width(name)).max().unwrap_or_default();
        let rows =
            names.iter().zip(&jobs).map(|(name, job)| self.row(job, &pad_str(name, width, Alignment::Left, None)));
        let mut lines: Vec<_> = rows.map(|row| truncate_str(&row, size.columns, "…").into_owned()).collect();
        if shown < jobs.len() {
            lines.push(styled(DIM, &format!("and {} more", jobs.len() - shown)));
        }
        lines
    }

    /// Returns the number of lost jobs and the number of stalled jobs.
    pub fn attention<'j>(&self, jobs: impl Iterator<Item = &'j Job>) -> (usize, usize) {
        jobs.map(|job| self.rank(job)).fold((0, 0), |(lost, stalled), rank| match rank {
            Rank::Lost => (lost + 1, stalled),
            Rank::Stalled => (lost, stalled + 1),
            _ => (lost, stalled),
        })
    }

    fn row(&self, job: &Job, name: &str) -> String {
        let rank = self.rank(job);
        let mut row = format!("{name}  {}  {:>6}", bar(job), percent(job));
        let passed = elapsed(job, self.now).map(clock).unwrap_or_default();
        let parts = [units(job), self.rates.text(job), passed, stage(job)];
        for part in parts.iter().filter(|part| !part.is_empty()) {
            _ = write!(row, "  {part}");
        }
        if job.state() != State::Running {
            _ = write!(row, "  {}", styled(style(job), job.state_name()));
        }
        for note in notes(job).into_iter().chain((rank == Rank::Stalled).then_some("STALLED")) {
            _ = write!(row, "  {}", styled(WARNING, note));
        }
        let message = job.progress.as_ref().and_then(|progress| progress.message.as_deref()).unwrap_or_default();
        if !message.is_empty() {
            _ = write!(row, "  {}", styled(DIM, &escape(message.trim())));
        }
        row
    }

    fn rank(&self, job: &Job) -> Rank {
        let progress = job.progress_time.as_ref().or(job.start_time.as_ref());
        let is_stalled = || between(progress, self.now).is_some_and(|passed| passed >= self.stalled_after);
        match job.state() {
            _ if job.liveness() == Liveness::Lost => Rank::Lost,
            State::Running if is_stalled() => Rank::Stalled,
            State::Running => Rank::Running,
            _ => Rank::Waiting,
        }
    }
}

/// Position of a job in the view: jobs that need attention come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Lost,
    Stalled,
    Running,
    Waiting,
}

/// Returns the id and the title.
fn name(job: &Job) -> String {
    let name = if job.title.is_empty() { job.id.clone() } else { format!("{} {}", job.id, job.title) };
    truncate_str(&escape(&name), NAME_MAX, "…").into_owned()
}

/// Returns the bar of a job.
fn bar(job: &Job) -> String {
    let Some(percent) = job.percent() else { return styled(DIM, &"·".repeat(BAR)) };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to the width")]
    let done = (percent.clamp(0.0, 100.0) / STEP) as usize;
    format!("{}{}", styled(style(job), &"━".repeat(done)), styled(DIM, &"─".repeat(BAR - done)))
}

#[cfg(test)]
mod tests {
    use jobtrack_client::proto::v1::Progress;

    use super::*;

    fn job(id: &str, state: State, percent: f64) -> Job {
        let mut job = Job { id: id.to_owned(), ..Job::default() };
        job.set_state(state);
        job.progress = Some(Progress { percent: Some(percent), ..Progress::default() });
        job.start_time = Some(SystemTime::UNIX_EPOCH.into());
        job
    }

    fn lines(jobs: &[Job], rows: usize) -> Vec<String> {
        let (rates, now) = (Rates::default(), SystemTime::UNIX_EPOCH + Duration::from_secs(61));
        let frame = Frame { rates: &rates, stalled_after: Duration::from_secs(60), now };
        let lines = frame.lines(jobs.iter(), Size { rows, columns: 70 });
        lines.iter().map(|line| console::strip_ansi_codes(line).into_owned()).collect()
    }

    #[test]
    fn jobs_that_need_attention_come_first() {
        let mut jobs = [job("b", State::Running, 50.0), job("a", State::Pending, 0.0), job("c", State::Running, 1.0)];
        jobs[0].progress_time = Some((SystemTime::UNIX_EPOCH + Duration::from_secs(30)).into());
        let shown = lines(&jobs, 9);
        assert!(shown[0].starts_with("c  ─") && shown[0].contains("STALLED"), "{shown:?}");
        assert_eq!(shown[1], "b  ━━━━━━━━━━──────────   50.0%  1:01");
        assert!(shown[2].contains("PENDING"), "{shown:?}");
        jobs[1].set_liveness(Liveness::Lost);
        assert!(lines(&jobs, 9)[0].contains("LOST"));
    }

    #[test]
    fn lines_fit_the_terminal() {
        let mut jobs: Vec<_> = (0..1000).map(|number| job(&format!("job-{number}"), State::Running, 5.0)).collect();
        jobs[999].title = "日本".repeat(100);
        for job in &mut jobs {
            job.progress.as_mut().expect("it is there").message = Some("x\u{1b}[2J".repeat(100));
        }
        let shown = lines(&jobs, 24);
        assert_eq!((shown.len(), shown[23].as_str()), (24, "and 977 more"));
        assert!(shown.iter().all(|line| measure_text_width(line) <= 70 && !line.contains('\u{1b}')), "{shown:?}");
    }
}
