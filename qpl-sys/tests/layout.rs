//! Compares every size, offset and number of the bindings with what a C
//! compiler makes of libqpl's own headers.
//!
//! Runs where `QPL_INCLUDE_DIR` names the headers. Each line of the C program's
//! output is `name value`; the same lines are made on this side from the
//! bindings, and the name is the expression that C evaluates.

use std::{env, fmt::Write as _, fs, path::PathBuf, process::Command};

use qpl_sys::*;

/// Pairs of a C expression and the value it has here.
type Expectations = Vec<(String, i64)>;

fn layout() -> Expectations {
    let mut list = Expectations::new();
    macro_rules! fields {
        ($type:ident, $c:literal, $($field:ident)+) => {
            list.push((format!("sizeof({})", $c), size_of::<$type>() as i64));
            list.push((format!("_Alignof({})", $c), align_of::<$type>() as i64));
            $(
                list.push((
                    format!("offsetof({}, {})", $c, stringify!($field)),
                    std::mem::offset_of!($type, $field) as i64,
                ));
                list.push((
                    format!("sizeof((({} *)0)->{})", $c, stringify!($field)),
                    size_of_field(|job: &$type| &raw const job.$field) as i64,
                ));
            )+
        };
    }
    fields!(qpl_job, "qpl_job",
        next_in_ptr available_in total_in next_out_ptr available_out total_out op flags crc
        xor_checksum last_bit_offset level statistics_mode huffman_table dictionary mini_block_size
        idx_array idx_max_size idx_num_written decomp_end_processing ignore_start_bits
        ignore_end_bits crc64_poly crc64 next_src2_ptr available_src2 src1_bit_width src2_bit_width
        num_input_elements out_bit_width param_low param_high drop_initial_bytes
        initial_output_index parser first_index_min_value last_index_max_value sum_value numa_id
        data_ptr);
    fields!(qpl_data, "qpl_data",
        compress_state_ptr decompress_state_ptr analytics_state_ptr middle_layer_buffer_ptr
        hw_state_ptr path);
    list.push(("sizeof(qpl_status)".to_owned(), size_of::<qpl_status>() as i64));
    list.push(("sizeof(qpl_path_t)".to_owned(), size_of::<qpl_path_t>() as i64));
    list
}

/// Size of the field that a projection leads to.
fn size_of_field<T, F>(_: impl Fn(&T) -> *const F) -> usize {
    size_of::<F>()
}

/// The constants, read from the source of the bindings that are in use.
fn constants() -> Expectations {
    let source = include_str!("../src/bindings.rs");
    source
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("pub const ")?.split_once(':')?;
            let value = rest.split_once('=')?.1.trim().strip_suffix(';')?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
}

#[test]
fn bindings_agree_with_the_headers() {
    let Some(include) = env::var_os("QPL_INCLUDE_DIR") else {
        eprintln!(
            "SKIPPED: QPL_INCLUDE_DIR does not name libqpl's headers, so nothing was compared"
        );
        return;
    };
    let mut expected = layout();
    let constants = constants();
    assert!(constants.len() > 150, "only {} constants were found", constants.len());
    expected.extend(constants);

    let mut program = String::from(
        "#include <stddef.h>\n#include <stdio.h>\n#include \"qpl/qpl.h\"\nint main(void) {\n",
    );
    for (expression, _) in &expected {
        writeln!(program, "printf(\"%lld\\n\", (long long)({expression}));").unwrap();
    }
    program.push_str("return 0;\n}\n");

    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (source, binary) = (directory.join("layout.c"), directory.join("layout"));
    fs::write(&source, program).unwrap();
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let compiled = Command::new(compiler)
        .args(["-std=c11", "-Wno-deprecated-declarations"])
        .arg("-I")
        .arg(include)
        .arg("-o")
        .args([&binary, &source])
        .status()
        .expect("a C compiler is needed");
    assert!(compiled.success());

    let output = String::from_utf8(Command::new(&binary).output().unwrap().stdout).unwrap();
    let values: Vec<i64> = output.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(values.len(), expected.len());
    let differing: Vec<_> = expected
        .iter()
        .zip(&values)
        .filter(|((_, here), there)| here != *there)
        .map(|((name, here), there)| format!("{name}: {here} here, {there} in C"))
        .collect();
    assert!(differing.is_empty(), "{differing:#?}");
    eprintln!("{} values agree with the headers", values.len());
}
