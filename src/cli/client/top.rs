//! `jobtrack top`.

use std::{
    fmt::Write,
    io::{self, IsTerminal},
    pin::pin,
    time::{Duration, SystemTime},
};

use clap::Args;
use futures_util::{Stream, StreamExt, stream::unfold};
use jobtrack_client::{Tracker, proto::v1::GetStatsResponse};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};

use super::{
    board::{CLOCK_INTERVAL, FRAME_INTERVAL, Frame, Rates, Screen, Size},
    filter::Filter,
    follow::{Detail, Follow, News, Scope},
    watch::{active, unavailable},
    watched::{Change, Watched},
};
use crate::{
    cli::{
        connection::Connection,
        exit::{CommandError, Exit},
        output::{note, print},
        show::{DIM, WARNING, styled},
        text::escape,
    },
    config,
};

/// Minimum time between two versions of a job.
const INTERVAL: Duration = Duration::from_secs(1);

/// Interval at which the number of jobs by state is read.
const COUNTS_INTERVAL: Duration = Duration::from_secs(3);

/// Maximum time of one read of these numbers.
const COUNTS_TIMEOUT: Duration = Duration::from_secs(1);

/// The jobs to show.
#[derive(Args)]
#[command(after_help = "Press q to quit. Without a terminal, one view is printed and the command ends.")]
pub struct Top {
    /// Time without progress after which a job counts as stalled
    #[arg(long, default_value = "5m", value_name = "TIME", value_parser = config::duration)]
    stalled_after: Duration,

    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    connection: Connection,
}

/// The state of the view.
struct View {
    watched: Watched,
    rates: Rates,
    /// Statistics of the tracker; `None` until they were read, or if the caller may not read them.
    counts: Option<GetStatsResponse>,
    /// The message while the tracker is unavailable.
    problem: Option<String>,
    stalled_after: Duration,
}

impl Top {
    /// Shows the jobs that have not ended, until the user quits.
    pub async fn run(self) -> Result<Exit, CommandError> {
        let scope = Scope::Filter(active(self.filter.clone().into()).into());
        let detail = Detail { interval: INTERVAL, documents: false };
        let mut follow = Follow::new(&self.connection, &scope, detail)?;
        let mut view = View::new(&scope, self.stalled_after);
        let tracker = self.connection.tracker()?;
        // Until all jobs are known, the alternate screen is not open: problems are printed as lines.
        while !view.apply(follow.next().await?) {
            if let Some(problem) = view.problem.take() {
                note(&problem);
            }
        }
        view.counts = statistics(&tracker).await;
        if !io::stdout().is_terminal() {
            let lines = view.lines(Size { rows: usize::MAX, columns: usize::MAX });
            print(&lines.into_iter().map(|line| line + "\n").collect::<String>())?;
            return Ok(Exit::Done);
        }
        view.live(follow, &tracker).await
    }
}

/// Returns the statistics of the tracker; `None`: the read failed or took too long.
async fn statistics(tracker: &Tracker) -> Option<GetStatsResponse> {
    timeout(COUNTS_TIMEOUT, tracker.stats()).await.ok()?.ok()
}

/// Reads the statistics of the tracker at intervals, first after one interval. Yields nothing for a read that fails or
/// takes too long.
fn repeated_statistics(tracker: &Tracker) -> impl Stream<Item = GetStatsResponse> {
    let mut ticks = interval_at(Instant::now() + COUNTS_INTERVAL, COUNTS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let reads = unfold(ticks, move |mut ticks| async move {
        ticks.tick().await;
        Some((statistics(tracker).await, ticks))
    });
    reads.filter_map(async |read| read)
}

impl View {
    fn new(scope: &Scope, stalled_after: Duration) -> Self {
        Self { watched: Watched::new(scope), rates: Rates::default(), counts: None, problem: None, stalled_after }
    }

    /// Updates the view. Returns whether all jobs are known.
    fn apply(&mut self, news: Option<News>) -> bool {
        let change = match news {
            Some(News::Event(event)) => self.watched.apply(*event),
            Some(News::Unavailable(error)) => {
                self.problem = Some(unavailable(&error));
                return false;
            }
            Some(News::Available) => {
                self.problem = None;
                return false;
            }
            None => return true,
        };
        match &change {
            Change::Active(job) => self.rates.update(job, SystemTime::now()),
            Change::Ended(job) | Change::Left(job) | Change::Removed(job, _) => self.rates.forget(&job.id),
            Change::Missing(_) | Change::Synced | Change::Nothing => {}
        }
        change == Change::Synced
    }

    /// Draws the view on the whole terminal until the user quits.
    async fn live(&mut self, mut follow: Follow, tracker: &Tracker) -> Result<Exit, CommandError> {
        let (screen, leave) = Screen::new()?;
        let mut left = pin!(leave.requested());
        // Polled beside the keys, which must have an effect while the tracker is slow.
        let mut counts = pin!(repeated_statistics(tracker));
        let mut next_frame = Instant::now();
        let mut is_changed = true;
        loop {
            let frame_at = if is_changed { next_frame } else { next_frame + CLOCK_INTERVAL - FRAME_INTERVAL };
            tokio::select! {
                biased;
                () = &mut left => return Ok(Exit::Done),
                () = sleep_until(frame_at) => {
                    screen.draw(&self.lines(screen.size()))?;
                    (next_frame, is_changed) = (Instant::now() + FRAME_INTERVAL, false);
                }
                Some(read) = counts.next() => {
                    self.counts = Some(read);
                    is_changed = true;
                }
                news = follow.next() => {
                    self.apply(news?);
                    is_changed = true;
                }
            }
        }
    }

    fn lines(&self, size: Size) -> Vec<String> {
        let now = SystemTime::now();
        let frame = Frame { rates: &self.rates, stalled_after: self.stalled_after, now };
        let (lost, stalled) = frame.attention(self.watched.active());
        let mut lines = vec![self.counts(), String::new()];
        if lost + stalled > 0 {
            lines[1] = styled(WARNING, &format!("{lost} lost, {stalled} stalled"));
        }
        if let Some(problem) = &self.problem {
            lines[1] = styled(WARNING, problem);
        }
        let rows = size.rows.saturating_sub(lines.len());
        let jobs = frame.lines(self.watched.active(), Size { rows, ..size });
        lines.extend(jobs);
        lines.iter().map(|line| console::truncate_str(line, size.columns, "…").into_owned()).collect()
    }

    /// Returns the heading: the version, the number of jobs by state and the storage, if the statistics are known.
    fn counts(&self) -> String {
        let Some(found) = &self.counts else { return format!("{} jobs", self.watched.active().count()) };
        let mut line = format!("jobtrack {}", escape(&found.version));
        for count in &found.state_counts {
            let state = count.state().as_str_name().trim_start_matches("STATE_");
            _ = write!(line, "  {state} {}", count.count);
        }
        let storage = found.storage_mode().as_str_name().trim_start_matches("STORAGE_MODE_");
        line + &styled(DIM, &format!("  {storage}  {} watches", found.watchers))
    }
}
