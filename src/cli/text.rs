//! Text from other programs, made safe for a terminal.

use std::{borrow::Cow, fmt::Write, ops::RangeInclusive};

/// Returns text on one line, with terminal control characters escaped: any caller can set titles and messages.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(controls) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        match letter {
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            letter if controls(letter) => _ = write!(escaped, "\\u{{{:x}}}", u32::from(letter)),
            letter => escaped.push(letter),
        }
    }
    escaped.into()
}

/// Returns JSON with terminal control characters escaped. Valid JSON has such characters only inside strings, where the
/// escape `\uXXXX` is equivalent.
pub fn escape_json(json: &str) -> Cow<'_, str> {
    let is_raw = |letter: char| letter != '\n' && controls(letter);
    if !json.chars().any(is_raw) {
        return json.into();
    }
    let mut escaped = String::with_capacity(json.len() + 8);
    for letter in json.chars() {
        // All of these characters have at most four hexadecimal digits.
        if is_raw(letter) { _ = write!(escaped, "\\u{:04x}", u32::from(letter)) } else { escaped.push(letter) }
    }
    escaped.into()
}

/// Further characters to escape: they change the text direction or end a line.
const MARKS: [RangeInclusive<char>; 4] =
    ['\u{61c}'..='\u{61c}', '\u{200e}'..='\u{200f}', '\u{2028}'..='\u{202e}', '\u{2066}'..='\u{2069}'];

/// Returns whether a character can control a terminal or mislead its reader.
fn controls(letter: char) -> bool {
    letter.is_control() || MARKS.iter().any(|range| range.contains(&letter))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escape("grün 日本"), "grün 日本");
        assert_eq!(escape("a\u{1b}[2Jb\r\n\u{9b}c\u{7f}\u{202e}"), r"a\u{1b}[2Jb\r\n\u{9b}c\u{7f}\u{202e}");
    }

    #[test]
    fn json_without_control_characters_is_the_same() {
        let json = serde_json::to_string(&["a\u{9b}b\u{7f}\u{202e}\u{1b}\n"]).expect("JSON");
        let escaped = escape_json(&json);
        assert!(!escaped.chars().any(controls), "{escaped}");
        let [json, escaped] = [&*json, &*escaped].map(|json| serde_json::from_str::<Value>(json).expect("JSON"));
        assert_eq!(json, escaped);
    }
}
