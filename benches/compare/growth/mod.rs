//! What grows with what: each question has a table and a plot.

mod fanout;
mod listing;
mod recovery;
mod updates;

use clap::ValueEnum;

use crate::{
    report::{Report, Table, grouped},
    svg::{Line, Plot},
};

/// What of it is measured.
#[derive(clap::Args, Default)]
pub struct Arguments {
    /// Only this, which is printed; of what is written only its plot is new
    #[arg(long)]
    only: Option<Question>,
}

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Question {
    /// An update, by the number of watched jobs
    Updates,
    /// An event, by the number of subscribers
    Fanout,
    /// A page, the statistics and the start, by the number of jobs
    Listing,
    /// A reconciliation, by the number of dirty jobs
    Recovery,
}

/// What a question found: values by sizes.
pub struct Finding {
    /// The name of its plot.
    pub name: &'static str,
    pub title: &'static str,
    /// What was done, in Markdown.
    pub text: String,
    /// What the sizes count.
    pub size: &'static str,
    /// What the values are, with their unit.
    pub value: &'static str,
    /// All of the same sizes.
    pub lines: Vec<Line>,
}

/// Asks, and writes the section.
pub async fn run(arguments: &Arguments, report: &Report) {
    let mut findings = Vec::new();
    for question in Question::value_variants() {
        if arguments.only.is_some_and(|only| only != *question) {
            continue;
        }
        match question {
            Question::Updates => findings.push(updates::measure(report.quick).await),
            Question::Fanout => findings.push(fanout::measure(report.quick).await),
            Question::Listing => findings.extend(listing::measure(report.quick).await),
            Question::Recovery => findings.push(recovery::measure(report.quick).await),
        }
    }
    let mut text = "## Growth\n".to_owned();
    for finding in findings {
        text.push('\n');
        text.push_str(&finding.render(report));
    }
    if arguments.only.is_some() {
        println!("{text}");
    } else {
        report.write("growth", &text);
    }
}

impl Finding {
    /// Its part of the section; the plot is saved.
    fn render(self, report: &Report) -> String {
        let table = self.table().render();
        let Self { name, title, text, size, value, lines } = self;
        let plot = Plot { title: title.to_owned(), x: size, y: value, lines };
        format!("### {title}\n\n{text}\n\n{table}\n{}", report.plot(name, &plot))
    }

    /// A row for each line, a column for each size, and how the last compares with the first.
    fn table(&self) -> Table {
        let mut heads = vec![self.value.to_owned()];
        heads.extend(self.lines[0].points.iter().map(|point| grouped(point.0)));
        heads.push("last to first".to_owned());
        let mut table = Table::new(&heads.iter().map(String::as_str).collect::<Vec<_>>());
        for Line { name, points } in &self.lines {
            let mut cells = vec![name.clone()];
            cells.extend(points.iter().map(|point| number(point.1)));
            cells.push(format!("{:.2}", points[points.len() - 1].1 / points[0].1));
            table.row(cells);
        }
        table
    }
}

/// A value with three digits or more.
fn number(value: f64) -> String {
    match value {
        _ if value >= 100.0 => grouped(value),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
