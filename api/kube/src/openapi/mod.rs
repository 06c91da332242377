//! The OpenAPI documents, made from the schema and the list of resources that are served.
//!
//! Version 3 is one document for each group and version, found through an index whose URLs carry a hash of the document, so
//! that clients may keep it for ever. kubectl reads from the paths whether the server validates fields, from the request
//! bodies whether it takes strategic merge patches, and from the schemas what to explain and how lists merge. Version 2 is
//! one document for everything, for older clients.
//!
//! Everything is built when first asked for, and kept as bytes.

mod gnostic;
mod paths;
mod schemas;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::schema::{self, Type};

/// A path below an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Its path segment: `status`.
    pub name: &'static str,
    /// Group, version and kind of what is exchanged; those of the resource itself if `None`.
    pub kind: Option<(&'static str, &'static str, &'static str)>,
    /// What can be done: `get`, `create`, `update`, `patch`.
    pub verbs: &'static [&'static str],
}

/// A resource that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// Kind of its objects.
    pub kind: &'static str,
    /// Its path segment.
    pub plural: &'static str,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// What is below its objects.
    pub subresources: Vec<Subresource>,
}

impl Resource {
    fn ty(&self) -> Option<&'static Type> {
        schema::kind(self.group, self.version, self.kind)
    }

    fn list(&self) -> Option<&'static Type> {
        schema::kind(self.group, self.version, &format!("{}List", self.kind))
    }
}

/// Which of the two formats a document is in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    V2,
    V3,
}

impl Format {
    /// A reference to a schema.
    fn reference(self, name: &str) -> Value {
        let folder = if self == Format::V2 { "#/definitions/" } else { "#/components/schemas/" };
        json!({ "$ref": format!("{folder}{name}") })
    }
}

/// A document of version 3, with the hash that its URL carries.
#[derive(Clone, Debug)]
pub struct Document {
    /// The JSON text.
    pub json: Bytes,
    /// SHA-256 of it, in upper-case hex; also good as an ETag.
    pub hash: String,
}

/// The documents of one server.
#[derive(Debug)]
pub struct OpenApi {
    resources: Vec<Resource>,
    groups: OnceLock<BTreeMap<String, Document>>,
    index: OnceLock<Bytes>,
    v2: OnceLock<Bytes>,
    v2_protobuf: OnceLock<Bytes>,
    /// Shown as the document's version.
    version: String,
}

impl OpenApi {
    /// The documents for these resources; `version` is the Kubernetes version that the server says it is.
    pub fn new(resources: Vec<Resource>, version: &str) -> OpenApi {
        OpenApi {
            resources,
            groups: OnceLock::new(),
            index: OnceLock::new(),
            v2: OnceLock::new(),
            v2_protobuf: OnceLock::new(),
            version: version.to_owned(),
        }
    }

    fn groups(&self) -> &BTreeMap<String, Document> {
        self.groups.get_or_init(|| {
            let mut groups: BTreeMap<String, Vec<&Resource>> = BTreeMap::new();
            for resource in &self.resources {
                groups.entry(paths::group_path(resource)).or_default().push(resource);
            }
            groups
                .into_iter()
                .map(|(path, resources)| {
                    let json = Bytes::from(self.document(&resources, Format::V3).to_string());
                    let hash = hex::encode_upper(Sha256::digest(&json));
                    (path, Document { json, hash })
                })
                .collect()
        })
    }

    fn document(&self, resources: &[&Resource], format: Format) -> Value {
        let mut paths = Map::new();
        for resource in resources {
            paths::add(&mut paths, resource, format);
        }
        let schemas = schemas::reachable(resources, format);
        let info = json!({"title": "Kubernetes", "version": self.version});
        let security = json!({
            "BearerToken": {"type": "apiKey", "description": "A bearer token.", "name": "authorization", "in": "header"},
        });
        match format {
            Format::V3 => json!({
                "openapi": "3.0.0",
                "info": info,
                "paths": paths,
                "components": {"schemas": schemas, "securitySchemes": security},
            }),
            Format::V2 => json!({
                "swagger": "2.0",
                "info": info,
                "paths": paths,
                "definitions": schemas,
                "securityDefinitions": security,
                "security": [{"BearerToken": []}],
            }),
        }
    }

    /// The index of version 3, `/openapi/v3`.
    pub fn v3_index(&self) -> Bytes {
        let build = || {
            let paths: Map<String, Value> = self
                .groups()
                .iter()
                .map(|(path, document)| {
                    let url = format!("/openapi/v3/{path}?hash={}", document.hash);
                    (path.clone(), json!({ "serverRelativeURL": url }))
                })
                .collect();
            Bytes::from(json!({ "paths": paths }).to_string())
        };
        self.index.get_or_init(build).clone()
    }

    /// The document of one group and version, by its path below `/openapi/v3/`: `api/v1` or `apis/apps/v1`.
    pub fn v3_group(&self, path: &str) -> Option<Document> {
        self.groups().get(path.trim_matches('/')).cloned()
    }

    fn everything(&self) -> Value {
        let resources: Vec<&Resource> = self.resources.iter().collect();
        self.document(&resources, Format::V2)
    }

    /// The document of version 2, `/openapi/v2`.
    pub fn v2(&self) -> Bytes {
        self.v2.get_or_init(|| Bytes::from(self.everything().to_string())).clone()
    }

    /// The same in protobuf, as `openapi.v2.Document`.
    pub fn v2_protobuf(&self) -> Bytes {
        self.v2_protobuf.get_or_init(|| Bytes::from(gnostic::encode(&self.everything()))).clone()
    }
}

#[cfg(test)]
mod tests;
