//! Who may ask: requests that name this very daemon, and that no foreign page in a browser has made (DNS rebinding, cross-site
//! requests). The unix socket is guarded by its file's mode; browsers cannot reach it, so `Host` does not matter there.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderValue, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Problem;

/// The listener that a request came in by.
#[derive(Debug, Clone)]
pub(super) enum Door {
    Tcp(OwnNames),
    Unix(OwnNames),
}

/// The names under which the TCP listener may be called, each `host:port`.
#[derive(Debug, Clone)]
pub(super) struct OwnNames {
    names: Arc<[String]>,
    /// Those of the configuration: a proxy in front of the daemon may serve them by https.
    further: Arc<[String]>,
}

impl OwnNames {
    /// `further`: names of the configuration, with a port of their own or without.
    pub(super) fn of(bound: SocketAddr, further: &[String]) -> Self {
        let port = bound.port();
        let mut names = vec![format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}")];
        // An address that stands for all of the machine's is nobody's name: a browser that calls it so was tricked.
        if !bound.ip().is_unspecified() {
            names.push(bound.to_string());
        }
        for name in further {
            let has_port = name.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            if !has_port {
                names.push(format!("{name}:{port}"));
            }
            names.push(name.clone());
        }
        if port == 80 {
            // Clients leave out the port that the scheme implies.
            names.extend(["localhost".to_owned(), "127.0.0.1".to_owned(), "[::1]".to_owned()]);
        }
        Self { names: names.into(), further: further.into() }
    }

    fn contain(&self, name: &str) -> bool {
        self.names.iter().any(|own| own.eq_ignore_ascii_case(name))
    }

    /// Whether a page of this origin is the daemon's own.
    fn are_of(&self, origin: &str) -> bool {
        match (origin.strip_prefix("http://"), origin.strip_prefix("https://")) {
            (Some(name), _) => self.contain(name),
            (_, Some(name)) => self.further.iter().any(|own| own.eq_ignore_ascii_case(name)),
            _ => false,
        }
    }
}

/// Middleware: lets a request pass or answers 403. A request whose door is not known does not pass.
pub(super) async fn guard(request: Request, next: Next) -> Response {
    let admitted = match request.extensions().get::<Door>() {
        Some(Door::Tcp(own)) => {
            host_is_ours(own, request.uri(), request.headers()).and_then(|()| origin_is_ours(own, request.headers()))
        }
        Some(Door::Unix(own)) => origin_is_ours(own, request.headers()),
        None => Err(foreign_host("the request came in by no listener of the daemon")),
    };
    match admitted {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn host_is_ours(own: &OwnNames, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(foreign_host("the request must have exactly one Host header"));
    };
    if !is_ours(own, host) {
        return Err(foreign_host("the Host header does not name this daemon"));
    }
    // The target of `GET http://other/ HTTP/1.1` outranks the header (RFC 9112, section 3.2.2).
    match uri.authority() {
        Some(authority) if !own.contain(authority.as_str()) => {
            Err(foreign_host("the request's target does not name this daemon"))
        }
        _ => Ok(()),
    }
}

fn origin_is_ours(own: &OwnNames, headers: &HeaderMap) -> Result<(), Problem> {
    let ours = |origin: &HeaderValue| origin.to_str().is_ok_and(|origin| own.are_of(origin));
    // Images and scripts of a foreign page come without Origin; browsers say so in these headers instead. Following a link is fine.
    let header = |name| headers.get(name).map(HeaderValue::as_bytes);
    let site = header("sec-fetch-site").unwrap_or(b"none");
    let embedded = !matches!(site, b"none" | b"same-origin") && header("sec-fetch-mode") != Some(b"navigate");
    if headers.get_all(ORIGIN).iter().all(ours) && !embedded {
        return Ok(());
    }
    Err(Problem::new(403, "foreign-origin", "the request was made by a page of another origin")
        .field("Origin")
        .remedy("ask from the daemon's own page, or from a program that sends no Origin"))
}

fn is_ours(own: &OwnNames, host: &HeaderValue) -> bool {
    host.to_str().is_ok_and(|host| own.contain(host))
}

fn foreign_host(detail: &str) -> Problem {
    Problem::new(403, "foreign-host", detail)
        .field("Host")
        .remedy("call the daemon as localhost, 127.0.0.1 or [::1], with its port")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn own() -> OwnNames {
        OwnNames::of(([127, 0, 0, 1], 7717).into(), &[])
    }

    fn host(host: &str) -> bool {
        host_is_ours(&own(), &"/v1/status".parse().unwrap(), &headers(&[("host", host)])).is_ok()
    }

    fn origin(pairs: &[(&'static str, &str)]) -> bool {
        origin_is_ours(&own(), &headers(pairs)).is_ok()
    }

    #[test]
    fn only_the_exact_names_of_the_listener_pass() {
        for name in ["localhost:7717", "LOCALHOST:7717", "127.0.0.1:7717", "[::1]:7717"] {
            assert!(host(name), "{name}");
        }
        for name in [
            "",
            "localhost",
            "127.0.0.1",
            "localhost:80",
            "localhost:77170",
            "localhost.:7717",
            "evil.example:7717",
            "localhost.evil.example:7717",
            "0.0.0.0:7717",
            "127.0.0.2:7717",
            "127.1:7717",
            "user@localhost:7717",
            "192.168.1.4:7717",
            "box.local:7717",
            "::1:7717",
        ] {
            assert!(!host(name), "{name}");
        }
    }

    #[test]
    fn the_port_may_be_left_out_where_it_is_the_schemes_own() {
        let own = OwnNames::of(([127, 0, 0, 1], 80).into(), &[]);
        assert!(own.contain("localhost") && own.contain("localhost:80") && !own.contain("evil.example"));
    }

    #[test]
    fn further_names_are_those_of_the_configuration_exactly() {
        let hosts = ["box.example".to_owned(), "proxy.example:443".to_owned()];
        let own = OwnNames::of(([0, 0, 0, 0], 7717).into(), &hosts);
        assert!(own.contain("box.example:7717") && own.contain("BOX.example:7717") && own.contain("proxy.example:443"));
        assert!(own.contain("box.example"), "a proxy on the scheme's own port leaves it out");
        assert!(own.are_of("https://box.example") && own.are_of("https://proxy.example:443"));
        assert!(!own.are_of("https://localhost:7717") && !own.are_of("https://evil.example"));
        for foreign in
            ["box.example:80", "proxy.example:7717", "0.0.0.0:7717", "a.box.example:7717", "192.168.1.4:7717"]
        {
            assert!(!own.contain(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_missing_or_doubled_host_does_not_pass() {
        let uri = "/".parse().unwrap();
        assert!(host_is_ours(&own(), &uri, &headers(&[])).is_err());
        let twice = headers(&[("host", "localhost:7717"), ("host", "localhost:7717")]);
        assert!(host_is_ours(&own(), &uri, &twice).is_err());
    }

    #[test]
    fn an_absolute_target_must_be_ours_too() {
        let good = headers(&[("host", "localhost:7717")]);
        assert!(host_is_ours(&own(), &"http://evil.example/".parse().unwrap(), &good).is_err());
        assert!(host_is_ours(&own(), &"http://localhost:7717/".parse().unwrap(), &good).is_ok());
    }

    #[test]
    fn an_origin_is_absent_or_ours() {
        assert!(origin(&[]));
        assert!(origin(&[("origin", "http://localhost:7717")]));
        for foreign in [
            "null",
            "",
            "http://evil.example",
            "https://localhost:7717",
            "http://localhost",
            "http://localhost:3000",
            "http://localhost:7717.evil.example",
        ] {
            assert!(!origin(&[("origin", foreign)]), "{foreign}");
        }
        assert!(!origin(&[("origin", "http://localhost:7717"), ("origin", "null")]));
    }

    #[test]
    fn a_foreign_page_may_link_but_not_embed() {
        assert!(origin(&[("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors")]));
        assert!(origin(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]));
        for site in ["cross-site", "same-site"] {
            assert!(!origin(&[("sec-fetch-site", site), ("sec-fetch-mode", "no-cors")]), "{site}");
        }
    }
}
