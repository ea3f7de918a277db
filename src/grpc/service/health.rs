//! The standard health service. Check and Watch are tonic's; List, unknown services and the limit of watches are added
//! here.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, HealthCheckResponse, health_check_response, health_server::Health as CheckAndWatch},
    server::{HealthReporter, HealthService},
};

use super::response::{Events, until};
use crate::{
    domain::JobError,
    grpc::{exchange::Exchange, middleware::ending::Ending},
    proto::health::{HealthListRequest, HealthListResponse, health_server::Health},
    quota::Quotas,
};

/// Serves `grpc.health.v1.Health` for a fixed set of services.
pub struct ServiceHealth {
    service: HealthService,
    names: Vec<&'static str>,
    quotas: Arc<Quotas>,
    drain: CancellationToken,
}

impl ServiceHealth {
    /// Serves the statuses of `names`, which are set through `reporter`, to as many watchers as `quotas` allow.
    pub fn new(
        reporter: HealthReporter,
        names: Vec<&'static str>,
        quotas: Arc<Quotas>,
        drain: CancellationToken,
    ) -> Self {
        Self { service: HealthService::from_health_reporter(reporter), names, quotas, drain }
    }
}

/// Sets the status of the services `names`.
pub async fn report(reporter: &HealthReporter, names: &[&'static str], status: ServingStatus) {
    for name in names {
        reporter.set_service_status(name, status).await;
    }
}

#[tonic::async_trait]
impl Health for ServiceHealth {
    type WatchStream = Events<HealthCheckResponse>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        self.service.check(request).await
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let mut list = HealthListResponse::default();
        for name in &self.names {
            let service = (*name).to_owned();
            let status = self.service.check(Request::new(HealthCheckRequest { service: service.clone() })).await?;
            list.statuses.insert(service, status.into_inner());
        }
        Ok(Response::new(list))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let connection = Exchange::of_connection(|connection| connection.usage.clone()).unwrap_or_default();
        let permit = self.quotas.health_watch(&connection).map_err(JobError::Exhausted)?;
        let ending = Ending::of(request.extensions(), &self.drain);
        let known = self.names.contains(&request.get_ref().service.as_str());
        let statuses = if known {
            self.service.watch(request).await?.into_inner().boxed()
        } else {
            let status = health_check_response::ServingStatus::ServiceUnknown.into();
            stream::iter([Ok(HealthCheckResponse { status })]).chain(stream::pending()).boxed()
        };
        let statuses = statuses.inspect(move |_| _ = &permit);
        Ok(Response::new(until(statuses, ending)))
    }
}
