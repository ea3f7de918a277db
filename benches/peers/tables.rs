//! Rounds of all servers, and their tables.

use std::fmt::Write;

use crate::{
    contender::Name,
    etcd::ETCD,
    grpc_go,
    nats::NATS,
    report::{Table, grouped},
    stats::{Spread, median, shuffled},
};

/// A column of a table.
pub struct Column<R: 'static> {
    pub head: &'static str,
    pub value: fn(&R) -> f64,
    /// Followed by a column of ratios to jobtrack.
    pub with_ratio: bool,
}

/// The rounds of all servers, in the same order for each.
pub struct Comparison<R> {
    rounds: Vec<(Name, Vec<R>)>,
}

impl<R> Comparison<R> {
    pub fn new(names: &[Name]) -> Self {
        Self { rounds: names.iter().map(|&name| (name, Vec::new())).collect() }
    }

    pub fn add(&mut self, name: Name, round: R) {
        let rounds = self.rounds.iter_mut().find(|(other, _)| *other == name).expect("it takes part");
        rounds.1.push(round);
    }

    fn of(&self, name: Name) -> &[R] {
        self.rounds.iter().find(|(other, _)| *other == name).map_or(&[], |(_, rounds)| rounds)
    }

    /// Returns the ratios of one server to another in each round.
    fn ratios(&self, of: Name, to: Name, value: fn(&R) -> f64) -> Vec<f64> {
        self.of(of).iter().zip(self.of(to)).map(|(of, to)| value(of) / value(to)).collect()
    }

    /// Returns the table, with the spread of two equal servers below.
    pub fn render(&self, columns: &[Column<R>], controls: [Name; 2]) -> String {
        let mut heads = vec!["server"];
        for column in columns {
            heads.push(column.head);
            heads.extend(column.with_ratio.then_some("ratio"));
        }
        let mut table = Table::new(&heads);
        for (name, rounds) in &self.rounds {
            let mut cells = vec![name.label().to_owned()];
            for column in columns {
                let values: Vec<_> = rounds.iter().map(column.value).collect();
                cells.push(number(&values));
                if column.with_ratio {
                    cells.push(self.ratio(*name, column, self.spread(column, controls)));
                }
            }
            table.row(cells);
        }
        let mut text = table.render();
        let spreads = columns.iter().filter(|column| column.with_ratio).filter_map(|column| {
            let Spread { low, high } = self.spread(column, controls)?;
            Some(format!("{} {low:.2}–{high:.2}", column.head))
        });
        let spreads = spreads.collect::<Vec<_>>().join(", ");
        if !spreads.is_empty() {
            _ = write!(text, "\nControls: {spreads}.\n");
        }
        text
    }

    /// Returns the spread of two equal servers.
    fn spread(&self, column: &Column<R>, [one, other]: [Name; 2]) -> Option<Spread> {
        let ratios = self.ratios(other, one, column.value);
        (!ratios.is_empty()).then(|| Spread::of(&ratios))
    }

    fn ratio(&self, name: Name, column: &Column<R>, spread: Option<Spread>) -> String {
        let ratios = self.ratios(name, name.base(), column.value);
        if ratios.is_empty() {
            return "–".to_owned();
        }
        let ratio = median(&ratios);
        let unclear = name != name.base() && spread.is_some_and(|spread| spread.holds(ratio));
        format!("{ratio:.2}{}", if unclear { " ≈" } else { "" })
    }
}

/// Returns servers in random order.
pub fn in_random_order<T>(servers: &[T]) -> impl Iterator<Item = &T> {
    shuffled(servers.len()).into_iter().map(|at| &servers[at])
}

/// Returns the median as text. Without a value, or if there is nothing to measure, a dash.
pub fn number(values: &[f64]) -> String {
    if values.is_empty() || values.iter().all(|&value| value == 0.0) {
        return "–".to_owned();
    }
    let median = median(values);
    if median >= 100.0 { grouped(median) } else { format!("{median:.1}") }
}

/// Returns the lines that name servers that were not measured.
pub fn missing(missing: &[(Name, String)]) -> String {
    let mut text = String::new();
    for (name, reason) in missing {
        _ = write!(text, "\nNot measured: {}: {reason}.\n", name.label());
    }
    text
}

/// Returns a line with the versions of the peers.
pub fn versions() -> String {
    let found = [ETCD.version(), NATS.version(), Some(grpc_go::VERSION.to_owned())];
    format!("Versions: {}.\n", found.into_iter().flatten().collect::<Vec<_>>().join("; "))
}
