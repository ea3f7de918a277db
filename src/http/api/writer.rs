//! Conversion of encoded messages to JSON, without decoding them first.
//!
//! The result is the JSON that prost-reflect writes, at a quarter of the cost. prost-reflect decodes a message into a
//! tree of values, which takes a thousand bytes for each value of a document. Fields of a kind or in an order that the
//! encoder of this process does not produce are left to prost-reflect. A test compares the two writers.

use std::{io::Write, time::UNIX_EPOCH};

use bytes::Buf;
use humantime::{format_rfc3339_micros, format_rfc3339_millis, format_rfc3339_nanos, format_rfc3339_seconds};
use prost::{
    Message,
    encoding::{WireType, decode_key, decode_varint},
};
use prost_reflect::{DynamicMessage, MessageDescriptor};
use prost_types::{Duration, Timestamp};

use super::form::{Field, Form, Shape, ValueForm};
use crate::domain::Document;

/// First second of the year 10000. Years have four digits before it.
const YEAR_10000: u64 = 253_402_300_800;

impl Form {
    /// Writes an encoded message of this form.
    pub fn write(&self, message: &[u8], into: &mut Vec<u8>) {
        let start = into.len();
        if self.try_write(message, into).is_none() {
            into.truncate(start);
            write_as_reflected(&self.descriptor, message, into);
        }
    }

    /// Writes an encoded message; returns `None` if prost-reflect must write the message.
    fn try_write(&self, mut message: &[u8], into: &mut Vec<u8>) -> Option<()> {
        into.push(b'{');
        let (mut last, mut closing) = (0, None);
        while !message.is_empty() {
            let (number, wire) = decode_key(&mut message).ok()?;
            let field = self.fields.get(number as usize)?.as_ref()?;
            if number == last && field.shape != Shape::Single {
                into.push(b',');
            } else if number > last {
                field.open(last == 0, closing, into);
                (last, closing) = (number, field.shape.closing());
            } else {
                return None;
            }
            field.write(wire, &mut message, into)?;
        }
        into.extend(closing);
        into.push(b'}');
        Some(())
    }
}

impl Shape {
    fn closing(self) -> Option<u8> {
        match self {
            Self::Single => None,
            Self::List => Some(b']'),
            Self::Map => Some(b'}'),
        }
    }
}

impl Field {
    /// Writes the end of the previous field, the key of this field and the opening bracket of a list or map.
    fn open(&self, is_first: bool, closing: Option<u8>, into: &mut Vec<u8>) {
        into.extend(closing);
        if !is_first {
            into.push(b',');
        }
        into.extend_from_slice(self.key.as_bytes());
        match self.shape {
            Shape::Single => {}
            Shape::List => into.push(b'['),
            Shape::Map => into.push(b'{'),
        }
    }

    /// Writes one value, or one pair.
    fn write(&self, wire: WireType, from: &mut &[u8], into: &mut Vec<u8>) -> Option<()> {
        if self.shape == Shape::Map {
            return write_pair(take(wire, from)?, into);
        }
        self.value.write(wire, from, into)
    }
}

impl ValueForm {
    /// Writes the value at the beginning of `from`. Lists of numbers have another encoding, which is left to
    /// prost-reflect.
    fn write(&self, wire: WireType, from: &mut &[u8], into: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Bool => into.extend_from_slice(if varint(wire, from)? == 0 { b"false" } else { b"true" }),
            Self::Int32 => serde_json::to_writer(into, &int32(varint(wire, from)?)).ok()?,
            Self::Int64 => {
                into.push(b'"');
                serde_json::to_writer(&mut *into, &varint(wire, from)?.cast_signed()).ok()?;
                into.push(b'"');
            }
            Self::Double => {
                let number = (wire == WireType::SixtyFourBit).then(|| from.try_get_f64_le().ok()).flatten()?;
                // NaN and infinity are strings in JSON, which prost-reflect writes.
                serde_json::to_writer(into, &number.is_finite().then_some(number)?).ok()?;
            }
            Self::Text => write_text(take(wire, from)?, into)?,
            Self::Enum(names) => {
                let number = int32(varint(wire, from)?);
                let (_, name) = names.iter().find(|(known, _)| *known == number)?;
                into.push(b'"');
                into.extend_from_slice(name.as_bytes());
                into.push(b'"');
            }
            Self::Message(form) => form.write(take(wire, from)?, into),
            Self::Timestamp => write_time(Timestamp::decode(take(wire, from)?).ok()?, into)?,
            Self::Duration => write!(into, "\"{}\"", Duration::decode(take(wire, from)?).ok()?).ok()?,
            Self::Struct => serde_json::to_writer(into, &Document::json_of(take(wire, from)?)).ok()?,
            Self::Other(message) => write_as_reflected(message, take(wire, from)?, into),
        }
        Some(())
    }
}

fn varint(wire: WireType, from: &mut &[u8]) -> Option<u64> {
    if wire == WireType::Varint { decode_varint(from).ok() } else { None }
}

/// Returns a 32-bit number, which is encoded as a sign-extended 64-bit number.
#[expect(clippy::cast_possible_truncation, reason = "the upper half repeats the sign")]
const fn int32(varint: u64) -> i32 {
    varint as i32
}

/// Takes a length-delimited value.
fn take<'a>(wire: WireType, from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = (wire == WireType::LengthDelimited).then(|| decode_varint(from).ok()).flatten()?;
    let (value, rest) = from.split_at_checked(usize::try_from(length).ok()?)?;
    *from = rest;
    Some(value)
}

/// Writes an entry of a map from strings to strings.
fn write_pair(mut entry: &[u8], into: &mut Vec<u8>) -> Option<()> {
    let (mut key, mut value): (&[u8], &[u8]) = (&[], &[]);
    while !entry.is_empty() {
        let (number, wire) = decode_key(&mut entry).ok()?;
        match number {
            1 => key = take(wire, &mut entry)?,
            2 => value = take(wire, &mut entry)?,
            _ => return None,
        }
    }
    write_text(key, into)?;
    into.push(b':');
    write_text(value, into)
}

fn write_text(text: &[u8], into: &mut Vec<u8>) -> Option<()> {
    serde_json::to_writer(into, std::str::from_utf8(text).ok()?).ok()
}

/// Writes a time in the form of `prost_types`, whose own code takes six times as long. Times are a third of the cost of
/// a job.
fn write_time(time: Timestamp, into: &mut Vec<u8>) -> Option<()> {
    let since_epoch = u64::try_from(time.seconds).ok().filter(|seconds| *seconds < YEAR_10000);
    let nanos = u32::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    let (Some(seconds), Some(nanos)) = (since_epoch, nanos) else { return write!(into, "\"{time}\"").ok() };
    let at = UNIX_EPOCH + std::time::Duration::new(seconds, nanos);
    let text = match nanos {
        0 => format_rfc3339_seconds(at),
        _ if nanos % 1_000_000 == 0 => format_rfc3339_millis(at),
        _ if nanos % 1000 == 0 => format_rfc3339_micros(at),
        _ => format_rfc3339_nanos(at),
    };
    write!(into, "\"{text}\"").ok()
}

/// Writes an encoded message with prost-reflect.
fn write_as_reflected(descriptor: &MessageDescriptor, message: &[u8], into: &mut Vec<u8>) {
    let message = DynamicMessage::decode(descriptor.clone(), message).expect("this process has encoded the message");
    serde_json::to_writer(into, &message).expect("a message has a form in JSON");
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{http::api::schema::Schema, proto::v1};

    /// A job with all fields.
    fn job() -> v1::Job {
        let time = Some(Timestamp { seconds: 1_700_000_000, nanos: 120_000_000 });
        let document = || {
            let number = prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(-0.5)) };
            Some(prost_types::Struct { fields: [("a\"".to_owned(), number)].into() }.into())
        };
        let failure = v1::Failure {
            code: Some(0),
            reason: "R".to_owned(),
            message: "\n\u{1f600}".to_owned(),
            details: document(),
        };
        let attempt =
            |number| v1::Attempt { number, start_time: time, failure: Some(failure.clone()), ..Default::default() };
        v1::Job {
            id: "a".to_owned(),
            labels: [
                ("k".to_owned(), "v".to_owned()),
                (String::new(), "\\".to_owned()),
                ("e".to_owned(), String::new()),
            ]
            .into(),
            metadata: document(),
            state: v1::job::State::Running.into(),
            attempt: -3,
            progress: Some(v1::Progress {
                percent: Some(33.25),
                completed: Some(0),
                total: Some(i64::MIN),
                details: Some(prost_types::Struct::default().into()),
                ..Default::default()
            }),
            lease_timeout: Some(Duration { seconds: 1, nanos: 500_000_000 }),
            create_time: time,
            outcome: Some(v1::job::Outcome::Failure(failure.clone())),
            revision: i64::MAX,
            attempts: vec![attempt(1), attempt(2)],
            ..Default::default()
        }
    }

    fn assert_same(method: &str, message: &impl Message) {
        let (_, descriptor, _) = Schema::new().method(method).expect("a method");
        let encoded = message.encode_to_vec();
        let mut written = Vec::new();
        let form = Form::new(descriptor.clone());
        assert!(form.try_write(&encoded, &mut written).is_some(), "{method} is not written here");
        let reflected = DynamicMessage::decode(descriptor, &*encoded).expect("a message");
        let written: Value = serde_json::from_slice(&written).expect("JSON");
        assert_eq!(written, serde_json::to_value(reflected).expect("JSON"));
    }

    #[test]
    fn messages_are_written_as_by_prost_reflect() {
        assert_same("JobService/GetJob", &v1::GetJobResponse { job: Some(job()), source: v1::Source::Memory.into() });
        assert_same("JobService/GetJob", &v1::GetJobResponse::default());
        let list = v1::ListJobsResponse {
            jobs: vec![job(), v1::Job::default()],
            total_size: Some(0),
            partial: true,
            ..Default::default()
        };
        assert_same("JobService/ListJobs", &list);
        let missing_ids = vec!["a".to_owned(), "b".to_owned()];
        assert_same("JobService/BatchGetJobs", &v1::BatchGetJobsResponse { jobs: vec![], missing_ids });
        let cache = Some(v1::CacheStats { hits: 1, hit_rate: 0.1, ..Default::default() });
        let state_counts = (0..6).map(|state| v1::StateCount { state, count: i64::from(state) }).collect();
        assert_same("AdminService/GetStats", &v1::GetStatsResponse { cache, state_counts, ..Default::default() });
    }

    #[test]
    fn times_are_written_as_by_prost_types() {
        let seconds = [0, 1_700_000_000, 253_402_300_799, 253_402_300_800, -1, -62_135_596_800];
        let nanos = [0, 120_000_000, 120_000, 120, 999_999_999];
        for (seconds, nanos) in seconds.into_iter().flat_map(|seconds| nanos.map(|nanos| (seconds, nanos))) {
            let (time, mut written) = (Timestamp { seconds, nanos }, Vec::new());
            assert!(write_time(time, &mut written).is_some());
            assert_eq!(String::from_utf8_lossy(&written), format!("\"{time}\""));
        }
    }

    #[test]
    fn what_is_unknown_here_is_left_to_prost_reflect() {
        let (_, descriptor, _) = Schema::new().method("JobService/GetJob").expect("a method");
        let form = Form::new(descriptor);
        // An unknown enum value, an unknown field, and fields in another order.
        for (encoded, expected) in [
            (&[0x10, 9][..], r#"{"source":9}"#),
            (&[0x10, 1, 0x18, 1], r#"{"source":"REDIS"}"#),
            (&[0x10, 1, 0x0a, 0], r#"{"job":{},"source":"REDIS"}"#),
        ] {
            let mut written = Vec::new();
            form.write(encoded, &mut written);
            assert_eq!(String::from_utf8_lossy(&written), expected);
        }
    }
}
