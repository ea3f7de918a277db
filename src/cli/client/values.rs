//! Parsers of flag values that several client commands share. Their errors name the valid forms.

use std::{
    fs,
    io::{self, Read},
    time::{Duration, SystemTime},
};

use jobtrack_client::{
    State,
    proto::{
        EncodedStruct,
        v1::{Liveness, View},
    },
};
use prost_types::Timestamp;
use serde_json::Value;

use crate::{cli::exit::CommandError, config};

/// Parses a pair `KEY=VALUE`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Parses the name of a state, in any case.
pub fn state(text: &str) -> Result<State, String> {
    let known = State::from_str_name(&format!("STATE_{}", text.to_uppercase()));
    let known = known.filter(|state| *state != State::Unspecified);
    known.ok_or_else(|| "write it as pending, running, succeeded, failed or cancelled".to_owned())
}

/// Parses the name of a liveness, in any case.
pub fn liveness(text: &str) -> Result<Liveness, String> {
    let known = Liveness::from_str_name(&format!("LIVENESS_{}", text.to_uppercase()));
    known.filter(|liveness| *liveness != Liveness::Unspecified).ok_or_else(|| "write it as live or lost".to_owned())
}

/// Parses a time: RFC 3339, or an age such as `2h`.
pub fn moment(text: &str) -> Result<Timestamp, String> {
    let now = SystemTime::now();
    let ago = config::duration(text).ok().and_then(|ago| now.checked_sub(ago));
    let time = ago.or_else(|| humantime::parse_rfc3339_weak(text).ok());
    time.map(Timestamp::from).ok_or_else(|| "write it as 2h, 3d or 2026-01-31T12:00:00Z".to_owned())
}

/// Converts a duration to its protobuf message.
pub fn to_proto(duration: Duration) -> prost_types::Duration {
    duration.try_into().expect("flags are limited to 3650 days")
}

/// Returns the view with documents, or the one without.
pub const fn view(is_full: bool) -> View {
    if is_full { View::Full } else { View::Basic }
}

/// Parses a document: a JSON object, `@FILE` for a file, or `-` for standard input. `flag` is named in errors.
pub fn document(flag: &str, text: &str) -> Result<EncodedStruct, CommandError> {
    let unreadable = |error: io::Error| CommandError::Usage(format!("{flag} {text}: {error}"));
    let json = match text.strip_prefix('@') {
        Some(path) => fs::read_to_string(path).map_err(unreadable)?,
        None if text == "-" => {
            let mut all = String::new();
            io::stdin().read_to_string(&mut all).map_err(unreadable)?;
            all
        }
        None => text.to_owned(),
    };
    match serde_json::from_str(&json) {
        Ok(Value::Object(fields)) => Ok(EncodedStruct::from_json(fields)),
        Ok(_) => Err(CommandError::Usage(format!("{flag}: a document is a JSON object, such as {{\"rows\": 3}}"))),
        Err(error) => Err(CommandError::Usage(format!("{flag}: {error}; write a JSON object, @FILE, or - for stdin"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_errors_say_what_to_write() {
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(pair("a").is_err_and(|error| error.contains("KEY=VALUE")));
        assert_eq!((state("running"), liveness("LOST")), (Ok(State::Running), Ok(Liveness::Lost)));
        assert!(state("unspecified").is_err_and(|error| error.contains("pending")));
        assert_eq!(moment("2026-01-31T12:00:00Z").map(|time| time.seconds), Ok(1_769_860_800));
        let ago = moment("1h").expect("a time").seconds;
        let now = Timestamp::from(SystemTime::now()).seconds;
        assert!((now - 3700..=now - 3600).contains(&ago), "{ago} at {now}");
        assert!(moment("yesterday").is_err_and(|error| error.contains("2026")));
    }

    #[test]
    fn only_objects_are_documents() {
        let fields = document("--result", r#"{"a": 1}"#).expect("a document").to_json();
        assert_eq!(fields, serde_json::json!({"a": 1}));
        for (text, problem) in [("[1]", "JSON object"), ("{", "EOF"), ("@/missing", "/missing")] {
            let error = document("--result", text).expect_err(text).to_string();
            assert!(error.contains("--result") && error.contains(problem), "{error}");
        }
    }
}
