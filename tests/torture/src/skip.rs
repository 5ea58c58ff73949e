//! Parts of a mode that this machine cannot run: skipped with a line that says why, a failure in `.ci/run`

/// Set in `.ci/run`: a part that is skipped there would hide that nothing was tested.
pub(crate) const REQUIRED: &str = "TERRACE_NO_SKIPS";

/// Says that `part` is skipped because of `why`.
///
/// # Errors
/// The same text, where nothing may be skipped.
pub(crate) fn skip(part: &str, why: &str) -> Result<(), String> {
    let line = format!("{part}: skipped: {why}");
    if std::env::var_os(REQUIRED).is_some() {
        return Err(format!("{line}; with {REQUIRED} set that is a failure"));
    }
    eprintln!("{line}");
    Ok(())
}
