//! Workers that keep reporting under a lease, and clients that try to take ids.

use std::time::Duration;

use tokio::time::sleep;
use tonic::Code;

use super::scenes::Scene;
use crate::robustness::history::{Act, Answer, Terms};

/// Length of a lease that is kept. Some faults last longer.
const LEASE: Duration = Duration::from_millis(1500);

/// Minimum time between two reports.
const REPORT_INTERVAL: Duration = Duration::from_millis(150);

/// Maximum number of attempts to take an id that is taken.
const ATTEMPTS: usize = 30;

impl Scene {
    /// Reports within each lease until it is told to stop, and completes the job then.
    pub async fn keep(mut self) {
        let replicas = self.client.channels.len();
        let pinned = self.dice.one_in(2).then(|| self.dice.roll(replicas));
        let lease = i64::try_from(LEASE.as_millis()).expect("a few seconds");
        let (owner, request) = (self.owner.clone(), "r".to_owned());
        let create = Act::Create(Terms { owner, request, lease, fail_when_lost: true, retention: 0 });
        let first = pinned.unwrap_or_default();
        if self.retry(first, create).await.is_none() {
            return;
        }
        for sequence in 1.. {
            let on = pinned.unwrap_or_else(|| self.dice.roll(replicas));
            if self.stop.is_cancelled() {
                self.retry(on, Act::Complete { attempt: 1 }).await;
                break;
            }
            match self.client.call(on, &self.job, Act::Report { sequence, attempt: 1 }).await {
                Answer::Refused { code: Code::FailedPrecondition | Code::NotFound, .. } => break,
                _ => sleep(self.dice.pause(REPORT_INTERVAL)).await,
            }
        }
        self.read(&mut self.dice.clone()).await;
    }

    /// Creates a job of another owner under the same id, if that is accepted; deletes and creates it again.
    pub async fn take(&mut self, replica: usize) {
        let thief = self.client.thief();
        for attempt in 0..ATTEMPTS {
            if self.stop.is_cancelled() {
                return;
            }
            let (owner, request) = (thief.limited_to.clone(), format!("t{attempt}"));
            let create = Act::Create(Terms { owner, request, ..Terms::default() });
            let answer = thief.call(replica, &self.job, create).await;
            if matches!(answer, Answer::Job { applied: true, .. }) {
                if self.dice.one_in(2) {
                    return;
                }
                thief.call(replica, &self.job, Act::Delete).await;
            }
            self.pause(2).await;
        }
    }
}
