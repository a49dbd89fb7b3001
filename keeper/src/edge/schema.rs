//! What the input of a call must look like: a JSON Schema of the catalogue.
//!
//! Patterns run in linear time, and nothing is fetched: a schema that refers to another document is
//! refused when the catalogue is loaded.

use boon::{CompileError, Compiler, Draft, OutputError, SchemaIndex, Schemas, UrlLoader};
use serde_json::{Value, json};
use std::{error::Error, fmt};

/// Where the schema stands for the library; nobody else has that name.
const SCHEMA: &str = "https://schema.invalid/input";
/// Where its negation stands.
const NEGATION: &str = "https://schema.invalid/refused";
/// Most faults that an answer lists.
const MAX_FAULTS: usize = 20;
/// Largest input whose faults are listed, bytes. There may be one for each of its values.
const MAX_EXPLAINED: usize = 64 * 1024;
/// Longest reason, characters: it may quote what was sent.
const MAX_REASON: usize = 200;

/// A schema that was compiled.
pub struct InputSchema {
    source: Value,
    schemas: Schemas,
    accepted: SchemaIndex,
    refused: SchemaIndex,
}

/// What is wrong with an input, in the words of S03 3.2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// JSON pointer into the input.
    pub(super) instance_path: String,
    /// JSON pointer into the schema.
    pub(super) schema_path: String,
    /// For people.
    pub(super) reason: String,
}

impl fmt::Debug for InputSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InputSchema").field(&self.source).finish()
    }
}

/// Other documents are not fetched.
struct Nowhere;

impl UrlLoader for Nowhere {
    fn load(&self, _: &str) -> Result<Value, Box<dyn Error>> {
        Err("a schema must stand by itself".into())
    }
}

impl InputSchema {
    /// Compiles a schema of any draft since 4; 2020-12 if it does not say which.
    ///
    /// # Errors
    /// One line that says what is wrong with it.
    pub(super) fn compile(source: Value) -> Result<Self, String> {
        let mut schemas = Schemas::new();
        let mut compiler = Compiler::new();
        compiler.set_default_draft(Draft::V2020_12);
        compiler.use_loader(Box::new(Nowhere));
        let told = |error: CompileError| one_line(&format!("{error:#}"));
        let negation = json!({"not": {"$ref": SCHEMA}});
        compiler.add_resource(SCHEMA, source.clone()).map_err(told)?;
        compiler.add_resource(NEGATION, negation).map_err(told)?;
        let accepted = compiler.compile(SCHEMA, &mut schemas).map_err(told)?;
        let refused = compiler.compile(NEGATION, &mut schemas).map_err(told)?;
        Ok(Self { source, schemas, accepted, refused })
    }

    /// The schema as the catalogue has it.
    pub const fn source(&self) -> &Value {
        &self.source
    }

    /// What is wrong with an input of so many bytes; nothing if it will do.
    pub(super) fn faults(&self, input: &Value, bytes: usize) -> Vec<Fault> {
        // A negation is decided by the first fault; to collect them all may take far more memory than
        // the input did.
        if self.schemas.validate(input, self.refused).is_err() {
            return Vec::new();
        }
        let somewhere = |reason: &str| Fault {
            instance_path: String::new(),
            schema_path: String::new(),
            reason: reason.to_owned(),
        };
        if bytes > MAX_EXPLAINED {
            return vec![somewhere("does not match; it is too long to say where")];
        }
        let Err(error) = self.schemas.validate(input, self.accepted) else {
            return vec![somewhere("does not match")];
        };
        let mut faults = Vec::new();
        let mut open = vec![error.basic_output()];
        while let Some(unit) = open.pop() {
            match unit.error {
                OutputError::Branch(inner) => open.extend(inner.into_iter().rev()),
                OutputError::Leaf(kind) if faults.len() < MAX_FAULTS => faults.push(Fault {
                    instance_path: unit.instance_location.to_string(),
                    schema_path: unit.keyword_location,
                    reason: one_line(&kind.to_string()).chars().take(MAX_REASON).collect(),
                }),
                OutputError::Leaf(_) => break,
            }
        }
        faults
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(source: Value) -> InputSchema {
        InputSchema::compile(source).unwrap()
    }

    fn faults(schema: &InputSchema, input: &Value) -> Vec<Fault> {
        schema.faults(input, input.to_string().len())
    }

    #[test]
    fn faults_say_where_and_why() {
        let schema = schema(json!({
            "type": "object",
            "properties": {"size": {"type": "integer", "minimum": 1}, "name": {"$ref": "#/$defs/name"}},
            "required": ["size"],
            "additionalProperties": false,
            "$defs": {"name": {"type": "string", "pattern": "^[a-z]+$"}},
        }));
        assert_eq!(faults(&schema, &json!({"size": 1, "name": "a"})), []);
        let found = faults(&schema, &json!({"size": 0, "name": "A", "more": 1}));
        let paths: Vec<_> = found.iter().map(|fault| fault.instance_path.as_str()).collect();
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(paths.contains(&"/size") && paths.contains(&"/name"), "{found:?}");
        assert!(found.iter().all(|fault| !fault.reason.is_empty()));
        let size = found.iter().find(|fault| fault.instance_path == "/size").unwrap();
        assert!(size.schema_path.contains("minimum"), "{size:?}");
        assert_eq!(faults(&schema, &json!([])).len(), 1);
    }

    /// Every draft works, and a name of its own does not confuse it.
    #[test]
    fn drafts_and_names() {
        let old = schema(json!({
            "$schema": "http://json-schema.org/draft-07/schema#",
            "$id": "https://provider.example/input.json",
            "type": "array", "items": [{"type": "string"}],
        }));
        assert_eq!(faults(&old, &json!(["a", 1])), []);
        assert_eq!(faults(&old, &json!([1])).len(), 1);
        assert_eq!(faults(&schema(json!(true)), &json!(null)), []);
        assert_eq!(faults(&schema(json!(false)), &json!(null)).len(), 1);
    }

    #[test]
    fn what_is_listed_is_bounded() {
        let schema = schema(json!({"items": {"const": 1}}));
        let many = Value::from(vec![2; 1_000]);
        assert_eq!(faults(&schema, &many).len(), MAX_FAULTS);
        let huge = Value::from(vec![2; 100_000]);
        assert_eq!(faults(&schema, &huge).len(), 1);
        let long = Value::from(vec!["x".repeat(5_000)]);
        let pattern = self::schema(json!({"items": {"pattern": "^y"}}));
        assert!(faults(&pattern, &long)[0].reason.chars().count() <= MAX_REASON);
    }

    #[test]
    fn what_cannot_be_compiled_is_said_in_a_line() {
        for (source, expected) in [
            (json!({"type": "number", "minimum": "one"}), "minimum"),
            (json!({"$ref": "https://elsewhere.example/schema"}), "stand by itself"),
            (json!({"$ref": "file:///etc/passwd"}), "stand by itself"),
            (json!({"$ref": "#/$defs/none"}), "none"),
            (json!({"pattern": "("}), "pattern"),
            (json!(5), "want"),
        ] {
            let error = InputSchema::compile(source.clone()).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{source}: {error}");
        }
    }
}
