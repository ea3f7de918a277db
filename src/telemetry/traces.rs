//! Traces: a span for each call and for each command to the store, sent to an OTLP receiver if one is configured.
//!
//! Without a receiver no span is exported. If a caller names its trace, the log lines of the call contain the trace id.

use std::{
    env,
    fmt::Debug,
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use http::{HeaderMap, HeaderName};
pub use opentelemetry::Context;
use opentelemetry::{
    propagation::{Extractor, TextMapPropagator},
    trace::{Status, TraceContextExt, TracerProvider},
};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    propagation::TraceContextPropagator,
    trace::{SdkTracerProvider, SpanData, SpanExporter as Export},
};
use tracing::{Span, Subscriber, warn};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, filter, registry::LookupSpan};

/// The variables that contain the address of the receiver.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Maximum time to send the last spans at the end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Minimum interval between warnings about an unavailable receiver.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// The header in which a caller names its trace.
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Sends spans to the receiver. Dropping it sends the remaining ones.
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Creates traces to the receiver that the environment names; `None` if it names none. Must be called within the
    /// runtime.
    pub fn from_env() -> Result<Option<Self>> {
        let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_disabled = env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
        if is_disabled || !ENDPOINTS.into_iter().any(is_set) {
            return Ok(None);
        }
        // The error is dropped, because it may contain the address, which may contain a secret.
        let exporter = SpanExporter::builder().with_tonic().build().ok();
        let exporter = exporter.with_context(|| {
            format!(
                "{} is not usable: write http://HOST:PORT, and check the other OTEL_EXPORTER_OTLP variables",
                ENDPOINTS[1]
            )
        })?;
        let mut resource = Resource::builder();
        if !is_set("OTEL_SERVICE_NAME") {
            resource = resource.with_service_name(env!("CARGO_PKG_NAME"));
        }
        let resource =
            resource.with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let exporter = RateLimitedWarnings { exporter, warned: Mutex::default() };
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build();
        Ok(Some(Self(provider)))
    }

    /// Returns a layer that records the spans of this crate.
    pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> + use<S> {
        let tracer = self.0.tracer(env!("CARGO_PKG_NAME"));
        let ours = filter::filter_fn(|it| it.is_span() && it.target().starts_with(env!("CARGO_PKG_NAME")));
        let layer = tracing_opentelemetry::layer().with_tracer(tracer).with_location(false).with_threads(false);
        layer.with_target(false).with_tracked_inactivity(false).with_filter(ours)
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        // An unavailable receiver has been logged.
        _ = self.0.shutdown_with_timeout(SHUTDOWN_TIMEOUT);
    }
}

/// An exporter that logs failures at intervals, rather than each time.
#[derive(Debug)]
struct RateLimitedWarnings {
    exporter: SpanExporter,
    warned: Mutex<Option<Instant>>,
}

impl Export for RateLimitedWarnings {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let outcome = self.exporter.export(batch).await;
        if outcome.is_err() {
            let mut warned = self.warned.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if warned.is_none_or(|time| time.elapsed() > WARNING_INTERVAL) {
                *warned = Some(Instant::now());
                warn!("the OTLP receiver is unavailable: spans are lost until it is available again");
            }
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Returns the trace context in the `headers` of a call, if there is a valid one.
pub fn caller_context(headers: &HeaderMap) -> Option<Context> {
    headers.get(&TRACEPARENT)?;
    let context = TraceContextPropagator::new().extract(&Headers(headers));
    context.span().span_context().is_valid().then_some(context)
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

/// Sets the name and attributes of the `span` of a call of `service` and `method`, makes it a part of the caller's
/// trace if there is one, and records the id of the trace in its field `trace_id`.
pub fn begin_call(span: &Span, caller: Option<Context>, service: &str, method: &str) {
    let caller = caller.unwrap_or_default();
    // Without a receiver no layer records the span. The log lines then show the id of the caller's trace.
    let is_recorded = span.set_parent(caller.clone()).is_ok();
    if is_recorded {
        span.record("otel.kind", "server");
        span.set_attribute("rpc.system", "grpc");
        span.set_attribute("rpc.service", service.to_owned());
        span.set_attribute("rpc.method", method.to_owned());
    }
    let context = if is_recorded { span.context() } else { caller };
    let current = context.span();
    current.update_name(format!("{service}/{method}"));
    if current.span_context().is_valid() {
        span.record("trace_id", tracing::field::display(current.span_context().trace_id()));
    }
}

/// Records the status of a call.
pub fn end_call(span: &Span, code: tonic::Code) {
    use tonic::Code::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    span.set_attribute("rpc.grpc.status_code", code as i64);
    // The statuses that are errors of the server, as OpenTelemetry defines them.
    if matches!(code, Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss) {
        span.set_status(Status::error(code.description()));
    }
}
