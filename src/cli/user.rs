//! `gantry user`: makes, changes, lists and removes users in the data directory, whether the server runs or not.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use rustix::termios::{self, LocalModes, OptionalActions};

use super::audited::{audited, object};
use crate::auth::audit::AuditError;
use crate::auth::{
    AccountError, Accounts, AdminPasswordSource, KeepTokens, Passwords, Role, TokenError, UserName,
    ensure_admin, random_password,
};
use crate::config::{Config, ConfigError, Overrides};
use crate::state::{DataDir, DataDirError, Db, StateError};

/// The longest password that is read from stdin, in bytes, with its line end.
const MAX_INPUT_BYTES: u64 = 4096;

/// Where the data directory is.
#[derive(Debug, Clone, Default, Args)]
pub struct DataArgs {
    /// Configuration file (TOML), as for `serve`
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Data directory [default: $GANTRY_DATA, else the configuration's, else ./gantry-data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// Arguments of `gantry user`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gantry user add alice --role operator
  pass show gantry/alice | gantry user add alice --password-stdin
  gantry user passwd admin
  gantry user list --json
  gantry user remove alice")]
pub struct UserArgs {
    #[command(subcommand)]
    command: UserCommand,
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// Add a user
    #[command(after_help = "\
Asks for the password on a terminal; else makes one and prints it alone on stdout.

Examples:
  gantry user add alice --role operator
  gantry user add backup --role operator </dev/null >password
  echo secret | gantry user add bob --password-stdin")]
    Add {
        /// What the user logs in with
        name: UserName,
        /// What the user may do: admin, operator or viewer
        #[arg(long, default_value = "viewer", value_name = "ROLE")]
        role: Role,
        /// Read the password from stdin
        #[arg(long)]
        password_stdin: bool,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Give a user another password; this ends the user's tokens
    #[command(after_help = "\
Asks for the password on a terminal; else makes one and prints it alone on stdout.

Examples:
  gantry user passwd alice
  echo secret | gantry user passwd alice --password-stdin --keep-tokens")]
    Passwd {
        /// Whose password
        name: UserName,
        /// Read the password from stdin
        #[arg(long)]
        password_stdin: bool,
        /// Let the user's tokens go on working
        #[arg(long)]
        keep_tokens: bool,
        #[command(flatten)]
        data: DataArgs,
    },
    /// List the users
    #[command(after_help = "\
Examples:
  gantry user list
  gantry user list --json | jq -r '.[].name'")]
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Remove a user and the user's tokens
    #[command(after_help = "\
Examples:
  gantry user remove alice")]
    Remove {
        /// Who
        name: UserName,
        #[command(flatten)]
        data: DataArgs,
    },
}

/// A command on users or tokens failed.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The state database cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// About a user.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// About a token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// No token has that id.
    #[error("there is no token {id}")]
    NoSuchToken {
        /// The public id.
        id: crate::auth::TokenId,
    },
    /// The password on stdin is no text, or too long.
    #[error("the password on stdin is no line of UTF-8 text of less than {MAX_INPUT_BYTES} bytes")]
    BadInput,
    /// The two passwords that were typed differ.
    #[error("the passwords are not the same")]
    Mismatch,
    /// The terminal, or stdin, cannot be read.
    #[error("cannot read the password: {0}")]
    Input(#[source] io::Error),
    /// What was to be printed is lost.
    #[error("cannot write the output: {0}")]
    Output(#[source] io::Error),
    /// The output cannot be written as JSON.
    #[error("cannot write the output as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// What cannot be written down is not done.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The machinery to run in cannot be had.
    #[error("cannot start: {0}")]
    Runtime(#[source] io::Error),
}

impl AccessError {
    /// The exit code of the program: 2 for wrong usage, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Config(_)) { 2 } else { 1 }
    }

    /// Whether nothing is wrong but that nobody reads the output any more.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// The state of a data directory, open beside a server that may run.
pub(super) struct Access {
    pub(super) db: Db,
    pub(super) accounts: Accounts,
}

impl Access {
    /// Opens the state, or makes it as the first start of the server would.
    async fn open(args: &DataArgs) -> Result<Self, AccessError> {
        let overrides =
            Overrides { config: args.config.clone(), data: args.data.clone(), ..Overrides::default() };
        let config = Config::load(&overrides)?;
        let data = DataDir::open_shared(&config.data)?;
        let path = data.database_path();
        let opened = tokio::task::spawn_blocking(move || Db::open(&path)).await;
        let db = opened.map_err(|_| StateError::Closed)??;
        let passwords = Passwords::new();
        ensure_admin(&data, &db, &passwords, &AdminPasswordSource::from_env()).await?.announce();
        let accounts = Accounts::new(&data, db.clone(), passwords);
        Ok(Self { db, accounts })
    }
}

/// Runs a command on the state of a data directory. Makes a runtime of its own: not to be called from within one.
pub(super) fn with_state<R>(
    args: &DataArgs,
    work: impl AsyncFnOnce(&Access) -> Result<R, AccessError>,
) -> Result<R, AccessError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(AccessError::Runtime)?;
    runtime.block_on(async {
        let access = Access::open(args).await?;
        let outcome = work(&access).await;
        access.db.close().await;
        outcome
    })
}

/// Prints a text as the whole output.
pub(super) fn print(out: &mut dyn Write, text: &str) -> Result<(), AccessError> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(AccessError::Output)
}

/// A table with aligned columns; characters that could change the terminal are left out.
pub(super) fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut lines: Vec<[String; N]> = vec![head.map(str::to_owned)];
    lines.extend(
        rows.into_iter().map(|row| row.map(|cell| cell.chars().filter(|c| !c.is_control()).collect())),
    );
    let mut widths = [0; N];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A Unix time in milliseconds as people and programs read it.
pub(super) fn shown_time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms)
        .map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        .unwrap_or_else(|_| ms.to_string())
}

/// Runs `gantry user …`. `out` gets what belongs on stdout.
///
/// # Errors
/// [`AccessError`], with its exit code.
pub fn run(args: &UserArgs, out: &mut dyn Write) -> Result<(), AccessError> {
    execute(args, new_password, out)
}

/// The command, with a place to get passwords from (told whether `--password-stdin` was given).
fn execute(
    args: &UserArgs,
    new_password: impl FnOnce(bool) -> Result<NewPassword, AccessError>,
    out: &mut dyn Write,
) -> Result<(), AccessError> {
    match &args.command {
        UserCommand::Add { name, role, password_stdin, data } => {
            let password = new_password(*password_stdin)?;
            with_state(data, async |access| {
                let made = object("user", None, Some(name.to_string()));
                let added = async {
                    let user = access.accounts.add(name, *role, password.text().to_owned()).await?;
                    if let Err(lost) = password.print(out) {
                        // a user whose password nobody knows would only be in the way
                        access.accounts.remove(user.id).await?;
                        return Err(lost);
                    }
                    Ok(user.id)
                };
                audited(access, "user.create", made, added, |id| (Some(id.to_string()), None)).await?;
                Ok(())
            })
        }
        UserCommand::Passwd { name, password_stdin, keep_tokens, data } => {
            let password = new_password(*password_stdin)?;
            let keep = if *keep_tokens { KeepTokens::All } else { KeepTokens::None };
            with_state(data, async |access| {
                let user = access.accounts.by_name(name.as_str()).await?;
                let changed = object("user", Some(user.id.to_string()), Some(user.name.clone()));
                let change = async {
                    // printed first: a password that was changed and then lost would lock the user out
                    password.print(out)?;
                    access.accounts.set_password(user.id, password.text().to_owned(), keep).await?;
                    Ok(())
                };
                audited(access, "user.update", changed, change, |()| (None, None)).await
            })
        }
        UserCommand::List { json, data } => with_state(data, async |access| {
            let users = access.accounts.list().await?;
            let text = if *json {
                let users: Vec<_> = users
                    .iter()
                    .map(|user| {
                        serde_json::json!({
                            "id": user.id, "name": user.name, "role": user.role, "created_at": user.created_ms,
                        })
                    })
                    .collect();
                serde_json::to_string_pretty(&users)? + "\n"
            } else {
                let rows = users.into_iter().map(|user| {
                    [user.name, user.role.to_string(), shown_time(user.created_ms), user.id.to_string()]
                });
                table(["NAME", "ROLE", "CREATED", "ID"], rows)
            };
            print(out, &text)
        }),
        UserCommand::Remove { name, data } => with_state(data, async |access| {
            let user = access.accounts.by_name(name.as_str()).await?;
            let removed = object("user", Some(user.id.to_string()), Some(user.name.clone()));
            let remove = async { Ok(access.accounts.remove(user.id).await.map(drop)?) };
            audited(access, "user.delete", removed, remove, |()| (None, None)).await
        }),
    }
}

/// A password for a user.
enum NewPassword {
    /// Somebody knows it.
    Known(String),
    /// It was made up and has to be printed.
    MadeUp(String),
}

impl NewPassword {
    fn text(&self) -> &str {
        match self {
            Self::Known(text) | Self::MadeUp(text) => text,
        }
    }

    fn print(&self, out: &mut dyn Write) -> Result<(), AccessError> {
        match self {
            Self::Known(_) => Ok(()),
            Self::MadeUp(text) => print(out, &format!("{text}\n")),
        }
    }
}

/// The password from stdin, from the terminal, or made up.
fn new_password(from_stdin: bool) -> Result<NewPassword, AccessError> {
    let stdin = io::stdin();
    if from_stdin {
        return password_line(stdin.lock()).map(NewPassword::Known);
    }
    if !stdin.is_terminal() {
        return random_password()
            .map(NewPassword::MadeUp)
            .map_err(|error| AccessError::Account(AccountError::Random(error)));
    }
    let first = ask("Password: ")?;
    if first != ask("Again: ")? {
        return Err(AccessError::Mismatch);
    }
    Ok(NewPassword::Known(first))
}

/// All of the input, without the line end.
fn password_line(input: impl Read) -> Result<String, AccessError> {
    let mut bytes = Vec::new();
    let taken = input.take(MAX_INPUT_BYTES).read_to_end(&mut bytes).map_err(AccessError::Input)?;
    let text = String::from_utf8(bytes).map_err(|_| AccessError::BadInput)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if taken as u64 == MAX_INPUT_BYTES || line.contains('\n') {
        return Err(AccessError::BadInput);
    }
    Ok(line.to_owned())
}

/// Asks on the terminal without showing what is typed.
fn ask(prompt: &str) -> Result<String, AccessError> {
    let stdin = io::stdin();
    let shown = termios::tcgetattr(&stdin).map_err(|error| AccessError::Input(error.into()))?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    hidden.local_modes.insert(LocalModes::ECHONL);
    let set = |modes| termios::tcsetattr(&stdin, OptionalActions::Flush, modes);
    set(&hidden).map_err(|error| AccessError::Input(error.into()))?;
    let mut stderr = io::stderr();
    let asked = write!(stderr, "{prompt}").and_then(|()| stderr.flush());
    let mut line = String::new();
    let read = asked.and_then(|()| stdin.lock().take(MAX_INPUT_BYTES).read_line(&mut line));
    set(&shown).map_err(|error| AccessError::Input(error.into()))?;
    read.map_err(AccessError::Input)?;
    password_line(line.as_bytes())
}

#[cfg(test)]
mod tests;
