//! Embeds the kernel programs. They are built by `cargo xtask build-ebpf`, with a toolchain of
//! their own; without them the crate still compiles (editors, lints, tests of the pure core), and
//! the daemon says at its start what is missing.

use std::{env, fs, path::Path};

fn main() {
    let manifest_dir = env::var("CARGO_MANIFEST_DIR").expect("set by cargo");
    let object = Path::new(&manifest_dir).join("../target/bpf/xylem.o");
    println!("cargo::rerun-if-changed={}", object.display());
    let out = Path::new(&env::var("OUT_DIR").expect("set by cargo")).join("xylem.o");
    if object.exists() {
        fs::copy(&object, &out).expect("the output folder is cargo's own");
        return;
    }
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    assert!(!release, "no kernel programs to embed: run `cargo xtask build-ebpf` first");
    println!("cargo::warning=no kernel programs to embed: run `cargo xtask build-ebpf`");
    fs::write(&out, []).expect("the output folder is cargo's own");
}
