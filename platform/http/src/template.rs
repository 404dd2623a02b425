//! The paths of a document, as requests are compared with them.

/// A documented path, such as `/users/{id}`. Words come before parameters, so that in a sorted table `/users/me` is found before `/users/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathTemplate(Vec<Segment>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Word(String),
    Parameter(String),
}

impl PathTemplate {
    pub fn of(template: &str) -> Self {
        let parameter = |segment: &str| Some(segment.strip_prefix('{')?.strip_suffix('}')?.to_owned());
        let segment =
            |segment: &str| parameter(segment).map_or_else(|| Segment::Word(segment.to_owned()), Segment::Parameter);
        PathTemplate(template.split('/').map(segment).collect())
    }

    /// Whether a request for `path` is meant. Bytes are compared and nothing is decoded; a parameter is one segment, and never an empty one.
    pub fn fits(&self, path: &str) -> bool {
        let mut segments = path.split('/');
        let all_fit = self.0.iter().all(|expected| match (expected, segments.next()) {
            (Segment::Word(word), Some(segment)) => word == segment,
            (Segment::Parameter(_), Some(segment)) => !segment.is_empty(),
            (_, None) => false,
        });
        all_fit && segments.next().is_none()
    }

    /// Which of the segments of a path that fits is this parameter.
    pub fn place_of(&self, parameter: &str) -> Option<usize> {
        self.0
            .iter()
            .position(|segment| matches!(segment, Segment::Parameter(name) if name == parameter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_fit_one_by_one() {
        let template = PathTemplate::of("/orders/{id}/cancel");
        assert!(template.fits("/orders/7/cancel") && template.fits("/orders/a%2Fb/cancel"));
        for other in [
            "/orders/7",
            "/orders/7/cancel/",
            "/orders//cancel",
            "/orders/7/8/cancel",
            "/ORDERS/7/cancel",
            "orders/7/cancel",
            "",
        ] {
            assert!(!template.fits(other), "{other}");
        }
        assert_eq!((template.place_of("id"), template.place_of("cancel")), (Some(2), None));
    }
}
