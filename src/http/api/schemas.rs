//! JSON schemas of messages.

use std::collections::{BTreeMap, VecDeque};

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::{
    comments::Comments,
    schema::{PACKAGE, Schema},
};

/// Prefix of references to schemas.
pub const SCHEMAS: &str = "#/components/schemas/";

/// The schemas that were referred to.
pub struct Schemas<'a> {
    descriptors: &'a Schema,
    comments: &'a Comments,
    /// Schemas by name.
    written: BTreeMap<String, Value>,
    /// Messages and enums whose schemas are to be written.
    missing: VecDeque<Kind>,
}

impl<'a> Schemas<'a> {
    /// Returns an empty set of schemas.
    pub const fn new(descriptors: &'a Schema, comments: &'a Comments) -> Self {
        Self { descriptors, comments, written: BTreeMap::new(), missing: VecDeque::new() }
    }

    /// Returns the message with this full name, in the form of answers.
    pub fn message(&self, name: &str) -> MessageDescriptor {
        self.descriptors.message(name).expect("requests and answers have the same messages")
    }

    /// Returns a reference to the schema of the message with this name.
    pub fn reference(&mut self, name: &str) -> Value {
        let message = self.message(name);
        self.refer(name, &Kind::Message(message))
    }

    /// Returns the schema of a field.
    pub fn field(&mut self, field: &FieldDescriptor) -> Value {
        let kind = field.kind();
        if let Some(entry) = kind.as_message().filter(|_| field.is_map()) {
            let values = self.kind(&entry.map_entry_value_field().kind());
            return json!({ "type": "object", "additionalProperties": values });
        }
        let schema = self.kind(&kind);
        if field.is_list() { json!({ "type": "array", "items": schema }) } else { schema }
    }

    /// Writes the schemas that were referred to.
    pub fn finish(mut self) -> BTreeMap<String, Value> {
        while let Some(kind) = self.missing.pop_front() {
            let (name, schema) = match &kind {
                Kind::Message(message) => (name_of(message.full_name()), self.object(message)),
                Kind::Enum(values) => (name_of(values.full_name()), self.values(values)),
                _ => continue,
            };
            self.written.insert(name, schema);
        }
        self.written
    }

    fn object(&mut self, message: &MessageDescriptor) -> Value {
        let mut properties = Map::new();
        for field in message.fields() {
            let mut schema = self.field(&field);
            let comment = self.comments.of(field.full_name());
            if !comment.is_empty() {
                schema["description"] = comment.into();
            }
            properties.insert(field.json_name().to_owned(), schema);
        }
        let comment = self.comments.of(message.full_name());
        json!({ "type": "object", "description": comment, "properties": properties })
    }

    fn values(&self, values: &EnumDescriptor) -> Value {
        let names: Vec<_> = values.values().map(|value| value.name().to_owned()).collect();
        // The comment is listed under the name that the enum had before it was moved into a message.
        let name = values.full_name().replacen(&format!("{0}Values.{0}", values.name()), values.name(), 1);
        json!({ "type": "string", "enum": names, "description": self.comments.of(&name) })
    }

    fn kind(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Double | Kind::Float => json!({ "type": "number", "format": "double" }),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 | Kind::Uint32 | Kind::Fixed32 => {
                json!({ "type": "integer", "format": "int32" })
            }
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 | Kind::Uint64 | Kind::Fixed64 => {
                json!({ "type": "string", "format": "int64" })
            }
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::String => json!({ "type": "string" }),
            Kind::Bytes => json!({ "type": "string", "format": "byte" }),
            Kind::Enum(values) => self.refer(values.full_name(), kind),
            Kind::Message(message) => match message.full_name() {
                "google.protobuf.Timestamp" => json!({ "type": "string", "format": "date-time" }),
                "google.protobuf.Duration" => json!({ "type": "string", "pattern": "^-?[0-9]+(\\.[0-9]+)?s$" }),
                "google.protobuf.Struct" => json!({ "type": "object", "additionalProperties": true }),
                name => self.refer(name, kind),
            },
        }
    }

    fn refer(&mut self, full_name: &str, kind: &Kind) -> Value {
        let name = name_of(full_name);
        if !self.written.contains_key(&name) {
            self.written.insert(name.clone(), Value::Null);
            self.missing.push_back(kind.clone());
        }
        json!({ "$ref": format!("{SCHEMAS}{name}") })
    }
}

/// Returns the name of a schema: `JobState` for `jobtrack.v1.Job.State`, and `View` for `jobtrack.v1.ViewValues.View`.
fn name_of(full_name: &str) -> String {
    let name = full_name.strip_prefix(PACKAGE).unwrap_or(full_name);
    let parts: Vec<_> = name.split('.').filter(|part| !part.is_empty()).collect();
    match parts[..] {
        [scope, name] if scope.strip_suffix("Values") == Some(name) => name.to_owned(),
        _ => parts.concat(),
    }
}
