//! Numbers in text.

/// A number in text, with its position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number {
    pub value: f64,
    pub is_whole: bool,
    /// Index of the first byte.
    pub start: usize,
    /// Index of the byte after the number.
    pub end: usize,
}

/// Maximum length of a number in bytes. Longer ones are identifiers, not counts.
const DIGITS_MAX: usize = 18;

impl Number {
    /// Returns the number times `factor`, rounded.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "no number is negative or near 2^64")]
    pub fn times(&self, factor: f64) -> u64 {
        (self.value * factor).round() as u64
    }
}

/// Returns the number that ends at `end`: `45`, `4.5` or `1,234`.
pub fn number_before(text: &[u8], end: usize) -> Option<Number> {
    let length = text[..end].iter().rev().take_while(|byte| is_part(**byte)).count();
    let start = (end - length..end).find(|at| text[*at].is_ascii_digit())?;
    parse(text, start, end)
}

/// Returns the number that starts at `start`.
pub fn number_after(text: &[u8], start: usize) -> Option<Number> {
    let rest = text.get(start..)?;
    let length = rest.iter().take_while(|byte| is_part(**byte)).count();
    // A full stop or comma after the number belongs to the sentence.
    let end = (start..start + length).rev().find(|at| text[*at].is_ascii_digit())? + 1;
    parse(text, start, end)
}

fn is_part(byte: u8) -> bool {
    byte.is_ascii_digit() || byte == b'.' || byte == b','
}

fn parse(text: &[u8], start: usize, end: usize) -> Option<Number> {
    let written = text.get(start..end).filter(|written| written.len() <= DIGITS_MAX)?;
    if !(written.first()?.is_ascii_digit() && written.last()?.is_ascii_digit()) {
        return None;
    }
    let mut digits = String::with_capacity(written.len());
    let groups = written.split(|byte| *byte == b',');
    for (index, group) in groups.enumerate() {
        // Commas separate thousands.
        let is_group = index == 0 || group.split(|byte| *byte == b'.').next().is_some_and(|group| group.len() == 3);
        if !is_group {
            return None;
        }
        digits.push_str(str::from_utf8(group).ok()?);
    }
    let value = digits.parse().ok()?;
    Some(Number { value, is_whole: !digits.contains('.'), start, end })
}

/// Returns the factor of the byte unit at index `at`, and the index after the unit: `MB`, `MiB`, `kB`, `K`, `bytes`.
pub fn byte_unit(text: &[u8], at: usize) -> Option<(f64, usize)> {
    const UNITS: [(&[u8], f64); 22] = [
        (b"bytes", 1.0),
        (b"KiB", 1024.0),
        (b"MiB", 1_048_576.0),
        (b"GiB", 1_073_741_824.0),
        (b"TiB", 1_099_511_627_776.0),
        (b"kB", 1e3),
        (b"KB", 1e3),
        (b"MB", 1e6),
        (b"GB", 1e9),
        (b"TB", 1e12),
        (b"kb", 1e3),
        (b"Kb", 1e3),
        (b"Mb", 1e6),
        (b"Gb", 1e9),
        (b"k", 1e3),
        (b"K", 1e3),
        (b"M", 1e6),
        (b"G", 1e9),
        (b"T", 1e12),
        (b"B", 1.0),
        (b"mb", 1e6),
        (b"gb", 1e9),
    ];
    let rest = text.get(at..)?;
    let (unit, factor) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit))?;
    let end = at + unit.len();
    text.get(end).is_none_or(|next| !next.is_ascii_alphanumeric()).then_some((*factor, end))
}

/// Returns the index of the first byte at or after `at` that is not a space.
pub fn skip_spaces(text: &[u8], at: usize) -> usize {
    let spaces = text.get(at..).unwrap_or_default().iter().take_while(|byte| **byte == b' ').count();
    at + spaces
}

/// Parses `[HH:]MM:SS[.fraction]`, and returns the time in seconds.
pub fn clock(text: &[u8]) -> Option<f64> {
    let text = str::from_utf8(text).ok()?;
    let mut seconds = 0.0;
    let mut parts = 0;
    for part in text.split(':') {
        let is_plain = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        seconds = seconds * 60.0 + part.parse::<f64>().ok().filter(|_| is_plain)?;
        parts += 1;
    }
    (2..=3).contains(&parts).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_both_directions() {
        for (text, expected) in
            [("45", Some(45.0)), ("4.5", Some(4.5)), ("1,234,567", Some(1_234_567.0)), ("1,23", None), ("x", None)]
        {
            let bytes = text.as_bytes();
            assert_eq!(number_before(bytes, bytes.len()).map(|number| number.value), expected, "{text}");
            assert_eq!(number_after(bytes, 0).map(|number| number.value), expected, "{text}");
        }
        assert_eq!(number_before(b"..45", 4).map(|number| number.start), Some(2));
        assert_eq!(number_after(b"45.", 0).map(|number| number.end), Some(2));
        assert_eq!(number_after(b"1234567890123456789", 0), None);
    }

    #[test]
    fn times_are_read() {
        for (text, expected) in
            [("01:00:01.5", Some(3601.5)), ("00:07", Some(7.0)), ("7", None), ("N/A", None), ("--:--", None)]
        {
            assert_eq!(clock(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn units_of_bytes_end_a_word() {
        assert_eq!(byte_unit(b"MB,", 0), Some((1e6, 2)));
        assert_eq!(byte_unit(b"MiB/s", 0), Some((1_048_576.0, 3)));
        assert_eq!(byte_unit(b"Mbit", 0), None);
        assert_eq!(byte_unit(b"files", 0), None);
    }
}
