//! Progress in the output, as watchers of the job see it.

use jobtrack_client::State;

use super::{Gate, ended, output, until, wrap};
use crate::support::process::Process;

#[tokio::test(flavor = "multi_thread")]
async fn progress_reaches_the_tracker() {
    for (printed, percent) in [
        ("echo 45%", 45.0),
        ("echo 3/10 files >&2", 30.0),
        // A bar without an end of line.
        ("printf '\\r 10%%|#    |\\r 20%%|##   |'", 20.0),
        ("printf '\\033]9;4;1;50\\007'", 50.0),
        ("echo '{\"percent\": 55, \"stage\": \"encode\"}'", 55.0),
    ] {
        let (process, gate) = (Process::start(&[]), Gate::new());
        let script = format!("{printed}; read x < {}", gate.path);
        let wrapper = wrap(process.address, &[], &script).spawn().expect("it runs");
        until(process.address, |job| job.percent() == Some(percent)).await;
        gate.open().await;
        output(wrapper).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_of_the_last_moment_is_reported() {
    let process = Process::start(&[]);
    super::run(wrap(process.address, &[], "printf 'step 7/10'; exit 3")).await;
    let progress = ended(&process).await.progress.expect("progress");
    assert_eq!((progress.completed, progress.total), (Some(7), Some(10)));
}

#[tokio::test(flavor = "multi_thread")]
async fn pattern_of_the_user_finds_progress() {
    let (process, gate) = (Process::start(&[]), Gate::new());
    let script = format!("echo 45%; echo 'pos=7 len=28 in merge'; read x < {}", gate.path);
    let flags = ["--progress-regex", r"pos=(?P<completed>\d+) len=(?P<total>\d+) in (?P<stage>\w+)"];
    let wrapper = wrap(process.address, &flags, &script).spawn().expect("it runs");
    let job = until(process.address, |job| job.percent() == Some(25.0)).await;
    assert_eq!(job.progress.expect("progress").stage.as_deref(), Some("merge"));
    gate.open().await;
    output(wrapper).await;
    assert_eq!(ended(&process).await.state(), State::Succeeded);

    let refused = super::run(wrap(process.address, &["--progress-regex", "x"], "echo started")).await;
    assert_eq!((super::code(refused.status), refused.stdout.len()), (2, 0));
}
