//! Builds nothing. It is here for the features that its dependencies get by it: see `Cargo.toml`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
