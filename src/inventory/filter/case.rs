//! Case as ECMAScript's `i` flag knows it: each UTF-16 code unit has one canonical form, and two are the same
//! when their forms are. It is not Unicode's folding: nothing outside of ASCII becomes a letter of ASCII (so the
//! Kelvin sign is no `k`), and what has an upper case of two letters stays as it is.

use std::sync::LazyLock;

/// The code units that are not their own canonical form, in order, each with its form.
static UNITS: LazyLock<Vec<(u16, u16)>> = LazyLock::new(|| {
    (0..=u16::MAX).map(|unit| (unit, upper(unit))).filter(|(unit, form)| unit != form).collect()
});

fn upper(unit: u16) -> u16 {
    // Half of a pair has no case.
    let Some(c) = char::from_u32(unit.into()) else { return unit };
    let mut forms = c.to_uppercase();
    match (forms.next().and_then(|form| u16::try_from(u32::from(form)).ok()), forms.next()) {
        (Some(form), None) if unit < 0x80 || form >= 0x80 => form,
        _ => unit,
    }
}

/// The canonical form of a code unit.
pub fn canonical(unit: u16) -> u16 {
    match UNITS.binary_search_by_key(&unit, |(unit, _)| *unit) {
        Ok(found) => UNITS.get(found).map_or(unit, |(_, form)| *form),
        Err(_) => unit,
    }
}

/// The canonical forms of those code units between two, both included, that are not their own.
pub fn canonical_within(first: u16, last: u16) -> impl Iterator<Item = u16> {
    let from = UNITS.partition_point(|(unit, _)| *unit < first);
    UNITS.iter().skip(from).take_while(move |(unit, _)| *unit <= last).map(|(_, form)| *form)
}

/// A text of canonical forms. Characters of two code units have no case.
pub fn canonical_text(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_uppercase();
    }
    let form = |c: char| match u16::try_from(u32::from(c)) {
        Ok(unit) => char::from_u32(canonical(unit).into()).unwrap_or(c),
        Err(_) => c,
    };
    text.chars().map(form).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms_are_their_own_canonical_form() {
        for unit in 0..=u16::MAX {
            assert_eq!(canonical(canonical(unit)), canonical(unit), "{unit:#x}");
        }
    }

    #[test]
    fn case_is_that_of_the_i_flag() {
        let same = |a: &str, b: &str| canonical_text(a) == canonical_text(b);
        assert!(same("é", "É") && same("ς", "Σ") && same("ǆ", "ǅ") && same("µ", "μ"));
        assert!(!same("k", "\u{212a}") && !same("ß", "ẞ") && !same("ſ", "s") && !same("ı", "i"));
        assert!(!same("𐐀", "𐐨"));
    }
}
