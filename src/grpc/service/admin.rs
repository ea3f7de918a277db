//! The handlers of `AdminService`.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::response::respond;
use crate::{
    grpc::{
        convert,
        middleware::{
            audit,
            context::{CallContext, caller},
        },
    },
    proto::v1::{self, admin_service_server::AdminService},
    tracker::Tracker,
};

/// Serves `AdminService`.
pub struct Admin {
    tracker: Arc<Tracker>,
}

impl Admin {
    /// Creates the service of `tracker`.
    pub fn new(tracker: Arc<Tracker>) -> Self {
        Self { tracker }
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn get_stats(&self, request: Request<v1::GetStatsRequest>) -> Result<Response<v1::GetStatsResponse>, Status> {
        let caller = caller(&request)?;
        respond(convert::stats(&self.tracker.on_behalf_of(&caller).stats().await?))
    }

    async fn purge_jobs(
        &self,
        request: Request<v1::PurgeJobsRequest>,
    ) -> Result<Response<v1::PurgeJobsResponse>, Status> {
        let caller = caller(&request)?;
        let (time, by) = (time_for_part(&request), audit::Caller::of(request.extensions()));
        let request = request.into_inner();
        let (kind, owner) = (request.kind.clone(), request.owner.clone());
        let (purge, digest) = convert::purge(request, &caller, self.tracker.now())?;
        let purged = self.tracker.on_behalf_of(&caller).purge(&purge, time).await?;
        if !purge.dry_run {
            audit::purged(by, purged.count, &kind, &owner);
        }
        respond(convert::purged(&purged, digest))
    }
}

/// Returns the maximum duration of a part of a purge: half of the time until the deadline, because the last step, which
/// is not interrupted, may take as long again.
fn time_for_part<T>(request: &Request<T>) -> Duration {
    let deadline = CallContext::of(request.extensions()).map(|context| context.deadline.for_response(true));
    deadline.map_or(Duration::ZERO, |deadline| deadline.saturating_duration_since(Instant::now()) / 2)
}
