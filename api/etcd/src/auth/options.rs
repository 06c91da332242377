//! What the auth of a server may be told.

/// Settings of auth. They have no effect until auth is turned on.
#[derive(Clone, Debug, Default)]
pub struct AuthOptions {
    /// A request without a token is its connection's: the common name of the client's certificate is the user's name
    /// (etcd's `client-cert-auth`). Needs a TLS configuration that asks for certificates.
    pub client_cert_auth: bool,
}
