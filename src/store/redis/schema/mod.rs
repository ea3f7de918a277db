//! The format of the data in Redis: keys, records and notifications.

pub mod codec;
pub mod keys;
mod legacy;
mod record;
