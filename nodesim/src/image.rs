//! Images: which names are valid, which can be pulled, how large they are, and what runs in the well-known ones.

use crate::Millis;
use crate::config::Timings;
use crate::digest::{between, mix};
use crate::size::DiskKind;

/// Why an image cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Trouble {
    /// The name is not an image reference.
    Invalid,
    /// No registry has it.
    Missing,
}

/// What runs in an image whose command is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Entry {
    /// A server: prints these lines and runs until it is stopped, then exits with the code.
    Service(&'static [&'static str], i32),
    /// A shell without input: ends at once.
    Shell,
    /// Prints these lines and ends.
    Prints(&'static [&'static str]),
    /// Not known.
    Unknown,
}

/// Images that people know, by the last part of their name.
const WELL_KNOWN: &[(&str, Entry)] = &[
    (
        "nginx",
        Entry::Service(
            &[
                "/docker-entrypoint.sh: Configuration complete; ready for start up",
                "[notice] 1#1: using the \"epoll\" event method",
                "[notice] 1#1: start worker processes",
            ],
            0,
        ),
    ),
    (
        "httpd",
        Entry::Service(
            &["[mpm_event:notice] [pid 1:tid 1] AH00489: Apache/2.4 configured -- resuming normal operations"],
            0,
        ),
    ),
    (
        "redis",
        Entry::Service(&["1:M * Running mode=standalone, port=6379.", "1:M * Ready to accept connections tcp"], 0),
    ),
    ("valkey", Entry::Service(&["1:M * Ready to accept connections tcp"], 0)),
    (
        "redis-follower",
        Entry::Service(
            &["1:S * Connecting to MASTER redis-leader:6379", "1:S * MASTER <-> REPLICA sync: Finished with success"],
            0,
        ),
    ),
    (
        "postgres",
        Entry::Service(
            &[
                "LOG:  listening on IPv4 address \"0.0.0.0\", port 5432",
                "LOG:  database system is ready to accept connections",
            ],
            0,
        ),
    ),
    (
        "mysql",
        Entry::Service(&["[System] [MY-010931] [Server] /usr/sbin/mysqld: ready for connections. port: 3306"], 0),
    ),
    (
        "mongo",
        Entry::Service(
            &["{\"s\":\"I\",\"c\":\"NETWORK\",\"msg\":\"Waiting for connections\",\"attr\":{\"port\":27017}}"],
            0,
        ),
    ),
    ("memcached", Entry::Service(&[], 0)),
    ("rabbitmq", Entry::Service(&["Server startup complete; 4 plugins started."], 0)),
    ("pause", Entry::Service(&[], 0)),
    ("agnhost", Entry::Service(&["Paused"], 0)),
    ("traefik", Entry::Service(&[], 0)),
    ("coredns", Entry::Service(&[".:53"], 0)),
    ("hello-app", Entry::Service(&["Server listening on port 8080"], 2)),
    ("echoserver", Entry::Service(&[], 0)),
    ("busybox", Entry::Shell),
    ("alpine", Entry::Shell),
    ("ubuntu", Entry::Shell),
    ("debian", Entry::Shell),
    ("centos", Entry::Shell),
    ("fedora", Entry::Shell),
    ("bash", Entry::Shell),
    ("perl", Entry::Shell),
    ("python", Entry::Shell),
    ("node", Entry::Shell),
    ("golang", Entry::Shell),
    ("rust", Entry::Shell),
    ("curl", Entry::Shell),
    (
        "hello-world",
        Entry::Prints(&[
            "",
            "Hello from Docker!",
            "This message shows that your installation appears to be working correctly.",
        ]),
    ),
];

/// Words in a name that mean that no registry has such an image.
const MISSING: &[&str] = &[
    "nonexist",
    "non-exist",
    "does-not-exist",
    "doesnotexist",
    "no-such",
    "nosuch",
    "notfound",
    "not-found",
    "invalid",
    "bogus",
];

/// Registry, path and tag of a reference, without checking it.
fn split(image: &str) -> (&str, &str, &str) {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let slash = name.rfind('/').map_or(0, |at| at + 1);
    let (path, tag) = match name[slash..].rfind(':') {
        Some(colon) => (&name[..slash + colon], &name[slash + colon + 1..]),
        None => (name, ""),
    };
    match path.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest, tag),
        _ => ("docker.io", path, tag),
    }
}

/// The whole name as the runtime reports it: registry, `library/` and tag filled in.
pub(crate) fn normalized(image: &str) -> String {
    let (host, path, tag) = split(image);
    let library = if host == "docker.io" && !path.contains('/') { "library/" } else { "" };
    if let Some((_, digest)) = image.split_once('@') {
        return format!("{host}/{library}{path}@{digest}");
    }
    format!("{host}/{library}{path}:{}", if tag.is_empty() { "latest" } else { tag })
}

/// The name without tag or digest, as it stands before `@sha256:`.
pub(crate) fn repository(image: &str) -> String {
    let (host, path, _) = split(image);
    let library = if host == "docker.io" && !path.contains('/') { "library/" } else { "" };
    format!("{host}/{library}{path}")
}

/// Why an image cannot be had, if so. Grammar: the reference page of the distribution project.
pub(crate) fn trouble(image: &str) -> Option<Trouble> {
    let (host, path, tag) = split(image);
    let component = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
            && part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && part.bytes().last().is_some_and(|b| b.is_ascii_alphanumeric())
    };
    let tag_is_valid = tag.len() <= 128
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && !tag.starts_with(['.', '-']);
    let dangling = image.ends_with(':') || image.ends_with('@') || image.contains(char::is_whitespace);
    if image.len() > 512 || dangling || !tag_is_valid || !path.split('/').all(component) {
        return Some(Trouble::Invalid);
    }
    let lower = image.to_ascii_lowercase();
    (host.ends_with(".invalid") || MISSING.iter().any(|word| lower.contains(word))).then_some(Trouble::Missing)
}

/// What runs in it.
pub(crate) fn entry(image: &str) -> Entry {
    let (_, path, _) = split(image);
    let name = path.rsplit('/').next().unwrap_or(path);
    WELL_KNOWN.iter().find(|(known, _)| *known == name).map_or(Entry::Unknown, |(_, entry)| *entry)
}

/// Size in bytes: drawn from the name, 5 MB to 500 MB.
pub(crate) fn bytes(image: &str) -> i64 {
    let class = mix(0, image) % 100;
    // Most images are small: the square pulls the draw down.
    5_000_000 + i64::try_from(class * class * 49_500).unwrap_or(0)
}

/// How long a pull takes: by size, with up to a tenth more; a third longer on a standard HDD for the unpacking.
pub(crate) fn pull(image: &str, timings: &Timings, disk: DiskKind, seed: u64) -> Millis {
    let (shortest, longest) = timings.pull;
    let span = longest.saturating_sub(shortest);
    let by_size = shortest + span * u64::try_from(bytes(image)).unwrap_or(0) / 500_000_000;
    let jittered = by_size + between(mix(seed, image), 0, by_size / 10);
    match disk {
        DiskKind::PremiumSsd => jittered,
        DiskKind::StandardHdd => jittered * 4 / 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_filled_in() {
        assert_eq!(normalized("nginx"), "docker.io/library/nginx:latest");
        assert_eq!(normalized("bitnami/redis:7"), "docker.io/bitnami/redis:7");
        assert_eq!(normalized("localhost:5000/a/b"), "localhost:5000/a/b:latest");
        assert_eq!(repository("registry.k8s.io/pause:3.10@sha256:ab"), "registry.k8s.io/pause");
    }

    #[test]
    fn bad_names_and_missing_images_are_told_apart() {
        for image in ["Nginx", "nginx:", "a b", "", "nginx:ta/g:", "/nginx", "nginx:-x", "a//b"] {
            assert_eq!(trouble(image), Some(Trouble::Invalid), "{image:?}");
        }
        for image in ["nginx:nonexistent", "invalid.registry.k8s.io/invalid/alpine:3.1", "x.invalid/a", "no-such-image"]
        {
            assert_eq!(trouble(image), Some(Trouble::Missing), "{image:?}");
        }
        for image in ["nginx", "nginx:1.27-alpine", "us-docker.pkg.dev/google-samples/containers/gke/gb-frontend:v5"] {
            assert_eq!(trouble(image), None, "{image:?}");
        }
    }

    #[test]
    fn pulls_take_as_long_as_the_image_is_large() {
        let timings = Timings::instant_ish();
        for image in ["nginx", "redis", "a", "b", "c", "d", "e"] {
            let took = pull(image, &timings, DiskKind::PremiumSsd, 1);
            assert!((50..=330).contains(&took), "{image}: {took}");
            assert!(pull(image, &timings, DiskKind::StandardHdd, 1) > took);
            assert!((5_000_000..=500_000_000).contains(&bytes(image)));
        }
    }
}
