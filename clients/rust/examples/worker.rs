//! A worker that counts: `cargo run --package jobtrack-client --example worker -- JOB_ID`.

use std::{env, error::Error, time::Duration};

use jobtrack_client::{Report, Tracker};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let id = env::args().nth(1).ok_or("usage: worker JOB_ID")?;
    let tracker = Tracker::from_env().connect_lazy()?;
    let work = tracker.create("example.count").id(id).lease(Duration::from_secs(30)).work().start().await?;
    println!("{}", work.job_id());
    for count in 1..=100 {
        tokio::select! {
            reason = work.cancelled() => { eprintln!("{reason:?}"); work.confirm_cancel(None).await?; return Ok(()) }
            () = tokio::time::sleep(Duration::from_millis(20)) => work.report(Report::units(count, 100)),
        }
    }
    work.finish(serde_json::json!({"counted": 100})).await?;
    Ok(())
}
