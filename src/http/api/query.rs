//! Conversion of query parameters to the fields of a request.
//!
//! The parameters are converted to the JSON of the request first: their values have the same forms as in a body.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value};

use super::{message, routes::Endpoint};
use crate::domain::Violation;

/// Parameter with a watch token. It is a credential, not a field.
pub const ACCESS_TOKEN: &str = "access_token";

/// Prefix of the parameters that name a label: `label.KEY=VALUE`.
const LABEL: &str = "label.";

/// Returns the JSON fields of a request from its query parameters and from the `id` in its path.
pub fn fields(endpoint: &Endpoint, id: Option<&str>, query: &str) -> Result<Map<String, Value>, Violation> {
    let mut fields = Map::new();
    if let Some(id) = id {
        put(&mut fields, &endpoint.input, "id", id)?;
    }
    let nested = endpoint.route.flattened.and_then(|name| endpoint.input.get_field_by_name(name));
    let flattened = nested.as_ref().and_then(|field| field.kind().as_message().cloned());
    let mut inner = Map::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name != ACCESS_TOKEN) {
        if put(&mut fields, &endpoint.input, &name, &value)? {
            continue;
        }
        let is_known = match &flattened {
            Some(message) => put(&mut inner, message, &name, &value).map_err(|bad| in_field(nested.as_ref(), bad))?,
            None => false,
        };
        if !is_known {
            return Err(violation(&name, "is not a parameter of this path"));
        }
    }
    if let Some(field) = nested.filter(|_| !inner.is_empty()) {
        fields.insert(field.json_name().to_owned(), Value::Object(inner));
    }
    Ok(fields)
}

/// Returns the value of the parameter that has one of these names.
pub fn value(query: &str, names: &[&str]) -> Option<String> {
    let mut parameters = form_urlencoded::parse(query.as_bytes());
    parameters.find(|(name, _)| names.contains(&name.as_ref())).map(|(_, value)| value.into_owned())
}

/// Checks the query of a request whose fields are in the body: the only parameter may be the credential.
pub fn check_none(query: &str) -> Result<(), Violation> {
    let mut names = form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name);
    match names.find(|name| name != ACCESS_TOKEN) {
        Some(name) => {
            Err(violation(&name, "is not a parameter of this path: put the fields of the request in the body"))
        }
        None => Ok(()),
    }
}

/// Puts the value of a parameter into the JSON of `message`. Returns whether the message has such a field.
fn put(into: &mut Map<String, Value>, message: &MessageDescriptor, name: &str, value: &str) -> Result<bool, Violation> {
    if let Some(key) = name.strip_prefix(LABEL) {
        let Some(labels) = message.get_field_by_name("labels").filter(FieldDescriptor::is_map) else {
            return Ok(false);
        };
        let pairs = into.entry(labels.json_name()).or_insert_with(|| Value::Object(Map::new()));
        let pairs = pairs.as_object_mut().expect("it was made as an object");
        let known = pairs.insert(key.to_owned(), value.into());
        return if known.is_some() { Err(given_twice(&format!("labels.{key}"))) } else { Ok(true) };
    }
    let Some(field) = field(message, name) else { return Ok(false) };
    // HTML forms send empty fields, too.
    if value.is_empty() {
        return Ok(true);
    }
    let json = json(&field, value)?;
    if field.is_list() {
        let list = into.entry(field.json_name()).or_insert_with(|| Value::Array(Vec::new()));
        list.as_array_mut().expect("it was made as a list").push(json);
    } else if into.insert(field.json_name().to_owned(), json).is_some() {
        return Err(given_twice(field.name()));
    }
    Ok(true)
}

/// Returns the field for a parameter: the field with this name, or the list whose elements have this name, such as
/// `states` for `state`. `id` stands for `job_id`.
fn field(descriptor: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    let by_name = |name: &str| message::field(descriptor, name);
    let element = |name: &str| by_name(&format!("{name}s")).filter(FieldDescriptor::is_list);
    let found = by_name(name).or_else(|| element(name));
    let found = if name == "id" { found.or_else(|| by_name("job_id")).or_else(|| element("job_id")) } else { found };
    found.filter(is_parameter)
}

/// Returns whether a field can be a parameter. Maps and messages can't, except for times and durations.
pub fn is_parameter(field: &FieldDescriptor) -> bool {
    let is_message = field.kind().as_message().is_some();
    !field.is_map() && (!is_message || is_text(field))
}

/// Returns the name of the parameter for a field: the singular for a list, and `id` for `job_id`.
pub fn parameter_name(field: &FieldDescriptor) -> &str {
    let name = field.json_name();
    let is_plural = field.is_list() && !name.ends_with("ss");
    let name = if is_plural { name.strip_suffix('s').unwrap_or(name) } else { name };
    if name == "jobId" { "id" } else { name }
}

/// Returns whether a field is a message whose JSON form is a string.
fn is_text(field: &FieldDescriptor) -> bool {
    let kind = field.kind();
    let name = kind.as_message().map(MessageDescriptor::full_name);
    matches!(name, Some("google.protobuf.Duration" | "google.protobuf.Timestamp"))
}

/// Returns the JSON of a parameter value. In the JSON form of protobuf, every kind of field except booleans accepts a
/// string.
fn json(field: &FieldDescriptor, value: &str) -> Result<Value, Violation> {
    match (field.kind(), value) {
        (Kind::Bool, "true") => Ok(Value::Bool(true)),
        (Kind::Bool, "false") => Ok(Value::Bool(false)),
        (Kind::Bool, _) => Err(violation(field.name(), "must be true or false")),
        _ => Ok(value.into()),
    }
}

/// Returns a violation with `field` prepended to its path.
fn in_field(field: Option<&FieldDescriptor>, bad: Violation) -> Violation {
    let scope = field.map(FieldDescriptor::name).unwrap_or_default();
    Violation { field: format!("{scope}.{}", bad.field), ..bad }
}

fn given_twice(name: &str) -> Violation {
    violation(name, "is given more than once")
}

fn violation(name: &str, description: &str) -> Violation {
    Violation { field: name.to_owned(), description: description.to_owned() }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;
    use crate::http::api::{
        routes::{Found, Routes},
        schema::Schema,
    };

    fn parsed(path: &str, query: &str) -> Result<Value, String> {
        let routes = Routes::new(&Schema::new());
        let Found::Endpoint(endpoint, id) = routes.find(&Method::GET, path) else { panic!("{path} is unknown") };
        fields(endpoint, id.as_deref(), query)
            .map(Value::Object)
            .map_err(|bad| format!("{}: {}", bad.field, bad.description))
    }

    #[test]
    fn parameters_are_fields_of_the_request_or_of_its_filter() {
        let query = "state=RUNNING&state=FAILED&kind=a+b&label.a.b=%C3%A9&owner=&pageSize=5&page_token=&liveness=LOST";
        let filter =
            json!({"states": ["RUNNING", "FAILED"], "kind": "a b", "labels": {"a.b": "é"}, "liveness": ["LOST"]});
        assert_eq!(parsed("/v1/jobs", query), Ok(json!({"pageSize": "5", "filter": filter})));
        assert_eq!(parsed("/v1/jobs:batchGet", "id=a&id=b"), Ok(json!({"jobIds": ["a", "b"]})));
        let wanted = json!({"jobId": "a", "minRevision": "3", "view": "BASIC"});
        assert_eq!(parsed("/v1/jobs/a", "minRevision=3&view=BASIC"), Ok(wanted));
        assert_eq!(parsed("/v1/events", "id=a&minInterval=1s"), Ok(json!({"jobIds": ["a"], "minInterval": "1s"})));
        assert_eq!(parsed("/v1/jobs/a/events", "access_token=x"), Ok(json!({"jobId": "a"})));
    }

    #[test]
    fn unknown_and_repeated_parameters_are_refused_by_name() {
        assert_eq!(parsed("/v1/jobs", "sort=age"), Err("sort: is not a parameter of this path".to_owned()));
        assert_eq!(parsed("/v1/jobs", "filter=a"), Err("filter: is not a parameter of this path".to_owned()));
        assert_eq!(parsed("/v1/jobs/a", "label.a=b"), Err("label.a: is not a parameter of this path".to_owned()));
        assert_eq!(parsed("/v1/jobs", "kind=a&kind=b"), Err("filter.kind: is given more than once".to_owned()));
        assert_eq!(parsed("/v1/jobs/a", "jobId=b"), Err("job_id: is given more than once".to_owned()));
        assert_eq!(
            parsed("/v1/jobs", "label.a=1&label.a=2"),
            Err("filter.labels.a: is given more than once".to_owned())
        );
    }
}
