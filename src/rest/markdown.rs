//! Collections as tables for people and language models.

use serde_json::Value;

/// What is answered when nothing is there.
pub const NOTHING: &str = "No results.\n";

/// A table of elements: the members that any of them has, but for the links. Without members it is a list of links.
#[derive(Debug, Default)]
pub struct Table {
    columns: Vec<String>,
}

impl Table {
    /// Gives the table the columns that an element needs.
    pub fn note(&mut self, element: &Value) {
        for name in element.as_object().into_iter().flat_map(|members| members.keys()) {
            if name != "href" && !self.columns.contains(name) {
                self.columns.push(name.clone());
            }
        }
    }

    /// The lines above the rows.
    pub fn head(&self) -> String {
        if self.columns.is_empty() {
            return String::new();
        }
        let names: Vec<String> = self.columns.iter().map(|name| escaped(name)).collect();
        format!("| {} |\n|{}\n", names.join(" | "), " --- |".repeat(names.len()))
    }

    /// The line of an element.
    pub fn row(&self, element: &Value) -> String {
        if self.columns.is_empty() {
            return cell(element.get("href").or(Some(element))) + "\n";
        }
        let cells: Vec<String> = self.columns.iter().map(|name| cell(element.get(name))).collect();
        format!("| {} |\n", cells.join(" | "))
    }

    /// All elements at once.
    pub fn of(elements: &[Value]) -> String {
        if elements.is_empty() {
            return NOTHING.into();
        }
        let mut table = Self::default();
        elements.iter().for_each(|element| table.note(element));
        elements.iter().fold(table.head(), |text, element| text + &table.row(element))
    }
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None => String::new(),
        Some(Value::String(text)) => escaped(text),
        Some(other) => escaped(&other.to_string()),
    }
}

/// A text that stays in its cell.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn markdown_is_a_table_of_the_members_or_a_list_of_links() {
        assert_eq!(Table::of(&[]), "No results.\n");
        assert_eq!(Table::of(&[json!("/a"), json!("/b")]), "/a\n/b\n");
        assert_eq!(Table::of(&[json!({"href": "/a"})]), "/a\n");
        let rows = [json!({"a": "x|y\r\nz", "b": {"c": 1}, "href": "/a"}), json!({"d": 2, "href": "/b"})];
        let table = "| a | b | d |\n| --- | --- | --- |\n| x\\|y  z | {\"c\":1} |  |\n|  |  | 2 |\n";
        assert_eq!(Table::of(&rows), table);
    }
}
