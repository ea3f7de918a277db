//! Output of commands, which passes through the wrapper.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
};

use jobtrack_client::State;
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    task::spawn_blocking,
    time::timeout,
};

use super::{Gate, WAIT_TIMEOUT, bare, code, ended, output, run, same, wrap};
use crate::support::process::Process;

/// Returns the lines of the standard output of a process as they arrive. Takes the pipe from the process.
pub fn lines(child: &mut Child) -> UnboundedReceiver<String> {
    let (sender, lines) = unbounded_channel();
    let output = BufReader::new(child.stdout.take().expect("it is piped"));
    spawn_blocking(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    lines
}

/// Returns the first line of the standard output of a process.
pub async fn first_line(child: &mut Child) -> String {
    timeout(WAIT_TIMEOUT, lines(child).recv()).await.expect("it writes").expect("a line")
}

#[tokio::test(flavor = "multi_thread")]
async fn hundred_megabytes_pass_unchanged() {
    let process = Process::start(&[]);
    let script = "yes 'a line of output as long as most' | head -c 100000000; echo end >&2";
    let finished = run(wrap(process.address, &[], script)).await;
    assert_eq!(same(&finished, &run(bare(script)).await), [""; 0]);
    assert_eq!(ended(&process).await.state(), State::Succeeded);
}

/// The allocator would ask for huge pages, of which the command must not be deprived.
#[tokio::test(flavor = "multi_thread")]
async fn wrapper_stays_small_beside_a_flood_of_progress() {
    let (process, gate) = (Process::start(&[]), Gate::new());
    let script = format!(
        "yes 'step 1 of 9: 10% done' | head -c 50000000; grep THP_enabled /proc/self/status >&2; read x < {}",
        gate.path
    );
    let mut wrapper = wrap(process.address, &[], &script).stdout(Stdio::null()).spawn().expect("it runs");
    let mut errors = BufReader::new(wrapper.stderr.take().expect("it is piped")).lines();
    let huge_pages = spawn_blocking(move || errors.next().expect("a line").expect("text"));
    assert_eq!(timeout(WAIT_TIMEOUT, huge_pages).await.expect("it writes").expect("no panic"), "THP_enabled:\t1");
    let status = std::fs::read_to_string(format!("/proc/{}/status", wrapper.id())).expect("it runs");
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("its memory is told");
    let kilobytes: u32 = anonymous.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(kilobytes < 9500, "{kilobytes} kB");
    gate.open().await;
    output(wrapper).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_bytes_pass_unchanged() {
    let process = Process::start(&[]);
    let script = "head -c 300000 /proc/self/exe; printf '\\033]9;4;1;50\\007\\377\\000\\r' >&2";
    let finished = run(wrap(process.address, &[], script)).await;
    let bare = run(bare(script)).await;
    assert!(finished.stdout == bare.stdout && finished.stderr == bare.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_written_on_at_once() {
    let (process, gate) = (Process::start(&[]), Gate::new());
    let mut wrapper =
        wrap(process.address, &[], &format!("echo first; read x < {}", gate.path)).spawn().expect("it runs");
    assert_eq!(first_line(&mut wrapper).await, "first");
    gate.open().await;
    output(wrapper).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn order_is_kept_if_both_outputs_are_one_file() {
    let process = Process::start(&[]);
    let script = "for i in 1 2 3 4 5 6 7 8 9; do echo out $i; echo err $i >&2; done";
    let inner = wrap(process.address, &[], script);
    // The shell sends both outputs of the wrapper to one file, with `2>&1`.
    let mut both = Command::new("sh");
    both.args(["-c", "exec \"$@\" 2>&1", "sh"]).arg(inner.get_program()).args(inner.get_args());
    both.env("JOBTRACK_SERVER", format!("http://{}", process.address)).stdin(Stdio::null()).stdout(Stdio::piped());
    let text = String::from_utf8(run(both).await.stdout).expect("text");
    let expected = (1..10).map(|i| format!("out {i}\nerr {i}\n")).collect::<Vec<_>>().concat();
    assert_eq!(text, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn command_whose_reader_is_gone_ends_as_without_a_wrapper() {
    let process = Process::start(&[]);
    let mut wrapper = wrap(process.address, &[], "yes; echo not reached >&2").spawn().expect("it runs");
    let mut first = [0; 2];
    let mut reader = wrapper.stdout.take().expect("it is piped");
    reader.read_exact(&mut first).expect("it writes");
    drop(reader);
    // SIGPIPE ends `yes`, and the shell continues with its next command.
    let finished = output(wrapper).await;
    assert_eq!(String::from_utf8_lossy(&finished.stderr), "not reached\n");

    let process = Process::start(&[]);
    let mut wrapper = super::wrap_words(process.address, &[], &["yes"]).spawn().expect("it runs");
    drop(wrapper.stdout.take());
    assert_eq!(code(output(wrapper).await.status), 128 + 13);
    assert_eq!(ended(&process).await.failure().expect("it failed").reason, "SIGNAL_13");
}

#[tokio::test(flavor = "multi_thread")]
async fn command_without_outputs_is_waited_for() {
    let (process, gate) = (Process::start(&[]), Gate::new());
    let script = format!("exec 1>&- 2>&-; read x < {}; exit 4", gate.path);
    let wrapper = wrap(process.address, &[], &script).spawn().expect("it runs");
    super::until(process.address, |job| job.state() == State::Running).await;
    gate.open().await;
    assert_eq!(code(output(wrapper).await.status), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn process_that_outlives_its_command_can_still_write() {
    let (process, gate) = (Process::start(&[]), Gate::new());
    let script = format!("(read x < {}; echo late) & echo early", gate.path);
    let mut wrapper = wrap(process.address, &[], &script).spawn().expect("it runs");
    let mut lines = lines(&mut wrapper);
    assert_eq!(lines.recv().await.as_deref(), Some("early"));
    // The wrapper does not wait for the process that outlives the command.
    let status = spawn_blocking(move || wrapper.wait().expect("it ends"));
    assert_eq!(code(timeout(WAIT_TIMEOUT, status).await.expect("it ends").expect("no panic")), 0);
    assert_eq!(ended(&process).await.state(), State::Succeeded);
    gate.open().await;
    assert_eq!(timeout(WAIT_TIMEOUT, lines.recv()).await.expect("it writes").as_deref(), Some("late"));
    assert_eq!(timeout(WAIT_TIMEOUT, lines.recv()).await.expect("it ends"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn input_reaches_the_command() {
    let process = Process::start(&[]);
    let mut command = wrap(process.address, &[], "cat; echo end");
    let mut wrapper = command.stdin(Stdio::piped()).spawn().expect("it runs");
    let mut input = wrapper.stdin.take().expect("it is piped");
    std::io::Write::write_all(&mut input, b"line\n").expect("it reads");
    drop(input);
    assert_eq!(output(wrapper).await.stdout, b"line\nend\n");
}
