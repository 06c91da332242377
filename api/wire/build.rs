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
    // Byte fields become `Bytes` that share the received buffer: keys and values are not copied on the way in.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
