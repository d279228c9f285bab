//! Removes everything that a worker made, without an engine.

use std::io;
use xylem_daemon::Chain;

use crate::{
    config::Config,
    core::id::InstanceId,
    net_api::NetApi,
    runtime::{
        cgroup::{Cgroup, Hierarchies},
        teardown::{TeardownError, tear_down},
    },
    state_folder::{StateFolder, StateFolderError},
};

#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    #[error(transparent)]
    State(#[from] StateFolderError),
    #[error("control groups cannot be used")]
    Cgroups(#[source] io::Error),
    #[error("instance {name} cannot be removed")]
    Instance {
        name: String,
        #[source]
        source: TeardownError,
    },
    #[error("{0} instances could not be removed, see above")]
    Some(usize),
    #[error("images cannot be removed")]
    Content(#[source] io::Error),
}

/// Stops and removes all instances and images of a worker whose engine is not running; its
/// identity stays. Returns how many instances there were.
///
/// The net manager is asked once for each to detach it; one that is away is not waited for.
///
/// # Errors
/// When an engine works there, or something cannot be removed; the rest is removed all the same.
pub async fn purge(config: &Config) -> Result<usize, PurgeError> {
    let state = StateFolder::open(&config.state_dir)?;
    let hierarchies = Hierarchies::detect().map_err(PurgeError::Cgroups)?;
    let parent = config.cgroup_parent(&state.id());
    let net = config.net_socket.clone().and_then(|socket| NetApi::new(socket).ok());
    let (mut removed, mut failed) = (0, 0);
    for (folder, record) in state.instances()? {
        let name = folder.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let cgroup = Cgroup::new(hierarchies.clone(), folder.cgroup(&parent));
        let attached = folder.attached().exists();
        let remove = || -> Result<(), TeardownError> {
            tear_down(&folder, &cgroup)?;
            std::fs::remove_dir_all(folder.path()).map_err(TeardownError::Folder)
        };
        match remove() {
            Ok(()) => removed += 1,
            Err(source) => {
                failed += 1;
                let error = PurgeError::Instance { name, source };
                tracing::error!(error = %Chain(&error), "not removed");
                continue;
            }
        }
        if let Some(net) = net.as_ref().filter(|_| attached)
            && let Some(record) = record
            && let Ok(id) =
                InstanceId::new(&record.command.job_name, record.command.instance_number)
            && let Err(error) = net.detach(&id).await
        {
            tracing::warn!(instance.id = %id, ?error, "not detached");
        }
    }
    if failed > 0 {
        return Err(PurgeError::Some(failed));
    }
    Cgroup::new(hierarchies, parent.join("instance")).remove_empty_parent();
    match std::fs::remove_dir_all(state.content()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(PurgeError::Content(error)),
        _ => Ok(removed),
    }
}
