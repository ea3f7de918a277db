//! Output of client commands: for people, or JSON.

use std::io::{self, Write};

use anstream::AutoStream;
use clap::{Args, ValueEnum};
use jobtrack_client::Job;
use prost::Message;

use super::{exit::CommandError, text::escape_json};
use crate::http::api::{Form, form};

/// Format of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people
    Table,
    /// Text for people, with more columns
    Wide,
    /// JSON, one indented object
    Json,
    /// JSON, one object per line
    Jsonl,
}

/// The flag for the format of the output.
#[derive(Args, Clone, Copy, Debug)]
pub struct Output {
    /// Format of the output
    #[arg(short = 'o', long = "output", value_enum, default_value = "table", value_name = "FORMAT")]
    pub format: Format,
}

impl Format {
    /// Returns whether the output is JSON, for programs.
    pub const fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::Jsonl)
    }
}

/// Writes messages as JSON, in the form of the HTTP API.
pub struct Json {
    form: Form,
    is_pretty: bool,
}

impl Json {
    /// Returns the writer of the messages with this name, such as `Job`.
    pub fn of(message: &str, format: Format) -> Self {
        Self { form: form(message), is_pretty: format == Format::Json }
    }

    /// Returns a message as JSON, with a line feed.
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
    written.expect("the text is JSON");
    String::from_utf8(indented).expect("JSON is text")
}

/// Writes to standard output. Colours are removed if standard output does not show them.
pub fn print(text: &str) -> Result<(), CommandError> {
    let mut out = AutoStream::auto(io::stdout().lock());
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Writes a job as JSON, or the text that `shown` makes of it for people.
pub fn print_job(format: Format, job: &Job, shown: impl FnOnce(&Job) -> String) -> Result<(), CommandError> {
    print(&if format.is_json() { Json::of("Job", format).write(job) } else { shown(job) })
}

/// Writes an error to standard error, unless the error is that the reader of the output has closed the pipe.
pub fn print_error(error: &CommandError) {
    if let Some(line) = error.line() {
        _ = writeln!(io::stderr(), "{line}");
    }
}

/// Writes a note to standard error, apart from the output.
pub fn note(text: &str) {
    _ = writeln!(io::stderr(), "note: {text}");
}
