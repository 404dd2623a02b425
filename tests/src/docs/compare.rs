//! Compares the output that a page shows with the real one.

use libtest_mimic::{Failed, Trial};

pub fn trials() -> Vec<Trial> {
    vec![Trial::test(
        "docs::a_wrong_output_is_detected",
        wrong_output_is_detected,
    )]
}

/// Whether the shown output is the real one. An HTTP response may show some of its headers, in any order; all else is compared as a whole.
///
/// # Errors
/// The difference, in a sentence.
pub fn shown_is_real(shown: &str, real: &str) -> Result<(), String> {
    let real = real.replace('\r', "");
    let (mut shown_body, mut real_body) = (shown, real.as_str());
    if shown.starts_with("HTTP/") {
        let (shown_head, body) = shown.split_once("\n\n").unwrap_or((shown, "…"));
        let (real_head, came) = real.trim_start().split_once("\n\n").ok_or("no HTTP response came")?;
        (shown_body, real_body) = (body, came);
        let mut lines = shown_head.lines();
        let status = lines.next().unwrap_or_default();
        if real_head.lines().next().map(str::trim) != Some(status) {
            return Err(format!("the status is not {status:?}"));
        }
        if let Some(missing) = lines.find(|line| !real_head.lines().any(|came| is_like(line, came))) {
            return Err(format!("no header is {missing:?}"));
        }
    }
    if is_like(shown_body, real_body) {
        Ok(())
    } else {
        Err(format!("it does not read {:?}", shown_body.trim()))
    }
}

/// Compares without white space; `…` stands for any text.
fn is_like(shown: &str, real: &str) -> bool {
    let squeeze = |text: &str| text.split_whitespace().collect::<String>();
    let (shown, real) = (squeeze(shown), squeeze(real));
    let Some((head, rest)) = shown.split_once('…') else {
        return shown == real;
    };
    let Some(mut left) = real.strip_prefix(head) else {
        return false;
    };
    let mut pieces: Vec<&str> = rest.split('…').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some(at) = left.find(piece) else { return false };
        left = &left[at + piece.len()..];
    }
    left.ends_with(last)
}

fn wrong_output_is_detected() -> Result<(), Failed> {
    let real = "HTTP/1.1 201 Created\r\netag: \"6\"\r\n\r\n{\"id\":\"7f\",\"status\":\"confirmed\",\"items\":[{\"sku\":\"fig\"}],\"version\":6}";
    let shown =
        "HTTP/1.1 201 Created\netag: \"6\"\n\n{\n  \"id\": \"…\", \"status\": \"confirmed\", …, \"version\": 6\n}\n";
    shown_is_real(shown, real)?;
    let lies = [
        ("201 Created", "200 OK"),
        ("etag: \"6\"", "etag: \"7\""),
        ("confirmed", "cancelled"),
        ("\"id\"", "\"uuid\""),
        ("\"version\": 6\n}", "\"version\": 6"),
        ("\"version\": 6", "\"version\": 6, \"total\": 1"),
    ];
    let accepted: Vec<_> = lies
        .iter()
        .filter(|(truth, lie)| shown_is_real(&shown.replace(truth, lie), real).is_ok())
        .collect();
    if accepted.is_empty() {
        Ok(())
    } else {
        Err(format!("these were not detected: {accepted:?}").into())
    }
}
