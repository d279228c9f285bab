//! What users see of the state.

use xylem_types::{
    instance::InstanceStatus,
    job::{Job, JobInstance, no_status},
    rest::Cluster,
    session::InstanceKey,
};

use super::{account::Caller, instance::Instance, moment::Moment, refusal::Refusal, state::State};

impl State {
    /// The service with its instances.
    pub(crate) fn service_view(&self, caller: &Caller, id: &str) -> Result<Job, Refusal> {
        Ok(self.with_instances(self.service(caller, id)?))
    }

    /// The services of one application, or all that the caller may see.
    pub(crate) fn services_view(
        &self,
        caller: &Caller,
        application_id: Option<&str>,
    ) -> Result<Vec<Job>, Refusal> {
        if let Some(id) = application_id {
            self.application(caller, id)?;
        }
        let visible = self.services.values().filter(|job| match application_id {
            Some(id) => job.application_id == id,
            None => self.application(caller, &job.application_id).is_ok(),
        });
        Ok(visible.map(|job| self.with_instances(job)).collect())
    }

    pub(crate) fn clusters_view(&self, only_active: bool, now: Moment) -> Vec<Cluster> {
        self.clusters
            .iter()
            .filter(|(id, _)| !only_active || self.active(id, now).is_some())
            .map(|(id, known)| {
                let live = self.live.get(id);
                let report = live.and_then(|live| live.resources.as_ref());
                let resources = report.map(|(resources, _)| resources.clone()).unwrap_or_default();
                Cluster {
                    id: id.clone(),
                    candidate_name: known.name.clone(),
                    cluster_name: known.name.clone(),
                    candidate_location: known.location.clone(),
                    cluster_location: known.location.clone(),
                    ip: live.map(|live| live.ip.to_string()).unwrap_or_default(),
                    port: 0,
                    active: self.active(id, now).is_some(),
                    active_nodes: resources.active_nodes,
                    vcpus: resources.vcpus,
                    total_cpu_cores: resources.vcpus,
                    cpu_percent: resources.cpu_percent,
                    aggregated_cpu_percent: resources.cpu_percent,
                    // Adding turns the -0.0 of an empty sum into 0.0.
                    memory: resources.memory + 0.0,
                    memory_in_mb: resources.memory.max(0.0) as u64,
                    memory_percent: resources.memory_percent,
                    vgpus: resources.vgpus,
                    total_gpu_cores: resources.vgpus,
                    virtualization: resources.virtualization,
                    supported_addons: resources.supported_addons,
                    csi_drivers: resources.csi_drivers,
                    last_modified_timestamp: report.map_or(0.0, |(_, at)| at.unix_seconds()),
                    connected: live.is_some(),
                }
            })
            .collect()
    }

    fn with_instances(&self, job: &Job) -> Job {
        let instance_list: Vec<_> = self
            .instances_of(&job.id)
            .map(|(key, instance)| self.instance_view(key, instance))
            .collect();
        let worst = instance_list
            .iter()
            .find(|instance| instance.status != InstanceStatus::Running)
            .or(instance_list.first());
        Job {
            status: worst.map_or_else(no_status, |instance| instance.status.clone()),
            status_detail: worst.map(|i| i.status_detail.clone()).unwrap_or_default(),
            instance_list,
            ..job.clone()
        }
    }

    fn instance_view(&self, key: &InstanceKey, instance: &Instance) -> JobInstance {
        let cluster = instance.cluster_id.as_ref().and_then(|id| self.clusters.get(id));
        let usage = self.usage.get(key).cloned().unwrap_or_default();
        let site = instance.site.clone();
        JobInstance {
            instance_number: key.instance_number,
            status: instance.status.clone(),
            status_detail: instance.status_detail.clone(),
            cluster_id: instance.cluster_id.clone().unwrap_or_default(),
            cluster_location: cluster.map(|known| known.location.clone()).unwrap_or_default(),
            publicip: site.publicip,
            worker_id: site.worker_id,
            host_ip: site.host_ip,
            host_port: site.host_port,
            cpu_percent: usage.cpu_percent().to_string(),
            memory_percent: usage.memory_percent().to_string(),
            disk: usage.disk.to_string(),
            cpu_history: usage.cpu_history(),
            memory_history: usage.memory_history(),
            logs: usage.logs,
            last_modified_timestamp: instance.modified.as_duration().as_secs_f64(),
            generation: instance.generation,
            cluster_name: cluster.map(|known| known.name.clone()).unwrap_or_default(),
            worker_name: site.worker_name,
            instance_ip: Some(instance.instance_ip),
            instance_ip_v6: Some(instance.instance_ip_v6),
            namespace_ip: site.namespace_ip,
            namespace_ip_v6: site.namespace_ip_v6,
            replaces: instance.replaces,
        }
    }
}
