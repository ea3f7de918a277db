//! Properties of single stores. `store_contract` has those of all stores.

mod near_cache;
mod records_without_attempts;
mod redis;
