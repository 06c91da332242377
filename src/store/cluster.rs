//! Who belongs to a new cluster, and the ids that follow from it: the same as a real etcd's for the same flags.

use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs};

use kelson_raft::{Dial, Member};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::settings::Settings;
use super::url::Url;

/// This member and its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founded {
    pub member_id: u64,
    pub cluster_id: u64,
    pub peer_urls: Vec<Url>,
    /// All members; empty where the cluster exists, and tells itself.
    pub members: Vec<Member>,
}

/// Reads `NAME=URL,NAME=URL`; a name that comes several times has several URLs.
///
/// # Errors
/// That of the first URL that is wrong.
pub fn members(text: &str) -> Result<BTreeMap<String, Vec<Url>>, String> {
    let mut members: BTreeMap<String, Vec<Url>> = BTreeMap::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (name, url) = pair.split_once('=').unwrap_or((pair, ""));
        members.entry(name.to_owned()).or_default().push(Url::parse(url)?);
    }
    members.values_mut().for_each(|urls| urls.sort());
    Ok(members)
}

/// The ids of the members of a new cluster, of which this one is one.
///
/// # Errors
/// etcd's text where `initial-cluster` does not fit the other flags.
pub fn found(settings: &Settings) -> Result<Founded, String> {
    let members = named(settings)?;
    Ok(founded(&settings.name, &members, &settings.initial_cluster_token))
}

/// As [`found`], of members that are known by name, this one among them.
pub fn founded(name: &str, members: &BTreeMap<String, Vec<Url>>, token: &str) -> Founded {
    let peer_urls = members.get(name).cloned().unwrap_or_default();
    let member = |(name, urls): (&String, &Vec<Url>)| Member {
        id: member_id(urls, token),
        name: name.clone(),
        peer_urls: urls.iter().map(ToString::to_string).collect(),
        ..Member::default()
    };
    let all: Vec<Member> = members.iter().map(member).collect();
    let mut ids: Vec<u64> = all.iter().map(|member| member.id).collect();
    ids.sort_unstable();
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
    Founded { member_id: member_id(&peer_urls, token), cluster_id: first_bytes(&bytes), peer_urls, members: all }
}

/// This member in a cluster that exists, as that describes it.
///
/// # Errors
/// etcd's texts where none of its members answers, or `initial-cluster` names others.
pub async fn join(settings: &Settings, dial: &dyn Dial) -> Result<Founded, String> {
    let members = named(settings)?;
    let others = members.iter().filter(|(name, _)| **name != settings.name).flat_map(|(_, urls)| urls);
    let mut why = "no other member is named".to_owned();
    for url in others {
        match kelson_raft::ask(dial, &url.to_string()).await {
            Ok(found) => return placed(settings, &members, &found),
            Err(error) => why = error.to_string(),
        }
    }
    Err(format!(
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs ({why})"
    ))
}

fn placed(
    settings: &Settings,
    members: &BTreeMap<String, Vec<Url>>,
    found: &kelson_raft::Found,
) -> Result<Founded, String> {
    let invalid = |why: &str| format!("error validating peerURLs {:?}: {why}", settings.initial_cluster);
    if found.members.len() != members.len() {
        return Err(invalid("member count is unequal"));
    }
    let texts = |urls: &[Url]| urls.iter().map(ToString::to_string).collect::<std::collections::BTreeSet<_>>();
    let is_at = |member: &&Member, urls: &[Url]| texts(urls) == member.peer_urls.iter().cloned().collect();
    for urls in members.values() {
        if !found.members.iter().any(|member| is_at(&member, urls)) {
            return Err(invalid("unmatched member while checking PeerURLs"));
        }
    }
    let mine = members.get(&settings.name).map(Vec::as_slice).unwrap_or_default();
    let me = found.members.iter().find(|member| is_at(member, mine));
    let me = me.ok_or_else(|| invalid("this member is not among them"))?;
    Ok(Founded { member_id: me.id, cluster_id: found.cluster, peer_urls: mine.to_vec(), members: Vec::new() })
}

/// The members that `initial-cluster` names, checked as etcd does.
fn named(settings: &Settings) -> Result<BTreeMap<String, Vec<Url>>, String> {
    let members =
        members(&settings.initial_cluster).map_err(|why| format!("error setting up initial cluster: {why}"))?;
    let name = &settings.name;
    let Some(urls) = members.get(name) else {
        return Err(format!("couldn't find local name {name:?} in the initial cluster configuration"));
    };
    if settings.initial_cluster_state == "new" {
        advertised(settings, urls)?;
    }
    let mut all: Vec<_> = members.values().flatten().collect();
    all.sort();
    if all.windows(2).any(|pair| pair[0] == pair[1]) {
        let pairs = members.iter().flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")));
        return Err(format!("initial cluster {} has duplicate url", pairs.collect::<Vec<_>>().join(",")));
    }
    Ok(members)
}

/// SHA-1 of the sorted URLs and the token, the first eight bytes of it.
fn member_id(urls: &[Url], token: &str) -> u64 {
    let mut texts: Vec<_> = urls.iter().map(ToString::to_string).collect();
    texts.sort();
    texts.push(token.to_owned());
    first_bytes(texts.concat().as_bytes())
}

fn first_bytes(content: &[u8]) -> u64 {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, content);
    hash.as_ref().iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte))
}

/// The peer URLs that are advertised must be those of `initial-cluster`, by their text or by what they resolve to.
fn advertised(settings: &Settings, urls: &[Url]) -> Result<(), String> {
    let (name, advertised) = (&settings.name, &settings.advertise_peer_urls);
    let texts = |urls: &[Url]| urls.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (ours, theirs) = (texts(advertised), texts(urls));
    if ours == theirs || same_places(advertised, urls) {
        return Ok(());
    }
    let missing: Vec<_> = theirs.iter().filter(|url| !ours.contains(url)).map(|url| format!("{name}={url}")).collect();
    if !missing.is_empty() {
        return Err(format!(
            "--initial-cluster has {} but missing from --initial-advertise-peer-urls={} (resolved urls: {:?} != {:?})",
            missing.join(","),
            ours.join(","),
            ours.join(","),
            theirs.join(","),
        ));
    }
    let missing: Vec<_> = ours.iter().filter(|url| !theirs.contains(url)).cloned().collect();
    let pairs: Vec<_> = ours.iter().map(|url| format!("{name}={url}")).collect();
    Err(format!(
        "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
        missing.join(","),
        pairs.join(",")
    ))
}

fn same_places(ours: &[Url], theirs: &[Url]) -> bool {
    let places = |urls: &[Url]| {
        let mut places: Vec<_> = urls.iter().map(place).collect::<Option<_>>()?;
        places.sort();
        Some(places)
    };
    ours.len() == theirs.len() && places(ours).is_some_and(|ours: Vec<_>| Some(ours) == places(theirs))
}

/// Scheme, address and port of a URL; `None` when its name is not known.
fn place(url: &Url) -> Option<(String, IpAddr, u16)> {
    let (host, port) = url.host_port().ok()?;
    let address = (host, port.parse().ok()?).to_socket_addrs().ok()?.next()?;
    Some((url.scheme.clone(), address.ip(), address.port()))
}

/// An address of this machine that others can reach: that of the default route. No packet is sent.
pub fn default_host() -> Option<String> {
    let route = |from: &str, to: &str| {
        let socket = std::net::UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
    };
    // Addresses for documentation: nobody's, and so behind the default route.
    let v4 = route("0.0.0.0:0", "198.51.100.1:9").map(|ip| ip.to_string());
    v4.or_else(|| route("[::]:0", "[2001:db8::1]:9").map(|ip| format!("[{ip}]")))
}

/// Puts this machine's address where `localhost` would be advertised for a listener on every address, and this member's
/// name into an `initial-cluster` that was not set. Returns the address, where it was used.
pub fn complete(settings: &mut Settings, host: Option<&str>) -> Option<String> {
    let unset = Settings::default().initial_cluster;
    let everywhere = |urls: &[Url]| {
        let (host, port) = urls.first()?.host_port().ok()?;
        (host == "0.0.0.0").then(|| port.to_owned())
    };
    let mut used = None;
    let mut replace = |urls: &mut Vec<Url>, default: &str, listening: &[Url]| {
        let is_default = urls.len() == 1 && urls[0].to_string() == default;
        if let (true, Some(host), Some(port)) = (is_default, host, everywhere(listening))
            && let Ok(url) = Url::parse(&format!("{}://{host}:{port}", urls[0].scheme))
        {
            urls[0] = url;
            used = Some(host.to_owned());
        }
    };
    replace(&mut settings.advertise_peer_urls, "http://localhost:2380", &settings.listen_peer_urls);
    if let Some(clients) = &mut settings.advertise_client_urls {
        replace(clients, "http://localhost:2379", &settings.listen_client_urls);
    }
    if settings.name != "default" && settings.initial_cluster == unset {
        settings.initial_cluster = settings.cluster_of_one();
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, cluster: &str, peers: &str) -> Settings {
        Settings {
            name: name.into(),
            initial_cluster: cluster.into(),
            advertise_peer_urls: Url::parse_list(peers).unwrap(),
            ..Settings::default()
        }
    }

    #[test]
    fn ids_are_those_of_a_real_etcd() {
        // Taken from etcd 3.7.3 started without flags.
        let founded = found(&Settings::default()).unwrap();
        assert_eq!((founded.member_id, founded.cluster_id), (0x8e9e_05c5_2164_694d, 0xcdf8_1819_4e3a_8c32));
        // Names are no part of them; URLs and the token are.
        let named = found(&with("a", "a=http://localhost:2380", "http://localhost:2380")).unwrap();
        assert_eq!((named.member_id, named.cluster_id), (founded.member_id, founded.cluster_id));
        let other = Settings { initial_cluster_token: "other".into(), ..Settings::default() };
        assert_ne!(found(&other).unwrap().member_id, founded.member_id);
    }

    #[test]
    fn the_cluster_must_fit_the_member() {
        for (settings, error) in [
            (with("a", "b=http://1.1.1.1:1", "http://1.1.1.1:1"), "couldn't find local name \"a\" in the initial"),
            (
                with("a", "a=http://1.1.1.1:1", "http://1.1.1.1:2"),
                "--initial-cluster has a=http://1.1.1.1:1 but missing",
            ),
            (
                with("a", "a=http://1.1.1.1:1", "http://1.1.1.1:1,http://1.1.1.1:2"),
                "--initial-advertise-peer-urls has http://1.1.1.1:2 but missing from --initial-cluster=",
            ),
            (with("a", "a=http://1.1.1.1:1,b=http://1.1.1.1:1", "http://1.1.1.1:1"), "has duplicate url"),
            (with("a", "a", "http://1.1.1.1:1"), "error setting up initial cluster: URL scheme must be http"),
        ] {
            let refused = found(&settings).unwrap_err();
            assert!(refused.contains(error), "{refused}");
        }
        let resolved = with("a", "a=http://localhost:1", "http://127.0.0.1:1");
        assert!(found(&resolved).is_ok() || place(&resolved.advertise_peer_urls[0]).is_none());
    }

    #[test]
    fn a_listener_on_every_address_advertises_the_machines_own() {
        let mut settings = with("a", "default=http://localhost:2380", "http://localhost:2380");
        settings.listen_peer_urls = Url::parse_list("http://0.0.0.0:2390").unwrap();
        settings.listen_client_urls = Url::parse_list("http://0.0.0.0:2391").unwrap();
        assert_eq!(complete(&mut settings, Some("10.0.0.7")), Some("10.0.0.7".into()));
        assert_eq!(settings.initial_cluster, "a=http://10.0.0.7:2390");
        assert_eq!(settings.advertise_client_urls.unwrap()[0].to_string(), "http://10.0.0.7:2391");
        let mut plain = Settings::default();
        assert_eq!(complete(&mut plain, Some("10.0.0.7")), None);
        assert_eq!(plain, Settings::default());
    }
}
