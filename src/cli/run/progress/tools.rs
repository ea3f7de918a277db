//! Progress meters of known programs, whose numbers alone are ambiguous: tqdm, git, curl, rsync and ffmpeg.

use memchr::{
    memchr,
    memmem::{find, rfind},
};

use super::{
    found::Found,
    numbers::{byte_unit, clock, number_after, number_before, skip_spaces},
};

/// State from earlier lines that the meaning of later lines depends on.
#[derive(Debug, Default)]
pub struct Context {
    /// The heading of curl's meter was seen.
    is_curl: bool,
    /// The percentage of rsync is that of a single file.
    has_files: bool,
    /// Duration of the longest input of ffmpeg, in seconds.
    duration: Option<f64>,
}

/// A line of a known program, with the progress in the line, if any.
#[derive(Debug, PartialEq)]
pub struct Meter(pub Option<Found>);

/// Returns whether a line is the first heading of curl's meter.
fn is_curl_heading(text: &[u8]) -> bool {
    find(text, b"% Total").is_some() && find(text, b"% Received").is_some()
}

impl Context {
    /// Returns whether lines of numbers without a percent sign may be the meter of curl.
    pub fn expects_meter(&self) -> bool {
        self.is_curl
    }

    /// Recognizes a line of one of these programs. `is_below`: the line is a bar below another bar.
    pub fn find(&mut self, text: &[u8], is_below: bool) -> Option<Meter> {
        if memchr(b'%', text).is_none() {
            if let Some(found) = tqdm_without_total(text) {
                return Some(Meter(Some(found)));
            }
            let meter = if self.is_curl { curl(text) } else { None };
            return meter.or_else(|| self.ffmpeg(text));
        }
        if is_curl_heading(text) {
            self.is_curl = true;
            return Some(Meter(None));
        }
        if let Some(found) = tqdm(text) {
            // A bar below another one shows a part of the work.
            return Some(Meter(Some(found).filter(|_| !is_below)));
        }
        if let Some(found) = git(text) {
            return Some(Meter(Some(found)));
        }
        self.rsync(text).or_else(|| self.ffmpeg(text))
    }

    /// Reads `  1,234  45%  1.23MB/s  0:00:05 (xfr#1, to-chk=4/6)`. With `--progress` the percentage is that of one
    /// file. Therefore, as soon as one file is complete and others are left, the files are counted instead.
    fn rsync(&mut self, text: &[u8]) -> Option<Meter> {
        let mut words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let (bytes, percent, speed) = (words.next()?, words.next()?.strip_suffix(b"%")?, words.next()?);
        number_after(bytes, 0).filter(|number| number.end == bytes.len())?;
        let percent = number_after(percent, 0).filter(|number| number.end == percent.len() && number.value <= 100.0)?;
        speed.strip_suffix(b"B/s")?;
        clock(words.next()?)?;
        let Some(at) = find(text, b"to-chk=") else {
            return Some(Meter(Some(Found::percent(percent.value)).filter(|_| !self.has_files)));
        };
        let left = number_after(text, at + b"to-chk=".len())?;
        let all = number_after(text, left.end + 1).filter(|all| all.value >= left.value)?;
        self.has_files |= percent.value >= 100.0 && left.value > 0.0;
        if self.has_files {
            let found = Found::units(all.times(1.0) - left.times(1.0), all.times(1.0));
            return Some(Meter(Some(found.of(Some("files")))));
        }
        Some(Meter(Some(Found::percent(percent.value))))
    }

    /// Reads the lines of ffmpeg: its headings, its status line and the values of `-progress`.
    fn ffmpeg(&mut self, text: &[u8]) -> Option<Meter> {
        let text = text.trim_ascii();
        let is_log = text.starts_with(b"[") && find(text, b" @ 0x").is_some();
        if is_log || (text.ends_with(b"%") && find(text, b"muxing overhead: ").is_some()) {
            return Some(Meter(None));
        }
        if text.starts_with(b"Input #0") {
            self.duration = None;
            return Some(Meter(None));
        }
        if let Some(rest) = text.strip_prefix(b"Duration: ") {
            let seconds = rest.split(|byte| *byte == b',').next().and_then(clock).unwrap_or_default();
            let longest = self.duration.unwrap_or_default().max(seconds);
            self.duration = Some(longest).filter(|longest| *longest > 0.0);
            return Some(Meter(None));
        }
        if let Some(value) = text.strip_prefix(b"out_time_us=") {
            let seconds = number_after(value, 0).map(|number| number.value / 1e6);
            return Some(Meter(seconds.and_then(|seconds| self.ffmpeg_percent(seconds))));
        }
        if text == b"progress=end" {
            return Some(Meter(self.duration.map(|_| Found::percent(100.0))));
        }
        let is_status = text.starts_with(b"frame=") || text.starts_with(b"size=");
        let at = rfind(text, b"time=").filter(|_| is_status)? + b"time=".len();
        let seconds = text[at..].split(|byte| *byte == b' ').next().and_then(clock);
        Some(Meter(seconds.and_then(|seconds| self.ffmpeg_percent(seconds))))
    }

    fn ffmpeg_percent(&self, seconds: f64) -> Option<Found> {
        self.duration.map(|duration| Found::percent((seconds / duration * 100.0).min(100.0)))
    }
}

/// Reads `label:  45%|####    | 45/100 [00:04<00:05, 10.0it/s]`.
fn tqdm(text: &[u8]) -> Option<Found> {
    let at = find(text, b"%|")?;
    let percent = number_before(text, at).filter(|percent| percent.value <= 100.0)?;
    let label = String::from_utf8_lossy(text[..percent.start].trim_ascii());
    let stage = label.strip_suffix(':').map(str::to_owned).filter(|label| !label.is_empty());
    let counts = rfind(text, b"| ").and_then(|bar| tqdm_counts(text, bar + 2)).unwrap_or_default();
    Some(Found { percent: Some(percent.value), stage, ..counts })
}

/// Reads `45/100 [00:04<00:05, 10.0it/s]` or `1.5M/3.0M [00:04<00:05, 10.0MB/s]`.
fn tqdm_counts(text: &[u8], at: usize) -> Option<Found> {
    let scaled = |number_end: usize| match byte_unit(text, number_end) {
        Some((factor, end)) => (factor, end, true),
        None => (1.0, number_end, false),
    };
    let done = number_after(text, skip_spaces(text, at))?;
    let (done_factor, slash, is_done_scaled) = scaled(done.end);
    let all = number_after(text, slash + 1).filter(|_| text.get(slash) == Some(&b'/'))?;
    let (factor, end, is_scaled) = scaled(all.end);
    let rate = text.get(end..)?.strip_prefix(b" [")?;
    let unit = tqdm_unit(rate, is_scaled || is_done_scaled);
    Some(Found::units(done.times(done_factor), all.times(factor)).of(unit.as_deref()))
}

/// Reads the unit of `00:04<00:05, 10.0it/s]`.
fn tqdm_unit(rate: &[u8], is_scaled: bool) -> Option<String> {
    let rate = str::from_utf8(rate.split(|byte| *byte == b']').next()?).ok()?;
    let rate = rate.split_once(", ")?.1.split(',').next()?.trim();
    let unit = match rate.split_once("s/") {
        Some((number, unit)) if number.parse::<f64>().is_ok() => unit,
        _ => rate
            .strip_suffix("/s")?
            .trim_start_matches(|letter: char| letter.is_ascii_digit() || ".? ".contains(letter)),
    };
    let unit = if is_scaled { unit.trim_start_matches(['k', 'M', 'G', 'T']) } else { unit };
    match unit {
        "it" | "" => None,
        "B" => Some("bytes".to_owned()),
        unit => Some(unit.trim().to_owned()).filter(|unit| unit.len() <= 32),
    }
}

/// Reads `label: 45it [00:04, 10.0it/s]`.
fn tqdm_without_total(text: &[u8]) -> Option<Found> {
    memchr(b'[', text)?;
    let at = find(text, b"it [")?;
    let done = number_before(text, at)?;
    let label = text[..done.start].trim_ascii();
    let time = text[at + b"it [".len()..].split(|byte| *byte == b',').next().and_then(clock);
    let is_meter = (label.is_empty() || label.ends_with(b":")) && done.is_whole && time.is_some();
    is_meter.then(|| Found { completed: Some(done.times(1.0)), ..Found::default() })
}

/// Reads `Receiving objects:  45% (450/1000), 1.20 MiB | 1.10 MiB/s`, and takes the label as the stage.
fn git(text: &[u8]) -> Option<Found> {
    let at = find(text, b"% (")?;
    let percent = number_before(text, at).filter(|percent| percent.value <= 100.0)?;
    let done = number_after(text, at + b"% (".len())?;
    let all = number_after(text, done.end + 1).filter(|_| text.get(done.end) == Some(&b'/'))?;
    let label = str::from_utf8(text[..percent.start].trim_ascii()).ok()?.strip_suffix(':')?;
    let is_label = label.bytes().all(|byte| byte.is_ascii_alphabetic() || b" :-".contains(&byte));
    let counts = Found::units(done.times(1.0), all.times(1.0));
    (is_label && text.get(all.end) == Some(&b')')).then(|| Found {
        percent: Some(percent.value),
        stage: Some(label.to_owned()),
        ..counts
    })
}

/// Reads a line of the meter of curl, which has fixed columns. The line has no progress while the size is unknown.
fn curl(text: &[u8]) -> Option<Meter> {
    const COLUMNS: usize = 12;
    let mut words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let columns: [&[u8]; COLUMNS] = std::array::from_fn(|_| words.next().unwrap_or_default());
    let is_time = |word: &[u8]| word == b"--:--:--" || clock(word).is_some();
    if words.next().is_some() || !columns[8..11].iter().all(|word| is_time(word)) {
        return None;
    }
    let percent = number_after(columns[0], 0).filter(|percent| percent.value <= 100.0)?;
    let (total, received) = (curl_size(columns[1])?, curl_size(columns[3])?);
    let counts = Found::units(received, total).of(Some("bytes"));
    Some(Meter((total > 0).then_some(Found { percent: Some(percent.value), ..counts })))
}

/// Reads a size of curl, whose units are powers of 1024.
fn curl_size(word: &[u8]) -> Option<u64> {
    let number = number_after(word, 0)?;
    let factor = match word.get(number.end) {
        None => 1.0,
        Some(b'k') => 1024.0,
        Some(b'M') => 1024.0 * 1024.0,
        Some(b'G') => 1024.0 * 1024.0 * 1024.0,
        Some(_) => return None,
    };
    Some(number.times(factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Option<Found> {
        Context::default().find(text.as_bytes(), false).and_then(|meter| meter.0)
    }

    #[test]
    fn tqdm_has_percentage_counts_label_and_unit() {
        let found = one("Encoding:  45%|####5     | 45/100 [00:04<00:05, 10.00frames/s]").expect("a bar");
        let expected = Found { percent: Some(45.0), stage: Some("Encoding".to_owned()), ..Found::units(45, 100) };
        assert_eq!(found, expected.of(Some("frames")));
        let found = one(" 50%|#####     | 1.50M/3.00M [00:01<00:00, 1.99MB/s]").expect("a bar");
        assert_eq!(
            (found.completed, found.total, found.unit.as_deref()),
            (Some(1_500_000), Some(3_000_000), Some("bytes"))
        );
        assert_eq!(one("45it [00:04, 10.0it/s]").and_then(|found| found.completed), Some(45));
        assert_eq!(one("visit [00:04, here]"), None);
    }

    #[test]
    fn curl_counts_only_after_its_heading() {
        let line = b" 50 2929k   50 1464k    0     0  1029k      0  0:00:02  0:00:01  0:00:01 1030k";
        assert_eq!(Context::default().find(line, false), None);
        let mut context = Context::default();
        context.find(b"  % Total    % Received % Xferd  Average Speed   Time", false);
        let found = context.find(line, false).and_then(|meter| meter.0).expect("the meter");
        assert_eq!((found.percent, found.completed, found.total), (Some(50.0), Some(1464 << 10), Some(2929 << 10)));
        let unknown = b"  0     0    0     0    0     0      0      0 --:--:-- --:--:-- --:--:--     0";
        assert_eq!(context.find(unknown, false), Some(Meter(None)));
    }

    #[test]
    fn rsync_counts_files_once_one_of_several_is_complete() {
        let mut context = Context::default();
        let mut find = |text: &str| context.find(text.as_bytes(), false).and_then(|meter| meter.0);
        assert_eq!(find("   32,768   8%    1.00kB/s    0:00:00"), Some(Found::percent(8.0)));
        let files = find("  400,000 100%    1.64MB/s    0:00:00 (xfr#1, to-chk=4/6)");
        assert_eq!(files, Some(Found::units(2, 6).of(Some("files"))));
        assert_eq!(find("   32,768   8%    1.00kB/s    0:00:00"), None);
    }

    #[test]
    fn ffmpeg_needs_the_duration_of_its_input() {
        let mut context = Context::default();
        let mut find = |text: &str| context.find(text.as_bytes(), false).and_then(|meter| meter.0);
        assert_eq!(find("out_time_us=500000"), None);
        find("  Duration: 00:00:02.00, start: 0.000000, bitrate: 11 kb/s");
        assert_eq!(find("out_time_us=500000"), Some(Found::percent(25.0)));
        assert_eq!(
            find("frame=   10 fps=0.0 q=0.0 size=   0kB time=00:00:01.00 bitrate=N/A"),
            Some(Found::percent(50.0))
        );
        assert_eq!(find("out_time_us=N/A"), None);
        assert_eq!(find("progress=end"), Some(Found::percent(100.0)));
        assert_eq!(find("Input #0, lavfi, from 'testsrc':"), None);
        assert_eq!(find("out_time_us=500000"), None);
    }
}
