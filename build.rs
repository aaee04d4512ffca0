//! Writes the C header, when what it would say has changed.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=rust/capi.rs");
    println!("cargo::rerun-if-changed=cbindgen.toml");
    println!("cargo::rerun-if-changed=include/nasbackup.h");
    let config = cbindgen::Config::from_file("cbindgen.toml").expect("cbindgen.toml is part of the source");
    let header = cbindgen::Builder::new().with_src(Path::new("rust/capi.rs")).with_config(config).generate();
    header.expect("rust/capi.rs has a C interface").write_to_file("include/nasbackup.h");
}
