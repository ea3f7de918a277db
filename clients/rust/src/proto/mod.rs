//! Messages and clients as they are on the wire, for calls that [`Tracker`](crate::Tracker) has no method for.

mod document;

pub use document::EncodedStruct;

/// `jobtrack.v1`: the services of jobtrack.
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic)]
pub mod v1 {
    include!("v1.rs");
}
