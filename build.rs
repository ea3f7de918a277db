//! Compiles the protos with protox, so that no `protoc` is needed, and keeps their comments for reflection. The messages
//! and the clients of jobtrack are in `clients/rust`.

use std::{env, error::Error, fs, path::PathBuf};

const JOB_SERVICE: &str = "jobtrack/v1/job_service.proto";
const ADMIN_SERVICE: &str = "jobtrack/v1/admin_service.proto";
const HEALTH: &str = "grpc/health/v1/health.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), parse(&[JOB_SERVICE, ADMIN_SERVICE, HEALTH])?.encode_file_descriptor_set())?;

    tonic_prost_build::configure()
        .extern_path(".grpc.health.v1.HealthCheckRequest", "::tonic_health::pb::HealthCheckRequest")
        .extern_path(".grpc.health.v1.HealthCheckResponse", "::tonic_health::pb::HealthCheckResponse")
        .compile_fds(parse(&[HEALTH])?.file_descriptor_set())?;

    // The job service for streams of jobs that are encoded already, and with a codec of its own.
    let served = out.join("served");
    fs::create_dir_all(&served)?;
    tonic_prost_build::configure()
        .build_client(false)
        .codec_path("crate::proto::Codec")
        .extern_path(".jobtrack.v1", "crate::proto::v1")
        .extern_path(".jobtrack.v1.WatchJobResponse", "crate::proto::EncodedEvent")
        .extern_path(".jobtrack.v1.WatchJobsResponse", "crate::proto::EncodedEvent")
        .out_dir(served)
        .compile_fds(parse(&[JOB_SERVICE])?.file_descriptor_set())?;
    Ok(())
}

/// Returns a compiler that has read these files and what they import, with comments.
fn parse(files: &[&str]) -> Result<protox::Compiler, protox::Error> {
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(files)?;
    Ok(compiler)
}
