//! Golden stories: scripts of what happens to a few nodes, with every call that the agents make, in virtual time.
//!
//! A story is a text file in `tests/stories`. Lines that begin with `>` are commands (their indented lines are YAML), all
//! others are what came of them. `UPDATE_STORIES=1` writes the files anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::Millis;
use crate::agents::{Agents, Failed, Request};
use crate::config::{Config, Timings};
use crate::logs::LogNext;
use crate::node::{Mode, stamp};
use crate::tail::{Options, Tail};
use crate::view::Written;

/// 2026-01-01T00:00:00Z.
const EPOCH: Millis = 1_767_225_600_000;

struct World {
    config: Config,
    agents: Agents,
    now: Millis,
    pods: BTreeMap<String, Value>,
    nodes: BTreeMap<String, Value>,
    leases: BTreeMap<String, u64>,
    revision: u64,
    uids: u64,
    show_nodes: bool,
    events: bool,
    /// Calls that fail from now on.
    failing: usize,
    out: String,
}

impl World {
    fn new(config: Config) -> World {
        let agents = Agents::new(&config, &config.checked_sizes().unwrap(), 10250, EPOCH);
        World {
            config,
            agents,
            now: EPOCH,
            pods: BTreeMap::new(),
            nodes: BTreeMap::new(),
            leases: BTreeMap::new(),
            revision: 1,
            uids: 0,
            show_nodes: false,
            events: false,
            failing: 0,
            out: String::new(),
        }
    }

    fn say(&mut self, text: &str) {
        let at = self.now - EPOCH;
        writeln!(self.out, "{:>7}.{:03} {text}", at / 1000, at % 1000).unwrap();
    }

    fn meta(&mut self, object: &mut Value) {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
    }

    fn written(&self, object: &Value) -> Written {
        serde_json::from_value(object.clone()).unwrap()
    }

    fn show(&mut self, key: &str) {
        let view = serde_json::from_value(self.pods[key].clone()).unwrap();
        self.agents.pod(self.now, view);
    }

    /// Runs until nothing is left to do before `until`.
    fn run(&mut self, until: Millis) {
        loop {
            self.agents.advance(self.now);
            while let Some(call) = self.agents.next_call(self.now) {
                let answer = self.answer(&call.request);
                self.agents.answered(self.now, &call, answer);
            }
            for note in self.agents.take_notes() {
                if self.events {
                    let kind = if note.warning { "Warning" } else { "Normal" };
                    self.say(&format!("event {kind} {}: {}", note.reason, note.message));
                }
            }
            match self.agents.next_deadline().filter(|at| *at <= until) {
                Some(at) => self.now = self.now.max(at),
                None => break self.now = until,
            }
        }
    }

    fn answer(&mut self, request: &Request) -> Result<Written, Failed> {
        if self.failing > 0 {
            self.failing -= 1;
            self.say("a call fails");
            return Err(Failed::Retry);
        }
        match request {
            Request::CreateNode(node) => {
                let mut node = node.clone();
                let name = node["metadata"]["name"].as_str().unwrap().to_string();
                if self.nodes.contains_key(&name) {
                    return Err(Failed::Exists);
                }
                self.uids += 1;
                node["metadata"]["uid"] = json!(format!("node-uid-{}", self.uids));
                self.meta(&mut node);
                if self.show_nodes {
                    let status = &node["status"];
                    let text = format!(
                        "create node {name}: cpu {} of {}, memory {} of {}, pods {}, CIDR {}, Ready {}",
                        status["allocatable"]["cpu"].as_str().unwrap(),
                        status["capacity"]["cpu"].as_str().unwrap(),
                        status["allocatable"]["memory"].as_str().unwrap(),
                        status["capacity"]["memory"].as_str().unwrap(),
                        status["allocatable"]["pods"].as_str().unwrap(),
                        node["spec"]["podCIDR"].as_str().unwrap(),
                        condition(status, "Ready"),
                    );
                    self.say(&text);
                }
                self.nodes.insert(name, node.clone());
                self.agents.node(self.now, serde_json::from_value(node.clone()).unwrap());
                Ok(self.written(&node))
            }
            Request::NodeStatus { name, patch } => {
                let Some(node) = self.nodes.get_mut(&**name) else { return Err(Failed::NotFound) };
                merge(&mut node["status"], &patch["status"]);
                let node = node.clone();
                if self.show_nodes {
                    self.say(&format!("status of node {name}: Ready {}", condition(&node["status"], "Ready")));
                }
                self.agents.node(self.now, serde_json::from_value(node.clone()).unwrap());
                Ok(self.written(&node))
            }
            Request::CreateLease(lease) => {
                let lease: Value = serde_json::from_str(lease.get()).unwrap();
                let name = lease["metadata"]["name"].as_str().unwrap().to_string();
                if self.show_nodes {
                    self.say(&format!(
                        "create lease {name}, owned by {}",
                        lease["metadata"]["ownerReferences"][0]["uid"]
                    ));
                }
                if self.leases.contains_key(&name) {
                    return Err(Failed::Exists);
                }
                self.lease(name)
            }
            Request::ReadLease { name } => {
                if self.show_nodes {
                    self.say(&format!("read lease {name}"));
                }
                let version = *self.leases.get(&**name).ok_or(Failed::NotFound)?;
                Ok(serde_json::from_value(json!({"metadata": {"resourceVersion": version.to_string()}})).unwrap())
            }
            Request::RenewLease { name, lease } => {
                let lease: Value = serde_json::from_str(lease.get()).unwrap();
                if self.show_nodes {
                    self.say(&format!("renew lease {name}"));
                }
                let version = *self.leases.get(&**name).ok_or(Failed::NotFound)?;
                if lease["metadata"]["resourceVersion"] != json!(version.to_string()) {
                    return Err(Failed::Conflict);
                }
                self.lease(name.to_string())
            }
            Request::PodStatus { key, patch } => {
                let patch: Value = serde_json::from_str(patch.get()).unwrap();
                let Some(pod) = self.pods.get_mut(&**key) else { return Err(Failed::NotFound) };
                if pod["metadata"]["uid"] != patch["metadata"]["uid"] {
                    return Err(Failed::Conflict);
                }
                merge(&mut pod["status"], &patch["status"]);
                let text = format!("{key}: {}", summary(&patch["status"]));
                self.say(&text);
                self.show(key);
                Ok(Written::default())
            }
            Request::DeletePod { key, uid } => {
                let Some(pod) = self.pods.get(&**key) else { return Err(Failed::NotFound) };
                assert_eq!(pod["metadata"]["uid"], json!(&**uid));
                let finalizers = pod["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
                self.say(&format!("{key}: deleted"));
                if !finalizers {
                    self.pods.remove(&**key);
                    self.agents.pod_gone(key, uid);
                }
                Ok(Written::default())
            }
        }
    }

    fn lease(&mut self, name: String) -> Result<Written, Failed> {
        self.revision += 1;
        self.leases.insert(name, self.revision);
        Ok(serde_json::from_value(json!({"metadata": {"resourceVersion": self.revision.to_string()}})).unwrap())
    }

    fn command(&mut self, words: &[&str], yaml: &str) {
        match words {
            ["pod", name, rest @ ..] => {
                let mut pod: Value = serde_yaml_ng::from_str(yaml).unwrap();
                self.uids += 1;
                let key = format!("default/{name}");
                let node = rest.first().copied().unwrap_or("node-00000");
                let meta = pod.as_object_mut().unwrap().entry("metadata").or_insert_with(|| json!({}));
                meta["name"] = json!(name);
                meta["namespace"] = json!("default");
                meta["uid"] = json!(format!("uid-{}", self.uids));
                meta["generation"] = json!(1);
                pod["spec"]["nodeName"] = json!(node);
                pod["status"] = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]});
                self.meta(&mut pod);
                self.pods.insert(key.clone(), pod);
                self.show(&key);
            }
            ["run", length] => {
                let length = crate::shell::seconds(&[length.to_string()]).unwrap();
                self.run(self.now + length);
            }
            ["delete", name, rest @ ..] => {
                let grace: u64 = rest.first().map_or(30, |grace| grace.parse().unwrap());
                let key = format!("default/{name}");
                let now = self.now;
                let pod = self.pods.get_mut(&key).unwrap();
                pod["metadata"]["deletionTimestamp"] = json!(stamp(now + grace * 1000));
                pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
                self.show(&key);
            }
            ["annotate", name, annotation] => {
                let (key, value) = annotation.split_once('=').unwrap();
                let pod = format!("default/{name}");
                self.pods.get_mut(&pod).unwrap()["metadata"]["annotations"][key] = json!(value);
                self.show(&pod);
            }
            ["image", name, image] => {
                let key = format!("default/{name}");
                let pod = self.pods.get_mut(&key).unwrap();
                pod["spec"]["containers"][0]["image"] = json!(image);
                pod["metadata"]["generation"] = json!(pod["metadata"]["generation"].as_u64().unwrap() + 1);
                self.show(&key);
            }
            ["logs", name, container, rest @ ..] => {
                let options = Options::parse(rest.first().unwrap_or(&""), self.now).unwrap();
                let (pod, node) = self.agents.find("default", name).unwrap();
                let text = match pod.log(container, options.previous, node, &self.agents.timings) {
                    Err((status, message)) => format!("  | {} {message}\n", status.as_u16()),
                    Ok(reader) => {
                        let mut tail = Tail::new(reader, options);
                        let mut text = String::new();
                        while let LogNext::Line(at, line) = tail.next(self.now) {
                            text.push_str("  | ");
                            tail.render(at, &line, &mut text);
                        }
                        text
                    }
                };
                self.out.push_str(&text);
            }
            ["restart"] => {
                // The process is new; the API's objects are all it has.
                self.agents = Agents::new(&self.config, &self.config.checked_sizes().unwrap(), 10250, self.now);
                for node in self.nodes.values() {
                    self.agents.node(self.now, serde_json::from_value(node.clone()).unwrap());
                }
                for key in self.pods.keys().cloned().collect::<Vec<_>>() {
                    self.show(&key);
                }
                self.agents.start(self.now);
            }
            ["remove", "node", name] => {
                let node = self.nodes.remove(*name).unwrap();
                self.leases.remove(*name);
                self.agents.node_gone(name, node["metadata"]["uid"].as_str().unwrap());
            }
            ["doubt", name] => {
                let node = self.nodes.get_mut(*name).unwrap();
                merge(&mut node["status"], &json!({"conditions": [{"type": "Ready", "status": "Unknown"}]}));
                let node = node.clone();
                self.agents.node(self.now, serde_json::from_value(node).unwrap());
            }
            ["taint", name, key] => {
                let node = self.nodes.get_mut(*name).unwrap();
                node["spec"]["taints"] = json!([{"key": key, "effect": "NoExecute"}]);
                let node = node.clone();
                self.agents.node(self.now, serde_json::from_value(node).unwrap());
            }
            ["crash", name] => self.agents.set_mode(name, Mode::Crashed, self.now).unwrap(),
            ["partition", name] => self.agents.set_mode(name, Mode::Partitioned, self.now).unwrap(),
            ["resume", name] => self.agents.set_mode(name, Mode::Up, self.now).unwrap(),
            ["gone", name] => {
                let key = format!("default/{name}");
                let pod = self.pods.remove(&key).unwrap();
                self.agents.pod_gone(&key, pod["metadata"]["uid"].as_str().unwrap());
            }
            ["fail", calls] => self.failing = calls.parse().unwrap(),
            ["show", "nodes"] => self.show_nodes = true,
            ["show", "events"] => self.events = true,
            ["usage"] => {
                let text: Vec<String> = self
                    .agents
                    .nodes()
                    .map(|node| format!("{}: {} pods, {}m CPU", node.name, node.pods, node.used.cpu))
                    .collect();
                self.say(&text.join("; "));
            }
            other => panic!("no such command: {other:?}"),
        }
    }
}

/// Strategic merge, as far as a status needs it: lists whose items have a type merge by it.
pub(crate) fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else { return };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    for (name, value) in patch {
        let typed = value.as_array().filter(|list| list.first().is_some_and(|item| item["type"].is_string()));
        match typed {
            Some(list) if into[name].is_array() => {
                for item in list {
                    let known = into[name].as_array_mut().unwrap();
                    match known.iter_mut().find(|known| known["type"] == item["type"]) {
                        Some(known) => merge(known, item),
                        None => known.push(item.clone()),
                    }
                }
            }
            _ => into[name] = value.clone(),
        }
    }
}

fn condition<'a>(status: &'a Value, kind: &str) -> &'a str {
    let conditions = status["conditions"].as_array().unwrap();
    conditions.iter().find(|known| known["type"] == kind).and_then(|known| known["status"].as_str()).unwrap_or("absent")
}

/// A status in one line.
fn summary(status: &Value) -> String {
    let mut text = status["phase"].as_str().unwrap().to_string();
    if let Some(reason) = status["reason"].as_str() {
        write!(text, " {reason} ({})", status["message"].as_str().unwrap()).unwrap();
    }
    for (kind, short) in [("Initialized", "init"), ("Ready", "ready")] {
        write!(text, " {}{short}", if condition(status, kind) == "True" { "+" } else { "-" }).unwrap();
    }
    for list in ["initContainerStatuses", "containerStatuses"] {
        for container in status[list].as_array().into_iter().flatten() {
            let state = |state: &Value| match (&state["waiting"], &state["running"], &state["terminated"]) {
                (waiting @ Value::Object(_), _, _) => waiting["reason"].as_str().unwrap().to_string(),
                (_, Value::Object(_), _) => "running".to_string(),
                (_, _, ended @ Value::Object(_)) => format!("exit {}", ended["exitCode"]),
                _ => "-".to_string(),
            };
            write!(text, " | {} {}", container["name"].as_str().unwrap(), state(&container["state"])).unwrap();
            if container["ready"] == true {
                text.push_str(" ready");
            }
            if container["restartCount"].as_u64() > Some(0) {
                write!(text, " restarts {} last {}", container["restartCount"], state(&container["lastState"]))
                    .unwrap();
            }
        }
    }
    text
}

fn play(story: &str) -> String {
    // Pulls that take as long as their image is large would make the stories hard to read.
    let timings = Timings { pull: (100, 100), work: 200, ..Timings::instant_ish() };
    let mut world = World::new(Config { nodes: 2, timings, seed: 1, ..Config::default() });
    let mut lines = story.lines().peekable();
    let mut started = false;
    while let Some(line) = lines.next() {
        let Some(command) = line.strip_prefix('>') else {
            if line.starts_with('#') || line.is_empty() {
                world.out.push_str(line);
                world.out.push('\n');
            }
            continue;
        };
        world.out.push_str(line);
        world.out.push('\n');
        let words: Vec<&str> = command.split_whitespace().collect();
        let mut yaml = String::new();
        while let Some(text) =
            lines.peek().filter(|text| text.starts_with("    ") && words[0] == "pod" && !is_output(text))
        {
            writeln!(yaml, "{text}").unwrap();
            writeln!(world.out, "{text}").unwrap();
            lines.next();
        }
        if !started && words[0] != "show" {
            started = true;
            world.agents.start(world.now);
            world.run(world.now);
        }
        world.command(&words, &yaml);
    }
    world.out
}

/// Whether a line is a call with its time.
fn is_output(line: &str) -> bool {
    line.trim_start().split(' ').next().is_some_and(|word| word.contains('.') && word.parse::<f64>().is_ok())
}

#[test]
fn stories() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/stories");
    let mut count = 0;
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let story = std::fs::read_to_string(&path).unwrap();
        let played = play(&story);
        count += 1;
        if std::env::var_os("UPDATE_STORIES").is_some() {
            std::fs::write(&path, &played).unwrap();
        } else if played != story {
            let at = played.lines().zip(story.lines()).position(|(new, old)| new != old);
            let line = at.unwrap_or_else(|| played.lines().count().min(story.lines().count()));
            wrong.push(format!(
                "{}:{}\n  expected {:?}\n  got      {:?}",
                path.display(),
                line + 1,
                story.lines().nth(line),
                played.lines().nth(line)
            ));
        }
    }
    assert!(count >= 10, "only {count} stories found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
