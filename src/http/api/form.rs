//! The forms of messages in JSON, which are made from their descriptors at the start.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

/// The form of a message in JSON.
pub struct Form {
    /// Descriptor of the message.
    pub descriptor: MessageDescriptor,
    /// Fields by their numbers; `None`: there is no such field, or it is left to prost-reflect.
    pub fields: Vec<Option<Field>>,
}

/// The form of a field.
pub struct Field {
    /// Number of the field in its message.
    pub number: u32,
    /// The names by which a field may be given: that of JSON, and that of the protos.
    pub names: [String; 2],
    /// Name of the field in JSON, with its quotes and its colon.
    pub key: String,
    /// The number of values.
    pub shape: Shape,
    /// The form of one value.
    pub value: ValueForm,
}

/// The number of values of a field.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One.
    Single,
    /// Any number.
    List,
    /// Pairs of two texts.
    Map,
}

/// The form of a value.
pub enum ValueForm {
    Bool,
    Int32,
    Int64,
    Double,
    Text,
    /// The numbers and the names of an enum.
    Enum(Vec<(i32, String)>),
    Message(Form),
    Timestamp,
    Duration,
    /// A document.
    Struct,
    /// As prost-reflect writes it.
    Other(MessageDescriptor),
}

impl Form {
    /// Returns the form of this message, which must not contain itself.
    pub fn new(descriptor: MessageDescriptor) -> Self {
        let count = descriptor.fields().map(|field| field.number() + 1).max().unwrap_or_default();
        let mut fields: Vec<_> = (0..count).map(|_| None).collect();
        for field in descriptor.fields() {
            fields[field.number() as usize] = Field::new(&field);
        }
        Self { descriptor, fields }
    }

    /// Returns the field of one of these names.
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
