//! Names, descriptions and tags of what has no table of its own: the pool and the host.

use serde::{Deserialize, Serialize};

use crate::state::objects::{self, ObjectDoc};

use super::{LocalError, LocalStore, ObjectChange};

/// The version of the stored form.
const LABEL_VERSION: u32 = 1;

/// What people call an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Label {
    /// Name.
    pub name_label: String,
    /// Description.
    pub name_description: String,
    /// Tags, in the order in which they were added.
    pub tags: Vec<String>,
}

impl LocalStore {
    /// The label of the pool or the host.
    ///
    /// # Errors
    /// When the state database does not answer.
    pub async fn label(&self, id: &str) -> Result<Label, LocalError> {
        let id = id.to_owned();
        let doc = self.inner.db.call(move |db| objects::get(db, &id)).await?;
        Ok(doc.and_then(|doc| serde_json::from_str(&doc.doc).ok()).unwrap_or_default())
    }

    /// Stores the label of the pool or the host anew.
    ///
    /// # Errors
    /// When the state database does not answer.
    pub async fn edit_label(
        &self,
        id: &str,
        kind: &'static str,
        edit: impl Fn(&mut Label) + Send + 'static,
    ) -> Result<(), LocalError> {
        let (id, changed) = (id.to_owned(), id.into());
        self.inner
            .db
            .transaction(move |db| {
                let found = objects::get(db, &id)?;
                let mut label: Label =
                    found.and_then(|doc| serde_json::from_str(&doc.doc).ok()).unwrap_or_default();
                edit(&mut label);
                let doc = serde_json::to_string(&label).unwrap_or_default();
                objects::put(
                    db,
                    &ObjectDoc { id: id.clone(), kind: kind.into(), version: LABEL_VERSION, doc },
                )
            })
            .await?;
        self.inner.changes.tell(ObjectChange::Label(changed));
        Ok(())
    }
}
