//! Explicit progress: JSON lines, and lines that match the user's pattern.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use regex::bytes::{Captures, Regex};
use serde::Deserialize;

use super::{found::Found, numbers::number_after};

/// A line such as `{"percent": 45, "stage": "encode"}`. Other fields are ignored.
#[derive(Deserialize)]
struct Line {
    percent: Option<f64>,
    completed: Option<u64>,
    total: Option<u64>,
    unit: Option<String>,
    stage: Option<String>,
    message: Option<String>,
}

/// Finders of these fields: a line with progress has at least one of them. A search is cheaper than parsing each JSON
/// line.
static FIELDS: LazyLock<[Finder<'static>; 3]> =
    LazyLock::new(|| [r#""percent""#, r#""completed""#, r#""stage""#].map(Finder::new));

/// Returns the progress of a JSON line. A line without `percent`, `completed` and `stage` is a log line.
pub fn json(text: &[u8]) -> Option<Found> {
    let text = text.trim_ascii();
    let is_object = text.starts_with(b"{") && text.ends_with(b"}");
    if !is_object || FIELDS.iter().all(|field| field.find(text).is_none()) {
        return None;
    }
    let Line { percent, completed, total, unit, stage, message } = serde_json::from_slice(text).ok()?;
    let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
    let is_progress = percent.is_some() || completed.is_some() || stage.is_some();
    is_progress.then_some(Found { percent, completed, total, unit, stage, message })
}

/// The user's pattern for lines with progress.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

/// Names of the groups that have a meaning.
const GROUPS: [&str; 5] = ["percent", "completed", "total", "stage", "message"];

impl Pattern {
    /// Parses a regular expression, which needs at least one named group of `GROUPS`.
    pub fn parse(pattern: &str) -> Result<Self, String> {
        let regex = Regex::new(pattern).map_err(|error| error.to_string())?;
        let has_group = regex.capture_names().flatten().any(|name| GROUPS.contains(&name));
        if has_group {
            Ok(Self(regex))
        } else {
            Err(format!("the expression needs a named group, such as (?P<percent>…); the names are {GROUPS:?}"))
        }
    }

    /// Returns the progress of a line that matches.
    pub fn find(&self, text: &[u8]) -> Option<Found> {
        let groups = self.0.captures(text)?;
        let found = Found {
            percent: number(&groups, "percent").filter(|percent| *percent <= 100.0),
            completed: count(&groups, "completed"),
            total: count(&groups, "total"),
            stage: words(&groups, "stage"),
            message: words(&groups, "message"),
            unit: None,
        };
        (found != Found::default()).then_some(found)
    }
}

fn number(groups: &Captures<'_>, name: &str) -> Option<f64> {
    number_after(groups.name(name)?.as_bytes(), 0).map(|number| number.value)
}

fn count(groups: &Captures<'_>, name: &str) -> Option<u64> {
    number_after(groups.name(name)?.as_bytes(), 0).map(|number| number.times(1.0))
}

fn words(groups: &Captures<'_>, name: &str) -> Option<String> {
    let words = String::from_utf8_lossy(groups.name(name)?.as_bytes()).trim().to_owned();
    Some(words).filter(|words| !words.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_json_are_read() {
        let found =
            json(br#" {"percent": 45.5, "stage": "encode", "message": "a", "level": "info"} "#).expect("progress");
        assert_eq!(
            (found.percent, found.stage.as_deref(), found.message.as_deref()),
            (Some(45.5), Some("encode"), Some("a"))
        );
        assert_eq!(json(br#"{"completed":3,"total":10}"#), Some(Found::units(3, 10)));
        for other in [
            r#"{"level":"info","message":"45%"}"#,
            r#"{"percent":"45"}"#,
            r#"{"percent":145}"#,
            r#"{"percent":-1}"#,
            r#"{"percent":45"#,
            "{}",
            "{45%}",
        ] {
            assert_eq!(json(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn named_groups_of_a_pattern_are_values() {
        let pattern =
            Pattern::parse(r"(?P<stage>\w+) at (?P<completed>[\d,]+)/(?P<total>\d+)(?: \((?P<percent>\S+)%\))?");
        let pattern = pattern.expect("it is valid");
        let found = pattern.find(b"x: encode at 1,200/5000 (24%)").expect("it matches");
        let expected = Found { percent: Some(24.0), stage: Some("encode".to_owned()), ..Found::units(1200, 5000) };
        assert_eq!(found, expected);
        assert_eq!(pattern.find(b"45%"), None);
        assert!(Pattern::parse("[").is_err());
        assert!(Pattern::parse(r"(\d+)%").expect_err("no name").contains("(?P<percent>"));
    }
}
