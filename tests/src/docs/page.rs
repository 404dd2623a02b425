//! A page and its fenced blocks.

use std::fs;

use libtest_mimic::Failed;

use crate::architecture::root;

/// A page of the documentation.
pub struct Page {
    /// From the repository's root.
    pub path: String,
    pub blocks: Vec<Block>,
}

/// A fenced block.
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    /// The line it begins on.
    pub line: usize,
    pub language: String,
    pub text: String,
    /// The last line before it that is not empty.
    pub above: String,
}

impl Page {
    /// # Errors
    /// There is no such page.
    pub fn load(path: &str) -> Result<Page, Failed> {
        Ok(Page::of(path, &fs::read_to_string(root().join(path))?))
    }

    pub fn of(path: &str, text: &str) -> Page {
        Page {
            path: path.to_owned(),
            blocks: blocks(text),
        }
    }

    /// The part of the page before this heading, and the part that begins with it.
    ///
    /// # Errors
    /// There is no such page, or no such heading in it.
    pub fn load_parts(path: &str, heading: &str) -> Result<(Page, Page), Failed> {
        let text = fs::read_to_string(root().join(path))?;
        let at = text
            .find(&format!("\n{heading}\n"))
            .ok_or_else(|| format!("{path} has no heading {heading:?}"))?;
        // Empty lines keep the numbers of the lines.
        let before = text[..=at].lines().count();
        let second = "\n".repeat(before) + &text[at + 1..];
        Ok((Page::of(path, &text[..=at]), Page::of(path, &second)))
    }

    pub fn in_language(&self, language: &str) -> Vec<&Block> {
        self.blocks.iter().filter(|block| block.language == language).collect()
    }

    /// What a reader does, in order: commands to run, and changes of files.
    pub fn steps(&self) -> Vec<&Block> {
        let is_step = |block: &&Block| ["bash", "diff"].contains(&block.language.as_str());
        self.blocks.iter().filter(is_step).collect()
    }

    /// The output that the page shows for a `bash` block: the block behind it, unless that is run itself or is an excerpt.
    pub fn output_of(&self, command: &Block) -> Option<&Block> {
        let next = self.blocks.iter().find(|block| block.line > command.line);
        next.filter(|block| !["bash", "sh", "banner", "diff"].contains(&block.language.as_str()) && !block.is_excerpt())
    }
}

impl Block {
    /// Whether it is an excerpt of a file.
    pub fn is_excerpt(&self) -> bool {
        ["rust", "toml", "proto", "sql"].contains(&self.language.as_str())
    }
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut open, mut above) = (false, "");
    for (at, line) in markdown.lines().enumerate() {
        match (line.strip_prefix("```"), open) {
            (Some(language), false) => blocks.push(Block {
                line: at + 1,
                language: language.to_owned(),
                text: String::new(),
                above: above.to_owned(),
            }),
            (None, true) => {
                if let Some(block) = blocks.last_mut() {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
            }
            (None, false) if !line.is_empty() => above = line,
            _ => {}
        }
        open = if line.starts_with("```") { !open } else { open };
    }
    blocks
}
