//! JSON files in which no object has a key twice. The library takes the last of two values, so that a file could say
//! something else than what a reader sees in it.

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error, MapAccess, SeqAccess, Visitor},
};

/// Parses a file, whose contents no error repeats. `form` is what it must be.
pub fn parse<T: DeserializeOwned>(contents: &[Vec<u8>], form: &str) -> Result<T, String> {
    let contents = contents.concat();
    let checked = serde_json::from_slice::<UniqueKeys>(&contents).map(drop);
    checked.and_then(|()| serde_json::from_slice(&contents)).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        // The message of an error in the data may repeat some of it.
        let is_twice = error.to_string().starts_with(TWICE);
        let problem = if is_twice { TWICE.to_owned() } else { format!("it must be {form}, in JSON") };
        format!("line {line}, column {column}: {problem}")
    })
}

const TWICE: &str = "a key is there twice in one object: leave out one of the two";

/// Any JSON in which no object has a key twice.
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

    fn visit_bool<E: Error>(self, _: bool) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_unit<E: Error>(self) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_key_that_is_there_twice_is_an_error_at_its_place() {
        let good = r#"{"a": [{"b": 1, "c": null}, {"b": -2.5, "c": "b"}], "b": true}"#;
        assert!(parse::<Value>(&[good.into()], "x").is_ok());
        for bad in [r#"{"secret":1,"secret":2}"#, r#"{"a":[{"b":{"c":1,"d":2,"c":1}}]}"#, r#"{"a":1,"\u0061":2}"#] {
            let problem = parse::<Value>(&[b"\n".into(), bad.into()], "x").expect_err(bad);
            assert!(problem.starts_with("line 2, column ") && problem.contains("twice"), "{bad}: {problem}");
            assert!(!problem.contains("secret"), "{problem}");
        }
        for bad in ["", "{", r#"{"a":1}}"#, "[1,]"] {
            let problem = parse::<Value>(&[bad.into()], "a list").expect_err(bad);
            assert!(problem.contains("it must be a list, in JSON"), "{bad}: {problem}");
        }
    }
}
