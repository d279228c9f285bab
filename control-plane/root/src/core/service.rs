//! Services: part of an application, with addresses of their own.

use xylem_types::{
    job::{Job, no_status},
    mqtt::UpdateKind,
    sla::{Addresses, CONTAINER_RUNTIME, Microservice, Sla},
};

use super::{account::Caller, moment::Moment, refusal::Refusal, state::State};

impl State {
    /// Adds the services of an SLA to the application that it names; all or none.
    pub(crate) fn add_services(
        &mut self,
        caller: &Caller,
        sla: &Sla,
        now: Moment,
    ) -> Result<Vec<Job>, Refusal> {
        let [wanted] = sla.applications.as_slice() else {
            return Err(Refusal::field("applications", "must be one application"));
        };
        if wanted.application_id.is_empty() {
            return Err(Refusal::field(
                "applications[0].applicationID",
                "must be the id of the application to add to",
            ));
        }
        if wanted.microservices.is_empty() {
            return Err(Refusal::field(
                "applications[0].microservices",
                "must name at least one service",
            ));
        }
        let id = self.application(caller, &wanted.application_id)?.id.clone();
        self.create_services(&id, &wanted.microservices, "applications[0]", now)
    }

    /// `field` is the path of the application in the user's SLA.
    pub(crate) fn create_services(
        &mut self,
        application_id: &str,
        services: &[Microservice],
        field: &str,
        now: Moment,
    ) -> Result<Vec<Job>, Refusal> {
        let Some(mut application) = self.applications.get(application_id).cloned() else {
            return Err(Refusal::not_found("application", application_id));
        };
        // Those that want an address get it before others are given one that is free.
        let mut order: Vec<_> = services.iter().enumerate().collect();
        order.sort_by_key(|(_, sla)| sla.addresses == Addresses::default());
        let mut created = Vec::with_capacity(services.len());
        for (i, sla) in order {
            let job_name = format!(
                "{}.{}.{}.{}",
                application.application_name,
                application.application_namespace,
                sla.microservice_name,
                sla.microservice_namespace
            );
            if self.services.values().any(|job| job.job_name == job_name) {
                return Err(Refusal::Exists { what: "service", name: job_name });
            }
            let id = self.new_id(now);
            let addresses_field = format!("{field}.microservices[{i}].addresses");
            let addresses = self.ipam.service(&id, &sla.addresses, &addresses_field)?;
            let mut sla = sla.clone();
            sla.microservice_id.clone_from(&id);
            if sla.virtualization == "container" {
                sla.virtualization = CONTAINER_RUNTIME.to_owned();
            }
            let job = Job {
                id: id.clone(),
                application_id: application_id.to_owned(),
                next_instance_progressive_number: self.first_free_number(&job_name),
                job_name,
                app_name: application.application_name.clone(),
                app_ns: application.application_namespace.clone(),
                service_name: sla.microservice_name.clone(),
                service_ns: sla.microservice_namespace.clone(),
                image: sla.code.clone(),
                status: no_status(),
                status_detail: String::new(),
                rr_ip: addresses.v4,
                rr_ip_v6: Some(addresses.v6),
                instance_list: Vec::new(),
                sla,
            };
            self.services.put(id, job.clone());
            created.push((i, job));
        }
        created.sort_by_key(|(i, _)| *i);
        let created: Vec<_> = created.into_iter().map(|(_, job)| job).collect();
        application.microservices.extend(created.iter().map(|job| job.id.clone()));
        self.applications.put(application_id.to_owned(), application);
        Ok(created)
    }

    /// The service, without its instances.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] also when it belongs to somebody else.
    pub(crate) fn service(&self, caller: &Caller, id: &str) -> Result<&Job, Refusal> {
        let not_found = || Refusal::not_found("service", id);
        let job = self.services.get(id).ok_or_else(not_found)?;
        self.application(caller, &job.application_id).map_err(|_| not_found())?;
        Ok(job)
    }

    /// Deletes the service. Its instances stay as tombstones until their clusters have confirmed
    /// that they are gone.
    pub(crate) fn delete_service(
        &mut self,
        caller: &Caller,
        id: &str,
        now: Moment,
    ) -> Result<(), Refusal> {
        let job = self.service(caller, id)?.clone();
        for key in self.keys_of(id) {
            self.undeploy(&key, now);
        }
        self.notify(&job.job_name, UpdateKind::Undeployment);
        self.forget_interests_in(&job.job_name);
        self.ipam.release_service(id, job.rr_ip, job.rr_ip_v6);
        self.services.remove(id);
        if let Some(mut application) = self.applications.get(&job.application_id).cloned() {
            application.microservices.retain(|service| service != id);
            self.applications.put(job.application_id, application);
        }
        Ok(())
    }

    /// Workers know an instance by the service's name and its number. While instances of a
    /// deleted service of the same name may still run somewhere, their numbers are not used.
    fn first_free_number(&self, job_name: &str) -> u32 {
        let tombstones = self.instances.iter().filter(|(_, i)| i.job_name == job_name);
        tombstones.map(|(key, _)| key.instance_number.saturating_add(1)).max().unwrap_or(0)
    }
}
