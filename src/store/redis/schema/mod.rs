//! The format of the data in Redis: the names of keys, and what a record and a notification look like.

pub mod codec;
pub mod keys;
mod legacy;
mod record;
