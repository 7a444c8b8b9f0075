//! Where an object belongs, which decides who sees it.

use serde_json::Value;

use crate::ids::SrId;

/// What decides, besides an object's id, whether somebody sees it who may see only some.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The object of which it is a part, or which it is about.
    pub owner: Option<String>,
    /// The SRs that it lies in. Who sees it for their sake must see all of them; one that lies in none is seen by its
    /// id or its owner alone.
    pub srs: Vec<String>,
}

impl Place {
    /// Of what lies in one SR.
    pub fn in_sr(sr: impl ToString) -> Self {
        Self { owner: None, srs: vec![sr.to_string()] }
    }

    /// Of what lies in all of these.
    pub fn in_srs(srs: &[SrId]) -> Self {
        Self { owner: None, srs: srs.iter().map(ToString::to_string).collect() }
    }

    /// Of what is about an object, which may be an SR.
    pub fn about(object: &str) -> Self {
        Self { owner: Some(object.to_owned()), srs: vec![object.to_owned()] }
    }

    /// The same, of a part of an object.
    #[must_use]
    pub fn part_of(self, owner: impl ToString) -> Self {
        Self { owner: Some(owner.to_string()), ..self }
    }
}

/// An object in the contract's shape, with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// The object.
    pub object: Value,
    /// Where it belongs.
    pub place: Place,
}

impl Placed {
    /// The object's id.
    pub fn id(&self) -> &str {
        super::objects::id_of(&self.object)
    }
}
