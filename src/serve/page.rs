//! The dashboard at `/` and the documentation at `/docs`: pages without a build step and without any resource from elsewhere.
//! They hold nothing themselves: what they show they ask of the API, with a token where it needs one.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, REFERRER_POLICY};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};

use super::Problem;
use super::fields::{NoFields, Segment};

/// The files of the pages, with their types.
const FILES: [(&str, &str, &str); 9] = [
    ("style.css", "text/css; charset=utf-8", include_str!("page/style.css")),
    ("api.js", SCRIPT, include_str!("page/api.js")),
    ("charts.js", SCRIPT, include_str!("page/charts.js")),
    ("dashboard.js", SCRIPT, include_str!("page/dashboard.js")),
    ("map.js", SCRIPT, include_str!("page/map.js")),
    ("memory.js", SCRIPT, include_str!("page/memory.js")),
    ("query.js", SCRIPT, include_str!("page/query.js")),
    ("docs.js", SCRIPT, include_str!("page/docs.js")),
    ("icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

const SCRIPT: &str = "text/javascript; charset=utf-8";

const HTML: &str = "text/html; charset=utf-8";

/// Own scripts, styles and images only; pictures that a person drops are shown from memory. Nobody may frame the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) async fn dashboard(_: NoFields) -> Response {
    file(HTML, include_str!("page/index.html"))
}

pub(super) async fn docs(_: NoFields) -> Response {
    file(HTML, include_str!("page/docs.html"))
}

pub(super) async fn part(name: Segment, _: NoFields) -> Result<Response, Problem> {
    // The name is looked up in the list above; it never becomes a path.
    let found = FILES.iter().find(|(known, _, _)| *known == name.0);
    let (_, kind, text) = found.ok_or_else(|| {
        Problem::new(404, "unknown-resource", "the page has no such file").remedy("ask for /, the page itself")
    })?;
    Ok(file(kind, text))
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let mut response = text.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(HeaderName::from_static("content-security-policy"), HeaderValue::from_static(POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // They change with the program only, but a new program must not run with an old script.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_page_names_a_resource_of_elsewhere_or_runs_inline_code() {
        let pages = [include_str!("page/index.html"), include_str!("page/docs.html")];
        for text in FILES.iter().map(|(_, _, text)| *text).chain(pages) {
            let foreign = text.replace("http://www.w3.org/2000/svg", "");
            for elsewhere in ["http://", "https://", "src=\"//", "@import", "url("] {
                assert!(!foreign.contains(elsewhere), "{elsewhere}");
            }
        }
        for page in pages {
            for inline in ["<style", "style=", "onclick", "onload", "javascript:", "<script>"] {
                assert!(!page.contains(inline), "{inline}");
            }
        }
    }
}
