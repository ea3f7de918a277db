//! The end of the output, for the message of a failure.

use super::progress::readable;

/// Maximum size of the message in bytes.
pub const MESSAGE_MAX: usize = 4096;

/// Number of last bytes that are kept: more than a message has, because bars and colours are removed from them.
const KEPT: usize = 4 * MESSAGE_MAX;

/// The last bytes that were written.
#[derive(Debug, Default)]
pub struct Tail {
    /// At most twice [`KEPT`].
    bytes: Vec<u8>,
}

impl Tail {
    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(KEPT)..];
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > 2 * KEPT {
            self.bytes.drain(..self.bytes.len() - KEPT);
        }
    }

    /// Returns the last lines, as a terminal would show them, in at most [`MESSAGE_MAX`] bytes.
    pub fn message(&self) -> String {
        let lines = self.bytes.split(|byte| *byte == b'\n').map(shown);
        let text = lines.collect::<Vec<_>>().join("\n");
        let text = text.trim_end();
        let mut start = text.len().saturating_sub(MESSAGE_MAX);
        while !text.is_char_boundary(start) {
            start += 1;
        }
        // A cut text begins with its first whole line, if it has one.
        let is_line_start = start == 0 || text.as_bytes()[start - 1] == b'\n';
        let cut = if is_line_start { 0 } else { text[start..].find('\n').map_or(0, |at| at + 1) };
        text[start + cut..].to_owned()
    }
}

/// Returns the part of a line that is visible after its carriage returns.
fn shown(line: &[u8]) -> String {
    let mut parts = line.split(|byte| *byte == b'\r').map(readable);
    parts.rfind(|part| !part.trim().is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(parts: &[&str]) -> String {
        let mut tail = Tail::default();
        for part in parts {
            tail.push(part.as_bytes());
        }
        tail.message()
    }

    #[test]
    fn message_is_what_a_terminal_shows() {
        assert_eq!(message(&["a\r\n 10%\r 20%\r\x1b[31mfailed\x1b[0m\r", "\nb\n\n"]), "a\nfailed\nb");
        assert_eq!(message(&[]), "");
    }

    #[test]
    fn message_is_the_end_of_long_output() {
        let lines = (0..100_000).map(|line| format!("line {line}")).collect::<Vec<_>>().join("\n");
        let all = message(&[&lines]);
        assert!(all.len() <= MESSAGE_MAX && all.starts_with("line ") && all.ends_with("line 99999"), "{all}");
        let pieces: Vec<_> = lines.as_bytes().chunks(777).map(|piece| str::from_utf8(piece).expect("ASCII")).collect();
        assert_eq!(message(&pieces), all);
        let fitting = "x".repeat(MESSAGE_MAX - "\nend".len()) + "\nend";
        assert_eq!(message(&["first\n", &fitting]), fitting);
        let long = "ä".repeat(10_000);
        assert!(message(&[&long]).len() >= MESSAGE_MAX - 1);
    }
}
