//! Postal addresses, and what they need in each country.
//!
//! The rules are data: `rules.tsv`, which `scripts/address-rules.sh` writes from the address metadata of Google's libaddressinput. Region and city are
//! free text, because people write them in their own script and with abbreviations; a postal code must match the pattern of its country.

use std::{collections::HashMap, sync::LazyLock};

use banyan_core::Fault;
use regex_lite::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Country;

/// Where a parcel goes. What is required depends on the country: many have no postal codes, some require a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// Who receives it.
    #[schema(min_length = 1, max_length = 200, format = "line", example = "Ada Lovelace")]
    pub name: String,
    #[schema(min_length = 1, max_length = 200, format = "line", example = "12 St James's Square")]
    pub line1: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 200, format = "line", example = "Flat 2")]
    pub line2: Option<String>,
    /// Required in most countries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 100, format = "line", example = "London")]
    pub city: Option<String>,
    /// State, province, prefecture, emirate or the like; required in some countries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 100, format = "line", example = "Greater London")]
    pub region: Option<String>,
    /// Required in many countries; in the form of the country.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 20, format = "line", example = "SW1Y 4LB")]
    pub postal_code: Option<String>,
    /// ISO 3166-1 alpha-2, and XK for Kosovo.
    pub country: Country,
    /// For whoever delivers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        max_length = 30,
        pattern = r"^(\+?[0-9][0-9 ()./-]{2,28})?$",
        example = "+44 20 7946 0018"
    )]
    pub phone: Option<String>,
}

impl Address {
    /// Without blanks around its parts, and without parts that are blank; `at` is the pointer to the address in the request's body.
    ///
    /// # Errors
    /// `invalid_address`, with each part that the country requires, and with a postal code that has another form.
    pub fn checked(self, at: &str) -> Result<Address, Fault> {
        let address = self.trimmed();
        let country = address.country;
        let Some(rules) = RULES.get(country.as_str()) else {
            return Ok(address);
        };
        let mut fault = Fault::invalid("invalid_address", format!("This is not an address in {country}."));
        for (part, is_required, value) in [
            ("city", rules.city, &address.city),
            ("region", rules.region, &address.region),
            ("postal_code", rules.postal_code, &address.postal_code),
        ] {
            if is_required && value.is_none() {
                fault = fault.at(format!("{at}/{part}"), format!("is required in {country}"));
            }
        }
        let is_other = |code: &String| rules.pattern.as_ref().is_some_and(|pattern| !pattern.is_match(code));
        if address.postal_code.as_ref().is_some_and(is_other) {
            fault = fault.at(
                format!("{at}/postal_code"),
                format!("is not a postal code in {country}"),
            );
        }
        if fault.errors.is_empty() {
            Ok(address)
        } else {
            Err(fault)
        }
    }

    fn trimmed(self) -> Address {
        let part = |part: Option<String>| part.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        Address {
            name: self.name.trim().to_owned(),
            line1: self.line1.trim().to_owned(),
            line2: part(self.line2),
            city: part(self.city),
            region: part(self.region),
            postal_code: part(self.postal_code),
            country: self.country,
            phone: part(self.phone),
        }
    }
}

/// What an address needs in one country.
#[derive(Default)]
struct Rules {
    city: bool,
    region: bool,
    postal_code: bool,
    /// Of the whole postal code.
    pattern: Option<Regex>,
}

/// By country code; a test checks that every country is in it.
static RULES: LazyLock<HashMap<&'static str, Rules>> = LazyLock::new(|| {
    let lines = include_str!("rules.tsv").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(rules_of_line).collect()
});

fn rules_of_line(line: &'static str) -> Option<(&'static str, Rules)> {
    let mut columns = line.split('\t');
    let (code, required, pattern) = (columns.next()?, columns.next()?, columns.next()?);
    let pattern = RegexBuilder::new(&format!("^(?:{pattern})$"))
        .case_insensitive(true)
        .build()
        .ok()
        .filter(|_| !pattern.is_empty());
    let rules = Rules {
        city: required.contains('C'),
        region: required.contains('S'),
        postal_code: required.contains('Z'),
        pattern,
    };
    Some((code, rules))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(country: &str, city: &str, region: &str, postal_code: &str) -> Address {
        Address {
            name: " Ada Lovelace".to_owned(),
            line1: "1 Main Street".to_owned(),
            line2: Some(" ".to_owned()),
            city: Some(city.to_owned()),
            region: Some(region.to_owned()),
            postal_code: Some(postal_code.to_owned()),
            country: Country::find(country).unwrap(),
            phone: None,
        }
    }

    #[test]
    fn every_country_has_rules_and_every_pattern_is_one() {
        for country in Country::all() {
            assert!(RULES.contains_key(country.as_str()), "{country}");
        }
        let patterns = include_str!("rules.tsv")
            .lines()
            .filter(|line| !line.starts_with('#') && !line.ends_with('\t'));
        assert_eq!(
            RULES.values().filter(|rules| rules.pattern.is_some()).count(),
            patterns.count()
        );
        assert!(
            RULES
                .values()
                .all(|rules| !rules.postal_code || rules.pattern.is_some())
        );
    }

    #[test]
    fn people_in_every_kind_of_country_have_an_address() {
        for (country, city, region, postal_code) in [
            ("DE", "Berlin", "", "10115"),
            ("GB", "London", "", "sw1y 4lb"),
            ("IE", "Dublin", "", ""),
            ("IE", "Dublin", "Co. Dublin", "D02 X285"),
            ("HK", "", "Kowloon", ""),
            ("HK", "Mong Kok", "Kowloon", "999077"),
            ("AE", "", "Dubai", ""),
            ("SG", "", "", "546080"),
            ("US", "Austin", "TX", "73301-0001"),
            ("JP", "", "東京都", "154-0023"),
            ("XK", "Prishtinë", "", "10000"),
            ("PA", "Panamá", "", ""),
        ] {
            let checked = address(country, city, region, postal_code).checked("/address").unwrap();
            assert_eq!(
                (checked.name.as_str(), checked.line2),
                ("Ada Lovelace", None),
                "{country}"
            );
            assert_eq!(checked.city.unwrap_or_default(), city, "{country}");
        }
    }

    #[test]
    fn what_a_country_requires_is_named() {
        for (country, city, region, postal_code, blamed) in [
            ("DE", " ", "", "", &["/a/city", "/a/postal_code"][..]),
            ("DE", "Berlin", "", "1011", &["/a/postal_code"]),
            ("DE", "Berlin", "", "D-10115", &["/a/postal_code"]),
            ("US", "Austin", "", "73301", &["/a/region"]),
            ("AE", "", "", "", &["/a/region"]),
            ("SG", "", "", "54608", &["/a/postal_code"]),
        ] {
            let fault = address(country, city, region, postal_code).checked("/a").unwrap_err();
            let pointers: Vec<&str> = fault.errors.iter().map(|error| error.pointer.as_str()).collect();
            assert_eq!(
                (fault.code.as_ref(), &pointers[..]),
                ("invalid_address", blamed),
                "{country}"
            );
        }
    }
}
