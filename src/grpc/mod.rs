//! The gRPC server: its services, and the layers that each call passes.

mod body_buffer;
mod convert;
mod exchange;
mod expiry;
mod message_size;
mod middleware;
mod service;
mod status;
mod transport;
mod unauthenticated;

use std::{convert::Infallible, sync::Arc};

use axum::{Router, middleware::from_fn};
use http::{Request, Response};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    codec::CompressionEncoding::{Gzip, Zstd},
    server::NamedService,
    service::Routes,
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tonic_reflection::server::Builder as Reflection;
use tonic_web::GrpcWebLayer;
use tower::{Layer, Service, ServiceExt};

pub use self::{
    body_buffer::BodyBuffer,
    exchange::Exchange,
    message_size::{HEAVY_MIN, REQUEST_MAX},
    middleware::takes_watch_tokens,
    transport::{RequestService, serve},
};

use self::{
    message_size::{HEALTH_REQUEST_MAX, NAME_REQUEST_MAX, RESPONSE_MAX},
    middleware::{CallMiddleware, Stack, auth_failures::AuthFailures, methods::Methods, whole_messages::WholeMessages},
    service::{admin::Admin, health, jobs::Jobs},
};
use crate::{
    auth::Authenticator,
    proto::{
        DESCRIPTORS, health::health_server::HealthServer, served::job_service_server::JobServiceServer,
        v1::admin_service_server::AdminServiceServer,
    },
    store::StorageMode,
    telemetry::metrics::{Measured, Metrics},
    tracker::Tracker,
};

/// Names whose status in the health service is that of the server: the server as a whole, and the job service.
const SERVICES: [&str; 2] = ["", <JobServiceServer<Jobs> as NamedService>::NAME];

/// Name under which the health service reports the state of Redis, if Redis is configured.
const REDIS: &str = "redis";

/// The services of one tracker, and the token that drains them.
pub struct GrpcServer {
    /// The service that answers the calls of all connections.
    pub service: Stack,
    reporter: HealthReporter,
    mode: watch::Receiver<StorageMode>,
    /// Status of Redis in the health service at the start; `None` if Redis is not configured.
    redis: Option<ServingStatus>,
    drain: CancellationToken,
    methods: Arc<Methods>,
}

impl GrpcServer {
    /// Creates a server of `tracker` for callers that `authenticator` identifies. Calls are counted if `measured` is
    /// true. From now on the health service reports SERVING.
    pub async fn new(tracker: Arc<Tracker>, authenticator: Authenticator, measured: bool) -> Self {
        let methods = Arc::new(Methods::new(measured));
        let drain = CancellationToken::new();
        let reporter = HealthReporter::new();
        health::report(&reporter, &SERVICES, ServingStatus::Serving).await;
        let mut mode = tracker.mode();
        let mut names = SERVICES.to_vec();
        let redis = redis_status(*mode.borrow_and_update());
        if let Some(status) = redis {
            names.push(REDIS);
            health::report(&reporter, &[REDIS], status).await;
        }
        let health = health::ServiceHealth::new(reporter.clone(), names, tracker.quotas().clone(), drain.clone());
        let service = routes(&tracker, health, authenticator, &drain, &methods);
        Self { service, reporter, mode, redis, drain, methods }
    }

    /// Sets the status of Redis in the health service whenever it changes. Returns when the store is dropped.
    pub async fn report_redis(&self) {
        let (mut mode, mut reported) = (self.mode.clone(), self.redis);
        while mode.changed().await.is_ok() {
            let status = redis_status(*mode.borrow_and_update());
            // tonic sends each report to all watches of the service, even if the status has not changed.
            if let Some(status) = status
                && reported.replace(status) != Some(status)
            {
                health::report(&self.reporter, &[REDIS], status).await;
            }
        }
    }

    /// Drains: health reports `NOT_SERVING`, then every stream ends.
    pub async fn drain(&self) {
        health::report(&self.reporter, &SERVICES, ServingStatus::NotServing).await;
        self.drain.cancel();
    }
}

impl Measured for GrpcServer {
    fn metrics(&self) -> Metrics {
        self.methods.metrics()
    }
}

/// Returns the status of Redis in the health service; `None` if Redis is not configured.
fn redis_status(mode: StorageMode) -> Option<ServingStatus> {
    match mode {
        StorageMode::Memory => None,
        StorageMode::Redis => Some(ServingStatus::Serving),
        StorageMode::Degraded => Some(ServingStatus::NotServing),
    }
}

/// Sets the limits and compression of a generated server. Each generated server has these methods, but no trait
/// declares them.
macro_rules! limited {
    ($server:expr) => {
        $server
            .max_decoding_message_size(REQUEST_MAX)
            .max_encoding_message_size(RESPONSE_MAX)
            .accept_compressed(Gzip)
            .accept_compressed(Zstd)
            .send_compressed(Gzip)
            .send_compressed(Zstd)
    };
}

fn routes(
    tracker: &Arc<Tracker>,
    health: health::ServiceHealth,
    authenticator: Authenticator,
    drain: &CancellationToken,
    methods: &Arc<Methods>,
) -> Stack {
    let jobs = limited!(JobServiceServer::new(Jobs::new(
        tracker.clone(),
        authenticator.watch_tokens().clone(),
        drain.clone()
    )));
    let admin = limited!(AdminServiceServer::new(Admin::new(tracker.clone())));

    let reflection = || {
        Reflection::configure()
            .include_reflection_service(false)
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
            // Clients need these to decode the details of errors.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let (methods, quotas, drain) = (methods.clone(), tracker.quotas().clone(), drain.clone());
    let auth_failures = AuthFailures::default();
    let valid = "the descriptors were compiled with this binary";
    let router = Routes::default().into_axum_router();
    let router = add_service(router, &methods, &jobs);
    let router = add_service(router, &methods, &admin);
    let health = HealthServer::new(health).max_decoding_message_size(HEALTH_REQUEST_MAX);
    let router = add_service(router, &methods, &health);
    let reflection_v1 = reflection().build_v1().expect(valid).max_decoding_message_size(NAME_REQUEST_MAX);
    let router = add_service(router, &methods, &reflection_v1);
    let reflection_v1alpha = reflection().build_v1alpha().expect(valid).max_decoding_message_size(NAME_REQUEST_MAX);
    let router = add_service(router, &methods, &reflection_v1alpha);
    let middleware = Arc::new(CallMiddleware { methods, authenticator, auth_failures, quotas, drain });
    let router = router.layer(from_fn(move |request, next| middleware::call(middleware.clone(), request, next)));
    GrpcWebLayer::new().layer(WholeMessages(Routes::from(router)))
}

/// Adds a route for each method of `service`. tonic's own route has a wildcard for the method; to match it costs three
/// allocations per request.
fn add_service<S>(router: Router, methods: &Methods, service: &S) -> Router
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    methods.paths_of(S::NAME).fold(router, |router, path| {
        router.route_service(path, service.clone().map_request(|request: Request<_>| request.map(Body::new)))
    })
}
