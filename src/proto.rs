//! Generated messages, clients and servers of `proto/`, and messages that are encoded by hand.

mod codec;
mod event;

pub use codec::Codec;
pub use event::EncodedEvent;
pub use jobtrack_client::proto::{EncodedStruct, v1};

/// `grpc.health.v1`: the standard health protocol, with List.
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic)]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// The server of `jobtrack.v1.JobService`, with [`EncodedEvent`]s as events and the buffers of [`Codec`].
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic)]
pub mod served {
    include!(concat!(env!("OUT_DIR"), "/served/jobtrack.v1.rs"));
}

/// All descriptors with their comments, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
