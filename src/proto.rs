//! The generated messages, clients and servers of `proto/`. Nothing else is written here.
#![allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic)]

/// `jobtrack.v1`: the product's own services.
pub mod v1 {
    tonic::include_proto!("jobtrack.v1");
}

/// `grpc.health.v1`: the standard health protocol, with List.
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// Every descriptor with its comments, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
