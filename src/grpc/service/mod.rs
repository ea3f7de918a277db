//! The services: each handler converts its request, calls the tracker and converts the answer.

pub mod admin;
pub mod health;
pub mod jobs;
mod response;
