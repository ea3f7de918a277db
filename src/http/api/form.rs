//! The JSON forms of messages, which are derived from the descriptors at the start.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

/// The form of a message in JSON.
pub struct Form {
    /// Descriptor of the message.
    pub descriptor: MessageDescriptor,
    /// Fields by number; `None`: there is no field with this number, or prost-reflect handles the field.
    pub fields: Vec<Option<Field>>,
}

/// The form of a field.
pub struct Field {
    /// Number of the field in its message.
    pub number: u32,
    /// The names that requests may use: the JSON name, and the name in the proto file.
    pub names: [String; 2],
    /// JSON name of the field, with quotes and a colon.
    pub key: String,
    /// Cardinality of the field: one value, a list or a map.
    pub shape: Shape,
    /// The form of one value.
    pub value: ValueForm,
}

/// Cardinality of a field.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One value.
    Single,
    /// A list of values.
    List,
    /// A map from strings to strings.
    Map,
}

/// The form of a value.
pub enum ValueForm {
    Bool,
    Int32,
    Int64,
    Double,
    Text,
    /// An enum, with the numbers and names of its values.
    Enum(Vec<(i32, String)>),
    Message(Form),
    Timestamp,
    Duration,
    /// A document: a `google.protobuf.Struct`.
    Struct,
    /// Another well-known message, which prost-reflect handles.
    Other(MessageDescriptor),
}

impl Form {
    /// Returns the form of a message, whose type must not be recursive.
    pub fn new(descriptor: MessageDescriptor) -> Self {
        let count = descriptor.fields().map(|field| field.number() + 1).max().unwrap_or_default();
        let mut fields: Vec<_> = (0..count).map(|_| None).collect();
        for field in descriptor.fields() {
            fields[field.number() as usize] = Field::new(&field);
        }
        Self { descriptor, fields }
    }

    /// Returns the field with this name, in JSON or in the proto file.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().flatten().find(|field| field.names.iter().any(|known| known == name))
    }
}

impl Field {
    fn new(field: &FieldDescriptor) -> Option<Self> {
        let (shape, value) = if field.is_map() {
            let entry = field.kind().as_message().cloned()?;
            let is_text =
                [entry.map_entry_key_field(), entry.map_entry_value_field()].map(|it| it.kind() == Kind::String);
            (is_text == [true; 2]).then_some((Shape::Map, ValueForm::Text))?
        } else {
            (if field.is_list() { Shape::List } else { Shape::Single }, ValueForm::new(&field.kind())?)
        };
        let names = [field.json_name(), field.name()].map(str::to_owned);
        let key = format!("{}:", serde_json::to_string(field.json_name()).expect("a name is text"));
        Some(Self { number: field.number(), names, key, shape, value })
    }
}

impl ValueForm {
    fn new(kind: &Kind) -> Option<Self> {
        Some(match kind {
            Kind::Bool => Self::Bool,
            Kind::Int32 => Self::Int32,
            Kind::Int64 => Self::Int64,
            Kind::Double => Self::Double,
            Kind::String => Self::Text,
            Kind::Enum(values) => {
                Self::Enum(values.values().map(|value| (value.number(), value.name().to_owned())).collect())
            }
            Kind::Message(message) => match message.full_name() {
                "google.protobuf.Timestamp" => Self::Timestamp,
                "google.protobuf.Duration" => Self::Duration,
                "google.protobuf.Struct" => Self::Struct,
                name if name.starts_with("google.protobuf.") => Self::Other(message.clone()),
                _ => Self::Message(Form::new(message.clone())),
            },
            _ => return None,
        })
    }
}
