//! Validation of the filter of log lines: tracing regards a misspelt level as the name of a module, and then logs
//! nothing.

use thiserror::Error;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

const CRATE: &str = env!("CARGO_PKG_NAME");

/// The reason why a filter of log lines is invalid.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum FilterError {
    /// A word is not a level.
    #[error("{0:?} is not a level: write error, warn, info, debug, trace or off, or {CRATE}=LEVEL")]
    Level(String),
    /// The library can't parse the filter.
    #[error("write a level, or a filter such as {CRATE}=debug")]
    Form,
    /// Nothing of this crate would be logged.
    #[error("the filter would silence {CRATE}: add a level, such as info, or off")]
    Silent,
}

/// Checks a filter of log lines, and returns it without spaces. The error says what to write.
pub fn log_filter(text: &str) -> Result<String, FilterError> {
    let directives = directives(text);
    for word in directives.iter().filter(|directive| !directive.contains(['=', '['])) {
        if !is_level(word) {
            return Err(FilterError::Level((*word).to_owned()));
        }
    }
    let filter = directives.join(",");
    EnvFilter::try_new(&filter).map_err(|_| FilterError::Form)?;
    if !directives.iter().any(|directive| applies_to_this_crate(directive)) {
        return Err(FilterError::Silent);
    }
    Ok(filter)
}

/// Returns the directives of a filter, which are separated by commas.
fn directives(text: &str) -> Vec<&str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn is_level(word: &str) -> bool {
    word.parse::<LevelFilter>().is_ok()
}

/// Returns whether a directive applies to this crate: it names no module, one of this crate, or a prefix of its name.
fn applies_to_this_crate(directive: &str) -> bool {
    let target = directive.split(['=', '[']).next().unwrap_or_default();
    is_level(directive) || CRATE.starts_with(target) || target.split("::").next() == Some(CRATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_would_silence_this_crate_by_mistake_is_rejected() {
        for filter in [
            "info",
            "WARN",
            "off",
            "off,h2=debug",
            "jobtrack=debug",
            "jobtrack::grpc=trace,warn",
            "jobtrack[call{method=x}]=debug",
            "[call]=debug",
            " info , h2=debug",
        ] {
            assert_eq!(log_filter(filter), Ok(filter.replace(' ', "")));
        }
        for filter in [
            "",
            ",",
            "nonsense",
            "jobtrack",
            "jobtrak=debug",
            "h2=debug",
            "info,nonsense",
            "jobtrack=loud",
            "debug,x=1,y",
        ] {
            assert!(log_filter(filter).is_err(), "{filter:?}");
        }
    }
}
