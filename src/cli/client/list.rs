//! `jobtrack ls`.

use std::{num::NonZeroUsize, time::SystemTime};

use clap::{Args, ValueEnum};
use jobtrack_client::{
    Job, Tracker,
    proto::v1::{ListJobsRequest, ListJobsResponse, Order},
};

use super::{filter::Filter, values::view};
use crate::cli::{
    connection::Connection,
    exit::{CommandError, Exit},
    output::{Format, Json, Output, note, print},
    show::table,
    text::escape,
};

/// Maximum number of jobs in a page.
const PAGE_MAX: usize = 1000;

/// The jobs to list.
#[derive(Args)]
pub struct List {
    /// Maximum number of jobs
    #[arg(long, short = 'n', default_value = "50", value_name = "COUNT", conflicts_with = "all")]
    limit: NonZeroUsize,

    /// List all jobs that match
    #[arg(long, short)]
    all: bool,

    /// Order by the time of creation: the newest or the oldest first
    #[arg(long, value_enum, default_value = "newest")]
    order: By,

    /// Include documents: metadata, results and details; only JSON output shows documents
    #[arg(long)]
    full: bool,

    /// Print only the ids
    #[arg(long, short)]
    quiet: bool,

    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    connection: Connection,
}

/// The order of a list.
#[derive(Clone, Copy, ValueEnum)]
enum By {
    Newest,
    Oldest,
}

/// The jobs that were listed so far.
struct Listed {
    jobs: Vec<Job>,
    count: usize,
    is_partial: bool,
}

impl List {
    /// Lists the jobs, a page at a time.
    pub async fn run(self) -> Result<Exit, CommandError> {
        let tracker = self.connection.tracker()?;
        let limit = if self.all { usize::MAX } else { self.limit.get() };
        let format = self.output.format;
        let mut request = ListJobsRequest { filter: self.filter.given(), ..Default::default() };
        request.set_view(view(self.full));
        request.set_order(match self.order {
            By::Newest => Order::Newest,
            By::Oldest => Order::Oldest,
        });
        let mut listed = Listed { jobs: Vec::new(), count: 0, is_partial: false };
        let json = (format == Format::Jsonl).then(|| Json::of("Job", format));
        loop {
            let found = page(&tracker, &mut request, limit - listed.count, &mut listed).await?;
            // Ids and JSON lines are printed page by page; a table needs all jobs for the widths of its columns.
            if self.quiet {
                print(&found.iter().map(|job| escape(&job.id).into_owned() + "\n").collect::<String>())?;
            } else if let Some(json) = &json {
                print(&found.iter().map(|job| json.write(job)).collect::<String>())?;
            } else {
                listed.jobs.extend(found);
            }
            if request.page_token.is_empty() || listed.count >= limit {
                break;
            }
        }
        if !self.quiet && json.is_none() {
            print_all(format, &listed, &request.page_token)?;
        }
        if listed.is_partial {
            note("jobs may be missing or outdated: Redis is unavailable");
        }
        let tells_of_more = format == Format::Json && !self.quiet;
        if !request.page_token.is_empty() && !tells_of_more {
            note("there are more jobs: --all lists all of them, --limit sets the maximum number");
        }
        Ok(Exit::Done)
    }
}

/// Returns the next page, and puts the token of the one after it into the request.
async fn page(
    tracker: &Tracker,
    request: &mut ListJobsRequest,
    limit: usize,
    listed: &mut Listed,
) -> Result<Vec<Job>, CommandError> {
    request.page_size = i32::try_from(limit.min(PAGE_MAX)).unwrap_or(i32::MAX);
    let page = tracker.list(request.clone()).await?;
    request.page_token = page.next_page_token;
    listed.count += page.jobs.len();
    listed.is_partial |= page.partial;
    Ok(page.jobs)
}

/// Prints all jobs at once.
fn print_all(format: Format, listed: &Listed, next: &str) -> Result<(), CommandError> {
    if format == Format::Json {
        let all = ListJobsResponse {
            jobs: listed.jobs.clone(),
            next_page_token: next.to_owned(),
            total_size: None,
            partial: listed.is_partial,
        };
        return print(&Json::of("ListJobsResponse", format).write(&all));
    }
    print(&table(&listed.jobs, format == Format::Wide, SystemTime::now()))
}
