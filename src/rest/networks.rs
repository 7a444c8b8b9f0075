//! Networks of VMs of the local store, and the connections to them: taking them away.

use actix_web::{HttpResponse, web};

use crate::auth::Capability;
use crate::inventory::Collection;

use super::App;
use super::caller::Caller;
use super::collections::seen;
use super::error::ApiError;

/// `DELETE /vifs/<id>`: takes a VM from a network, which stays.
///
/// # Errors
/// 404; 409 for a snapshot's.
pub async fn delete_vif(app: web::Data<App>, caller: Caller, id: &str) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Change, Some(id), "VIF")?;
    seen(&app, &caller, Collection::Vifs, id, "delete").await?;
    let vif = id.parse().map_err(|_| ApiError::NoSuchObject { kind: "VIF", id: id.to_owned() })?;
    app.store.delete_vif(vif).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `DELETE /networks/<id>`.
///
/// # Errors
/// 404; 409 when VMs are on it.
pub async fn delete(app: web::Data<App>, caller: Caller, id: &str) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Administer, Some(id), "network")?;
    seen(&app, &caller, Collection::Networks, id, "delete").await?;
    let network = id.parse().map_err(|_| ApiError::NoSuchObject { kind: "network", id: id.to_owned() })?;
    app.store.delete_network(network).await?;
    Ok(HttpResponse::NoContent().finish())
}
