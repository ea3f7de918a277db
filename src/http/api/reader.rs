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
        // Checked once, and not for each text in it.
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
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select, strategy::Union, test_runner::TestRunner};
    use std::cell::Cell;

    use prost::Message;
    use prost_reflect::{DynamicMessage, MessageDescriptor};

    use super::*;
    use crate::http::api::{message, schema::Schema};

    fn input(method: &str) -> MessageDescriptor {
        let (input, _, _) = Schema::new().method(method).expect("a method");
        input
    }

    /// Reads the request of a method, and compares it with what prost-reflect reads.
    fn read(input: &MessageDescriptor, json: &str) -> Option<()> {
        let mut encoded = Vec::new();
        Form::new(input.clone()).read(json.as_bytes(), None, &mut encoded)?;
        let decode = |encoded: &[u8]| DynamicMessage::decode(input.clone(), encoded).expect("a message");
        // Encoding a message again removes the fields that have their default value.
        let plain = |message: DynamicMessage| decode(&message.encode_to_vec());
        let reflected = message::from_text(input, json.as_bytes()).map(plain);
        // `assert_eq` would print both messages, which are long.
        assert!(reflected == Ok(plain(decode(&encoded))), "{json} is read as {encoded:x?}");
        Some(())
    }

    #[test]
    fn common_forms_are_read_here() {
        for (method, json) in [
            ("UpdateProgress", "{}"),
            (
                "UpdateProgress",
                r#"{"worker": "w", "progress": {"completed": "3", "total": 4, "percent": 1, "message": "\n\u00e9"}}"#,
            ),
            ("UpdateProgress", r#"{"progress": {"percent": 0.5, "stageIndex": 1, "details": {"a": [null, {}]}}}"#),
            ("UpdateProgress", r#"{"progress": null, "sequence": 9223372036854775807, "worker": null, "attempt": 2}"#),
            ("CreateJob", r#"{"job_id": "a", "kind": "k", "labels": {"a": "1", "": ""}, "leaseTimeout": "1.5s"}"#),
            ("CreateJob", r#"{"metadata": {"": -0.25, "b": true, "n": {"m": "x"}}, "failWhenLost": true}"#),
            ("FailJob", r#"{"failure": {"code": 10, "message": "m"}, "retry": false}"#),
        ] {
            assert_eq!(read(&input(&format!("JobService/{method}")), json), Some(()), "{json}");
        }
        let purge = input("AdminService/PurgeJobs");
        assert_eq!(read(&purge, r#"{"states": ["SUCCEEDED", "STATE_FAILED"], "olderThan": "0s"}"#), Some(()));
    }

    #[test]
    fn rare_forms_and_faults_are_left_to_prost_reflect() {
        for json in [
            "",
            "null",
            "{} {}",
            "{\"kind\": \"k\", \"kind\": null}",
            "{\"jobId\": \"a\", \"job_id\": \"a\"}",
            "{\"labels\": {\"a\": \"1\", \"a\": \"1\"}}",
            "{\"labels\": {\"a\": 1}}",
            "{\"metadata\": {\"a\": [{\"b\": 1, \"b\": 1}]}}",
            "{\"metadata\": []}",
            "{\"leaseTimeout\": \"-1s\"}",
            "{\"leaseTimeout\": \"315576000001s\"}",
            "{\"failWhenLost\": \"true\"}",
            "{\"kind\": 1}",
            "{\"unknown\": 1}",
        ] {
            let mut into = vec![7];
            let form = Form::new(input("JobService/CreateJob"));
            assert_eq!(form.read(json.as_bytes(), None, &mut into), None, "{json}");
            assert_eq!(into, [7], "{json}");
        }
    }

    #[test]
    fn the_id_of_the_path_is_added_unless_the_body_has_one() {
        let form = Form::new(input("JobService/CancelJob"));
        let id = form.field("job_id").map(|field| (field, "a"));
        let read = |json: &str| {
            let mut into = Vec::new();
            form.read(json.as_bytes(), id, &mut into).map(|()| into)
        };
        assert_eq!(read("{}"), Some(b"\x0a\x01a".to_vec()));
        assert_eq!(read("{\"jobId\": \"a\"}"), None);
    }

    /// Values that a field of this form may have, and some that it may not.
    fn values(form: &ValueForm) -> BoxedStrategy<String> {
        let texts = match form {
            ValueForm::Message(form) => return requests(form),
            ValueForm::Struct => return documents(),
            ValueForm::Bool => &["true", "false", "null"][..],
            ValueForm::Int32 | ValueForm::Int64 => {
                &["0", "-1", "\"1\"", "\"+1\"", "2147483648", "9223372036854775808", "2.0"]
            }
            ValueForm::Double => &["0", "0.5", "-1e3", "1e999", "\"NaN\"", "9007199254740993"],
            ValueForm::Text => &["\"\"", "\"a\"", "\"\\u00e9\\n\"", "\"\\ud800\"", "null", "1"],
            ValueForm::Enum(_) => &["\"RUNNING\"", "\"STATE_FAILED\"", "\"SUCCEEDED\"", "\"x\"", "2", "null"],
            ValueForm::Timestamp => &["\"2026-01-01T00:00:00Z\"", "\"now\""],
            ValueForm::Duration => &["\"1s\"", "\"0.5s\"", "\"-0.5s\"", "\"315576000000.5s\"", "\"1\"", "1", "null"],
            ValueForm::Other(_) => &["null", "{}", "1"],
        };
        select(texts).prop_map(str::to_owned).boxed()
    }

    fn documents() -> BoxedStrategy<String> {
        let leaf = select(&["null", "true", "0.1", "-1", "\"\"", "\"a\\n\"", "{}", "[]"][..]).prop_map(str::to_owned);
        let inner = leaf.prop_recursive(3, 12, 3, |inner| {
            let list = vec(inner.clone(), 0..3).prop_map(|values| format!("[{}]", values.join(",")));
            prop_oneof![list, objects(vec((select(&["a", "b", "c", ""][..]), inner), 0..3))]
        });
        objects(vec((select(&["a", "b", "c", "d", "e"][..]), inner), 0..3)).boxed()
    }

    fn objects(members: impl Strategy<Value = Vec<(&'static str, String)>>) -> impl Strategy<Value = String> {
        members.prop_map(|members| {
            let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
            format!("{{{}}}", members.join(", "))
        })
    }

    /// Text that is a request of this form, or nearly one.
    fn requests(form: &Form) -> BoxedStrategy<String> {
        let member = |field: &Field| {
            let value = values(&field.value);
            let value = match field.shape {
                Shape::Single => value,
                Shape::List => vec(value, 0..3).prop_map(|values| format!("[{}]", values.join(","))).boxed(),
                Shape::Map => objects(vec((select(&["a", "b", "c"][..]), value), 0..2)).boxed(),
            };
            (select(field.names.to_vec()), value).prop_map(|(name, value)| format!("\"{name}\": {value}")).boxed()
        };
        let members: Vec<_> = form.fields.iter().flatten().map(member).collect();
        let members = vec(Union::new(members), 0..4);
        members.prop_map(|members| format!("{{{}}}", members.join(", "))).boxed()
    }

    #[test]
    fn what_is_read_here_is_what_prost_reflect_reads() {
        let schema = Schema::new();
        for method in
            ["JobService/CreateJob", "JobService/UpdateProgress", "JobService/FailJob", "AdminService/PurgeJobs"]
        {
            let (input, _, _) = schema.method(method).expect("a method");
            let mut runner = TestRunner::default();
            let (requests, count) = (requests(&Form::new(input.clone())), Cell::new(0));
            let checked = runner.run(&requests, |json: String| {
                count.set(count.get() + usize::from(read(&input, &json).is_some()));
                Ok(())
            });
            checked.unwrap_or_else(|failure| panic!("{method}: {failure}"));
            assert!(count.get() > 20, "{method}: only {} requests are read here", count.get());
        }
    }
}
