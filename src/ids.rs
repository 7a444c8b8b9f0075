//! Names of things. Each kind of object has its own type, so that a VDI's id cannot be passed where an
//! SR's is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// A text that is not the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}")]
pub struct BadId {
    /// The kind of id that was expected.
    pub what: &'static str,
    /// The text that was found.
    pub text: String,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new random id.
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            /// Takes the hyphenated form only, in either letter case: the form in which clients see it.
            fn from_str(text: &str) -> Result<Self, BadId> {
                let bad = || BadId { what: $what, text: text.chars().take(64).collect() };
                if text.len() != 36 {
                    return Err(bad());
                }
                Uuid::try_parse(text).map(Self).map_err(|_| bad())
            }
        }
    };
}

uuid_id!(
    /// A virtual disk image, the object that clients see. Survives migration and replacement of content.
    VdiId,
    "VDI id"
);
uuid_id!(
    /// A storage repository.
    SrId,
    "SR id"
);
uuid_id!(
    /// A pool of hosts.
    PoolId,
    "pool id"
);
uuid_id!(
    /// A host.
    HostId,
    "host id"
);
uuid_id!(
    /// A user of Gantry.
    UserId,
    "user id"
);

uuid_id!(
    /// A virtual machine, a snapshot or a template of one.
    VmId,
    "VM id"
);
uuid_id!(
    /// The connection of a disk to a VM.
    VbdId,
    "VBD id"
);
uuid_id!(
    /// The connection of a VM to a network.
    VifId,
    "VIF id"
);
uuid_id!(
    /// A network.
    NetworkId,
    "network id"
);

/// Guest-visible bytes, never changed once committed: 128 random bits, shown as 32 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentId(pub [u8; 16]);

impl ContentId {
    /// A new random id.
    pub fn random() -> Self {
        Self(*Uuid::new_v4().as_bytes())
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for ContentId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = || BadId { what: "content id", text: text.chars().take(64).collect() };
        if text.len() != 32 {
            return Err(bad());
        }
        u128::from_str_radix(text, 16).map(|n| Self(n.to_be_bytes())).map_err(|_| bad())
    }
}

impl Serialize for ContentId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContentId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The form in which a disk lies in an SR directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// `<vdi>.raw`: the guest's bytes, sparse.
    Raw,
    /// `<vdi>.vhd`: a dynamic or fixed VHD, or the child of another one beside it.
    Vhd,
}

impl DiskFormat {
    /// The ending of the file's name, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Vhd => "vhd",
        }
    }
}

impl fmt::Display for DiskFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.extension())
    }
}

impl FromStr for DiskFormat {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        match text {
            "raw" => Ok(Self::Raw),
            "vhd" => Ok(Self::Vhd),
            _ => Err(BadId { what: "disk format (raw or vhd)", text: text.chars().take(64).collect() }),
        }
    }
}
