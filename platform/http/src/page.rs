//! Lists: the two query parameters every list takes, and the shape of its response.

use banyan_core::{Cursor, Page, PageRequest};
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

fn read_cursor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cursor>, D::Error> {
    let token = Option::<String>::deserialize(deserializer)?;
    let cursor = token.map(|token| Cursor::from_token(&token)).transpose();
    cursor.map_err(|_| D::Error::custom("is not a cursor of this list"))
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
        Listed {
            next_cursor: page.next.as_ref().map(Cursor::to_token),
            items: page.items,
        }
    }
}
