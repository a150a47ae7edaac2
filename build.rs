//! Gives the shared library its SONAME, so that a C program built against one
//! version never loads one with another C interface.

fn main() {
    // Before 1.0 every minor version may change the interface, after it only
    // a major one.
    let version = |part| std::env::var(format!("CARGO_PKG_VERSION_{part}")).unwrap_or_default();
    let interface = match version("MAJOR").as_str() {
        "0" => format!("0.{}", version("MINOR")),
        major => major.to_owned(),
    };
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libmultifd_qpl.so.{interface}");
    println!("cargo::rerun-if-changed=build.rs");
}
