//! Modules import downward only: an import that runs up fails here. So does a module map that says otherwise.

mod imports;

use std::{collections::HashSet, fs, path::Path};

use self::imports::Source;

/// Each module with those of the crate that it may use, besides itself. A module may only use those above it.
const MAY_USE: &[(&str, &[&str])] = &[
    ("telemetry", &[]),
    ("domain", &[]),
    ("proto", &[]),
    ("reload", &[]),
    ("socket", &[]),
    ("files", &[]),
    ("offload", &[]),
    ("clock", &["domain"]),
    ("store", &["domain", "clock", "offload", "telemetry"]),
    ("watch", &["domain", "clock", "store", "telemetry"]),
    ("quota", &["domain", "telemetry"]),
    ("tracker", &["domain", "clock", "quota", "store", "watch", "telemetry"]),
    ("auth", &["domain", "reload"]),
    ("tls", &["reload"]),
    (
        "grpc",
        &["domain", "quota", "store", "watch", "tracker", "proto", "auth", "tls", "socket", "offload", "telemetry"],
    ),
    ("http", &["domain", "store", "tracker", "proto", "auth", "tls", "socket", "offload", "grpc", "telemetry"]),
    ("config", &["domain", "quota", "reload", "store", "auth", "tls", "telemetry"]),
    (
        "server",
        &[
            "domain",
            "clock",
            "quota",
            "store",
            "watch",
            "tracker",
            "auth",
            "tls",
            "reload",
            "files",
            "grpc",
            "http",
            "config",
            "telemetry",
        ],
    ),
    ("cli", &["proto", "tls", "files", "http", "config", "server", "telemetry"]),
    ("main", &["cli"]),
];

/// A folder, and the floors that its files and child folders stand on, from the ground up.
type Floors = (&'static str, &'static [&'static [&'static str]]);

/// Order inside folders: a part imports only from the floors below its own. `mod` is the file that declares the others.
const FLOORS: &[Floors] = &[
    (
        "store",
        &[
            &["stored", "stats", "capacity", "table"],
            &["changes"],
            &["mod"],
            &["primary"],
            &["memory", "fallback", "redis"],
        ],
    ),
    ("store/table", &[&["finished", "index"], &["mod"]]),
    ("store/memory", &[&["history"], &["mod"]]),
    (
        "store/fallback",
        &[
            &["busy", "partition", "report"],
            &["entries"],
            &["cache"],
            &["push"],
            &["reconcile"],
            &["changes"],
            &["mod"],
        ],
    ),
    ("store/fallback/cache", &[&["availability", "due", "learn"], &["mod"]]),
    (
        "store/redis",
        &[
            &["connection", "schema"],
            &["arguments", "client", "errors", "outage"],
            &["script"],
            &["feed", "groups", "monitor", "read", "secret"],
            &["recent_counts"],
            &["due", "list", "mistakes", "probe"],
            &["preflight", "replicas", "subscriber", "write"],
            &["mod"],
        ],
    ),
    (
        "store/redis/connection",
        &[
            &["address", "counted", "fault", "server", "turns"],
            &["command_wait", "reachability", "reason", "sentinel"],
            &["cluster", "credentials", "metrics"],
            &["connector"],
            &["pooled"],
            &["connections"],
            &["pool"],
            &["mod"],
        ],
    ),
    ("store/redis/schema", &[&["keys", "legacy", "record"], &["codec"], &["mod"]]),
    (
        "grpc",
        &[
            &["body_buffer", "convert", "expiry", "message_size", "unauthenticated"],
            &["status", "exchange"],
            &["middleware"],
            &["service", "transport"],
            &["mod"],
        ],
    ),
    (
        "grpc/middleware",
        &[
            &["authorization", "deadline", "whole_messages"],
            &["context", "methods"],
            &["audit", "auth_failures", "ending"],
            &["mod"],
        ],
    ),
    ("grpc/service", &[&["response"], &["admin", "health", "jobs"], &["mod"]]),
    (
        "grpc/transport",
        &[
            &["counted_stream", "lazy_writer", "other_protocol", "request_service"],
            &["batching", "client_stream"],
            &["http1", "http2"],
            &["mod"],
        ],
    ),
    ("grpc/transport/http2", &[&["body", "response"], &["mod"]]),
    ("http", &[&["scrape", "api"], &["mod"]]),
    (
        "http/api",
        &[
            &["comments", "form", "frames", "message", "response", "schema"],
            &["errors", "event", "reader", "routes", "schemas", "welcome", "writer"],
            &["call", "origins", "query"],
            &["events", "openapi", "request"],
            &["mod"],
        ],
    ),
    (
        "cli",
        &[
            &["text"],
            &["exit"],
            &["connection", "output", "show"],
            &["client", "pages"],
            &["run"],
            &["variables"],
            &["mod"],
            &["health", "serve"],
        ],
    ),
    (
        "cli/client",
        &[
            &["answer", "board", "each", "follow", "target", "values"],
            &["filter", "watched"],
            &["cancel", "create", "finish", "get", "list", "remove", "start", "stats", "token", "update", "watch"],
            &["top", "wait"],
            &["mod"],
        ],
    ),
    ("cli/client/board", &[&["mod"], &["rate"], &["frame"], &["screen"]]),
    (
        "cli/run",
        &[
            &["ending", "progress", "terminal", "tree"],
            &["internal", "machine", "signals", "tail"],
            &["streams", "tracking"],
            &["child"],
            &["supervisor"],
            &["mod"],
        ],
    ),
    (
        "cli/run/progress",
        &[&["escapes", "found", "numbers", "segments", "words"], &["counts", "given", "tools"], &["mod"]],
    ),
    ("grpc/convert", &[&["fields", "values"], &["job", "request", "stats"], &["event", "response"], &["mod"]]),
];

/// Types whose methods stand in several files of their folder, which name it for that. One lock guards all state of the
/// cache, so it can't be composed of parts with their own.
const SPREAD: [(&str, &str); 2] = [("store/fallback", "FallbackStore"), ("store/fallback/cache", "LocalCache")];

/// Maximum number of lines of a function.
const FUNCTION_LINES_MAX: usize = 60;

/// Number of lines beyond which a function is long.
const LONG_FUNCTION_LINES: usize = 40;

/// Maximum number of long functions: tables, and matches with one arm for each case.
const LONG_FUNCTIONS_MAX: usize = 5;

/// Maximum number of lines of a file.
const FILE_LINES_MAX: usize = 400;

/// Libraries that a module must not name.
const MUST_NOT_NAME: [(&str, &[&str]); 5] = [
    ("domain", &["tokio", "tonic", "prost", "prost_types", "redis", "tracing", "prometheus"]),
    ("store", &["tonic", "prost", "prost_types", "axum", "hyper", "prometheus"]),
    ("watch", &["tonic", "prost", "prost_types", "axum", "hyper", "prometheus"]),
    ("tracker", &["tonic", "prost", "prost_types", "axum", "hyper", "prometheus"]),
    ("grpc", &["prometheus"]),
];

/// Only the composition root knows which stores there are.
const CONCRETE_STORES: &[&str] = &["FallbackStore", "MemoryStore", "RedisStore"];

#[test]
fn modules_import_downward_only() {
    let mut offences = Vec::new();
    for file in Source::all() {
        let module = file.module();
        if module == "lib" {
            continue;
        }
        let (_, may_use) = MAY_USE
            .iter()
            .find(|(name, _)| *name == module)
            .unwrap_or_else(|| panic!("{} has no place in MAY_USE", file.path));
        for used in file.imports().into_iter().filter_map(|path| path.into_iter().next()) {
            if used != module && !may_use.contains(&used.as_str()) {
                offences.push(format!("{} uses crate::{used}", file.path));
            }
        }
        let must_not = MUST_NOT_NAME.iter().filter(|(name, _)| *name == module).flat_map(|(_, libraries)| *libraries);
        // The record is a protobuf message, which nobody outside of the schema sees.
        let is_record = file.path == "store/redis/schema/record.rs";
        let must_not = must_not.filter(|library| !(is_record && **library == "prost"));
        let named = must_not.filter(|library| names_library(&file.code, library));
        offences.extend(named.map(|library| format!("{} names {library}", file.path)));
        if module != "store" && module != "server" {
            let concrete = CONCRETE_STORES.iter().filter(|store| file.code.contains(**store));
            offences.extend(concrete.map(|store| format!("{} names {store}", file.path)));
        }
    }
    assert!(offences.is_empty(), "{offences:#?}");
    for (at, (module, may_use)) in MAY_USE.iter().enumerate() {
        let is_above = |used: &&str| MAY_USE[..at].iter().any(|(name, _)| name == used);
        assert!(may_use.iter().all(is_above), "{module} may only use modules above it in MAY_USE");
    }
}

#[test]
fn files_of_a_folder_import_downward_only() {
    let sources = Source::all();
    let mut upward = Vec::new();
    for (folder, floors) in FLOORS {
        let floor = |part: &str| floors.iter().position(|parts| parts.contains(&part));
        for file in &sources {
            let Some(part) = file.part_of(folder) else { continue };
            let own = floor(&part).unwrap_or_else(|| panic!("{} has no place in FLOORS", file.path));
            for (name, used) in parts_used(&sources, folder, file) {
                let is_method = SPREAD.contains(&(folder, name.as_str()));
                if used != part && !is_method && floor(&used).is_none_or(|used| used >= own) {
                    upward.push(format!("{} takes {name} from {folder}/{used}", file.path));
                }
            }
        }
    }
    upward.sort_unstable();
    upward.dedup();
    assert!(upward.is_empty(), "imports that run up or stay on their floor: {upward:#?}");
}

#[test]
fn functions_and_files_are_short() {
    let sources = Source::all();
    let mut long = Vec::new();
    for file in &sources {
        assert!(file.text.lines().count() <= FILE_LINES_MAX, "{} has more than {FILE_LINES_MAX} lines", file.path);
        let functions = file.functions().into_iter().filter(|(_, lines)| *lines > LONG_FUNCTION_LINES);
        long.extend(functions.map(|(name, lines)| (lines, &file.path, name)));
    }
    long.sort_unstable();
    assert!(long.iter().all(|(lines, ..)| *lines <= FUNCTION_LINES_MAX), "over {FUNCTION_LINES_MAX} lines: {long:#?}");
    assert!(long.len() <= LONG_FUNCTIONS_MAX, "over {LONG_FUNCTION_LINES} lines: {long:#?}");
}

/// Returns what `file` takes from the parts of `folder`: names, each with its part.
fn parts_used(sources: &[Source], folder: &str, file: &Source) -> Vec<(String, String)> {
    let face = sources.iter().find(|file| file.part_of(folder).is_some_and(|part| part == "mod")).expect("a face");
    let defined = face.reexports();
    let is_child = |name: &str| sources.iter().any(|file| file.part_of(folder).is_some_and(|part| part == name));
    let below: Vec<_> = folder.split('/').collect();
    let mut used = Vec::new();
    for path in file.imports() {
        if path.len() <= below.len() || path[..below.len()] != below[..] {
            continue;
        }
        let (next, name) = (&path[below.len()], &path[path.len() - 1]);
        let child = defined.iter().find(|(name, _)| name == next).map(|(_, child)| child.clone());
        match child {
            _ if next == "*" => {}
            _ if is_child(next) => used.push((name.clone(), next.clone())),
            child => used.push((next.clone(), child.unwrap_or_else(|| "mod".to_owned()))),
        }
    }
    if file.path == face.path {
        used.extend(defined.into_iter().filter(|(name, _)| face.names(name)));
    }
    used
}

/// Returns the row of each module in the map on this page.
fn module_map(page: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).expect("a readable page");
    let mut rows = text.lines().map(|line| line.trim_start_matches("//! ").replace(['[', ']'], ""));
    let found = MAY_USE.iter().map(|(module, may_use)| {
        let allowed: Vec<_> = may_use.iter().map(|used| format!("`{used}`")).collect();
        let allowed = if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") };
        let (start, end) = (format!("| `{module}` | "), format!(" | {allowed} |"));
        let row = rows.find(|row| row.starts_with(&start) && row.ends_with(&end));
        row.unwrap_or_else(|| panic!("{page} has no row \"{start}…{end}\" in the order of MAY_USE"))
    });
    found.collect()
}

#[test]
fn module_maps_say_what_may_be_imported() {
    assert_eq!(module_map("docs/architecture.md"), module_map("src/lib.rs"));
}

/// Names of functions and files in the guides.
#[test]
fn names_in_the_guides_are_those_of_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code: String = Source::all().into_iter().map(|file| file.code + "\n").collect();
    let words: HashSet<_> = code.split(|letter: char| !letter.is_alphanumeric() && letter != '_').collect();
    for page in ["docs/architecture.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(root.join(page)).expect("a readable page");
        for name in text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
            let is_plain = |part: &str| part.chars().all(|letter| letter.is_alphanumeric() || letter == '_');
            if let Some((owner, member)) =
                name.split_once("::").filter(|(owner, member)| is_plain(owner) && is_plain(member))
            {
                assert!(words.contains(owner) && words.contains(member), "{page}: there is no {name} any more");
            }
            let is_file = [".rs", ".lua", ".proto", ".md", ".sh", ".py"].iter().any(|end| name.ends_with(end));
            let is_path = is_file && name.contains('/') && !name.contains([' ', '*', '{', '<', '…']);
            if is_path || name.starts_with("tests/it/") {
                let found = ["", "src"].iter().any(|folder| root.join(folder).join(name).exists());
                assert!(found, "{page}: there is no {name} any more");
            }
        }
    }
}

fn names_library(code: &str, library: &str) -> bool {
    code.lines().any(|line| {
        line.split(|letter: char| !letter.is_alphanumeric() && letter != '_' && letter != ':')
            .any(|word| word.starts_with(&format!("{library}::")) || (line.starts_with("use ") && word == library))
    })
}
