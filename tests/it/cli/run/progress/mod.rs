//! Detection of progress in recorded output of real tools, and in random bytes.
//!
//! `corpus/` has the recordings: `NAME.pipe` was written to a pipe, `NAME.tty` to a terminal of 80 columns.
//! `corpus/expected.txt` has the progress in these recordings, one line per change.

use std::{fmt::Write, fs, path::PathBuf};

use jobtrack::cli::run::progress::{Detector, Found, Lane, Pattern, segments::SEGMENT_MAX};
use proptest::{collection::vec, prelude::*};

/// Parts of which random output is composed.
const PARTS: [&str; 24] = [
    "45%",
    " ",
    "3/10",
    " of ",
    "10",
    "[",
    "]",
    "|",
    "\n",
    "\r",
    "\x1b[2K",
    "\x1b[A",
    "\x1b]9;4;1;30\x07",
    "\x1b]9;4;1;31\x1b\\",
    "{\"percent\":5}",
    "{",
    "}",
    "step ",
    "  % Total    % Received",
    "0:00:01 ",
    "time=",
    "Duration: ",
    "out_time_us=5",
    "█",
];

/// Size in bytes from which a recording is not split at every byte, because that would take too long.
const LONG: usize = 3000;

fn corpus() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/it/cli/run/progress/corpus"].iter().collect()
}

/// Returns the names and contents of the recordings.
fn recordings() -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(corpus()).expect("the corpus is there").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_none_or(|end| end != "txt")).collect();
    files.sort();
    let name = |path: &PathBuf| path.file_name().expect("a file").to_string_lossy().into_owned();
    files.iter().map(|path| (name(path), fs::read(path).expect("readable"))).collect()
}

/// Returns all progress that is found when output arrives in these parts.
fn found<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<Found> {
    let mut detector = Detector::default();
    let mut found = Vec::new();
    for part in parts {
        detector.feed(Lane::Output, part);
        found.extend(detector.take());
    }
    detector.settle(Lane::Output);
    found.extend(detector.take());
    found
}

/// Returns all progress in output that arrives byte by byte.
fn all(bytes: &[u8]) -> Vec<Found> {
    found(bytes.chunks(1))
}

fn describe(found: &Found) -> String {
    let mut line = String::new();
    if let Some(percent) = found.percent {
        write!(line, " {percent}%").expect("a text");
    }
    if let Some(completed) = found.completed {
        write!(line, " {completed}/{}", found.total.map_or("?".to_owned(), |total| total.to_string())).expect("a text");
    }
    for part in [&found.unit, &found.stage, &found.message].into_iter().flatten() {
        write!(line, " {part}").expect("a text");
    }
    line
}

#[test]
fn progress_of_real_tools_is_found() {
    let mut actual = String::new();
    for (name, bytes) in recordings() {
        for found in all(&bytes) {
            writeln!(actual, "{name}:{}", describe(&found)).expect("a text");
        }
    }
    let file = corpus().join("expected.txt");
    if std::env::var_os("JOBTRACK_TEST_WRITE").is_some() {
        fs::write(&file, &actual).expect("it can be written");
    }
    let expected = fs::read_to_string(&file).expect("it is there");
    let differs = expected.lines().zip(actual.lines()).find(|(expected, actual)| expected != actual);
    assert_eq!((differs, expected.lines().count()), (None, actual.lines().count()));
}

#[test]
fn each_recording_ends_with_all_its_work_done() {
    for (name, bytes) in recordings() {
        let last = all(&bytes).pop().unwrap_or_else(|| panic!("no progress in {name}"));
        // ffmpeg writes its last status line before the last frames.
        let end = if name.starts_with("ffmpeg") { 90.0 } else { 100.0 };
        let is_done = last.ratio().map_or(last.completed == Some(20), |ratio| ratio >= end);
        assert!(is_done, "{name}: {last:?}");
    }
}

#[test]
fn where_output_is_split_makes_no_difference() {
    for (name, bytes) in recordings() {
        let whole = all(&bytes);
        for at in (0..=bytes.len()).step_by(if bytes.len() < LONG { 1 } else { 17 }) {
            let (first, second) = bytes.split_at(at);
            let mut detector = Detector::default();
            detector.feed(Lane::Output, first);
            detector.feed(Lane::Output, second);
            detector.settle(Lane::Output);
            assert_eq!(detector.take().as_ref(), whole.last(), "{name} split at {at}");
        }
    }
}

#[test]
fn duration_on_standard_error_is_for_times_on_standard_output() {
    let mut detector = Detector::default();
    detector.feed(Lane::Error, b"  Duration: 00:00:02.00, start: 0.000000, bitrate: 11 kb/s\n");
    detector.feed(Lane::Output, b"out_time_us=1000000\n");
    assert_eq!(detector.take(), Some(Found::percent(50.0)));
}

#[test]
fn lines_of_two_outputs_are_not_mixed() {
    let mut detector = Detector::default();
    detector.feed(Lane::Output, b"progress: 4");
    detector.feed(Lane::Error, b"warning\n");
    detector.feed(Lane::Output, b"5%\n");
    assert_eq!(detector.take(), Some(Found::percent(45.0)));
}

#[test]
fn line_without_an_end_counts_once_nothing_more_is_written() {
    let mut detector = Detector::default();
    detector.feed(Lane::Output, b"\r 45%");
    assert_eq!(detector.take(), None);
    detector.settle(Lane::Output);
    assert_eq!(detector.take(), Some(Found::percent(45.0)));
    detector.settle(Lane::Output);
    assert_eq!(detector.take(), None);
}

#[test]
fn stage_stays_until_there_is_another_one() {
    let mut detector = Detector::default();
    detector.feed(Lane::Output, b"{\"stage\":\"encode\"}\n45%\n");
    let found = detector.take().expect("progress");
    assert_eq!((found.percent, found.stage.as_deref()), (Some(45.0), Some("encode")));
}

#[test]
fn with_a_pattern_nothing_else_is_progress() {
    let mut detector = Detector::new(Some(Pattern::parse("at (?P<completed>[0-9]+)").expect("it is valid")));
    detector.feed(Lane::Output, b"45%\n{\"percent\":5}\n\x1b]9;4;1;30\x07at 7\n3/10\n");
    assert_eq!(detector.take(), Some(Found { completed: Some(7), ..Found::default() }));
}

#[test]
fn end_of_a_long_line_is_no_line() {
    let line = [vec![b'x'; SEGMENT_MAX], b"[ 45%]\n".to_vec()].concat();
    assert_eq!(found([&line[..]]), []);
}

proptest! {
    #[test]
    fn random_output_is_read_the_same_in_any_parts(
        parts in vec(0..PARTS.len(), 0..60), cuts in vec(any::<prop::sample::Index>(), 0..6)
    ) {
        let text: String = parts.iter().map(|part| PARTS[*part]).collect();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|cut| &text.as_bytes()[cut[0]..cut[1]]);
        let (whole, cut) = (all(text.as_bytes()), found(pieces));
        prop_assert_eq!(whole.last(), cut.last());
    }

    #[test]
    fn any_bytes_are_read(bytes in vec(any::<u8>(), 0..2000)) {
        for found in all(&bytes) {
            prop_assert!(found.percent.is_none_or(|percent| (0.0..=100.0).contains(&percent)));
        }
    }
}
