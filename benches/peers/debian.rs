//! Programs of the peers: from the environment, from `PATH`, or out of a package of Debian.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Downloads the packages that are its arguments, and unpacks them in its working directory. Only programs are wanted,
/// so nothing is installed.
const UNPACK: &str = r#"
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || { echo "there is no apt-get" >&2; exit 1; }
[ "$(id -u)" != 0 ] || apt-get update -qq || true
apt-get download -qq -o APT::Sandbox::User=root "$@" || exit 1
for package in *.deb; do dpkg-deb -x "$package" . && rm "$package" || exit 1; done
"#;

/// A program of a peer.
pub struct Program {
    pub name: &'static str,
    /// Environment variable that names the file, before all other places.
    pub variable: &'static str,
    pub package: &'static str,
    /// Path of the file in the package.
    pub place: &'static str,
}

impl Program {
    /// Returns the path of the file, or the reason for which it is missing.
    pub fn find(&self) -> Result<PathBuf, String> {
        if let Some(named) = env::var_os(self.variable) {
            let file = PathBuf::from(named);
            return if file.is_file() { Ok(file) } else { Err(format!("{} names no file", self.variable)) };
        }
        let path = env::var_os("PATH").unwrap_or_default();
        if let Some(file) = env::split_paths(&path).map(|folder| folder.join(self.name)).find(|file| file.is_file()) {
            return Ok(file);
        }
        let folder = folder(self.name);
        let file = folder.join(self.place);
        if !file.is_file() {
            unpack(&folder, &[self.package])?;
        }
        if file.is_file() { Ok(file) } else { Err(format!("the package {} has no {}", self.package, self.place)) }
    }

    /// Returns what the program says of its version.
    pub fn version(&self) -> Option<String> {
        let output = Command::new(self.find().ok()?).arg("--version").output().ok()?;
        String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
    }
}

/// Returns the folder below the target directory in which the files of a peer are kept.
pub fn folder(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is in the target directory");
    target.join("peers").join(name)
}

/// Unpacks packages of Debian in a folder.
pub fn unpack(folder: &Path, packages: &[&str]) -> Result<(), String> {
    println!("peers: unpacking {} in {}", packages.join(", "), folder.display());
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    run(Command::new("sh").args(["-c", UNPACK, "sh"]).args(packages).current_dir(folder))
        .map_err(|error| format!("can't unpack {}: {error}", packages.join(", ")))
}

/// Runs a command. Returns the first line of its error output if it fails.
pub fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(text.lines().next().map_or_else(|| format!("{}", output.status), ToOwned::to_owned))
}
