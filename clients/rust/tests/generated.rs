//! The generated code of the messages and of the services.

use std::{env, error::Error, fs};

const GENERATED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/proto/v1.rs");

/// Fails if the protos have changed since the code was generated. With `JOBTRACK_GENERATE=1` the code is replaced.
#[test]
fn generated_code_is_that_of_the_protos() -> Result<(), Box<dyn Error>> {
    let mut compiler = protox::Compiler::new([concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto")])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(["jobtrack/v1/job_service.proto", "jobtrack/v1/admin_service.proto"])?;
    let out = tempfile::tempdir()?;
    tonic_prost_build::configure()
        .extern_path(".google.protobuf.Struct", "crate::proto::EncodedStruct")
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .out_dir(&out)
        .compile_fds(compiler.file_descriptor_set())?;
    let generated = fs::read_to_string(out.path().join("jobtrack.v1.rs"))?;
    if env::var_os("JOBTRACK_GENERATE").is_some() {
        fs::write(GENERATED, generated)?;
    } else {
        let is_current = generated == fs::read_to_string(GENERATED)?;
        assert!(is_current, "run JOBTRACK_GENERATE=1 cargo test --package jobtrack-client --test generated");
    }
    Ok(())
}
