//! Does nothing by default: the bindings are committed and libqpl is opened
//! at run time. Feature `bindgen` generates the bindings from the headers on
//! this machine, feature `link` asks pkg-config for the library.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "bindgen")]
    generate();
    #[cfg(feature = "link")]
    pkg_config::Config::new()
        .atleast_version("1.5")
        .probe("qpl")
        .expect("feature `link` needs libqpl >= 1.5 with its qpl.pc; set PKG_CONFIG_PATH, or build without the feature");
}

#[cfg(feature = "bindgen")]
fn generate() {
    use std::{env, path::PathBuf};

    use bindgen::{EnumVariation, RustEdition};

    println!("cargo:rerun-if-env-changed=QPL_INCLUDE_DIR");
    println!("cargo:rerun-if-changed=wrapper.h");
    let mut builder = bindgen::Builder::default()
        .header("wrapper.h")
        .allowlist_item("qpl_job")
        .allowlist_item("qpl_status")
        .allowlist_function(
            "qpl_(get_job_size|init_job|execute_job|submit_job|wait_job|check_job|fini_job)",
        )
        .allowlist_function("qpl_get_(library_version|safe_deflate_compression_buffer_size)")
        .allowlist_var("QPL_(FLAG|DEVICE|STS)_.*")
        .allowlist_type("qpl_dictionary")
        .default_enum_style(EnumVariation::Consts)
        .prepend_enum_name(false)
        .rust_edition(RustEdition::Edition2024)
        .use_core()
        .generate_comments(false)
        .derive_copy(false)
        .layout_tests(true)
        .merge_extern_blocks(true);
    if let Ok(directory) = env::var("QPL_INCLUDE_DIR") {
        builder = builder.clang_arg(format!("-I{directory}"));
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    builder
        .generate()
        .expect("bindgen needs libclang and libqpl's headers; set QPL_INCLUDE_DIR to the directory above qpl/qpl.h")
        .write_to_file(out.join("bindings.rs"))
        .expect("OUT_DIR is writable");
}
