//! One operation of the description, and the pieces that many have in common.

use serde_json::{Map, Value, json};

use super::errors;

/// What programs that let a language model act may do with an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// At once: it reads.
    Allow,
    /// When a person has agreed: it writes.
    Confirm,
    /// Never: it deletes, gives secrets away, or answers with what is no text.
    Deny,
}

impl Exposure {
    fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Confirm => "confirm",
            Self::Deny => "deny",
        }
    }
}

/// An operation: what a method does at a path.
pub struct Operation {
    /// The path within its root, with parameters in braces.
    pub path: String,
    /// Whether it has its address also, or only, outside of `/rest/v0`.
    pub roots: &'static [&'static str],
    /// The method, in lower case.
    pub method: &'static str,
    members: Map<String, Value>,
    path_parameters: Vec<Value>,
    parameters: Vec<Value>,
    responses: Map<String, Value>,
}

/// Where nearly everything is.
pub const REST: &[&str] = &["/rest/v0"];

impl Operation {
    /// An operation that everybody who has credentials may try, with the refusals that all of these have.
    pub fn new(method: &'static str, path: impl Into<String>, id: impl Into<String>, tag: &str) -> Self {
        let mut operation = Self::public(method, path, id, tag);
        operation.members.remove("security");
        operation.refused(&[400, 401, 403, 429, 500, 503])
    }

    /// An operation for everybody.
    pub fn public(method: &'static str, path: impl Into<String>, id: impl Into<String>, tag: &str) -> Self {
        let mut members = Map::new();
        members.insert("operationId".into(), id.into().into());
        members.insert("tags".into(), json!([tag]));
        members.insert("security".into(), json!([]));
        let exposure = match method {
            "get" => Exposure::Allow,
            "delete" => Exposure::Deny,
            _ => Exposure::Confirm,
        };
        let operation = Self {
            path: path.into(),
            roots: REST,
            method,
            members,
            path_parameters: Vec::new(),
            parameters: Vec::new(),
            responses: Map::new(),
        };
        operation.exposed(exposure)
    }

    /// Somewhere else than `/rest/v0`, or there too.
    pub fn at(mut self, roots: &'static [&'static str]) -> Self {
        self.roots = roots;
        self
    }

    /// Otherwise exposed than its method says.
    pub fn exposed(mut self, exposure: Exposure) -> Self {
        self.members.insert("x-mcp-exposure".into(), exposure.word().into());
        self
    }

    /// What it does, in a few words.
    pub fn summary(mut self, text: impl Into<String>) -> Self {
        self.members.insert("summary".into(), text.into().into());
        self
    }

    /// What else is to be known of it.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.members.insert("description".into(), text.into().into());
        self
    }

    /// Still answered, but there is something better.
    pub fn deprecated(mut self) -> Self {
        self.members.insert("deprecated".into(), true.into());
        self
    }

    /// What a parameter in the path is; those that nothing is said of are ids.
    pub fn segment(mut self, name: &str, schema: &Value, meaning: &str) -> Self {
        self.path_parameters.push(json!({
            "name": name, "in": "path", "required": true, "description": meaning, "schema": schema,
        }));
        self
    }

    /// A parameter of the query.
    pub fn query(mut self, name: &str, schema: &Value, meaning: &str) -> Self {
        self.parameters
            .push(json!({ "name": name, "in": "query", "description": meaning, "schema": schema }));
        self
    }

    /// A flag of the query.
    pub fn flag(self, name: &str, meaning: &str) -> Self {
        self.query(name, &json!({ "type": "boolean", "default": false }), meaning)
    }

    /// A header of the request.
    pub fn header(mut self, name: &str, schema: &Value, meaning: &str) -> Self {
        self.parameters
            .push(json!({ "name": name, "in": "header", "description": meaning, "schema": schema }));
        self
    }

    /// Parameters that are written down once.
    pub fn shared(mut self, names: &[&str]) -> Self {
        let references =
            names.iter().map(|name| json!({ "$ref": format!("#/components/parameters/{name}") }));
        self.parameters.extend(references);
        self
    }

    /// Takes members, as JSON or as a form.
    pub fn takes(mut self, required: bool, schema: &Value, example: &Value) -> Self {
        let media = json!({ "schema": schema, "examples": { "example": { "value": example } } });
        let form = json!({ "schema": schema });
        self.members.insert(
            "requestBody".into(),
            json!({
                "required": required,
                "content": { "application/json": media, "application/x-www-form-urlencoded": form },
            }),
        );
        self.refused(&[413, 422])
    }

    /// Takes bytes.
    pub fn takes_bytes(mut self, meaning: &str) -> Self {
        self.members.insert(
            "requestBody".into(),
            json!({
                "required": true,
                "description": meaning,
                "content": { "application/octet-stream": { "schema": { "type": "string", "format": "binary" } } },
            }),
        );
        self
    }

    /// An answer.
    pub fn answers(mut self, status: u16, response: Value) -> Self {
        self.responses.insert(status.to_string(), response);
        self
    }

    /// An answer in JSON, with an example.
    pub fn answers_json(self, status: u16, meaning: &str, schema: &Value, example: &Value) -> Self {
        let media = json!({ "schema": schema, "examples": { "example": { "value": example } } });
        self.answers(status, json!({ "description": meaning, "content": { "application/json": media } }))
    }

    /// Done; there is nothing to say.
    pub fn done(self) -> Self {
        self.answers(204, json!({ "description": "Done." }))
    }

    /// Something was made: its address and its id.
    pub fn makes(self, what: &str, collection: &str) -> Self {
        let id = "6f2c8a4e-93d1-4d0b-a7a5-1f0f5a3c9b10";
        let media = json!({
            "schema": { "$ref": "#/components/schemas/Created" },
            "examples": { "example": { "value": { "id": id } } },
        });
        let location = json!({
            "description": format!("`/rest/v0/{collection}/<id>`"),
            "schema": { "type": "string" },
        });
        self.answers(
            201,
            json!({
                "description": format!("The {what} is there."),
                "headers": { "Location": location },
                "content": { "application/json": media },
            }),
        )
    }

    /// What it may be refused with.
    pub fn refused(mut self, statuses: &[u16]) -> Self {
        for status in statuses {
            let name = errors::component(*status);
            let reference = json!({ "$ref": format!("#/components/responses/{name}") });
            self.responses.entry(status.to_string()).or_insert(reference);
        }
        self
    }

    /// For POST: the same request again may be told from a new one.
    pub fn repeatable(self) -> Self {
        self.shared(&["IdempotencyKey"]).refused(&[409, 422])
    }

    /// Its name.
    #[cfg(test)]
    pub fn id(&self) -> &str {
        self.members.get("operationId").and_then(Value::as_str).unwrap_or_default()
    }

    /// As the document has it.
    pub fn into_json(self) -> Value {
        let Self { path, mut members, mut path_parameters, parameters, responses, .. } = self;
        for name in path.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name) {
            if path_parameters.iter().all(|one| one.get("name").and_then(Value::as_str) != Some(name)) {
                path_parameters.push(json!({
                    "name": name, "in": "path", "required": true, "description": "The object's id.",
                    "schema": { "type": "string", "minLength": 1 },
                }));
            }
        }
        path_parameters.extend(parameters);
        if !path_parameters.is_empty() {
            members.insert("parameters".into(), path_parameters.into());
        }
        members.insert("responses".into(), responses.into());
        Value::Object(members)
    }
}

/// A reference to a schema.
pub fn schema(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}
