//! Checks of settings that every section makes.

/// For settings that mean nothing at zero: a timeout in which nothing can be done, a queue without room.
///
/// # Errors
/// Names the first key of `section` whose value is zero.
pub fn refuse_zero(section: &str, settings: &[(&str, u64)]) -> Result<(), String> {
    match settings.iter().find(|(_, value)| *value == 0) {
        Some((key, _)) => Err(format!("{section}.{key} must be at least 1")),
        None => Ok(()),
    }
}
