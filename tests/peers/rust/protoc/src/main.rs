//! `protoc [--include_imports] [--include_source_info] -o FILE [-I DIR]... PROTO...`, by the compiler protox.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (mut includes, mut protos, mut output) = (Vec::new(), Vec::new(), None);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--version" => {
                println!("libprotoc 34.0");
                return Ok(());
            }
            "--include_imports" | "--include_source_info" => {}
            "-o" => output = arguments.next(),
            "-I" => includes.extend(arguments.next().map(PathBuf::from)),
            option if option.starts_with('-') => return Err(format!("unknown option {option}").into()),
            proto => protos.push(PathBuf::from(proto)),
        }
    }
    let mut compiler = protox::Compiler::new(includes)?;
    compiler.include_imports(true).include_source_info(true).open_files(protos)?;
    std::fs::write(output.ok_or("no -o FILE")?, compiler.encode_file_descriptor_set())?;
    Ok(())
}
