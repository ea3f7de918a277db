//! The `OpenAPI` description of the API, derived from the descriptors and the routes.

use http::Method;
use prost_reflect::FieldDescriptor;
use serde_json::{Map, Value, json};

use super::{
    comments::Comments,
    query::{self, ACCESS_TOKEN},
    routes::{Endpoint, Routes},
    schema::{PACKAGE, Schema},
    schemas::{SCHEMAS, Schemas},
};
use crate::grpc::takes_watch_tokens;

/// Returns the `OpenAPI` description.
pub fn description(schema: &Schema, routes: &Routes) -> Value {
    let comments = Comments::new();
    let mut writer = Writer { comments: &comments, schemas: Schemas::new(schema, &comments) };
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in routes.all() {
        let path = paths.entry(endpoint.route.path).or_insert_with(|| json!({}));
        path[endpoint.route.verb.as_str().to_ascii_lowercase()] = writer.operation(endpoint);
    }
    let mut schemas = writer.schemas.finish();
    schemas.extend(errors().map(|(name, schema)| (name.to_owned(), schema)));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "jobtrack",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A job tracker. Fields that have their default are left out of answers.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" }
        },
        "servers": [{ "url": "/" }],
        "security": [{}, { "bearer": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "watchToken": {
                    "type": "apiKey",
                    "in": "query",
                    "name": ACCESS_TOKEN,
                    "description": "A watch token, and no other token. For EventSource, which can't send headers."
                }
            }
        }
    })
}

/// Returns the schemas of errors, with their names. Generated clients use these names for classes.
fn errors() -> [(&'static str, Value); 3] {
    let text = json!({ "type": "string" });
    let refer = |name: &str| json!({ "$ref": format!("{SCHEMAS}{name}") });
    let detail = json!({
        "type": "object",
        "description": "A message of google.rpc. The first detail is an ErrorInfo.",
        "required": ["@type"],
        "properties": {
            "@type": text,
            "reason": { "type": "string", "description": "Reason of the error, for programs; only in an ErrorInfo." },
            "domain": { "type": "string", "description": "Always jobtrack; only in an ErrorInfo." },
            "metadata": { "type": "object", "additionalProperties": text }
        },
        "additionalProperties": true
    });
    let status = json!({
        "type": "object",
        "required": ["code", "status", "message", "details"],
        "properties": {
            "code": { "type": "integer", "description": "HTTP status code." },
            "status": { "type": "string", "description": "Name of the gRPC status code." },
            "message": text,
            "details": { "type": "array", "items": refer("ErrorDetail") }
        }
    });
    let error = json!({ "type": "object", "required": ["error"], "properties": { "error": refer("ErrorStatus") } });
    [("Error", error), ("ErrorStatus", status), ("ErrorDetail", detail)]
}

/// Writes the operations of a description.
struct Writer<'a> {
    comments: &'a Comments,
    schemas: Schemas<'a>,
}

impl Writer<'_> {
    /// Describes the call of an endpoint.
    fn operation(&mut self, endpoint: &Endpoint) -> Value {
        let (service, method) = endpoint.route.rpc.split_once('/').unwrap_or_default();
        let comment = self.comments.of(&format!("{PACKAGE}.{service}.{method}"));
        let (summary, description) = comment.split_once("\n\n").unwrap_or((comment, ""));
        let mut operation = json!({
            "operationId": lower_first(method),
            "tags": [service],
            "summary": summary.replace('\n', " "),
            "description": description,
            "responses": { "200": self.success(endpoint), "default": failure() }
        });
        if endpoint.is_stream {
            let description = "The stream has ended, and has no event after the token.";
            operation["responses"]["204"] = json!({ "description": description });
        }
        if takes_watch_tokens(endpoint.route.rpc) {
            operation["security"] = json!([{}, { "bearer": [] }, { "watchToken": [] }]);
        }
        let parameters = self.parameters(endpoint);
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if endpoint.route.verb == Method::POST {
            let schema = self.schemas.reference(endpoint.input.full_name());
            operation["requestBody"] =
                json!({ "required": true, "content": { "application/json": { "schema": schema } } });
        }
        operation
    }

    /// Describes the answer of an endpoint.
    fn success(&mut self, endpoint: &Endpoint) -> Value {
        let schema = self.schemas.reference(endpoint.output.full_name());
        if endpoint.is_stream {
            let description = "Server-sent events, each with an object of the schema in its data.";
            let content = json!({ "schema": { "type": "string" }, "x-event-schema": schema });
            return json!({ "description": description, "content": { "text/event-stream": content } });
        }
        json!({ "description": "The answer.", "content": { "application/json": { "schema": schema } } })
    }

    /// Describes the parameters of an endpoint: the id in its path, and the request fields that are not in a body.
    fn parameters(&mut self, endpoint: &Endpoint) -> Vec<Value> {
        let mut parameters = Vec::new();
        let has_id = endpoint.route.has_id();
        if has_id {
            let comment = self.comments.of(&format!("{PACKAGE}.Job.id"));
            parameters.push(parameter("id", "path", &json!({ "type": "string" }), comment));
        }
        if endpoint.route.verb == Method::POST {
            return parameters;
        }
        for field in self.fields(endpoint) {
            let comment = self.comments.of(field.full_name());
            if field.name() == "labels" {
                parameters.push(labels());
            } else if query::is_parameter(&field) && !(has_id && field.name() == "job_id") {
                let schema = self.schemas.field(&field);
                parameters.push(parameter(query::parameter_name(&field), "query", &schema, comment));
            }
        }
        if endpoint.is_stream {
            let comment = "The token of the last event, which browsers send when they connect again.";
            parameters.push(parameter("Last-Event-ID", "header", &json!({ "type": "string" }), comment));
        }
        parameters
    }

    /// Returns the fields of the request of an endpoint, and the fields of its filter.
    fn fields(&self, endpoint: &Endpoint) -> Vec<FieldDescriptor> {
        let input = self.schemas.message(endpoint.input.full_name());
        let flattened =
            endpoint.route.flattened.and_then(|name| input.get_field_by_name(name)?.kind().as_message().cloned());
        let messages = [Some(input), flattened];
        messages.iter().flatten().flat_map(|message| message.fields().collect::<Vec<_>>()).collect()
    }
}

fn parameter(name: &str, place: &str, schema: &Value, description: &str) -> Value {
    let is_required = place == "path";
    json!({ "name": name, "in": place, "required": is_required, "schema": schema, "description": description })
}

/// Describes the parameters `label.KEY`, which select by labels. Their names are not fixed.
fn labels() -> Value {
    json!({
        "name": "labels",
        "in": "query",
        "style": "form",
        "explode": true,
        "description": "Each parameter label.KEY=VALUE selects jobs with this label.",
        "schema": {
            "type": "object",
            "propertyNames": { "pattern": "^label\\." },
            "additionalProperties": { "type": "string" }
        }
    })
}

/// Describes the answer of a call that failed.
fn failure() -> Value {
    let schema = json!({ "$ref": format!("{SCHEMAS}Error") });
    json!({ "description": "An error.", "content": { "application/json": { "schema": schema } } })
}

fn lower_first(name: &str) -> String {
    let (first, rest) = name.split_at(1);
    first.to_ascii_lowercase() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_references_lead_to_a_schema() {
        let schema = Schema::new();
        let description = description(&schema, &Routes::new(&schema));
        let text = description.to_string();
        let schemas = description["components"]["schemas"].as_object().expect("schemas");
        let references: Vec<_> = text.split(SCHEMAS).skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(references.len() > 30, "{references:?}");
        for name in references {
            assert!(schemas.contains_key(name), "{name}");
        }
        assert!(schemas.values().all(Value::is_object));
        assert_eq!(schemas["View"]["enum"], json!(["UNSPECIFIED", "BASIC", "FULL"]));
        assert!(schemas["View"]["description"].as_str().is_some_and(|text| text.starts_with("The parts")));
        assert_eq!(description["components"]["securitySchemes"]["watchToken"]["name"], "access_token");
        let takes_token = |path: &str| {
            let accepted = description["paths"][path]["get"]["security"].as_array().into_iter().flatten();
            accepted.filter(|scheme| scheme.get("watchToken").is_some()).count() == 1
        };
        assert!(["/v1/jobs/{id}", "/v1/jobs/{id}/events", "/v1/events"].into_iter().all(takes_token));
        assert!(!["/v1/jobs", "/v1/stats"].into_iter().any(takes_token));
        let list = &description["paths"]["/v1/jobs"]["get"]["parameters"];
        let names: Vec<_> = list.as_array().into_iter().flatten().filter_map(|it| it["name"].as_str()).collect();
        for name in ["pageSize", "state", "kind", "liveness", "createdAfter", "labels"] {
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
    }
}
