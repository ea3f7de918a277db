//! The client libraries against real servers.

mod rust;
