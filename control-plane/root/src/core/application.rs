//! Applications: made from an SLA, changed, deleted with everything in them.

use xylem_types::{
    rest::{Application, ApplicationUpdate},
    sla::{FieldError, Sla},
};

use super::{account::Caller, moment::Moment, refusal::Refusal, state::State};

impl State {
    /// Makes every application of the SLA with its services, or none. Returns all applications
    /// of the caller, as Oakestra does.
    pub(crate) fn create_applications(
        &mut self,
        caller: &Caller,
        sla: &Sla,
        now: Moment,
    ) -> Result<Vec<Application>, Refusal> {
        if sla.applications.is_empty() {
            return Err(Refusal::field("applications", "must name at least one application"));
        }
        for (i, wanted) in sla.applications.iter().enumerate() {
            let (name, namespace) = (&wanted.application_name, &wanted.application_namespace);
            self.refuse_taken_name(name, namespace, None)?;
            let id = self.new_id(now);
            let application = Application {
                id: id.clone(),
                application_id: id.clone(),
                application_name: name.clone(),
                application_namespace: namespace.clone(),
                application_desc: wanted.application_desc.clone(),
                microservices: Vec::new(),
                user_id: caller.user_id.clone(),
            };
            self.applications.put(id.clone(), application);
            self.create_services(&id, &wanted.microservices, &format!("applications[{i}]"), now)?;
        }
        let own = self.applications.values().filter(|app| app.user_id == caller.user_id);
        Ok(own.cloned().collect())
    }

    /// The applications that the caller may see.
    pub(crate) fn applications(&self, caller: &Caller) -> Vec<Application> {
        self.applications.values().filter(|app| caller.may_use(&app.user_id)).cloned().collect()
    }

    /// # Errors
    /// [`Refusal::NotFound`] also when it belongs to somebody else.
    pub(crate) fn application(&self, caller: &Caller, id: &str) -> Result<&Application, Refusal> {
        self.applications
            .get(id)
            .filter(|app| caller.may_use(&app.user_id))
            .ok_or_else(|| Refusal::not_found("application", id))
    }

    /// Changes the description, and, while the application has no services, its names: they are
    /// part of the services' names, by which they are dialled.
    pub(crate) fn update_application(
        &mut self,
        caller: &Caller,
        id: &str,
        update: ApplicationUpdate,
    ) -> Result<Application, Refusal> {
        let mut application = self.application(caller, id)?.clone();
        let before = application.clone();
        let mut errors = Vec::new();
        let mut rename = |field: &str, name: &mut String, wanted: Option<String>| {
            let Some(wanted) = wanted.filter(|wanted| wanted != name) else { return };
            if !is_name(&wanted) {
                errors.push(FieldError::new(field, "must be 1 to 30 letters and digits"));
            } else if !before.microservices.is_empty() {
                errors.push(FieldError::new(
                    field,
                    "cannot change while the application has services: delete them first",
                ));
            }
            *name = wanted;
        };
        rename("application_name", &mut application.application_name, update.application_name);
        rename(
            "application_namespace",
            &mut application.application_namespace,
            update.application_namespace,
        );
        if !errors.is_empty() {
            return Err(Refusal::Invalid(errors));
        }
        self.refuse_taken_name(
            &application.application_name,
            &application.application_namespace,
            Some(id),
        )?;
        if let Some(description) = update.application_desc {
            application.application_desc = description;
        }
        self.applications.put(id.to_owned(), application.clone());
        Ok(application)
    }

    /// Deletes the application, its services and their instances.
    pub(crate) fn delete_application(
        &mut self,
        caller: &Caller,
        id: &str,
        now: Moment,
    ) -> Result<(), Refusal> {
        let services = self.application(caller, id)?.microservices.clone();
        for service in services {
            self.delete_service(caller, &service, now)?;
        }
        self.applications.remove(id);
        Ok(())
    }

    /// Names are unique over all users: an application's name is part of the names by which its
    /// services are dialled.
    fn refuse_taken_name(
        &self,
        name: &str,
        namespace: &str,
        except: Option<&str>,
    ) -> Result<(), Refusal> {
        let taken = self.applications.values().any(|app| {
            app.application_name == name
                && app.application_namespace == namespace
                && Some(app.id.as_str()) != except
        });
        if taken {
            return Err(Refusal::Exists {
                what: "application",
                name: format!("{name}.{namespace}"),
            });
        }
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    (1..=30).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric())
}
