//! What a request asks for: parameters of the query string and fields of a JSON body, under one set of rules. Each is taken by
//! name and checked; whatever is left over is refused by name, with the names that are known.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use axum::extract::{FromRequestParts, Query, RawPathParams};
use axum::http::Uri;
use axum::http::request::Parts;
use serde_json::Value;

use super::Problem;
use crate::daemon::answers::{Filter, Label, Timestamp};

/// Most neighbours of one answer, entries of one page and ids of one change.
pub(super) const MAX_COUNT: u64 = 1000;

/// Entries of a page where the request names no number.
const DEFAULT_LIMIT: u64 = 100;

/// Where fields came from: text of the query string is read as numbers, JSON text is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Query,
    Json,
}

/// The fields of one request that have not been taken yet.
#[derive(Debug)]
pub(super) struct Fields {
    place: Place,
    left: BTreeMap<String, Value>,
    known: Vec<&'static str>,
}

impl Fields {
    pub(super) fn of_query(uri: &Uri) -> Result<Self, Problem> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|_| {
            Problem::new(400, "invalid-query-string", "the query string is not valid")
                .remedy("send NAME=VALUE pairs with & between them, percent-encoded")
        })?;
        let mut left = BTreeMap::new();
        for (name, text) in pairs {
            if left.insert(name.clone(), Value::String(text)).is_some() {
                return Err(Problem::invalid(&name, format!("the parameter `{name}` is given twice")));
            }
        }
        Ok(Self { place: Place::Query, left, known: Vec::new() })
    }

    pub(super) fn of_json(body: &[u8]) -> Result<Self, Problem> {
        let invalid = |detail| Problem::new(400, "invalid-json", detail).remedy("send one JSON object");
        let value = serde_json::from_slice(body).map_err(|error| invalid(format!("the body is not JSON: {error}")))?;
        Self::of_value(value)
    }

    /// Of a JSON object within a body.
    pub(super) fn of_value(value: Value) -> Result<Self, Problem> {
        let invalid = |detail| Problem::new(400, "invalid-json", detail).remedy("send one JSON object");
        let Value::Object(object) = value else { return Err(invalid("it is JSON but not an object")) };
        // `null` says that a field is not set, so that clients need not leave it out.
        let left = object.into_iter().filter(|(_, value)| !value.is_null()).collect();
        Ok(Self { place: Place::Json, left, known: Vec::new() })
    }

    pub(super) fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.left.remove(name)
    }

    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>, Problem> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(Problem::invalid(name, format!("`{name}` must be a text, not {other}"))),
        }
    }

    /// A whole number within a range.
    pub(super) fn whole(&mut self, name: &'static str, range: RangeInclusive<u64>) -> Result<Option<u64>, Problem> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = match (&value, self.place) {
            (Value::Number(number), _) => number.as_u64(),
            (Value::String(text), Place::Query) => text.parse().ok(),
            _ => None,
        };
        let (low, high) = (range.start(), range.end());
        let detail = || format!("`{name}` must be a whole number from {low} to {high}, not {value}");
        number.filter(|number| range.contains(number)).map(Some).ok_or_else(|| Problem::invalid(name, detail()))
    }

    /// A finite number greater than zero.
    pub(super) fn positive(&mut self, name: &'static str) -> Result<Option<f64>, Problem> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = match (&value, self.place) {
            (Value::Number(number), _) => number.as_f64(),
            (Value::String(text), Place::Query) => text.parse().ok(),
            _ => None,
        };
        let positive = number.filter(|number: &f64| number.is_finite() && *number > 0.0);
        let detail = || format!("`{name}` must be a number greater than 0, not {value}");
        positive.map(Some).ok_or_else(|| Problem::invalid(name, detail()))
    }

    /// A time in RFC 3339.
    pub(super) fn time(&mut self, name: &'static str) -> Result<Option<Timestamp>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let detail = || format!("`{name}` must be a time such as 2026-01-31T12:00:00Z");
        text.parse().map(Some).map_err(|_| Problem::invalid(name, detail()))
    }

    /// Ids: a JSON array, or numbers with commas between them in the query string.
    pub(super) fn ids(&mut self, name: &'static str, most: u64) -> Result<Vec<u64>, Problem> {
        let Some(value) = self.take(name) else { return Err(missing(name)) };
        let ids: Option<Vec<u64>> = match (&value, self.place) {
            (Value::Array(values), _) => values.iter().map(Value::as_u64).collect(),
            (Value::String(text), Place::Query) => text.split(',').map(|id| id.parse().ok()).collect(),
            _ => None,
        };
        let ids = ids.ok_or_else(|| Problem::invalid(name, format!("`{name}` must be ids, whole numbers")))?;
        if ids.is_empty() || ids.len() as u64 > most {
            let detail = format!("`{name}` must name 1 to {most} of them, not {}", ids.len());
            return Err(Problem::invalid(name, detail));
        }
        Ok(ids)
    }

    pub(super) fn label(&mut self, name: &'static str) -> Result<Option<Label>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        Label::new(text).map(Some).map_err(|error| Problem::from(error).field(name))
    }

    /// How many neighbours; `None` leaves it to the configuration.
    pub(super) fn k(&mut self) -> Result<Option<usize>, Problem> {
        Ok(self.whole("k", 1..=MAX_COUNT)?.map(|k| k as usize))
    }

    pub(super) fn filter(&mut self) -> Result<Filter, Problem> {
        Ok(Filter {
            task: self.whole("task", 1..=u64::from(u32::MAX))?.map(|task| task as u32),
            source: self.text("source")?,
            label: self.label("label")?.map(String::from),
            since: self.time("since")?,
            until: self.time("until")?,
        })
    }

    /// Most entries of the page asked for.
    pub(super) fn limit(&mut self) -> Result<usize, Problem> {
        Ok(self.whole("limit", 1..=MAX_COUNT)?.unwrap_or(DEFAULT_LIMIT) as usize)
    }

    /// The number after which the page asked for begins.
    pub(super) fn after(&mut self) -> Result<u64, Problem> {
        Ok(self.whole("after", 0..=u64::MAX)?.unwrap_or(0))
    }

    /// Refuses every parameter of a request whose body is JSON: there they are fields of it.
    pub(super) fn none_beside_json(self) -> Result<(), Problem> {
        let Some(name) = self.left.keys().next() else { return Ok(()) };
        Err(Problem::new(400, "unknown-parameter", format!("beside a JSON body there is no parameter `{name}`"))
            .field(name)
            .remedy(format!("give `{name}` as a field of the JSON object")))
    }

    /// The body names no image.
    pub(super) fn no_subject(&self) -> Problem {
        Problem::new(400, "missing-field", "the JSON object names no image")
            .field("id")
            .remedy("give the `id` of a stored image or an embedding as `vector`, or send an image as the body itself")
    }

    /// Refuses what nobody took.
    pub(super) fn finish(self) -> Result<(), Problem> {
        let Some(name) = self.left.keys().next() else { return Ok(()) };
        let (code, what) = match self.place {
            Place::Query => ("unknown-parameter", "parameter"),
            Place::Json => ("unknown-field", "field"),
        };
        let remedy = match self.known.as_slice() {
            [] => format!("leave it out: this resource has no {what}s"),
            known => format!("use one of: {}", known.join(", ")),
        };
        Err(Problem::new(400, code, format!("there is no {what} `{name}` here")).field(name).remedy(remedy))
    }
}

/// A field that must be there and is not.
pub(super) fn missing(name: &'static str) -> Problem {
    Problem::new(400, "missing-field", format!("`{name}` is missing")).field(name).remedy(format!("give `{name}`"))
}

impl<S: Sync> FromRequestParts<S> for Fields {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Self::of_query(&parts.uri)
    }
}

/// For resources without parameters: refuses any.
pub(super) struct NoFields;

impl<S: Sync> FromRequestParts<S> for NoFields {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Fields::of_query(&parts.uri)?.finish().map(|()| Self)
    }
}

/// The one variable segment of the path, percent-decoded.
pub(super) struct Segment(pub(super) String);

impl Segment {
    /// The segment as a number.
    pub(super) fn id<T: std::str::FromStr>(&self) -> Result<T, Problem> {
        let detail = || format!("{:?} in the path is not an id: ids are whole numbers", self.0);
        let problem = || Problem::new(400, "invalid-id", detail()).field("id");
        self.0.parse().map_err(|_| problem().remedy("take an id from a list, such as /v1/images or /v1/tasks"))
    }
}

impl<S: Sync + Send> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let invalid = || {
            Problem::new(400, "invalid-path", "the path is not valid UTF-8 once decoded")
                .remedy("percent-encode the path as UTF-8")
        };
        let segments = RawPathParams::from_request_parts(parts, state).await.map_err(|_| invalid())?;
        segments.iter().next().map(|(_, value)| Self(value.to_owned())).ok_or_else(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Fields {
        Fields::of_query(&format!("/x?{text}").parse().unwrap()).unwrap()
    }

    #[test]
    fn text_of_the_query_string_is_decoded_and_read_as_numbers() {
        let mut fields = query("k=7&label=speed%20limit&temperature=0.5&ids=3,4");
        assert_eq!(fields.k().unwrap(), Some(7));
        assert_eq!(fields.label("label").unwrap().unwrap().as_str(), "speed limit");
        assert_eq!(fields.positive("temperature").unwrap(), Some(0.5));
        assert_eq!(fields.ids("ids", 10).unwrap(), [3, 4]);
        assert_eq!(fields.text("source").unwrap(), None);
        fields.finish().unwrap();
    }

    #[test]
    fn a_value_outside_its_range_is_refused_with_its_name() {
        for (text, name) in [("k=0", "k"), ("k=1001", "k"), ("k=-1", "k"), ("k=", "k"), ("task=4294967296", "task")] {
            let mut fields = query(text);
            let error = if name == "k" { fields.k().unwrap_err() } else { fields.filter().unwrap_err() };
            assert_eq!((error.code.as_str(), error.field.as_deref()), ("invalid-parameter", Some(name)), "{text}");
        }
        for text in ["t=0", "t=-1", "t=nan", "t=inf", "t=x"] {
            assert!(query(text).positive("t").is_err(), "{text}");
        }
        for text in ["ids=", "ids=1,", "ids=a", "none=1"] {
            assert_eq!(query(text).ids("ids", 10).unwrap_err().field.as_deref(), Some("ids"), "{text}");
        }
    }

    #[test]
    fn a_parameter_given_twice_is_refused() {
        let error = Fields::of_query(&"/x?k=1&k=2".parse().unwrap()).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("k"));
    }

    #[test]
    fn what_is_left_is_refused_with_the_names_that_are_known() {
        let mut fields = query("k=1&neighbors=3");
        fields.k().unwrap();
        let error = fields.finish().unwrap_err();
        assert_eq!((error.code.as_str(), error.field.as_deref()), ("unknown-parameter", Some("neighbors")));
        assert_eq!(error.remedy.as_deref(), Some("use one of: k"));
    }

    #[test]
    fn parameters_beside_a_json_body_belong_into_it() {
        query("").none_beside_json().unwrap();
        let error = query("k=3").none_beside_json().unwrap_err();
        assert_eq!((error.code.as_str(), error.field.as_deref()), ("unknown-parameter", Some("k")));
        assert_eq!(error.remedy.as_deref(), Some("give `k` as a field of the JSON object"));
    }

    #[test]
    fn json_keeps_its_types() {
        let mut fields = Fields::of_json(br#"{"k": "7"}"#).unwrap();
        assert_eq!(fields.k().unwrap_err().field.as_deref(), Some("k"));
        let mut fields = Fields::of_json(br#"{"k": 7, "source": null}"#).unwrap();
        assert_eq!(fields.k().unwrap(), Some(7));
        fields.finish().unwrap();
        for bad in ["", "[]", "{", "7", &"[".repeat(100_000)] {
            assert_eq!(Fields::of_json(bad.as_bytes()).unwrap_err().code, "invalid-json");
        }
    }
}
