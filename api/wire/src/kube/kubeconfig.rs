//! Reads a kubeconfig: where the server is, whom to trust, who we are.

use std::path::Path;

use base64::Engine as _;
use serde::Deserialize;

/// Why a kubeconfig cannot be used. Names the file and the field.
#[derive(Debug, thiserror::Error)]
#[error("kubeconfig {file}: {why}")]
pub struct KubeconfigError {
    file: String,
    why: String,
}

/// The current context of a kubeconfig, resolved. All certificates are PEM.
#[derive(Clone, Default)]
pub struct Kubeconfig {
    /// `https://host:port`.
    pub server: String,
    pub certificate_authority: Vec<u8>,
    pub client_certificate: Vec<u8>,
    pub client_key: Vec<u8>,
    /// Bearer token, empty for none.
    pub token: String,
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "current-context", default)]
    current_context: String,
    #[serde(default)]
    clusters: Vec<Named>,
    #[serde(default)]
    contexts: Vec<Named>,
    #[serde(default)]
    users: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    #[serde(alias = "cluster", alias = "context", alias = "user", default)]
    body: serde_json::Map<String, serde_json::Value>,
}

impl Kubeconfig {
    /// Reads `file` and resolves its current context. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// If the file cannot be read, is not a kubeconfig, or names what it does not hold.
    pub fn load(file: &Path) -> Result<Kubeconfig, KubeconfigError> {
        let fail = |why: String| KubeconfigError { file: file.display().to_string(), why };
        let text = std::fs::read_to_string(file).map_err(|error| fail(error.to_string()))?;
        let parsed: File = serde_yaml_ng::from_str(&text).map_err(|error| fail(error.to_string()))?;
        let find = |list: &'_ [Named], name: &str, what: &str| {
            list.iter()
                .find(|entry| entry.name == name)
                .map(|entry| entry.body.clone())
                .ok_or_else(|| fail(format!("no {what} named {name:?}")))
        };
        let context = find(&parsed.contexts, &parsed.current_context, "context")?;
        let text = |map: &serde_json::Map<String, serde_json::Value>, field: &str| {
            map.get(field).and_then(|value| value.as_str()).unwrap_or_default().to_string()
        };
        let cluster = find(&parsed.clusters, &text(&context, "cluster"), "cluster")?;
        let user = find(&parsed.users, &text(&context, "user"), "user")?;
        let folder = file.parent().unwrap_or(Path::new("."));
        let pem = |map: &serde_json::Map<String, serde_json::Value>, field: &str| -> Result<Vec<u8>, KubeconfigError> {
            let inline = text(map, &format!("{field}-data"));
            if !inline.is_empty() {
                let decoded = base64::engine::general_purpose::STANDARD.decode(inline);
                return decoded.map_err(|error| fail(format!("{field}-data: {error}")));
            }
            match text(map, field).as_str() {
                "" => Ok(Vec::new()),
                path => std::fs::read(folder.join(path)).map_err(|error| fail(format!("{field} {path}: {error}"))),
            }
        };
        let server = text(&cluster, "server");
        if server.is_empty() {
            return Err(fail("the cluster has no server".into()));
        }
        Ok(Kubeconfig {
            server,
            certificate_authority: pem(&cluster, "certificate-authority")?,
            client_certificate: pem(&user, "client-certificate")?,
            client_key: pem(&user, "client-key")?,
            token: text(&user, "token"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
apiVersion: v1
kind: Config
current-context: one
clusters: [{name: c, cluster: {server: 'https://127.0.0.1:6443', certificate-authority-data: Q0E=}}]
contexts: [{name: one, context: {cluster: c, user: u}}, {name: two, context: {cluster: c, user: missing}}]
users: [{name: u, user: {client-certificate-data: Q1JU, client-key: key.pem}}]
";

    #[test]
    fn resolves_the_current_context_and_names_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        std::fs::write(&file, TEXT).unwrap();
        let error = Kubeconfig::load(&file).err().unwrap().to_string();
        assert!(error.contains("client-key key.pem"), "{error}");
        std::fs::write(folder.path().join("key.pem"), "KEY").unwrap();
        let config = Kubeconfig::load(&file).unwrap();
        assert_eq!((&config.certificate_authority[..], &config.client_key[..]), (&b"CA"[..], &b"KEY"[..]));
        std::fs::write(&file, TEXT.replace("current-context: one", "current-context: two")).unwrap();
        assert!(Kubeconfig::load(&file).err().unwrap().to_string().contains("no user named \"missing\""));
    }
}
