//! The settings as a JSON Schema, for editors that complete and check TOML files.

use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::Config;

/// JSON Schema, draft 2020-12, of the configuration file.
///
/// ```
/// let schema = lumpd::config::schema();
/// assert_eq!(schema["$defs"]["ReplaySettings"]["additionalProperties"], false);
/// ```
pub fn schema() -> Value {
    let mut parts: Vec<(String, RefOr<Schema>)> = Vec::new();
    Config::schemas(&mut parts);
    // Schemas are made of texts, numbers and lists: they always have a JSON form.
    let form = |schema: &RefOr<Schema>| serde_json::to_value(schema).unwrap_or_default();
    let definitions: Map<String, Value> = parts.iter().map(|(name, schema)| (name.clone(), form(schema))).collect();
    let mut schema = form(&Config::schema());
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("lumpd.toml");
    schema["$defs"] = Value::Object(definitions);
    relink(&mut schema);
    schema
}

/// References of an OpenAPI description to those of a schema that stands alone.
fn relink(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(name) = text.strip_prefix("#/components/schemas/") {
                *text = format!("#/$defs/{name}");
            }
        }
        Value::Array(list) => list.iter_mut().for_each(relink),
        Value::Object(object) => object.values_mut().for_each(relink),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere_and_every_setting_is_described() {
        let schema = schema();
        let text = schema.to_string();
        for (at, _) in text.match_indices("#/$defs/") {
            let name: String = text[at + 8..].chars().take_while(|c| c.is_alphanumeric()).collect();
            assert!(schema["$defs"][&name].is_object(), "{name}");
        }
        let serve = &schema["$defs"]["ServeSettings"]["properties"];
        assert!(
            serve["requests_per_second"]["description"].as_str().is_some_and(|words| words.contains("0 sets no limit"))
        );
        let config = toml::Table::try_from(Config::default()).unwrap();
        for section in config.keys() {
            assert!(schema["properties"][section].is_object(), "{section}");
        }
    }
}
