//! Follows a job to its end: `cargo run --package jobtrack-client --example watch -- JOB_ID`.

use std::{env, error::Error};

use jobtrack_client::{Event, Tracker};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let id = env::args().nth(1).ok_or("usage: watch JOB_ID")?;
    let mut watch = Tracker::from_env().connect_lazy()?.watch(id);
    while let Some(event) = watch.next().await {
        match event? {
            Event::Job { job, .. } => println!("{} {:.1}", job.state_name(), job.percent().unwrap_or_default()),
            Event::Removed { removal, .. } => println!("{}", removal.as_str_name()),
            _ => {}
        }
    }
    Ok(())
}
