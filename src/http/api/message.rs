//! Conversion of JSON to messages.
//!
//! An error names the invalid field as the gRPC handlers do: by the path in the request, with the names of the protos.

use std::{
    borrow::Cow,
    collections::HashSet,
    fmt::{self, Write},
};

use prost_reflect::{DynamicMessage, FieldDescriptor, MessageDescriptor};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;
use serde_path_to_error::{Path, Segment, Track};

use crate::domain::{Violation, cut};

/// Maximum length in bytes of a key or a description in an error. An error does not repeat a long request.
const TOLD_MAX: usize = 256;

/// Converts JSON text to a message.
pub fn from_text(message: &MessageDescriptor, json: &[u8]) -> Result<DynamicMessage, Violation> {
    let source = || serde_json::Deserializer::from_slice(json);
    let mut check = source();
    located(message, Distinct::in_message(message), &mut check)?;
    check.end().map_err(|error| violation("body", &error))?;
    located(message, message.clone(), &mut source())
}

/// Converts a JSON value to a message.
pub fn from_value(message: &MessageDescriptor, json: Value) -> Result<DynamicMessage, Violation> {
    located(message, message.clone(), json)
}

/// Returns the field with this name, in JSON or in the proto file.
pub fn field(message: &MessageDescriptor, key: &str) -> Option<FieldDescriptor> {
    message.get_field_by_json_name(key).or_else(|| message.get_field_by_name(key))
}

/// Deserializes `source` with `seed`. An error names the invalid field of `message`.
fn located<'de, S, D>(message: &MessageDescriptor, seed: S, source: D) -> Result<S::Value, Violation>
where
    S: DeserializeSeed<'de>,
    D: Deserializer<'de, Error = serde_json::Error>,
{
    let mut track = Track::new();
    let read = seed.deserialize(serde_path_to_error::Deserializer::new(source, &mut track));
    read.map_err(|error| violation(&path_in(message, &track.path()), &error))
}

fn violation(field: &str, error: &serde_json::Error) -> Violation {
    Violation { field: field.to_owned(), description: cut(error.to_string(), TOLD_MAX) }
}

/// Returns a path in a message, with the names of the protos; `body` stands for the whole message.
fn path_in(message: &MessageDescriptor, path: &Path) -> String {
    let (mut text, mut scope) = (String::new(), Some(message.clone()));
    for segment in path {
        match segment {
            Segment::Seq { index } => _ = write!(text, "[{index}]"),
            Segment::Map { key } => {
                let found = scope.as_ref().and_then(|message| field(message, key));
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(&found.as_ref().map_or_else(|| cut(key.clone(), TOLD_MAX), |it| it.name().to_owned()));
                scope = found.as_ref().and_then(message_of);
            }
            // These segments only occur for an error inside a key; the path ends before it.
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    if text.is_empty() { "body".to_owned() } else { text }
}

/// Returns the message type of a field; `None` for maps and messages of `google.protobuf`, whose JSON form is special.
fn message_of(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    let message = field.kind().as_message().cloned().filter(|_| !field.is_map());
    message.filter(|message| !message.full_name().starts_with("google.protobuf."))
}

/// Checks that no object has two members of the same name. Programs differ in which of two such members they use.
#[derive(Clone)]
struct Distinct {
    /// Type of the message, whose fields have two names each; `None`: the value is not a message.
    message: Option<MessageDescriptor>,
}

impl Distinct {
    fn in_message(message: &MessageDescriptor) -> Self {
        Self { message: Some(message.clone()) }
    }

    /// Checks the members of an object that is not a message.
    fn keys<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            if seen.insert(key) {
                map.next_value_seed(Self { message: None })?;
            } else {
                map.next_value_seed(Repeated)?;
            }
        }
        Ok(())
    }

    /// Checks the members of a message.
    fn fields<'de, A: MapAccess<'de>>(message: &MessageDescriptor, mut map: A) -> Result<(), A::Error> {
        let mut seen = Vec::new();
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            let Some(field) = field(message, &key) else {
                // The later conversion to a message reports unknown fields.
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if seen.contains(&field.number()) {
                map.next_value_seed(Repeated)?;
            }
            seen.push(field.number());
            if field.kind().as_message().is_some() {
                map.next_value_seed(Self { message: message_of(&field) })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Distinct {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        source.deserialize_any(self)
    }
}

/// Values other than objects and lists are checked by the later conversion to a message.
impl<'de> Visitor<'de> for Distinct {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self.clone())?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        match &self.message {
            Some(message) => Self::fields(message, map),
            None => Self::keys(map),
        }
    }
}

/// Returns an error when the second value of a name is read. At that time the tracked path ends with the name.
struct Repeated;

impl<'de> DeserializeSeed<'de> for Repeated {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        IgnoredAny::deserialize(source)?;
        Err(D::Error::custom("is given more than once"))
    }
}
