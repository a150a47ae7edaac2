//! Gives the library the SONAME that libqpl asks the dynamic loader for.
//!
//! A loader that already has a library of that SONAME does not look for a file, which is how this one takes the place
//! of the real libaccel-config. `nodelete` keeps it in memory for the device threads when libqpl closes its handle.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libaccel-config.so.1");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
