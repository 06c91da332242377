//! What the head of a request says, read in one pass.

use http::HeaderValue;
use tokio::time::Instant;

use super::request::{Fields, Target};
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
    pub(super) fn of(target: &Target<'_>) -> Option<Self> {
        let hot = match target.path.strip_prefix(b"/etcdserverpb.KV/")? {
            b"Range" => Hot::Range,
            b"Put" => Hot::Put,
            b"DeleteRange" => Hot::DeleteRange,
            b"Txn" => Hot::Txn,
            b"Compact" => Hot::Compact,
            _ => return None,
        };
        (target.method == b"POST").then_some(hot)
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
    pub(super) fn read(fields: &Fields, peer: Option<&PeerCertificates>) -> Option<Self> {
        let mut head = Head::default();
        let (mut is_grpc, mut token, mut authorization, mut gateway, mut leader) = (false, None, None, false, None);
        for (name, value) in fields.headers() {
            match name {
                b"content-type" => is_grpc = value.starts_with(b"application/grpc"),
                b"grpc-timeout" => head.deadline = deadline::after(deadline::parse(value).ok()?),
                b"grpc-encoding" => return None,
                b"token" => _ = token.get_or_insert(value),
                b"authorization" => _ = authorization.get_or_insert(value),
                b"grpcgateway-accept" => gateway = true,
                b"hasleader" => _ = leader.get_or_insert(value),
                _ => {}
            }
        }
        head.needs_leader = leader.is_some_and(|value| value == b"true");
        let given = token.or(authorization).map(HeaderValue::from_bytes).transpose().ok()?;
        head.caller = Caller::new(given.as_ref(), peer.filter(|_| !gateway));
        is_grpc.then_some(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics;

    fn head(headers: &[(&str, &str)]) -> Option<Head> {
        let mut fields = Fields::default();
        headers.iter().for_each(|(name, value)| fields.push(name.as_bytes(), value.as_bytes()));
        Head::read(&fields, None)
    }

    const GRPC: (&str, &str) = ("content-type", "application/grpc");

    #[test]
    fn paths_lead_to_their_methods() {
        let of = |method: &str, path: &str| {
            Hot::of(&Target { method: method.as_bytes(), path: path.as_bytes(), ..Target::default() })
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
