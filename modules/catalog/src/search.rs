//! How products are searched: the words of a text as they are compared, and the grams by which an index finds them. Pure rules; no I/O.
//!
//! A stored text and a query are normalised by the same function, here and not in a database: the two differ in how they do it.

use std::collections::BTreeSet;

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

use crate::product::Product;

/// Marks a gram that begins where a word begins. No letter, so that no word contains it.
const START: char = '·';

/// What a query asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Search {
    /// Nothing but spaces: every product.
    Blank,
    /// Neither letter, digit nor symbol: no product.
    Nothing,
    /// Every one of these words.
    Words(BTreeSet<Word>),
}

/// A normalised word of a query.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Word(String);

impl Search {
    pub fn of(query: &str) -> Self {
        if query.trim().is_empty() {
            return Search::Blank;
        }
        let words: BTreeSet<Word> = words(query).into_iter().map(Word).collect();
        if words.is_empty() {
            Search::Nothing
        } else {
            Search::Words(words)
        }
    }
}

impl Word {
    /// The grams of every text that contains it: three letters in a row, or its start if it has fewer.
    pub fn grams(&self) -> BTreeSet<String> {
        let letters: Vec<char> = self.0.chars().collect();
        match letters.len() {
            0..=2 => BTreeSet::from([format!("{START}{}", self.0)]),
            _ => letters.windows(3).map(String::from_iter).collect(),
        }
    }

    /// A `like` pattern for the [texts](text) that contain it. A short word must begin where a word of the text begins. It has no wildcards.
    pub fn pattern(&self) -> String {
        let anywhere = self.0.chars().count() > 2 || self.0.starts_with(is_written_without_spaces);
        if anywhere {
            format!("%{}%", self.0)
        } else {
            format!("% {}%", self.0)
        }
    }
}

/// The text of a product that a search matches: a space before each word of sku, name and description, normalised. A text that does not begin with a space was
/// stored by an earlier version.
pub fn text(product: &Product) -> String {
    let words = words(&format!("{} {} {}", product.sku, product.name, product.description));
    format!(" {}", words.join(" "))
}

/// The grams of a [text]: three letters in a row, and the first and the first two of each word, separated by spaces.
pub fn grams(text: &str) -> String {
    let mut grams = BTreeSet::new();
    for word in text.split_whitespace() {
        let letters: Vec<char> = word.chars().collect();
        grams.extend(letters.windows(3).map(String::from_iter));
        for (at, letter) in letters.iter().enumerate() {
            if at == 0 || is_written_without_spaces(*letter) {
                grams.insert(format!("{START}{letter}"));
                grams.extend(letters.get(at + 1).map(|next| format!("{START}{letter}{next}")));
            }
        }
    }
    Vec::from_iter(grams).join(" ")
}

/// The words of a text, normalised. Punctuation separates words; an apostrophe joins them, as most people leave it out.
fn words(text: &str) -> Vec<String> {
    let letters = text
        .nfkd()
        .filter(|letter| !is_dropped(*letter))
        .flat_map(char::to_lowercase);
    let mut normalised = String::with_capacity(text.len());
    for letter in letters {
        match without_decomposition(letter) {
            Some(letters) => normalised.push_str(letters),
            None if is_part_of_word(letter) => normalised.push(letter),
            None => normalised.push(' '),
        }
    }
    let composed: String = normalised.nfc().collect();
    composed
        .split(' ')
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Accents and points, and what is not seen: soft hyphens, joiners. The marks of other scripts distinguish words.
fn is_dropped(letter: char) -> bool {
    let accent = matches!(letter, '\u{300}'..='\u{36f}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}');
    let point = matches!(letter, '\u{591}'..='\u{5c7}' | '\u{610}'..='\u{61a}' | '\u{64b}'..='\u{65f}' | '\u{670}');
    let variant = matches!(letter, '\u{fe00}'..='\u{fe0f}' | '\u{180b}'..='\u{180d}');
    let apostrophe = matches!(letter, '\'' | '\u{2018}' | '\u{2019}' | '\u{2bc}');
    ((accent || point) && is_combining_mark(letter))
        || variant
        || apostrophe
        || letter.general_category() == GeneralCategory::Format
}

/// Letters that Unicode does not decompose into a letter and an accent, as people write them without.
fn without_decomposition(letter: char) -> Option<&'static str> {
    Some(match letter {
        'ß' => "ss",
        'ı' => "i",
        'ø' => "o",
        'æ' => "ae",
        'œ' => "oe",
        'þ' => "th",
        'đ' | 'ð' => "d",
        'ħ' => "h",
        'ł' => "l",
        'ŋ' => "n",
        'ŧ' => "t",
        'ς' => "σ",
        _ => return None,
    })
}

fn is_part_of_word(letter: char) -> bool {
    if letter.is_ascii() {
        return letter.is_ascii_alphanumeric();
    }
    matches!(
        letter.general_category_group(),
        GeneralCategoryGroup::Letter
            | GeneralCategoryGroup::Mark
            | GeneralCategoryGroup::Number
            | GeneralCategoryGroup::Symbol
    )
}

/// Scripts in which nothing shows where a word begins: Thai, Lao, Burmese, Khmer, Kana, and Han.
fn is_written_without_spaces(letter: char) -> bool {
    matches!(letter,
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{312f}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_kernel::{Money, Sku};

    fn text_of(name: &str) -> String {
        text(&Product {
            sku: Sku::parse("x-1").unwrap(),
            name: name.to_owned(),
            description: String::new(),
            category: "plants".to_owned(),
            price: Money::new(4900, "EUR").unwrap(),
            active: true,
        })
    }

    /// Whether a `like` with this pattern matches, which begins and ends with `%` and has no other wildcards.
    fn is_like(text: &str, pattern: &str) -> bool {
        text.contains(pattern.trim_matches('%'))
    }

    fn finds(query: &str, name: &str) -> bool {
        let text = text_of(name);
        let grams = grams(&text);
        let grams: BTreeSet<&str> = grams.split(' ').collect();
        match Search::of(query) {
            Search::Blank => true,
            Search::Nothing => false,
            Search::Words(words) => words.iter().all(|word| {
                let matches = is_like(&text, &word.pattern());
                let indexed = word.grams().iter().all(|gram| grams.contains(gram.as_str()));
                assert!(indexed || !matches, "the index does not find {word:?} in {text:?}");
                matches
            }),
        }
    }

    #[test]
    fn what_people_type_finds_what_is_written() {
        for (query, name) in [
            ("cafe", "Café"),
            ("CAFÉ", "cafe\u{301}"),
            ("cafe\u{301}", "Café"),
            ("strasse", "Straße"),
            ("STRASSE", "Straße"),
            ("straße", "STRAẞE"),
            ("istanbul", "İSTANBUL"),
            ("ISTANBUL", "ıstanbul"),
            ("istanbul", "i\u{307}stanbul"),
            ("KÖNIG", "Königsfarn"),
            ("smorrebrod", "Smørrebrød"),
            ("lodz", "Łódź"),
            ("aesir", "Æsir"),
            ("thor", "Þór"),
            ("cafe 12", "Ｃａｆé　１２"),
            ("ﬁg", "fig"),
            ("οδος", "ΟΔΌΣ"),
            ("елка", "Ёлка"),
            ("ガラス", "ｶﾞﾗｽ"),
            ("瓷杯", "陶瓷杯"),
            ("杯", "陶瓷杯"),
            ("한국", "한국어"),
            ("fig tree", "Tree, weeping; fig"),
            ("eep", "weeping"),
            ("we", "weeping"),
            ("f", "weeping fig"),
            ("x-1", "anything"),
            ("X-1 anyth", "anything"),
            ("mens", "Men’s"),
            ("men's", "Mens"),
            ("rucksack", "Ruck\u{ad}sack"),
            ("50% off", "off 50"),
            ("🌱", "🌱 seeds"),
        ] {
            assert!(
                finds(query, name),
                "{query:?} does not find {name:?}: {:?}",
                text_of(name)
            );
        }
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        for (query, name) in [
            ("ee", "weeping"),
            ("e", "weeping"),
            ("fig fern", "fig"),
            ("figtree", "fig tree"),
            ("%", "100%"),
            ("...", "fig..."),
            ("はは", "ぱぱ"),
            ("杯瓷", "陶瓷杯"),
        ] {
            assert!(!finds(query, name), "{query:?} finds {name:?}");
        }
    }

    #[test]
    fn no_gram_is_cut_by_the_index() {
        let grams = grams(&text_of("Ｃ++ Café 100% 50€ ¬ 陶瓷杯 a_b 'q' \"z\" 🌱🌱🌱 ☕\u{fe0f}"));
        for gram in grams.split(' ') {
            // What separates words of the index of SQLite.
            let separator = |letter: char| letter.is_ascii() && !letter.is_ascii_alphanumeric();
            assert!(!gram.is_empty() && !gram.contains(separator), "{gram:?}");
        }
    }

    #[test]
    fn a_text_begins_with_a_space_and_has_no_wildcards() {
        assert_eq!(text_of("  50%_\\ Off!"), " x 1 50 off");
        assert_eq!(text_of("\u{ff05}\u{ff3f}"), " x 1");
    }
}
