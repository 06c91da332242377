//! The headers of a request as they come, and what is wrong with them (RFC 9113, section 8).

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, request::Parts};

/// Bytes of a request's headers, as HTTP/2 counts them. One with more is refused, whatever the number of its frames.
pub(super) const MAX_HEADERS: usize = 16 << 10;
/// What a header counts for beside its texts (RFC 9113, section 6.5.2).
const FIELD: usize = 32;

/// Headers that belong to a connection of HTTP/1, not to a request.
const CONNECTION: [&[u8]; 5] = [b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"];

/// The headers of one block: all texts in one buffer, which serves for the next block too.
#[derive(Debug, Default)]
pub(super) struct Fields {
    texts: Vec<u8>,
    /// Where each name and its value end.
    ends: Vec<(usize, usize)>,
    size: usize,
}

/// The headers of a request are none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// What every request says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Target<'a> {
    pub(super) method: &'a [u8],
    pub(super) path: &'a [u8],
    pub(super) scheme: &'a [u8],
    pub(super) authority: &'a [u8],
    /// Bytes of the body, where that is said.
    pub(super) length: Option<u64>,
}

impl Fields {
    pub(super) fn clear(&mut self) {
        self.texts.clear();
        self.ends.clear();
        self.size = 0;
    }

    /// Keeps a header, while there are not too many.
    pub(super) fn push(&mut self, name: &[u8], value: &[u8]) {
        self.size = self.size.saturating_add(FIELD + name.len() + value.len());
        if self.size <= MAX_HEADERS {
            self.texts.extend_from_slice(name);
            let middle = self.texts.len();
            self.texts.extend_from_slice(value);
            self.ends.push((middle, self.texts.len()));
        }
    }

    /// Whether there were too many.
    pub(super) fn too_many(&self) -> bool {
        self.size > MAX_HEADERS
    }

    fn all(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut from = 0;
        self.ends.iter().map(move |(middle, end)| {
            let name = &self.texts[from..*middle];
            from = *end;
            (name, &self.texts[*middle..*end])
        })
    }

    /// Those that are not of HTTP/2 itself.
    pub(super) fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.all().filter(|(name, _)| name[0] != b':')
    }

    /// What a request's headers ask for.
    pub(super) fn target(&self) -> Result<Target<'_>, Malformed> {
        let mut target = Target::default();
        let mut plain = false;
        for (name, value) in self.all() {
            let told = match name {
                b":method" => &mut target.method,
                b":path" => &mut target.path,
                b":scheme" => &mut target.scheme,
                b":authority" => &mut target.authority,
                name => {
                    plain = true;
                    header(name, value)?;
                    if name == b"content-length" {
                        let length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                        target.length = Some(length.ok_or(Malformed)?);
                    }
                    continue;
                }
            };
            // Once each, and in front of all others.
            if plain || !told.is_empty() || (value.is_empty() && name != b":authority") {
                return Err(Malformed);
            }
            *told = value;
        }
        let is_complete = !target.method.is_empty() && !target.path.is_empty() && !target.scheme.is_empty();
        if is_complete { Ok(target) } else { Err(Malformed) }
    }

    /// The headers behind a body.
    pub(super) fn trailers(&self) -> Result<HeaderMap, Malformed> {
        self.all().try_for_each(|(name, value)| header(name, value))?;
        self.map()
    }

    fn map(&self) -> Result<HeaderMap, Malformed> {
        let mut map = HeaderMap::with_capacity(self.ends.len());
        for (name, value) in self.headers() {
            let name = HeaderName::from_bytes(name).map_err(|_| Malformed)?;
            map.append(name, HeaderValue::from_bytes(value).map_err(|_| Malformed)?);
        }
        Ok(map)
    }

    /// The head of a request for those who know nothing of HTTP/2.
    pub(super) fn parts(&self, target: &Target<'_>) -> Result<Parts, Malformed> {
        let path = PathAndQuery::try_from(target.path).map_err(|_| Malformed)?;
        let mut uri = http::uri::Parts::default();
        uri.path_and_query = Some(path.clone());
        // Without a host that is one, the path is all there is.
        if let (Ok(scheme), Ok(host)) = (Scheme::try_from(target.scheme), Authority::try_from(target.authority)) {
            (uri.scheme, uri.authority) = (Some(scheme), Some(host));
        }
        let (mut head, ()) = http::Request::new(()).into_parts();
        head.uri = Uri::from_parts(uri).or_else(|_| Uri::from_maybe_shared(path.to_string())).map_err(|_| Malformed)?;
        head.method = Method::from_bytes(target.method).map_err(|_| Malformed)?;
        head.version = http::Version::HTTP_2;
        head.headers = self.map()?;
        Ok(head)
    }
}

/// Refuses what no header may be.
fn header(name: &[u8], value: &[u8]) -> Result<(), Malformed> {
    let lower = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(byte);
    if name.is_empty() || !name.iter().all(lower) || CONNECTION.contains(&name) {
        return Err(Malformed);
    }
    if name == b"te" && value != b"trailers" { Err(Malformed) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        pairs.iter().for_each(|(name, value)| fields.push(name.as_bytes(), value.as_bytes()));
        fields
    }

    const GOOD: [(&str, &str); 4] =
        [(":method", "POST"), (":scheme", "http"), (":path", "/a?b"), (":authority", "h:1")];

    fn with(more: &[(&str, &str)]) -> Fields {
        fields(&[&GOOD, more].concat())
    }

    #[test]
    fn requests_are_taken_apart() {
        let fields = with(&[("content-length", "12"), ("x", "y"), ("x", "z"), ("te", "trailers")]);
        let target = fields.target().unwrap();
        assert_eq!((target.method, target.path, target.length), (&b"POST"[..], &b"/a?b"[..], Some(12)));
        let parts = fields.parts(&target).unwrap();
        assert_eq!((parts.uri.to_string(), &parts.method), ("http://h:1/a?b".to_owned(), &Method::POST));
        assert_eq!(parts.headers.get_all("x").iter().collect::<Vec<_>>(), ["y", "z"]);
        let hostless = fields_without_host();
        assert_eq!(hostless.parts(&hostless.target().unwrap()).unwrap().uri, "/a?b");
    }

    fn fields_without_host() -> Fields {
        fields(&GOOD[..3])
    }

    #[test]
    fn what_no_request_says_is_refused() {
        for missing in 0..3 {
            let rest: Vec<_> =
                GOOD.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, pair)| *pair).collect();
            assert!(fields(&rest).target().is_err());
        }
        for more in [
            (":method", "GET"),
            (":status", "200"),
            (":other", "x"),
            ("Upper", "x"),
            ("", "x"),
            ("sp ace", "x"),
            ("connection", "close"),
            ("upgrade", "h2c"),
            ("te", "gzip"),
            ("content-length", "many"),
        ] {
            assert!(with(&[more]).target().is_err(), "{more:?}");
        }
        let behind = fields(&[&[("x", "y")], &GOOD[..]].concat());
        assert!(behind.target().is_err(), "HTTP/2's own come first");
        assert!(fields(&[("x", "y")]).trailers().is_ok() && fields(&[(":path", "/")]).trailers().is_err());
    }

    #[test]
    fn no_more_headers_are_kept_than_allowed() {
        let mut fields = Fields::default();
        let value = [b'v'; 1000];
        for _ in 0..100 {
            fields.push(b"name", &value);
        }
        assert!(fields.too_many() && fields.texts.len() <= MAX_HEADERS);
        fields.clear();
        assert!(!fields.too_many() && fields.all().next().is_none());
    }
}
