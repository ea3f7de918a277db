//! Growth of costs: each question has a table and a plot.

mod fanout;
mod listing;
mod recovery;
mod updates;

use clap::ValueEnum;

use crate::{
    report::{Report, Table, grouped},
    svg::{Line, Plot},
};

/// Options of the growth benchmark.
#[derive(clap::Args, Default)]
pub struct Arguments {
    /// Measure only this and print it; only its plot is written
    #[arg(long)]
    only: Option<Question>,
}

/// The question that a measurement answers.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Question {
    /// Cost of an update, by the number of watched jobs
    Updates,
    /// Cost of an event, by the number of subscribers
    Fanout,
    /// Cost of a page, of the statistics and of a start, by the number of jobs
    Listing,
    /// Time of a reconciliation, by the number of dirty jobs
    Recovery,
}

/// The answer to a question: values by sizes.
pub struct Finding {
    /// Name of the plot.
    pub name: &'static str,
    pub title: &'static str,
    /// Description of the measurement, in Markdown.
    pub text: String,
    /// Quantity on the x axis.
    pub size: &'static str,
    /// Quantity on the y axis, with its unit.
    pub value: &'static str,
    /// Lines, all with the same sizes.
    pub lines: Vec<Line>,
}

/// Measures all that is asked for, and writes the section.
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
    /// Returns the part of the section. Saves the plot.
    fn render(self, report: &Report) -> String {
        let table = self.table().render();
        let Self { name, title, text, size, value, lines } = self;
        let plot = Plot { title: title.to_owned(), x: size, y: value, lines };
        format!("### {title}\n\n{text}\n\n{table}\n{}", report.plot(name, &plot))
    }

    /// Returns a table with a row for each line, a column for each size, and the ratio of the last size to the first.
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

/// Formats a value with at least three digits.
fn number(value: f64) -> String {
    match value {
        _ if value >= 100.0 => grouped(value),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
