//! Path templates of an OpenAPI document, and matching requests against them.

/// A documented path, such as `/notes/{id}`. Literals sort before parameters, so that in a sorted table `/notes/latest` is found before `/notes/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathTemplate(Vec<Segment>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Literal(String),
    Parameter(String),
}

impl PathTemplate {
    pub fn of(template: &str) -> Self {
        let parameter = |segment: &str| Some(segment.strip_prefix('{')?.strip_suffix('}')?.to_owned());
        let segment =
            |segment: &str| parameter(segment).map_or_else(|| Segment::Literal(segment.to_owned()), Segment::Parameter);
        PathTemplate(template.split('/').map(segment).collect())
    }

    /// Whether the path of a request matches. Bytes are compared and nothing is decoded; a parameter is exactly one segment, and never empty.
    pub fn matches(&self, path: &str) -> bool {
        let mut segments = path.split('/');
        let all_match = self.0.iter().all(|expected| match (expected, segments.next()) {
            (Segment::Literal(literal), Some(segment)) => literal == segment,
            (Segment::Parameter(_), Some(segment)) => !segment.is_empty(),
            (_, None) => false,
        });
        all_match && segments.next().is_none()
    }

    /// The index of this parameter among the segments of a path.
    pub fn segment_of(&self, parameter: &str) -> Option<usize> {
        self.0
            .iter()
            .position(|segment| matches!(segment, Segment::Parameter(name) if name == parameter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_matched_one_by_one() {
        let template = PathTemplate::of("/notes/{id}/archive");
        assert!(template.matches("/notes/7/archive") && template.matches("/notes/a%2Fb/archive"));
        for other in [
            "/notes/7",
            "/notes/7/archive/",
            "/notes//archive",
            "/notes/7/8/archive",
            "/NOTES/7/archive",
            "notes/7/archive",
            "",
        ] {
            assert!(!template.matches(other), "{other}");
        }
        assert_eq!(
            (template.segment_of("id"), template.segment_of("archive")),
            (Some(2), None)
        );
    }
}
