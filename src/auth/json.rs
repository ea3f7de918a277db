//! JSON files without duplicate keys. With duplicate keys `serde_json` uses the last value, while a person who reads
//! the file may have seen the first one.

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor},
};
use thiserror::Error;

/// A file that is not the expected JSON.
#[derive(Debug, Error)]
#[error("line {line}, column {column}: {problem}")]
pub struct JsonError {
    line: usize,
    column: usize,
    problem: Problem,
}

#[derive(Debug, Error)]
enum Problem {
    #[error("{}", TWICE)]
    DuplicateKey,
    #[error("it must be {0}, in JSON")]
    Form(&'static str),
}

/// Parses a file. `form` describes the expected value in errors, which contain nothing of the file.
pub fn parse<T: DeserializeOwned>(contents: &[Vec<u8>], form: &'static str) -> Result<T, JsonError> {
    let contents = contents.concat();
    let checked = serde_json::from_slice::<UniqueKeys>(&contents).map(drop);
    checked.and_then(|()| serde_json::from_slice(&contents)).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        // The message of serde_json is not used, because it may quote a part of the data.
        let is_twice = error.to_string().starts_with(TWICE);
        let problem = if is_twice { Problem::DuplicateKey } else { Problem::Form(form) };
        JsonError { line, column, problem }
    })
}

const TWICE: &str = "an object has a key twice: remove one of the two";

/// Any JSON without duplicate keys.
struct UniqueKeys;

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueKeysVisitor)
    }
}

struct UniqueKeysVisitor;

impl<'de> Visitor<'de> for UniqueKeysVisitor {
    type Value = UniqueKeys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueKeys, A::Error> {
        let mut keys = HashSet::new();
        while let Some((key, UniqueKeys)) = map.next_entry::<String, _>()? {
            if !keys.insert(key) {
                return Err(A::Error::custom(TWICE));
            }
        }
        Ok(UniqueKeys)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<UniqueKeys, A::Error> {
        while items.next_element::<UniqueKeys>()?.is_some() {}
        Ok(UniqueKeys)
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_duplicate_key_is_an_error_with_its_position() {
        let good = r#"{"a": [{"b": 1, "c": null}, {"b": -2.5, "c": "b"}], "b": true}"#;
        assert!(parse::<Value>(&[good.into()], "x").is_ok());
        for bad in [r#"{"secret":1,"secret":2}"#, r#"{"a":[{"b":{"c":1,"d":2,"c":1}}]}"#, r#"{"a":1,"\u0061":2}"#] {
            let problem = parse::<Value>(&[b"\n".into(), bad.into()], "x").expect_err(bad).to_string();
            assert!(problem.starts_with("line 2, column ") && problem.contains("twice"), "{bad}: {problem}");
            assert!(!problem.contains("secret"), "{problem}");
        }
        for bad in ["", "{", r#"{"a":1}}"#, "[1,]"] {
            let problem = parse::<Value>(&[bad.into()], "a list").expect_err(bad).to_string();
            assert!(problem.contains("it must be a list, in JSON"), "{bad}: {problem}");
        }
    }
}
