//! The filter of log lines, checked before it is used: the library takes an unknown word for the name of a module, and
//! then logs nothing.

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

const CRATE: &str = env!("CARGO_PKG_NAME");

/// Checks a filter of log lines, and returns it without blanks. The error says what to write.
pub fn log_filter(text: &str) -> Result<String, String> {
    let directives = directives(text);
    for word in directives.iter().filter(|directive| !directive.contains(['=', '['])) {
        if !is_level(word) {
            return Err(format!(
                "{word:?} is no level: write error, warn, info, debug, trace or off, or {CRATE}=LEVEL"
            ));
        }
    }
    let filter = directives.join(",");
    EnvFilter::try_new(&filter).map_err(|_| format!("write a level, or a filter such as {CRATE}=debug"))?;
    if !directives.iter().any(|directive| is_about_us(directive)) {
        return Err(format!("nothing of {CRATE} would be logged: add a level, such as info, or off"));
    }
    Ok(filter)
}

/// Returns the parts between commas.
fn directives(text: &str) -> Vec<&str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn is_level(word: &str) -> bool {
    word.parse::<LevelFilter>().is_ok()
}

/// Returns whether a directive applies to lines of this crate: one of a module does if the module's name begins so, or
/// is one of ours.
fn is_about_us(directive: &str) -> bool {
    let target = directive.split(['=', '[']).next().unwrap_or_default();
    is_level(directive) || CRATE.starts_with(target) || target.split("::").next() == Some(CRATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_would_silence_us_unawares_is_refused() {
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
