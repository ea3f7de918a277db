//! The handlers of `AdminService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{context::caller, convert, stream::respond};
use crate::{
    proto::v1::{self, admin_service_server::AdminService},
    tracker::Tracker,
};

/// Serves `AdminService`.
pub struct Admin {
    tracker: Arc<Tracker>,
}

impl Admin {
    /// Serves what `tracker` knows.
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
        let dry_run = request.get_ref().dry_run;
        let (filter, older_than) = convert::purge(request.into_inner())?;
        let ended_by = older_than.map(|age| self.tracker.now() - age);
        let purged = self.tracker.on_behalf_of(&caller).purge(filter, ended_by, dry_run).await?;
        respond(v1::PurgeJobsResponse { purged_count: convert::count(purged) })
    }
}
