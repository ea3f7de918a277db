//! Sizes of messages, in bytes.

/// Largest request that `JobService` and `AdminService` accept. A result may have half of this size.
pub const REQUEST_MAX: usize = 2 * 1024 * 1024;

/// Largest request to reflection, whose requests contain only names.
pub const NAME_REQUEST_MAX: usize = 16 * 1024;

/// Largest request to health, which has the name of a service. It is small because health needs no credentials:
/// unauthenticated callers could otherwise use up the memory that all requests share.
pub const HEALTH_REQUEST_MAX: usize = 1000;

/// Largest response.
pub const RESPONSE_MAX: usize = 4 * 1024 * 1024;

/// Minimum size of a heavy message: to decode or encode one takes so long that it delays other calls.
pub const HEAVY_MIN: usize = 64 * 1024;

/// Returns the size of the largest request that the method at `path` accepts.
pub fn request_max(path: &str) -> usize {
    if path.starts_with("/jobtrack.") {
        REQUEST_MAX
    } else if path.starts_with("/grpc.health.") {
        HEALTH_REQUEST_MAX
    } else {
        NAME_REQUEST_MAX
    }
}
