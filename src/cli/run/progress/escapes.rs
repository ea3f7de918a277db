//! Escape sequences of terminals. They are removed from the text; one of them, OSC 9;4, carries progress.

use memchr::memchr;

/// First byte of an escape sequence.
pub const ESCAPE: u8 = 0x1b;

/// Text of a segment without its escape sequences, and the information in them.
#[derive(Debug, Default, PartialEq)]
pub struct Plain {
    pub text: Vec<u8>,
    /// Percentage of the last progress sequence of the segment.
    pub percent: Option<f64>,
    /// A sequence moves the cursor up: the text is a bar below another bar.
    pub is_below: bool,
}

/// Returns whether a segment has escape sequences.
pub fn has_escapes(segment: &[u8]) -> bool {
    memchr(ESCAPE, segment).is_some()
}

/// Separates text from escape sequences. An incomplete sequence is removed, too.
pub fn plain(mut segment: &[u8]) -> Plain {
    let mut plain = Plain::default();
    while let Some(at) = memchr(ESCAPE, segment) {
        plain.text.extend_from_slice(&segment[..at]);
        segment = &segment[at + 1..];
        segment = match segment.first() {
            Some(b'[') => control_sequence(&segment[1..], &mut plain),
            Some(b']') => operating_system_command(&segment[1..], &mut plain),
            // Designates a character set: `ESC ( B`.
            Some(b'(' | b')') => segment.get(2..).unwrap_or_default(),
            Some(_) => &segment[1..],
            None => segment,
        };
    }
    plain.text.extend_from_slice(segment);
    plain
}

/// Reads a control sequence, `ESC [ parameters letter`. Returns the text after it.
fn control_sequence<'a>(rest: &'a [u8], plain: &mut Plain) -> &'a [u8] {
    let Some(end) = rest.iter().position(|byte| (0x40..=0x7e).contains(byte)) else { return &[] };
    match rest[end] {
        b'A' => plain.is_below = true,
        // The sequence erases the line: a terminal does not show the text before it.
        b'K' if matches!(&rest[..end], b"1" | b"2") => plain.text.clear(),
        _ => {}
    }
    &rest[end + 1..]
}

/// Reads an operating system command, `ESC ] text`. It ends with `ESC \`, or with a bell, which also ends the segment.
/// Returns the text after it.
fn operating_system_command<'a>(rest: &'a [u8], plain: &mut Plain) -> &'a [u8] {
    let end = memchr(ESCAPE, rest).unwrap_or(rest.len());
    plain.percent = progress(&rest[..end]).or(plain.percent);
    let rest = &rest[end..];
    rest.strip_prefix(&[ESCAPE, b'\\']).unwrap_or(rest)
}

/// Returns the percentage of `9;4;STATE;PERCENT`. Only the states 1 (normal), 2 (error) and 4 (paused) have a
/// percentage.
fn progress(command: &[u8]) -> Option<f64> {
    let command = str::from_utf8(command).ok()?.strip_prefix("9;4;")?;
    let (state, percent) = command.split_once(';')?;
    let percent: u8 = percent.parse().ok().filter(|percent| *percent <= 100)?;
    matches!(state, "1" | "2" | "4").then_some(percent.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(segment: &str) -> String {
        String::from_utf8(plain(segment.as_bytes()).text).expect("UTF-8")
    }

    #[test]
    fn sequences_are_removed_from_text() {
        for (segment, expected) in [
            ("\x1b[1;32mok\x1b[0m done", "ok done"),
            ("\x1b]0;45% title\x1b\\shown", "shown"),
            ("\x1b]0;45% title", ""),
            ("\x1b(Ba\x1b=b\x1b", "ab"),
            ("old\x1b[2Knew\x1b[K", "new"),
            ("cut\x1b[12", "cut"),
        ] {
            assert_eq!(text(segment), expected, "{segment:?}");
        }
    }

    #[test]
    fn progress_sequences_have_a_percentage() {
        for (segment, expected) in [
            ("\x1b]9;4;1;45\x1b\\", Some(45.0)),
            ("\x1b]9;4;2;100", Some(100.0)),
            ("\x1b]9;4;1;10\x1b\\a\x1b]9;4;1;20\x1b\\", Some(20.0)),
            ("\x1b]9;4;3;45", None),
            ("\x1b]9;4;0;0", None),
            ("\x1b]9;4;1;101", None),
            ("\x1b]9;4;1;", None),
            ("9;4;1;45", None),
        ] {
            assert_eq!(plain(segment.as_bytes()).percent, expected, "{segment:?}");
        }
    }
}
