//! Compiles the protobuf definitions, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/auth.proto",
        "proto/kv.proto",
        "proto/rpc.proto",
        "proto/v3lock.proto",
        "proto/v3election.proto",
        "proto/health.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    // For who translates messages without knowing their types, as the JSON gateway does.
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo names no OUT_DIR")?);
    let bare =
        protox::Compiler::new(["proto"])?.include_source_info(false).open_files(files)?.encode_file_descriptor_set();
    std::fs::write(out.join("descriptors.bin"), bare)?;
    // Byte fields become `Bytes` that share the received buffer: keys and values are not copied on the way in.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
