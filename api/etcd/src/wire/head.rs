//! What the head of a request says, read in one pass.

use http::request::Parts;
use http::{HeaderMap, Method};
use tokio::time::Instant;

use crate::auth::Caller;
use crate::deadline;
use crate::tls::PeerCertificates;

/// The calls that are answered without tonic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hot {
    Range,
    Put,
    DeleteRange,
    Txn,
    Compact,
}

impl Hot {
    /// The call that a request is for; `None` for what goes the long way.
    pub(super) fn of(head: &Parts) -> Option<Self> {
        let hot = match head.uri.path().strip_prefix("/etcdserverpb.KV/")? {
            "Range" => Hot::Range,
            "Put" => Hot::Put,
            "DeleteRange" => Hot::DeleteRange,
            "Txn" => Hot::Txn,
            "Compact" => Hot::Compact,
            _ => return None,
        };
        (head.method == Method::POST).then_some(hot)
    }

    /// Place in [`crate::metrics::METHODS`].
    pub(super) const fn place(self) -> usize {
        match self {
            Hot::Range => 0,
            Hot::Put => 2,
            Hot::DeleteRange => 3,
            Hot::Txn => 4,
            Hot::Compact => 5,
        }
    }
}

/// What a call's headers say.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) caller: Caller,
    /// Whether it is to fail while there is no leader.
    pub(super) needs_leader: bool,
    /// When it is to be over, if ever.
    pub(super) deadline: Option<Instant>,
}

impl Head {
    /// `None` for what is not plain: not said to be gRPC, compressed, or with a time that is none. It goes the long way,
    /// where it is told so.
    pub(super) fn read(headers: &HeaderMap, peer: Option<&PeerCertificates>) -> Option<Self> {
        let mut head = Head::default();
        let (mut is_grpc, mut token, mut authorization, mut gateway, mut leader) = (false, None, None, false, None);
        for (name, value) in headers {
            match name.as_str() {
                "content-type" => is_grpc = value.as_bytes().starts_with(b"application/grpc"),
                "grpc-timeout" => head.deadline = deadline::after(deadline::parse(value).ok()?),
                "grpc-encoding" => return None,
                "token" => _ = token.get_or_insert(value),
                "authorization" => _ = authorization.get_or_insert(value),
                "grpcgateway-accept" => gateway = true,
                "hasleader" => _ = leader.get_or_insert(value),
                _ => {}
            }
        }
        head.needs_leader = leader.is_some_and(|value| value == "true");
        head.caller = Caller::new(token.or(authorization), peer.filter(|_| !gateway));
        is_grpc.then_some(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics;

    fn head(headers: &[(&'static str, &'static str)]) -> Option<Head> {
        let pair = |(name, value): &(&'static str, &'static str)| (name.parse().unwrap(), value.parse().unwrap());
        let mut map = HeaderMap::new();
        headers.iter().map(pair).for_each(|(name, value): (http::HeaderName, http::HeaderValue)| {
            map.append(name, value);
        });
        Head::read(&map, None)
    }

    const GRPC: (&str, &str) = ("content-type", "application/grpc");

    #[test]
    fn paths_lead_to_their_methods() {
        let of = |method: &str, path: &str| {
            let request = http::Request::builder().method(method).uri(path).body(()).unwrap();
            Hot::of(&request.into_parts().0)
        };
        for name in ["Range", "Put", "DeleteRange", "Txn", "Compact"] {
            let path = format!("/etcdserverpb.KV/{name}");
            let hot = of("POST", &path).unwrap();
            assert_eq!(metrics::place(&path), Some(hot.place()));
            assert_eq!(metrics::METHODS[hot.place()].1, format!("{hot:?}"));
            assert_eq!(of("GET", &path), None);
        }
        for path in ["/etcdserverpb.KV/RangeStream", "/etcdserverpb.KV/", "/etcdserverpb.Lease/Range", "/"] {
            assert_eq!(of("POST", path), None);
        }
    }

    #[test]
    fn what_is_not_plain_goes_the_long_way() {
        assert!(head(&[]).is_none());
        assert!(head(&[("content-type", "application/json")]).is_none());
        assert!(head(&[GRPC, ("grpc-encoding", "gzip")]).is_none());
        assert!(head(&[GRPC, ("grpc-timeout", "soon")]).is_none());
        assert!(head(&[("content-type", "application/grpc+proto")]).is_some());
    }

    #[test]
    fn the_first_of_several_counts() {
        let read = head(&[GRPC, ("hasleader", "true"), ("hasleader", "false"), ("grpc-timeout", "3S")]).unwrap();
        assert!(read.needs_leader);
        assert!(read.deadline.unwrap() <= deadline::after(std::time::Duration::from_secs(3)).unwrap());
        let read = head(&[GRPC, ("hasleader", "false"), ("hasleader", "true")]).unwrap();
        assert!(!read.needs_leader && read.deadline.is_none());
        let caller = |headers: &[_]| head(&[&[GRPC], headers].concat()).unwrap().caller;
        let tokens = caller(&[("authorization", "Bearer a"), ("token", "b"), ("token", "c")]);
        assert_eq!(format!("{tokens:?}"), format!("{:?}", caller(&[("token", "b")])));
        let bearer = caller(&[("authorization", "Bearer a")]);
        assert_eq!(format!("{bearer:?}"), format!("{:?}", caller(&[("token", "a")])));
    }
}
