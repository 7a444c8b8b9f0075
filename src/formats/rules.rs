//! The rules that a sound image of a format keeps, as each format lists its own.

/// Makes the enum `Rule` of a format from what it is about and the rules with their names and codes.
macro_rules! rules {
    ($(#[doc = $about:literal])* Rule: $($(#[doc = $doc:literal])* $name:ident $code:literal,)*) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $($(#[doc = $doc])* $name,)*
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The rule's short name, such as `B6`.
            pub fn id(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// A stable name in snake case for the breach of this rule.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }
        }
    };
}

pub(in crate::formats) use rules;
