//! How a refusal is looked at.

use multifd_qpl::receiver::{Options, ReceiveError, Status};

use crate::support::{
    deliver::{Way, over, patient, replay},
    migration::Migration,
    watched,
};

/// Receives a bad migration, from files and over sockets, and returns the two
/// errors without the channel they happened on.
pub fn errors(migration: Migration, options: &Options) -> [ReceiveError; 2] {
    let options = options.clone();
    watched(move || {
        let outcomes = [replay(&migration, options.clone()), over(Way::PLAIN, &migration, options)];
        outcomes.map(|outcome| {
            let failed = outcome.expect_err("a migration that must be refused");
            assert_eq!(failed.report.status, Status::Failed);
            assert_eq!(failed.report.error.as_deref(), Some(&*failed.to_string()));
            check_sentence(&failed.to_string());
            root(failed.error)
        })
    })
}

/// Like [`errors`], with a receiver that waits as long as it takes.
pub fn refused(migration: Migration) -> [ReceiveError; 2] {
    errors(migration, &patient())
}

/// The error itself, without the channel it happened on.
pub fn root(error: ReceiveError) -> ReceiveError {
    match error {
        ReceiveError::Channel { error, .. } => root(*error),
        other => other,
    }
}

/// What a user is told is one sentence, on one line.
pub fn check_sentence(text: &str) {
    assert!(text.len() > 12 && text.len() < 400, "{text:?}");
    assert!(!text.contains(['\n', '\0']) && !text.contains(". "), "{text:?}");
    assert!(!text.ends_with('.'), "{text:?}");
}

/// Demands that a migration is refused with an error of this form, however it
/// is delivered.
macro_rules! assert_refused {
    ($migration:expr, $form:pat $(if $guard:expr)?) => {
        for error in $crate::refusal::refused($migration) {
            assert!(matches!(&error, $form $(if $guard)?), "{error} ({error:?})");
        }
    };
}
pub(crate) use assert_refused;
