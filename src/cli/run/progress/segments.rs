//! Output, cut into the lines that a terminal would show one after the other.

use memchr::{memchr3, memchr3_iter, memrchr3};

/// Maximum length of a segment in bytes. Only the first segment of a longer line is searched for progress.
pub const SEGMENT_MAX: usize = 4096;

/// End of an operating system command, the escape sequence that carries progress.
const BELL: u8 = 0x07;

/// A part of the output between two line ends, carriage returns or bells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// The bytes, without the line end.
    pub bytes: &'a [u8],
    /// The segment is the start of a line. Otherwise it is a later part of a line that is too long.
    pub is_start: bool,
}

/// Splitter of output into segments. The segments do not depend on how the output is divided into reads.
#[derive(Debug)]
pub struct Segments {
    /// The unfinished segment, at most [`SEGMENT_MAX`] bytes.
    pending: Vec<u8>,
    is_start: bool,
}

impl Default for Segments {
    fn default() -> Self {
        Self { pending: Vec::new(), is_start: true }
    }
}

impl Segments {
    /// Adds bytes, and calls `each` with each segment that these bytes complete.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Segment<'_>)) {
        let mut start = 0;
        for at in memchr3_iter(b'\n', b'\r', BELL, bytes) {
            let line = &bytes[start..at];
            start = at + 1;
            // Most lines are whole in `bytes`, and are not copied.
            if self.pending.is_empty() && self.is_start && line.len() <= SEGMENT_MAX {
                if !line.is_empty() {
                    each(Segment { bytes: line, is_start: true });
                }
                continue;
            }
            self.add(line, &mut each);
            if !self.pending.is_empty() {
                each(Segment { bytes: &self.pending, is_start: self.is_start });
            }
            self.pending.clear();
            self.is_start = true;
        }
        self.add(&bytes[start..], &mut each);
    }

    /// Adds bytes that have no progress, without splitting them into segments.
    pub fn skip(&mut self, bytes: &[u8]) {
        match memrchr3(b'\n', b'\r', BELL, bytes) {
            Some(last) => {
                self.pending.clear();
                self.is_start = true;
                self.add(&bytes[last + 1..], &mut |_| {});
            }
            None => self.add(bytes, &mut |_| {}),
        }
    }

    /// Returns the unfinished segment.
    pub fn pending(&self) -> Segment<'_> {
        Segment { bytes: &self.pending, is_start: self.is_start }
    }

    /// Adds a part of a line. Calls `each` whenever the segment reaches its maximum length.
    fn add(&mut self, mut part: &[u8], each: &mut impl FnMut(Segment<'_>)) {
        while self.pending.len() + part.len() > SEGMENT_MAX {
            let (fits, rest) = part.split_at(SEGMENT_MAX - self.pending.len());
            self.pending.extend_from_slice(fits);
            each(Segment { bytes: &self.pending, is_start: self.is_start });
            self.pending.clear();
            self.is_start = false;
            part = rest;
        }
        self.pending.extend_from_slice(part);
        debug_assert!(self.pending.len() <= SEGMENT_MAX);
    }
}

/// Returns the index after the first line end, carriage return or bell; without one, the length.
pub fn first_end(bytes: &[u8]) -> usize {
    memchr3(b'\n', b'\r', BELL, bytes).map_or(bytes.len(), |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(parts: &[&[u8]]) -> (Vec<(Vec<u8>, bool)>, Vec<u8>) {
        let (mut found, mut segments) = (Vec::new(), Segments::default());
        for part in parts {
            segments.feed(part, |segment| found.push((segment.bytes.to_vec(), segment.is_start)));
        }
        (found, segments.pending().bytes.to_vec())
    }

    #[test]
    fn lines_end_at_line_feeds_carriage_returns_and_bells() {
        let (found, pending) = segments(&[b"a\r\nb\rc\x07\n\nd"]);
        assert_eq!(found, [b"a", b"b", b"c"].map(|text| (text.to_vec(), true)));
        assert_eq!(pending, b"d");
    }

    #[test]
    fn long_line_is_cut_at_the_same_places_however_it_is_read() {
        let mut text = vec![b'x'; SEGMENT_MAX * 2 + 1];
        text.extend(b"\nb\n");
        let whole = segments(&[&text]);
        let starts: Vec<_> = whole.0.iter().map(|(bytes, is_start)| (bytes.len(), *is_start)).collect();
        assert_eq!(starts, [(SEGMENT_MAX, true), (SEGMENT_MAX, false), (1, false), (1, true)]);
        for at in [1, SEGMENT_MAX - 1, SEGMENT_MAX, SEGMENT_MAX + 1, 2 * SEGMENT_MAX, 2 * SEGMENT_MAX + 1] {
            assert_eq!(segments(&[&text[..at], &text[at..]]), whole, "split at {at}");
        }
    }

    #[test]
    fn line_of_the_maximum_length_is_whole() {
        let mut text = vec![b'x'; SEGMENT_MAX];
        text.push(b'\n');
        assert_eq!(segments(&[&text]).0.len(), 1);
        assert_eq!(segments(&[&text[..9], &text[9..]]).0.len(), 1);
    }
}
