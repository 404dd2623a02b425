//! Countries, as addresses name them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The officially assigned codes of ISO 3166-1 alpha-2, and XK: Kosovo has no code of the standard, and this one everywhere else.
const ASSIGNED: &str = "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA CC CD \
CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ \
GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY \
MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT \
PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM \
US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW";

/// An ISO 3166-1 alpha-2 code, or XK, in upper case. In the API's document it is an enumeration, so what the document allows is what
/// is accepted.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Country([u8; 2]);

impl Country {
    /// `None` for anything but an assigned code in upper case.
    pub fn find(code: &str) -> Option<Self> {
        let bytes: [u8; 2] = code.as_bytes().try_into().ok()?;
        ASSIGNED
            .split(' ')
            .any(|assigned| assigned == code)
            .then_some(Country(bytes))
    }

    /// All of them, in the order of their codes.
    pub fn all() -> impl Iterator<Item = Country> {
        ASSIGNED.split(' ').filter_map(Country::find)
    }

    pub fn as_str(&self) -> &str {
        // Only codes in ASCII are ever put in.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Country {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Country {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = String::deserialize(deserializer)?;
        Country::find(&code).ok_or_else(|| D::Error::custom("must be an ISO 3166-1 alpha-2 code, or XK"))
    }
}

impl utoipa::PartialSchema for Country {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::schema::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .enum_values(Some(ASSIGNED.split(' ')))
            .description(Some("ISO 3166-1 alpha-2, and XK for Kosovo"))
            .into()
    }
}

impl utoipa::ToSchema for Country {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_assigned_codes_are_countries() {
        assert_eq!(Country::find("DE").unwrap().as_str(), "DE");
        for wrong in ["de", "XX", "DEU", "", "D ", " D", "D E", "UK"] {
            assert_eq!(Country::find(wrong), None, "{wrong:?}");
        }
        assert_eq!(ASSIGNED.split(' ').count(), 250);
    }

    #[test]
    fn it_reads_back_what_it_writes() {
        let json = serde_json::to_string(&Country::find("NL").unwrap()).unwrap();
        assert_eq!(json, "\"NL\"");
        assert_eq!(
            serde_json::from_str::<Country>(&json).unwrap(),
            Country::find("NL").unwrap()
        );
        assert!(serde_json::from_str::<Country>("\"nl\"").is_err());
    }
}
