//! `KubeSchedulerConfiguration`: kube-scheduler's configuration file, read strictly.
//!
//! Every field of `kubescheduler.config.k8s.io/v1` is known. What cannot be honoured is refused rather than passed over,
//! with two exceptions that change no decision: how many nodes to look at (all of them are), and how a client encodes.

mod arguments;
mod fields;
mod plugins;

use std::collections::HashSet;
use std::time::Duration;

use kelson_sched::{Profile, Waits};
use serde_json::Value;

use fields::{Complaints, Fields};

/// The version that is read.
pub const VERSION: &str = "kubescheduler.config.k8s.io/v1";
/// kube-scheduler's default of `bindTimeoutSeconds`.
const BIND_WITHIN: Duration = Duration::from_secs(600);
const KIND: &str = "KubeSchedulerConfiguration";

/// What the file says.
#[derive(Debug)]
pub struct Configuration {
    pub leader_election: LeaderElection,
    /// `clientConnection.kubeconfig`.
    pub kubeconfig: Option<String>,
    /// At least one.
    pub profiles: Vec<ProfileSettings>,
    pub waits: Waits,
}

/// One profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileSettings {
    pub core: Profile,
    /// Whether its pods may evict others.
    pub preempts: bool,
    /// How long a pod that was placed waits for its claims to be bound (`bindTimeoutSeconds` of `VolumeBinding`).
    pub bind_within: Duration,
}

impl Default for ProfileSettings {
    fn default() -> ProfileSettings {
        ProfileSettings { core: Profile::default(), preempts: true, bind_within: BIND_WITHIN }
    }
}

/// `leaderElection`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderElection {
    pub elect: bool,
    pub lease_duration: Duration,
    pub renew_deadline: Duration,
    pub retry_period: Duration,
    /// Name of the lease, in `kube-system`.
    pub name: String,
}

/// Reads a configuration; `duration` reads a duration as Go writes it.
///
/// # Errors
/// Everything that is wrong with it, in one line.
pub fn read(file: Value, duration: impl Fn(&str) -> Result<Duration, String>) -> Result<Configuration, String> {
    let word = |name: &str| file.get(name).and_then(Value::as_str).unwrap_or_default();
    if (word("apiVersion"), word("kind")) != (VERSION, KIND) {
        return Err(format!("no kind {:?} is registered for version {:?}", word("kind"), word("apiVersion")));
    }
    let mut complaints = Complaints::default();
    let mut fields = Fields::of("", file, &mut complaints);
    for known in ["apiVersion", "kind"] {
        fields.take(known);
    }
    if let Some(parallelism) = fields.number("parallelism").filter(|parallelism| *parallelism <= 0) {
        fields.invalid("parallelism", parallelism, "should be an integer value greater than zero");
    }
    fields.number_in("percentageOfNodesToScore", 0, 100);
    for ignored in ["enableProfiling", "enableContentionProfiling", "delayCacheUntilActive"] {
        fields.flag(ignored);
    }
    if fields.take("extenders").as_array().is_some_and(|extenders| !extenders.is_empty()) {
        fields.say("extenders: Forbidden: extenders are not supported by this scheduler".into());
    }
    let leader_election = leader_election(fields.object("leaderElection"), duration);
    let kubeconfig = client_connection(fields.object("clientConnection"));
    let waits = waits(&mut fields);
    let mut profiles = Vec::new();
    fields.each("profiles", |profile| profiles.push(read_profile(profile)));
    if profiles.is_empty() {
        profiles.push(ProfileSettings::default());
    }
    let mut names = HashSet::new();
    for (at, profile) in profiles.iter().enumerate() {
        if !names.insert(profile.core.name.clone()) {
            fields.say(format!("profiles[{at}].schedulerName: Duplicate value: {:?}", profile.core.name));
        }
    }
    drop(fields);
    complaints.into_result()?;
    Ok(Configuration { leader_election, kubeconfig, profiles, waits })
}

fn leader_election(mut fields: Fields<'_>, duration: impl Fn(&str) -> Result<Duration, String>) -> LeaderElection {
    let mut read = |name: &str, default: u64| {
        let Some(text) = fields.text(name) else { return Duration::from_secs(default) };
        match duration(&text) {
            Ok(duration) => duration,
            Err(why) => {
                fields.invalid(name, format!("{text:?}"), &why);
                Duration::from_secs(default)
            }
        }
    };
    let lease_duration = read("leaseDuration", 15);
    let renew_deadline = read("renewDeadline", 10);
    let retry_period = read("retryPeriod", 2);
    if renew_deadline >= lease_duration {
        let value = format!("{lease_duration:?}");
        fields.invalid("leaseDuration", value, "LeaseDuration must be greater than RenewDeadline");
    }
    if retry_period >= renew_deadline {
        let value = format!("{renew_deadline:?}");
        fields.invalid("renewDeadline", value, "RenewDeadline must be greater than RetryPeriod");
    }
    for (name, only) in [("resourceLock", "leases"), ("resourceNamespace", "kube-system")] {
        if let Some(value) = fields.text(name).filter(|value| value != only) {
            fields.invalid(name, format!("{value:?}"), &format!("must be {only:?}"));
        }
    }
    LeaderElection {
        elect: fields.flag("leaderElect").unwrap_or(true),
        lease_duration,
        renew_deadline,
        retry_period,
        name: fields.text("resourceName").unwrap_or_else(|| "kube-scheduler".into()),
    }
}

fn client_connection(mut fields: Fields<'_>) -> Option<String> {
    for ignored in ["acceptContentTypes", "contentType"] {
        fields.text(ignored);
    }
    for ignored in ["qps", "burst"] {
        fields.take(ignored);
    }
    fields.text("kubeconfig").filter(|file| !file.is_empty())
}

fn waits(fields: &mut Fields<'_>) -> Waits {
    let default = Waits::default();
    let mut milliseconds = |name: &str, default: u64| {
        let seconds = fields.number(name);
        if let Some(seconds) = seconds.filter(|seconds| *seconds <= 0) {
            fields.invalid(name, seconds, "must be greater than 0");
        }
        seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(default, |seconds| seconds.saturating_mul(1_000))
    };
    let initial_backoff = milliseconds("podInitialBackoffSeconds", default.initial_backoff);
    let max_backoff = milliseconds("podMaxBackoffSeconds", default.max_backoff);
    if max_backoff < initial_backoff {
        let seconds = max_backoff / 1_000;
        fields.invalid("podMaxBackoffSeconds", seconds, "must be greater than or equal to PodInitialBackoffSeconds");
    }
    Waits { initial_backoff, max_backoff, ..default }
}

fn read_profile(mut fields: Fields<'_>) -> ProfileSettings {
    let mut core = Profile::default();
    let mut bind_within = BIND_WITHIN;
    if let Some(name) = fields.text("schedulerName") {
        if name.is_empty() {
            let path = fields.at("schedulerName");
            fields.say(format!("{path}: Required value"));
        }
        core.name = name.into();
    }
    if let Some(percentage) = fields.number("percentageOfNodesToScore").filter(|share| !(0..=100).contains(share)) {
        fields.invalid("percentageOfNodesToScore", percentage, "not in valid range [0-100]");
    }
    let plugins = plugins::read(fields.object("plugins"));
    core.filters = plugins.filters;
    core.weights = plugins.weights;
    let mut configured = HashSet::new();
    fields.each("pluginConfig", |mut entry| {
        let name = entry.text("name").unwrap_or_default();
        if !configured.insert(name.clone()) {
            let path = entry.at("name");
            entry.say(format!("{path}: Duplicate value: {name:?}"));
        }
        if !plugins::is_known(&name) {
            entry.take("args");
            let path = entry.at("name");
            entry.say(format!("{path}: Invalid value: {name:?}: there is no such plugin in this scheduler"));
            return;
        }
        match name.as_str() {
            "VolumeBinding" => bind_within = arguments::bind_within(entry.object("args")).unwrap_or(BIND_WITHIN),
            name => arguments::read(name, entry.object("args"), &mut core),
        }
    });
    ProfileSettings { core, preempts: plugins.preempts, bind_within }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kelson_sched::{Filter, FitStrategy, SpreadDefaults};
    use serde_json::json;

    fn seconds(text: &str) -> Result<Duration, String> {
        let number = text.strip_suffix('s').and_then(|number| number.parse().ok());
        number.map(Duration::from_secs).ok_or_else(|| format!("time: invalid duration {text:?}"))
    }

    fn file(more: Value) -> Value {
        let mut file = json!({"apiVersion": VERSION, "kind": KIND});
        file.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        file
    }

    #[track_caller]
    fn refused(more: Value, why: &str) {
        assert_eq!(read(file(more), seconds).err().as_deref(), Some(why));
    }

    fn profile(more: Value) -> ProfileSettings {
        read(file(json!({"profiles": [more]})), seconds).unwrap().profiles.remove(0)
    }

    #[test]
    fn an_empty_file_is_kube_schedulers_default() {
        let read = read(file(json!({})), seconds).unwrap();
        assert_eq!(read.profiles, [ProfileSettings::default()]);
        assert_eq!(read.waits, Waits::default());
        assert!(read.leader_election.elect && read.kubeconfig.is_none());
        assert_eq!(read.leader_election.lease_duration, Duration::from_secs(15));
        assert_eq!(profile(json!({})), ProfileSettings::default());
    }

    #[test]
    fn what_is_no_field_is_named_with_its_path() {
        refused(
            json!({"profiles": [{"schedulerNam": "x"}, {"plugins": {"score": {"enable": []}}}], "leaderElection": {"x": 1}}),
            "strict decoding error: unknown field \"leaderElection.x\", unknown field \"profiles[0].schedulerNam\", \
             unknown field \"profiles[1].plugins.score.enable\"",
        );
        let error = read(json!({"apiVersion": "v1", "kind": "Pod"}), seconds).err();
        assert_eq!(error.as_deref(), Some("no kind \"Pod\" is registered for version \"v1\""));
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        refused(
            json!({"parallelism": 0}),
            "parallelism: Invalid value: 0: should be an integer value greater than zero",
        );
        refused(
            json!({"podInitialBackoffSeconds": 20, "leaderElection": {"leaseDuration": "5s"}}),
            "[leaderElection.leaseDuration: Invalid value: 5s: LeaseDuration must be greater than RenewDeadline, \
             podMaxBackoffSeconds: Invalid value: 10: must be greater than or equal to PodInitialBackoffSeconds]",
        );
        refused(
            json!({"profiles": [{"schedulerName": "a"}, {"schedulerName": "a"}]}),
            "profiles[1].schedulerName: Duplicate value: \"a\"",
        );
        refused(
            json!({"extenders": [{"urlPrefix": "http://x"}]}),
            "extenders: Forbidden: extenders are not supported by this scheduler",
        );
        refused(
            json!({"profiles": [{"plugins": {"score": {"enabled": [{"name": "MyPlugin"}]}}}]}),
            "ScorePlugin \"MyPlugin\" does not exist",
        );
        refused(
            json!({"profiles": [{"plugins": {"queueSort": {"disabled": [{"name": "*"}]}}}]}),
            "profiles[0].plugins.queueSort: Forbidden: PrioritySort cannot be turned off",
        );
        refused(
            json!({"profiles": [{"pluginConfig": [{"name": "InterPodAffinity", "args": {"hardPodAffinityWeight": 101}}]}]}),
            "profiles[0].pluginConfig[0].args.hardPodAffinityWeight: Invalid value: 101: not in valid range [0-100]",
        );
        refused(
            json!({"profiles": [{"pluginConfig": [{"name": "Mine", "args": {"a": 1}}]}]}),
            "profiles[0].pluginConfig[0].name: Invalid value: \"Mine\": there is no such plugin in this scheduler",
        );
    }

    #[test]
    fn plugins_are_turned_on_and_off_at_their_points() {
        let read = profile(json!({"schedulerName": "packed", "plugins": {
            "score": {"disabled": [{"name": "*"}], "enabled": [{"name": "NodeResourcesFit", "weight": 5}, {"name": "ImageLocality"}]},
            "filter": {"disabled": [{"name": "TaintToleration"}]},
            "postFilter": {"disabled": [{"name": "DefaultPreemption"}]},
        }}));
        let weights = read.core.weights;
        assert_eq!(
            (weights.fit, weights.image_locality, weights.balanced_allocation, weights.taint_toleration),
            (5, 1, 0, 0)
        );
        assert!(!read.core.filters.contains(Filter::TaintToleration) && read.core.filters.contains(Filter::NodePorts));
        assert_eq!((&*read.core.name, read.preempts), ("packed", false));
        let read = profile(json!({"plugins": {
            "multiPoint": {"disabled": [{"name": "PodTopologySpread"}], "enabled": [{"name": "NodeAffinity", "weight": 7}]},
        }}));
        assert!(!read.core.filters.contains(Filter::PodTopologySpread));
        assert_eq!((read.core.weights.topology_spread, read.core.weights.node_affinity), (0, 7));
        assert!(read.preempts);
    }

    #[test]
    fn arguments_reach_their_plugins() {
        let read = profile(json!({"pluginConfig": [
            {"name": "NodeResourcesFit", "args": {"apiVersion": VERSION, "kind": "NodeResourcesFitArgs",
                "ignoredResourceGroups": ["example.com"],
                "scoringStrategy": {"type": "RequestedToCapacityRatio", "resources": [{"name": "nvidia.com/gpu", "weight": 3}],
                    "requestedToCapacityRatio": {"shape": [{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]}}}},
            {"name": "PodTopologySpread", "args": {"defaultingType": "List", "defaultConstraints": [
                {"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}]}},
            {"name": "NodeAffinity", "args": {"addedAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "pool", "operator": "In", "values": ["a"]}]}]}}}},
        ]}));
        let core = read.core;
        assert_eq!(core.fit, FitStrategy::RequestedToCapacityRatio(vec![(0, 0), (100, 10)]));
        assert_eq!(core.fit_resources, [("nvidia.com/gpu".into(), 3)]);
        assert_eq!(core.ignored_groups, ["example.com".into()]);
        let SpreadDefaults::List(list) = &core.spread_defaults else { panic!("a list") };
        assert!(list.len() == 1 && list[0].hard && &*list[0].topology_key == "rack");
        assert_eq!(core.added_affinity.unwrap()[0].expressions[0].values, ["a".into()]);
    }
}
