//! Output of results: to standard output, and each to its section of a Markdown file.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use crate::svg::Plot;

/// The sections, in their order.
const SECTIONS: &[&str] = &[
    "instructions",
    "ratios",
    "writes",
    "telemetry",
    "api",
    "watch",
    "memory",
    "openings",
    "purge",
    "growth",
    "peers-calls",
    "peers-fan-out",
    "peers-dashboards",
    "peers-memory",
    "peers-start",
];

const TITLE: &str = "# Benchmarks

Written by `cargo bench --bench compare` and `cargo bench --bench peers`: do not edit. `benches/compare/main.rs` and
`benches/peers/main.rs` document what is measured and how.

Everything is compared with the *floor*, a bare tonic server that answers the same messages from a map, or with one
write to Redis for each change. Ratios between jobtrack and the floor in the same run mean more than absolute numbers,
which depend on the machine.
";

/// The file of results.
pub struct Report {
    path: PathBuf,
    /// This is a short run.
    pub quick: bool,
}

impl Report {
    /// Returns the project's file of results; for a short run, a file below the target directory.
    pub fn new(quick: bool) -> Self {
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks.md");
        let short = Path::new(env!("CARGO_TARGET_TMPDIR")).join("benchmarks/benchmarks.md");
        Self { path: if quick { short } else { project }, quick }
    }

    /// Saves a plot next to the file, and returns the line that shows it.
    pub fn plot(&self, name: &str, plot: &Plot) -> String {
        let folder = self.path.with_extension("");
        fs::create_dir_all(&folder).expect("a folder can be made");
        fs::write(folder.join(format!("{name}.svg")), plot.render()).expect("a file can be written");
        format!("![{}](benchmarks/{name}.svg)\n", plot.title)
    }

    /// Prints the text of a section, and replaces that section of the file.
    pub fn write(&self, section: &str, text: &str) {
        println!("{text}");
        let text = format!("{text}\n{}\n", self.circumstances());
        let old = fs::read_to_string(&self.path).unwrap_or_default();
        let mut whole = TITLE.to_owned();
        for name in SECTIONS {
            let content = if *name == section { Some(text.as_str()) } else { content(&old, name) };
            if let Some(content) = content {
                _ = write!(whole, "\n<!-- {name} -->\n{}\n<!-- /{name} -->\n", content.trim());
            }
        }
        fs::create_dir_all(self.path.parent().expect("it is a file in a folder")).expect("a folder can be made");
        fs::write(&self.path, whole).expect("the file can be written");
        println!("written to {}", self.path.display());
    }

    /// Returns the date and the environment of the measurement.
    fn circumstances(&self) -> String {
        let short = if self.quick { " A short run, which says little." } else { "" };
        format!(
            "*{}, {} cores of {}. {}; tonic {}, redis-rs {}; {}; {}.{short}*",
            humantime::format_rfc3339_seconds(SystemTime::now()),
            std::thread::available_parallelism().map_or(0, usize::from),
            processor(),
            first_line("rustc", &["--version"]),
            locked("tonic"),
            locked("redis"),
            first_line("redis-server", &["--version"]).split(" sha=").next().unwrap_or_default(),
            first_line("valgrind", &["--version"]),
        )
    }
}

/// Returns the text between the markers of a section.
fn content<'a>(text: &'a str, section: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<!-- {section} -->"))?;
    Some(rest.split_once(&format!("<!-- /{section} -->"))?.0)
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(": ")).map_or("an unknown processor", |(_, name)| name).to_owned()
}

/// Returns the first line of a command's output.
fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output);
    text.lines().next().map_or_else(|| format!("no {program}"), ToOwned::to_owned)
}

/// Returns the locked version of a crate.
fn locked(name: &str) -> &'static str {
    let lock = include_str!("../../Cargo.lock");
    let entry = lock.split_once(&format!("name = \"{name}\"\nversion = \"")).map_or("?\"", |(_, rest)| rest);
    entry.split('"').next().unwrap_or("?")
}

/// A Markdown table, with columns of equal width.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(heads: &[&str]) -> Self {
        Self { rows: vec![heads.iter().map(|&head| head.to_owned()).collect()] }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub fn render(&self) -> String {
        let columns = self.rows[0].len();
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                // Numbers are aligned to the right.
                _ = if column == 0 { write!(text, "| {cell:<width$} ") } else { write!(text, "| {cell:>width$} ") };
            }
            text.push_str("|\n");
            if number == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let (dashes, end) = if column == 0 { (width + 2, "") } else { (width + 1, ":") };
                    _ = write!(text, "|{}{end}", "-".repeat(dashes));
                }
                text.push_str("|\n");
            }
        }
        text
    }
}

/// Formats a whole number with separators.
pub fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
