//! Opening libqpl and finding its functions.
//!
//! The types of the functions are written out here, because a table of
//! function pointers needs them by name; [`declarations_agree`] makes the
//! compiler compare them with the declarations that bindgen made.

use std::{
    ffi::{CStr, OsString, c_char},
    fmt,
};

use crate::{MINIMUM_VERSION, bindings, qpl_job, qpl_path_t, qpl_status};

/// `qpl_get_job_size`: bytes that a job needs on a path.
pub type GetJobSize = unsafe extern "C" fn(qpl_path_t, *mut u32) -> qpl_status;
/// `qpl_init_job`: lays a job out in its block.
pub type InitJob = unsafe extern "C" fn(qpl_path_t, *mut qpl_job) -> qpl_status;
/// `qpl_execute_job`: submits and waits, 8 s at most.
pub type ExecuteJob = unsafe extern "C" fn(*mut qpl_job) -> qpl_status;
/// `qpl_submit_job`: hands the job to a work queue.
pub type SubmitJob = unsafe extern "C" fn(*mut qpl_job) -> qpl_status;
/// `qpl_wait_job`: waits without limit, spinning.
pub type WaitJob = unsafe extern "C" fn(*mut qpl_job) -> qpl_status;
/// `qpl_check_job`: looks once whether the job is finished.
pub type CheckJob = unsafe extern "C" fn(*mut qpl_job) -> qpl_status;
/// `qpl_fini_job`: ends the use of a job's block.
pub type FiniJob = unsafe extern "C" fn(*mut qpl_job) -> qpl_status;
/// `qpl_get_library_version`: a static string such as "1.9.0".
pub type GetLibraryVersion = unsafe extern "C" fn() -> *const c_char;
/// `qpl_get_safe_deflate_compression_buffer_size`, from 1.7: bytes that suffice
/// for any result of compressing that many.
pub type GetSafeCompressionSize = unsafe extern "C" fn(u32) -> u32;

/// Environment variable that names the library to open instead of the default
/// ones.
#[cfg(not(feature = "link"))]
const LIBRARY_VARIABLE: &str = "QPL_LIBRARY";

/// Tried in this order when [`LIBRARY_VARIABLE`] is not set.
#[cfg(not(feature = "link"))]
const DEFAULT_NAMES: [&str; 2] = ["libqpl.so.1", "libqpl.so"];

/// Version of a libqpl.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Changes when programs must.
    pub major: u16,
    /// Changes when there is something new.
    pub minor: u16,
    /// Changes with corrections.
    pub patch: u16,
}

impl Version {
    /// Reads `1.9.0`; a missing patch number counts as 0, and what follows the
    /// three numbers is ignored.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.trim().split(['.', '-', '+']);
        let mut next = || numbers.next().and_then(|number| number.parse::<u16>().ok());
        Some(Self { major: next()?, minor: next()?, patch: next().unwrap_or(0) })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Why there is no libqpl to use.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// None of the names leads to a library.
    #[error(
        "libqpl is not installed ({detail}); install it (Debian: libqpl1) or set QPL_LIBRARY to its path"
    )]
    NotFound {
        /// What the dynamic loader said of the first name.
        detail: String,
    },
    /// The library that `QPL_LIBRARY` names does not load.
    #[error("QPL_LIBRARY={path:?} cannot be opened: {detail}")]
    NotLoadable {
        /// Value of the variable.
        path: OsString,
        /// What the dynamic loader said.
        detail: String,
    },
    /// A function that every version has is missing: this is no libqpl.
    #[error("{name} is not a libqpl: it has no function {function}")]
    NoFunction {
        /// Name the library was opened by.
        name: String,
        /// The function that was looked for.
        function: &'static str,
    },
    /// The library's version cannot be read.
    #[error("{name} says that it is version {text:?}, which is not a version number")]
    StrangeVersion {
        /// Name the library was opened by.
        name: String,
        /// What the library answered.
        text: String,
    },
    /// The library is older than [`MINIMUM_VERSION`].
    #[error("{name} is version {version}; version {MINIMUM_VERSION} or newer is needed")]
    TooOld {
        /// Name the library was opened by.
        name: String,
        /// Its version.
        version: Version,
    },
}

/// An opened libqpl: its functions as plain pointers.
///
/// The library stays loaded until the process ends. It keeps its list of
/// devices and queues in static objects, and a device may still write to a job
/// when the last user of this value is gone.
#[derive(Clone)]
#[non_exhaustive]
pub struct Library {
    /// Name the library was opened by, or `libqpl` where it is linked.
    pub name: String,
    /// Version the library gives for itself.
    pub version: Version,
    /// See [`GetJobSize`].
    pub get_job_size: GetJobSize,
    /// See [`InitJob`].
    pub init_job: InitJob,
    /// See [`ExecuteJob`].
    pub execute_job: ExecuteJob,
    /// See [`SubmitJob`].
    pub submit_job: SubmitJob,
    /// See [`WaitJob`].
    pub wait_job: WaitJob,
    /// See [`CheckJob`].
    pub check_job: CheckJob,
    /// See [`FiniJob`].
    pub fini_job: FiniJob,
    /// See [`GetSafeCompressionSize`]; absent before 1.7.
    pub get_safe_compression_size: Option<GetSafeCompressionSize>,
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library")
            .field("name", &self.name)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Library {
    /// Opens libqpl. Where `QPL_LIBRARY` is set, the library it names and no
    /// other; else `libqpl.so.1`, then `libqpl.so`. With feature `link` the
    /// linked library, whatever the variable says.
    pub fn open() -> Result<Self, OpenError> {
        #[cfg(feature = "link")]
        return Self::linked();
        #[cfg(not(feature = "link"))]
        match std::env::var_os(LIBRARY_VARIABLE) {
            Some(path) if !path.is_empty() => match Self::open_named(&path) {
                Ok(opened) => opened,
                Err(detail) => Err(OpenError::NotLoadable { path, detail }),
            },
            _ => Self::open_first(&DEFAULT_NAMES),
        }
    }

    /// Opens the first of these names that leads to a library.
    #[cfg(not(feature = "link"))]
    fn open_first(names: &[&str]) -> Result<Self, OpenError> {
        let mut complaint = None;
        for name in names {
            match Self::open_named(name.as_ref()) {
                Ok(opened) => return opened,
                Err(detail) => complaint.get_or_insert(detail),
            };
        }
        Err(OpenError::NotFound { detail: complaint.unwrap_or_default() })
    }

    /// Loads one library. The outer error is the dynamic loader's, the inner
    /// one tells what is wrong with a library that did load.
    #[cfg(not(feature = "link"))]
    fn open_named(name: &std::ffi::OsStr) -> Result<Result<Self, OpenError>, String> {
        // SAFETY: loading runs the constructors of the library. The name is
        // libqpl's own or one that the operator gave, as with any program that
        // is linked to it.
        let library = unsafe { libloading::Library::new(name) }.map_err(|e| describe(&e))?;
        // Stays loaded: see the type.
        let library = std::mem::ManuallyDrop::new(library);
        Ok(Self::with_functions(&library, name.to_string_lossy().into_owned()))
    }

    #[cfg(not(feature = "link"))]
    fn with_functions(library: &libloading::Library, name: String) -> Result<Self, OpenError> {
        /// Copies a symbol out of the library.
        ///
        /// # Safety
        ///
        /// `F` is the type of the C function of this name.
        unsafe fn find<F: Copy>(
            library: &libloading::Library,
            name: &str,
            function: &'static str,
        ) -> Result<F, OpenError> {
            // SAFETY: the caller answers for the type.
            match unsafe { library.get::<F>(function.as_bytes()) } {
                Ok(symbol) => Ok(*symbol),
                Err(_) => Err(OpenError::NoFunction { name: name.to_owned(), function }),
            }
        }

        // SAFETY: the type is that of the C function, which `declarations_agree`
        // compares; it has been so since the first version.
        let get_version: GetLibraryVersion =
            unsafe { find(library, &name, "qpl_get_library_version") }?;
        let version = read_version(get_version, &name)?;
        // SAFETY: the library is a libqpl from 1.5 on, in which these functions
        // have the types that `declarations_agree` compares.
        unsafe {
            Ok(Self {
                version,
                get_job_size: find(library, &name, "qpl_get_job_size")?,
                init_job: find(library, &name, "qpl_init_job")?,
                execute_job: find(library, &name, "qpl_execute_job")?,
                submit_job: find(library, &name, "qpl_submit_job")?,
                wait_job: find(library, &name, "qpl_wait_job")?,
                check_job: find(library, &name, "qpl_check_job")?,
                fini_job: find(library, &name, "qpl_fini_job")?,
                get_safe_compression_size: find(
                    library,
                    &name,
                    "qpl_get_safe_deflate_compression_buffer_size",
                )
                .ok(),
                name,
            })
        }
    }

    /// The library that the program is linked to. The function that only newer
    /// ones have is left out, so that older ones link too.
    #[cfg(feature = "link")]
    fn linked() -> Result<Self, OpenError> {
        let name = "libqpl".to_owned();
        Ok(Self {
            version: read_version(bindings::qpl_get_library_version, &name)?,
            name,
            get_job_size: bindings::qpl_get_job_size,
            init_job: bindings::qpl_init_job,
            execute_job: bindings::qpl_execute_job,
            submit_job: bindings::qpl_submit_job,
            wait_job: bindings::qpl_wait_job,
            check_job: bindings::qpl_check_job,
            fini_job: bindings::qpl_fini_job,
            get_safe_compression_size: None,
        })
    }
}

/// The loader's own words: libloading keeps them in the source of its error.
#[cfg(not(feature = "link"))]
fn describe(error: &libloading::Error) -> String {
    use std::error::Error;
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

fn read_version(get_version: GetLibraryVersion, name: &str) -> Result<Version, OpenError> {
    // SAFETY: the function takes nothing and may be called at any time.
    let text = unsafe { get_version() };
    let text = if text.is_null() {
        String::new()
    } else {
        // SAFETY: libqpl returns a static string that ends in a null byte.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    };
    let version = Version::parse(&text)
        .ok_or_else(|| OpenError::StrangeVersion { name: name.to_owned(), text })?;
    if version < MINIMUM_VERSION {
        return Err(OpenError::TooOld { name: name.to_owned(), version });
    }
    Ok(version)
}

/// Compiles only while the types above are those of bindgen's declarations.
/// Generic and never called, so it asks the linker for nothing.
#[allow(dead_code, clippy::extra_unused_type_parameters)]
fn declarations_agree<T>() {
    let _: GetJobSize = bindings::qpl_get_job_size;
    let _: InitJob = bindings::qpl_init_job;
    let _: ExecuteJob = bindings::qpl_execute_job;
    let _: SubmitJob = bindings::qpl_submit_job;
    let _: WaitJob = bindings::qpl_wait_job;
    let _: CheckJob = bindings::qpl_check_job;
    let _: FiniJob = bindings::qpl_fini_job;
    let _: GetLibraryVersion = bindings::qpl_get_library_version;
    let _: GetSafeCompressionSize = bindings::qpl_get_safe_deflate_compression_buffer_size;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered() {
        let version = |text| Version::parse(text).unwrap();
        assert_eq!(version("1.9.0"), Version { major: 1, minor: 9, patch: 0 });
        assert_eq!(version("1.10.2-rc1").to_string(), "1.10.2");
        assert_eq!(version("1.5"), MINIMUM_VERSION);
        assert!(version("1.10.0") > version("1.9.9"));
        assert!(version("1.4.1") < MINIMUM_VERSION);
        for text in ["", "one", "1", "1.x.0"] {
            assert_eq!(Version::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_library_that_is_too_old_or_speaks_nonsense_is_refused() {
        unsafe extern "C" fn old() -> *const c_char {
            c"1.4.1".as_ptr()
        }
        unsafe extern "C" fn nonsense() -> *const c_char {
            c"unknown".as_ptr()
        }
        unsafe extern "C" fn nothing() -> *const c_char {
            std::ptr::null()
        }
        let error = read_version(old, "libqpl.so.1").unwrap_err();
        assert_eq!(
            error.to_string(),
            "libqpl.so.1 is version 1.4.1; version 1.5.0 or newer is needed"
        );
        assert!(matches!(read_version(nonsense, "x"), Err(OpenError::StrangeVersion { .. })));
        assert!(matches!(read_version(nothing, "x"), Err(OpenError::StrangeVersion { .. })));
    }

    #[cfg(not(feature = "link"))]
    #[test]
    fn what_is_no_libqpl_is_refused_by_name() {
        let detail = Library::open_named("libqpl-that-is-not-there.so".as_ref()).unwrap_err();
        assert!(detail.contains("libqpl-that-is-not-there.so"), "{detail}");
        let error = Library::open_named("libc.so.6".as_ref()).unwrap().unwrap_err();
        assert_eq!(
            error.to_string(),
            "libc.so.6 is not a libqpl: it has no function qpl_get_library_version"
        );
    }
}
