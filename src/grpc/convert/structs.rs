//! `google.protobuf.Struct` and JSON objects.

use std::sync::Arc;

use prost_types::{ListValue, NullValue, Struct, Value, value::Kind};
use serde_json::{Map, Number};

use crate::domain::{Document, MAX_DEPTH};

/// A Struct as a document. It must nest at most [`MAX_DEPTH`] deep and hold only finite numbers, as JSON knows no
/// others; the error says which does not hold.
pub fn document(from: Struct) -> Result<Document, String> {
    object(from, MAX_DEPTH).map(Arc::new)
}

/// A document as a Struct.
pub fn to_struct(from: &Map<String, serde_json::Value>) -> Struct {
    Struct { fields: from.iter().map(|(key, value)| (key.clone(), to_value(value))).collect() }
}

fn object(from: Struct, depth: usize) -> Result<Map<String, serde_json::Value>, String> {
    let inner = deeper(depth)?;
    from.fields.into_iter().map(|(key, from)| Ok((key, value(from, inner)?))).collect::<Result<Map<_, _>, _>>()
}

fn value(from: Value, depth: usize) -> Result<serde_json::Value, String> {
    Ok(match from.kind {
        None => return Err("holds a value of no kind".to_owned()),
        Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(flag)) => flag.into(),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::NumberValue(number)) => Number::from_f64(number).ok_or("holds a number that is not finite")?.into(),
        Some(Kind::StructValue(fields)) => object(fields, depth)?.into(),
        Some(Kind::ListValue(ListValue { values })) => {
            let inner = deeper(depth)?;
            values.into_iter().map(|from| value(from, inner)).collect::<Result<Vec<_>, _>>()?.into()
        }
    })
}

fn deeper(depth: usize) -> Result<usize, String> {
    depth.checked_sub(1).ok_or_else(|| format!("nests more than {MAX_DEPTH} deep"))
}

fn to_value(from: &serde_json::Value) -> Value {
    let kind = match from {
        serde_json::Value::Null => Kind::NullValue(NullValue::NullValue.into()),
        serde_json::Value::Bool(flag) => Kind::BoolValue(*flag),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(values) => {
            Kind::ListValue(ListValue { values: values.iter().map(to_value).collect() })
        }
        serde_json::Value::Object(fields) => Kind::StructValue(to_struct(fields)),
    };
    Value { kind: Some(kind) }
}
