//! Does with xo-api-client what its users do, at the address of the first argument: signs in by name and password (the
//! second and the third), makes a token, signs in with that on another connection and lists the VMs. Prints the token
//! and what was found as JSON.

use std::collections::BTreeMap;
use std::error::Error;

use xo_api_client::api::vm::{Vm, VmId};
use xo_api_client::credentials::EmailAndPassword;
use xo_api_client::{Client, JsonValue};

type Vms = BTreeMap<VmId, Vm<BTreeMap<String, String>>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = || arguments.next().ok_or("usage: judge-xo-api-client URL USER PASSWORD");
    let (url, email, password) = (argument()?, argument()?, argument()?);
    let client = Client::connect(&url).await?;
    client.session.sign_in(EmailAndPassword { email, password }).await?;
    let token = client.token.create().await?;
    let other = Client::connect(&url).await?;
    other.session.sign_in(token.clone()).await?;
    let vms: Vms = other.xo.get_objects(None, None).await?;
    let filter = serde_json::Map::from_iter([("power_state".to_owned(), JsonValue::from("Halted"))]);
    let halted: Vms = other.xo.get_objects(filter, 10).await?;
    let first = vms.keys().next().ok_or("there are no VMs")?.clone();
    let one: Option<Vm<BTreeMap<String, String>>> =
        other.xo.get_object(first).await.map_err(|error| format!("{error:?}"))?;
    let names: Vec<&str> = vms.values().map(|vm| vm.name_label.as_str()).collect();
    let found: JsonValue = serde_json::json!({
        "token": token.to_string(),
        "names": names,
        "halted": halted.len(),
        "one": one.map(|vm| vm.name_label),
    });
    println!("{found}");
    Ok(())
}
