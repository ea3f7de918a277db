//! The floor in Go: built with the compiler, grpc-go and protobuf of Debian.

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use jobtrack::proto::DESCRIPTORS;
use prost::Message;
use prost_types::{
    FileDescriptorSet,
    compiler::{CodeGeneratorRequest, CodeGeneratorResponse},
};

use crate::{
    debian::{folder, run, unpack},
    process::Server,
};

/// Environment variable that names a server that is built already.
const VARIABLE: &str = "JOBTRACK_BENCH_GRPC_GO";

const SOURCE: &str = include_str!("floor.go");

/// The compiler, with its libraries, and what grpc-go imports.
const PACKAGES: [&str; 9] = [
    "golang-1.19-go",
    "golang-1.19-src",
    "golang-google-grpc-dev",
    "golang-google-protobuf-dev",
    "golang-github-golang-protobuf-1-5-dev",
    "golang-google-genproto-dev",
    "golang-golang-x-net-dev",
    "golang-golang-x-sys-dev",
    "golang-golang-x-text-dev",
];

/// The compiler in these packages.
const COMPILER: &str = "usr/lib/go-1.19";

/// The plugin that generates messages and services, as a Go package.
const GENERATOR: &str = "github.com/golang/protobuf/protoc-gen-go";

/// The files from which code is generated.
const GENERATED: [&str; 2] = ["jobtrack/v1/job.proto", "jobtrack/v1/job_service.proto"];

/// Version of grpc-go in these packages.
pub const VERSION: &str = "grpc-go 1.33.3 of Debian 12, Go 1.19";

/// Starts the server.
pub fn start() -> Result<Server, String> {
    let program = program()?;
    let mut command = Command::new(program);
    command.env_clear();
    Ok(Server::start(command))
}

/// Returns the built server. Builds it if it is missing or was built from another source.
fn program() -> Result<PathBuf, String> {
    if let Some(named) = env::var_os(VARIABLE) {
        return Ok(named.into());
    }
    let folder = folder("grpc-go");
    let (program, built_of) = (folder.join("floor"), folder.join("built-of"));
    let source = [SOURCE.as_bytes(), DESCRIPTORS].concat();
    if !program.is_file() || fs::read(&built_of).unwrap_or_default() != source {
        build(&folder)?;
        fs::write(&built_of, source).map_err(|error| error.to_string())?;
    }
    Ok(program)
}

fn build(folder: &Path) -> Result<(), String> {
    let unpacked = folder.join("debian");
    if !unpacked.join(COMPILER).join("bin/go").is_file() {
        unpack(&unpacked, &PACKAGES)?;
    }
    println!("peers: building the floor in Go in {}", folder.display());
    let main = folder.join("src/jobtrack/floor");
    fs::create_dir_all(&main).map_err(|error| error.to_string())?;
    fs::write(main.join("floor.go"), SOURCE).map_err(|error| error.to_string())?;
    let go = |program: &str, package: &str| {
        let mut command = Command::new(unpacked.join(COMPILER).join("bin/go"));
        let path = env::join_paths([folder.to_owned(), unpacked.join("usr/share/gocode")]).expect("valid folders");
        command.args(["build", "-o"]).arg(folder.join(program)).arg(package);
        command.env("GOROOT", unpacked.join(COMPILER)).env("GOPATH", path).env("GOCACHE", folder.join("cache"));
        command.env("GO111MODULE", "off").env("CGO_ENABLED", "0").env("GOFLAGS", "");
        run(&mut command).map_err(|error| format!("can't build {package}: {error}"))
    };
    go("protoc-gen-go", GENERATOR)?;
    generate(&folder.join("protoc-gen-go"), &folder.join("src"))?;
    go("floor", "jobtrack/floor")
}

/// Generates code as protoc would, from the descriptors that jobtrack has compiled in.
fn generate(generator: &Path, folder: &Path) -> Result<(), String> {
    let mut descriptors = FileDescriptorSet::decode(DESCRIPTORS).expect("they are descriptors");
    // The health protocol names no Go package, and is not served.
    descriptors.file.retain(|file| !file.package().starts_with("grpc."));
    let request = CodeGeneratorRequest {
        file_to_generate: GENERATED.map(str::to_owned).to_vec(),
        parameter: Some("plugins=grpc".to_owned()),
        proto_file: descriptors.file,
        compiler_version: None,
    };
    let mut command = Command::new(generator);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(&request.encode_to_vec()).map_err(|error| error.to_string())?;
    drop(input);
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let response = CodeGeneratorResponse::decode(&*output.stdout).map_err(|error| error.to_string())?;
    if !output.status.success() || response.error.is_some() {
        return Err(format!("can't generate code: {}", response.error()));
    }
    for file in response.file {
        let path = folder.join(file.name());
        fs::create_dir_all(path.parent().expect("it is in a folder")).map_err(|error| error.to_string())?;
        fs::write(path, file.content()).map_err(|error| error.to_string())?;
    }
    Ok(())
}
