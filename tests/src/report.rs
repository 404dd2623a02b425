//! What is wrong, as the outcome of a test.

use libtest_mimic::Failed;

/// Fails with all sentences, if there are any.
pub fn none(wrong: Vec<String>) -> Result<(), Failed> {
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}
