//! The state's tables on disk.

use std::collections::BTreeMap;

use serde::{Serialize, de::DeserializeOwned};
use xylem_store::{Schema, Snapshot, Store, StoreError, Table, Transaction};
use xylem_types::{job::Job, mqtt::Peer, rest::Application};

use crate::core::{
    account::User,
    cluster::KnownCluster,
    instance::Instance,
    ipam::Leases,
    node::NodeOrder,
    pool::Lease,
    rows::{RowKey, Rows},
    state::{Registered, State, Tables},
};

pub(crate) fn schema() -> Schema {
    Schema::new("root", 1)
}

const USERS: Table<User> = Table::new("users");
const APPLICATIONS: Table<Application> = Table::new("applications");
const SERVICES: Table<Job> = Table::new("services");
const INSTANCES: Table<Instance> = Table::new("instances");
const CLUSTERS: Table<KnownCluster> = Table::new("clusters");
const WORKERS: Table<Vec<Peer>> = Table::new("workers");
const NODES: Table<NodeOrder> = Table::new("nodes");
const INTERESTS: Table<Registered> = Table::new("interests");
const COUNTERS: Table<u64> = Table::new("counters");
const SERVICE_IPS: Table<Lease> = Table::new("service_ips");
/// In the order of the policies.
const SERVICE_V6: [Table<Lease>; 4] = [
    Table::new("round_robin_v6"),
    Table::new("closest_v6"),
    Table::new("underutilized_v6"),
    Table::new("affinity_v6"),
];
const INSTANCE_V6: Table<Lease> = Table::new("instance_v6");
const SUBNETS: Table<Lease> = Table::new("subnets");

/// Why the state cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the key {key:?} in table {table} is none of ours: restore the store from a backup")]
    Key { table: &'static str, key: String },
}

/// Reads every table.
///
/// # Errors
/// [`LoadError`] when a row cannot be read or understood.
pub(crate) fn load(store: &Store) -> Result<Tables, LoadError> {
    store.read_blocking(|view| {
        Ok(Tables {
            users: rows(view, USERS)?,
            applications: rows(view, APPLICATIONS)?,
            services: rows(view, SERVICES)?,
            instances: rows(view, INSTANCES)?,
            clusters: rows(view, CLUSTERS)?,
            workers: rows(view, WORKERS)?,
            nodes: rows(view, NODES)?,
            interests: rows(view, INTERESTS)?,
            counters: rows(view, COUNTERS)?,
            leases: Leases {
                service: rows(view, SERVICE_IPS)?,
                service_v6: [
                    rows(view, SERVICE_V6[0])?,
                    rows(view, SERVICE_V6[1])?,
                    rows(view, SERVICE_V6[2])?,
                    rows(view, SERVICE_V6[3])?,
                ],
                instance_v6: rows(view, INSTANCE_V6)?,
                subnets: rows(view, SUBNETS)?,
            },
        })
    })
}

/// Writes what has been kept since the last time, in one transaction.
///
/// # Errors
/// [`StoreError`]: nothing was written.
pub(crate) fn write(store: &Store, state: &mut State) -> Result<(), StoreError> {
    store.transact_blocking(|tx| {
        write_rows(tx, USERS, &mut state.users)?;
        write_rows(tx, APPLICATIONS, &mut state.applications)?;
        write_rows(tx, SERVICES, &mut state.services)?;
        write_rows(tx, INSTANCES, &mut state.instances)?;
        write_rows(tx, CLUSTERS, &mut state.clusters)?;
        write_rows(tx, WORKERS, &mut state.workers)?;
        write_rows(tx, NODES, &mut state.nodes)?;
        write_rows(tx, INTERESTS, &mut state.interests)?;
        write_rows(tx, COUNTERS, &mut state.counters)?;
        write_rows(tx, SERVICE_IPS, &mut state.ipam.service.leases)?;
        for (table, pool) in SERVICE_V6.into_iter().zip(&mut state.ipam.service_v6) {
            write_rows(tx, table, &mut pool.leases)?;
        }
        write_rows(tx, INSTANCE_V6, &mut state.ipam.instance_v6.leases)?;
        write_rows(tx, SUBNETS, &mut state.ipam.subnets.leases)
    })
}

fn rows<K, V>(view: &Snapshot, table: Table<V>) -> Result<Rows<K, V>, LoadError>
where
    K: RowKey,
    V: Serialize + DeserializeOwned + Clone + PartialEq,
{
    let mut rows = BTreeMap::new();
    for (key, value) in view.scan(table, "")? {
        match K::decode(&key) {
            Some(key) => rows.insert(key, value),
            None => return Err(LoadError::Key { table: table.name(), key }),
        };
    }
    Ok(Rows::written(rows))
}

fn write_rows<K, V>(
    tx: &mut Transaction,
    table: Table<V>,
    rows: &mut Rows<K, V>,
) -> Result<(), StoreError>
where
    K: RowKey,
    V: Serialize + DeserializeOwned + Clone + PartialEq,
{
    for (key, value) in rows.take_unwritten() {
        match value {
            Some(value) => tx.put(table, &key, &value)?,
            None => {
                tx.delete(table, &key)?;
            }
        }
    }
    Ok(())
}
