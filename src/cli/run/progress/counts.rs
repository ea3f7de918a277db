//! Percentages and counts in lines of any program. A number is progress only if its position in the line or a word
//! beside it confirms that, because dates, paths, versions and measurements have the same forms.

use std::sync::LazyLock;

use memchr::{
    memchr_iter,
    memmem::{Finder, find_iter},
};

use super::{
    found::Found,
    numbers::{Number, byte_unit, number_after, number_before, skip_spaces},
    words::{first_word, has_words, is_counted, is_other, is_progress, last_word, unit},
};

/// Finder of the word in counts such as `3 of 10`.
pub static OF: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(" of "));

/// Maximum difference between a percentage and the ratio of the counts beside it.
const ROUNDING: f64 = 1.5;

/// Returns the progress that a line has as `45%`, `45/100` or `45 of 100`.
pub fn find(text: &[u8]) -> Option<Found> {
    let counts = fraction(text).or_else(|| of(text));
    match (percentage(text), counts) {
        (Some(percent), Some(counts)) => {
            let fits = counts.ratio().is_some_and(|ratio| (ratio - percent).abs() <= ROUNDING);
            Some(if fits { Found { percent: Some(percent), ..counts } } else { Found::percent(percent) })
        }
        (Some(percent), None) => Some(Found::percent(percent)),
        (None, counts) => counts,
    }
}

/// Returns the percentage of a line that has exactly one, if that percentage is progress.
fn percentage(text: &[u8]) -> Option<f64> {
    let mut numbers = memchr_iter(b'%', text).filter_map(|at| Some((at, number_before(text, trim_space(text, at))?)));
    let (at, number) = numbers.next()?;
    // A line with several percentages is a row of a table.
    if numbers.next().is_some() {
        return None;
    }
    let (before, after) = (&text[..number.start], &text[at + 1..]);
    let is_apart = !before.last().is_some_and(|byte| byte.is_ascii_alphanumeric() || b".-+/_,".contains(byte))
        && !after.first().is_some_and(|byte| byte.is_ascii_alphanumeric() || b"%-_".contains(byte));
    let (last, first) = (last_word(before), first_word(after));
    if !is_apart || number.value > 100.0 || is_other(&last) || is_other(&first) {
        return None;
    }
    let is_progress = is_progress(&last)
        || is_progress(&first)
        || starts_line(before, after)
        || ends_line(before, after)
        || is_at_bar(before, after)
        || has_speed(after);
    is_progress.then_some(number.value)
}

/// Returns whether a percentage begins its line. Only a bar or a label in brackets may precede it.
fn starts_line(before: &[u8], after: &[u8]) -> bool {
    let is_label = before.trim_ascii().starts_with(b"[") && before.trim_ascii().ends_with(b"]");
    let is_first = !has_words(before) || is_label;
    // "45% of people" is prose, "45% of 10 MB" is progress.
    let is_prose = first_word(after) == "of"
        && find_iter(after, b"of ").next().is_none_or(|at| number_after(after, skip_spaces(after, at + 3)).is_none());
    is_first && !is_prose
}

/// Returns whether a percentage ends its line and is not one of several numbers.
fn ends_line(before: &[u8], after: &[u8]) -> bool {
    !has_words(after) && !last_word(before).contains(|letter: char| letter.is_ascii_digit())
}

/// Returns whether a percentage stands beside a bar: `45%|###`, `45%[==>  ]`, `[==>  ] 45%`, or after the dots of wget.
fn is_at_bar(before: &[u8], after: &[u8]) -> bool {
    let after = after.trim_ascii_start();
    let begins =
        after.first().is_some_and(|first| b"[|".contains(first)) && after.get(1).is_none_or(|byte| is_drawn(*byte));
    begins || ends_with_bar(before) || before.trim_ascii_end().ends_with(b"....")
}

/// Returns whether text ends with `[==>  ]` or `|###  |`.
fn ends_with_bar(text: &[u8]) -> bool {
    let text = text.trim_ascii_end();
    text.last().is_some_and(|last| b"]|".contains(last)) && text.iter().nth_back(1).is_some_and(|byte| is_drawn(*byte))
}

fn is_drawn(byte: u8) -> bool {
    b" =#>-.*+<]|".contains(&byte) || !byte.is_ascii()
}

/// Returns whether the text after a percentage has a speed or a remaining time: `45%  10.0MB/s`, `45% ETA 00:05`.
fn has_speed(after: &[u8]) -> bool {
    let is_speed = |word: &[u8]| word.ends_with(b"B/s") || word.ends_with(b"b/s") || word.ends_with(b"iB/s,");
    after.split(|byte| *byte == b' ').any(|word| is_speed(word) || word.eq_ignore_ascii_case(b"eta"))
}

/// Returns the first count of a line that is written as `45/100` or `4.5/10.0 MB`.
fn fraction(text: &[u8]) -> Option<Found> {
    memchr_iter(b'/', text).find_map(|at| {
        let (unit_before, end) = unit_ending(text, at);
        let (done, all) = (number_before(text, end)?, number_after(text, at + 1)?);
        let is_apart = !text[..done.start].last().is_some_and(|byte| is_attached(*byte));
        count(text, done, all, unit_before).filter(|_| is_apart)
    })
}

/// Returns the first count of a line that is written as `45 of 100` or `4.5 MB of 10.0 MB`.
fn of(text: &[u8]) -> Option<Found> {
    OF.find_iter(text).find_map(|at| {
        let (unit_before, end) = unit_ending(text, at);
        let (done, all) = (number_before(text, trim_space(text, end))?, number_after(text, at + b" of ".len())?);
        let is_apart = !text[..done.start].last().is_some_and(|byte| is_attached(*byte));
        count(text, done, all, unit_before).filter(|_| is_apart)
    })
}

/// Returns `done` of `all` as progress, if its position or a word beside it confirms that it is a count.
fn count(text: &[u8], done: Number, all: Number, unit_before: Option<f64>) -> Option<Found> {
    let (before, rest) = (&text[..done.start], &text[all.end..]);
    let size = byte_unit(text, skip_spaces(text, all.end)).filter(|(_, end)| text.get(*end) != Some(&b'/'));
    if let Some((factor, _)) = size
        && (all.end == skip_spaces(text, all.end) || rest.starts_with(b" "))
    {
        let (done, all) = (done.times(unit_before.unwrap_or(factor)), all.times(factor));
        return (done <= all && all > 0).then(|| Found::units(done, all).of(Some("bytes")));
    }
    let is_attached = rest.first().is_some_and(|byte| is_attached(*byte) && !b".:".contains(byte))
        || (rest.len() > 1 && b".:".contains(&rest[0]) && !b" .".contains(&rest[1]));
    let is_count = done.is_whole && all.is_whole && done.value <= all.value && all.value >= 1.0 && !is_attached;
    let unit = unit(&first_word(rest));
    let is_place = is_bracketed(before, rest) || is_counted(&last_word(before)) || begins(before, rest, unit);
    let is_end = !has_words(rest) && before.trim_ascii_end().ends_with(b":") && last_word(before) != "date";
    (is_count && (is_place || is_end)).then(|| Found::units(done.times(1.0), all.times(1.0)).of(unit))
}

/// Returns whether a count stands in brackets of its own: `[3/10]`, `( 3/10)`.
fn is_bracketed(before: &[u8], rest: &[u8]) -> bool {
    before.trim_ascii_end().last().is_some_and(|last| b"[(".contains(last))
        && rest.trim_ascii_start().first().is_some_and(|first| b"])".contains(first))
}

/// Returns whether a count begins its line or stands after a bar, and is followed by its units, a bar or nothing.
fn begins(before: &[u8], rest: &[u8], unit: Option<&str>) -> bool {
    let next = rest.iter().find(|byte| **byte != b' ');
    let is_bar = next.is_none_or(|next| b"[|]):".contains(next) || !next.is_ascii());
    (!has_words(before) || ends_with_bar(before)) && (unit.is_some() || is_bar)
}

/// Returns whether a byte beside a number makes it a part of a path, date, version or identifier.
fn is_attached(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/.-:_~@#$\\".contains(&byte)
}

/// Returns the factor of a unit of bytes that ends at `end`, and the index at which the number before it ends.
fn unit_ending(text: &[u8], end: usize) -> (Option<f64>, usize) {
    let length = text[..end].iter().rev().take_while(|byte| byte.is_ascii_alphabetic()).count();
    match byte_unit(text, end - length) {
        Some((factor, after)) if after == end && length > 0 => (Some(factor), end - length),
        _ => (None, end),
    }
}

/// Returns `at`, or the index before it if a space stands there.
fn trim_space(text: &[u8], at: usize) -> usize {
    if at > 0 && text[at - 1] == b' ' { at - 1 } else { at }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percent(text: &str) -> Option<f64> {
        find(text.as_bytes()).and_then(|found| found.percent)
    }

    fn units(text: &str) -> Option<(u64, u64)> {
        find(text.as_bytes()).and_then(|found| Some((found.completed?, found.total?)))
    }

    #[test]
    fn percentages_of_progress_are_found() {
        for text in [
            "45%",
            "  45 %",
            "Progress: 45%",
            "progress=45%",
            "[ 45%] Building CXX object a.o",
            "(45%) encoding",
            "####      45%",
            "[=====>     ] 45% eta 5s",
            "━━━━━╺━━━━━ 45%",
            "copying [####    ] 45%",
            "download 45%[====>    ] 1.2M",
            "[download]  45% of 10.00MiB at 1.00MiB/s ETA 00:05",
            "file.iso      45%  450KB  10.0MB/s   00:05 ETA",
            "45% done",
            "the import is 45% complete",
            "Downloading... 45%",
            "tests/test_a.py .......                  [ 45%]",
            "   50K .......... ..........  45% 1.20M 8s",
        ] {
            assert_eq!(percent(text), Some(45.0), "{text}");
        }
        assert_eq!(percent("Encoding: 99.9%"), Some(99.9));
    }

    #[test]
    fn other_percentages_are_not_progress() {
        for text in [
            "100% CPU",
            "CPU: 45%",
            "cpu usage 45%",
            "45% faster than before",
            "45% of people agree",
            "a/b%20c",
            "%d of %d",
            "45%20x",
            "/dev/sda1  50G  20G  28G  42% /",
            "src/foo.py      100     45    55%",
            "ref B L0: 80.0% 20.0%",
            "  adding: a.txt (deflated 55%)",
            "accuracy: 95%",
            "3 packets transmitted, 3 received, 0% packet loss, time 2003ms",
            "grew by +45%",
            "101%",
            "about 45% of the rows in it were new",
            "10.45.3%",
        ] {
            assert_eq!(find(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn counts_are_found() {
        for text in [
            "3/10",
            "[3/10] compile a.o",
            "( 3/10) upgrading glibc",
            "Epoch 3/10",
            "Epoch 3/10 - loss: 0.5",
            "step: 3/10",
            "3/10: done",
            "Processing file 3/10...",
            "3/10 files",
            "3/10 [=====>....] - ETA: 5s",
            "3/10 ━━━━━━━━ 1s 20ms/step",
            "Building [=====>     ] 3/10: serde",
            "uploaded: 3/10",
            "Step 3 of 10",
            "3 of 10",
            "Processing 3 of 10: a.txt",
            "imported 3 of 10 rows",
            "(3 of 10)",
        ] {
            assert_eq!(units(text), Some((3, 10)), "{text}");
        }
        assert_eq!(units("Progress 1,234 of 5,678"), Some((1234, 5678)));
        assert_eq!(find(b"3/10 files").and_then(|found| found.unit), Some("files".to_owned()));
    }

    #[test]
    fn sizes_are_counts_of_bytes() {
        for (text, expected) in [
            ("   ━━━━ 1.5/3.0 MB 10.5 MB/s eta 0:00:04", (1_500_000, 3_000_000)),
            ("a1b2: Downloading 1.5kB/3MB", (1_500, 3_000_000)),
            ("1.5MiB of 3.0MiB", (1_572_864, 3_145_728)),
            ("45 of 100 MB", (45_000_000, 100_000_000)),
        ] {
            assert_eq!(units(text), Some(expected), "{text}");
        }
        assert_eq!(find(b"10/20 MB/s"), None);
    }

    #[test]
    fn dates_paths_and_prose_are_not_counts() {
        for text in [
            "2026/11/29 12:00:01 started",
            "11/29/2026",
            "11/29 12:00:01 INFO started",
            "on 11/29",
            "date: 11/29",
            "a/b",
            "/srv/1/2",
            "1/2 cup of sugar",
            "and 1/2 in prose",
            "open 24/7",
            "10.0.0.0/24",
            "http://host/1/2",
            "v1/2.3",
            "2 of 3 dentists",
            "one of 3",
            "3 of hearts",
            "3/0",
            "lib/python3.11/4",
            "ratio 16/9",
            "x86/64",
            "10/s",
            "eth0: 1/1.5",
        ] {
            assert_eq!(find(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn percentage_and_count_of_one_line_belong_together_if_they_agree() {
        let found = find(b"Receiving objects:  45% (450/1000), 1.2 MiB | 1.1 MiB/s").expect("progress");
        assert_eq!(found, Found { percent: Some(45.0), ..Found::units(450, 1000) });
        assert_eq!(find(b"[1/20] 45%"), Some(Found::percent(45.0)));
    }
}
