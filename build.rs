//! Compiles the protos with protox, so that no `protoc` is needed, and keeps their comments for reflection.

use std::{env, error::Error, fs, path::PathBuf};

const PROTOS: [&str; 3] =
    ["jobtrack/v1/job_service.proto", "jobtrack/v1/admin_service.proto", "grpc/health/v1/health.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(PROTOS)?;

    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;

    tonic_prost_build::configure()
        .extern_path(".google.protobuf.Struct", "crate::proto::EncodedStruct")
        .extern_path(".grpc.health.v1.HealthCheckRequest", "::tonic_health::pb::HealthCheckRequest")
        .extern_path(".grpc.health.v1.HealthCheckResponse", "::tonic_health::pb::HealthCheckResponse")
        .compile_fds(compiler.file_descriptor_set())?;

    // The job service once more, for streams of jobs that are encoded already, and with a codec of its own.
    let served = out.join("served");
    fs::create_dir_all(&served)?;
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_file(PROTOS[0])?;
    tonic_prost_build::configure()
        .build_client(false)
        .codec_path("crate::proto::Codec")
        .extern_path(".jobtrack.v1", "crate::proto::v1")
        .extern_path(".jobtrack.v1.WatchJobResponse", "crate::proto::EncodedEvent")
        .extern_path(".jobtrack.v1.WatchJobsResponse", "crate::proto::EncodedEvent")
        .out_dir(served)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
