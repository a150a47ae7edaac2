#![doc = include_str!("../README.md")]

mod library;

#[cfg(not(feature = "bindgen"))]
#[rustfmt::skip]
#[allow(missing_docs, non_camel_case_types, non_upper_case_globals)]
mod bindings;

#[cfg(feature = "bindgen")]
#[allow(missing_docs, non_camel_case_types, non_upper_case_globals)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use bindings::*;
pub use library::{
    CheckJob, ExecuteJob, FiniJob, GetJobSize, GetLibraryVersion, GetSafeCompressionSize, InitJob,
    Library, OpenError, SubmitJob, Version, WaitJob,
};

/// Oldest libqpl that this crate works with. Up to this one the job and the
/// numbers of statuses and flags have not changed since; what is newer is
/// optional.
pub const MINIMUM_VERSION: Version = Version { major: 1, minor: 5, patch: 0 };

// One layout serves every version from 1.0 to 1.9. The bindings assert each
// offset; these three lines keep regenerated bindings from drifting away.
const _: () = assert!(size_of::<qpl_job>() == 240 && align_of::<qpl_job>() == 8);
const _: () = assert!(size_of::<qpl_data>() == 48);
const _: () = assert!(size_of::<qpl_status>() == 4);
