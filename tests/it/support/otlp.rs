//! A receiver of traces, like a collector.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::Span,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};
use tonic::{Request, Response, Status};

/// Maximum wait for a span.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// A receiver on a port of its own, which ends when dropped.
pub struct Receiver {
    pub address: SocketAddr,
    received: Received,
    serving: JoinHandle<()>,
}

#[derive(Clone, Default)]
struct Received {
    batches: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    count: Arc<watch::Sender<usize>>,
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.batches.lock().expect("no panic").push(request.into_inner());
        self.count.send_modify(|count| *count += 1);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let received = Received::default();
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(received.clone()));
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let serving = tokio::spawn(async move { server.serve_with_incoming(incoming).await.expect("it serves") });
        Self { address, received, serving }
    }

    /// Returns all requests received so far.
    pub fn batches(&self) -> Vec<ExportTraceServiceRequest> {
        self.received.batches.lock().expect("no panic").clone()
    }

    /// Returns all spans received so far.
    pub fn spans(&self) -> Vec<Span> {
        let resources = self.batches().into_iter().flat_map(|batch| batch.resource_spans);
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }

    /// Waits for a span.
    pub async fn until(&self, what: &str, is_it: impl Fn(&Span) -> bool) -> Span {
        let mut count = self.received.count.subscribe();
        let found = async {
            loop {
                count.borrow_and_update();
                if let Some(span) = self.spans().into_iter().find(&is_it) {
                    return span;
                }
                count.changed().await.expect("it goes on");
            }
        };
        timeout(WAIT_TIMEOUT, found).await.unwrap_or_else(|_| panic!("no span of {what} in {:?}", self.spans()))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Returns an attribute as text.
pub fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match &found.value {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => Some(text.clone()),
        Some(AnyValue { value: Some(Value::IntValue(number)) }) => Some(number.to_string()),
        other => panic!("{key} is {other:?}"),
    }
}
