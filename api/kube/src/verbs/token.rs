//! The `continue` token of paged lists, in kube-apiserver's own format.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::status::{Answer, Failure};

const VERSION: &str = "meta.k8s.io/v1";

/// Where a list goes on.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Continue {
    pub v: String,
    /// The revision of the first page; below zero: whatever is current.
    pub rv: i64,
    /// The first key of the next page, without the list's own prefix.
    pub start: String,
}

impl Continue {
    /// A token for what follows `last` (a key below `prefix`).
    pub fn after(prefix: &str, last: &[u8], revision: i64) -> String {
        let rest = last.get(prefix.len()..).unwrap_or_default();
        let start = format!("{}\0", String::from_utf8_lossy(rest));
        Continue { v: VERSION.into(), rv: revision, start }.encode()
    }

    /// The text form.
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Reads a token.
    ///
    /// # Errors
    /// 400 for anything that no list handed out.
    pub fn decode(text: &str) -> Answer<Continue> {
        let bad =
            |why: String| Failure::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|error| bad(error.to_string()))?;
        let token: Continue = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        if token.v != VERSION {
            return Err(bad(format!("server does not recognize this encoded version {:?}", token.v)));
        }
        if token.rv == 0 {
            return Err(bad(format!("incorrect encoded start resourceVersion (version {VERSION})")));
        }
        if token.start.is_empty() {
            return Err(bad(format!("encoded start key empty (version {VERSION})")));
        }
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_and_garbage_is_refused() {
        let text = Continue::after("/registry/pods/", b"/registry/pods/default/web-0", 7);
        let token = Continue::decode(&text).unwrap();
        assert_eq!((token.rv, token.start.as_str()), (7, "default/web-0\0"));
        let other = |rv, v: &str, start: &str| Continue { v: v.into(), rv, start: start.into() }.encode();
        for bad in ["x", "e30", &other(0, VERSION, "a"), &other(1, "v2", "a"), &other(1, VERSION, "")] {
            assert_eq!(Continue::decode(bad).expect_err(bad).code(), 400);
        }
    }
}
