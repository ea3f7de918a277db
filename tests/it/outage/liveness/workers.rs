//! Workers that report on their jobs continuously.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jobtrack::proto::v1::{Progress, UpdateProgressRequest};
use tokio::{task::JoinHandle, time::sleep};
use tonic::{Code, Status};

use super::{Client, LEASE};
use crate::support::replicas::in_time;

/// Time between two reports on a job.
pub const REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// Interval between checks of the workers' progress.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The outcome of the reports on one job.
#[derive(Clone, Debug, Default)]
pub struct Worked {
    pub id: String,
    /// Number of the last acknowledged report, which is its `progress.completed`.
    pub reports: i64,
    /// Revision made by the last acknowledged report.
    pub revision: i64,
    pub refused: Vec<Status>,
}

impl Worked {
    /// Returns whether a report was rejected for good.
    fn is_over(&self) -> bool {
        self.refused.iter().any(|status| status.code() != Code::Unavailable)
    }
}

/// One worker for each of some jobs; all report at one replica, until they are dropped.
pub struct Workers(Vec<(Arc<Mutex<Worked>>, JoinHandle<()>)>);

impl Workers {
    /// Begins to report on these jobs. Returns when a report on each was acknowledged.
    pub async fn start(client: &Client, ids: &[String]) -> Self {
        let work = |id: &String| {
            let worked = Arc::new(Mutex::new(Worked { id: id.clone(), ..Worked::default() }));
            (worked.clone(), tokio::spawn(work(client.clone(), worked)))
        };
        let workers = Self(ids.iter().map(work).collect());
        workers.go_on().await;
        workers
    }

    /// Waits until another report on each job was acknowledged. Fails if a job can't be reported on any more.
    pub async fn go_on(&self) {
        let before = self.worked();
        let went_on = async {
            loop {
                let now = self.worked();
                let over: Vec<_> = now.iter().filter(|worked| worked.is_over()).collect();
                assert!(over.is_empty(), "{} of {} jobs are over for their workers: {over:?}", over.len(), now.len());
                if before.iter().zip(&now).all(|(before, now)| now.reports > before.reports) {
                    return;
                }
                sleep(POLL_INTERVAL).await;
            }
        };
        in_time("an acknowledged report on each job", went_on).await;
    }

    /// Returns the outcome of the reports so far.
    pub fn worked(&self) -> Vec<Worked> {
        let worked = self.0.iter().map(|(worked, _)| worked.lock().unwrap_or_else(PoisonError::into_inner).clone());
        worked.collect()
    }

    /// Fails unless every report was accepted.
    pub fn assert_none_refused(&self) {
        let worked = self.worked();
        let refused: Vec<_> = worked.iter().filter(|worked| !worked.refused.is_empty()).collect();
        assert!(refused.is_empty(), "reports on {} of {} jobs were refused: {refused:?}", refused.len(), worked.len());
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.0.iter().for_each(|(_, task)| task.abort());
    }
}

/// Reports on a job repeatedly, whatever the outcome.
async fn work(mut client: Client, worked: Arc<Mutex<Worked>>) {
    let with = |note: &dyn Fn(&mut Worked)| note(&mut worked.lock().unwrap_or_else(PoisonError::into_inner));
    let id = worked.lock().unwrap_or_else(PoisonError::into_inner).id.clone();
    let mut number = 0;
    loop {
        number += 1;
        let progress = Some(Progress { completed: Some(number), ..Progress::default() });
        let request = UpdateProgressRequest { job_id: id.clone(), progress, ..UpdateProgressRequest::default() };
        match client.update_progress(request).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                let revision = answer.job.as_ref().map_or(0, |job| job.revision);
                if answer.applied {
                    with(&|worked| (worked.reports, worked.revision) = (number, revision));
                } else {
                    with(&|worked| worked.refused.push(Status::already_exists("it was ignored")));
                }
            }
            Err(status) => with(&|worked| worked.refused.push(status.clone())),
        }
        sleep(REPORT_INTERVAL).await;
    }
}

// Several reports fit into a lease, so that a busy machine does not make it expire.
const _: () = assert!(REPORT_INTERVAL.as_millis() * 5 < LEASE.as_millis());
