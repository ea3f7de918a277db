//! Output of client commands: for people, or JSON.

use std::io::{self, Write};

use anstream::AutoStream;
use clap::{Args, ValueEnum};
use jobtrack_client::Job;
use prost::Message;

use super::{exit::CommandError, text::escape_json};
use crate::http::api::{Form, form};

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For people, with more columns
    Wide,
    /// JSON, one object
    Json,
    /// JSON, one object a line
    Jsonl,
}

/// The flag for the form of the output.
#[derive(Args, Clone, Copy, Debug)]
pub struct Output {
    /// Form of the output
    #[arg(short = 'o', long = "output", value_enum, default_value = "table", value_name = "FORMAT")]
    pub format: Format,
}

impl Format {
    /// Returns whether programs read the output.
    pub const fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::Jsonl)
    }
}

/// Messages as JSON, as the HTTP API writes them.
pub struct Json {
    form: Form,
    is_pretty: bool,
}

impl Json {
    /// Returns the form of the messages of this name, such as `Job`.
    pub fn of(message: &str, format: Format) -> Self {
        Self { form: form(message), is_pretty: format == Format::Json }
    }

    /// Returns a message with a line feed.
    pub fn write(&self, message: &impl Message) -> String {
        let mut json = Vec::new();
        self.form.write(&message.encode_to_vec(), &mut json);
        let mut json = String::from_utf8(json).expect("JSON is text");
        if self.is_pretty {
            json = indent(&json);
        }
        json.push('\n');
        escape_json(&json).into_owned()
    }
}

/// Returns JSON with line breaks and indentation.
fn indent(json: &str) -> String {
    let mut indented = Vec::with_capacity(json.len() * 2);
    let mut from = serde_json::Deserializer::from_str(json);
    let written = serde_transcode::transcode(&mut from, &mut serde_json::Serializer::pretty(&mut indented));
    written.expect("it is JSON");
    String::from_utf8(indented).expect("JSON is text")
}

/// Writes to standard output; colours only reach a terminal that shows them.
pub fn print(text: &str) -> Result<(), CommandError> {
    let mut out = AutoStream::auto(io::stdout().lock());
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Writes a job, for people as `shown`.
pub fn print_job(format: Format, job: &Job, shown: impl FnOnce(&Job) -> String) -> Result<(), CommandError> {
    print(&if format.is_json() { Json::of("Job", format).write(job) } else { shown(job) })
}

/// Writes an error to standard error, if there is somebody to tell.
pub fn print_error(error: &CommandError) {
    if let Some(line) = error.line() {
        _ = writeln!(io::stderr(), "{line}");
    }
}

/// Writes a remark to standard error, which the output does not contain.
pub fn note(text: &str) {
    _ = writeln!(io::stderr(), "note: {text}");
}
