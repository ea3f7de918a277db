//! The comments of the proto files, by the full names of the messages, fields, enums and methods that they describe.

use std::collections::HashMap;

use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

use crate::proto::DESCRIPTORS;

/// Field numbers of the descriptor messages. The path of a comment consists of these numbers and of indexes.
mod tag {
    pub const MESSAGES: i32 = 4;
    pub const ENUMS: i32 = 5;
    pub const SERVICES: i32 = 6;
    pub const MEMBERS: i32 = 2;
    pub const NESTED: i32 = 3;
    pub const NESTED_ENUMS: i32 = 4;
}

/// Comments by full names, such as `jobtrack.v1.Job.kind`.
pub struct Comments {
    texts: HashMap<String, String>,
}

impl Comments {
    /// Reads the comments that were compiled into this binary.
    pub fn new() -> Self {
        let set = FileDescriptorSet::decode(DESCRIPTORS).expect("the descriptors were compiled with this binary");
        let mut texts = HashMap::new();
        for file in &set.file {
            File::new(file).collect(file, &mut texts);
        }
        Self { texts }
    }

    /// Returns the comment of the element with this full name; empty if the element has no comment.
    pub fn of(&self, name: &str) -> &str {
        self.texts.get(name).map(String::as_str).unwrap_or_default()
    }
}

/// The comments of a file by their paths.
struct File<'a> {
    comments: HashMap<&'a [i32], &'a str>,
}

impl<'a> File<'a> {
    fn new(file: &'a FileDescriptorProto) -> Self {
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        let comments = locations.filter_map(|at| Some((&at.path[..], at.leading_comments.as_deref()?)));
        Self { comments: comments.collect() }
    }

    fn collect(&self, file: &FileDescriptorProto, into: &mut HashMap<String, String>) {
        let scope = file.package();
        for (at, message) in (0..).zip(&file.message_type) {
            self.collect_message(message, scope, &[tag::MESSAGES, at], into);
        }
        for (at, values) in (0..).zip(&file.enum_type) {
            self.collect_enum(values, scope, &[tag::ENUMS, at], into);
        }
        for (at, service) in (0..).zip(&file.service) {
            let name = format!("{scope}.{}", service.name());
            for (method, path) in service.method.iter().zip(0..) {
                self.put(&format!("{name}.{}", method.name()), &[tag::SERVICES, at, tag::MEMBERS, path], into);
            }
        }
    }

    fn collect_message(
        &self,
        message: &DescriptorProto,
        scope: &str,
        path: &[i32],
        into: &mut HashMap<String, String>,
    ) {
        let name = format!("{scope}.{}", message.name());
        self.put(&name, path, into);
        for (at, field) in (0..).zip(&message.field) {
            self.put(&format!("{name}.{}", field.name()), &[path, &[tag::MEMBERS, at]].concat(), into);
        }
        for (at, nested) in (0..).zip(&message.nested_type) {
            self.collect_message(nested, &name, &[path, &[tag::NESTED, at]].concat(), into);
        }
        for (at, values) in (0..).zip(&message.enum_type) {
            self.collect_enum(values, &name, &[path, &[tag::NESTED_ENUMS, at]].concat(), into);
        }
    }

    fn collect_enum(
        &self,
        values: &EnumDescriptorProto,
        scope: &str,
        path: &[i32],
        into: &mut HashMap<String, String>,
    ) {
        let name = format!("{scope}.{}", values.name());
        self.put(&name, path, into);
        for (at, value) in (0..).zip(&values.value) {
            self.put(&format!("{name}.{}", value.name()), &[path, &[tag::MEMBERS, at]].concat(), into);
        }
    }

    fn put(&self, name: &str, path: &[i32], into: &mut HashMap<String, String>) {
        if let Some(comment) = self.comments.get(path) {
            let lines = comment.lines().map(|line| line.strip_prefix(' ').unwrap_or(line));
            into.insert(name.to_owned(), lines.collect::<Vec<_>>().join("\n").trim().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_found_by_names() {
        let comments = Comments::new();
        for (name, start) in [
            ("jobtrack.v1.Job", "One piece of work"),
            ("jobtrack.v1.Job.kind", "Kind of work"),
            ("jobtrack.v1.Job.State.STATE_RUNNING", "A worker has claimed"),
            ("jobtrack.v1.View.VIEW_BASIC", "Without `result`"),
            ("jobtrack.v1.JobService.GetJob", "Returns a job as it is now."),
        ] {
            assert!(comments.of(name).starts_with(start), "{name}: {:?}", comments.of(name));
        }
        assert_eq!(comments.of("jobtrack.v1.Nothing"), "");
    }
}
