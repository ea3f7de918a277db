//! Modules import downward only: a forbidden `crate::` path fails here.

use std::{fs, path::Path};

/// Each module with those of the crate that it may use, besides itself.
const MAY_USE: [(&str, &[&str]); 19] = [
    ("telemetry", &[]),
    ("domain", &[]),
    ("clock", &["domain"]),
    ("store", &["clock", "domain", "telemetry"]),
    ("watch", &["domain", "clock", "store", "telemetry"]),
    ("limits", &["domain", "telemetry"]),
    ("tracker", &["domain", "clock", "limits", "store", "watch", "telemetry"]),
    ("proto", &[]),
    ("reload", &[]),
    ("auth", &["domain", "reload"]),
    ("tls", &["reload"]),
    ("socket", &[]),
    ("files", &[]),
    ("grpc", &["socket", "domain", "limits", "store", "watch", "tracker", "proto", "telemetry", "auth", "tls"]),
    ("http", &["socket", "domain", "store", "tracker", "telemetry", "tls"]),
    ("config", &["domain", "limits", "store", "telemetry", "auth", "tls"]),
    (
        "server",
        &[
            "domain",
            "clock",
            "limits",
            "store",
            "watch",
            "tracker",
            "grpc",
            "http",
            "config",
            "telemetry",
            "auth",
            "tls",
            "reload",
            "files",
        ],
    ),
    ("cli", &["files", "config", "telemetry", "server", "proto", "tls"]),
    ("main", &["cli"]),
];

/// Libraries that a module must not name.
const MUST_NOT_NAME: [(&str, &[&str]); 5] = [
    ("domain", &["tokio", "tonic", "prost", "prost_types", "redis", "tracing", "prometheus"]),
    ("store", &["tonic", "prost", "prost_types", "axum", "hyper", "prometheus"]),
    ("watch", &["tonic", "prost", "prost_types", "axum", "hyper", "prometheus"]),
    ("tracker", &["tonic", "prost", "prost_types", "axum", "hyper", "prometheus"]),
    ("grpc", &["prometheus"]),
];

/// Only the composition root knows which stores there are.
const CONCRETE_STORES: [&str; 3] = ["FallbackStore", "MemoryStore", "RedisStore"];

#[test]
fn modules_import_downward_only() {
    let mut offences = Vec::new();
    for (file, text) in sources() {
        let module = file.split(['/', '.']).next().unwrap_or_default().to_owned();
        if module == "lib" {
            continue;
        }
        let (_, may_use) = MAY_USE
            .iter()
            .find(|(name, _)| *name == module)
            .unwrap_or_else(|| panic!("{file} has no place in MAY_USE"));
        for used in used_modules(&text) {
            if used != module && !may_use.contains(&used.as_str()) {
                offences.push(format!("{file} uses crate::{used}"));
            }
        }
        let must_not = MUST_NOT_NAME.iter().filter(|(name, _)| *name == module).flat_map(|(_, libraries)| *libraries);
        // The record is a protobuf message, which nobody outside of the schema sees.
        let is_record = file == "store/redis/schema/record.rs";
        let must_not = must_not.filter(|library| !(is_record && **library == "prost"));
        offences
            .extend(must_not.filter(|library| names(&text, library)).map(|library| format!("{file} names {library}")));
        if module != "store" && module != "server" {
            let concrete = CONCRETE_STORES.iter().filter(|store| text.contains(**store));
            offences.extend(concrete.map(|store| format!("{file} names {store}")));
        }
    }
    assert!(offences.is_empty(), "{offences:#?}");
}

/// The modules that a file names by `crate::x` or within `use crate::{x, y::z}`.
fn used_modules(text: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            used.push(identifier(rest));
            continue;
        };
        let mut depth = 1;
        let mut expect_name = true;
        for (at, letter) in group.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => expect_name = true,
                letter if expect_name && depth == 1 && letter.is_alphabetic() => {
                    used.push(identifier(&group[at..]));
                    expect_name = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    used
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

fn names(text: &str, library: &str) -> bool {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.into_iter().any(|line| {
        line.split(|letter: char| !letter.is_alphanumeric() && letter != '_' && letter != ':')
            .any(|word| word.starts_with(&format!("{library}::")) || (line.starts_with("use ") && word == library))
    })
}

/// Every file under `src/` with its path from there.
fn sources() -> Vec<(String, String)> {
    fn collect(folder: &Path, root: &Path, into: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                collect(&entry, root, into);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                let name = entry.strip_prefix(root).expect("it is under the root").display().to_string();
                into.push((name, fs::read_to_string(&entry).expect("a readable file")));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &root, &mut files);
    assert!(files.len() > 20, "the sources were not found");
    files
}
