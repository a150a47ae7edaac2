//! The C interface: its header, and a C program that receives through it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Where cargo has put the libraries: beside the test itself.
fn libraries() -> PathBuf {
    let test = env::current_exe().unwrap();
    test.parent().unwrap().to_owned()
}

fn library(ending: &str) -> PathBuf {
    let named = libraries().join(format!("libmultifd_qpl{ending}"));
    if named.exists() {
        return named;
    }
    libraries().parent().unwrap().join(format!("libmultifd_qpl{ending}"))
}

/// The header in the repository is what the code says.
#[test]
fn the_header_is_up_to_date() {
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml")).unwrap();
    let builder =
        cbindgen::Builder::new().with_config(config).with_src(root().join("src/capi/mod.rs"));
    let mut made = Vec::new();
    builder.generate().unwrap().write(&mut made);
    let path = root().join("include/multifd_qpl.h");
    if env::var_os("MULTIFD_QPL_BLESS").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let there = fs::read(&path).unwrap_or_default();
    assert!(
        there == made,
        "include/multifd_qpl.h is old: make it again with MULTIFD_QPL_BLESS=1 cargo test --test capi"
    );
}

/// A program that links the shared library asks for it by its SONAME.
#[test]
fn the_shared_library_has_a_soname() {
    let output = Command::new("objdump").arg("-p").arg(library(".so")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("SONAME               libmultifd_qpl.so.0.1"), "{text}");
}

fn compile(program: &Path, link: &[&str]) {
    let status = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-g"])
        .arg("-I")
        .arg(root().join("include"))
        .arg(root().join("tests/capi/receive.c"))
        .arg("-o")
        .arg(program)
        .args(link)
        .status()
        .unwrap();
    assert!(status.success());
}

fn run(program: &Path, libraries: &Path) {
    let output = Command::new(program).env("LD_LIBRARY_PATH", libraries).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
}

/// The C program checks every function: packets, map, null, errors.
#[test]
fn a_c_program_receives_with_the_static_library() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("receive");
    let archive = library(".a");
    let archive = archive.to_str().unwrap();
    compile(&program, &[archive, "-lpthread", "-ldl", "-lm"]);
    run(&program, dir.path());
}

#[test]
fn a_c_program_receives_with_the_shared_library() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("receive");
    // The loader looks for the SONAME.
    let soname = dir.path().join("libmultifd_qpl.so.0.1");
    std::os::unix::fs::symlink(library(".so"), &soname).unwrap();
    compile(&program, &[soname.to_str().unwrap()]);
    run(&program, dir.path());
}
