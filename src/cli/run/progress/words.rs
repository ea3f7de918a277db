//! Words that tell whether a number beside them is progress.

/// Words that may precede a count: `step 3/10`, `Processing 3 of 10`.
const COUNTED: [&str; 58] = [
    "batch",
    "batches",
    "block",
    "blocks",
    "building",
    "chunk",
    "chunks",
    "compiling",
    "completed",
    "converted",
    "converting",
    "copied",
    "copying",
    "done",
    "downloaded",
    "downloading",
    "encoded",
    "encoding",
    "epoch",
    "exported",
    "exporting",
    "fetched",
    "fetching",
    "file",
    "files",
    "fold",
    "frame",
    "frames",
    "image",
    "images",
    "imported",
    "importing",
    "installing",
    "item",
    "items",
    "iter",
    "iteration",
    "job",
    "layer",
    "object",
    "objects",
    "page",
    "pages",
    "part",
    "phase",
    "processed",
    "processing",
    "progress",
    "record",
    "records",
    "row",
    "rows",
    "shard",
    "stage",
    "step",
    "task",
    "test",
    "uploading",
];

/// Names of units, which may follow a count.
const UNITS: [&str; 30] = [
    "batches",
    "blocks",
    "chunks",
    "commits",
    "documents",
    "epochs",
    "events",
    "files",
    "frames",
    "images",
    "items",
    "iterations",
    "jobs",
    "layers",
    "lines",
    "messages",
    "modules",
    "objects",
    "packages",
    "pages",
    "parts",
    "records",
    "requests",
    "rows",
    "samples",
    "segments",
    "steps",
    "tasks",
    "tests",
    "tiles",
];

/// Words beside a percentage that is progress.
const PROGRESS: [&str; 26] = [
    "complete",
    "completed",
    "converting",
    "copied",
    "copying",
    "done",
    "downloaded",
    "downloading",
    "encoding",
    "eta",
    "exporting",
    "extracting",
    "fetching",
    "finished",
    "importing",
    "installing",
    "loading",
    "percent",
    "processed",
    "processing",
    "progress",
    "status",
    "uploaded",
    "uploading",
    "verifying",
    "writing",
];

/// Words beside a percentage that is not progress.
const OTHER: [&str; 60] = [
    "acc",
    "accuracy",
    "available",
    "battery",
    "better",
    "cached",
    "capacity",
    "compressed",
    "compression",
    "confidence",
    "cover",
    "coverage",
    "covered",
    "cpu",
    "decrease",
    "deflated",
    "discount",
    "disk",
    "error",
    "errors",
    "f1",
    "faster",
    "fewer",
    "free",
    "full",
    "gpu",
    "higher",
    "hit",
    "hits",
    "humidity",
    "idle",
    "increase",
    "larger",
    "less",
    "load",
    "loss",
    "lower",
    "mem",
    "memory",
    "more",
    "off",
    "packet",
    "precision",
    "quality",
    "ram",
    "ratio",
    "recall",
    "reduction",
    "saved",
    "savings",
    "similarity",
    "slower",
    "smaller",
    "sure",
    "swap",
    "usage",
    "use",
    "used",
    "util",
    "utilization",
];

/// Returns the last word of `text` in lower case; empty unless only spaces and `:=([<-` follow the word.
pub fn last_word(text: &[u8]) -> String {
    let text = trim_end(text, b" :=([<-\t");
    let length = text.iter().rev().take_while(|byte| is_word(**byte)).count();
    lower(&text[text.len() - length..])
}

/// Returns the first word of `text` in lower case; empty unless only spaces and `)]>,;` precede the word.
pub fn first_word(text: &[u8]) -> String {
    let start = text.iter().position(|byte| !b" \t)]>,;".contains(byte)).unwrap_or(text.len());
    let text = &text[start..];
    lower(&text[..text.iter().take_while(|byte| is_word(**byte)).count()])
}

pub fn is_counted(word: &str) -> bool {
    COUNTED.contains(&word)
}

/// Returns the word, if it is a name of units.
pub fn unit(word: &str) -> Option<&'static str> {
    UNITS.iter().find(|unit| **unit == word).copied()
}

pub fn is_progress(word: &str) -> bool {
    PROGRESS.contains(&word)
}

pub fn is_other(word: &str) -> bool {
    OTHER.contains(&word)
}

/// Returns whether `text` has an ASCII letter or digit. Other characters do not count: most of them draw bars.
pub fn has_words(text: &[u8]) -> bool {
    text.iter().any(u8::is_ascii_alphanumeric)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn trim_end<'a>(text: &'a [u8], trimmed: &[u8]) -> &'a [u8] {
    let end = text.iter().rposition(|byte| !trimmed.contains(byte)).map_or(0, |at| at + 1);
    &text[..end]
}

fn lower(word: &[u8]) -> String {
    String::from_utf8_lossy(word).to_ascii_lowercase()
}
