//! The program that runs in test containers: one static binary, built from a file of its own.

use std::{path::PathBuf, process::Command, sync::OnceLock};

/// The program's bytes.
pub(crate) fn program() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engine/support/container.rs");
        let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("container-{}", std::process::id()));
        let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
        let status = Command::new(rustc)
            .args(["--edition=2024", "-O", "-Cstrip=symbols", "-Ctarget-feature=+crt-static", "-o"])
            .args([out.as_os_str(), source.as_ref()])
            .status()
            .expect("rustc can be run");
        assert!(status.success(), "the test program cannot be built");
        let bytes = std::fs::read(&out).expect("rustc wrote it");
        std::fs::remove_file(&out).expect("it is ours");
        bytes
    })
}
