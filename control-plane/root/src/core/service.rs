//! Services: part of an application, with addresses of their own.

use xylem_types::{
    job::{Job, no_status},
    mqtt::{IpType, ServiceAddress},
    sla::{CONTAINER_RUNTIME, Microservice, Sla},
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
        // Whoever wants an address gets it before others are given one that is free.
        let mut claims = Vec::with_capacity(services.len());
        for (i, sla) in services.iter().enumerate() {
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
            let claimed = self.ipam.claim(&id, &sla.addresses, &addresses_field)?;
            claims.push((id, job_name, sla.clone(), claimed));
        }
        let mut created = Vec::with_capacity(services.len());
        for (id, job_name, mut sla, claimed) in claims {
            let addresses = self.ipam.complete(&id, &claimed)?;
            let round_robin = addresses.iter().find(|a| a.ip_type == IpType::RoundRobin);
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
                rr_ip: round_robin
                    .and_then(|address| address.address)
                    .expect("a complete list has every policy and family"),
                rr_ip_v6: round_robin.and_then(|address| address.address_v6),
                service_ip_list: addresses,
                instance_list: Vec::new(),
                sla,
            };
            self.services.put(id, job.clone());
            created.push(job);
        }
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
        self.bury_all(id, now);
        self.ipam.release_service(id, &job.service_ip_list);
        let instances = &self.instances;
        self.ipam.release_claims(id, &job.sla.addresses, |key| instances.contains(key));
        self.services.remove(id);
        self.forget_interests_in_what_is_gone(&job.job_name);
        if let Some(mut application) = self.applications.get(&job.application_id).cloned() {
            application.microservices.retain(|service| service != id);
            self.applications.put(job.application_id, application);
        }
        Ok(())
    }

    /// Gives services that an older version has made the service IPs that they lack. Returns how
    /// many there were.
    ///
    /// # Errors
    /// No addresses are left; services before that one have theirs.
    pub(crate) fn complete_addresses(&mut self) -> Result<usize, Refusal> {
        let lacks = |job: &&Job| {
            IpType::CHOOSING.into_iter().any(|policy| {
                let has = job.service_ip_list.iter().find(|address| address.ip_type == policy);
                has.is_none_or(|has| has.address.is_none() || has.address_v6.is_none())
            })
        };
        let incomplete: Vec<Job> = self.services.values().filter(lacks).cloned().collect();
        let count = incomplete.len();
        for mut job in incomplete {
            self.transaction(|state| {
                let mut has = job.service_ip_list.clone();
                if !has.iter().any(|address| address.ip_type == IpType::RoundRobin) {
                    has.push(ServiceAddress {
                        ip_type: IpType::RoundRobin,
                        address: Some(job.rr_ip),
                        address_v6: job.rr_ip_v6,
                    });
                }
                for wanted in job.sla.addresses.by_policy() {
                    if !has.iter().any(|address| address.ip_type == wanted.policy) {
                        has.push(state.ipam.claim_free(&job.id, wanted));
                    }
                }
                job.service_ip_list = state.ipam.complete(&job.id, &has)?;
                let round_robin = &job.service_ip_list[0];
                job.rr_ip_v6 = round_robin.address_v6;
                state.services.put(job.id.clone(), job);
                Ok::<_, Refusal>(())
            })?;
        }
        Ok(count)
    }

    /// Workers know an instance by the service's name and its number. While instances of a
    /// deleted service of the same name may still run somewhere, their numbers are not used.
    fn first_free_number(&self, job_name: &str) -> u32 {
        let tombstones = self.instances.iter().filter(|(_, i)| i.job_name == job_name);
        tombstones.map(|(key, _)| key.instance_number.saturating_add(1)).max().unwrap_or(0)
    }
}
