//! Accessors of jobs, and conversion of documents to and from JSON.

use std::time::{Duration, SystemTime};

use prost_types::{ListValue, Struct, Value, value::Kind};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Map;
use tonic::Code;

use crate::{
    Error,
    proto::{
        EncodedStruct,
        v1::{self, job},
    },
};

impl v1::Job {
    /// Returns whether the job has ended: it is SUCCEEDED, FAILED or CANCELLED.
    pub fn has_ended(&self) -> bool {
        matches!(self.state(), job::State::Succeeded | job::State::Failed | job::State::Cancelled)
    }

    /// Returns the state without the prefix that it has on the wire: `RUNNING`.
    pub fn state_name(&self) -> &'static str {
        let name = self.state().as_str_name();
        name.strip_prefix("STATE_").unwrap_or(name)
    }

    /// Returns the percentage that the worker reported or that the server derived from the counts.
    pub fn percent(&self) -> Option<f64> {
        self.progress.as_ref().and_then(|progress| progress.percent)
    }

    /// Returns the result of a job that succeeded with a result. Returns an error if the result is not a `T`.
    pub fn result<T: DeserializeOwned>(&self) -> Result<Option<T>, serde_json::Error> {
        match &self.outcome {
            Some(job::Outcome::Result(result)) => serde_json::from_value(result.to_json()).map(Some),
            _ => Ok(None),
        }
    }

    /// Returns the failure of a FAILED job.
    pub fn failure(&self) -> Option<&v1::Failure> {
        match &self.outcome {
            Some(job::Outcome::Failure(failure)) => Some(failure),
            _ => None,
        }
    }

    /// Returns the time without a report after which the worker counts as lost. `None`: the job has no lease.
    pub fn lease(&self) -> Option<Duration> {
        let lease = self.lease_timeout.and_then(|lease| Duration::try_from(lease).ok());
        lease.filter(|lease| !lease.is_zero())
    }

    /// Returns the time at which the job was created.
    pub fn created(&self) -> Option<SystemTime> {
        self.create_time.and_then(|time| SystemTime::try_from(time).ok())
    }
}

impl v1::Failure {
    /// Returns a failure with a reason for programs, in `UPPER_SNAKE_CASE`, and a message for people.
    pub fn of(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into(), ..Self::default() }
    }
}

impl EncodedStruct {
    /// Returns the document as a JSON object. A document that can't be decoded becomes an empty object; a server that
    /// validates documents sends no such document.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::Value::Object(object(Struct::try_from(self).unwrap_or_default()))
    }

    /// Returns the document of a JSON object.
    pub fn from_json(from: Map<String, serde_json::Value>) -> Self {
        structure(from).into()
    }
}

/// Converts a duration to its protobuf message. A duration that does not fit becomes the maximum, which the server
/// rejects.
pub(crate) fn duration(from: Duration) -> prost_types::Duration {
    from.try_into().unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}

/// Returns the document that `from` serializes to. `()` stands for no document.
pub(crate) fn document(from: impl Serialize) -> Result<Option<EncodedStruct>, Error> {
    let invalid = |problem: String| Error::new(Code::InvalidArgument, "INVALID_DOCUMENT", problem);
    match serde_json::to_value(from) {
        Ok(serde_json::Value::Null) => Ok(None),
        Ok(serde_json::Value::Object(fields)) => Ok(Some(EncodedStruct::from_json(fields))),
        Ok(other) => Err(invalid(format!("a document must be a JSON object, not {other}"))),
        Err(error) => Err(invalid(error.to_string())),
    }
}

fn structure(from: Map<String, serde_json::Value>) -> Struct {
    Struct { fields: from.into_iter().map(|(name, value)| (name, to_proto(value))).collect() }
}

fn to_proto(from: serde_json::Value) -> Value {
    let kind = match from {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(value),
        // All numbers of a Struct are doubles.
        serde_json::Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(value) => Kind::StringValue(value),
        serde_json::Value::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(to_proto).collect() })
        }
        serde_json::Value::Object(fields) => Kind::StructValue(structure(fields)),
    };
    Value { kind: Some(kind) }
}

fn object(from: Struct) -> Map<String, serde_json::Value> {
    from.fields.into_iter().map(|(name, value)| (name, to_json(value))).collect()
}

fn to_json(from: Value) -> serde_json::Value {
    match from.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(value)) => value.into(),
        Some(Kind::NumberValue(value)) => number(value),
        Some(Kind::StringValue(value)) => value.into(),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(to_json).collect(),
        Some(Kind::StructValue(fields)) => object(fields).into(),
    }
}

/// Returns a whole number as a JSON integer, if a double represents it exactly: serde does not accept a float
/// for a field of type `u64`.
fn number(value: f64) -> serde_json::Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "the range was just checked")]
        return (value as i64).into();
    }
    value.into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_the_same_after_a_round_trip() {
        let value = json!({
            "null": null, "bool": true, "integer": -7, "largest": 1_i64 << 53, "fraction": 0.25, "text": "grün",
            "list": [1, [2, {"a": "b"}]], "object": {"c": {}},
        });
        let document = document(&value).expect("a document").expect("not empty");
        assert_eq!(document.to_json(), value);
    }

    #[test]
    fn only_objects_are_documents() {
        assert_eq!(document(()).expect("none"), None);
        for other in [json!(1), json!("a"), json!([])] {
            let error = document(&other).expect_err("it is no object");
            assert_eq!(error.reason, "INVALID_DOCUMENT");
        }
    }
}
