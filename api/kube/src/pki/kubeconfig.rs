//! The file that kubectl reads.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Identity;

/// A kubeconfig with one context, `kelson`; certificates and key are embedded. `server` is the gateway's URL,
/// `authority` its CA certificate in PEM.
pub fn kubeconfig(server: &str, authority: &str, identity: &Identity) -> String {
    let encode = |text: &str| STANDARD.encode(text);
    format!(
        "apiVersion: v1
kind: Config
clusters:
- cluster:
    certificate-authority-data: {}
    server: {server}
  name: kelson
contexts:
- context:
    cluster: kelson
    user: kelson-admin
  name: kelson
current-context: kelson
preferences: {{}}
users:
- name: kelson-admin
  user:
    client-certificate-data: {}
    client-key-data: {}
",
        encode(authority),
        encode(&identity.certificate),
        encode(&identity.key)
    )
}
