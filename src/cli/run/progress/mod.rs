//! Detection of progress in the bytes of output. It is pure: it performs no I/O and knows no time.
//!
//! Output is cut into [`segments`], which a terminal would show one after the other, and escape sequences are removed.
//! The newest segment with progress is used. If a segment has several forms of progress, the most certain form is used:
//! explicit progress, then the meter of a known program, then a percentage or a count that the rest of the line
//! confirms.

mod counts;
mod escapes;
mod found;
mod given;
mod numbers;
pub mod segments;
mod tools;
mod words;

use memchr::{memchr, memchr3};

use self::{
    escapes::{ESCAPE, has_escapes, plain},
    segments::{Segment, Segments, first_end},
    tools::Context,
};
pub use self::{found::Found, given::Pattern};

/// An output stream of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Standard output, or both outputs in one stream.
    Output = 0,
    /// Standard error.
    Error = 1,
}

/// Finds progress in the outputs of a program.
#[derive(Debug, Default)]
pub struct Detector {
    lanes: [Segments; 2],
    rules: Rules,
    /// The newest progress.
    found: Found,
    is_news: bool,
}

/// The rules for segments.
#[derive(Debug, Default)]
struct Rules {
    /// The user's pattern, which replaces all other forms of progress.
    pattern: Option<Pattern>,
    context: Context,
}

impl Detector {
    /// Returns a detector of lines that match `pattern`, or without a pattern of all known forms of progress.
    pub fn new(pattern: Option<Pattern>) -> Self {
        Self { rules: Rules { pattern, ..Rules::default() }, ..Self::default() }
    }

    /// Processes bytes that the program has written.
    pub fn feed(&mut self, lane: Lane, bytes: &[u8]) {
        let Self { lanes, rules, found, is_news } = self;
        let lane = &mut lanes[lane as usize];
        let mut each = |rules: &mut Rules, segment: Segment<'_>| {
            if let Some(new) = rules.find(segment) {
                note(found, is_news, new);
            }
        };
        // The first line may have begun in earlier bytes, and may be a heading after which later lines count as
        // progress. Therefore it is processed before the rest is tested.
        let (first, rest) = bytes.split_at(first_end(bytes));
        lane.feed(first, |segment| each(rules, segment));
        if rules.may_have_progress(rest) {
            lane.feed(rest, |segment| each(rules, segment));
        } else {
            lane.skip(rest);
        }
    }

    /// Processes the unfinished line. Must be called when nothing was written for a while, because many bars never end
    /// their line.
    pub fn settle(&mut self, lane: Lane) {
        let Self { lanes, rules, found, is_news } = self;
        if let Some(new) = rules.find(lanes[lane as usize].pending()) {
            note(found, is_news, new);
        }
    }

    /// Returns whether there is progress that [`take`](Self::take) has not returned yet.
    pub fn has_news(&self) -> bool {
        self.is_news
    }

    /// Returns the newest progress, unless it was returned before.
    pub fn take(&mut self) -> Option<Found> {
        std::mem::take(&mut self.is_news).then(|| self.found.clone())
    }
}

/// Returns output as text, without escape sequences and control characters.
pub fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&plain(bytes).text).into_owned();
    text.replace(|letter: char| letter.is_control() && letter != '\t', "")
}

/// Replaces the percentage, the counts and the unit. The stage and the message are kept until a line has new ones.
fn note(found: &mut Found, is_news: &mut bool, new: Found) {
    let (stage, message) = (found.stage.clone(), found.message.clone());
    let newest = Found { stage: new.stage.or(stage), message: new.message.or(message), ..new };
    if *found != newest {
        *found = newest;
        *is_news = true;
    }
}

impl Rules {
    fn find(&mut self, segment: Segment<'_>) -> Option<Found> {
        if !has_escapes(segment.bytes) {
            return self.find_in_text(segment.bytes, segment.is_start, false);
        }
        let plain = plain(segment.bytes);
        let given = plain.percent.filter(|_| self.pattern.is_none()).map(Found::percent);
        given.or_else(|| self.find_in_text(&plain.text, segment.is_start, plain.is_below))
    }

    fn find_in_text(&mut self, text: &[u8], is_start: bool, is_below: bool) -> Option<Found> {
        // Only the first part of a line that is too long is searched: a later part would look like the start of a line.
        if !is_start {
            return None;
        }
        if !self.may_have_progress(text) {
            return None;
        }
        if let Some(pattern) = &self.pattern {
            return pattern.find(text);
        }
        if let Some(found) = given::json(text) {
            return Some(found);
        }
        match self.context.find(text, is_below) {
            Some(meter) => meter.0,
            None => counts::find(text),
        }
    }

    /// Returns whether one or more lines may have progress. This test is cheap, and excludes most output.
    fn may_have_progress(&self, text: &[u8]) -> bool {
        self.pattern.is_some()
            || memchr3(b'%', b'/', b'{', text).is_some()
            || memchr3(b'=', b'#', ESCAPE, text).is_some()
            || counts::OF.find(text).is_some()
            || (self.context.expects_meter() && memchr(b':', text).is_some())
    }
}
