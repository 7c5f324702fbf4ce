//! Bearer tokens: who may read, who may send images, who may change things. Deny by default: what is neither a question nor an
//! image posted needs the token that may everything.
//!
//! Tokens count for the TCP listener, loopback included, as other people of the machine reach it too. The unix socket is guarded
//! by its file's mode: who may open it may everything.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::guard::Door;
use super::{Problem, ServeError, Shared};
use crate::config::ServeSettings;

/// Fewest characters of a token: 256 bits in base64 or hexadecimal are more.
const SHORTEST: usize = 32;

/// Largest token file.
const LONGEST: usize = 4096;

/// What a request may be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Anyone: the page itself, which holds nothing, and health.
    Open,
    Read,
    Ingest,
    Admin,
}

impl Scope {
    fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Ingest => "ingest",
            Self::Admin => "admin",
        }
    }

    /// Of a route, by its template; `None` where none matched.
    pub(super) fn of(method: &Method, route: Option<&str>) -> Self {
        let Some(route) = route else { return Self::Admin };
        match (method, route) {
            (&Method::GET | &Method::HEAD, "/livez" | "/readyz" | "/healthz" | "/" | "/docs" | "/page/{file}") => {
                Self::Open
            }
            (&Method::GET | &Method::HEAD, _) => Self::Read,
            (&Method::POST, "/v1/query" | "/v1/query/batch" | "/v1/embed" | "/v1/embed/batch" | "/v1/classify") => {
                Self::Read
            }
            (&Method::POST, "/v1/images") => Self::Ingest,
            _ => Self::Admin,
        }
    }

    /// Whether a token of this scope does for what needs `needed`.
    fn covers(self, needed: Self) -> bool {
        self == Self::Admin || self == needed
    }
}

/// The tokens of a daemon. Only their hashes are kept; hashes are compared in constant time.
#[derive(Debug, Clone, Default)]
pub struct Tokens {
    known: Vec<(Scope, blake3::Hash)>,
}

impl Tokens {
    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// A file that cannot be read, that others may read, or whose token is too short.
    pub fn load(settings: &ServeSettings) -> Result<Self, ServeError> {
        let files = [
            (Scope::Read, &settings.read_token_file),
            (Scope::Ingest, &settings.ingest_token_file),
            (Scope::Admin, &settings.admin_token_file),
        ];
        let named = files.into_iter().filter_map(|(scope, path)| Some((scope, path.as_ref()?)));
        let known = named.map(|(scope, path)| Ok((scope, read(path)?))).collect::<Result<_, ServeError>>()?;
        Ok(Self { known })
    }

    /// Whether there is none: then the listeners alone decide who may ask.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The scopes of a token; empty where it is none. Every known one is compared, whichever fits.
    fn scopes(&self, token: &[u8]) -> Vec<Scope> {
        let hash = blake3::hash(token);
        // The comparison of two `blake3::Hash` takes the same time wherever they differ.
        let fits: Vec<(Scope, bool)> = self.known.iter().map(|(scope, known)| (*scope, *known == hash)).collect();
        fits.into_iter().filter(|(_, fits)| *fits).map(|(scope, _)| scope).collect()
    }

    /// # Errors
    /// 401 without a token that is known, 403 with one of another scope.
    pub(super) fn admit(&self, needed: Scope, headers: &HeaderMap) -> Result<(), Problem> {
        if needed == Scope::Open || self.is_empty() {
            return Ok(());
        }
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (given.next(), given.next()) else {
            return Err(unauthorized("the request has no token, or more than one"));
        };
        let Some(token) = bearer(value) else {
            return Err(unauthorized("the header Authorization is not of the form `Bearer TOKEN`"));
        };
        let scopes = self.scopes(token);
        if scopes.is_empty() {
            return Err(unauthorized("the token is not known"));
        }
        if scopes.iter().any(|scope| scope.covers(needed)) {
            return Ok(());
        }
        let detail = format!("the token is for other things: this needs one that may {}", needed.name());
        Err(Problem::new(403, "insufficient-scope", detail)
            .field("Authorization")
            .remedy(format!("use the token of serve.{}_token_file, or that of serve.admin_token_file", needed.name())))
    }
}

fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let bytes = value.as_bytes();
    let (scheme, token) = bytes.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token).filter(|token| !token.is_empty())
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(401, "unauthorized", detail)
        .field("Authorization")
        .remedy("send `Authorization: Bearer TOKEN` with a token of this daemon, or ask over its unix socket")
}

fn read(path: &Path) -> Result<blake3::Hash, ServeError> {
    let failed = |why: String| ServeError::Token { path: PathBuf::from(path), why };
    let metadata = fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    if metadata.permissions().mode() & 0o007 != 0 {
        return Err(failed("everybody on this machine may read it: chmod o-rwx".into()));
    }
    if metadata.len() > LONGEST as u64 {
        return Err(failed(format!("it is longer than {LONGEST} bytes: it should hold one token and nothing else")));
    }
    let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let token = text.trim();
    if token.len() < SHORTEST || token.chars().any(|c| !c.is_ascii_graphic()) {
        return Err(failed(format!(
            "a token has at least {SHORTEST} printable characters: make one with `openssl rand -hex 32`"
        )));
    }
    Ok(blake3::hash(token.as_bytes()))
}

/// Middleware: before the body is read, and before anything is done.
pub(super) async fn authorise(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let by_tcp = !matches!(request.extensions().get::<Door>(), Some(Door::Unix(_)));
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let needed = Scope::of(request.method(), route);
    if by_tcp && let Err(problem) = shared.tokens.load().admit(needed, request.headers()) {
        let unknown = problem.status == 401;
        let mut response = problem.into_response();
        if unknown {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"lumpd\""));
        }
        return response;
    }
    if needed != Scope::Open && !shared.rate.take() {
        return Problem::new(429, "rate-limited", "more requests come in than serve.requests_per_second allows")
            .remedy("send fewer requests at once, or raise serve.requests_per_second")
            .retry_after(1)
            .into_response();
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &tempfile::TempDir, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    const READ: &str = "rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr";
    const ADMIN: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn tokens() -> Tokens {
        let folder = tempfile::tempdir().unwrap();
        let settings = ServeSettings {
            read_token_file: Some(file(&folder, "read", &format!("{READ}\n"), 0o600)),
            admin_token_file: Some(file(&folder, "admin", ADMIN, 0o640)),
            ..ServeSettings::default()
        };
        Tokens::load(&settings).unwrap()
    }

    #[test]
    fn a_token_admits_to_its_scope_and_the_admins_to_all() {
        let tokens = tokens();
        let status = |needed, value: &str| tokens.admit(needed, &headers(value)).err().map(|problem| problem.status);
        assert_eq!(status(Scope::Read, &format!("Bearer {READ}")), None);
        assert_eq!(status(Scope::Read, &format!("bearer {ADMIN}")), None);
        assert_eq!(status(Scope::Admin, &format!("Bearer {ADMIN}")), None);
        assert_eq!(status(Scope::Ingest, &format!("Bearer {READ}")), Some(403));
        assert_eq!(status(Scope::Admin, &format!("Bearer {READ}")), Some(403));
        for wrong in
            ["Bearer ", "Bearer", "Basic eDp5", READ, &format!("Bearer {}", &READ[1..]), &format!("Bearer {READ}r")]
        {
            assert_eq!(status(Scope::Read, wrong), Some(401), "{wrong}");
        }
        assert_eq!(tokens.admit(Scope::Read, &HeaderMap::new()).unwrap_err().status, 401);
        assert!(tokens.admit(Scope::Open, &HeaderMap::new()).is_ok());
        assert!(Tokens::default().admit(Scope::Admin, &HeaderMap::new()).is_ok());
    }

    #[test]
    fn a_file_that_is_no_secret_or_holds_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text, mode) in
            [("open", READ, 0o644), ("short", "abc", 0o600), ("spaced", "a b".repeat(20).as_str(), 0o600)]
        {
            let path = Some(file(&folder, name, text, mode));
            let settings = ServeSettings { read_token_file: path, ..ServeSettings::default() };
            assert_eq!(Tokens::load(&settings).unwrap_err().code(), "bad-token-file", "{name}");
        }
        let missing = Some(folder.path().join("none"));
        let settings = ServeSettings { admin_token_file: missing, ..ServeSettings::default() };
        assert!(Tokens::load(&settings).is_err());
    }

    #[test]
    fn what_no_route_matches_and_what_changes_things_needs_the_admin() {
        for (method, route, scope) in [
            (Method::GET, Some("/v1/status"), Scope::Read),
            (Method::GET, Some("/metrics"), Scope::Read),
            (Method::POST, Some("/v1/query"), Scope::Read),
            (Method::POST, Some("/v1/images"), Scope::Ingest),
            (Method::DELETE, Some("/v1/images/{id}"), Scope::Admin),
            (Method::POST, Some("/v1/a-new-one"), Scope::Admin),
            (Method::GET, None, Scope::Admin),
            (Method::GET, Some("/livez"), Scope::Open),
            (Method::POST, Some("/"), Scope::Admin),
        ] {
            assert_eq!(Scope::of(&method, route), scope, "{method} {route:?}");
        }
    }
}
