//! Conversion of JSON to encoded messages, without a tree of values in between.
//!
//! The result is the message that prost-reflect reads, at a fraction of the cost. Two cases are left to prost-reflect:
//! invalid requests, because its errors have the position of the problem, and rare forms, such as a number that is
//! written as a string. A test compares the two readers.

use std::{
    collections::HashSet,
    fmt::{self, Formatter},
};

use prost::encoding::{self, WireType, encode_key, encode_varint};
use prost_types::Duration;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor},
};

use super::form::{Field, Form, Shape, ValueForm};
use crate::domain::Document;

/// Maximum number of seconds in a duration of protobuf: about 10,000 years.
const SECONDS_MAX: i64 = 315_576_000_000;

impl Form {
    /// Reads a message from JSON text, and appends the encoded message to `into`. `id` is the id in the path, with the
    /// field that it becomes. Returns `None`, and appends nothing, if prost-reflect must read the text.
    pub fn read(&self, json: &[u8], id: Option<(&Field, &str)>, into: &mut Vec<u8>) -> Option<()> {
        let start = into.len();
        let read = self.try_read(json, id, into);
        if read.is_none() {
            into.truncate(start);
        }
        read
    }

    fn try_read(&self, json: &[u8], id: Option<(&Field, &str)>, into: &mut Vec<u8>) -> Option<()> {
        // UTF-8 is checked once for the whole text, not for each string in it.
        let mut source = serde_json::Deserializer::from_str(str::from_utf8(json).ok()?);
        let given = MessageReader { form: self, into }.deserialize(&mut source).ok()?;
        source.end().ok()?;
        if let Some((field, id)) = id {
            // If the body has an id, too, the slower reader compares both.
            given.without(field)?;
            encode_text(field.number, id, into);
        }
        Some(())
    }
}

/// Set of the fields that were read so far: a bit mask by field number.
#[derive(Clone, Copy, Default)]
struct Given(u64);

impl Given {
    /// Adds a field. Returns `None` if the set has the field already, or its number has no bit.
    fn with(self, field: &Field) -> Option<Self> {
        let bit = 1_u64.checked_shl(field.number)?;
        (self.0 & bit == 0).then_some(Self(self.0 | bit))
    }

    /// Returns `None` if the set has the field.
    fn without(self, field: &Field) -> Option<()> {
        self.with(field).map(|_| ())
    }
}

/// Returns the error that leaves a text to prost-reflect. No caller sees this error.
fn rare<E: Error>() -> E {
    E::custom("rare")
}

/// Reads the fields of a message.
struct MessageReader<'a> {
    form: &'a Form,
    into: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for MessageReader<'_> {
    type Value = Given;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Given, D::Error> {
        source.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MessageReader<'_> {
    type Value = Given;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Given, A::Error> {
        let mut given = Given::default();
        while let Some(field) = map.next_key_seed(FieldName(self.form))? {
            given = given.with(field).ok_or_else(rare)?;
            map.next_value_seed(FieldReader { field, into: self.into })?;
        }
        Ok(given)
    }
}

/// Reads the name of a field.
struct FieldName<'a>(&'a Form);

impl<'a, 'de> DeserializeSeed<'de> for FieldName<'a> {
    type Value = &'a Field;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<&'a Field, D::Error> {
        source.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for FieldName<'a> {
    type Value = &'a Field;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<&'a Field, E> {
        self.0.field(name).ok_or_else(rare)
    }
}

/// Reads the value of a field: one value, a list, a map or `null`.
struct FieldReader<'a> {
    field: &'a Field,
    into: &'a mut Vec<u8>,
}

impl<'a> FieldReader<'a> {
    const fn value(self) -> ValueReader<'a> {
        ValueReader { number: self.field.number, form: &self.field.value, into: self.into }
    }
}

impl<'de> DeserializeSeed<'de> for FieldReader<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        source.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for FieldReader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("the value of a field")
    }

    /// A field that is `null` is absent.
    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        match self.field.shape {
            Shape::Single => self.value().deserialize(source),
            Shape::List => source.deserialize_seq(self),
            Shape::Map => source.deserialize_map(self),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self { field, into } = self;
        while list.next_element_seed(FieldReader { field, into }.value())?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut known, mut pair) = (HashSet::new(), Vec::new());
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            pair.clear();
            encode_text(1, &key, &mut pair);
            encode_text(2, &value, &mut pair);
            encode_bytes(self.field.number, &pair, self.into);
            if !known.insert(key) {
                return Err(rare());
            }
        }
        Ok(())
    }
}

/// Reads one value, which must not be `null`.
struct ValueReader<'a> {
    number: u32,
    form: &'a ValueForm,
    into: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for ValueReader<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        match self.form {
            ValueForm::Message(form) => {
                let mut message = Vec::new();
                MessageReader { form, into: &mut message }.deserialize(source)?;
                encode_bytes(self.number, &message, self.into);
                Ok(())
            }
            ValueForm::Struct => {
                let document = Document::deserialize(source)?;
                if document.has_repeated_names() {
                    return Err(rare());
                }
                encode_bytes(self.number, document.encoded(), self.into);
                Ok(())
            }
            _ => source.deserialize_any(self),
        }
    }
}

impl Visitor<'_> for ValueReader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        match self.form {
            ValueForm::Bool => encoding::bool::encode(self.number, &value, self.into),
            _ => return Err(rare()),
        }
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "prost-reflect rounds such numbers, too")]
    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        match self.form {
            ValueForm::Int32 => {
                let value = i32::try_from(value).map_err(|_| rare())?;
                encoding::int32::encode(self.number, &value, self.into);
            }
            ValueForm::Int64 => encoding::int64::encode(self.number, &value, self.into),
            ValueForm::Double => encoding::double::encode(self.number, &(value as f64), self.into),
            _ => return Err(rare()),
        }
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.visit_i64(i64::try_from(value).map_err(|_| rare())?)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        match self.form {
            ValueForm::Double => encoding::double::encode(self.number, &value, self.into),
            _ => return Err(rare()),
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        match self.form {
            ValueForm::Text => encode_text(self.number, value, self.into),
            ValueForm::Int64 => {
                encoding::int64::encode(self.number, &value.parse().map_err(|_| rare())?, self.into);
            }
            ValueForm::Enum(values) => {
                let (number, _) = values.iter().find(|(_, name)| name == value).ok_or_else(rare)?;
                encoding::int32::encode(self.number, number, self.into);
            }
            ValueForm::Duration => {
                let value: Duration = value.parse().map_err(|_| rare())?;
                if !(0..=SECONDS_MAX).contains(&value.seconds) || value.nanos < 0 {
                    return Err(rare());
                }
                encoding::message::encode(self.number, &value, self.into);
            }
            _ => return Err(rare()),
        }
        Ok(())
    }
}

fn encode_text(number: u32, text: &str, into: &mut Vec<u8>) {
    encode_bytes(number, text.as_bytes(), into);
}

fn encode_bytes(number: u32, bytes: &[u8], into: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, into);
    encode_varint(bytes.len() as u64, into);
    into.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests;
