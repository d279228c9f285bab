//! The durable records as tables of the store.

use xylem_store::{Schema, Snapshot, StoreError, Table, Transaction};
use xylem_types::session::InstanceKey;

use crate::core::{Change, Instance, Membership, Records, Service, Worker};

const MEMBERSHIP: Table<Membership> = Table::new("membership");
const MEMBERSHIP_KEY: &str = "membership";
const WORKERS: Table<Worker> = Table::new("workers");
const INSTANCES: Table<Instance> = Table::new("instances");
const SERVICES: Table<Service> = Table::new("services");

pub(crate) fn schema() -> Schema {
    Schema::new("cluster", 1)
}

/// Everything that was written.
///
/// # Errors
/// When the store or a row in it cannot be read.
pub(crate) fn load(store: &Snapshot) -> Result<Records, StoreError> {
    Ok(Records {
        membership: store.get(MEMBERSHIP, MEMBERSHIP_KEY)?.unwrap_or_default(),
        workers: store.scan(WORKERS, "")?.into_iter().collect(),
        instances: store
            .scan(INSTANCES, "")?
            .into_iter()
            .map(|(_, instance)| (key_of(&instance), instance))
            .collect(),
        services: store.scan(SERVICES, "")?.into_iter().collect(),
    })
}

/// # Errors
/// When the store cannot be written.
pub(crate) fn write(store: &mut Transaction, changes: Vec<Change>) -> Result<(), StoreError> {
    for change in changes {
        match change {
            Change::Membership(membership) => {
                store.put(MEMBERSHIP, MEMBERSHIP_KEY, &membership)?;
            }
            Change::Worker(id, worker) => put(store, WORKERS, &id, worker)?,
            Change::Instance(key, instance) => {
                put(store, INSTANCES, &row_of(&key), instance)?;
            }
            Change::Service(name, service) => put(store, SERVICES, &name, service)?,
        }
    }
    Ok(())
}

fn put<T: serde::Serialize + serde::de::DeserializeOwned>(
    store: &mut Transaction,
    table: Table<T>,
    key: &str,
    value: Option<Box<T>>,
) -> Result<(), StoreError> {
    match value {
        Some(value) => store.put(table, key, &value),
        None => store.delete(table, key).map(drop),
    }
}

fn row_of(key: &InstanceKey) -> String {
    format!("{}/{}", key.job_id, key.instance_number)
}

fn key_of(instance: &Instance) -> InstanceKey {
    InstanceKey { job_id: instance.placement.job_id.clone(), instance_number: instance.number() }
}
