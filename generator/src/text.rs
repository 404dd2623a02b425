//! Insertions into texts, at places that are found by their lines.

use anyhow::Context;

/// A file to be edited.
#[derive(Clone, Debug)]
pub struct Text {
    path: &'static str,
    lines: Vec<String>,
}

impl Text {
    pub fn new(path: &'static str, text: &str) -> Self {
        Text {
            path,
            lines: text.lines().map(str::to_owned).collect(),
        }
    }

    pub fn into_text(self) -> String {
        self.lines.join("\n") + "\n"
    }

    /// Inserts `new` before the first line at or behind `from` that `is_place` accepts; `place` describes that line in the error.
    ///
    /// # Errors
    /// There is no such line.
    pub fn insert_before(
        &mut self,
        from: usize,
        place: &str,
        is_place: impl Fn(&str) -> bool,
        new: &str,
    ) -> anyhow::Result<()> {
        let at = self.find(from, place, is_place)?;
        self.splice(at, new);
        Ok(())
    }

    /// Inserts `new` behind the last line that `is_place` accepts.
    ///
    /// # Errors
    /// There is no such line.
    pub fn insert_behind_last(
        &mut self,
        place: &str,
        is_place: impl Fn(&str) -> bool,
        new: &str,
    ) -> anyhow::Result<()> {
        let last = self.lines.iter().rposition(|line| is_place(line));
        let at = last.with_context(|| self.lacks(place))? + 1;
        self.splice(at, new);
        Ok(())
    }

    /// The number of the first line at or behind `from` that `is_place` accepts, from 0.
    ///
    /// # Errors
    /// There is no such line.
    pub fn find(&self, from: usize, place: &str, is_place: impl Fn(&str) -> bool) -> anyhow::Result<usize> {
        let found = self.lines.iter().skip(from).position(|line| is_place(line));
        Ok(from + found.with_context(|| self.lacks(place))?)
    }

    /// Replaces a line.
    pub fn replace(&mut self, at: usize, change: impl Fn(&str) -> String) {
        if let Some(line) = self.lines.get_mut(at) {
            *line = change(line);
        }
    }

    /// The paragraph that contains the line `inside`: its lines, and the number of the line behind it.
    ///
    /// # Errors
    /// There is no such line.
    pub fn paragraph(&self, inside: &str) -> anyhow::Result<(Vec<String>, usize)> {
        let at = self.find(0, inside, |line| line == inside)?;
        let begin = self.lines[..at]
            .iter()
            .rposition(String::is_empty)
            .map_or(0, |blank| blank + 1);
        let end = self.lines[at..]
            .iter()
            .position(String::is_empty)
            .map_or(self.lines.len(), |blank| at + blank);
        Ok((self.lines[begin..end].to_vec(), end))
    }

    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Inserts lines at a line's number.
    pub fn splice(&mut self, at: usize, new: &str) {
        self.lines.splice(at..at, new.lines().map(str::to_owned));
    }

    fn lacks(&self, place: &str) -> String {
        format!(
            "{} has no longer the line {place:?}, at which the module would be added; add it by hand as docs/ARCHITECTURE.md says (\"To add a module\")",
            self.path
        )
    }
}

/// Whether `word` stands in `text` and not as part of a longer name.
pub fn contains_word(text: &str, word: &str) -> bool {
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let behind = text[at + word.len()..].chars().next();
        !before.is_some_and(is_name) && !behind.is_some_and(is_name)
    })
}
