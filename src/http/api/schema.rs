//! The descriptors of all messages in their JSON form: names of enum values have no prefix.

use std::collections::HashMap;

use prost::Message;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumOptions, EnumValueDescriptorProto, FileDescriptorProto, FileDescriptorSet,
};

use crate::proto::DESCRIPTORS;

/// Package of the messages whose enum values lose their prefix.
pub const PACKAGE: &str = "jobtrack.v1";

/// The descriptors of requests and of answers.
pub struct Schema {
    /// Descriptors of requests: an enum value has two names, `RUNNING` and `STATE_RUNNING`.
    input: DescriptorPool,
    /// Descriptors of answers: an enum value has one name, `RUNNING`.
    output: DescriptorPool,
    /// Descriptor of `google.rpc.Status`, with its details.
    status: MessageDescriptor,
}

impl Schema {
    /// Reads the descriptors that were compiled into this binary.
    pub fn new() -> Self {
        let [input, mut output] = [Names::Both, Names::Short].map(pool);
        add_error_details(&mut output);
        let status = output.get_message_by_name("google.rpc.Status").expect("the message was just added");
        Self { input, output, status }
    }

    /// Returns the descriptors of answers alone.
    pub fn of_answers() -> DescriptorPool {
        pool(Names::Short)
    }

    /// Returns the request and the answer of a method such as `JobService/GetJob`, and whether the answer is a stream.
    /// `None` if the method is unknown.
    pub fn method(&self, name: &str) -> Option<(MessageDescriptor, MessageDescriptor, bool)> {
        let (service, name) = name.split_once('/')?;
        let of = |pool: &DescriptorPool| {
            let service = pool.get_service_by_name(&format!("{PACKAGE}.{service}"))?;
            service.methods().find(|method| method.name() == name)
        };
        let (input, output) = (of(&self.input)?, of(&self.output)?);
        Some((input.input(), output.output(), output.is_server_streaming()))
    }

    /// Returns the message with this full name, in the form of answers.
    pub fn message(&self, name: &str) -> Option<MessageDescriptor> {
        self.output.get_message_by_name(name)
    }

    /// Returns the descriptor of `google.rpc.Status`.
    pub const fn status(&self) -> &MessageDescriptor {
        &self.status
    }
}

/// The names of enum values.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    /// Without the prefix.
    Short,
    /// Without the prefix, and with it.
    Both,
}

fn pool(names: Names) -> DescriptorPool {
    let mut set = FileDescriptorSet::decode(DESCRIPTORS).expect("the descriptors were compiled with this binary");
    for file in &mut set.file {
        // Comments take most of the memory, and are not needed here.
        file.source_code_info = None;
    }
    shorten(&mut set, names);
    DescriptorPool::from_file_descriptor_set(set).expect("shortened names are unique in their enum")
}

/// Adds the messages of `google.rpc` to a pool.
fn add_error_details(pool: &mut DescriptorPool) {
    let set = FileDescriptorSet::decode(tonic_types::pb::FILE_DESCRIPTOR_SET).expect("descriptors of a library");
    let known = |file: &FileDescriptorProto| pool.get_file_by_name(file.name()).is_some();
    let file = set.file.into_iter().filter(|file| !known(file)).collect();
    pool.add_file_descriptor_set(FileDescriptorSet { file }).expect("descriptors of a library");
}

/// Shortens the names of the values of all enums of the package.
///
/// The names of enum values belong to the scope that contains the enum. Two enums in one scope can't both have a value
/// `UNSPECIFIED`. Therefore each top-level enum is moved into a message of its own.
fn shorten(set: &mut FileDescriptorSet, names: Names) {
    let mut moved = HashMap::new();
    for file in set.file.iter_mut().filter(|file| file.package() == PACKAGE) {
        for values in file.enum_type.drain(..) {
            let scope = format!("{}Values", values.name());
            let new = format!(".{PACKAGE}.{scope}.{}", values.name());
            moved.insert(format!(".{PACKAGE}.{}", values.name()), new);
            let scope = DescriptorProto { name: Some(scope), enum_type: vec![values], ..DescriptorProto::default() };
            file.message_type.push(scope);
        }
    }
    for file in set.file.iter_mut().filter(|file| file.package() == PACKAGE) {
        for message in &mut file.message_type {
            shorten_in(message, &moved, names);
        }
    }
}

/// Shortens the names in a message, and updates the types of fields whose enums were moved.
fn shorten_in(message: &mut DescriptorProto, moved: &HashMap<String, String>, names: Names) {
    for field in &mut message.field {
        if let Some(new) = field.type_name.as_ref().and_then(|name| moved.get(name)) {
            field.type_name = Some(new.clone());
        }
    }
    for values in &mut message.enum_type {
        shorten_values(values, names);
    }
    for nested in &mut message.nested_type {
        shorten_in(nested, moved, names);
    }
}

fn shorten_values(values: &mut EnumDescriptorProto, names: Names) {
    let prefix = prefix(values.name());
    let short = |value: &EnumValueDescriptorProto| {
        let name = value.name().strip_prefix(&prefix).unwrap_or(value.name()).to_owned();
        EnumValueDescriptorProto { name: Some(name), ..value.clone() }
    };
    let shortened: Vec<_> = values.value.iter().map(short).collect();
    match names {
        Names::Short => values.value = shortened,
        Names::Both => {
            values.value.extend(shortened);
            values.options = Some(EnumOptions { allow_alias: Some(true), ..EnumOptions::default() });
        }
    }
}

/// Returns the prefix of the values of an enum: `STORAGE_MODE_` for `StorageMode`.
fn prefix(name: &str) -> String {
    let mut prefix = String::new();
    for (at, letter) in name.char_indices() {
        if at > 0 && letter.is_ascii_uppercase() {
            prefix.push('_');
        }
        prefix.push(letter.to_ascii_uppercase());
    }
    prefix + "_"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enum_values_of_answers_have_no_prefix() {
        let schema = Schema::new();
        let (input, output, _) = schema.method("JobService/GetJob").expect("a method");
        let names = |message: &MessageDescriptor, field: &str| {
            let kind = message.get_field_by_name(field).expect("a field").kind();
            let values = kind.as_enum().expect("an enum").clone();
            values.values().map(|value| value.name().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&output, "source"), ["UNSPECIFIED", "REDIS", "MEMORY"]);
        let job = output.get_field_by_name("job").expect("a field").kind();
        assert_eq!(names(job.as_message().expect("a message"), "state")[1], "PENDING");
        let view = names(&input, "view");
        assert!(view.contains(&"FULL".to_owned()) && view.contains(&"VIEW_FULL".to_owned()), "{view:?}");
        let (_, stats, _) = schema.method("AdminService/GetStats").expect("a method");
        assert_eq!(names(&stats, "storage_mode"), ["UNSPECIFIED", "MEMORY", "REDIS", "DEGRADED"]);
    }
}
