//! The paths of resources and the operations on them.

use serde_json::{Map, Value, json};

use super::schemas::PATCH;
use super::{Format, Resource};
use crate::schema;

/// The media types in which objects come.
const OBJECTS: [&str; 2] = ["application/json", "application/yaml"];
/// The media types of patches.
const PATCHES: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"];

/// Query parameters: name, type, what it is for.
type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = ("pretty", "string", "Print the answer indented if 'true'.");
const DRY_RUN: Parameter = ("dryRun", "string", "'All' goes through every stage but does not store the result.");
const FIELD_MANAGER: Parameter = ("fieldManager", "string", "The name of the actor that makes the change.");
const FIELD_VALIDATION: Parameter =
    ("fieldValidation", "string", "What to do about unknown and duplicate fields: Ignore, Warn or Strict.");
const FORCE: Parameter = ("force", "boolean", "Take over fields that other managers own; only for apply patches.");

const LIST: [Parameter; 10] = [
    ("allowWatchBookmarks", "boolean", "Ask for BOOKMARK events."),
    ("continue", "string", "The token with which the previous page ended."),
    ("fieldSelector", "string", "Restrict the list by fields."),
    ("labelSelector", "string", "Restrict the list by labels."),
    ("limit", "integer", "The most objects that a page may have."),
    ("resourceVersion", "string", "How recent the answer has to be."),
    ("resourceVersionMatch", "string", "How resourceVersion applies: Exact or NotOlderThan."),
    ("sendInitialEvents", "boolean", "Begin a watch with the objects that are there."),
    ("timeoutSeconds", "integer", "End the request after that time."),
    ("watch", "boolean", "Stream changes instead of listing."),
];

const DELETE: [Parameter; 3] = [
    ("gracePeriodSeconds", "integer", "How long the object may take to end; 0 is at once."),
    ("orphanDependents", "boolean", "Superseded by propagationPolicy."),
    ("propagationPolicy", "string", "What becomes of dependents: Orphan, Background or Foreground."),
];

/// `api/v1` or `apis/apps/v1`.
pub(super) fn group_path(resource: &Resource) -> String {
    match resource.group {
        "" => format!("api/{}", resource.version),
        group => format!("apis/{group}/{}", resource.version),
    }
}

/// Adds the paths of a resource.
pub(super) fn add(paths: &mut Map<String, Value>, resource: &Resource, format: Format) {
    let root = format!("/{}", group_path(resource));
    let collection = match resource.namespaced {
        true => format!("{root}/namespaces/{{namespace}}/{}", resource.plural),
        false => format!("{root}/{}", resource.plural),
    };
    let page = Page { resource, format };
    if resource.namespaced {
        let list = page.operation("get", "list", "ForAllNamespaces", &LIST);
        let mut path = Map::from_iter([("get".to_owned(), list)]);
        path.insert("parameters".to_owned(), page.path_parameters(false, false));
        paths.insert(format!("{root}/{}", resource.plural), Value::Object(path));
    }
    let change: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
    let patch: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
    let delete = [&[DRY_RUN][..], &DELETE].concat();
    let delete_collection = [&[DRY_RUN][..], &DELETE, &LIST].concat();
    let mut path = Map::new();
    path.insert("get".to_owned(), page.operation("get", "list", "", &LIST));
    path.insert("post".to_owned(), page.operation("post", "post", "", change));
    path.insert("delete".to_owned(), page.operation("delete", "deletecollection", "", &delete_collection));
    path.insert("parameters".to_owned(), page.path_parameters(resource.namespaced, false));
    paths.insert(collection.clone(), Value::Object(path));
    let mut path = Map::new();
    path.insert("get".to_owned(), page.operation("get", "get", "", &[]));
    path.insert("put".to_owned(), page.operation("put", "put", "", change));
    path.insert("patch".to_owned(), page.operation("patch", "patch", "", patch));
    path.insert("delete".to_owned(), page.operation("delete", "delete", "", &delete));
    path.insert("parameters".to_owned(), page.path_parameters(resource.namespaced, true));
    paths.insert(format!("{collection}/{{name}}"), Value::Object(path));
    for subresource in &resource.subresources {
        let mut path = Map::new();
        for verb in subresource.verbs {
            let (method, parameters) = match *verb {
                "get" => ("get", &[][..]),
                "create" => ("post", change),
                "update" => ("put", change),
                "patch" => ("patch", patch),
                _ => continue,
            };
            path.insert(method.to_owned(), page.sub_operation(method, subresource.name, subresource.kind, parameters));
        }
        path.insert("parameters".to_owned(), page.path_parameters(resource.namespaced, true));
        paths.insert(format!("{collection}/{{name}}/{}", subresource.name), Value::Object(path));
    }
}

/// A resource's page in a document.
struct Page<'a> {
    resource: &'a Resource,
    format: Format,
}

impl Page<'_> {
    fn path_parameters(&self, namespace: bool, name: bool) -> Value {
        let mut parameters = Vec::new();
        for (name, wanted) in [("name", name), ("namespace", namespace)] {
            if wanted {
                parameters.push(self.parameter("path", (name, "string", "")));
            }
        }
        parameters.push(self.parameter("query", PRETTY));
        parameters.into()
    }

    fn parameter(&self, place: &str, (name, kind, description): Parameter) -> Value {
        let mut parameter = json!({"name": name, "in": place});
        if !description.is_empty() {
            parameter["description"] = description.into();
        }
        if place == "path" {
            parameter["required"] = true.into();
        }
        match self.format {
            Format::V3 => parameter["schema"] = json!({"type": kind, "uniqueItems": true}),
            Format::V2 => {
                parameter["type"] = kind.into();
                parameter["uniqueItems"] = true.into();
            }
        }
        parameter
    }

    /// An operation on the resource itself.
    fn operation(&self, method: &str, action: &str, suffix: &str, parameters: &[Parameter]) -> Value {
        let (group, version, kind) = (self.resource.group, self.resource.version, self.resource.kind);
        let answer = match action {
            "list" => self.resource.list(),
            "delete" if kind != "Pod" && kind != "ServiceAccount" => schema::kind("", "v1", "Status"),
            "deletecollection" => schema::kind("", "v1", "Status"),
            _ => self.resource.ty(),
        };
        let body = match method {
            "post" | "put" => self.resource.ty().map(schema::Type::openapi_name),
            "patch" => Some(PATCH.to_owned()),
            "delete" => schema::kind("", "v1", "DeleteOptions").map(schema::Type::openapi_name),
            _ => None,
        };
        let answer = answer.map(schema::Type::openapi_name);
        self.build((method, action), suffix, (group, version, kind), body, answer, parameters)
    }

    fn sub_operation(
        &self,
        method: &str,
        name: &str,
        kind: Option<(&'static str, &'static str, &'static str)>,
        parameters: &[Parameter],
    ) -> Value {
        let kind = kind.unwrap_or((self.resource.group, self.resource.version, self.resource.kind));
        let exchanged = schema::kind(kind.0, kind.1, kind.2).map(schema::Type::openapi_name);
        let body = match method {
            "get" => None,
            "patch" => Some(PATCH.to_owned()),
            _ => exchanged.clone(),
        };
        // Logs are text, whatever else there is to say about the pod.
        let answer = if name == "log" { None } else { exchanged };
        let mut suffix = name.to_owned();
        suffix[..1].make_ascii_uppercase();
        self.build((method, method), &suffix, kind, body, answer, parameters)
    }

    fn build(
        &self,
        (method, action): (&str, &str),
        suffix: &str,
        (group, version, kind): (&str, &str, &str),
        body: Option<String>,
        answer: Option<String>,
        parameters: &[Parameter],
    ) -> Value {
        let tag = match self.resource.group.split('.').next().unwrap_or_default() {
            "" => format!("core_{}", self.resource.version),
            group => format!("{group}_{}", self.resource.version),
        };
        let verb = match (action, method) {
            ("list", _) => "list",
            ("deletecollection", _) => "deleteCollection",
            (_, "get") => "read",
            (_, "post") => "create",
            (_, "put") => "replace",
            (_, method) => method,
        };
        let scope = if self.resource.namespaced && suffix != "ForAllNamespaces" { "Namespaced" } else { "" };
        let id = format!("{verb}_{tag}_{scope}{}{suffix}", self.resource.kind);
        let mut operation = json!({
            "operationId": camel(&id),
            "tags": [tag],
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
        });
        let mut parameters: Vec<Value> =
            parameters.iter().map(|parameter| self.parameter("query", *parameter)).collect();
        let good = answer.map_or(json!({"type": "string"}), |name| self.format.reference(&name));
        let required = method != "delete";
        match self.format {
            Format::V3 => {
                let content = |types: &[&str], schema: &Value| -> Value {
                    types
                        .iter()
                        .map(|media| ((*media).to_owned(), json!({ "schema": schema })))
                        .collect::<Map<_, _>>()
                        .into()
                };
                if let Some(body) = body {
                    let types: &[&str] = if method == "patch" { &PATCHES } else { &["*/*"] };
                    operation["requestBody"] = json!({"content": content(types, &self.format.reference(&body))});
                    if required {
                        operation["requestBody"]["required"] = true.into();
                    }
                }
                operation["responses"] = json!({
                    "200": {"description": "OK", "content": content(&OBJECTS, &good)},
                    "401": {"description": "Unauthorized"},
                });
            }
            Format::V2 => {
                if let Some(body) = body {
                    let mut parameter = json!({"name": "body", "in": "body", "schema": self.format.reference(&body)});
                    if required {
                        parameter["required"] = true.into();
                    }
                    parameters.push(parameter);
                }
                operation["consumes"] = if method == "patch" { json!(PATCHES) } else { json!(["*/*"]) };
                operation["produces"] = json!(OBJECTS);
                operation["schemes"] = json!(["https"]);
                operation["responses"] = json!({
                    "200": {"description": "OK", "schema": good},
                    "401": {"description": "Unauthorized"},
                });
            }
        }
        operation["parameters"] = parameters.into();
        operation
    }
}

/// `list_apps_v1_NamespacedDeployment` as `listAppsV1NamespacedDeployment`.
fn camel(id: &str) -> String {
    let mut words = id.split('_');
    let mut text = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        if let Some(first) = letters.next() {
            text.push(first.to_ascii_uppercase());
            text.push_str(letters.as_str());
        }
    }
    text
}
