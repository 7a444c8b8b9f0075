//! The parents of a differencing VHD, looked up beside it.

use std::path::{Path, PathBuf};

use super::report::{Problem, Report, VhdFacts};
use super::source::{CheckError, Source, Stop};
use super::vhd::{chain_fault, read_index};
use crate::formats::vhd::{Fact, ParentRef, Rule, VhdIndex};

/// Most images in a chain.
const MAX_CHAIN: usize = 32;

/// Follows the chain above `child` to its root, and reports what is wrong with it.
pub(super) fn examine(
    source: &Source,
    child: &VhdIndex,
    facts: &mut VhdFacts,
    report: &mut Report,
) -> Result<(), CheckError> {
    let directory = source.path.parent().unwrap_or(Path::new("")).to_owned();
    let mut seen = vec![child.unique_id];
    let mut current = child.clone();
    let mut current_file: Option<String> = None;
    while let Some(parent) = current.parent.clone() {
        let fault = |rule, expected, found| {
            Problem::vhd(current_file.clone(), &chain_fault(rule, &current, expected, found))
        };
        if seen.contains(&parent.id) {
            let expected = Fact::Text("an id that is not in the chain already");
            report.problem(fault(Rule::P5, expected, Fact::Id(parent.id)));
            return Ok(());
        }
        if seen.len() >= MAX_CHAIN {
            let expected = Fact::Text("a chain of at most 32 images");
            report.problem(fault(Rule::P3, expected, Fact::Text("one more")));
            return Ok(());
        }
        let (name, index) = match find(&directory, &parent)? {
            Found::Parent(name, index) => (name, *index),
            Found::Other(name, id) => {
                report.problem(Problem {
                    message: format!(
                        "{name} is not the parent: its id is {}, expected {}",
                        Fact::Id(id),
                        Fact::Id(parent.id)
                    ),
                    ..fault(Rule::P4, Fact::Id(parent.id), Fact::Id(id))
                });
                return Ok(());
            }
            Found::Damaged(problem) => {
                report.problem(problem);
                return Ok(());
            }
            Found::Nothing => {
                let names =
                    if parent.names.is_empty() { "no name".to_owned() } else { parent.names.join(", ") };
                report.problem(Problem {
                    message: format!(
                        "the parent {} is not beside the file: expected one of {names}, found none",
                        Fact::Id(parent.id)
                    ),
                    ..fault(Rule::P6, Fact::Id(parent.id), Fact::Text("none"))
                });
                return Ok(());
            }
        };
        index.warnings.iter().for_each(|warning| report.problem(Problem::vhd(Some(name.clone()), warning)));
        if facts.chain.is_empty()
            && let Some(parent) = &mut facts.parent
        {
            parent.found = Some(name.clone());
        }
        facts.chain.push(name.clone());
        seen.push(parent.id);
        (current, current_file) = (index, Some(name));
    }
    Ok(())
}

/// What lies beside a child under the names of its parent.
enum Found {
    /// The parent, under that name.
    Parent(String, Box<VhdIndex>),
    /// Only another VHD, with that name and id.
    Other(String, [u8; 16]),
    /// Only something that should be it and cannot be read as a VHD.
    Damaged(Problem),
    Nothing,
}

/// Tries the names one after the other.
fn find(directory: &Path, parent: &ParentRef) -> Result<Found, CheckError> {
    let mut second_best = Found::Nothing;
    for name in &parent.names {
        let path: PathBuf = directory.join(name);
        let source = match Source::open(&path) {
            Ok(source) => source,
            Err(CheckError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => continue,
            Err(CheckError::NotAFile { .. }) => continue,
            Err(error) => return Err(error),
        };
        let other = match read_index(&source) {
            Ok(index) if index.unique_id == parent.id => {
                return Ok(Found::Parent(name.clone(), Box::new(index)));
            }
            Ok(index) => Found::Other(name.clone(), index.unique_id),
            Err(Stop::File(error)) => return Err(error),
            Err(Stop::Image(error)) => Found::Damaged(Problem::vhd(Some(name.clone()), &error)),
        };
        if matches!(second_best, Found::Nothing) {
            second_best = other;
        }
    }
    Ok(second_best)
}
