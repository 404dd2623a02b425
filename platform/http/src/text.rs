//! Which characters text may contain.
//!
//! Control characters end lines where nobody expects it, and break mails, labels and terminals; PostgreSQL cannot store NUL. The characters that
//! override the direction of text make a name or an address look like another one (Unicode Technical Report 36, section 2.5). Neither has a use in
//! what people type. The marks of direction that Arabic and Hebrew need (U+200E, U+200F, U+061C) are allowed.
//!
//! [`schema::tighten`](crate::schema::tighten) puts the patterns into the document: into every text without a pattern of its own, and instead of the
//! format [`LINE`].

/// The format of a text of one line: `#[schema(format = "line")]`. With a `min_length` it is not blank either.
pub(crate) const LINE: &str = "line";

const PATTERN: &str = r"^[^\u0000-\u0008\u000B\u000C\u000E-\u001F\u007F-\u009F\u2028-\u202E\u2066-\u2069]*$";
const PATTERN_OF_LINE: &str = r"^[^\u0000-\u001F\u007F-\u009F\u2028-\u202E\u2066-\u2069]*$";
const PATTERN_OF_LINE_NOT_BLANK: &str = r"^[^\u0000-\u001F\u007F-\u009F\u2028-\u202E\u2066-\u2069]*[^\s\u0000-\u001F\u007F-\u009F\u2028-\u202E\u2066-\u2069][^\u0000-\u001F\u007F-\u009F\u2028-\u202E\u2066-\u2069]*$";

/// The rule for every text, as the detail of an error.
pub(crate) const RULE: &str = "must contain neither control characters, except tabs and line breaks, nor characters that override the direction of text";
const RULE_OF_LINE: &str =
    "must be one line, without control characters and characters that override the direction of text";
const RULE_OF_LINE_NOT_BLANK: &str =
    "must be one line, not blank, without control characters and characters that override the direction of text";

/// Whether no text may contain `c`.
pub fn is_forbidden(c: char) -> bool {
    is_forbidden_in_line(c) && !matches!(c, '\t' | '\n' | '\r')
}

/// Whether no text of one line, such as a name, may contain `c`.
pub fn is_forbidden_in_line(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The pattern of a text in the document.
pub(crate) fn pattern(format: &str, min_length: Option<u64>) -> &'static str {
    match (format, min_length) {
        (LINE, Some(1..)) => PATTERN_OF_LINE_NOT_BLANK,
        (LINE, _) => PATTERN_OF_LINE,
        _ => PATTERN,
    }
}

/// The rule that a pattern of [`pattern`] stands for.
pub(crate) fn rule(pattern: &str) -> Option<&'static str> {
    match pattern {
        PATTERN => Some(RULE),
        PATTERN_OF_LINE => Some(RULE_OF_LINE),
        PATTERN_OF_LINE_NOT_BLANK => Some(RULE_OF_LINE_NOT_BLANK),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::compile;

    /// The patterns are in the document, the functions are used where no schema is: they must not differ.
    #[test]
    fn the_patterns_forbid_what_the_functions_forbid() {
        let matches = |pattern: &str| compile(&json!({ "pattern": pattern })).unwrap();
        let (text, line, not_blank) = (
            matches(PATTERN),
            matches(PATTERN_OF_LINE),
            matches(PATTERN_OF_LINE_NOT_BLANK),
        );
        for c in '\0'..='\u{ffff}' {
            let value = json!(format!("a{c}b"));
            assert_eq!(text.is_valid(&value), !is_forbidden(c), "U+{:04X}", u32::from(c));
            assert_eq!(
                line.is_valid(&value),
                !is_forbidden_in_line(c),
                "U+{:04X}",
                u32::from(c)
            );
            assert_eq!(
                not_blank.is_valid(&value),
                !is_forbidden_in_line(c),
                "U+{:04X}",
                u32::from(c)
            );
        }
        assert!(line.is_valid(&json!("")) && !not_blank.is_valid(&json!(" \u{a0}\u{3000}")));
    }
}
