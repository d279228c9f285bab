//! The root's REST API, as a client that knows nothing but the published types.

use std::{io, time::Duration};

use anyhow::{Context, Result, bail};
use serde::{Serialize, de::DeserializeOwned};
use ureq::{Agent, http};
use xylem_types::{
    job::Job,
    rest::{Application, Cluster, Done, InstanceCreated, LoginRequest, LoginResponse, Node},
    sla::Sla,
};

use crate::netns::Netns;

/// The administrator that a new root has.
const FIRST_USER: &str = "Admin";

/// A session of one user.
#[derive(Debug)]
pub struct Rest<'a> {
    /// Without a slash at the end.
    base: String,
    /// Where requests come from; from this host without one.
    from: Option<&'a Netns>,
    agent: Agent,
    token: Option<String>,
}

impl<'a> Rest<'a> {
    /// A client that has not logged in.
    pub fn new(base: impl Into<String>, from: Option<&'a Netns>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(10)))
            // A thread enters a network namespace for one request; a connection kept for the
            // next one would stay in the namespace in which it was made.
            .max_idle_connections(0)
            .build();
        Self { base: base.into(), from, agent: config.new_agent(), token: None }
    }

    /// A client that has logged in as the administrator.
    ///
    /// # Errors
    /// If the root is not there or refuses.
    pub fn log_in(base: impl Into<String>, from: Option<&'a Netns>) -> Result<Self> {
        let mut rest = Self::new(base, from);
        let who = LoginRequest {
            username: FIRST_USER.to_owned(),
            password: FIRST_USER.to_owned(),
            organization_name: None,
        };
        let login: LoginResponse = rest.post("/api/auth/login", &who)?;
        rest.token = Some(login.token);
        Ok(rest)
    }

    /// Registers the (first) application of an SLA, with its services and no instance.
    ///
    /// # Errors
    /// As the root says.
    pub fn create_application(&self, sla: &str) -> Result<Application> {
        // The root answers with all applications of the user.
        let all: Vec<Application> = read(self.send("POST", "/api/application/", Some(sla))?)?;
        let sla: Sla = serde_json::from_str(sla).context("the SLA is no SLA")?;
        let wanted = sla.applications.first().context("the SLA has no application")?;
        let is_it = |one: &Application| {
            one.application_name == wanted.application_name
                && one.application_namespace == wanted.application_namespace
        };
        all.into_iter().find(is_it).context("the root accepted the application and has it not")
    }

    /// # Errors
    /// As the root says.
    pub fn delete_application(&self, id: &str) -> Result<()> {
        self.delete(&format!("/api/application/{id}"))
    }

    /// # Errors
    /// As the root says.
    pub fn services(&self, application: &str) -> Result<Vec<Job>> {
        self.get(&format!("/api/services/{application}"))
    }

    /// # Errors
    /// As the root says.
    pub fn service(&self, id: &str) -> Result<Job> {
        self.get(&format!("/api/service/{id}"))
    }

    /// One more instance; its number.
    ///
    /// # Errors
    /// As the root says.
    pub fn add_instance(&self, service: &str) -> Result<u32> {
        let created: InstanceCreated =
            read(self.send("POST", &format!("/api/service/{service}/instance"), None)?)?;
        Ok(created.instance_number)
    }

    /// # Errors
    /// As the root says.
    pub fn remove_instance(&self, service: &str, number: u32) -> Result<()> {
        self.delete(&format!("/api/service/{service}/instance/{number}"))
    }

    /// # Errors
    /// As the root says.
    pub fn clusters(&self) -> Result<Vec<Cluster>> {
        self.get("/api/clusters/")
    }

    /// # Errors
    /// As the root says.
    pub fn nodes(&self) -> Result<Vec<Node>> {
        self.get("/api/nodes/")
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        read(self.send("GET", path, None)?)
    }

    fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        read(self.send("POST", path, Some(&serde_json::to_string(body)?))?)
    }

    fn delete(&self, path: &str) -> Result<()> {
        read::<Done>(self.send("DELETE", path, None)?).map(drop)
    }

    /// Sends a request and returns whatever comes back, refusals too.
    ///
    /// # Errors
    /// Only if nothing comes back.
    pub fn send(&self, method: &str, path: &str, body: Option<&str>) -> Result<Answer> {
        let request = format!("{method} {path}");
        let mut builder = http::Request::builder().method(method).uri(self.base.clone() + path);
        if let Some(token) = &self.token {
            builder = builder.header("Authorization", format!("Bearer {token}"));
        }
        if body.is_some() {
            builder = builder.header("Content-Type", "application/json");
        }
        let message = builder.body(body.unwrap_or_default().to_owned())?;
        let exchange = || -> Result<(u16, String), ureq::Error> {
            let mut response = self.agent.run(message)?;
            Ok((response.status().as_u16(), response.body_mut().read_to_string()?))
        };
        let (status, text) = match self.from {
            Some(netns) => netns.run(exchange),
            None => exchange(),
        }
        .map_err(io::Error::other)
        .with_context(|| format!("no answer to {request} from {}", self.base))?;
        Ok(Answer { request, status, text })
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    request: String,
    pub status: u16,
    pub text: String,
}

fn read<T: DeserializeOwned>(answer: Answer) -> Result<T> {
    let Answer { request, status, text } = answer;
    if !(200..300).contains(&status) {
        bail!("{request} was refused with {status}: {text}");
    }
    serde_json::from_str(&text).with_context(|| format!("unexpected answer to {request}: {text}"))
}
