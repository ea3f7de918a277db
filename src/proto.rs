//! The generated messages, clients and servers of `proto/`, and the messages that are written by hand.

mod codec;
mod document;
mod event;

pub use codec::Codec;
pub use document::EncodedStruct;
pub use event::EncodedEvent;

/// `jobtrack.v1`: the product's own services.
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("jobtrack.v1");
}

/// `grpc.health.v1`: the standard health protocol, with List.
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic)]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// The server of `jobtrack.v1.JobService`, where events are [`EncodedEvent`]s and buffers those of [`Codec`].
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic)]
pub mod served {
    include!(concat!(env!("OUT_DIR"), "/served/jobtrack.v1.rs"));
}

/// Every descriptor with its comments, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
