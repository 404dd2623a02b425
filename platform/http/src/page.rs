//! Lists: the two query parameters every list takes, and the shape of its response.

use banyan_core::{Cursor, Fault, Page, PageRequest};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use utoipa::{IntoParams, ToSchema};

/// `?limit=` and `?cursor=`. Stands alone as `Query<PageQuery>`, beside another `Query<..>`, or inside a module's own struct with
/// `#[serde(flatten)]` (and `#[param(inline)]`); the document shows the two parameters in all three cases.
#[derive(Clone, Debug, Default, Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// How many items at most.
    #[serde(default)]
    #[param(minimum = 1, maximum = 100, default = 20)]
    #[schema(minimum = 1, maximum = 100, default = 20)]
    pub limit: Option<u32>,
    /// The `next_cursor` of the page before; opaque.
    #[serde(default, deserialize_with = "read_cursor")]
    #[param(value_type = Option<String>, min_length = 1, max_length = 512, pattern = "^[A-Za-z0-9_-]*$")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 512, pattern = "^[A-Za-z0-9_-]*$")]
    pub cursor: Option<Cursor>,
}

impl PageQuery {
    pub fn request(&self) -> PageRequest {
        let limit = self
            .limit
            .unwrap_or(PageRequest::DEFAULT_LIMIT)
            .clamp(1, PageRequest::MAX_LIMIT);
        PageRequest {
            limit,
            after: self.cursor.clone(),
        }
    }
}

impl From<PageQuery> for PageRequest {
    fn from(query: PageQuery) -> Self {
        query.request()
    }
}

/// The fault of a store that cannot read the text inside a cursor: this list never issued it.
pub fn bad_cursor() -> Fault {
    Fault::malformed("invalid_parameter", "The cursor is not one this list gave.")
        .at("cursor", "is not a cursor of this list")
}

fn read_cursor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cursor>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let bytes = BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| D::Error::custom("is not a cursor of this list"))?;
    let inner = String::from_utf8(bytes).ok().filter(|inner| !inner.contains('\0'));
    inner
        .map(|inner| Some(Cursor(inner)))
        .ok_or_else(|| D::Error::custom("is not a cursor of this list"))
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Listed<T> {
    pub items: Vec<T>,
    /// Where the next page starts; null on the last one.
    #[schema(required = true)]
    pub next_cursor: Option<String>,
}

impl<T> From<Page<T>> for Listed<T> {
    fn from(page: Page<T>) -> Self {
        let next_cursor = page.next.map(|Cursor(inner)| BASE64_URL_SAFE_NO_PAD.encode(inner));
        Listed {
            items: page.items,
            next_cursor,
        }
    }
}
