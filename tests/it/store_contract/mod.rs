//! The contract of every store. [`store_contract!`] runs the same cases for each store.

mod bench;
mod commits;
mod due;
mod lists;
mod memory_bound;
mod versions;

use jobtrack::store::MemoryStore;

use self::{
    bench::Bench,
    commits::{
        announcement_has_the_previous_state, changes_since_a_position_are_complete_or_absent,
        each_commit_is_announced_in_order,
    },
    due::{a_lease_runs_from_the_last_report, due_records_come_in_order},
    lists::{
        a_page_ends_where_its_jobs_are_large, a_page_goes_on_where_the_last_one_ended,
        lists_contain_the_jobs_that_the_filter_selects, lists_filter_by_the_present_condition,
        lists_in_both_orders_hold_each_job_that_stays_once, lists_in_both_orders_pass_jobs_of_one_time,
        lists_omit_removed_jobs, lists_run_from_the_newest_or_the_oldest,
    },
    versions::{
        a_record_is_forgotten_only_at_its_version, attempts_are_read_back, counts_follow_the_states,
        new_store_is_empty, of_racing_writes_one_wins, stored_versions_are_read_back,
        write_requires_the_current_version,
    },
};
use crate::support::redis::{shared_cluster, shared_redis, shared_sentinel};

/// Runs the contract for a store: `store_contract!(name, make)`, where `make` creates a [`Bench`] of an empty store.
macro_rules! store_contract {
    ($name:ident, $make:expr) => {
        store_contract!($name, $make;
            new_store_is_empty stored_versions_are_read_back attempts_are_read_back write_requires_the_current_version
            of_racing_writes_one_wins lists_run_from_the_newest_or_the_oldest
            lists_in_both_orders_pass_jobs_of_one_time lists_in_both_orders_hold_each_job_that_stays_once
            lists_filter_by_the_present_condition lists_contain_the_jobs_that_the_filter_selects
            a_page_goes_on_where_the_last_one_ended a_page_ends_where_its_jobs_are_large
            lists_omit_removed_jobs counts_follow_the_states
            a_record_is_forgotten_only_at_its_version due_records_come_in_order
            a_lease_runs_from_the_last_report each_commit_is_announced_in_order
            changes_since_a_position_are_complete_or_absent announcement_has_the_previous_state);
    };
    ($name:ident, $make:expr; $($case:ident)+) => {
        mod $name {
            #[allow(unused_imports, reason = "not every store's bench is made of the same things")]
            use super::*;
            $(#[tokio::test]
            async fn $case() {
                super::$case($make).await;
            })+
        }
    };
}

store_contract!(memory, Bench::new(|ear| MemoryStore::new(1000, ear)));
store_contract!(redis, Bench::redis(&shared_redis().await.url()).await);
store_contract!(failover, Bench::failover(&shared_redis().await.url()).await);
store_contract!(sentinel, Bench::redis(&shared_sentinel().await.url()).await);
store_contract!(cluster, Bench::redis(&shared_cluster().await.url()).await);
