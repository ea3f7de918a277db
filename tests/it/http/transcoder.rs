//! Conversion of gRPC messages to and from JSON by their descriptors, independent of the code of the server.

use std::{collections::HashMap, sync::LazyLock};

use jobtrack::proto::DESCRIPTORS;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use serde_json::{Value, json};
use tonic::Status;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).expect("descriptors"));

static STATUS: LazyLock<MessageDescriptor> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(tonic_types::pb::FILE_DESCRIPTOR_SET).expect("descriptors");
    pool.get_message_by_name("google.rpc.Status").expect("a message")
});

/// JSON names of enum values, by the names in the proto files.
static SHORT: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
    let ours = POOL.all_enums().filter(|values| values.full_name().starts_with("jobtrack.v1."));
    let mut short = HashMap::new();
    for values in ours {
        let names: Vec<_> = values.values().map(|value| value.name().to_owned()).collect();
        let prefix = names[0].strip_suffix("UNSPECIFIED").expect("the zero value").to_owned();
        short.extend(names.into_iter().map(|name| (name.clone(), name[prefix.len()..].to_owned())));
    }
    short
});

/// Returns the descriptors of the request and the answer of a method, such as `JobService/GetJob`.
fn method(name: &str) -> (MessageDescriptor, MessageDescriptor) {
    let (service, name) = name.split_once('/').expect("a service and a method");
    let service = POOL.get_service_by_name(&format!("jobtrack.v1.{service}")).expect("a service");
    let method = service.methods().find(|method| method.name() == name).expect("a method");
    (method.input(), method.output())
}

/// Returns the encoded request of a method.
pub fn request(name: &str, json: &Value) -> Vec<u8> {
    let message = DynamicMessage::deserialize(method(name).0, json).unwrap_or_else(|error| panic!("{json}: {error}"));
    message.encode_to_vec()
}

/// Returns the JSON of an encoded answer of a method.
pub fn answer(name: &str, encoded: &[u8]) -> Value {
    let message = DynamicMessage::decode(method(name).1, encoded).expect("an answer");
    shortened(serde_json::to_value(message).expect("JSON"))
}

/// Returns the JSON of an error with the HTTP status `http`. The `ErrorInfo`, which has the reason, is the first
/// detail.
pub fn error(status: &Status, http: u16, name: &str) -> Value {
    let details = DynamicMessage::decode(STATUS.clone(), status.details()).expect("a status");
    let details = serde_json::to_value(details).expect("JSON")["details"].take();
    let details: Vec<Value> = serde_json::from_value(details).unwrap_or_default();
    let (first, others): (Vec<_>, Vec<_>) = details.into_iter().partition(|detail| detail["reason"].is_string());
    let details = [first, others].concat();
    json!({ "error": { "code": http, "status": name, "message": status.message(), "details": details } })
}

fn shortened(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(SHORT.get(&text).cloned().unwrap_or(text)),
        Value::Array(values) => values.into_iter().map(shortened).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, shortened(value))).collect(),
        other => other,
    }
}
