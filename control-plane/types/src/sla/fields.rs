//! Reads one JSON object field by field and notes everything that is wrong on the way.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use serde_json::{Map, Value};

use super::FieldError;

/// Every problem found so far.
pub(super) type Problems = RefCell<Vec<FieldError>>;

/// An object in the document, by its path. A field that is null counts as absent.
pub(super) struct Fields<'a> {
    path: String,
    map: &'a Map<String, Value>,
    problems: &'a Problems,
}

impl<'a> Fields<'a> {
    /// The object at `path`, or nothing and a problem noted.
    pub(super) fn of(path: String, value: &'a Value, problems: &'a Problems) -> Option<Self> {
        match value {
            Value::Object(map) => Some(Self { path, map, problems }),
            other => {
                let reason = format!("must be an object, not {}", kind_of(other));
                problems.borrow_mut().push(FieldError { field: path, reason });
                None
            }
        }
    }

    pub(super) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    pub(super) fn problem(&self, name: &str, reason: impl Into<String>) {
        self.problems.borrow_mut().push(FieldError::new(self.path_of(name), reason));
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Notes a problem when the field is absent.
    pub(super) fn required(&self, name: &str) {
        if self.get(name).is_none() {
            self.problem(name, "is required");
        }
    }

    pub(super) fn text(&self, name: &str) -> String {
        match self.get(name) {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => {
                self.problem(name, format!("must be a text, not {}", kind_of(other)));
                String::new()
            }
        }
    }

    /// A text that must be there and not be empty.
    pub(super) fn required_text(&self, name: &str) -> String {
        self.required(name);
        let text = self.text(name);
        if let Some(Value::String(given)) = self.get(name)
            && given.trim().is_empty()
        {
            self.problem(name, "must not be empty");
        }
        text
    }

    /// A name of an application or a service, or of their namespaces.
    pub(super) fn name(&self, name: &str) -> String {
        self.required(name);
        let text = self.text(name);
        let given = matches!(self.get(name), Some(Value::String(_)));
        if given
            && !((1..=30).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric()))
        {
            self.problem(name, "must be 1 to 30 letters and digits (a-z, A-Z, 0-9)");
        }
        text
    }

    /// A whole number from 0 to `max`.
    pub(super) fn number(&self, name: &str, max: u32) -> u32 {
        let Some(value) = self.get(name) else { return 0 };
        let Value::Number(number) = value else {
            self.problem(name, format!("must be a number, not {}", kind_of(value)));
            return 0;
        };
        match number.as_f64() {
            Some(n) if n < 0.0 => self.problem(name, "must not be negative"),
            Some(n) if n.fract() != 0.0 => self.problem(name, "must be a whole number"),
            Some(n) if n <= f64::from(max) => return n as u32,
            _ => self.problem(name, format!("must not be more than {max}")),
        }
        0
    }

    pub(super) fn real(&self, name: &str) -> Option<f64> {
        match self.get(name)? {
            Value::Number(number) => number.as_f64(),
            other => {
                self.problem(name, format!("must be a number, not {}", kind_of(other)));
                None
            }
        }
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        match self.get(name) {
            None => false,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => {
                self.problem(name, format!("must be true or false, not {}", kind_of(other)));
                false
            }
        }
    }

    pub(super) fn address_v4(&self, name: &str) -> Option<Ipv4Addr> {
        self.address(name, "an IPv4 address")
    }

    pub(super) fn address_v6(&self, name: &str) -> Option<Ipv6Addr> {
        self.address(name, "an IPv6 address")
    }

    /// An empty text is no address, as in descriptors that list every key.
    fn address<A: std::str::FromStr>(&self, name: &str, what: &str) -> Option<A> {
        let text = self.text(name);
        if text.is_empty() {
            return None;
        }
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.problem(name, format!("{text:?} is not {what}"));
        }
        parsed
    }

    fn list(&self, name: &str) -> &'a [Value] {
        match self.get(name) {
            None => &[],
            Some(Value::Array(list)) => list,
            Some(other) => {
                self.problem(name, format!("must be a list, not {}", kind_of(other)));
                &[]
            }
        }
    }

    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for (i, value) in self.list(name).iter().enumerate() {
            match value {
                Value::String(text) => texts.push(text.clone()),
                other => self.problem(
                    &format!("{name}[{i}]"),
                    format!("must be a text, not {}", kind_of(other)),
                ),
            }
        }
        texts
    }

    /// The objects of a list. Those that are none are noted and left out, so positions in the
    /// result are not positions in the document; each object knows its own path.
    pub(super) fn objects(&self, name: &str) -> Vec<Fields<'a>> {
        self.list(name)
            .iter()
            .enumerate()
            .filter_map(|(i, value)| {
                Fields::of(self.path_of(&format!("{name}[{i}]")), value, self.problems)
            })
            .collect()
    }

    pub(super) fn object(&self, name: &str) -> Option<Fields<'a>> {
        Fields::of(self.path_of(name), self.get(name)?, self.problems)
    }

    /// Every field of the object as text.
    pub(super) fn all_texts(&self) -> BTreeMap<String, String> {
        self.map.keys().map(|name| (name.clone(), self.text(name))).collect()
    }

    /// The field as text where a number is understood too.
    pub(super) fn text_or_number(&self, name: &str) -> String {
        match self.get(name) {
            Some(Value::Number(number)) => number.to_string(),
            _ => self.text(name),
        }
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
