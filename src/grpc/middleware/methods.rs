//! The methods that are served, as the descriptors list them: the role that each needs, and the counters of its calls.
//!
//! All counters are created at the start, so that counting a call needs no lookup but that of its method.

use std::{array::from_fn, sync::Arc, time::Duration};

use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Code;

use super::authorization::{Rule, rule};
use crate::{
    grpc::message_size::request_max,
    proto::DESCRIPTORS,
    telemetry::metrics::{Counter, CounterVec, Histogram, HistogramVec, Measured, Metrics, counters, histograms},
};

/// The codes by their numbers, as other gRPC servers name them.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Upper bounds of the duration of calls, in seconds.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

const LABELS: [&str; 3] = ["grpc_type", "grpc_service", "grpc_method"];

/// A method.
pub struct Method {
    /// Path of its requests: `/jobtrack.v1.JobService/GetJob`.
    path: String,
    /// The method has one answer, which is complete when its headers are sent.
    pub is_unary: bool,
    /// The caller sends several requests on one stream, and each of them is answered.
    pub is_bidirectional: bool,
    /// Callers that may call it; `None`: it is not served.
    pub rule: Option<Rule>,
    numbers: Option<Numbers>,
}

/// Counters of a method's calls.
struct Numbers {
    started: Counter,
    handled: [Counter; CODES.len()],
    received: Counter,
    sent: Counter,
    seconds: Histogram,
}

impl Method {
    /// Returns the name of the method with that of its service: `jobtrack.v1.JobService/GetJob`.
    pub fn full_name(&self) -> &str {
        &self.path[1..]
    }

    /// Returns the size of the largest message that it takes.
    pub fn request_max(&self) -> usize {
        request_max(&self.path)
    }

    /// Returns the name of the service, and the name of the method.
    pub fn names(&self) -> (&str, &str) {
        self.full_name().split_once('/').unwrap_or_default()
    }

    /// Counts a call and its request.
    pub fn started(&self) {
        if let Some(numbers) = &self.numbers {
            numbers.started.inc();
            numbers.received.inc();
        }
    }

    /// Counts messages that were sent to the caller.
    pub fn sent(&self, messages: u64) {
        if let Some(numbers) = &self.numbers {
            numbers.sent.inc_by(messages);
        }
    }

    /// Counts a call that has ended, and its duration.
    pub fn handled(&self, code: Code, time: Duration) {
        if let Some(numbers) = &self.numbers {
            numbers.handled[code as usize].inc();
            numbers.seconds.observe(time.as_secs_f64());
        }
    }
}

/// All methods.
pub struct Methods {
    /// The methods that are served, sorted by path.
    known: Vec<Arc<Method>>,
    /// Stands for all methods that are not served.
    unknown: Arc<Method>,
    families: Option<Families>,
}

/// The metrics of all methods.
struct Families {
    started: CounterVec,
    handled: CounterVec,
    received: CounterVec,
    sent: CounterVec,
    seconds: HistogramVec,
}

impl Methods {
    /// Creates the methods that are served. Calls are counted if `measured`.
    pub fn new(measured: bool) -> Self {
        let families = measured.then(Families::new);
        let method = |kind: &str, service: &str, name: &str| {
            let numbers = families.as_ref().map(|families| families.of([kind, service, name]));
            Arc::new(Method {
                path: format!("/{service}/{name}"),
                is_unary: kind == "unary",
                is_bidirectional: kind == "bidi_stream",
                rule: rule(service, name),
                numbers,
            })
        };
        let mut known = Vec::new();
        let sets = [
            DESCRIPTORS,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        for set in sets {
            let set = FileDescriptorSet::decode(set).expect("the descriptors were compiled with this binary");
            for file in &set.file {
                for service in &file.service {
                    let full_name = format!("{}.{}", file.package(), service.name());
                    known.extend(service.method.iter().map(|it| {
                        let kind = kind(it.client_streaming(), it.server_streaming());
                        method(kind, &full_name, it.name())
                    }));
                }
            }
        }
        known.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        known.dedup_by(|a, b| a.path == b.path);
        let unknown = method("unary", "unknown", "unknown");
        Self { known, unknown, families }
    }

    /// Returns the paths of the methods of a service.
    pub fn paths_of(&self, service: &str) -> impl Iterator<Item = &str> {
        let of_service = move |method: &&Arc<Method>| method.names().0 == service;
        self.known.iter().filter(of_service).map(|method| method.path.as_str())
    }

    /// Returns the method that is called at `path`.
    pub fn find(&self, path: &str) -> &Arc<Method> {
        let found = self.known.binary_search_by(|method| method.path.as_str().cmp(path));
        found.map_or(&self.unknown, |at| &self.known[at])
    }
}

fn kind(client_streams: bool, server_streams: bool) -> &'static str {
    match (client_streams, server_streams) {
        (false, false) => "unary",
        (false, true) => "server_stream",
        (true, false) => "client_stream",
        (true, true) => "bidi_stream",
    }
}

impl Families {
    fn new() -> Self {
        let [kind, service, method] = LABELS;
        Self {
            started: counters("grpc_server_started_total", "Calls received.", &LABELS),
            handled: counters(
                "grpc_server_handled_total",
                "Calls that have ended, by status; Canceled: the caller did not wait for the end.",
                &[kind, service, method, "grpc_code"],
            ),
            received: counters("grpc_server_msg_received_total", "Requests received; one for each call.", &LABELS),
            sent: counters("grpc_server_msg_sent_total", "Messages sent; each event of a stream is one.", &LABELS),
            seconds: histograms(
                "grpc_server_handling_seconds",
                "Time from a call's arrival to its end; a stream ends when nothing more is sent.",
                &SECONDS,
                &LABELS,
            ),
        }
    }

    fn of(&self, labels: [&str; 3]) -> Numbers {
        let [kind, service, method] = labels;
        Numbers {
            started: self.started.with_label_values(&labels),
            handled: from_fn(|code| self.handled.with_label_values(&[kind, service, method, CODES[code]])),
            received: self.received.with_label_values(&labels),
            sent: self.sent.with_label_values(&labels),
            seconds: self.seconds.with_label_values(&labels),
        }
    }
}

impl Measured for Methods {
    fn metrics(&self) -> Metrics {
        let Some(Families { started, handled, received, sent, seconds }) = &self.families else { return Vec::new() };
        let counters = [started, handled, received, sent].map(|family| Box::new(family.clone()) as Box<_>);
        let mut metrics: Metrics = counters.into();
        metrics.push(Box::new(seconds.clone()));
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_that_is_served_has_a_rule_and_nothing_else_is_served() {
        let methods = Methods::new(false);
        assert!(methods.known.len() > 15, "the methods were not found");
        for method in &methods.known {
            assert!(method.rule.is_some(), "{} has no rule", method.path);
        }
        for path in
            ["", "/", "/jobtrack.v1.JobService", "/jobtrack.v1.JobService/getjob", "//GetJob", "/unknown/unknown"]
        {
            assert_eq!(methods.find(path).rule, None, "{path}");
        }
    }
}
